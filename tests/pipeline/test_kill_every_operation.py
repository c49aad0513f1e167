"""A recipe of plain stages, killed before each of its file operations in turn, always ends with the same store."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from typing import Any

import pytest

OPERATIONS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}


RECIPE = """\
name: short
steps:
  a: {stage: read, path: a.txt}
  both: {stage: join, texts: [a, a]}
"""


def run(house: Any, recipe: Any) -> dict[str, str]:
    return {name: artifact.digest for name, artifact in house.run(recipe).items()}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the runs are forks")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_kill_before_any_file_operation_loses_nothing(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmcraft.recipe.runner.git_state", lambda: None)
    monkeypatch.setattr("lmcraft.recipe.runner.PACKAGES", ())
    recipe = house.recipe(RECIPE)
    expected = run(house, recipe)
    killed = 0
    while True:
        shutil.rmtree(house.store.root)
        killed += 1
        if not _run_killed_before(killed, house, recipe):
            break
        assert run(house, recipe) == expected, f"killed before operation {killed}"
        left = [path.relative_to(house.store.root).as_posix() for path in (house.store.root / "work").glob("*")]
        assert not left, f"killed before operation {killed}"
        for artifact in house.store.artifacts():
            assert artifact.damage(rehash=True) == [], f"killed before operation {killed}"
    assert killed > 50, "so many operations a run of two steps makes at the least"


def _run_killed_before(operation: int, house: Any, recipe: Any) -> bool:
    """Run the recipe in a fork that dies before its n-th file operation on the store; False when it made fewer."""
    child = os.fork()
    if child == 0:
        try:
            left = operation
            root = str(house.store.root)

            def watch(event: str, arguments: tuple[Any, ...]) -> None:
                nonlocal left
                if event in OPERATIONS and str(arguments[0]).startswith(root):
                    left -= 1
                    if left == 0:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(watch)
            run(house, recipe)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)
