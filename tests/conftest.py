"""Small real stages for tests of recipes and the store: they write files, count calls and can fail. One small run."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import small_pipeline
from pydantic import Field

from lmcraft.recipe.plan import make_runtime
from lmcraft.recipe.schema import load_recipe
from lmcraft.recipe.stage import LOCATION, Input, Progress, Source, Stage, StageConfig, UserError
from lmcraft.store.identity import hash_file
from lmcraft.store.store import Store

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: two threads of a small model wait for each other


class ReadConfig(StageConfig):
    path: str = Field(json_schema_extra=LOCATION)
    keep: int = 100


class JoinConfig(StageConfig):
    separator: str = " "
    fail: str = ""


class House:
    """Stages, a store and the calls made."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.calls: list[str] = []
        self.store = Store(folder / "store")
        read = Stage(
            "read",
            1,
            ReadConfig,
            {},
            "text",
            self._read,
            "Read a file.",
            sources=lambda config, runtime: [Source(Path(config.path).name, hash_file(Path(config.path)))],
        )
        join = Stage(
            "join",
            1,
            JoinConfig,
            {"texts": Input(("text",), many=True)},
            "text",
            self._join,
            "Join.",
            volatile=("*.log",),
        )
        count = Stage("count", 1, StageConfig, {"text": Input(("text",))}, "number", self._count, "Count.")
        self.stages = {stage.name: stage for stage in (read, join, count)}

    def _read(self, config: Any, inputs: Any, out: Path, runtime: Any) -> dict[str, Any]:
        self.calls.append("read")
        text = Path(config.path).read_text()[: config.keep]
        (out / "text.txt").write_text(text)
        return {"characters": len(text)}

    def _join(self, config: Any, inputs: Any, out: Path, runtime: Any) -> None:
        self.calls.append("join")
        if config.fail == "user":
            raise UserError("the text is bad at line 3; mend it")
        if config.fail == "disk":
            raise OSError(errno.ENOSPC, "No space left on device")
        (out / "text.txt").write_text(config.separator.join((p / "text.txt").read_text() for p in inputs["texts"]))
        (out / "run.log").write_text(f"call {len(self.calls)}")

    def _count(self, config: Any, inputs: Any, out: Path, runtime: Any) -> None:
        self.calls.append("count")
        (out / "count.txt").write_text(str(len((inputs["text"] / "text.txt").read_text().split())))

    def recipe(self, text: str, *overrides: str) -> Any:
        path = self.folder / "recipe.yaml"
        path.write_text(text)
        return load_recipe(path, self.stages, overrides)

    def run(self, recipe: Any) -> Any:
        from lmcraft.recipe.runner import run_steps

        self.calls.clear()
        runtime = make_runtime(recipe.runtime, Progress())
        return run_steps(recipe, self.store, runtime, list(recipe.steps.values()))

    def plan(self, recipe: Any) -> dict[str, Any]:
        from lmcraft.recipe.plan import make_plan

        runtime = make_runtime(recipe.runtime, Progress())
        return {p.step.name: p for p in make_plan(recipe, self.store, runtime, list(recipe.steps.values()))}


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> small_pipeline.SmallRun:
    """The small quickstart, built once. Take `small_run.copy(folder)` to write to it."""
    return small_pipeline.build(tmp_path_factory.mktemp("small") / "checkout")


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("one two")
    (tmp_path / "b.txt").write_text("three")
    return House(tmp_path)


RECIPE = """\
name: small
runtime:
  workers: 1
steps:
  a: {stage: read, path: a.txt}
  b:
    stage: read
    path: b.txt
  both:
    stage: join
    texts: [a, b]
  words: {stage: count, text: both}
"""


@pytest.fixture
def recipe_text() -> str:
    return RECIPE
