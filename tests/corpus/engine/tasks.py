"""Tasks that misbehave, found by name on a worker."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lmcraft.corpus.engine import advance
from lmcraft.corpus.step import Shard
from lmcraft.recipe.stage import UserError


def square(number: int) -> int:
    time.sleep(0.02 * (number % 3))
    advance(1)
    print("noise on standard output")
    return number * number


def die_once(folder: Path, number: int) -> int:
    """The first try of every third task is killed in the middle of its work."""
    marker = folder / f"tried-{number}"
    advance(1)
    if number % 3 == 0 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    with (folder / f"done-{number}").open("a") as file:
        file.write("x")
    return number


def die_always() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail(number: int) -> int:
    if number == 3:
        raise UserError("the third is bad; mend it")
    return number


def divide(number: int) -> float:
    return 1 / number


def sleep_and_touch(path: Path) -> None:
    (path.parent / "pid").write_text(str(os.getpid()))
    time.sleep(3)
    path.touch()


def keys_of(shard: Shard, modulus: int) -> Iterator[np.ndarray]:
    for rows, _ in shard.batches(["id"]):
        records = np.empty(len(rows), [("key", np.uint64), ("row", np.int64)])
        records["key"] = (rows.astype(np.uint64) % np.uint64(modulus)) * np.uint64(0x9E3779B97F4A7C15)
        records["row"] = rows
        yield records


def smallest_rows(records: np.ndarray, modulus: int) -> np.ndarray:
    """The first row of every key, and how often the key came; rows of one key are in order."""
    _, first, counts = np.unique(records["key"], return_index=True, return_counts=True)
    for start, count in zip(first, counts, strict=True):
        assert (np.diff(records["row"][start : start + count]) > 0).all()
    return np.stack([records["row"][first], counts], axis=1)
