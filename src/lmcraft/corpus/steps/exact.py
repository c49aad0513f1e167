"""Step `exact`: of documents whose text is the same but for case, spacing and Unicode form, one stays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lmcraft.corpus.engine.corpus import Corpus, advance
from lmcraft.corpus.keeping import COLUMNS, PRIORITY, Keep, gather, ordered, priorities, removals, removed, with_earlier
from lmcraft.corpus.normalised import normalised_texts
from lmcraft.corpus.step import Arrays, Judged, Known, Shard, Step


class Exact(Keep):
    """Removes documents whose text is the same but for case, spacing and Unicode form; one of them stays.

    Documents that are in an artifact given to the stage as `earlier` go as well.
    """


def text_keys(texts: pa.StringArray) -> np.ndarray:
    """128 bits of hash of each normalised text, as two uint64: shape (n, 2)."""
    from lmcraft.corpus.words import hash_text, utf8

    if pc.any(pc.invert(pc.string_is_ascii(texts))).as_py():  # the pass below knows what normalising does to ASCII
        texts = pa.array(list(normalised_texts(texts)), pa.binary())
    return hash_text(*utf8(texts))


def learn(corpus: Corpus, config: Exact) -> Arrays:
    """Rows to remove, with links to the rows that stay; see `keeping.removals`."""
    every = with_earlier(corpus)
    found = list(every.group(_keys, every.scratch, config, reduce=_alike, label="exact"))
    marked = np.concatenate(found) if found else np.empty(0, np.int64)
    rows = np.where(marked < 0, ~marked, marked)
    group = np.cumsum(marked < 0)
    records = gather(every, "priority", rows)
    order = ordered(records, before=[group, rows < corpus.rows])  # those of earlier artifacts first
    rows, group = rows[order], group[order]
    first = np.ones(len(order), bool)
    first[1:] = group[1:] != group[:-1]
    kept = rows[first][np.cumsum(first) - 1]
    gone = ~first & (rows < corpus.rows)
    return removals(every, rows[gone], kept[gone], np.ones(int(gone.sum())))


def judge(batch: pa.RecordBatch, config: Exact, known: Known) -> Judged:
    return Judged(batch, (removed(batch, known, "exact duplicate", None),))


def _keys(shard: Shard, scratch: Path, config: Exact) -> Iterator[np.ndarray]:
    """Keys of the documents; what they are ordered by goes to a file beside."""
    found = [np.empty(0, PRIORITY)]
    for rows, batch in shard.batches(COLUMNS):
        found.append(priorities(batch, config))
        records = np.empty(len(rows), [("key", "<u8"), ("more", "<u8"), ("row", "<i8")])
        records["key"], records["more"] = text_keys(batch["text"]).T
        records["row"] = rows
        yield records
        advance(len(rows))
    np.save(scratch / f"priority-{shard.index:05d}.npy", np.concatenate(found), allow_pickle=False)


def _alike(records: np.ndarray, *_: Any) -> np.ndarray:
    """Rows whose key another has too, equal ones in a run; the first of each run is inverted (~row)."""
    records = records[np.lexsort([records["more"], records["key"]])]
    if not len(records):
        return np.empty(0, np.int64)
    first = np.ones(len(records), bool)
    first[1:] = (records["key"][1:] != records["key"][:-1]) | (records["more"][1:] != records["more"][:-1])
    last = np.append(first[1:], True)
    shared = ~(first & last)
    return np.where(first, ~records["row"], records["row"])[shared]


EXACT = Step("exact", Exact, judge, learn=learn)
