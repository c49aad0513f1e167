"""Muon for sharded matrices: the momentum stays in parts, what is orthogonalised is whole."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim._muon import _adjust_lr, _zeropower_via_newtonschulz

from lmcraft.training.parallel import full_matrix, local_part


class ShardedMuon(torch.optim.Muon):
    """torch.optim.Muon, step for step, for DTensors. All processes orthogonalise all matrices."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(parameter.grad)
                momentum, grad = state["momentum_buffer"].to_local(), parameter.grad.to_local()
                momentum.lerp_(grad, 1 - group["momentum"])
                update = grad.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
                whole = full_matrix(
                    torch.distributed.tensor.DTensor.from_local(
                        update,
                        parameter.device_mesh,
                        parameter.placements,
                        run_check=False,
                        shape=parameter.shape,
                        stride=parameter.stride(),
                    )
                )
                whole = _zeropower_via_newtonschulz(whole, group["ns_coefficients"], group["ns_steps"], group["eps"])
                rate = _adjust_lr(group["lr"], group["adjust_lr_fn"], parameter.shape)
                local = parameter.to_local()
                local.mul_(1 - group["lr"] * group["weight_decay"])
                local.add_(local_part(whole, parameter), alpha=-rate)
