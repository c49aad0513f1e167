"""Checkpoints of a run on many processes (torch.distributed.checkpoint), which any number of them can go on from.

The folder is that of training/checkpoint.py, and so are its state, digests and rename; of the tensors every process
writes its own parts, as safetensors files that say where in the whole each part belongs. Nothing is pickled. All
processes must see the same folder.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lmcraft.recipe.stage import Progress, UserError
from lmcraft.training.checkpoint import (
    Identity,
    newest,
    prepare,
    publish,
    put_tensors,
    sha256_of,
    take_tensors,
)
from lmcraft.training.ranks import Ranks


def save_sharded(
    ranks: Ranks, folder: Path, step: int, state: dict[str, Any], run: Identity, quality: float | None
) -> None:
    """As `save_checkpoint`; all processes call it with the same arguments but for their parts of the tensors."""
    tensors: dict[str, Tensor] = {}
    plain = take_tensors(state, "", tensors)
    _part_from_each_other(tensors)
    temporary = folder / "writing-ranks"
    if ranks.first:
        prepare(temporary)
    ranks.share()
    try:
        dcp.save(tensors, storage_writer=dcp.HuggingFaceStorageWriter(str(temporary), save_distributed=True))
        files = sorted(temporary.glob("*.safetensors"))
        parts = ranks.gather({path.name: sha256_of(path) for path in files[ranks.rank :: ranks.size]})
        if ranks.first:
            digests = {name: digest for part in parts for name, digest in sorted(part.items())}
            publish(temporary, folder, step, plain, digests, run, quality)
    except BaseException as error:
        if ranks.first:
            shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, dcp.CheckpointException):  # a full disk of one is that of all
            raise next((each for each, _ in error.failures.values() if isinstance(each, OSError)), error) from None
        raise
    ranks.share()


def _part_from_each_other(tensors: dict[str, Tensor]) -> None:
    """Copies what two names share (tied embeddings): safetensors refuses it."""
    seen: set[int] = set()
    for place, tensor in tensors.items():
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        memory = local.untyped_storage().data_ptr()
        if memory in seen:
            tensors[place] = tensor.clone()
        seen.add(memory)


def load_sharded(
    ranks: Ranks,
    folder: Path,
    progress: Progress,
    run: Identity,
    network: nn.Module,
    optimizers: list[torch.optim.Optimizer],
) -> tuple[int, dict[str, Any]] | None:
    """As `load_checkpoint`, with the parts of this process, whatever the number of those that wrote them."""
    found: dict[str, Any] | None = None
    if ranks.first:
        try:
            if there := newest(folder, progress, run):
                found = {"name": there[0].name, "record": there[1]}
        except UserError as error:
            ranks.share({"refused": str(error)})
            raise
    found = ranks.share(found)
    if found is None:
        return None
    if "refused" in found:
        raise UserError(found["refused"])
    path, record = folder / found["name"], found["record"]
    reader = dcp.HuggingFaceStorageReader(str(path))
    tensors = {
        place: _empty(place, stored, network, optimizers)
        for place, stored in reader.read_metadata().state_dict_metadata.items()
    }
    dcp.load(tensors, storage_reader=reader)
    return record["step"], put_tensors(record["state"], tensors)


def _empty(place: str, stored: Any, network: nn.Module, optimizers: list[torch.optim.Optimizer]) -> Tensor:
    """Room for a stored tensor: sharded as the parameter of its name, or as the one whose state it is."""
    kind, *names = place.removeprefix("/").split("/")
    like: Tensor | None = None
    if kind == "model":
        like = network.state_dict(keep_vars=True)[names[0]]
    elif kind == "optimizers" and names[1] == "state":
        groups = optimizers[int(names[0])].param_groups
        like = [parameter for group in groups for parameter in group["params"]][int(names[2])]
    if isinstance(like, DTensor) and like.shape == stored.size:
        return torch.empty_like(like, dtype=stored.properties.dtype, requires_grad=False)
    return torch.empty(stored.size, dtype=stored.properties.dtype)
