"""What is hidden: the share asked for, nothing special, spans of SpanBERT's lengths, the same whenever it is drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmcraft.training.loader import Loader
from lmcraft.training.loss import IGNORE
from lmcraft.training.masking import SPAN_LENGTHS, SPAN_PROBABILITIES, Masking, choose

MASK = 4
SPECIAL = (0, 1, 2, 3, MASK)


class Texts:
    """Documents between two <|endoftext|> (0); every other token occurs once."""

    lengths = np.random.default_rng(1).integers(2, 40, 50).astype(np.int64)

    def tokens_of(self, number: int) -> Any:
        tokens = 5 + 100 * number + np.arange(self.lengths[number])
        tokens[[0, -1]] = 0
        return tokens

    def trained_on(self, number: int) -> None:
        return None


def masking(**changes: Any) -> Masking:
    settings = {"mask_id": MASK, "special_ids": SPECIAL, "share": 0.3, "spans": False, "rows": 1.0, "seed": 7}
    return Masking(**{**settings, **changes})


def loader(how: Masking | None) -> Loader:
    return Loader(Texts(), 64, 5, seed=3, masking=how)


@pytest.mark.parametrize("spans", [False, True])
def test_the_label_is_the_token_under_the_mask_and_stands_there(spans: bool) -> None:
    for step in range(4):
        plain, batch = loader(None).batch(step), loader(masking(spans=spans)).batch(step)
        hidden = batch.tokens == MASK
        assert torch.equal(batch.labels[hidden], plain.tokens[hidden])
        assert (batch.labels[~hidden] == IGNORE).all()
        assert torch.equal(batch.tokens[~hidden], plain.tokens[~hidden])
        assert not torch.isin(plain.tokens[hidden], torch.tensor(SPECIAL)).any()
        assert (batch.documents[hidden] >= 0).all(), "padding is not hidden"
        open_to_it = (~torch.isin(plain.tokens, torch.tensor(SPECIAL))).sum(1)
        assert hidden.sum(1).tolist() == [round(0.3 * n) for n in open_to_it.tolist()]
        assert batch.bidirectional is not None
        assert batch.bidirectional.all()


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 90), st.floats(0.001, 0.8), st.booleans(), st.integers(0, 99))
def test_the_share_is_met_and_at_least_one_is_hidden(n: int, share: float, spans: bool, seed: int) -> None:
    places = np.sort(np.random.default_rng(seed).choice(1000, n, replace=False))
    found = choose(places, share, spans, np.random.default_rng(seed))
    assert len(found) == max(1, round(share * n))
    assert np.isin(found, places).all()
    assert (np.diff(found) > 0).all()
    assert not len(choose(places[:0], share, spans, np.random.default_rng(seed)))


def test_spans_have_the_lengths_of_spanbert_and_lie_anywhere() -> None:
    random = np.random.default_rng(0)
    counts, hidden = np.zeros(11), np.zeros(2000)
    for _ in range(200):
        found = choose(np.arange(2000), 0.3, True, random)
        hidden[found] += 1
        runs = np.split(found, np.flatnonzero(np.diff(found) > 1) + 1)[:-1]  # the last is cut to the share
        counts += np.bincount([len(run) for run in runs], minlength=11)
    lengths = counts[1:] / counts.sum()
    assert counts.sum() > 25_000
    assert np.abs(lengths - SPAN_PROBABILITIES).max() < 0.01, "standard error at most 0.003"
    assert abs(float(lengths @ SPAN_LENGTHS) - 3.797) < 0.06
    thirds = hidden.reshape(4, 500).mean(1) / 200
    assert np.abs(thirds - 0.3).max() < 0.03, "beginning and end as often as the middle"


def test_masks_depend_on_seed_step_and_row_alone() -> None:
    mixed = masking(rows=0.5)
    forward, again = loader(mixed), loader(mixed)
    batches = [forward.batch(step) for step in range(8)]
    for step in reversed(range(8)):  # as a resumed run seeks
        batch = again.batch(step)
        assert torch.equal(batch.tokens, batches[step].tokens)
        assert torch.equal(batch.labels, batches[step].labels)
        assert torch.equal(batch.bidirectional, batches[step].bidirectional)
    other = loader(masking(rows=0.5, seed=8)).batch(0)
    assert not torch.equal(other.tokens, batches[0].tokens)
    same = forward.collate([forward.epoch(0)[0]] * 5)
    drawn = masking()(same, 0).tokens
    assert len({tuple(row.tolist()) for row in drawn}) == 5, "each row draws for itself"


def test_mixed_leaves_the_other_rows_to_the_next_token() -> None:
    chosen = 0
    for step in range(40):
        plain, batch = loader(None).batch(step), loader(masking(rows=0.25)).batch(step)
        masked = batch.bidirectional
        assert masked is not None
        chosen += int(masked.sum())
        assert torch.equal(batch.tokens[~masked], plain.tokens[~masked])
        assert torch.equal(batch.labels[~masked], plain.labels[~masked])
        assert (batch.tokens[masked] == MASK).any(1).all()
    assert 30 < chosen < 70, "of 200 rows a quarter (standard error 6)"
