"""Peak memory of collect, curate (dedup and balance included), tokenizer and tokens on many gigabytes of documents.

    python benchmarks/memory.py make FOLDER --gigabytes 10
    python benchmarks/memory.py run FOLDER --limit 3 [--store FOLDER]

`make` writes JSONL: Zipf-distributed made-up words, 10% near and 3% exact duplicates, four sources. `run` puts itself
into a memory cgroup (needs root, Linux) with the limit in GiB, runs the recipe and samples the anonymous memory of the
whole process tree twice a second (shared pages are counted once; files in the page cache are not counted).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from operator import itemgetter
from pathlib import Path

import numpy as np
import psutil

RECIPE = """
name: memory
steps:
  collect:
    stage: collect
    sources: [{sources}]
  curate:
    stage: curate
    documents: collect
    steps:
      - repair: {{}}
      - mask: {{}}
      - filter:
          rules: [gopher-quality, gopher-repetition]
          limits: {{gopher-quality/stop-words: null}}
      - exact: {{}}
      - near: {{}}
      - balance: {{by: [source], method: temperature}}
  tokenizer: {{stage: tokenizer, documents: curate, vocab_size: 4096, max_bytes: 50000000}}
  tokens: {{stage: tokens, documents: curate, tokenizer: tokenizer}}
runtime: {{store: {store}}}
"""
SOURCES = {"a": 0.5, "b": 0.3, "c": 0.15, "d": 0.05}
SYLLABLES = [
    c + v
    for c in ("b", "c", "d", "f", "g", "l", "m", "n", "p", "r", "s", "t", "v", "st", "tr")
    for v in ("a", "e", "i", "o", "u", "ai")
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True, dest="verb")
    make = verbs.add_parser("make")
    make.add_argument("folder", type=Path)
    make.add_argument("--gigabytes", type=float, default=10)
    run = verbs.add_parser("run")
    run.add_argument("folder", type=Path)
    run.add_argument("--limit", type=float, help="GiB of the cgroup; none: only measure")
    run.add_argument("--store", type=Path, default=Path("store-memory"))
    options = parser.parse_args()
    if options.verb == "make":
        make_documents(options.folder, options.gigabytes)
    else:
        run_recipe(options.folder, options.limit, options.store)


def make_documents(folder: Path, gigabytes: float) -> None:
    files = max(4, round(gigabytes * 10))
    jobs = [(folder, number, gigabytes * 1e9 / files) for number in range(files)]
    with ProcessPoolExecutor() as pool:
        print(f"{sum(pool.map(_write_file, jobs))} documents in {files} files")


def _write_file(job: tuple[Path, int, float]) -> int:
    folder, number, size = job
    rng = random.Random(0)
    vocabulary = sorted({"".join(rng.choices(SYLLABLES, k=rng.choice((1, 2, 2, 3, 4)))) for _ in range(60_000)})
    rng.shuffle(vocabulary)
    numbers = np.random.default_rng(number)
    cumulative = np.cumsum(1 / np.arange(3, len(vocabulary) + 3))
    cumulative /= cumulative[-1]
    source = "aaaaaaaaaabbbbbbcccd"[number % 20]
    path = folder / source / f"{number:04d}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    written = count = 0
    with path.open("w") as file:
        while written < size:
            lengths = numbers.integers(60, 600, 256)
            ids = np.searchsorted(cumulative, numbers.random(int(lengths.sum()))).tolist()
            start = 0
            words: list[str] = []
            for length in lengths.tolist():
                kind = numbers.random()
                if kind < 0.13 and words:
                    if kind < 0.10:  # a near duplicate: every 40th word another
                        words = list(words)
                        for place in range(int(numbers.integers(40)), len(words), 40):
                            words[place] = vocabulary[int(numbers.integers(len(vocabulary)))]
                else:
                    words = list(itemgetter(*ids[start : start + length])(vocabulary))
                    for place in range(9, len(words), 12):
                        words[place] += "."
                start += length
                line = json.dumps({"text": " ".join(words) + "."}) + "\n"
                written += len(line)
                count += 1
                file.write(line)
    return count


def run_recipe(folder: Path, limit: float | None, store: Path) -> None:
    if limit is not None:
        group = Path("/sys/fs/cgroup/memory/lmcraft-memory")
        group.mkdir(exist_ok=True)
        (group / "memory.limit_in_bytes").write_text(str(int(limit * 2**30)))
        (group / "cgroup.procs").write_text(str(os.getpid()))
    sources = ", ".join(
        f"{{kind: folder, name: {name}, path: {folder / name}}}" for name in SOURCES if (folder / name).is_dir()
    )
    store.mkdir(parents=True, exist_ok=True)
    recipe = store / "memory.yaml"
    recipe.write_text(RECIPE.format(sources=sources, store=store))
    size = sum(path.stat().st_size for path in folder.rglob("*.jsonl"))
    total = 0.0
    for step in ("collect", "curate", "tokenizer", "tokens"):
        command = [sys.executable, "-m", "lmcraft.cli", "run", str(recipe), "--until", step]
        start = time.monotonic()
        process = subprocess.Popen(command)
        peak = _Peak(process.pid)
        peak.start()
        code = process.wait()
        peak.done.set()
        peak.join()
        seconds = time.monotonic() - start
        total += seconds
        print(
            f"{step:10} {seconds:7.1f} s  {size / 1e6 / seconds:6.1f} MB/s of input  peak {peak.pss / 2**20:7.0f} MiB"
            f"  exit status {code}",
            flush=True,
        )
        if code:
            sys.exit(code)
    print(f"{size / 1e9:.1f} GB in {total:.0f} s: {size / 1e6 / total:.1f} MB/s")


class _Peak(threading.Thread):
    """Highest sum of the proportional set sizes of a process and its descendants, in bytes."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.pss, self.done = pid, 0, threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.5):
            total = 0
            try:
                family = [psutil.Process(self.pid), *psutil.Process(self.pid).children(recursive=True)]
            except psutil.Error:
                continue
            for process in family:
                try:
                    text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
                except OSError:
                    continue
                # Pages of files are the page cache's and can be dropped.
                total += sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss_Anon"))
            self.pss = max(self.pss, total)


if __name__ == "__main__":
    main()
