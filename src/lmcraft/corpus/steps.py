"""The shape of a curation step, and what it hands back. Steps import no engine: Arrow in, Arrow out.

A *local* step looks at one batch of documents alone: it may change columns and drop rows. A *global* step compares
documents with one another: it computes keys batch by batch, then decides over the keys of all documents at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lmcraft.recipe.stage import StageConfig


@dataclass(frozen=True)
class Drop:
    """Rows to remove for one reason: a mask, what was measured on each row, and the limit it was held against."""

    reason: str
    rows: np.ndarray  # bool, one a row
    values: np.ndarray | None = None  # float, one a row
    threshold: float | None = None


@dataclass(frozen=True)
class Judged:
    """What a local step did to a batch: the same rows with new columns, and those to drop (the first reason counts)."""

    batch: pa.RecordBatch
    drops: tuple[Drop, ...] = ()


@dataclass
class Keys:
    """What a global step needs of every document, in the order of the documents.

    `first` orders the documents by who is kept before whom: longest first, then by id, so that it is total and does
    not depend on the order in which documents come.
    """

    ids: np.ndarray
    characters: np.ndarray
    keys: np.ndarray
    first: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.first = np.lexsort((self.ids, -self.characters))


@dataclass(frozen=True)
class Duplicates:
    """Documents that a global step removes: their indices, the index of the kept one each resembles, and how much."""

    rows: np.ndarray
    kept: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class LocalStep:
    """`judge(batch, config)`; must depend on nothing but the rows of the batch."""

    name: str
    config: type[StageConfig]
    judge: Callable[[pa.RecordBatch, Any], Judged]


@dataclass(frozen=True)
class GlobalStep:
    """`keys(batch, config)` gives an array with a row a document, `decide(keys, config)` what goes for what is kept.

    `reason` and `threshold(config)` are written beside each removed document.
    """

    name: str
    config: type[StageConfig]
    reason: str
    keys: Callable[[pa.RecordBatch, Any], np.ndarray]
    decide: Callable[[Keys, Any], Duplicates]
    threshold: Callable[[Any], float | None] = lambda config: None


Step = LocalStep | GlobalStep


def replace_columns(batch: pa.RecordBatch, columns: dict[str, pa.Array]) -> pa.RecordBatch:
    """The batch with some columns exchanged; names, order and types stay."""
    arrays = [columns.get(name, batch[name]) for name in batch.schema.names]
    return pa.RecordBatch.from_arrays(arrays, schema=batch.schema)


def note_changes(batch: pa.RecordBatch, changes: Iterable[Iterable[str]]) -> pa.RecordBatch:
    """Add names of changes, an iterable a row, to the column `changes`; a name already there is not repeated."""
    before = batch["changes"].to_pylist()
    after = [list(dict.fromkeys([*(old or []), *new])) for old, new in zip(before, changes, strict=True)]
    return replace_columns(batch, {"changes": pa.array(after, batch.schema.field("changes").type)})


def characters(batch: pa.RecordBatch) -> np.ndarray:
    """Length of each text in characters (int64)."""
    return pc.utf8_length(batch["text"]).to_numpy(zero_copy_only=False).astype(np.int64)
