"""Cross-entropy that never holds all logits at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

IGNORE = -100
"""Label of a position that is not predicted."""

CHUNK_ELEMENTS = 1 << 22
"""Logits held at a time on a CPU: 8 MiB in bfloat16. Smaller chunks add to the head's gradient more often."""

GPU_CHUNK_ELEMENTS = 1 << 28

_COMPILED: ContextVar[bool] = ContextVar("compiled_loss", default=False)


@contextmanager
def compiled_loss(on: bool) -> Iterator[None]:
    """Within it, what stands between the loss's matrix products is one compiled kernel (where `on`)."""
    token = _COMPILED.set(on)
    try:
        yield
    finally:
        _COMPILED.reset(token)


def linear_cross_entropy(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    labels_N: Tensor,
    *,
    dtype: torch.dtype,
    z_loss: float = 0.0,
    other_labels_NM: Tensor | None = None,
    other_share: float = 0.0,
) -> Tensor:
    """Sum over the labelled positions of -log softmax(hidden · weightᵀ)[label] (+ z_loss · logsumexp², PaLM 2022).

    With `other_labels_NM` (all of them tokens) a label counts 1 - other_share and M others share the rest alike.

    Matrix products run in `dtype`, the softmax in float32 (float64 where that is `dtype`). The gradient is
    computed in the forward pass, chunk by chunk, so at most `CHUNK_ELEMENTS` logits exist at a time; backward only
    scales it.
    """
    if other_labels_NM is None:
        other_share = 0.0
    return _LinearCrossEntropy.apply(hidden_ND, weight_VD, labels_N, dtype, z_loss, other_labels_NM, other_share)


def losses_and_gradient_(
    logits_NV: Tensor, labels_N: Tensor, own_share: Tensor, z_loss: float, wants_grad: bool
) -> Tensor:
    """Losses of the positions [N], 0 where unlabelled; the logits become the sum's gradient where that is wanted. A
    label counts `own_share` (of no dimension, so that no kernel is made for its value), and others are added later."""
    logits = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
    used_N1 = (labels_N != IGNORE)[:, None]
    index_N1 = labels_N.clamp(min=0)[:, None]
    largest_N1 = logits.amax(1, keepdim=True)
    lse_N1 = (logits - largest_N1).exp().sum(1, keepdim=True).log() + largest_N1
    losses_N1 = lse_N1 - own_share * logits.gather(1, index_N1)
    if z_loss:
        losses_N1 = losses_N1 + z_loss * lse_N1.square()
    losses_N = torch.where(used_N1, losses_N1, 0.0)[:, 0]
    if not wants_grad:
        return losses_N
    grad_NV = (logits - lse_N1).exp()
    if z_loss:
        grad_NV = grad_NV * (1.0 + 2.0 * z_loss * lse_N1)
    hit_NV = torch.arange(logits.shape[1], device=logits.device) == index_N1
    logits_NV.copy_(torch.where(used_N1, grad_NV - own_share * hit_NV.to(grad_NV.dtype), 0.0))
    return losses_N


def _add_others_(logits_NV: Tensor, others_NM: Tensor, labels_N: Tensor, share: float) -> None:
    """Their part of the gradient."""
    N, M = others_NM.shape
    places_NM = others_NM + torch.arange(0, logits_NV.numel(), logits_NV.shape[1], device=others_NM.device)[:, None]
    part_N1 = (labels_N != IGNORE)[:, None].to(logits_NV.dtype) * (-share / M)
    # Of one dimension, which is many times as fast on a CPU as scatter_add_ of two, and has one order everywhere.
    logits_NV.view(-1).index_add_(0, places_NM.view(-1), part_N1.expand(N, M).reshape(-1))


@functools.cache
def _compiled() -> Callable[[Tensor, Tensor, Tensor, float, bool], Tensor]:
    kernel: Callable[[Tensor, Tensor, Tensor, float, bool], Tensor] = torch.compile(losses_and_gradient_)

    def call(logits_NV: Tensor, labels_N: Tensor, own_share: Tensor, z_loss: float, wants_grad: bool) -> Tensor:
        for each in (logits_NV, labels_N):
            torch._dynamo.mark_dynamic(each, 0)  # one kernel for whatever number of positions
        return kernel(logits_NV, labels_N, own_share, z_loss, wants_grad)

    return call


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        labels_N: Tensor,
        dtype: torch.dtype,
        z_loss: float,
        other_labels_NM: Tensor | None,
        other_share: float,
    ) -> Tensor:
        elements = CHUNK_ELEMENTS if hidden_ND.device.type == "cpu" else GPU_CHUNK_ELEMENTS
        chunk = max(1, elements // weight_VD.shape[0])
        weight = weight_VD.to(dtype)
        wide = torch.promote_types(dtype, torch.float32)
        wants_grad = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        total = torch.zeros((), device=hidden_ND.device, dtype=wide)
        grad_hidden = torch.zeros_like(hidden_ND, dtype=dtype) if wants_grad else None
        grad_weight = torch.zeros_like(weight_VD, dtype=wide) if wants_grad else None
        positions = hidden_ND.shape[0]
        chunk = -(-positions // max(1, -(-positions // chunk)))  # equal parts
        logits_NV = torch.empty(chunk, weight.shape[0], device=weight.device, dtype=dtype)
        own_share = torch.tensor(1.0 - other_share, device=weight.device, dtype=wide)
        kernel = _compiled() if _COMPILED.get() else losses_and_gradient_
        for start in range(0, positions, max(1, chunk)):
            labels = labels_N[start : start + chunk]
            hidden = hidden_ND[start : start + chunk].to(dtype)
            logits = torch.mm(hidden, weight.t(), out=logits_NV[: len(labels)])
            others = other_labels_NM[start : start + chunk] if other_labels_NM is not None and other_share else None
            if others is not None:
                others_N = logits.gather(1, others).to(wide).mean(1).where(labels != IGNORE, 0.0)
                total = total - other_share * others_N.sum()
            total = total + kernel(logits, labels, own_share, z_loss, wants_grad).sum()
            if others is not None and wants_grad:
                _add_others_(logits, others, labels, other_share)
            if grad_hidden is not None and grad_weight is not None:
                torch.mm(logits, weight, out=grad_hidden[start : start + chunk])
                grad_weight += torch.mm(logits.t(), hidden)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.dtypes = hidden_ND.dtype, weight_VD.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = grads
        grad_hidden, grad_weight = ctx.saved_tensors
        hidden_dtype, weight_dtype = ctx.dtypes
        given = (grad_hidden * scale).to(hidden_dtype), (grad_weight * scale).to(weight_dtype)
        return *given, None, None, None, None, None
