"""Objectives: functions from (model, batch) to (sum of losses, weight). The loop divides by the global weight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lmcraft.model import Transformer
from lmcraft.training.loss import IGNORE, linear_cross_entropy


@dataclass(frozen=True)
class Batch:
    """Packed rows. All [R, T] int64: tokens, labels (the next token of the same document, or IGNORE), positions
    (restarting in each document) and document numbers (equal within a document, different for padding)."""

    tokens: Tensor
    labels: Tensor
    positions: Tensor
    documents: Tensor

    def rows(self, start: int, stop: int) -> Batch:
        part = slice(start, stop)
        return Batch(self.tokens[part], self.labels[part], self.positions[part], self.documents[part])

    def to(self, device: torch.device) -> Batch:
        parts = (self.tokens, self.labels, self.positions, self.documents)
        return Batch(*(part.to(device, non_blocking=True) for part in parts))

    @property
    def predicted(self) -> int:
        """Number of labelled positions."""
        return int((self.labels != IGNORE).sum())


Objective = Callable[[Transformer, Batch, torch.dtype], tuple[Tensor, int]]


def next_token(z_loss: float = 0.0) -> Objective:
    """Negative log-likelihood in nats of each labelled token given those before it in its document."""

    def objective(model: Transformer, batch: Batch, dtype: torch.dtype) -> tuple[Tensor, int]:
        hidden_BTD = model.hidden(batch.tokens, batch.positions, batch.documents)
        loss = linear_cross_entropy(
            hidden_BTD.flatten(0, 1), model.lm_head.weight, batch.labels.flatten(), dtype=dtype, z_loss=z_loss
        )
        return loss, batch.predicted

    return objective
