"""Packing drops nothing and mixes nothing up; a batch depends on (seed, step) alone."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmcraft.recipe.stage import UserError
from lmcraft.training.loader import WINDOW, Loader, Prefetched, pack, split_sequences
from lmcraft.training.loss import IGNORE
from lmcraft.training.objectives import Batch


class Rows:
    def __init__(self, lengths: list[int], masked: bool = False):
        starts = np.cumsum([0, *lengths])
        self.rows = [np.arange(a, b) for a, b in pairwise(starts)]
        self.masked = masked

    @property
    def lengths(self) -> Any:
        return np.asarray([len(row) for row in self.rows], np.int64)

    def tokens_of(self, number: int) -> Any:
        return self.rows[number]

    def trained_on(self, number: int) -> Any:
        return np.arange(len(self.rows[number])) % 2 == 1 if self.masked else None


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(2, 90), min_size=1, max_size=60),
    st.integers(8, 40),
    st.integers(0, 3),
    st.sampled_from(["best_fit", "concatenate"]),
)
def test_every_token_but_the_first_of_each_document_is_predicted_once(
    lengths: list[int], row: int, seed: int, packing: str
) -> None:
    loader = Loader(Rows(lengths), row, 2, seed, packing=packing)
    if packing == "concatenate":
        used = sorted(loader.epoch(0).used().tolist())
        assert all(size >= row - 1 for size in used[1:]), "one row at most is not full"
    batch = loader.collate(loader.epoch(0))
    labels = batch.labels[batch.labels != IGNORE]
    firsts = set(np.cumsum([0, *lengths])[:-1].tolist())
    assert sorted(labels.tolist()) == [t for t in range(sum(lengths)) if t not in firsts]
    predicted = batch.labels != IGNORE
    assert torch.equal(batch.labels[predicted], batch.tokens[predicted] + 1), "labels are the next tokens"
    starts = batch.positions == 0
    assert torch.equal(starts[:, 1:], batch.documents[:, 1:] != batch.documents[:, :-1]), "positions restart"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(2, 90), min_size=1, max_size=300), st.integers(8, 40), st.integers(0, 3))
def test_each_row_takes_the_longest_of_the_next_pieces_that_fits(lengths: list[int], row: int, seed: int) -> None:
    pieces = split_sequences(np.array(lengths), row)
    order = np.random.default_rng(seed).permutation(len(pieces))
    waiting = order.tolist()
    packed = pack(pieces, row, order)
    for taken in packed:
        free = row
        for sequence, start, stop in taken.tolist():
            sizes = [int(pieces[n, 2] - pieces[n, 1]) for n in waiting[:WINDOW]]
            best = max(size for size in sizes if size <= free)
            first = waiting.pop(sizes.index(best))
            assert pieces[first].tolist() == [sequence, start, stop]
            free -= best
        left = [int(pieces[n, 2] - pieces[n, 1]) for n in waiting[:WINDOW]]
        assert free < 2 or all(size > free for size in left), "the row ends when nothing fits"
    assert not waiting
    assert packed.used().sum() == (pieces[:, 2] - pieces[:, 1]).sum()
    again = packed.reordered(np.arange(len(packed))[::-1].copy())
    assert [each.tolist() for each in again] == [each.tolist() for each in packed][::-1]


@pytest.mark.parametrize("packing", ["best_fit", "concatenate"])
def test_a_batch_is_not_of_one_long_document(packing: str) -> None:
    loader = Loader(Rows([5000] * 8), 50, 8, seed=0, packing=packing)
    rows = list(loader.epoch(0))
    documents = [len(set(np.concatenate(rows[i : i + 8])[:, 0])) for i in range(0, len(rows), 8)]
    assert np.mean(documents) > 4


def test_batches_are_a_pure_function_of_seed_and_step() -> None:
    rows = Rows([int(n) for n in np.random.default_rng(0).integers(2, 50, 200)])
    straight = Loader(rows, 32, 4, seed=1)
    batches = [straight.batch(step) for step in range(120)]
    for step in (119, 0, 57, 56, 118):
        assert torch.equal(Loader(rows, 32, 4, seed=1).batch(step).tokens, batches[step].tokens)
    assert not torch.equal(Loader(rows, 32, 4, seed=2).batch(0).tokens, batches[0].tokens)
    rows_per_epoch = len(straight.epoch(0))
    assert 2 * rows_per_epoch < 119 * 4, "the test must run over several epochs"


def test_places_are_those_of_the_tokens_that_are_predicted() -> None:
    loader = Loader(Rows([9, 40, 2, 17, 30]), 16, 3, seed=0)  # each token is its own place
    rows = loader.epoch(0)
    labels, places = loader.collate(rows).labels.numpy(), loader.places(rows)
    assert np.array_equal(np.where(labels == IGNORE, -1, labels), places)


def test_prefetched_batches_are_those_of_the_loader() -> None:
    rows = Rows([int(n) for n in np.random.default_rng(0).integers(2, 50, 200)])
    loader = Loader(rows, 32, 4, seed=1)
    with Prefetched(loader, 20) as batches:
        for step in (3, 4, 5, 11, 12, 0, 19):
            assert torch.equal(batches.batch(step).tokens, Loader(rows, 32, 4, seed=1).batch(step).tokens)

    class Failing(Loader):
        def batch(self, step: int) -> Batch:
            raise UserError("no more text")

    with Prefetched(Failing(rows, 32, 4, seed=1), 20) as batches, pytest.raises(UserError, match="no more text"):
        batches.batch(0)


def test_masks_keep_only_the_answers() -> None:
    loader = Loader(Rows([10, 7], masked=True), 32, 1, seed=0, split=False)
    batch = loader.batch(0)
    first = [0, 10]
    wanted = [t for start, n in zip(first, (10, 7), strict=True) for t in range(start, start + n) if (t - start) % 2]
    assert sorted(batch.labels[batch.labels != IGNORE].tolist()) == wanted
    assert batch.predicted == len(wanted)


def test_conversations_are_never_cut() -> None:
    with pytest.raises(UserError, match="a sequence of 50 tokens does not fit rows of 32"):
        Loader(Rows([50]), 32, 1, seed=0, split=False)
    loader = Loader(Rows([20, 20, 5]), 32, 1, seed=0, split=False)
    assert sorted(stop - start for row in loader.epoch(0) for _, start, stop in row) == [5, 20, 20]
    assert loader.fill() == 45 / 64


def test_nothing_to_train_on_is_said() -> None:
    with pytest.raises(UserError, match="nothing to train on"):
        Loader(Rows([1, 1]), 32, 1, seed=0)
