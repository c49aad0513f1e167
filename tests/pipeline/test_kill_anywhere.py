"""Whatever moment a run is killed at, it ends with the artifacts of a run that was left in peace, byte for byte."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from small_pipeline import SmallRun, launched, lay_out, lmcraft, read_manifests

SEED = 1
LONG_SECONDS = 1.0
"""A step of at least so many seconds is also killed by the clock, from outside."""


@dataclass(frozen=True)
class Kill:
    """A moment: so many seconds after a step began, or before its n-th file operation."""

    step: str
    seconds: float | None = None
    operation: int | None = None
    publish: bool = True
    """Before the step is published at the latest."""


def draw_kills(run: SmallRun, seed: int) -> list[Kill]:
    """Two random moments in each step, the first surely before it is published."""
    rng = random.Random(seed)
    steps = list(run.manifests)
    kills = []
    for step in steps:
        operations, seconds = run.operations[step], run.manifests[step]["provenance"]["seconds"]
        is_long = seconds >= LONG_SECONDS
        # A long step first in its second half, where a training has a checkpoint to go on from.
        first = operations["published"] // 2 if is_long else 1
        kills.append(Kill(step, operation=rng.randint(first, operations["published"])))
        if is_long:
            kills.append(Kill(step, seconds=rng.uniform(0, seconds)))
        else:
            last = step == steps[-1]
            most = operations["published" if last else "operations"]
            kills.append(Kill(step, operation=rng.randint(1, most), publish=last))
    return kills


def run_and_kill(server: subprocess.Popen[str], kill: Kill, run: SmallRun, folder: Path) -> str:
    """Have the run started and killed at the given moment, return what it said."""
    orders = {
        "target": run.manifests[kill.step]["key"][:16],
        "step": kill.step,
        "operation": kill.operation,
        "seconds": kill.seconds,
        "publish": kill.publish,
    }
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write(json.dumps(orders) + "\n")
    server.stdin.flush()
    ended = json.loads(server.stdout.readline())
    if ended["code"] == 0:  # the step had another key: something above it came out otherwise
        compare(run.manifests, read_manifests(folder))
    assert ended["code"] == -signal.SIGKILL, f"{kill} ended with {ended['code']}:\n{ended['said']}"
    return str(ended["said"])


def unfinished(folder: Path, run: SmallRun) -> str | None:
    """The step in whose making a kill left the store; None between two steps."""
    steps = {manifest["key"][:16]: step for step, manifest in run.manifests.items()}
    for work in (folder / "store" / "work").glob("*"):
        assert work.name in steps, f"the step in the making ({work.name}) has other inputs than without kills"
        if not run.artifact(steps[work.name], folder).exists():
            return steps[work.name]
    return None


@pytest.mark.skipif(sys.platform == "win32", reason="kills process groups")
def test_twenty_kills_in_all_stages_change_no_artifact(small_run: SmallRun, tmp_path: Path) -> None:
    folder = tmp_path / "checkout"
    lay_out(folder)
    kills = draw_kills(small_run, SEED)
    hit: list[str | None] = []
    resumed = 0
    with launched(folder, {"serve": True}, "run", "recipes/quickstart.yaml", given=subprocess.PIPE) as server:
        for kill in kills:
            said = run_and_kill(server, kill, small_run, folder)
            resumed += "resuming at step" in said
            hit.append(unfinished(folder, small_run))
    assert len(kills) >= 20
    assert set(small_run.manifests) <= set(hit), f"no kill in {set(small_run.manifests) - set(hit)}"
    assert resumed, "no training went on from a checkpoint"

    with launched(folder, {}, "run", "recipes/quickstart.yaml") as process:
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    compare(small_run.manifests, read_manifests(folder))
    assert not list((folder / "store" / "work").iterdir()), "work is left"
    assert lmcraft(folder, ["verify"]).code == 0
    assert "nothing to do" in lmcraft(folder, ["plan", "recipes/quickstart.yaml"]).out


def compare(expected: Mapping[str, dict[str, Any]], found: Mapping[str, dict[str, Any]]) -> None:
    """Same keys, same files, same digests; names every file that differs."""
    different = []
    for step, manifest in expected.items():
        names = sorted({*manifest["files"], *found[step]["files"]})
        for name in names:
            old, new = manifest["files"].get(name), found[step]["files"].get(name)
            if old is None or new is None or (old["sha256"] != new["sha256"] and not old.get("volatile")):
                different.append(f"{step}/{name}")
    assert not different
    for field in ("key", "digest"):
        assert {step: manifest[field] for step, manifest in expected.items()} == {
            step: manifest[field] for step, manifest in found.items()
        }
