"""Steps that fail on some documents, split others, put things aside, learn, and kill their worker."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lmcraft.corpus.engine.corpus import Corpus
from lmcraft.corpus.step import Drop, Judged, Known, Shard, Step, replace_columns
from lmcraft.recipe.stage import StageConfig


class Nothing(StageConfig):
    marker: str = ""


def fragile(batch: pa.RecordBatch, config: Nothing, known: Known) -> Judged:
    for text in batch["text"].to_pylist():
        if "poison" in text:
            raise ZeroDivisionError(f"cannot take {text[:20]!r}")
    return Judged(batch)


def halve(batch: pa.RecordBatch, config: Nothing, known: Known) -> Judged:
    """Every document becomes two; the table `halves` says of which."""
    twice = batch.take(pa.array(np.repeat(np.arange(batch.num_rows), 2)))
    texts = [
        text[: len(text) // 2] if n % 2 == 0 else text[len(text) // 2 :]
        for n, text in enumerate(twice["text"].to_pylist())
    ]
    ids = [f"{number % 2}{old[1:]}" for number, old in enumerate(twice["id"].to_pylist())]
    made = replace_columns(
        twice, {"text": pa.array(texts), "id": pa.array(ids), "parent": pc.coalesce(twice["parent"], twice["id"])}
    )
    return Judged(made, (), {"halves": pa.table({"id": batch["id"]})})


def _lengths(shard: Shard) -> Iterator[np.ndarray]:
    for rows, batch in shard.batches(["text"]):
        records = np.empty(len(rows), [("key", np.uint64), ("row", np.int64)])
        records["key"] = np.array([len(text) for text in batch["text"].to_pylist()], np.uint64) << np.uint64(50)
        records["row"] = rows
        yield records


def _later_ones(records: np.ndarray) -> np.ndarray:
    """Rows whose length an earlier row has."""
    _, first = np.unique(records["key"], return_index=True)
    return np.delete(records["row"], first)


def learn_lengths(corpus: Corpus, config: Nothing) -> dict[str, np.ndarray]:
    found = corpus.group(_lengths, reduce=_later_ones, label="lengths")
    return {"rows": np.sort(np.concatenate([np.empty(0, np.int64), *found]))}


def drop_lengths(batch: pa.RecordBatch, config: Nothing, known: Known) -> Judged:
    return Judged(batch, (Drop("a length seen before", np.isin(known.rows, known.arrays["rows"])),))


def deadly(batch: pa.RecordBatch, config: Nothing, known: Known) -> Judged:
    """Kills its worker in the first three batches that it sees."""
    for number in range(3):
        marker = Path(config.marker) / f"killed-{number}"
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return Judged(batch)


def lengths_report(arrays: Any, config: Nothing) -> dict[str, Any]:
    return {"repeated": len(arrays["rows"])}


STEPS = {
    step.name: step
    for step in (
        Step("fragile", Nothing, fragile),
        Step("halve", Nothing, halve),
        Step("lengths", Nothing, drop_lengths, learn=learn_lengths, report=lengths_report),
        Step("deadly", Nothing, deadly),
    )
}


class Choice(StageConfig):
    """Stands in a `steps:` list for one of these."""

    step: str
    marker: str

    def chosen(self) -> tuple[Step, Nothing]:
        return STEPS[self.step], Nothing(marker=self.marker)
