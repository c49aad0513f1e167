"""A disk that fills up at any step ends in one sentence; nothing finished is lost, and the same command goes on."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_pipeline import SmallRun, environment, launched, lay_out, read_manifests
from test_kill_anywhere import compare

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits and mounts of Unix")


def test_each_step_stops_with_a_sentence_and_goes_on(small_run: SmallRun, tmp_path: Path) -> None:
    folder = tmp_path / "checkout"
    lay_out(folder)
    limits = []
    for step, manifest in small_run.manifests.items():
        largest = max(entry["bytes"] for entry in manifest["files"].values())
        limits.append((step, largest // 2))
        record = (small_run.artifact(step) / "manifest.json").stat().st_size
        if record > 1.2 * largest:  # all files are written, then the manifest cannot be
            limits.append((step, (record + largest) // 2))
    orders = {"full": [[small_run.manifests[step]["key"][:16], size] for step, size in limits]}
    with launched(folder, orders, "run", "recipes/quickstart.yaml") as process:
        out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    *stopped, finished = [json.loads(line) for line in out.splitlines()]
    assert len(stopped) == len(limits)
    for (step, size), run in zip(limits, stopped, strict=True):
        last = run["said"].splitlines()[-1]
        assert run["code"] == 2, f"{step} with {size} bytes: {run['said']}"
        assert last.startswith(f"lmcraft: step {step}: the disk that holds store is full; free some space")
        assert "Traceback" not in run["said"]
    assert finished["code"] == 0, finished["said"]
    compare(small_run.manifests, read_manifests(folder))
    assert not list((folder / "store" / "work").iterdir())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of half a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk is not permitted here; the test above stands for it")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full(small_run: SmallRun, small_disk: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkout"
    lay_out(folder)
    (folder / "store").symlink_to(small_disk, target_is_directory=True)

    def run() -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "lmcraft", "run", "recipes/quickstart.yaml", "--until", "pretrain"]
        return subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True, timeout=120)

    stopped = run()
    assert stopped.returncode == 2, stopped.stderr
    assert re.search(r"lmcraft: step \w+: the disk that holds store is full", stopped.stderr.splitlines()[-1])
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    finished = run()
    assert finished.returncode == 0, finished.stderr
    manifest = json.loads((small_run.artifact("pretrain", folder) / "manifest.json").read_text())
    assert manifest["digest"] == small_run.manifests["pretrain"]["digest"]
