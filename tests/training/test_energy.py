"""Energy is measured where that is possible, else estimated, and never without saying which."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lmcraft.recipe.stage import GRID_INTENSITY, Runtime
from lmcraft.training import energy, pretrain
from lmcraft.training.energy import Meter, cost

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
RANGE = 262_143_328_850


def zone(powercap: Path, folder: str, name: str, microjoules: int) -> Path:
    path = powercap / folder
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "max_energy_range_uj").write_text(f"{RANGE}\n")
    (path / "energy_uj").write_text(f"{microjoules}\n")
    return path / "energy_uj"


def test_processors_and_memory_are_added_up_and_their_parts_are_not(tmp_path: Path) -> None:
    files = {
        name: zone(tmp_path, folder, name.split("@")[0], 5_000_000)
        for folder, name in (
            ("intel-rapl:0", "package-0"),
            ("intel-rapl:0:0", "core"),
            ("intel-rapl:0:1", "dram"),
            ("intel-rapl:1", "package-1"),
            ("intel-rapl:2", "psys"),
            ("intel-rapl-mmio:0", "package-0@mmio"),
        )
    }
    meter = Meter(CPU, 10.0, powercap=tmp_path)
    assert meter.joules() == 0.0
    for file in files.values():
        file.write_text("7500000")
    assert meter.joules() == pytest.approx(3 * 2.5)
    assert meter.joules() == pytest.approx(3 * 2.5)
    assert meter.how == "processors measured by RAPL" and meter.measured


def test_of_the_processes_of_a_machine_the_first_reads_its_counters(tmp_path: Path) -> None:
    file = zone(tmp_path, "intel-rapl:0", "package-0", 0)
    meters = [Meter(CPU, 10.0, first, tmp_path) for first in (True, False)]
    file.write_text("4000000")
    assert [meter.joules() for meter in meters] == [4.0, 0.0]
    assert {(meter.how, meter.measured) for meter in meters} == {("processors measured by RAPL", True)}


def test_a_counter_that_starts_anew_is_followed(tmp_path: Path) -> None:
    file = zone(tmp_path, "intel-rapl:0", "package-0", RANGE - 1_000_000)
    meter = Meter(CPU, 10.0, powercap=tmp_path)
    file.write_text("2000000")
    assert meter.joules() == pytest.approx(3.0)
    file.write_text("4000000")
    assert meter.joules() == pytest.approx(5.0)


@pytest.mark.parametrize("spoilt", ["unreadable", "no number", "missing", "no tree"])
def test_what_cannot_be_read_becomes_an_estimate_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoilt: str
) -> None:
    file = zone(tmp_path, "intel-rapl:0", "package-0", 5)
    if spoilt == "unreadable":  # the tests may run as root, whom no permission stops
        read = Path.read_text

        def refuse(path: Path, *arguments: object, **keywords: object) -> str:
            if path == file:
                raise PermissionError(13, "Permission denied")
            return read(path)

        monkeypatch.setattr(Path, "read_text", refuse)
    elif spoilt == "no number":
        file.write_text("?")
    elif spoilt == "missing":
        file.unlink()
    meter = Meter(CPU, 10.0, powercap=tmp_path / "elsewhere" if spoilt == "no tree" else tmp_path)
    why = {"unreadable": "may be read by root alone", "no tree": "(no RAPL)"}.get(spoilt, "RAPL cannot be read")
    assert meter.how.startswith("processors estimated: 10 W a busy core, by CPU time (") and why in meter.how
    assert not meter.measured


def test_the_estimate_is_watts_times_the_cpu_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "process_time", lambda: clock[0])
    meter = Meter(CPU, 12.0, powercap=tmp_path)
    clock[0] = 105.0
    assert meter.joules() == pytest.approx(60.0)
    clock[0] = 106.0
    assert meter.joules() == pytest.approx(72.0)
    found = cost(3.6e6, meter.how, meter.measured, Runtime(grid_intensity=50.0))
    assert (found["kwh"], found["gco2e"], found["measured"]) == (1.0, 50.0, False)
    assert found["grid_source"] == "runtime.grid_intensity of this run"
    default = cost(3.6e6, meter.how, meter.measured, Runtime())
    assert default["gco2e"] == GRID_INTENSITY and "Ember" in default["grid_source"]


def test_a_gpu_is_measured_by_its_counter_or_taken_for_its_power_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No GPU here: NVML and the driver's program are made up."""
    zone(tmp_path, "intel-rapl:0", "package-0", 5)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: SimpleNamespace(uuid="abc"))
    millijoules = [1000]
    nvml = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: {"GPU-abc": 7}[uuid],
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: millijoules[0],
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    meter = Meter(CUDA, 10.0, powercap=tmp_path)
    millijoules[0] = 8000
    assert meter.joules() == pytest.approx(7.0)
    assert meter.how == "processors measured by RAPL; GPU measured by NVML" and meter.measured

    monkeypatch.setitem(sys.modules, "pynvml", None)
    ran = SimpleNamespace(stdout="350.00\n")
    monkeypatch.setattr(energy.subprocess, "run", lambda *arguments, **keywords: ran)
    clock = [10.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    meter = Meter(CUDA, 10.0, powercap=tmp_path)
    clock[0] = 12.0
    assert meter.joules() == pytest.approx(700.0)
    assert "GPU estimated: its power limit of 350 W all the time (no NVML: " in meter.how and not meter.measured


def test_energy_is_volatile_and_never_part_of_an_artifacts_digest() -> None:
    from lmcraft.posttraining import sft

    for stage in (pretrain.STAGE, sft.STAGE):
        assert {energy.FILE, "telemetry.jsonl"} <= set(stage.volatile)
    assert json.dumps(pretrain.STAGE.config(depth=1).identity()).count("watts") == 0
