"""SIGKILL at random steps, twenty times in a run: the weights are those of a run that was left in peace."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = 20


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_twenty_kills_at_random_steps_change_no_bit(tmp_path: Path) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    script = Path(__file__).with_name("killed_training.py")
    words = [sys.executable, str(script), str(tmp_path), str(KILLS)]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
    begun = json.loads(ran.stdout)["begun"]
    assert sum(map(len, begun)) == KILLS
    assert all(steps == sorted(steps) for steps in begun), "a kill lost a finished checkpoint"
    assert sum(len(set(steps)) for steps in begun) > KILLS // 4, "kills of different steps, for this to mean anything"
    ends = [(tmp_path / name / "end.safetensors").read_bytes() for name in ("whole", "killed")]
    assert ends[0] == ends[1]
    assert (tmp_path / "whole" / "metrics.jsonl").read_bytes() == (tmp_path / "killed" / "metrics.jsonl").read_bytes()
