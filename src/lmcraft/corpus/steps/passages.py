"""Step `passages`: what stands word for word in a document of higher preference is cut out of the others.

The outcome is that of removing repeated substrings by a suffix array over all documents (Lee et al., "Deduplicating
Training Data Makes Language Models Better", 2022), counted in words, with the documents that come first left whole:
every window of so many words that also stands in a document of higher preference goes. It is found out of core: see
`windows.py` for what keeps the windows few; they are brought together by their hash (64 bits).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from lmcraft.corpus.engine.corpus import Corpus, advance
from lmcraft.corpus.keeping import (
    COLUMNS,
    PRIORITY,
    Keep,
    gather,
    name,
    names_of,
    ordered,
    priorities,
    with_earlier,
)
from lmcraft.corpus.mapped import new_npy
from lmcraft.corpus.step import Arrays, Drop, Judged, Known, Shard, Step, note_changes, replace_columns

ROUND_BYTES = 100_000_000
"""Windows go through the engine in rounds, of about so many bytes a shard."""

CHANGE = "repeated passage removed"


class Passages(Keep):
    """Cuts out passages that stand word for word in another document, of which `keep` tells the one that keeps them.

    What stands in an artifact given to the stage as `earlier` is cut out as well. Words are compared, so that case,
    spacing and punctuation do not count. What is cut out is listed in `passages-*.parquet`.
    """

    words: int = Field(50, ge=2, description="Words in the shortest passage that counts.")
    inside: bool = Field(False, description="Also cut out what a document repeats of itself.")
    least: int = Field(
        1, ge=1, description="Words that must be left of a document that something was cut out of; one with fewer goes."
    )


def learn(corpus: Corpus, config: Passages) -> Arrays:
    """What to cut: `rows`, `begin` and `end` (in words), `link` to the names of the documents that keep it."""
    every = with_earlier(corpus)
    scratch = every.scratch
    bounds = np.array([*(shard.first_row for shard in every.shards), every.rows])
    involved = np.zeros(every.rows, bool)
    at_shards = np.zeros(len(every.shards), np.int64)
    count = 0
    with (scratch / "repeated.bin").open("wb") as file:
        for found in every.group(_anchors, scratch, config, reduce=_repeated_anchors, label="repeated words"):
            keys = np.unique(found["key"])
            keys.tofile(file)
            count += len(keys)
            involved[found["row"]] = True
            at_shards += np.histogram(found["row"], bounds)[0]
    if not count:
        return _result(every, [np.empty((0, 4), np.int64)])
    _write_table(scratch, count)
    rows = np.flatnonzero(involved)
    order = ordered(gather(every, "priority", rows), before=[rows < corpus.rows])
    ranks = np.full(every.rows, -1, np.int32)
    ranks[rows[order]] = np.arange(len(rows), dtype=np.int32)
    np.save(scratch / "ranks.npy", ranks, allow_pickle=False)
    del order, involved, rows
    windows = int(at_shards.max()) * ((config.words + 3) // 4 + 1)  # an anchor stands for about so many windows
    parts = max(1, windows * _WINDOW.itemsize // ROUND_BYTES)
    for part in range(parts):
        label = "repeated passages" + (f" {part + 1} of {parts}" if parts > 1 else "")
        for found in every.group(_windows, scratch, config, parts, part, reduce=_repeated_windows, label=label):
            cut = found[np.argsort(found["row"], kind="stable")]
            places = np.searchsorted(cut["row"], bounds)
            for index in np.flatnonzero(np.diff(places)).tolist():
                with (scratch / f"cut-{index:05d}.bin").open("ab") as file:
                    cut[places[index] : places[index + 1]].tofile(file)
    own = replace(every, shards=corpus.shards, rows=corpus.rows)
    return _result(every, list(own.map(_merge, scratch, config, label="passages")))


def judge(batch: pa.RecordBatch, config: Passages, known: Known) -> Judged:
    assert known.rows is not None
    if not len(known.rows):
        return Judged(batch)
    first, last = np.searchsorted(known.arrays["rows"], (known.rows[0], known.rows[-1] + 1))
    if first == last:
        return Judged(batch)
    return _cut(batch, config, known, np.arange(first, last), known.arrays["rows"][first:last] - known.rows[0])


def _cut(batch: pa.RecordBatch, config: Passages, known: Known, cuts: np.ndarray, rows: np.ndarray) -> Judged:
    """Make the cuts with these numbers in these rows of the batch."""
    from lmcraft.corpus.words import words

    touched, which = np.unique(rows, return_inverse=True)
    texts = batch["text"].take(pa.array(touched))
    found = words(texts)
    old = [text.encode() for text in texts.to_pylist()]
    pieces: list[list[bytes]] = [[] for _ in touched]
    done, gone = [0] * len(touched), [0] * len(touched)
    longest: list[tuple[int, str]] = [(0, "")] * len(touched)
    aside: dict[str, list[Any]] = {"document": [], "begin": [], "end": [], "words": [], "first_document": []}
    for number, row in zip(cuts.tolist(), which.tolist(), strict=True):
        begin, end = int(known.arrays["begin"][number]), int(known.arrays["end"][number])
        start, stop = int(found.starts[row]), int(found.starts[row + 1])
        # From word to word, so that what follows the last one up to the next word goes too; the ends belong to words.
        first_byte = int(found.begin[start + begin]) if begin else 0
        last_byte = int(found.begin[start + end]) if start + end < stop else len(old[row])
        pieces[row].append(old[row][done[row] : first_byte])
        done[row] = last_byte
        gone[row] += end - begin
        keeper = name(known.arrays, int(known.arrays["link"][number]))
        longest[row] = max(longest[row], (end - begin, keeper), key=lambda item: item[0])
        for column, value in zip(
            aside, (batch["id"][int(touched[row])].as_py(), first_byte, last_byte, end - begin, keeper), strict=True
        ):
            aside[column].append(value)
    left = found.counts - np.array(gone)
    new = batch["text"].to_pylist()
    changes: list[list[str]] = [[]] * batch.num_rows
    drop = np.zeros(batch.num_rows, bool)
    kept: list[str | None] = [None] * batch.num_rows
    values = np.full(batch.num_rows, np.nan)
    for row, place in enumerate(touched.tolist()):
        if left[row] < config.least:  # what goes is put aside as it came
            drop[place], values[place], kept[place] = True, left[row], longest[row][1]
            continue
        new[place] = b"".join([*pieces[row], old[row][done[row] :]]).decode().rstrip()
        changes[place] = [CHANGE]
    batch = note_changes(replace_columns(batch, {"text": pa.array(new, batch.schema.field("text").type)}), changes)
    return Judged(
        batch,
        (Drop("repeated passages", drop, values, float(config.least), kept),),
        {"passages": pa.table(aside, schema=_ASIDE)},
    )


_ASIDE = pa.schema(
    [
        pa.field("document", pa.string()),
        pa.field("begin", pa.int64()),  # bytes of the text as it came
        pa.field("end", pa.int64()),
        pa.field("words", pa.int64()),
        pa.field("first_document", pa.string()),
    ]
)
_ANCHOR = np.dtype([("key", "<u8"), ("row", "<i8")])
_WINDOW = np.dtype([("key", "<u8"), ("row", "<i8"), ("place", "<i4")])
_CUT = np.dtype([("row", "<i8"), ("first", "<i8"), ("place", "<i4")])


def _anchors(shard: Shard, scratch: Path, config: Passages) -> Iterator[np.ndarray]:
    from lmcraft.corpus.windows import anchors
    from lmcraft.corpus.words import word_hashes

    order = [np.empty(0, PRIORITY)]
    for rows, batch in shard.batches(COLUMNS):
        order.append(priorities(batch, config))
        keys, documents = anchors(*word_hashes(batch["text"]), config.words)
        records = np.empty(len(keys), _ANCHOR)
        records["key"], records["row"] = keys, rows[documents]
        yield records
        advance(len(rows))
    np.save(scratch / f"priority-{shard.index:05d}.npy", np.concatenate(order), allow_pickle=False)


def _repeated_anchors(records: np.ndarray, scratch: Path, config: Passages) -> np.ndarray:
    return records[_repeated(records, config)]


def _repeated(records: np.ndarray, config: Passages) -> np.ndarray:
    """Those whose key occurs in several documents, or at all several times (bool)."""
    if not len(records):
        return np.zeros(0, bool)
    starts = np.flatnonzero(np.append(True, records["key"][1:] != records["key"][:-1]))
    sizes = np.diff(np.append(starts, len(records)))
    several = sizes > 1 if config.inside else records["row"][starts] != records["row"][starts + sizes - 1]
    return np.repeat(several, sizes)


def _write_table(scratch: Path, count: int) -> None:
    from lmcraft.corpus.windows import put, table_size

    table = new_npy(scratch / "table.npy", np.uint64, (table_size(count),))
    with (scratch / "repeated.bin").open("rb") as file:
        while len(keys := np.fromfile(file, np.uint64, 1 << 20)):
            put(table, keys)


def _windows(shard: Shard, scratch: Path, config: Passages, parts: int, part: int) -> Iterator[np.ndarray]:
    from lmcraft.corpus.windows import windows
    from lmcraft.corpus.words import word_hashes

    table = np.asarray(np.load(scratch / "table.npy", mmap_mode="r+", allow_pickle=False))
    ranks = np.load(scratch / "ranks.npy", mmap_mode="r", allow_pickle=False)
    for rows, batch in shard.batches(["text"]):
        inside = np.flatnonzero(ranks[rows[0] : rows[-1] + 1] >= 0)
        if len(inside):
            texts = batch["text"].take(pa.array(inside))
            keys, documents, places = windows(*word_hashes(texts), config.words, table, parts, part)
            records = np.empty(len(keys), _WINDOW)
            records["key"], records["row"], records["place"] = keys, rows[inside][documents], places
            yield records
        advance(len(rows))


def _repeated_windows(records: np.ndarray, scratch: Path, config: Passages, parts: int, part: int) -> np.ndarray:
    """Windows to cut out, and the row of the document that keeps each."""
    records = records[_repeated(records, config)]
    ranks = np.load(scratch / "ranks.npy", mmap_mode="r", allow_pickle=False)
    rank = np.asarray(ranks[records["row"]])
    order = np.lexsort([records["place"], rank, records["key"]])
    records, rank = records[order], rank[order]
    first = np.append(True, records["key"][1:] != records["key"][:-1])[: len(records)]
    head = np.flatnonzero(first)[np.cumsum(first) - 1]
    out = ~first if config.inside else rank != rank[head]
    cut = np.empty(int(out.sum()), _CUT)
    cut["row"], cut["place"], cut["first"] = records["row"][out], records["place"][out], records["row"][head][out]
    return cut


def _merge(shard: Shard, scratch: Path, config: Passages) -> np.ndarray:
    """The cuts of a shard: row, first word, word after the last, row of the document that keeps it.

    A cut is a run of windows side by side, so that every window in it stands in the keeper. They do not overlap: a word
    in several is in the first.
    """
    from lmcraft.corpus.documents import shard_rows

    advance(shard_rows(shard.path))
    path = scratch / f"cut-{shard.index:05d}.bin"
    if not path.exists():
        return np.empty((0, 4), np.int64)
    cut = np.fromfile(path, _CUT)
    cut = cut[np.lexsort([cut["place"], cut["row"]])]
    row, first = cut["row"], cut["first"]
    begin = cut["place"].astype(np.int64)
    end = begin + config.words
    joined = (row[1:] == row[:-1]) & (first[1:] == first[:-1]) & (begin[1:] == begin[:-1] + 1)
    heads = np.flatnonzero(np.append(True, ~joined))
    last = np.append(heads[1:], len(cut)) - 1
    result = np.stack([row[heads], begin[heads], end[last], first[heads]], axis=1)
    result[1:, 1] = np.where(result[1:, 0] == result[:-1, 0], np.maximum(result[1:, 1], result[:-1, 2]), result[1:, 1])
    return result[result[:, 1] < result[:, 2]]


def _result(corpus: Corpus, pieces: list[np.ndarray]) -> Arrays:
    cuts = np.concatenate(pieces)
    wanted, link = np.unique(cuts[:, 3], return_inverse=True)
    return {
        "rows": cuts[:, 0].copy(),
        "begin": cuts[:, 1].astype(np.int32),
        "end": cuts[:, 2].astype(np.int32),
        "link": link.astype(np.int64),
        **names_of(corpus, wanted),
    }


PASSAGES = Step("passages", Passages, judge, learn=learn)
