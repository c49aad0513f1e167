"""Checkpoints of a run in progress: everything that the next step depends on, never pickled.

A checkpoint is a folder `step-<n>` with `state.json` and `tensors.safetensors` (of many processes: the parts of each,
training/sharded.py); it appears by a rename, so it is whole or not there. `state.json` names its own digest and that
of each file: a damaged checkpoint is passed over for the one before. It also says of which run it is: settings, network
and data. Another run is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lmcraft.recipe.stage import Progress, UserError

WHOLE = "tensors.safetensors"
"""All tensors, when one process wrote them."""

KEPT = 2
"""Checkpoints that stay, besides the best one."""

Identity = dict[str, Any]
"""What a run is made of: nested dicts of JSON values, such as `{"settings": {"learning_rate": 0.01}}`."""


def save_checkpoint(
    folder: Path, step: int, state: dict[str, Any], run: Identity | None = None, quality: float | None = None
) -> None:
    """Write nested dicts and lists of tensors, numbers, text and None.

    The last `KEPT` checkpoints stay, and the one of the lowest `quality` (held-out bits per byte), if any has one. On
    an error (a full disk) what was begun is removed, and the checkpoints before stay.
    """
    tensors: dict[str, Tensor] = {}
    plain = take_tensors(state, "", tensors)
    temporary = folder / f"writing-{os.getpid()}"
    prepare(temporary)
    try:
        own = {place: tensor.to("cpu", copy=True).contiguous() for place, tensor in tensors.items()}
        save_file(own, temporary / WHOLE)
        publish(temporary, folder, step, plain, {WHOLE: sha256_of(temporary / WHOLE)}, run or {}, quality)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def prepare(temporary: Path) -> None:
    """An empty folder to write a checkpoint into, and none that a killed process left."""
    for left in temporary.parent.glob("writing-*"):
        shutil.rmtree(left, ignore_errors=True)
    temporary.mkdir(parents=True)


def publish(
    temporary: Path, folder: Path, step: int, plain: Any, files: dict[str, str], run: Identity, quality: float | None
) -> None:
    """Make a checkpoint of the folder in which its tensors were written; `files` are their names and digests."""
    digests = {"files": files, "state_sha256": _text_sha256(json.dumps(plain))}
    record = {"step": step, "quality": quality, "run": run, **digests, "state": plain}
    (temporary / "state.json").write_text(json.dumps(record), encoding="utf-8")
    for file in temporary.iterdir():
        with file.open("r+b") as handle:
            os.fsync(handle.fileno())
    _fsync_folder(temporary)
    target = folder / f"step-{step:09d}"
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    _fsync_folder(folder)
    _forget_others(folder)


def _forget_others(folder: Path) -> None:
    paths = sorted(folder.glob("step-*"))
    qualities: dict[Path, float] = {}
    for path in paths:
        with contextlib.suppress(OSError, ValueError, KeyError):
            quality = json.loads((path / "state.json").read_text(encoding="utf-8"))["quality"]
            if quality is not None:
                qualities[path] = quality
    best = min(qualities, key=lambda path: (qualities[path], path), default=None)
    for path in paths[:-KEPT]:
        if path != best:
            shutil.rmtree(path, ignore_errors=True)


def _fsync_folder(folder: Path) -> None:
    if os.name != "nt":  # Windows opens no folders
        place = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(place)
        finally:
            os.close(place)


def load_checkpoint(folder: Path, progress: Progress, run: Identity | None = None) -> tuple[int, dict[str, Any]] | None:
    """The newest whole checkpoint as (step, state), tensors on the CPU; None when there is none.

    Raises UserError when it is of another run than `run`, and names what differs.
    """
    found = newest(folder, progress, run or {})
    if found is None:
        return None
    path, record = found
    tensors = load_file(path / WHOLE) if WHOLE in record["files"] else _put_together(path)
    return record["step"], put_tensors(record["state"], tensors)


def newest(folder: Path, progress: Progress, run: Identity) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that has the digests it names, and its record. Raises UserError as `load_checkpoint`."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            record = json.loads((path / "state.json").read_text(encoding="utf-8"))
            then = record["run"]
            if {each.name for each in path.glob("*.safetensors")} != set(record["files"]):
                raise ValueError("it does not have the files that it names")
            for name, digest in record["files"].items():
                if sha256_of(path / name) != digest:
                    raise ValueError("its tensors do not have the digest that it names")
            if _text_sha256(json.dumps(record["state"])) != record["state_sha256"]:
                raise ValueError("its state does not have the digest that it names")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            progress.note(f"  checkpoint {path.name} is damaged ({error}); going back to the one before")
            continue
        _check_run(path, then, run)
        return path, record
    return None


def _put_together(path: Path) -> dict[str, Tensor]:
    """The tensors whose parts many processes wrote (training/sharded.py)."""
    import torch.distributed.checkpoint as dcp  # here: one process writes and reads a file of its own

    reader = dcp.HuggingFaceStorageReader(str(path))
    stored: dict[str, Any] = reader.read_metadata().state_dict_metadata
    tensors = {place: torch.empty(each.size, dtype=each.properties.dtype) for place, each in stored.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this is one process is known
        dcp.load(tensors, storage_reader=reader, no_dist=True)
    return tensors


def _check_run(path: Path, then: Identity, now: Identity) -> None:
    if differing := differences(json.loads(json.dumps(then)), json.loads(json.dumps(now))):
        shown = "; ".join(f"{name} was {old}, now {new}" for name, old, new in differing[:3])
        more = f" (and {len(differing) - 3} more)" if len(differing) > 3 else ""
        raise UserError(
            f"{path} is a checkpoint of another run: {shown}{more}; set that back to go on, or remove "
            f"{path.parent} to begin anew"
        )


def differences(then: Any, now: Any, name: str = "") -> list[tuple[str, str, str]]:
    """Where two nests of JSON values differ: (dotted name, one, the other)."""
    if isinstance(then, dict) and isinstance(now, dict):
        names = list(dict.fromkeys([*then, *now]))
        return [
            difference
            for key in names
            for difference in differences(then.get(key), now.get(key), f"{name}.{key}" if name else key)
        ]
    return [] if then == now else [(name, json.dumps(then), json.dumps(now))]


def take_tensors(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """The value with names in the place of tensors, which come into `tensors`."""
    if isinstance(value, Tensor):
        tensors[place] = value.detach()
        return {"tensor": place}
    if isinstance(value, dict):
        return {"map": [[key, take_tensors(item, f"{place}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"list": [take_tensors(item, f"{place}/{i}", tensors) for i, item in enumerate(value)]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    raise TypeError(f"{place}: {type(value).__name__} cannot be stored in a checkpoint")


def put_tensors(stored: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    """The opposite of `take_tensors`."""
    if "tensor" in stored:
        return tensors[stored["tensor"]]
    if "map" in stored:
        return {key: put_tensors(item, tensors) for key, item in stored["map"]}
    if "list" in stored:
        return [put_tensors(item, tensors) for item in stored["list"]]
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


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
