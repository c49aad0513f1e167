"""What a step that learns from all documents is given: maps over shards and bucketed reduces, out of core."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lmcraft.corpus.engine import Engine, advance
from lmcraft.corpus.step import Shard
from lmcraft.recipe.stage import Inputs, Progress

BUCKET_BYTES = 32_000_000
"""About so much is reduced at once by one worker."""

SLOTS = 4096
"""Keys are told apart by their highest bits into so many slots; a bucket is a run of them."""


@dataclass
class Corpus:
    """All documents that the steps before have left. `scratch` is a folder that every worker sees."""

    shards: Sequence[Shard]
    rows: int
    inputs: Inputs
    scratch: Path
    engine: Engine
    progress: Progress = field(default_factory=Progress)
    _groups: Iterator[int] = field(default_factory=itertools.count)

    def map(self, function: Callable[..., Any], *arguments: Any, label: str) -> Iterator[Any]:
        """`function(shard, *arguments)` for every shard; results in their order. The function calls `advance(rows)`."""
        with self.progress.task(label, self.rows, "documents") as task:
            yield from self.engine.map(function, [(shard, *arguments) for shard in self.shards], task.advance)

    def map_items(
        self, function: Callable[..., Any], items: Iterable[Any], *arguments: Any, label: str
    ) -> Iterator[Any]:
        """`function(item, *arguments)` for every item; results in their order."""
        listed = list(items)
        with self.progress.task(label, len(listed), "pieces") as task:
            for result in self.engine.map(function, [(item, *arguments) for item in listed]):
                task.advance(1)
                yield result

    def group(
        self,
        keys: Callable[..., Iterator[np.ndarray]],
        *arguments: Any,
        reduce: Callable[..., np.ndarray],
        label: str,
    ) -> Iterator[np.ndarray]:
        """Bring records of the same key together, however many there are.

        `keys(shard, *arguments)` yields structured arrays with a field `key` (uint64, well mixed);
        `reduce(records, *arguments)` is given whole keys, sorted by key and then as they came (by shard, then in the
        order yielded), about `BUCKET_BYTES` at a time, and gives an array. Yields those arrays in the order of keys.
        """
        folder = self.scratch / f"group-{next(self._groups)}"
        folder.mkdir(parents=True)
        sizes = list(self.map(_write_sorted, folder, keys, arguments, label=label))
        buckets = min(SLOTS, -(-sum(sizes) // BUCKET_BYTES))
        bounds = [bucket * SLOTS // buckets for bucket in range(buckets + 1)] if buckets else []
        written = [shard.index for shard, size in zip(self.shards, sizes, strict=True) if size]
        tasks = [(folder, written, first, end, reduce, arguments) for first, end in itertools.pairwise(bounds)]
        yield from self.engine.map(_reduce_bucket, tasks)
        shutil.rmtree(folder)


def _write_sorted(shard: Shard, folder: Path, keys: Callable[..., Iterator[np.ndarray]], arguments: Any) -> int:
    """The records of one shard in a file, sorted by key; their size in bytes."""
    found = [records for records in keys(shard, *arguments) if len(records)]
    path = folder / f"{shard.index:05d}.npy"
    if not found:
        return 0
    records = np.concatenate(found)
    del found
    records = records[np.argsort(records["key"], kind="stable")]
    slots = np.arange(SLOTS, dtype=np.uint64) << np.uint64(64 - SLOTS.bit_length() + 1)
    np.save(folder / f"{shard.index:05d}.slots.npy", np.append(np.searchsorted(records["key"], slots), len(records)))
    np.save(path, records, allow_pickle=False)
    return int(records.nbytes)


def _reduce_bucket(
    folder: Path, shards: Sequence[int], first: int, end: int, reduce: Callable[..., np.ndarray], arguments: Any
) -> np.ndarray:
    """Slots `first` to `end` of all shards, sorted by key, reduced."""
    pieces = []
    for shard in shards:
        slots = np.load(folder / f"{shard:05d}.slots.npy", allow_pickle=False)
        stored = np.load(folder / f"{shard:05d}.npy", mmap_mode="r", allow_pickle=False)
        pieces.append(np.array(stored[slots[first] : slots[end]]))
    records = np.concatenate(pieces)
    del pieces
    return reduce(records[np.argsort(records["key"], kind="stable")], *arguments)


__all__ = ["Corpus", "advance"]
