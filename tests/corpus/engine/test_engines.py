"""Engines: the same results everywhere, in order; dead workers cost nothing but time; bad tasks are named."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tasks
from corpora import batch_of, corpus_of

from lmcraft.corpus.engine import Engine, corpus, open_engine
from lmcraft.corpus.engine.local import Inline, Processes
from lmcraft.corpus.engine.ray import RayEngine
from lmcraft.recipe.stage import Runtime, UserError


def engine_of(name: str) -> Engine:
    if name == "ray":
        pytest.importorskip("ray")
        return open_engine(Runtime(engine="ray"), 4)
    return Inline() if name == "inline" else Processes(3)


@pytest.fixture(scope="module", params=["inline", "processes", "ray"])
def engine(request: pytest.FixtureRequest) -> Engine:
    here = str(Path(__file__).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])  # Ray's workers find `tasks`
    with engine_of(request.param) as opened:
        yield opened


def test_results_come_in_the_order_of_the_tasks(engine: Engine) -> None:
    moved: list[float] = []
    assert list(engine.map(tasks.square, [(n,) for n in range(20)], moved.append)) == [n * n for n in range(20)]
    assert sum(moved) == 20


def test_no_tasks(engine: Engine) -> None:
    assert list(engine.map(tasks.square, [])) == []


def test_an_error_of_a_task_is_the_callers(engine: Engine) -> None:
    with pytest.raises(UserError, match="the third is bad; mend it"):
        list(engine.map(tasks.fail, [(n,) for n in range(6)]))
    with pytest.raises(ZeroDivisionError):
        list(engine.map(tasks.divide, [(0,)]))
    assert list(engine.map(tasks.square, [(2,)])) == [4]  # and the engine can be used again


def test_a_caller_may_stop_early(engine: Engine) -> None:
    assert list(itertools.islice(engine.map(tasks.square, [(n,) for n in range(50)]), 3)) == [0, 1, 4]
    assert list(engine.map(tasks.square, [(5,)])) == [25]


@pytest.mark.parametrize("name", ["processes", "ray"])
def test_killed_workers_lose_and_repeat_nothing(name: str, tmp_path: Path) -> None:
    moved: list[float] = []
    with engine_of(name) as engine:
        results = list(engine.map(tasks.die_once, [(tmp_path, n) for n in range(9)], moved.append))
    assert results == list(range(9))
    assert sum(moved) == 9
    assert [(tmp_path / f"done-{n}").read_text() for n in range(9)] == ["x"] * 9
    assert len(list(tmp_path.glob("tried-*"))) == 3


@pytest.mark.parametrize("name", ["processes", "ray"])
def test_a_task_that_kills_every_worker_is_given_up(name: str) -> None:
    with engine_of(name) as engine, pytest.raises(UserError, match="workers died over the same piece of work"):
        list(engine.map(tasks.die_always, [()]))


@pytest.mark.parametrize("name", ["OutOfMemoryError", "NodeDiedError", "ObjectLostError", "WorkerCrashedError"])
def test_what_ray_says_of_a_lost_worker_is_one_sentence(name: str) -> None:
    exceptions = pytest.importorskip("ray.exceptions")
    kind = getattr(exceptions, name)
    lost = (
        kind("0" * 56, "", "") if name == "ObjectLostError" else kind() if name == "WorkerCrashedError" else kind("x")
    )

    class Cluster:
        def __init__(self) -> None:
            self.exceptions = exceptions

        def get(self, reference: object) -> None:
            raise lost

    engine = RayEngine.__new__(RayEngine)
    engine.ray = Cluster()
    with pytest.raises(UserError, match="workers died over the same piece of work"):
        engine._result(None, lambda amount: None)


def test_a_cluster_that_cannot_be_joined_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")

    def refuse(address: str, **settings: object) -> None:
        raise ConnectionError(f"Failed to connect to {address}\nand more")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UserError, match=r"^Ray cannot start \(Failed to connect to local\); "):  # not to an old cluster
        RayEngine()
    for address, why in (("auto", "Failed to connect to auto"), ("127.0.0.1:9", ".*refused")):
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(UserError, match=rf"^the Ray cluster at RAY_ADDRESS={address} cannot be joined \({why}\); "):
            RayEngine()


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import tasks; from pathlib import Path;"
        "from lmcraft.corpus.engine.local import Processes\n"
        "with Processes(2) as engine: list(engine.map(tasks.sleep_and_touch, [(Path(sys.argv[2]),)] * 2))"
    )
    late = tmp_path / "late"
    parent = subprocess.Popen([sys.executable, "-c", script, str(Path(__file__).parent), str(late)])
    while not (tmp_path / "pid").exists():
        time.sleep(0.05)
        assert parent.poll() is None
    parent.kill()
    parent.wait()
    time.sleep(3.2)
    assert not late.exists()


@pytest.mark.parametrize("bucket_bytes", [100, 32_000_000])
def test_group_brings_equal_keys_together(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket_bytes: int
) -> None:
    monkeypatch.setattr(corpus, "BUCKET_BYTES", bucket_bytes)
    made = corpus_of(tmp_path, *(batch_of(["text"] * size) for size in (40, 0, 7, 103)))
    made.engine = engine
    pieces = list(made.group(tasks.keys_of, 37, reduce=tasks.smallest_rows, label="group"))
    found = np.concatenate(pieces)
    assert sorted(found[:, 0]) == list(range(37))
    assert found[:, 1].sum() == 150
    assert len(pieces) > 10 if bucket_bytes == 100 else len(pieces) == 1
    assert not list(made.scratch.iterdir())


def test_group_of_nothing(tmp_path: Path) -> None:
    made = corpus_of(tmp_path, batch_of([]))
    assert list(made.group(tasks.keys_of, 3, reduce=tasks.smallest_rows, label="group")) == []
