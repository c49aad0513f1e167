"""Small corpora, readers of artifacts, and a progress that kills the run which reports to it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lmcraft.corpus import documents
from lmcraft.corpus.engine.corpus import Corpus
from lmcraft.corpus.engine.local import Inline
from lmcraft.corpus.step import Shard
from lmcraft.recipe.stage import Progress, Task

WORDS = ("river", "stone", "window", "garden", "letter", "silver", "morning", "engine", "captain", "forest", "island")


class Killed(Exception):
    pass


class KillingProgress(Progress):
    """Raises at the n-th report of progress, as a kill would."""

    def __init__(self, reports: int) -> None:
        self.left = reports

    def task(self, description: str, total: float | None, unit: str, done: float = 0) -> Task:
        progress = self

        class Counting(Task):
            def advance(self, amount: float = 1, text: str | None = None) -> None:
                progress.left -= 1
                if progress.left == 0:
                    raise Killed

        return Counting()


def sentence(seed: int, words: int = 30) -> str:
    """English-looking text that shares no 5-gram with that of another seed."""
    digest = hashlib.sha256(str(seed).encode()).digest() * 8
    chosen = [WORDS[byte % len(WORDS)] for byte in digest[:words]]
    chosen[::4] = [f"{word}{seed}" for word in chosen[::4]]
    return f"The {' '.join(chosen)}."


def folder_source(path: Path, **settings: Any) -> dict[str, Any]:
    return {"kind": "folder", "name": "mine", "path": str(path), **settings}


def rows(directory: Path, kind: str = "documents") -> list[dict[str, Any]]:
    return [row for path in sorted(directory.glob(f"{kind}-*.parquet")) for row in pq.read_table(path).to_pylist()]


def statistics(directory: Path) -> dict[str, Any]:
    return dict(json.loads((directory / "statistics.json").read_text(encoding="utf-8")))


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def contents(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def batch_of(texts: list[str], **columns: list[Any]) -> pa.RecordBatch:
    """Documents with these texts; `columns` gives others of `documents.SCHEMA`, a list each."""
    table: list[dict[str, Any]] = []
    for number, text in enumerate(texts):
        row = {"id": f"{number:032x}", "source": "made", "path": f"{number}.txt", "text": text, "changes": []}
        table.append(row | {name: values[number] for name, values in columns.items()})
    return pa.RecordBatch.from_pylist(table, schema=documents.SCHEMA)


def corpus_of(folder: Path, *batches: pa.RecordBatch, **inputs: Any) -> Corpus:
    """A corpus with a shard for each batch, on the engine of this process."""
    shards = []
    row = 0
    for index, batch in enumerate(batches):
        path = folder / f"documents-{index:05d}.parquet"
        documents.write_parquet(path, pa.Table.from_batches([batch], documents.SCHEMA))
        shards.append(Shard(index, path, row))
        row += batch.num_rows
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    return Corpus(shards, row, inputs, scratch, Inline())
