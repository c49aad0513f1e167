"""What a training run asks of its processes: the answers of one process alone, and where those of many come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lmcraft.model import ModelConfig, Transformer
from lmcraft.recipe.stage import Progress
from lmcraft.training.checkpoint import Identity, load_checkpoint, save_checkpoint
from lmcraft.training.objectives import Batch, Objective


def spread_over(ranks: Any, config: ModelConfig, row_tokens: int) -> Alone:
    """How the processes of `ranks` (None: this one alone) share the work of one training run."""
    if ranks is None:
        return ALONE
    from lmcraft.training.spread import Spread  # here: one process needs nothing of torch.distributed

    return Spread(ranks, config, row_tokens)


class Alone:
    """One process: everything stays as it is."""

    size = 1
    first = True
    whole_layers = True
    """Whether each process has all heads, units and positions of the rows that it reads."""

    def agree(self, run: Identity) -> None: ...

    def network(self, model: Transformer, device: torch.device) -> Transformer:
        return model.to(device)

    def objective(self, objective: Objective) -> Objective:
        return objective

    def release(self, network: Transformer) -> None:
        """After a forward pass that no backward pass will follow."""

    def part(self, batch: Batch) -> Batch:
        return batch

    def micro_rows(self, rows: int, micro_rows: int) -> int:
        return micro_rows

    def sums(self, loss: Tensor, weight: int) -> tuple[float, int]:
        return float(loss), weight

    def number(self, tensor: Tensor) -> float:
        return float(tensor)

    def sum(self, *numbers: float) -> list[float]:
        return list(numbers)

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def of_first(self, number: float) -> float:
        return number

    def save(self, folder: Path, step: int, state: dict[str, Any], run: Identity, quality: float | None) -> None:
        save_checkpoint(folder, step, state, run, quality)

    def load(
        self,
        folder: Path,
        progress: Progress,
        run: Identity,
        network: nn.Module,
        optimizers: list[torch.optim.Optimizer],
    ) -> tuple[int, dict[str, Any]] | None:
        return load_checkpoint(folder, progress, run)

    def finish(self, network: Transformer, model: Transformer) -> None: ...


ALONE = Alone()


def full_matrix(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor (DTensor), on every process (all must call this); a plain one as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def local_part(full: Tensor, like: Tensor) -> Tensor:
    """Of a whole tensor, the part that this process holds of `like`; all of it when `like` is a plain tensor."""
    if not hasattr(like, "device_mesh"):
        return full
    sharded: Any = like
    coordinate = sharded.device_mesh.get_coordinate()
    # Where FSDP cuts what tensor parallelism has cut already, its mesh dimension comes first but its cut second.
    cuts = [(i, each) for i, each in enumerate(sharded.placements) if not each.is_replicate()]
    for dimension, placement in sorted(cuts, key=lambda cut: type(cut[1]).__name__ == "_StridedShard"):
        size = -(-full.shape[placement.dim] // sharded.device_mesh.size(dimension))
        start = min(coordinate[dimension] * size, full.shape[placement.dim])
        full = full.narrow(placement.dim, start, min(size, full.shape[placement.dim] - start))
    return full
