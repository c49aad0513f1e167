"""Many processes train as one does: the same losses, gradients and figures, whatever is shared and how."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent))
import spread_training

from lmcraft.recipe.schema import ParallelConfig
from lmcraft.recipe.stage import Runtime, UserError
from lmcraft.training import monitors
from lmcraft.training.hardware import wants_compile
from lmcraft.training.ranks import Ranks

SCRIPT = Path(__file__).with_name("spread_training.py")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")


def processes(count: int, case: str, folder: Path) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of each rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(count):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
        started.append(
            subprocess.Popen(
                [sys.executable, str(SCRIPT), case, str(folder)],
                env=os.environ | {name: str(value) for name, value in (place | where).items()},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
    ended = []
    try:
        for process in started:
            out, errors = process.communicate(timeout=150)
            ended.append((process.returncode, out, errors))
    finally:
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
    return ended


def answered(count: int, case: str, folder: Path) -> Any:
    ended = processes(count, case, folder)
    assert ended[0][0] == 0, "\n".join(errors[-3000:] for _, _, errors in ended)
    return json.loads(ended[0][1].splitlines()[-1])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one, two and four processes made of the same runs."""
    folder = tmp_path_factory.mktemp("spread")
    torch.set_num_threads(1)
    one: dict[str, Any] = {"gradients": spread_training.gradients(folder, None)}
    one["curves"] = {}
    for optimizer, ahead in (("adamw", 0), ("muon", 0), ("muon", 2)):
        clip = spread_training.CLIPPED if ahead else 1.0
        place = folder / f"one-{optimizer}-{ahead}"
        _, history, _ = spread_training.trained(place, None, optimizer, ahead, evaluations=2, clip_norm=clip)
        assert history is not None
        one["curves"][f"{optimizer} {ahead}"] = history.metrics
    two = answered(2, "two", folder)
    shutil.copytree(folder / "stopped", folder / "stopped-4")
    one["resumed"] = spread_training.resumed(folder / "stopped", None)
    shutil.move(folder / "shard-adamw-0", folder / "two-adamw")
    return {"one": one, "two": two, "four": answered(4, "four", folder), "folder": folder}


def close(rows: list[dict[str, Any]], reference: list[dict[str, Any]], tolerance: float) -> float:
    """The largest relative difference of a loss, a norm or a held-out figure."""
    assert [set(row) for row in rows] == [set(row) for row in reference]
    worst = max(
        abs(row[name] / other[name] - 1)
        for row, other in zip(rows, reference, strict=True)
        for name in ("loss", "grad_norm", "heldout_bits_per_byte")
        if name in row
    )
    assert worst < tolerance
    return worst


@pytest.mark.parametrize("count", ["two", "four"])
def test_every_mesh_gives_the_loss_curve_and_the_evaluation_of_one_process(runs: Any, count: str) -> None:
    meshes = {mesh for mesh, *_ in map(str.split, runs[count]["curves"])}
    assert meshes >= ({"shard", "hybrid", "tensor", "context"} if count == "four" else {"shard", "tensor"})
    for name, rows in runs[count]["curves"].items():
        reference = runs["one"]["curves"][name.split(" ", 1)[1]]
        assert reference[-2]["loss"] < reference[1]["loss"] - 0.5, "it must learn something for this to mean anything"
        close(rows, reference, 1e-5)


@pytest.mark.parametrize("mesh", ["shard-muon-2", "tensor-muon-0", "hybrid-adamw-0", "context-adamw-0"])
def test_monitors_see_what_they_see_in_one_process(runs: Any, mesh: str) -> None:
    """Of layers that processes share, norms alone."""
    one = f"one-{mesh.split('-', 1)[1]}"
    there, here = (
        [json.loads(line) for line in (runs["folder"] / name / monitors.FILE).read_text().splitlines()]
        for name in (mesh, one)
    )
    shared = mesh.split("-", maxsplit=1)[0] in ("tensor", "context")
    assert here[1].keys() - there[1].keys() == ({"attention_logit", "dead_units"} if shared else set())
    assert there[0]["batch"] == here[0]["batch"]
    for row, other in zip(there[1:], here[1:], strict=True):
        assert (row.pop("step"), row.pop("layer")) == (other["step"], other["layer"])
        assert row == pytest.approx({name: other[name] for name in row}, rel=1e-3), mesh


@pytest.mark.parametrize("count", ["two", "four"])
def test_every_split_gives_the_same_gradient_in_float64(runs: Any, count: str) -> None:
    one = runs["one"]["gradients"]
    assert {name.split()[0] for name in runs[count]["gradients"]} == {
        "next",
        "ahead",
        "masked",
        *spread_training.SHAPES,
    }
    for name, parts in (*runs[count]["gradients"].items(), *one.items()):
        for part, whole in zip(parts, one[f"{name.split()[0]} alone 1"], strict=True):
            reference = torch.tensor(whole, dtype=torch.float64)
            difference = torch.tensor(part, dtype=torch.float64) - reference
            assert float(difference.norm() / reference.norm()) < 1e-12, name


def test_the_first_process_has_the_clock_and_the_cost_is_that_of_all(runs: Any) -> None:
    found = runs["two"]["clocked"]
    steps = [row for row in found["metrics"] if "loss" in row]
    assert 2 < len(steps) < 10_000 and found["share"] > 0.8
    assert steps[-1]["rate"] < 0.5 * max(row["rate"] for row in steps), "the schedule has run out"
    assert found["energy"]["kwh"] == pytest.approx(21 / 3.6e6, abs=1e-9)
    assert found["energy"]["how"].endswith("; the sum of 2 processes")


@pytest.mark.parametrize("count", ["one", "four"])
def test_what_two_processes_saved_at_sigterm_goes_on_with_one_and_with_four(runs: Any, count: str) -> None:
    resumed = runs[count]["resumed"]
    assert resumed["notes"] == [f"  resuming at step 5 of {spread_training.STEPS}"]
    close(resumed["metrics"], runs["one"]["curves"]["muon 0"], 1e-5)


def test_ranks_that_disagree_and_degrees_that_do_not_fit_are_refused(
    runs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    disagree, context, heads = runs["two"]["refused"]
    assert "rank 1 has another run: settings.learning_rate is 0.02 on rank 0, 1.02 there" in disagree
    assert "runtime.parallel.context: 31 tokens of a row cannot be divided by 2" in context
    assert "runtime.parallel.tensor: 1 key/value heads cannot be divided by 2" in heads
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match="RANK is not set: start them with torchrun"):
        Ranks(ParallelConfig(), "cpu")
    for name, value in {"RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="tensor 3 = 3 does not divide the 4 processes"):
        Ranks(ParallelConfig(tensor=3), "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="4 processes run on this machine, which has 1 GPUs: lower torchrun's"):
        Ranks(ParallelConfig(), "cuda")


def test_layers_that_processes_share_are_not_compiled() -> None:
    class Sharing:
        shares_layers = True

    runtime = Runtime(compile="on", ranks=Sharing())  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"compile is on, but runtime\.parallel\.tensor and context train uncompiled"):
        wants_compile(runtime, torch.device("cpu"), 1e20)


def test_a_full_disk_of_one_process_is_that_of_all_and_leaves_nothing_half_written(runs: Any) -> None:
    assert runs["two"]["full"] == "No space left on device []"


def test_a_process_that_is_silent_is_given_up_with_a_sentence(runs: Any) -> None:
    answer = runs["two"]["vanished"]
    assert "another process did not answer within 2 s; give the same command again" in answer["said"]
    assert answer["seconds"] < 30


def test_a_killed_process_is_started_again_and_the_weights_are_those_of_a_run_in_peace(
    runs: Any, tmp_path: Path
) -> None:
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "3"]
    ran = subprocess.run(
        [*words, "--monitor-interval", "0.1", str(SCRIPT), "killed", str(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    notes = json.loads(ran.stdout.splitlines()[-1])["notes"]
    assert f"  resuming at step 7 of {spread_training.STEPS}" in notes
    ends = [load_file(folder / "end.safetensors") for folder in (tmp_path, runs["folder"] / "two-adamw")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
