"""What a model must beat: byte n-grams for text, constant answers for questions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from lmcraft.evaluation.scoring import normalise, token_f1


class ByteNgram:
    """A byte model of the given order with Witten-Bell interpolation (Witten and Bell 1991) down to uniform bytes.

    Order 1 looks at no context. Documents are padded on the left with newlines, so that no document sees another.
    """

    def __init__(self, order: int, texts: Sequence[str]):
        self.order = order
        self.name = "byte unigram" if order == 1 else f"byte {order}-gram"
        codes = [_codes(text, order) for text in texts]
        self.bytes = sum(len(one) for one in codes)
        joined = np.concatenate(codes) if codes else np.empty(0, np.int64)
        self._grams: list[tuple[np.ndarray, np.ndarray]] = []
        self._contexts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for length in range(1, order + 1):
            grams, counts = np.unique(joined & _mask(length), return_counts=True)
            contexts, first = np.unique(grams >> 8, return_index=True)
            totals = np.add.reduceat(counts, first) if len(first) else counts
            kinds = np.diff(np.append(first, len(grams)))
            self._grams.append((grams, counts))
            self._contexts.append((contexts, totals, kinds))

    def nats(self, text: str) -> float:
        """Negative log-likelihood of the text's UTF-8 bytes, in nats."""
        codes = _codes(text, self.order)
        p = np.full(len(codes), 1 / 256)
        for length in range(1, self.order + 1):
            grams = codes & _mask(length)
            seen = _look_up(*self._grams[length - 1], grams)
            contexts, totals, kinds = self._contexts[length - 1]
            total, kind = _look_up(contexts, totals, grams >> 8), _look_up(contexts, kinds, grams >> 8)
            mixed = (seen + kind * p) / np.maximum(total + kind, 1)
            p = np.where(total > 0, mixed, p)
        return float(-np.log(p).sum())


def most_frequent(answers: Sequence[str]) -> str | None:
    """The answer given most often (compared as the exact-match metric compares), the first in order on a tie."""
    counts = Counter(normalise(answer) for answer in answers)
    if not counts:
        return None
    best = min(counts, key=lambda form: (-counts[form], form))
    return min(answer for answer in answers if normalise(answer) == best)


def best_constant(answers: Sequence[str], candidates: int = 100, judged_on: int = 300) -> str | None:
    """Among the most frequent answers, the one with the highest mean token-F1 to a spread of all answers."""
    counts = Counter(answers)
    ordered = sorted(counts, key=lambda answer: (-counts[answer], answer))[:candidates]
    step = math.ceil(len(answers) / judged_on) or 1
    spread = list(answers)[::step]
    if not ordered:
        return None
    return max(ordered, key=lambda answer: (sum(token_f1(answer, gold) for gold in spread), answer))


def _codes(text: str, order: int) -> np.ndarray:
    """One integer a byte, holding it and the order-1 bytes before it (the byte itself lowest)."""
    raw = np.frombuffer(b"\n" * (order - 1) + text.encode("utf-8"), np.uint8).astype(np.int64)
    n = len(raw) - order + 1
    codes = np.zeros(n, np.int64)
    for back in range(order):
        codes |= raw[order - 1 - back : order - 1 - back + n] << (8 * back)
    return codes


def _mask(length: int) -> int:
    return (1 << (8 * length)) - 1


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Value of each wanted key, 0 where it is unknown; `keys` are sorted."""
    if not len(keys):
        return np.zeros(len(wanted), np.int64)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)
