"""Load balancing of mixtures of experts: what keeps the router from sending all tokens to a few."""

from __future__ import annotations

import torch
from torch import Tensor

from lmcraft.model import Transformer
from lmcraft.training.loss import IGNORE
from lmcraft.training.objectives import Batch, Objective


def balanced(objective: Objective, weight: float) -> Objective:
    """The objective with `weight` times the load-balancing loss of the network's mixtures, averaged over them.

    The router's logits come out of `Transformer.routing`, an accumulator that is open during the call. The balance is
    taken row by row, each row counting as often as it predicts: a product of two means over the whole batch could not
    be split into micro-batches, so the gradient would depend on their size (Qiu et al. 2025 find balance over more
    tokens better; what that gains here is unmeasured).
    """

    def with_balance(model: Transformer, batch: Batch, dtype: torch.dtype) -> tuple[Tensor, int]:
        with model.routing() as routing:
            loss, predicted = objective(model, batch, dtype)
        chosen = model.config.num_experts_per_tok
        assert chosen, "a dense network has nothing to balance"
        real_BT = batch.documents >= 0
        per_row = torch.stack([load_balance(logits, chosen, real_BT) for logits in routing]).mean(0)
        counts = (batch.labels != IGNORE).sum(1)
        return loss + weight * (per_row * counts).sum(), predicted

    return with_balance


def load_balance(logits_BTE: Tensor, chosen: int, real_BT: Tensor) -> Tensor:
    """For each row E · sum over experts of (share of tokens sent to it) · (mean probability), [B], padding left out
    (Fedus et al. 2021, eq. 4-6; a token sent to `chosen` experts counts for each, as `transformers` has it). It is
    `chosen` where all experts get as many tokens, and larger where not."""
    shares_BTE = logits_BTE.to(torch.promote_types(logits_BTE.dtype, torch.float32)).softmax(-1)
    real_BT1 = real_BT[..., None].to(shares_BTE.dtype)
    sent_BTE = torch.zeros_like(shares_BTE).scatter_(-1, shares_BTE.topk(chosen, dim=-1).indices, 1.0)
    tokens_B1 = real_BT1.sum(1).clamp(min=1.0)
    sent_BE = (sent_BTE * real_BT1).sum(1) / tokens_B1
    mean_BE = (shares_BTE * real_BT1).sum(1) / tokens_B1
    return (sent_BE * mean_BE).sum(-1) * logits_BTE.shape[-1]
