"""Cross-entropy that never holds all logits at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

IGNORE = -100
"""Label of a position that is not predicted."""

CHUNK_ELEMENTS = 1 << 20
"""Logits held at a time on a CPU: 4 MiB in float32 stay in the cache (2^18 to 2^21 measured; 2^20 fastest)."""

GPU_CHUNK_ELEMENTS = 1 << 28


def linear_cross_entropy(
    hidden_ND: Tensor, weight_VD: Tensor, labels_N: Tensor, *, dtype: torch.dtype, z_loss: float = 0.0
) -> Tensor:
    """Sum over the labelled positions of -log softmax(hidden · weightᵀ)[label] (+ z_loss · logsumexp², PaLM 2022).

    Matrix products run in `dtype`, the softmax in float32 (float64 where that is `dtype`). The gradient is
    computed in the forward pass, chunk by chunk, so at most `CHUNK_ELEMENTS` logits exist at a time; backward only
    scales it.
    """
    return _LinearCrossEntropy.apply(hidden_ND, weight_VD, labels_N, dtype, z_loss)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, labels_N: Tensor, dtype: torch.dtype, z_loss: float
    ) -> Tensor:
        elements = CHUNK_ELEMENTS if hidden_ND.device.type == "cpu" else GPU_CHUNK_ELEMENTS
        chunk = max(1, elements // weight_VD.shape[0])
        weight = weight_VD.to(dtype)
        wide = torch.promote_types(dtype, torch.float32)
        wants_grad = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        total = torch.zeros((), device=hidden_ND.device, dtype=wide)
        grad_hidden = torch.zeros_like(hidden_ND, dtype=dtype) if wants_grad else None
        grad_weight = torch.zeros_like(weight_VD, dtype=wide) if wants_grad else None
        for start in range(0, hidden_ND.shape[0], chunk):
            labels = labels_N[start : start + chunk]
            used = labels != IGNORE
            index = labels.clamp(min=0)[:, None]
            hidden = hidden_ND[start : start + chunk].to(dtype)
            logits = torch.mm(hidden, weight.t()).to(wide)
            lse = torch.logsumexp(logits, dim=1)
            losses = lse - logits.gather(1, index)[:, 0]
            if z_loss:
                losses = losses + z_loss * lse.square()
            total = total + losses.masked_fill(~used, 0.0).sum()
            if grad_hidden is None or grad_weight is None:
                continue
            grad = logits.sub_(lse[:, None]).exp_()
            if z_loss:
                grad.mul_((1.0 + 2.0 * z_loss * lse)[:, None])
            grad.scatter_add_(1, index, torch.full_like(index, -1, dtype=grad.dtype))
            grad = grad.masked_fill_(~used[:, None], 0.0).to(dtype)
            torch.mm(grad, weight, out=grad_hidden[start : start + chunk])
            grad_weight += torch.mm(grad.t(), hidden)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.dtypes = hidden_ND.dtype, weight_VD.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        (scale,) = grads
        grad_hidden, grad_weight = ctx.saved_tensors
        hidden_dtype, weight_dtype = ctx.dtypes
        return (grad_hidden * scale).to(hidden_dtype), (grad_weight * scale).to(weight_dtype), None, None, None
