"""Layers that multiply in float8, by torchao: for GPUs that do so in hardware, and for networks wide enough to gain."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import nn

from lmcraft.model import Transformer
from lmcraft.model.feed_forward import Experts
from lmcraft.recipe.stage import Runtime, UserError

Linears = list[tuple[nn.Module, str, nn.Linear]]
"""Modules, the names of their linear layers, and the layers as they were."""


def check_float8(device: torch.device, runtime: Runtime) -> None:
    """Raises UserError where a run with precision float8 is not possible."""
    if runtime.ranks is not None:
        raise UserError("precision float8 trains on one process: set precision: bfloat16, or start it without torchrun")
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9):
        raise UserError(
            "precision float8 needs an NVIDIA GPU of compute capability 8.9 or more (Ada, Hopper, Blackwell), not "
            f"{device}: set precision: auto"
        )
    _torchao()


def to_float8(network: Transformer, *, emulate: bool = False) -> Linears:
    """Have the layers' linear layers multiply in float8: e4m3, gradients e5m2 (Micikevicius et al. 2022), with a scale
    a tensor, found anew in every step. Weights stay the parameters that they were, by the same names. Layers with a
    size that is no multiple of 16 stay as they are, as do mixtures of experts (one may get no rows) and the head.
    `emulate`: round to float8, multiply in more. Returns what `from_float8` needs. Raises UserError without torchao."""
    torchao = _torchao()
    kept: Linears = []
    modules = list(network.model.layers.modules())
    mixed = {id(part) for module in modules if isinstance(module, Experts) for part in module.modules()}
    for module in modules:
        for name, layer in module.named_children() if id(module) not in mixed else ():
            if isinstance(layer, nn.Linear) and layer.in_features % 16 == 0 and layer.out_features % 16 == 0:
                kept.append((module, name, layer))
    chosen = {id(layer) for _, _, layer in kept}
    torchao.convert_to_float8_training(
        network.model.layers,
        module_filter_fn=lambda module, name: id(module) in chosen,
        config=torchao.Float8LinearConfig(emulate=emulate),
    )
    return kept


def from_float8(kept: Linears) -> None:
    """Put the linear layers back that `to_float8` replaced; what was learnt is in them."""
    for module, name, layer in kept:
        setattr(module, name, layer)


def _torchao() -> Any:
    try:
        return import_module("torchao.float8")
    except ImportError as error:
        raise UserError("precision float8 needs torchao: pip install 'lmcraft[gpu]'") from error
