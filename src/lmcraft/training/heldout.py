"""Held-out bits per byte during training."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lmcraft.tokens import TokenShards
from lmcraft.training.loader import Loader, pack, split_sequences
from lmcraft.training.objectives import Batch


def heldout_bits_per_byte(
    directory: Path, row_tokens: int, micro_rows: int, tokens: int
) -> Callable[[Callable[[Batch], tuple[float, int]]], float] | None:
    """A function that measures bits per byte on whole held-out documents, about `tokens` of them in a fixed order.

    Nats of every token of the text over ln 2 times its UTF-8 bytes; the boundary tokens around it, which stand for no
    byte, are not counted. None when nothing is held out.
    """
    meta = json.loads((directory / "tokens.json").read_text(encoding="utf-8"))
    if not meta["documents"].get("heldout"):
        return None
    shards = TokenShards(directory, "heldout")

    class Some:
        chosen = np.random.default_rng(0).permutation(shards.documents)
        chosen = chosen[: 1 + int(np.searchsorted(np.cumsum(shards.lengths[chosen]), tokens))]
        lengths = shards.lengths[chosen]

        def tokens_of(self, number: int) -> np.ndarray:
            return shards.document(int(self.chosen[number]))

        def trained_on(self, number: int) -> np.ndarray:
            return np.arange(self.lengths[number]) < self.lengths[number] - 1

    some = Some()
    loader = Loader(some, row_tokens, micro_rows, seed=0)
    pieces = split_sequences(some.lengths, row_tokens)
    rows = pack(pieces, row_tokens, np.arange(len(pieces)))
    nbytes = int(shards.bytes[some.chosen].sum())

    def evaluate(nats_of: Callable[[Batch], tuple[float, int]]) -> float:
        nats = sum(
            nats_of(loader.collate(rows[start : start + micro_rows]))[0] for start in range(0, len(rows), micro_rows)
        )
        return nats / (math.log(2) * nbytes)

    return evaluate
