"""Names of devices and precisions -> torch's, checked against this machine."""

from __future__ import annotations

import argparse

import torch

from lmcraft.recipe.stage import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

SMALL = 20_000_000
"""Parameters below which one thread is enough to generate."""


def available_devices() -> list[str]:
    """What `device` may be on this machine, the fastest kind first."""
    names: list[str] = []
    if torch.cuda.is_available():
        names += ["cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        names.append("mps")
    return [*names, "cpu"]


def resolve_device(name: str) -> torch.device:
    """`auto` is the first of `available_devices()`. Raises UserError for a name that is not one of them."""
    names = available_devices()
    if name == "auto":
        return torch.device(names[0])
    if name not in names:
        raise UserError(f"device {name!r} is not available on this machine; choose one of: auto, {', '.join(names)}")
    return torch.device(name)


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on CUDA and float32 elsewhere. Raises UserError for an unknown name."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise UserError(f"dtype {name!r} is not known; choose one of: auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def settle_threads(device: torch.device, parameters: int) -> None:
    """For a process that does nothing but generate: a small model runs on one CPU thread. Its steps are so short that
    a second thread gains nothing on an idle machine, and on a busy one waiting for it costs more than ten times the
    step (docs/log.md)."""
    if device.type == "cpu" and parameters < SMALL:
        torch.set_num_threads(1)


def use_workers(workers: int) -> None:
    """For a stage that computes: as many CPU threads as the runtime says. Another number may round otherwise, so a run
    that goes on in a new process must not fall back to torch's own."""
    torch.set_num_threads(workers)


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """`--device` and `--dtype`, as every command that loads a model has them."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: the fastest there is)")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16, float16 (auto: bfloat16 on CUDA)")
