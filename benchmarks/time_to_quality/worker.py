"""One process of the contest: `worker.py JOB.json STARTED`; prepares, rehearses, or trains and judges, as JOB says."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.time_to_quality.contest import Clock

REHEARSED_STEPS = 3


def main() -> None:
    path, started = Path(sys.argv[1]), float(sys.argv[2])
    job = json.loads(path.read_text(encoding="utf-8"))
    side: Any = importlib.import_module(f"benchmarks.time_to_quality.{job['contender']}_side")
    settings = side.Settings(**job["settings"])
    data, folder, work = Path(job["data"]), Path(job["folder"]), Path(job["work"])
    if job["phase"] == "prepare":
        side.prepare(data, folder, settings)
        return
    place = (data, folder, settings, job["seed"])
    if job["phase"] == "rehearse":
        side.train(*place, Clock(started, job["budget"], REHEARSED_STEPS), work)
        return
    clock = Clock(started, job["budget"])
    trained = side.train(*place, clock, work)

    import torch

    from benchmarks.time_to_quality.judging import judge, read_pieces

    result = {
        "parameters": trained.parameters,
        "tokens": trained.tokens,
        "steps": trained.steps,
        "seconds": round(trained.seconds, 2),
        "first_step": clock.first and round(clock.first, 2),
        "tokens_per_second": round(trained.tokens / trained.seconds),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        **judge(trained.judge, read_pieces(data / f"{job['on']}.jsonl")),
        "notes": trained.notes,
    }
    _write(work / "result.json", result)


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, default=str), encoding="utf-8")


if __name__ == "__main__":
    main()
