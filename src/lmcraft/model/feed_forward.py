"""What stands between two attentions: SwiGLU, or a mixture of SwiGLU experts."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmcraft.model.config import ModelConfig


class MLP(nn.Module):
    """SwiGLU (Shazeer 2020)."""

    def __init__(self, hidden_size: int, intermediate_size: int):
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Experts(nn.Module):
    """A mixture of experts (Shazeer et al. 2017) as Qwen3-MoE has it: each token goes to the K experts of the highest
    probability, weighted by it. Dropless (Gale et al. 2022): an expert takes all the tokens sent to it.

    `routing` is None, or a list to which every call appends its router's logits [B, T, E]: from them an objective
    computes a load-balancing loss (`Transformer.routing` sets it).
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        assert config.num_experts and config.num_experts_per_tok and config.moe_intermediate_size
        self.chosen, self.normalise = config.num_experts_per_tok, config.norm_topk_prob
        self.gate = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.experts = nn.ModuleList(
            MLP(config.hidden_size, config.moe_intermediate_size) for _ in range(config.num_experts)
        )
        self.routing: list[Tensor] | None = None
        global _mixed  # noqa: PLW0603
        _mixed = _mixed or torch.compiler.disable(Experts.mixed)

    def forward(self, x_BTD: Tensor) -> Tensor:
        assert _mixed is not None
        return _mixed(self, x_BTD)

    def mixed(self, x_BTD: Tensor) -> Tensor:
        x_ND = x_BTD.flatten(0, -2)
        logits_NE = self.gate(x_ND)
        if self.routing is not None:
            self.routing.append(logits_NE.unflatten(0, x_BTD.shape[:-1]))
        wide_NE = logits_NE.to(torch.promote_types(logits_NE.dtype, torch.float32))
        shares_NK, expert_NK = wide_NE.softmax(-1).topk(self.chosen, dim=-1)
        if self.normalise:
            shares_NK = shares_NK / shares_NK.sum(-1, keepdim=True)
        order = expert_NK.flatten().argsort(stable=True)
        counts = expert_NK.flatten().bincount(minlength=len(self.experts)).tolist()
        # With gradients an expert without rows is called too: it gets a gradient of zero instead of none, so that the
        # optimizer moves the same parameters in every step.
        done = [
            expert(rows)
            for expert, rows in zip(self.experts, x_ND[order // self.chosen].split(counts), strict=True)
            if len(rows) or torch.is_grad_enabled()
        ]
        out_NKD = torch.cat(done)[order.argsort()].unflatten(0, (-1, self.chosen))
        return (out_NKD * shares_NK[..., None].to(out_NKD.dtype)).sum(1).view_as(x_BTD)


_mixed: Callable[[Experts, Tensor], Tensor] | None = None
"""Experts.mixed, which must not be compiled: the rows of an expert differ from call to call. Set with the first
experts, as marking it imports the compiler, which takes more than a second."""
