"""Optimizers by kind of parameter, and the schedule that scales all their rates."""

from __future__ import annotations

import torch
from torch import nn

from lmcraft.training.config import TrainingConfig
from lmcraft.training.muon import Muon

MOMENTUM_STEPS = 300
FIRST_MOMENTUM = 0.85
"""Muon's momentum begins here and rises (nanochat does likewise). Of two runs of 3,000 steps with planted heads the one
that rose was .03 ahead, of three of 1,500 steps none (docs/log.md)."""


def make_optimizers(
    model: nn.Module, config: TrainingConfig, precision: torch.dtype = torch.float32
) -> list[torch.optim.Optimizer]:
    """Matrices of the layers by Muon (which orthogonalises in `precision`) or AdamW, embeddings and norms by AdamW.

    Only the matrices of the layers are decayed.
    """
    matrices, tables, heads, vectors = [], [], [], []
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            vectors.append(parameter)
        elif name.endswith("embed_tokens.weight"):  # the head too, where it is tied
            tables.append(parameter)
        elif name.endswith("lm_head.weight"):
            heads.append(parameter)
        else:
            matrices.append(parameter)
    table_rate = config.embedding_learning_rate or (0.2 if heads else 0.03)
    head_rate = config.head_learning_rate or table_rate / 20
    adam_groups = [
        {"params": tables, "lr": table_rate},
        *([{"params": heads, "lr": head_rate}] if heads else []),
        {"params": vectors, "lr": config.norm_learning_rate},
    ]
    optimizers: list[torch.optim.Optimizer] = []
    if config.optimizer == "muon":
        optimizers.append(
            Muon(matrices, lr=config.learning_rate, weight_decay=config.weight_decay, precision=precision)
        )
    else:
        adam_groups.append({"params": matrices, "lr": config.learning_rate, "weight_decay": config.weight_decay})
    adam = torch.optim.AdamW(adam_groups, betas=(0.9, 0.99), eps=1e-10, weight_decay=0.0, fused=True)
    optimizers.append(adam)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
            if "momentum" in group:
                group["last_momentum"] = group["momentum"]
    return optimizers


def rate_factor(step: int, steps: int, config: TrainingConfig) -> float:
    """Share of the peak rate at a step (from 0): linear warmup, flat, linear decay (WSD, Hu et al. 2024)."""
    warmup = round(config.warmup * steps)
    decay = round(config.decay * steps)
    if step < warmup:
        return (step + 1) / warmup
    left = steps - step
    if left <= decay:
        return config.final_rate + (1 - config.final_rate) * left / (decay + 1)
    return 1.0


def set_schedule(optimizers: list[torch.optim.Optimizer], factor: float, step: int) -> None:
    """Rates of the step (from 0), and Muon's momentum, which rises over the first MOMENTUM_STEPS."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
            if "momentum" in group:
                risen = min(1.0, step / MOMENTUM_STEPS)
                group["momentum"] = FIRST_MOMENTUM + (group["last_momentum"] - FIRST_MOMENTUM) * risen
