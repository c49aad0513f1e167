"""A document that hangs, crashes, or eats memory costs that document, and nothing else."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from lmcraft.corpus.isolation import Failure, Isolated, isolated

MANY = 300_000_000


def work(item: str) -> str | int:
    if item == "loop":
        while True:
            pass
    if item == "sleep":
        time.sleep(600)
    if item == "crash":
        ctypes.string_at(0)
    if item == "exit":
        os._exit(0)
    if item == "memory":
        return len(bytearray(MANY))
    if item == "raise":
        raise KeyError("what")
    if item == "print":
        print("noise", flush=True)
        os.write(1, b"noise")
    if item == "who":
        return os.getpid()
    return item.upper()


def test_results_come_in_order_and_one_child_does_it_all() -> None:
    items = [f"item {number}" for number in range(1000)]
    with Isolated(work, 10) as run:
        assert list(run.map(items)) == [item.upper() for item in items]
        assert len(set(run.map(["who"] * 3))) == 1
        assert list(run.map([])) == []


@pytest.mark.parametrize(
    ("item", "kind", "reason"),
    [
        ("loop", "time", "extraction took longer than 0.3 s"),
        ("crash", "crash", "extraction crashed"),
        ("exit", "crash", "extraction crashed"),
        ("memory", "memory", "extraction needed more memory than 100 MiB"),
        ("raise", "error", "extraction failed"),
    ],
)
def test_a_bad_document_has_its_reason_and_the_others_their_results(item: str, kind: str, reason: str) -> None:
    with Isolated(work, 0.3, 100 << 20) as run:
        results = list(run.map(["a", item, "b", item, "c"]))
    assert [result for result in results if not isinstance(result, Failure)] == ["A", "B", "C"]
    failures = [result for result in results if isinstance(result, Failure)]
    assert [failure.kind for failure in failures] == [kind, kind]
    assert failures[0].reason("extraction") == reason
    assert failures[0].detail == ("KeyError: 'what'" if kind == "error" else "")


def test_waiting_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with Isolated(work, 0.05) as run:
        start = time.monotonic()
        assert list(run.map(["sleep", "x"])) == [Failure("time", 0.05), "X"]
        assert time.monotonic() - start < 10


def test_large_documents_and_answers_do_not_block_each_other() -> None:
    items = ["x" * 3_000_000, *["y" * 200_000] * 64]
    with Isolated(work, 10) as run:
        assert [len(str(result)) for result in run.map(items)] == [len(item) for item in items]


def test_what_a_library_prints_is_not_an_answer() -> None:
    with Isolated(work, 10) as run:
        assert list(run.map(["print", "a"])) == ["PRINT", "A"]


def test_a_caller_who_stops_listening_gets_no_old_answers_later() -> None:
    with Isolated(work, 10) as run:
        answers = run.map(["a", "b", "c"])
        assert next(answers) == "A"
        answers.close()  # type: ignore[attr-defined]
        assert list(run.map(["d"])) == ["D"]


def test_a_child_that_was_killed_is_replaced() -> None:
    run = isolated(work, 10.0)
    (child,) = run.map(["who"])
    os.kill(child, signal.SIGKILL)
    assert list(isolated(work, 10.0).map(["a"])) == ["A"]
    run.close()


def test_the_child_ends_with_its_parent() -> None:
    code = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        "from test_isolation import work\n"
        "from lmcraft.corpus.isolation import Isolated\n"
        "run = Isolated(work, 1.0); print(*run.map(['who']), flush=True)\n"
        "list(run.map(['loop'] * 100))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    first = int(parent.stdout.readline())
    children = psutil.Process(parent.pid).children()
    assert first in [child.pid for child in children]
    parent.kill()
    parent.wait()
    parent.stdout.close()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
