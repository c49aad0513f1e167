"""Held-out text during training: bits per byte of a causal LM, nats per masked token of a masked one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from lmcraft.tokens import TokenShards
from lmcraft.training.loader import Loader, pack
from lmcraft.training.masking import Masking
from lmcraft.training.objectives import Batch

Evaluate = Callable[[Callable[[Batch], tuple[float, int]]], float]
"""Given a function from a batch to (nats, predicted tokens), gives the figure."""


def heldout_bits_per_byte(directory: Path, row_tokens: int, micro_rows: int, tokens: int) -> Evaluate | None:
    """A function that measures bits per byte on whole held-out documents, about `tokens` of them in a fixed order.

    Nats of every token of the text over ln 2 times its UTF-8 bytes; the boundary tokens around it, which stand for no
    byte, are not counted. None when nothing is held out.
    """
    heldout = _HeldOut.open(directory, tokens)
    if heldout is None:
        return None

    def evaluate(nats_of: Callable[[Batch], tuple[float, int]]) -> float:
        nats = sum(nats_of(batch)[0] for batch in heldout.batches(row_tokens, micro_rows))
        return nats / (math.log(2) * heldout.bytes)

    return evaluate


def heldout_masked_nats(
    directory: Path, row_tokens: int, micro_rows: int, tokens: int, masking: Masking
) -> Evaluate | None:
    """A function that measures nats per masked token on the same documents, masked once and for all as `masking` does.

    No bits per byte come of this: each token is judged given the rest of its document, and what one is told of another
    is counted twice. It compares masked models of one tokenizer, share and way of masking, and nothing else.
    """
    heldout = _HeldOut.open(directory, tokens)
    if heldout is None:
        return None
    masking = replace(masking, rows=1.0, seed=0)

    def evaluate(nats_of: Callable[[Batch], tuple[float, int]]) -> float:
        pairs = [nats_of(masking(batch, n)) for n, batch in enumerate(heldout.batches(row_tokens, micro_rows))]
        return sum(nats for nats, _ in pairs) / max(1, sum(predicted for _, predicted in pairs))

    return evaluate


class _HeldOut:
    """Some held-out documents as sequences in which the text is predicted."""

    def __init__(self, shards: TokenShards, tokens: int):
        chosen = np.random.default_rng(0).permutation(shards.documents)
        self.shards = shards
        self.chosen = chosen[: 1 + int(np.searchsorted(np.cumsum(shards.lengths[chosen]), tokens))]
        self.lengths = shards.lengths[self.chosen]
        self.bytes = int(shards.bytes[self.chosen].sum())

    @classmethod
    def open(cls, directory: Path, tokens: int) -> _HeldOut | None:
        meta = json.loads((directory / "tokens.json").read_text(encoding="utf-8"))
        return cls(TokenShards(directory, "heldout"), tokens) if meta["documents"].get("heldout") else None

    def tokens_of(self, number: int) -> np.ndarray:
        return self.shards.document(int(self.chosen[number]))

    def trained_on(self, number: int) -> np.ndarray:
        return np.arange(self.lengths[number]) < self.lengths[number] - 1

    def batches(self, row_tokens: int, micro_rows: int) -> Iterator[Batch]:
        loader = Loader(self, row_tokens, micro_rows, seed=0)
        rows = pack(loader.pieces, row_tokens, np.arange(len(loader.pieces)))
        for start in range(0, len(rows), micro_rows):
            yield loader.collate(rows[start : start + micro_rows])
