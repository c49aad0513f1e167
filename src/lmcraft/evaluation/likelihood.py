"""Negative log-likelihood of whole documents, in windows where a document is longer than the model's context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np


class Scorer(Protocol):
    def log_likelihood(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """For each sequence of n tokens, the n-1 log-probabilities (nats) of tokens 1.. given those before them."""
        ...


class Window(NamedTuple):
    """Tokens start..end are shown; those from `first` on are scored, each token of a document in one window only."""

    start: int
    end: int
    first: int


def windows(length: int, context: int, overlap: int) -> list[Window]:
    """Windows over tokens 0..length. The first token is the document's boundary: shown, never scored. Every later
    window shows at least `overlap` tokens that were scored before it."""
    if not 0 < overlap < context:
        raise ValueError(f"overlap {overlap} must lie between 0 and the context, {context}")
    found = [Window(0, min(length, context), 1)]
    while (end := found[-1].end) < length:
        further = min(length, end + context - overlap)
        found.append(Window(further - context, further, end))
    return found


def document_nats(subject: Scorer, documents: Sequence[Sequence[int]], context: int, overlap: int) -> list[float]:
    """Nats of each document (token ids with the boundary token first), the boundary itself not counted."""
    cut = [(index, w) for index, ids in enumerate(documents) for w in windows(len(ids), context, overlap)]
    # Alike lengths go together, so that little of a batch is padding.
    cut.sort(key=lambda piece: (piece[1].end - piece[1].start, piece[0], piece[1].start))
    scores = subject.log_likelihood([documents[index][w.start : w.end] for index, w in cut])
    totals = [0.0] * len(documents)
    for (index, w), log_p in zip(cut, scores, strict=True):
        if len(log_p) != w.end - w.start - 1:
            raise ValueError(f"{len(log_p)} log-probabilities came back for {w.end - w.start} tokens")
        totals[index] -= float(np.asarray(log_p[w.first - w.start - 1 :], np.float64).sum())
    return totals
