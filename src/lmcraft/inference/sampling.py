"""How the next token is chosen from the logits.

Every row of a batch draws from its own stream of uniform numbers, by inversion of its own distribution; what else is
in the batch does not enter. The numbers come from NumPy's Philox on every device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lmcraft.recipe.stage import UserError

CANDIDATES = 256
"""Top-p looks at this many most probable tokens before it sorts the whole vocabulary."""


@dataclass(frozen=True)
class Sampling:
    """Settings of one generation.

    `temperature` 0 is greedy. `top_k` keeps the k most probable tokens (0: all); `top_p` then keeps the fewest most
    probable ones whose probability together reaches p (Holtzman et al. 2020). `stop` are strings that end the text and
    are left out of it; `stop_tokens` are ids that end it (None: the tokenizer's). The same `seed` gives the same text
    (None: a fresh one each time). Raises UserError on a value out of range.
    """

    max_tokens: int = 256
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    stop_tokens: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))
        if self.max_tokens < 1:
            raise UserError(f"max_tokens is {self.max_tokens}; it must be at least 1")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UserError(f"temperature is {self.temperature}; it must be 0 (greedy) or a positive number")
        if self.top_k < 0:
            raise UserError(f"top_k is {self.top_k}; it must be 0 (off) or a positive whole number")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}; it must be above 0 and at most 1 (off)")
        if not all(self.stop):
            raise UserError("a stop string is empty; leave it out or give at least one character")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0 or self.top_k == 1

    @property
    def filtered(self) -> bool:
        return self.top_k > 0 or self.top_p < 1


class Uniforms:
    """A stream of uniform numbers in [0, 1) from a seed."""

    def __init__(self, seed: int | None):
        self._random = np.random.Generator(np.random.Philox(None if seed is None else seed % 2**64))
        self._block: list[float] = []

    def draw(self) -> float:
        if not self._block:
            self._block = self._random.random(64)[::-1].tolist()
        return self._block.pop()


def choose(logits_BV: Tensor, samplings: Sequence[Sampling], uniforms: Sequence[float]) -> list[int]:
    """One token a row: row i by `samplings[i]` and the number `uniforms[i]` in [0, 1)."""
    greedy = [i for i, sampling in enumerate(samplings) if sampling.greedy]
    if len(greedy) == len(samplings):
        return logits_BV.argmax(-1).tolist()
    if logits_BV.device.type == "mps":
        logits_BV = logits_BV.cpu()  # no float64 there
    chosen = [0] * len(samplings)
    plain = [i for i, sampling in enumerate(samplings) if not sampling.greedy and not sampling.filtered]
    filtered = [i for i, sampling in enumerate(samplings) if not sampling.greedy and sampling.filtered]
    for rows, method in ((greedy, None), (plain, _sample), (filtered, _sample_filtered)):
        if not rows:
            continue
        part = logits_BV if len(rows) == len(samplings) else logits_BV[rows]
        if method is None:
            tokens = part.argmax(-1)
        else:
            temperatures = _column([samplings[i].temperature for i in rows], part.device)
            draws = _column([uniforms[i] for i in rows], part.device)
            tokens = method((part.double() / temperatures).softmax(-1), draws, [samplings[i] for i in rows])
        for i, token in zip(rows, tokens.tolist(), strict=True):
            chosen[i] = token
    return chosen


def _sample(probabilities_BV: Tensor, draws_B1: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    return _invert(probabilities_BV, draws_B1)


def _sample_filtered(probabilities_BV: Tensor, draws_B1: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    V = probabilities_BV.shape[-1]
    top_k = _column([sampling.top_k or V for sampling in samplings], probabilities_BV.device)
    top_p = _column([sampling.top_p for sampling in samplings], probabilities_BV.device)
    width = min(V, max(min(sampling.top_k or CANDIDATES, V) for sampling in samplings))
    best, ids = probabilities_BV.topk(width)
    short = any(sampling.top_k == 0 or sampling.top_k > width for sampling in samplings)
    if short and width < V and bool((best.sum(-1, keepdim=True) < top_p).any()):
        best, ids = probabilities_BV.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(best.shape[-1], device=best.device)
    best = best.masked_fill(rank >= top_k, 0.0)
    kept = torch.where(top_k < V, best.sum(-1, keepdim=True), 1.0)  # top_p is a share of what top_k left
    before = best.cumsum(-1) - best
    best = best.masked_fill((before >= top_p * kept) & (rank > 0), 0.0)
    return ids.gather(-1, _invert(best, draws_B1)[:, None])[:, 0]


def _invert(weights_BN: Tensor, draws_B1: Tensor) -> Tensor:
    """The first index whose cumulated weight exceeds the drawn share of the total; never one of weight zero."""
    cumulated = weights_BN.cumsum(-1)
    total = cumulated[:, -1:].contiguous()
    index = torch.searchsorted(cumulated, draws_B1 * total, right=True)
    last = torch.searchsorted(cumulated, total)  # rounding may put the draw on the total itself
    return torch.minimum(index, last)[:, 0]


def _column(values: Sequence[float], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device, dtype=torch.float64)[:, None]
