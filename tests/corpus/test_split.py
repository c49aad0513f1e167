"""The split of a document follows from its text alone."""

from __future__ import annotations

import numpy as np
from corpora import sentence

from lmcraft.corpus.steps.split import held_out, split_hash


def hashes(numbers: range) -> np.ndarray:
    return np.array([split_hash(sentence(number)) for number in numbers], np.uint64)


def test_more_documents_do_not_change_the_split_of_a_document() -> None:
    some, more = hashes(range(1000)), hashes(range(3000))
    assert np.array_equal(held_out(some, 0.03, 8), held_out(more, 0.03, 8)[:1000])
    assert 0.02 < held_out(more, 0.03, 8).mean() < 0.04


def test_a_small_corpus_holds_out_a_few_but_no_more_than_a_quarter() -> None:
    counts = {size: int(held_out(hashes(range(size)), 0.0001, 8).sum()) for size in (1, 3, 4, 20, 200)}
    assert counts == {1: 0, 3: 0, 4: 1, 20: 5, 200: 8}


def test_nothing_is_held_out_when_so_set() -> None:
    assert not held_out(hashes(range(50)), 0.0, 8).any()


def test_case_and_space_do_not_move_a_text_to_the_other_side() -> None:
    assert split_hash("One  TWO\n") == split_hash("one two")
