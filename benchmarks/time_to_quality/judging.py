"""Bits per byte of held-out pieces: one definition for every contender."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from lmcraft.evaluation.likelihood import document_nats

Logits = Callable[[torch.Tensor], torch.Tensor]
"""Tokens [B, T] -> logits [B, T, V]; a position may depend on those before it and on itself, so padding stands right.
More than V columns may come back when the rest can not be predicted (-inf)."""


@dataclass(frozen=True)
class Judge:
    """A trained model as the judging sees it."""

    logits: Logits
    encode: Callable[[str], Sequence[int]]
    bos: int
    context: int


class Scorer:
    """Log-probabilities of sequences in float32, as `document_nats` asks for them."""

    def __init__(self, logits: Logits, batch_tokens: int = 4096):
        self.logits, self.batch_tokens = logits, batch_tokens

    @torch.no_grad()
    def log_likelihood(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        found: list[np.ndarray] = []
        while len(found) < len(sequences):
            rows = 1
            rest = sequences[len(found) :]
            while rows < len(rest) and (rows + 1) * max(map(len, rest[: rows + 1])) <= self.batch_tokens:
                rows += 1
            found += self._of(rest[:rows])
        return found

    def _of(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        longest = max(len(each) for each in sequences)
        tokens = torch.zeros(len(sequences), longest, dtype=torch.long)
        for row, each in enumerate(sequences):
            tokens[row, : len(each)] = torch.tensor(each)
        logits = self.logits(tokens)[:, :-1].float()
        nats = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view(len(tokens), -1)
        return [-nats[row, : len(each) - 1].numpy() for row, each in enumerate(sequences)]


def judge(judged: Judge, pieces: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Nats of each piece's tokens over ln 2 times its UTF-8 bytes, in all and by kind, with the bootstrap's standard
    error over pieces.

    A token is judged given BOS and the tokens of its own piece before it, in windows of the contender's context; from
    the second window on at least half a context stands before it. BOS is shown and not judged, and no token for an end
    is. The nats of each piece are returned as well: two contenders can be compared piece by piece.
    """
    sequences = [[judged.bos, *judged.encode(piece["text"])] for piece in pieces]
    nats = np.array(document_nats(Scorer(judged.logits), sequences, judged.context, judged.context // 2))
    sizes = np.array([len(piece["text"].encode()) for piece in pieces])
    kinds = np.array([piece["kind"] for piece in pieces])
    return {
        "bits_per_byte": ratio(nats, sizes),
        "standard_error": standard_error(nats, sizes),
        "pieces": len(pieces),
        "bytes": int(sizes.sum()),
        "tokens_judged": sum(map(len, sequences)) - len(sequences),
        "by_kind": {
            str(kind): {
                "bits_per_byte": ratio(nats[kinds == kind], sizes[kinds == kind]),
                "pieces": int((kinds == kind).sum()),
            }
            for kind in np.unique(kinds)
        },
        "piece_nats": [round(float(value), 2) for value in nats],
        "piece_bytes": sizes.tolist(),
    }


def ratio(nats: np.ndarray, sizes: np.ndarray) -> float:
    return float(nats.sum() / (math.log(2) * sizes.sum()))


def standard_error(nats: np.ndarray, sizes: np.ndarray, draws: int = 2000) -> float:
    """Of `ratio`, by drawing pieces anew; `nats` may be differences."""
    chosen = np.random.default_rng(0).integers(len(nats), size=(draws, len(nats)))
    return float((nats[chosen].sum(1) / (math.log(2) * sizes[chosen].sum(1))).std())


def read_pieces(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
