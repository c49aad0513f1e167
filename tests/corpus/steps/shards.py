"""Documents cut into shards on disk, and a step applied to them as the stage would, without the stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from lmcraft.corpus import documents
from lmcraft.corpus.engine.corpus import Corpus
from lmcraft.corpus.engine.local import Inline
from lmcraft.corpus.step import Known, Shard, Step


def table_of(texts: Sequence[str], **columns: Sequence[Any]) -> pa.Table:
    """Documents with these texts; ids count up unless they are given."""
    filled: dict[str, Sequence[Any]] = {
        "id": [f"{number:032x}" for number in range(len(texts))],
        "source": ["here"] * len(texts),
        "path": [f"{number}.txt" for number in range(len(texts))],
        "text": texts,
    }
    filled.update(columns)
    nothing = [None] * len(texts)
    arrays = [pa.array(filled.get(field.name, nothing), field.type) for field in documents.SCHEMA]
    return pa.Table.from_arrays(arrays, schema=documents.SCHEMA)


def corpus_of(folder: Path, tables: Sequence[pa.Table], inputs: Mapping[str, Any] | None = None) -> Corpus:
    folder.mkdir(parents=True, exist_ok=True)
    shards, row = [], 0
    for index, table in enumerate(tables):
        path = folder / f"documents-{index:05d}.parquet"
        documents.write_parquet(path, table)
        shards.append(Shard(index, path, row))
        row += table.num_rows
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    return Corpus(shards, row, inputs or {}, scratch, Inline())


def applied(
    step: Step, folder: Path, tables: Sequence[pa.Table], inputs: Mapping[str, Any] | None = None, **settings: Any
) -> tuple[list[dict[str, Any]], list[tuple[str, dict[str, Any]]], Mapping[str, Any]]:
    """Kept rows, removed rows with their reasons, and what the step learned."""
    config = step.config.model_validate(settings)
    corpus = corpus_of(folder, tables, inputs)
    arrays = step.learn(corpus, config) if step.learn else {}
    kept: list[dict[str, Any]] = []
    removed: list[tuple[str, dict[str, Any]]] = []
    for shard in corpus.shards:
        for _, batch in shard.batches(documents.SCHEMA.names):
            judged = step.judge(batch, config, Known(arrays, inputs or {}))
            for number, row in enumerate(judged.batch.to_pylist()):
                reasons = [drop.reason for drop in judged.drops if drop.rows[number]]
                if reasons:
                    removed.append((reasons[0], row))
                else:
                    kept.append(row)
    return kept, removed, arrays
