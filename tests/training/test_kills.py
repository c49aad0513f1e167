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
    assert len(begun) == KILLS
    assert begun == sorted(begun), "a kill lost a finished checkpoint"
    assert len(set(begun)) > KILLS // 4, "kills of different steps, for this to mean anything"
    ends = [(tmp_path / name / "end.safetensors").read_bytes() for name in ("whole", "killed")]
    assert ends[0] == ends[1]
    for name in ("metrics.jsonl", "monitors.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()
