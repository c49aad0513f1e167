"""The passes of curate: the same bytes on every engine, however often killed; a failing step costs one document."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import odd_steps
import pyarrow as pa
import pytest
from corpora import Killed, KillingProgress, batch_of, contents, rows, sentence, statistics

from lmcraft.corpus import curate, documents
from lmcraft.recipe.stage import Runtime, UserError


@pytest.fixture(autouse=True)
def _odd_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = curate.step_and_config

    def step_and_config(choice: Any) -> Any:
        return choice.chosen() if isinstance(choice, odd_steps.Choice) else chosen(choice)

    monkeypatch.setattr(curate, "step_and_config", step_and_config)
    here = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([here, os.environ.get("PYTHONPATH", "")]))


def config_of(*names: str, marker: Path | None = None, **settings: Any) -> curate.CurateConfig:
    config = curate.CurateConfig.model_validate({"steps": [], **settings})
    steps = [odd_steps.Choice(step=name, marker=str(marker or "")) for name in names]
    return config.model_copy(update={"steps": steps})


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    """Two artifacts of three shards together: 90 documents, four of them poisoned."""
    number = 0
    folders = []
    for name, sizes in (("a", (40, 30)), ("b", (20,))):
        folder = tmp_path / name
        folder.mkdir()
        folders.append(folder)
        for index, size in enumerate(sizes):
            texts = [
                sentence(n, 20 + n % 60) + (" poison" if n in (0, 11, 12, 89) else "")
                for n in range(number, number + size)
            ]
            ids = [f"{n:032x}" for n in range(number, number + size)]
            table = pa.Table.from_batches([batch_of(texts, id=ids)], documents.SCHEMA)
            documents.write_parquet(folder / f"documents-{index:05d}.parquet", table)
            number += size
    return folders


def test_a_failing_step_costs_the_documents_it_fails_on(sources: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    curate.run(config_of("fragile"), {"documents": sources}, out, Runtime(workers=1))
    removed = rows(out, "removed")
    assert {row["id"] for row in removed} == {f"{n:032x}" for n in (0, 11, 12, 89)}
    assert {row["reason"] for row in removed} == {"error in fragile"}
    (errors,) = {row["error"].split(":")[0] for row in rows(out, "errors")}
    assert errors == "ZeroDivisionError"
    assert len(rows(out)) == 86
    with pytest.raises(UserError, match=r"'fragile' failed on made/0.txt \(id 0+\): ZeroDivisionError: cannot take"):
        curate.run(config_of("fragile", on_error="stop"), {"documents": sources}, tmp_path / "x", Runtime(workers=1))


def test_rows_may_be_split_and_learnt_from(sources: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    curate.run(config_of("fragile", "halve", "lengths", "halve"), {"documents": sources}, out, Runtime(workers=1))
    stats = statistics(out)
    assert stats["flow"]["fragile"]["documents"] == 86
    assert stats["flow"]["halve"]["documents"] == 172
    assert stats["flow"]["lengths"]["documents"] == 172 - stats["steps"]["lengths"]["repeated"]
    assert stats["flow"]["halve 2"]["documents"] == 2 * stats["flow"]["lengths"]["documents"] == stats["documents"]
    assert len(rows(out, "halves")) == 86 + stats["flow"]["lengths"]["documents"]
    assert list(stats["flow"]) == ["fragile", "halve", "lengths", "halve 2", "split"]
    # The halves of a document are on one side of the split.
    sides: dict[str, set[str]] = {}
    for row in rows(out):
        sides.setdefault(row["parent"][1:], set()).add(row["split"])
    assert all(len(side) == 1 for side in sides.values())


@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_every_engine_gives_the_same_bytes_even_when_workers_die(
    sources: list[Path], tmp_path: Path, engine: str
) -> None:
    if engine == "ray":
        pytest.importorskip("ray")
    names = ("fragile", "deadly", "lengths", "halve")
    (tmp_path / "killed-0").touch(), (tmp_path / "killed-1").touch(), (tmp_path / "killed-2").touch()
    curate.run(config_of(*names, marker=tmp_path), {"documents": sources}, tmp_path / "inline", Runtime(workers=1))
    marker = tmp_path / "marker"
    marker.mkdir()
    runtime = Runtime(workers=3, engine="ray" if engine == "ray" else "local")
    curate.run(config_of(*names, marker=marker), {"documents": sources}, tmp_path / engine, runtime)
    assert len(list(marker.iterdir())) == 3
    assert contents(tmp_path / engine) == contents(tmp_path / "inline")


def test_a_run_killed_anywhere_continues_to_the_same_bytes(sources: list[Path], tmp_path: Path) -> None:
    config = config_of("fragile", "halve", "lengths", "halve")
    curate.run(config, {"documents": sources}, tmp_path / "whole", Runtime(workers=1))
    kills = 0
    for reports in range(1, 60):
        try:
            progress = KillingProgress(reports)
            curate.run(config, {"documents": sources}, tmp_path / "killed", Runtime(workers=1, progress=progress))
        except Killed:
            kills += 1
        else:
            break
    assert kills > 5
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
