"""Which tokens of a batch are hidden and asked for: a pure function of (seed, step, row), as the batch itself is.

The answer stands at the mask's own place: position i reads `<|mask|>` and predicts token i, as `transformers` expects
of a masked LM. GPT-BERT (Charpentier and Samuel 2024) has the position before predict it, so that both objectives
predict the next token; such a network is loaded by nothing but its own code. Here a network trained with both (as in
AntLM, Yu et al. 2024, which does not shift either) is told by the mask what it is asked: the same weights are a causal
LM (Llama) and a masked LM (EuroBERT), each read by `transformers` as it stands.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from lmcraft.training.loss import IGNORE
from lmcraft.training.objectives import Batch

STREAM = 0x6D61736B
"""Keeps these draws apart from others of the same seed."""

SPAN_LENGTHS = np.arange(1, 11)
SPAN_PROBABILITIES = 0.2 * 0.8 ** (SPAN_LENGTHS - 1) / (1 - 0.8**10)
"""SpanBERT (Joshi et al. 2020): geometric with p = 0.2, at most 10, 3.8 on average; of tokens here, of words there."""


@dataclass(frozen=True)
class Masking:
    """Hides `share` of the tokens of the `rows` chosen, each under `mask_id`, and makes those rows bidirectional.

    All hidden tokens become the mask: leaving or changing a tenth each (BERT) gains nothing where many are hidden
    (Wettig et al. 2023). `special_ids`, padding among them, are never hidden. A row with any other token has at least
    one hidden.
    """

    mask_id: int
    special_ids: tuple[int, ...]
    share: float
    spans: bool
    rows: float
    """Share of the rows; those left as they are predict the next token."""
    seed: int

    def __call__(self, batch: Batch, step: int) -> Batch:
        tokens, labels = batch.tokens.clone(), batch.labels.clone()
        masked = np.zeros(len(tokens), bool)
        eligible = (~torch.isin(tokens, torch.tensor(self.special_ids)) & (batch.documents >= 0)).numpy()
        for row in range(len(tokens)):
            random = np.random.default_rng([self.seed, STREAM, step, row])
            masked[row] = random.random() < self.rows
            if masked[row]:
                places = torch.from_numpy(choose(np.flatnonzero(eligible[row]), self.share, self.spans, random))
                labels[row] = IGNORE
                labels[row, places] = tokens[row, places]
                tokens[row, places] = self.mask_id
        return replace(batch, tokens=tokens, labels=labels, bidirectional=torch.from_numpy(masked))


def choose(places: NDArray[np.int64], share: float, spans: bool, random: np.random.Generator) -> NDArray[np.int64]:
    """`share` of the places (int64 [n], ascending), at least one if there is any; singly, or in spans with something
    left open between two. A span runs on over what is no place: at the end of a document it goes on in the next."""
    if not len(places):
        return places
    wanted = max(1, round(share * len(places)))
    if not spans:
        return np.sort(random.choice(places, wanted, replace=False))
    lengths = random.choice(SPAN_LENGTHS, wanted, p=SPAN_PROBABILITIES)
    ends = np.cumsum(lengths)
    last = int(np.searchsorted(ends, wanted))
    lengths = lengths[: last + 1]
    lengths[last] -= ends[last] - wanted
    gaps = len(places) - wanted + 1
    before = np.sort(random.choice(gaps, len(lengths), replace=len(lengths) > gaps))
    return places[np.repeat(before, lengths) + np.arange(wanted)]
