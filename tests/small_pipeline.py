"""The recipes made small: the same steps on generated text, built once for all tests that need a whole run."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from small_texts import write_texts

from lmcraft.cli import main

ROOT = Path(__file__).resolve().parents[1]
LAUNCHER = Path(__file__).resolve().parent / "pipeline" / "launcher.py"

QUESTIONS = ("topic", "describe", "define", "continue_text", "arithmetic", "spelling", "sorting", "counting")
SMALL: dict[str, dict[str, Any]] = {
    "collect": {"sources": [{"kind": "folder", "path": "my-texts"}]},
    "tokenizer": {"vocab_size": 700},
    "pretrain": {
        "depth": 2,
        "hidden_size": 64,
        "context": 128,
        "train_tokens": 120_000,
        "batch_tokens": 2048,
        "evaluations": 3,
        "heldout_tokens": 2000,
    },
    "conversations": {
        "train": dict.fromkeys(QUESTIONS, 80),
        "heldout": dict.fromkeys(QUESTIONS, 16),
        "prompt_characters": 60,
    },
    "sft": {"batch_tokens": 1024},
    "evaluate": {
        "max_documents": 10,
        "max_questions": 10,
        "answer_tokens": 12,
        "resamples": 200,
        "ngram_bytes": 40_000,
    },
}
"""What is set otherwise than in the recipes of the repository, by stage; everything else is as there."""


def small_recipe(file: Path) -> str:
    """A recipe of the repository with `SMALL` in place of its sizes, in one thread: on a busy machine two would spend
    more time waiting for each other than computing."""
    recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
    for step in recipe["steps"].values():
        step.update(SMALL.get(step["stage"], {}))
    recipe["runtime"] = {"workers": 1}
    return yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)


def lay_out(folder: Path) -> None:
    """A folder that looks like a checkout to whoever gives the commands of the docs in it."""
    (folder / "recipes").mkdir(parents=True)
    (folder / "docs").mkdir()
    for file in sorted((ROOT / "recipes").glob("*.yaml")):
        (folder / "recipes" / file.name).write_text(small_recipe(file), encoding="utf-8")
    write_texts(folder / "my-texts")
    (folder / ".venv").symlink_to(sys.prefix, target_is_directory=True)


@dataclass(frozen=True)
class SmallRun:
    """A finished run of the small quickstart in `folder`, which no test may write to.

    `manifests` by step; `operations` says how many file operations each step made, and which of them published it.
    """

    folder: Path
    manifests: Mapping[str, dict[str, Any]]
    operations: Mapping[str, dict[str, int]]
    seconds: float

    def copy(self, folder: Path) -> Path:
        """The folder, to write to."""
        return Path(shutil.copytree(self.folder, folder, symlinks=True))

    def artifact(self, step: str, folder: Path | None = None) -> Path:
        manifest = self.manifests[step]
        return (folder or self.folder) / "store" / "artifacts" / f"{manifest['stage']}-{manifest['key'][:16]}"


def build(folder: Path) -> SmallRun:
    lay_out(folder)
    counts = folder / "operations.json"
    with launched(folder, {"counts": str(counts)}, "run", "recipes/quickstart.yaml") as process:
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    manifests = read_manifests(folder)
    operations = json.loads(counts.read_text(encoding="utf-8"))
    return SmallRun(
        folder,
        manifests,
        {step: operations[manifest["key"][:16]] for step, manifest in manifests.items()},
        sum(manifest["provenance"]["seconds"] for manifest in manifests.values()),
    )


def read_manifests(folder: Path, recipe: str = "quickstart") -> dict[str, dict[str, Any]]:
    """Step -> manifest of what the recipe's latest run gave, in the order of the recipe, which is the running order."""
    steps = yaml.safe_load((folder / "recipes" / f"{recipe}.yaml").read_text(encoding="utf-8"))["steps"]
    found = {}
    for step in steps:
        record = json.loads((folder / "store" / "refs" / recipe / f"{step}.json").read_text(encoding="utf-8"))
        path = folder / "store" / "artifacts" / f"{record['stage']}-{record['key'][:16]}" / "manifest.json"
        found[step] = json.loads(path.read_text(encoding="utf-8"))
    return found


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LMCRAFT_")}
    return {**kept, "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}


@contextlib.contextmanager
def launched(
    folder: Path, orders: Mapping[str, Any], *arguments: str, given: int = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[str]]:
    """`lmcraft ARGUMENTS` under the launcher, in a process group of its own that does not outlive the block."""
    process = subprocess.Popen(
        [sys.executable, str(LAUNCHER), json.dumps(orders), *arguments],
        cwd=folder,
        env=environment(),
        stdin=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    code: int
    out: str
    err: str


def lmcraft(folder: Path, arguments: Sequence[str], given: str = "") -> Said:
    """`lmcraft ARGUMENTS` in `folder`, in this process (an exception that is no user's mistake fails the test)."""
    out, err = io.StringIO(), io.StringIO()
    before, stdin, argv = Path.cwd(), sys.stdin, sys.argv
    os.chdir(folder)
    sys.stdin, sys.argv = io.StringIO(given), [".venv/bin/lmcraft", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main(list(arguments))
            except SystemExit as exit_:  # argparse
                code = exit_.code if isinstance(exit_.code, int) else 2
    finally:
        os.chdir(before)
        sys.stdin, sys.argv = stdin, argv
    return Said(code, out.getvalue(), err.getvalue())
