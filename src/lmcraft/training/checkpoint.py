"""Checkpoints of a run in progress: everything that the next step depends on, never pickled.

A checkpoint is a folder `step-<n>` with `tensors.safetensors` and `state.json`; it appears by a rename, so it is whole
or not there. `state.json` names its own digest and that of the tensors: a damaged checkpoint is passed over for the
one before.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lmcraft.recipe.stage import Progress

KEPT = 2


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write nested dicts and lists of tensors, numbers, text and None. Older checkpoints but one are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    plain = _take_tensors(state, "", tensors)
    temporary = folder / f"writing-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    save_file(tensors, temporary / "tensors.safetensors")
    digest = _sha256(temporary / "tensors.safetensors")
    record = {"step": step, "sha256": digest, "state_sha256": _text_sha256(json.dumps(plain)), "state": plain}
    (temporary / "state.json").write_text(json.dumps(record), encoding="utf-8")
    for file in temporary.iterdir():
        with file.open("r+b") as handle:
            os.fsync(handle.fileno())
    target = folder / f"step-{step:09d}"
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    for old in sorted(folder.glob("step-*"))[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(folder: Path, progress: Progress) -> tuple[int, dict[str, Any]] | None:
    """The newest whole checkpoint as (step, state), tensors on the CPU; None when there is none."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            record = json.loads((path / "state.json").read_text(encoding="utf-8"))
            if _sha256(path / "tensors.safetensors") != record["sha256"]:
                raise ValueError("its tensors do not have the digest that it names")
            if _text_sha256(json.dumps(record["state"])) != record["state_sha256"]:
                raise ValueError("its state does not have the digest that it names")
            return record["step"], _put_tensors(record["state"], load_file(path / "tensors.safetensors"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            progress.note(f"  checkpoint {path.name} is damaged ({error}); going back to the one before")
    return None


def _take_tensors(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[place] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": place}
    if isinstance(value, dict):
        return {"map": [[key, _take_tensors(item, f"{place}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"list": [_take_tensors(item, f"{place}/{i}", tensors) for i, item in enumerate(value)]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    raise TypeError(f"{place}: {type(value).__name__} cannot be stored in a checkpoint")


def _put_tensors(stored: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    if "tensor" in stored:
        return tensors[stored["tensor"]]
    if "map" in stored:
        return {key: _put_tensors(item, tensors) for key, item in stored["map"]}
    if "list" in stored:
        return [_put_tensors(item, tensors) for item in stored["list"]]
    return stored["value"]


def rng_state() -> dict[str, Any]:
    """State of torch's generators. Nothing in the loop draws from them today; a future dropout would."""
    states: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = list(torch.cuda.get_rng_state_all())
    return states


def set_rng_state(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])


def _text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
