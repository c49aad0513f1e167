"""What a run costs in energy: measured where the machine lets itself be measured, else by an assumption that is said.

Processors are measured by RAPL (Linux; what the whole processor and its memory took, other work included), NVIDIA GPUs
by NVML. Of what cannot be measured, a processor is taken for `watts_per_core` times the CPU time of this process, a GPU
for its power limit all the time. Neither knows of fans, disks, power supplies or the building. Of many processes each
counts its own GPU and CPU time, and the first one of a machine what RAPL says of that machine.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from lmcraft.recipe.stage import GRID_INTENSITY, GRID_SOURCE, Runtime

POWERCAP = Path("/sys/class/powercap")
JOULES_PER_KWH = 3.6e6
FILE = "energy.json"


class Meter:
    """Joules since it was made, of this machine's processors and, on CUDA, of the run's GPU.

    To be asked at least every few minutes: RAPL's counter starts anew after some 260 kJ, and two times unseen are one.
    Where it is not the `first_here`, another process of the run reads RAPL.
    """

    def __init__(
        self, device: torch.device, watts_per_core: float, first_here: bool = True, powercap: Path = POWERCAP
    ) -> None:
        zones, why_not = _rapl_zones(powercap)
        self._parts: list[_Part] = [
            _Part("processors measured by RAPL", _rapl(zones if first_here else []))
            if zones
            else _by_cpu_time(watts_per_core, why_not)
        ]
        if device.type == "cuda":
            self._parts.append(_gpu(device))
        elif device.type != "cpu":
            self._parts.append(_Part(f"{device.type} not counted", lambda: 0.0))
        self._joules = 0.0

    @property
    def how(self) -> str:
        """Of each part, whether it was measured or estimated."""
        return "; ".join(part.how for part in self._parts)

    @property
    def measured(self) -> bool:
        return all(" measured by " in part.how for part in self._parts)

    def joules(self) -> float:
        self._joules += sum(part.since() for part in self._parts)
        return self._joules


def cost(joules: float, how: str, measured: bool, runtime: Runtime) -> dict[str, Any]:
    """What a summary and `energy.json` say: kWh, how they were found, and CO2e by the grid's stated intensity."""
    grid = runtime.grid_intensity
    return {
        "kwh": round(joules / JOULES_PER_KWH, 9),
        "measured": measured,
        "how": how,
        "gco2e": round(joules / JOULES_PER_KWH * grid, 6),
        "grid_gco2e_per_kwh": grid,
        "grid_source": GRID_SOURCE if grid == GRID_INTENSITY else "runtime.grid_intensity of this run",
    }


@dataclass
class _Part:
    how: str
    since: Callable[[], float]
    """Joules since the last call."""


@dataclass
class _Zone:
    """A counter of microjoules that starts anew at its range."""

    file: Path
    range: int
    last: int = field(init=False)

    def __post_init__(self) -> None:
        self.last = int(self.file.read_text())

    def since(self) -> int:
        now = int(self.file.read_text())
        passed = now - self.last if now >= self.last else now + self.range - self.last
        self.last = now
        return passed


def _rapl_zones(powercap: Path) -> tuple[list[_Zone], str]:
    """A zone a processor and one for its memory (whose energy the processor's does not hold); cores and graphics are
    parts of the processor's, and `psys` and `intel-rapl-mmio` count it once more. Else none, and why."""
    zones: list[_Zone] = []
    for folder in sorted(powercap.glob("intel-rapl:*")):
        try:
            name = (folder / "name").read_text().strip()
            if name.startswith("package") or name == "dram":
                zones.append(_Zone(folder / "energy_uj", int((folder / "max_energy_range_uj").read_text())))
        except PermissionError:
            return [], "RAPL may be read by root alone: give this user the right to read energy_uj"
        except (OSError, ValueError):
            return [], "RAPL cannot be read"
    return zones, "no RAPL"


def _rapl(zones: list[_Zone]) -> Callable[[], float]:
    return lambda: sum(zone.since() for zone in zones) / 1e6


def _by_cpu_time(watts: float, why: str) -> _Part:
    last = time.process_time()

    def since() -> float:
        nonlocal last
        now = time.process_time()
        passed, last = now - last, now
        return passed * watts

    return _Part(f"processors estimated: {watts:g} W a busy core, by CPU time ({why})", since)


def _gpu(device: torch.device) -> _Part:
    """By NVML's counter of energy; without it by the power limit, which `nvidia-smi` knows; else not counted."""
    number = torch.cuda.current_device() if device.index is None else device.index
    uuid = f"GPU-{torch.cuda.get_device_properties(number).uuid}"
    try:
        pynvml = import_module("pynvml")
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        last = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception as error:  # pynvml's errors have no common base with ImportError; a GPU may lack the counter
        return _by_power_limit(uuid, f"no NVML: {type(error).__name__}")

    def since() -> float:
        nonlocal last
        now = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        passed, last = now - last, now
        return float(passed) / 1e3

    return _Part("GPU measured by NVML", since)


def _by_power_limit(uuid: str, why: str) -> _Part:
    asked = ["nvidia-smi", f"--id={uuid}", "--query-gpu=power.limit", "--format=csv,noheader,nounits"]
    try:
        watts = float(subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True).stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return _Part(f"GPU not counted ({why}, and no nvidia-smi)", lambda: 0.0)
    last = time.monotonic()

    def since() -> float:
        nonlocal last
        now = time.monotonic()
        passed, last = now - last, now
        return passed * watts

    return _Part(f"GPU estimated: its power limit of {watts:g} W all the time ({why})", since)
