"""Muon (Jordan et al. 2024): momentum whose matrices are made orthogonal, with what later work added to it.

Matrices of one shape are orthogonalised together, in bfloat16 where the processor multiplies it: a step of a small
network has a few large batched products instead of hundreds of small ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from lmcraft.training.parallel import full_matrix, local_part

FROM_A_THOUSANDTH = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
)
"""Odd polynomials a·x + b·x³ + c·x⁵, one a step, that take singular values from [0.001, 1] closest to 1 (Amsel et al.
2025, The Polar Express, Algorithm 1)."""

FROM_A_HUNDREDTH = (
    (8.09336902, -23.62043159, 17.44615249),
    (3.63658567, -2.72192686, 0.53654631),
    (2.66129996, -1.97715451, 0.45261641),
)
"""The same for [0.01, 1], found as there, by linear programming on a grid: to within 0.27 of 1 in three steps."""

NARROW = 256
"""Matrices of up to so many rows or columns, among whose singular values a hundredth of the norm is little, take three
steps: at 192 nothing is lost (docs/log.md), and wider ones were not tried."""

SAFETY = 1.02
"""The polynomials diverge above 1, where rounding can push a singular value: each but the last aims this much lower
(the same paper)."""


def orthogonalise(matrices_NRC: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices, about (singular values within 0.27 of 1, smaller for those that were below
    a hundredth of the norm; within 0.13 and a thousandth where no side is `NARROW`), [N, R, C] in the dtype given."""
    X = matrices_NRC
    tall = X.shape[-2] > X.shape[-1]
    if tall:
        X = X.mT
    norm_N11 = torch.linalg.vector_norm(X, dim=(-2, -1), keepdim=True, dtype=torch.float32)
    X = X / (norm_N11 * SAFETY + 1e-7).to(X.dtype)
    polynomials = FROM_A_HUNDREDTH if X.shape[-2] <= NARROW else FROM_A_THOUSANDTH
    for step, coefficients in enumerate(polynomials, 1):
        scale = SAFETY if step < len(polynomials) else 1.0
        a, b, c = (each / scale**power for each, power in zip(coefficients, (1, 3, 5), strict=True))
        G = X @ X.mT
        G = torch.baddbmm(G, G, G, beta=b, alpha=c)
        X = torch.baddbmm(X, G, X, beta=a)
    return X.mT if tall else X


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, times sqrt(max(1, rows / columns)) (Jordan et al. 2024).

    `row_beta`: running mean of each row's squares, by which rows are evened out, the norm of the whole kept (NorMuon,
    Li et al. 2025); 0 leaves that out. `cautious`: a weight is decayed only where the update shrinks it as well (Chen
    et al. 2025). `precision`: dtype of the orthogonalisation. Of sharded matrices every process orthogonalises the
    whole.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        row_beta: float = 0.95,
        cautious: bool = True,
        precision: torch.dtype = torch.bfloat16,
    ):
        self.precision = precision
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "row_beta": row_beta,
            "cautious": cautious,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None, "Muon evaluates nothing by itself"
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes.setdefault(parameter.shape, []).append(parameter)
            for parameters in shapes.values():
                self._step(parameters, group)

    def _step(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        grads: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
        for p in parameters:
            if "momentum" not in self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        own, momenta = _own(grads), _own([self.state[p]["momentum"] for p in parameters])
        torch._foreach_lerp_(momenta, own, 1 - group["momentum"])
        torch._foreach_lerp_(own, momenta, group["momentum"])  # the gradient is free to be written over
        rows, columns = parameters[0].shape
        whole_NRC = torch.stack([full_matrix(g).to(self.precision) for g in grads])
        updates_NRC = orthogonalise(whole_NRC)
        scale: float | Tensor = max(1.0, rows / columns) ** 0.5
        if beta := group["row_beta"]:
            for p in parameters:
                if "row_squares" not in self.state[p]:
                    self.state[p]["row_squares"] = torch.zeros(rows, 1, device=p.device)
            scale = scale * row_scales(updates_NRC, [self.state[p]["row_squares"] for p in parameters], beta)
        scaled = (updates_NRC.float() * scale).unbind()
        updates, weights = [local_part(u, p) for u, p in zip(scaled, parameters, strict=True)], _own(parameters)
        if decay := group["lr"] * group["weight_decay"]:
            if group["cautious"]:
                for weight, update in zip(weights, updates, strict=True):
                    shrunk = (weight * update).gt_(0)  # 1 where the update shrinks the weight as well, else 0
                    weight.addcmul_(weight, shrunk, value=-decay)
            else:
                torch._foreach_mul_(weights, 1 - decay)
        torch._foreach_add_(weights, updates, alpha=-group["lr"])


def _own(tensors: list[Tensor]) -> list[Tensor]:
    """What this process holds of them, to be changed in place."""
    return [each.to_local() if hasattr(each, "to_local") else each for each in tensors]


def row_scales(updates_NRC: Tensor, squares: list[Tensor], beta: float) -> Tensor:
    """Factors [N, R, 1], float32, that divide each row by the root of its running mean square (`squares`, [R, 1] each,
    updated in place) and leave each matrix the norm that it had."""
    now_NR1 = torch.linalg.vector_norm(updates_NRC, dim=-1, keepdim=True, dtype=torch.float32).square_()
    now_NR1 /= updates_NRC.shape[-1]
    torch._foreach_lerp_(squares, list(now_NR1.unbind()), 1 - beta)
    evened_NR1 = torch.stack(squares).clamp(min=1e-10).rsqrt()
    before_N11 = now_NR1.sum(1, keepdim=True)
    after_N11 = (now_NR1 * evened_NR1.square()).sum(1, keepdim=True)
    return evened_NR1 * (before_N11 / after_N11.clamp(min=1e-10)).sqrt()
