"""Every token of a document is scored once, with the most context that the model takes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcraft.evaluation.likelihood import document_nats, windows


@given(length=st.integers(1, 400), context=st.integers(2, 64), share=st.floats(0.01, 0.99))
def test_windows_score_each_token_once_with_enough_context(length, context, share):
    overlap = max(1, min(context - 1, int(context * share)))
    scored = []
    for window in windows(length, context, overlap):
        assert 0 <= window.start < window.end <= length
        assert window.end - window.start <= context
        assert window.start == 0 or window.first - window.start >= overlap
        scored += range(window.first, window.end)
    assert scored == list(range(1, length))


@pytest.mark.parametrize("overlap", [0, 8, 9])
def test_overlap_must_fit(overlap):
    with pytest.raises(ValueError, match="overlap"):
        windows(20, 8, overlap)


class ByIdentity:
    """Log-probability of a token is minus its id: sums show which tokens were scored."""

    def log_likelihood(self, sequences):
        return [-np.asarray(sequence[1:], np.float64) for sequence in sequences]


@given(st.lists(st.lists(st.integers(0, 1000), min_size=1, max_size=90), min_size=1, max_size=5))
def test_totals_are_sums_over_the_tokens_after_the_boundary(documents):
    assert document_nats(ByIdentity(), documents, 16, 5) == [sum(ids[1:]) for ids in documents]


def test_a_model_that_answers_for_another_number_of_tokens_is_caught():
    class Short:
        def log_likelihood(self, sequences):
            return [np.zeros(len(sequence)) for sequence in sequences]

    with pytest.raises(ValueError, match="log-probabilities"):
        document_nats(Short(), [[0, 1, 2]], 8, 4)
