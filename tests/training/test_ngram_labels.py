"""Labels are drawn from where the same tokens stand elsewhere, as often as counting says."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from lmcraft.training.ngram_labels import DRAWS, LONGEST, PRIOR, NgramLabels


def expected(tokens: list[int], place: int) -> Counter[int]:
    """What a place's labels should be, by counting over the whole text."""
    found: Counter[int] = Counter()
    rest = 1.0
    for length in range(LONGEST, -1, -1):
        context = tokens[place - length : place]
        others = [n for n in range(LONGEST, len(tokens)) if n != place and tokens[n - length : n] == context]
        for n in others:
            found[tokens[n]] += rest * (len(others) / (len(others) + PRIOR) if length else 1.0) / len(others)
        rest *= PRIOR / (len(others) + PRIOR)
    return found


@pytest.mark.parametrize("vocab_size", [4, 150_000])
def test_labels_come_as_often_as_n_grams_say(vocab_size: int) -> None:
    rng = np.random.default_rng(0)
    small = np.minimum(rng.integers(0, 4, 600), rng.integers(0, 4, 600))
    tokens = (small * (vocab_size // 4)).astype(np.uint32)  # spread over the vocabulary
    labels = NgramLabels(tokens, vocab_size, 0.5, seed=0)
    for place in (300, 301, 599):
        drawn = labels.draw(np.full(4000, place), 0).reshape(-1)
        counts = Counter(drawn.tolist())
        wanted = expected(tokens.tolist(), place)
        assert set(counts) <= set(tokens.tolist())
        for token in set(tokens.tolist()):
            # the first few places, which have no whole context, are a few of 600
            assert abs(counts[token] / len(drawn) - wanted[token]) < 0.015, (place, token)


def test_a_place_is_never_its_own_label() -> None:
    tokens = np.tile(np.arange(10, dtype=np.uint16), 20)
    tokens[105] = 77  # stands once in the text, so that only its own place has it
    labels = NgramLabels(tokens, 100, 0.5, seed=0)
    drawn = labels.draw(np.arange(200), 3)
    assert not (drawn[105] == 77).any()
    assert (drawn == 77).any(), "other places do get it"
    assert np.mean(drawn[20:100] == tokens[20:100, None]) > 0.7, "what always follows is expected"


def test_draws_are_a_pure_function_of_seed_step_and_places() -> None:
    tokens = np.random.default_rng(0).integers(0, 30, 5000).astype(np.uint16)
    places = np.random.default_rng(1).integers(-1, 5000, (4, 64))
    first = NgramLabels(tokens, 30, 0.5, seed=1)
    first.draw(places, 8)
    again = NgramLabels(tokens, 30, 0.5, seed=1)
    assert np.array_equal(first.draw(places, 7), again.draw(places, 7))
    assert not np.array_equal(first.draw(places, 7), again.draw(places, 8))
    assert not np.array_equal(first.draw(places, 7), NgramLabels(tokens, 30, 0.5, seed=2).draw(places, 7))
    assert first.draw(places, 7).shape == (4, 64, DRAWS)
    assert not first.draw(places, 7)[places < 0].any()
