"""Which of several documents stays, and the links from those that go to those that they went for.

The order is total and does not depend on where documents lie: what the recipe names first, then the smallest id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from lmcraft.corpus import documents
from lmcraft.corpus.engine.corpus import Corpus
from lmcraft.corpus.step import Arrays, Drop, Known, Shard, characters, score
from lmcraft.recipe.stage import StageConfig


class Keep(StageConfig):
    """Which of several documents that are alike stays."""

    keep: list[Literal["longest", "quality", "source"]] = Field(
        ["longest", "quality", "source"],
        description="What decides which document stays: the first that differs; after these the smallest id.",
    )
    quality: str = Field("quality", description="Score that `quality` goes by; a document without it comes last.")
    sources: list[str] = Field([], description="Names of sources that `source` goes by, the preferred one first.")


_ID_WORDS = ("id0", "id1", "id2", "id3")
PRIORITY = np.dtype(
    [(name, "<f8") for name in ("first", "second", "third")] + [(name, "<u8") for name in (*_ID_WORDS, "id")]
)
"""What documents are ordered by; smaller stays. `id0` to `id3`: the first 32 bytes of the id; `id`: a hash of all."""

COLUMNS = ("id", "text", "source", "scores")
"""Columns that `priorities` looks at."""


def priorities(batch: pa.RecordBatch, config: Keep) -> np.ndarray:
    """A record of `PRIORITY` for each document."""
    from lmcraft.corpus.words import first_bytes, hash_bytes, utf8

    result = np.zeros(batch.num_rows, PRIORITY)
    for field, name in zip(("first", "second", "third"), dict.fromkeys(config.keep), strict=False):
        if name == "longest":
            result[field] = -characters(batch)
        elif name == "quality":
            values = score(batch, config.quality)
            result[field] = np.where(np.isnan(values), np.inf, -values)
        elif config.sources:
            place = {source: number for number, source in reversed(list(enumerate(config.sources)))}
            result[field] = [place.get(source, len(place)) for source in batch["source"].to_pylist()]
    ids = batch["id"]
    for field, words in zip(_ID_WORDS, first_bytes(*utf8(ids), len(_ID_WORDS)).T, strict=True):
        result[field] = words
    result["id"] = hash_bytes(*utf8(ids))
    return result


def ordered(records: np.ndarray, before: Sequence[np.ndarray] = ()) -> np.ndarray:
    """The permutation that puts records of `PRIORITY` into order; keys in `before` weigh more, the first most."""
    keys = [records[name] for name in reversed(PRIORITY.names or ())]
    return np.lexsort([*keys, *reversed(before)])


def with_earlier(corpus: Corpus) -> Corpus:
    """The corpus and, after its own rows, those of the artifacts that the stage was given as `earlier`."""
    shards = list(corpus.shards)
    row = corpus.rows
    for directory in _directories(corpus.inputs.get("earlier")):
        for path in documents.shard_paths(directory):
            shards.append(Shard(len(shards), path, row))
            row += documents.shard_rows(path)
    return replace(corpus, shards=shards, rows=row)


def gather(corpus: Corpus, name: str, rows: np.ndarray) -> np.ndarray:
    """Records of the files `{name}-{shard}.npy` in scratch, which have one a row, for some rows (in any order)."""
    order = np.argsort(rows, kind="stable")
    result: np.ndarray = np.empty(0, PRIORITY)
    done = 0
    for shard, inside in by_shard(corpus, rows[order]):
        stored = np.load(corpus.scratch / f"{name}-{shard.index:05d}.npy", mmap_mode="r", allow_pickle=False)
        if not done:
            result = np.empty((len(rows), *stored.shape[1:]), stored.dtype)
        result[order[done : done + len(inside)]] = stored[inside]
        done += len(inside)
    return result


def removals(corpus: Corpus, rows: np.ndarray, kept: np.ndarray, values: np.ndarray) -> Arrays:
    """The arrays that `removed` reads: rows to remove, for the sake of which rows, and what was measured on each."""
    order = np.argsort(rows)
    wanted, link = np.unique(kept[order], return_inverse=True)
    return {
        "rows": rows[order].astype(np.int64),
        "values": values[order].astype(np.float32),
        "link": link.astype(np.int64),
        **names_of(corpus, wanted),
    }


def names_of(corpus: Corpus, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The ids of some rows (sorted) as `names` (uint8) and `name_ends` (int64)."""
    path = corpus.scratch / "wanted.npy"
    np.save(path, rows, allow_pickle=False)
    found = [name for names in corpus.map(_ids, path, label="links") for name in names]
    return {
        "names": np.frombuffer(b"".join(found), np.uint8),
        "name_ends": np.cumsum([len(name) for name in found], dtype=np.int64),
    }


def name(arrays: Arrays, number: int) -> str:
    """The id that `names_of` put at that place."""
    ends = arrays["name_ends"]
    return bytes(arrays["names"][ends[number - 1] if number else 0 : ends[number]]).decode()


def removed(batch: pa.RecordBatch, known: Known, reason: str, threshold: float | None) -> Drop:
    """The rows of the batch that `removals` named."""
    assert known.rows is not None
    rows = known.arrays["rows"]
    place = np.searchsorted(rows, known.rows)
    place[place == len(rows)] = 0
    gone = rows[place] == known.rows if len(rows) else np.zeros(len(known.rows), bool)
    values = np.full(batch.num_rows, np.nan)
    kept: list[str | None] = [None] * batch.num_rows
    for row in np.flatnonzero(gone).tolist():
        values[row] = known.arrays["values"][place[row]]
        kept[row] = name(known.arrays, int(known.arrays["link"][place[row]]))
    return Drop(reason, gone, values, threshold, kept)


def by_shard(corpus: Corpus, rows: np.ndarray) -> Iterator[tuple[Shard, np.ndarray]]:
    """The shards that some rows (sorted) lie in, and the rows' numbers inside each."""
    ends = [*(shard.first_row for shard in corpus.shards[1:]), corpus.rows]
    for shard, end in zip(corpus.shards, ends, strict=True):
        first, last = np.searchsorted(rows, (shard.first_row, end))
        if first < last:
            yield shard, rows[first:last] - shard.first_row


def _ids(shard: Shard, path: Path) -> list[bytes]:
    """Ids of the rows named in the file that lie in this shard."""
    wanted = np.load(path, mmap_mode="r", allow_pickle=False)
    found: list[bytes] = []
    if not len(wanted) or wanted[-1] < shard.first_row:
        return found
    for rows, batch in shard.batches(["id"]):
        first, last = np.searchsorted(wanted, (rows[0], rows[-1] + 1))
        inside = np.asarray(wanted[first:last]) - rows[0]
        found += [value.encode() for value in batch["id"].take(pa.array(inside)).to_pylist()]
    return found


def _directories(given: Any) -> list[Path]:
    if given is None:
        return []
    if isinstance(given, Mapping):
        given = list(given.values())
    return [Path(path) for path in given] if isinstance(given, list | tuple) else [Path(given)]
