"""`runtime.engine` from the command line: the same artifacts on processes and on Ray."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from corpora import sentence, write_lines

RECIPE = """
name: engines
steps:
  collect:
    stage: collect
    sources: [{{kind: folder, name: mine, path: {texts}}}]
    shard_documents: 40
  curate: {{stage: curate, documents: collect}}
"""


def digests(folder: Path, texts: Path, engine: str) -> dict[str, str]:
    """Runs the recipe with a store of its own; the digest of what each step left."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(texts=texts))
    store = folder / f"store-{engine}"
    settings = [f"runtime.engine={engine}", "runtime.workers=2", f"runtime.store={store}"]
    command = [sys.executable, "-m", "lmcraft.cli", "run", str(recipe)]
    for setting in settings:
        command += ["--set", setting]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = {}
    for path in store.rglob("manifest.json"):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        found[manifest["step"]] = manifest["digest"]
    return found


def test_ray_gives_the_artifacts_of_the_local_engine(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    texts = tmp_path / "texts"
    lines = [{"text": sentence(number, 40 + number % 30)} for number in range(90)]
    copies = [{"text": line["text"].upper()} for line in lines[:10]]  # so that what is removed is compared as well
    write_lines(texts / "a.jsonl", lines)
    write_lines(texts / "b.jsonl", [*copies, {"text": "short"}])
    local, ray = (digests(tmp_path, texts, engine) for engine in ("local", "ray"))
    assert set(local) == {"collect", "curate"}
    assert ray == local
