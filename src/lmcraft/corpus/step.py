"""The shape of a curation step, and what it hands back. Steps import no engine: Arrow in, Arrow out.

A step looks at one batch of documents at a time (`judge`): it may change columns and drop rows. What it must know
beforehand comes from `prepare` (out of its settings and the stage's other inputs) or from `learn` (out of all
documents). Both give arrays, which every worker maps into memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lmcraft.recipe.stage import Inputs, Runtime, StageConfig

if TYPE_CHECKING:
    from lmcraft.corpus.engine.corpus import Corpus


@dataclass(frozen=True)
class Drop:
    """Rows to remove for one reason: a mask, what was measured on each row, and the limit it was held against.

    `kept` names for each row (any value where `rows` is false) the id of the kept document it went for.
    """

    reason: str
    rows: np.ndarray  # bool, one a row
    values: np.ndarray | None = None  # float, one a row
    threshold: float | None = None
    kept: Sequence[str | None] | None = None


@dataclass(frozen=True)
class Judged:
    """What a step did to a batch: rows with new columns, and those to drop (the first reason counts).

    `batch` has the rows that came, in their order, unless the step makes several documents of one. `drops` are over
    the rows of `batch`. `aside` are tables to be kept beside the documents, by name: each gives files
    `{name}-00000.parquet` of the artifact.
    """

    batch: pa.RecordBatch
    drops: tuple[Drop, ...] = ()
    aside: Mapping[str, pa.Table] = field(default_factory=dict)


Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Known:
    """What a step may look up while it judges.

    `arrays`: what its `prepare` and `learn` gave, mapped into memory. `inputs`: the directories of the stage's inputs.
    `rows`: for a step that learns, the number of each row of the batch, as `Shard.batches` gave it to `learn`.
    `label`: the step's name, numbered when the recipe has it more than once.
    """

    arrays: Arrays = field(default_factory=dict)
    inputs: Inputs = field(default_factory=dict)
    rows: np.ndarray | None = None  # int64
    label: str = ""


@dataclass(frozen=True)
class Step:
    """`judge(batch, config, known)` must depend on nothing but the rows of the batch and what is known.

    How a batch was cut out of the documents must not show in what it gives: the engine chooses that.
    """

    name: str
    config: type[StageConfig]
    judge: Callable[[pa.RecordBatch, Any, Known], Judged]
    prepare: Callable[[Any, Inputs, Runtime], Arrays] | None = None
    learn: Callable[[Corpus, Any], Arrays] | None = None
    report: Callable[[Arrays, Any], dict[str, Any]] | None = None  # what statistics.json says of the arrays


@dataclass(frozen=True)
class Shard:
    """A file of documents, and the number of its first row when the rows of all shards are counted through."""

    index: int
    path: Path
    first_row: int

    def batches(self, columns: Sequence[str]) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
        """Row numbers (int64) and batches with these columns, of bounded size, in order."""
        from lmcraft.corpus.documents import read_shard

        row = self.first_row
        for batch in read_shard(self.path, columns):
            yield np.arange(row, row + batch.num_rows), batch
            row += batch.num_rows


def replace_columns(batch: pa.RecordBatch, columns: Mapping[str, pa.Array]) -> pa.RecordBatch:
    """The batch with some columns exchanged; names, order and types stay."""
    arrays = [columns.get(name, batch[name]) for name in batch.schema.names]
    return pa.RecordBatch.from_arrays(arrays, schema=batch.schema)


def note_changes(batch: pa.RecordBatch, changes: Iterable[Iterable[str]]) -> pa.RecordBatch:
    """Add names of changes, an iterable a row, to the column `changes`; a name already there is not repeated."""
    new = [list(names) for names in changes]
    changed = [row for row, names in enumerate(new) if names]
    if not changed:
        return batch
    noted = batch["changes"].to_pylist()
    for row in changed:
        noted[row] = list(dict.fromkeys([*(noted[row] or []), *new[row]]))
    return replace_columns(batch, {"changes": pa.array(noted, batch.schema.field("changes").type)})


def note_change(batch: pa.RecordBatch, name: str, rows: np.ndarray) -> pa.RecordBatch:
    """Add the name of a change to the column `changes` of some rows (bool, one a row) that do not have it."""
    if not rows.any():
        return batch
    old = batch["changes"]
    names, owners = old.flatten(), pc.list_parent_indices(old).to_numpy()
    rows = rows.copy()
    rows[owners[pc.equal(names, name).to_numpy(zero_copy_only=False)]] = False
    sizes = pc.fill_null(pc.list_value_length(old), 0).to_numpy()
    order = np.insert(np.arange(len(names)), np.cumsum(sizes)[rows], len(names))
    offsets = np.append(0, np.cumsum(sizes + rows)).astype(np.int32)
    none = np.append(pc.is_null(old).to_numpy(zero_copy_only=False) & ~rows, False)
    values = pa.concat_arrays([names, pa.array([name], names.type)]).take(pa.array(order))
    column = pa.ListArray.from_arrays(pa.array(offsets, mask=none), values)
    return replace_columns(batch, {"changes": column.cast(batch.schema.field("changes").type)})


def characters(batch: pa.RecordBatch) -> np.ndarray:
    """Length of each text in characters (int64)."""
    return pc.utf8_length(batch["text"]).to_numpy(zero_copy_only=False).astype(np.int64)


def add_score(batch: pa.RecordBatch, name: str, values: np.ndarray) -> pa.RecordBatch:
    """Write a number a row (float; NaN: none) into the column `scores`, in place of an earlier one of that name."""
    kind = batch.schema.field("scores").type
    if batch["scores"].null_count == batch.num_rows:
        there = ~np.isnan(values)
        offsets = pa.array(np.append(0, np.cumsum(there)).astype(np.int32), mask=np.append(~there, False))
        numbers = pa.array(values[there].astype(np.float32))
        column = pa.MapArray.from_arrays(offsets, pa.array([name] * len(numbers), pa.string()), numbers)
        return replace_columns(batch, {"scores": column.cast(kind)})
    scores = [dict(old or []) for old in batch["scores"].to_pylist()]
    for row, value in zip(scores, values.tolist(), strict=True):
        row.pop(name, None)
        if not math.isnan(value):
            row[name] = value
    column = pa.array([sorted(row.items()) or None for row in scores], kind)
    return replace_columns(batch, {"scores": column})


def score(batch: pa.RecordBatch, name: str) -> np.ndarray:
    """The number of that name of each row (float64), NaN where there is none."""
    return pc.map_lookup(batch["scores"], name, "first").to_numpy(zero_copy_only=False).astype(np.float64)
