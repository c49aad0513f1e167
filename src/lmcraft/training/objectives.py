"""Objectives: functions from (model, batch) to (sum of losses, weight). The loop divides by the global weight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lmcraft.model import Transformer
from lmcraft.training.loss import IGNORE, linear_cross_entropy


@dataclass(frozen=True)
class Batch:
    """Packed rows. All [R, T] int64: tokens, labels (what each position predicts: the next token of the same document,
    the token under a mask, or IGNORE), positions (restarting in each document) and document numbers (equal within a
    document, different for padding). `bidirectional` [R] bool says which rows were masked and see what follows.
    `other_labels` [R, T, M] int64 are tokens that share `other_share` of each label."""

    tokens: Tensor
    labels: Tensor
    positions: Tensor
    documents: Tensor
    bidirectional: Tensor | None = None
    other_labels: Tensor | None = None
    other_share: float = 0.0

    def rows(self, start: int, stop: int) -> Batch:
        return self._each(lambda part: part[start:stop])

    def to(self, device: torch.device) -> Batch:
        return self._each(lambda part: part.to(device, non_blocking=True))

    def cut(self, tokens: int) -> Batch:
        """Every row as rows of so many tokens, which divide its own: what stood before a cut is no longer seen, and
        positions restart there as at the start of a document."""

        def pieces(part: Tensor) -> Tensor:
            return part.reshape(-1, tokens)

        positions, documents = pieces(self.positions), pieces(self.documents)
        goes_on = documents == documents[:, :1]
        bidirectional, others = self.bidirectional, self.other_labels
        if bidirectional is not None:
            bidirectional = bidirectional.repeat_interleave(self.tokens.shape[1] // tokens)
        return Batch(
            pieces(self.tokens),
            pieces(self.labels),
            torch.where(goes_on, positions - positions[:, :1], positions),
            documents,
            bidirectional,
            None if others is None else others.reshape(-1, tokens, others.shape[-1]),
            self.other_share,
        )

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        tokens, labels, positions, documents = map(change, (self.tokens, self.labels, self.positions, self.documents))
        bidirectional = None if self.bidirectional is None else change(self.bidirectional)
        others = None if self.other_labels is None else change(self.other_labels)
        return Batch(tokens, labels, positions, documents, bidirectional, others, self.other_share)

    def others_flat(self) -> dict[str, Any]:
        """The other labels of all positions, as `linear_cross_entropy` takes them."""
        if self.other_labels is None:
            return {}
        return {"other_labels_NM": self.other_labels.flatten(0, 1), "other_share": self.other_share}

    @property
    def predicted(self) -> int:
        """Number of labelled positions."""
        return int((self.labels != IGNORE).sum())


Objective = Callable[[Transformer, Batch, torch.dtype], tuple[Tensor, int]]


def next_token(z_loss: float = 0.0) -> Objective:
    """Negative log-likelihood in nats of each labelled token given those of its document that its row lets it see:
    those before it, and in masked rows those after it; of its share of the label, where others have one too."""

    def objective(model: Transformer, batch: Batch, dtype: torch.dtype) -> tuple[Tensor, int]:
        hidden_BTD = model.hidden(batch.tokens, batch.positions, batch.documents, bidirectional_B=batch.bidirectional)
        hidden_ND, labels_N, others = hidden_BTD.flatten(0, 1), batch.labels.flatten(), batch.others_flat()
        if batch.bidirectional is not None:  # most of a masked row is not predicted and needs no logits
            predicted = (labels_N != IGNORE).nonzero()[:, 0]
            hidden_ND, labels_N = hidden_ND[predicted], labels_N[predicted]
        loss = linear_cross_entropy(hidden_ND, model.lm_head.weight, labels_N, dtype=dtype, z_loss=z_loss, **others)
        return loss, batch.predicted

    return objective
