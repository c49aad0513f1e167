"""Documents on disk: the columns, how shards are written and read, and the statistics that account for every row."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lmcraft.recipe.stage import UserError

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("title", pa.string()),
        pa.field("description", pa.string()),
        pa.field("language", pa.string()),
        pa.field("topic", pa.string()),
        pa.field("format", pa.string()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("url", pa.string()),
        pa.field("offset", pa.int64()),
        pa.field("collected_at", pa.timestamp("ms", "UTC")),
        pa.field("licence", pa.string()),
        pa.field("parent", pa.string()),
        pa.field("split", pa.string()),
        pa.field("repeats", pa.int32()),
        pa.field("scores", pa.map_(pa.string(), pa.float32())),
        pa.field("changes", pa.list_(pa.string())),
    ]
)
"""One row a document.

`format`: null for plain text, else `html`, `markdown` or `code`. `path`: the place inside the source
(`sub/file.jsonl:17`). `offset`: first byte of the record in its file, decompressed. `collected_at`: when the source
says it was fetched; null when it does not say (the manifest has the time of the run). `parent`: id of the collected
document that this one was made of. `split`: null until `curate`. `repeats`: how often a pass over the training text
sees it (null: once). `scores`: what steps measured, by name.
"""

REMOVED_SCHEMA = pa.schema(
    [
        *SCHEMA,
        pa.field("step", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("threshold", pa.float64()),
        pa.field("kept_id", pa.string()),
    ]
)
"""A removed document: its columns as they were, the step that removed it (null: it was never collected), the reason,
the value measured, the limit it broke, and for a duplicate the id of the kept document that it resembles."""

DIMENSIONS = ("source", "language", "topic", "licence", "format", "split")
SAMPLES = 20
SAMPLE_CHARACTERS = 300
LARGEST_GROUPS = 1000
"""Most values of one dimension that `statistics.json` lists; the rest are added up under `OTHER`."""
NONE, OTHER = "(none)", "(other)"


def document_id(source: str, path: str, text: str) -> str:
    """32 hex characters that follow from where a document was found and what it says."""
    return hashlib.sha256(f"{source}\0{path}\0{text}\0".encode()).hexdigest()[:32]


def read_documents(
    directory: Path, columns: Sequence[str] | None = None, split: str | None = None
) -> Iterator[pa.RecordBatch]:
    """The documents of an artifact in their stored order, as batches of at most a few thousand rows.

    `columns` picks some (in that order); `split` keeps only "train" or "heldout" documents.
    Raises UserError when the folder holds no documents or a file is damaged.
    """
    wanted = list(columns) if columns is not None else SCHEMA.names
    if unknown := [name for name in wanted if name not in SCHEMA.names]:
        raise KeyError(f"documents have no column {unknown[0]!r}; their columns are {', '.join(SCHEMA.names)}")
    read = wanted if split is None or "split" in wanted else [*wanted, "split"]
    for path in shard_paths(directory):
        for batch in read_shard(path, read):
            kept = batch if split is None else batch.filter(pc.fill_null(pc.equal(batch["split"], split), False))
            if kept.num_rows:
                yield kept.select(wanted)


def read_statistics(directory: Path) -> dict[str, Any]:
    """`statistics.json` of a documents artifact. Raises UserError when it is missing or damaged."""
    path = directory / "statistics.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); build the documents again") from error


def shard_paths(directory: Path) -> list[Path]:
    """The artifact's shards in order. Raises UserError when there are none."""
    paths = sorted(directory.glob("documents-*.parquet"))
    if not paths:
        raise UserError(
            f"{directory} holds no documents (no documents-*.parquet); give a folder made by collect or curate"
        )
    return paths


BATCH_BYTES = 8_000_000
"""About so much text goes into a batch."""


def read_shard(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Batches of one shard in stored order, each of about `BATCH_BYTES` of text and at most 4096 rows.

    A column that may be null need not be there. Raises UserError when it is damaged or lacks another.
    """
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            missing = [field.name for field in SCHEMA if not field.nullable and field.name not in names]
            if missing:
                raise UserError(f"{path} has no column {missing[0]!r}, so it is not a shard of documents")
            mean = _text_bytes(file.metadata) / max(file.metadata.num_rows, 1)
            rows = max(1, min(4096, int(BATCH_BYTES / max(mean, 1))))
            schema = pa.schema([SCHEMA.field(name) for name in columns or SCHEMA.names])
            stored = [name for name in schema.names if name in names]
            for batch in file.iter_batches(batch_size=rows, columns=stored):
                arrays = [
                    batch[field.name].cast(field.type) if field.name in stored else pa.nulls(batch.num_rows, field.type)
                    for field in schema
                ]
                yield pa.RecordBatch.from_arrays(arrays, schema=schema)
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{path} cannot be read as Parquet ({_first_line(error)}); build the documents again"
        ) from error


def stored_bytes(directory: Path) -> int:
    """About how much text the shards hold, by their own records: nothing is read but the ends of the files."""
    return sum(_text_bytes(pq.read_metadata(path)) for path in shard_paths(directory))


def _text_bytes(metadata: pq.FileMetaData) -> int:
    groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
    columns = (group.column(number) for group in groups for number in range(group.num_columns))
    return sum(column.total_uncompressed_size for column in columns if column.path_in_schema == "text")


def shard_rows(path: Path) -> int:
    """Documents in a shard. Raises UserError when it is damaged."""
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{path} cannot be read as Parquet ({_first_line(error)}); build the documents again"
        ) from error


def write_parquet(path: Path, table: pa.Table, level: int = 3) -> None:
    """Write a table so that the file is whole whenever it has its final name; `level` of zstd."""
    partial = path.with_name(path.name + ".tmp")
    with partial.open("wb") as file:
        pq.write_table(table, file, compression="zstd", compression_level=level, row_group_size=8192)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the file is whole whenever it has its final name."""
    partial = path.with_name(path.name + ".tmp")
    with partial.open("w", encoding="utf-8", newline="\n") as file:
        json.dump(value, file, ensure_ascii=False, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


@dataclass
class Tally:
    """So many documents, so many bytes of UTF-8 text."""

    documents: int = 0
    bytes: int = 0

    def add(self, documents: int, size: int) -> None:
        self.documents += documents
        self.bytes += size

    def to_json(self) -> dict[str, int]:
        return {"documents": self.documents, "bytes": self.bytes}


@dataclass
class Flow:
    """What one step left, and what it removed by reason."""

    left: Tally = field(default_factory=Tally)
    removed: dict[str, Tally] = field(default_factory=dict)

    def merge(self, other: Flow) -> None:
        self.left.add(other.left.documents, other.left.bytes)
        for reason, tally in other.removed.items():
            self.removed.setdefault(reason, Tally()).add(tally.documents, tally.bytes)

    def to_json(self) -> dict[str, Any]:
        return {
            **self.left.to_json(),
            "removed": {name: tally.to_json() for name, tally in sorted(self.removed.items())},
        }


@dataclass
class Removals:
    """What one reason removed, and the `SAMPLES` of it with the smallest ids (a random draw that repeats)."""

    tally: Tally = field(default_factory=Tally)
    samples: list[dict[str, Any]] = field(default_factory=list)

    def add(self, tally: Tally, samples: list[dict[str, Any]]) -> None:
        self.tally.add(tally.documents, tally.bytes)
        self.samples = sorted([*self.samples, *samples], key=lambda sample: (sample["id"], sample["path"]))[:SAMPLES]


@dataclass
class Statistics:
    """Counts of kept and removed documents; those of two shards add up to those of both.

    `came`: what there was before the first step of `curate`, as steps may make several documents of one. `flow`: what
    each step left and removed, in the order of the steps.
    """

    kept: Tally = field(default_factory=Tally)
    removed: dict[str, Removals] = field(default_factory=dict)
    by: dict[str, dict[str, Tally]] = field(default_factory=lambda: {name: {} for name in DIMENSIONS})
    changes: Counter[str] = field(default_factory=Counter)
    came: Tally = field(default_factory=Tally)
    flow: dict[str, Flow] = field(default_factory=dict)

    @property
    def total(self) -> Tally:
        """Everything that came in."""
        if self.flow:
            return self.came
        total = Tally(self.kept.documents, self.kept.bytes)
        for removals in self.removed.values():
            total.add(removals.tally.documents, removals.tally.bytes)
        return total

    def keep(self, table: pa.Table) -> None:
        """Count kept documents (columns of `SCHEMA`)."""
        sizes = pc.binary_length(table["text"])
        self.kept.add(table.num_rows, pc.sum(sizes).as_py() or 0)
        for name in DIMENSIONS:
            groups = pa.table({"value": table[name], "size": sizes}).group_by("value")
            for row in groups.aggregate([("size", "sum"), ("size", "count")]).to_pylist():
                value = NONE if row["value"] is None else row["value"]
                self.by[name].setdefault(value, Tally()).add(row["size_count"], row["size_sum"])
        for row in pc.value_counts(pc.list_flatten(table["changes"])).to_pylist():
            self.changes[row["values"]] += row["counts"]

    def remove(self, table: pa.Table, sizes: Sequence[int] | None = None) -> None:
        """Count removed documents (columns of `REMOVED_SCHEMA`); `sizes` in bytes when the text is only an excerpt."""
        size = pa.array(sizes, pa.int64()) if sizes is not None else pc.binary_length(table["text"])
        sized = table.append_column("bytes", size)
        for reason in sorted(set(table["reason"].to_pylist())):
            rows = sized.filter(pc.equal(sized["reason"], reason))
            first = rows.take(pc.sort_indices(rows, [("id", "ascending"), ("path", "ascending")])[:SAMPLES])
            tally = Tally(rows.num_rows, pc.sum(rows["bytes"]).as_py())
            self.removed.setdefault(reason, Removals()).add(tally, [_sample(row) for row in first.to_pylist()])

    def merge(self, other: Statistics) -> None:
        self.kept.add(other.kept.documents, other.kept.bytes)
        for reason, removals in other.removed.items():
            self.removed.setdefault(reason, Removals()).add(removals.tally, removals.samples)
        for name, groups in other.by.items():
            for value, tally in groups.items():
                self.by[name].setdefault(value, Tally()).add(tally.documents, tally.bytes)
        self.changes.update(other.changes)
        self.came.add(other.came.documents, other.came.bytes)
        for step, flow in other.flow.items():
            self.flow.setdefault(step, Flow()).merge(flow)

    def to_json(self, largest: int | None = None) -> dict[str, Any]:
        """As stored; `largest` limits how many values of a dimension are listed (by bytes, then by name)."""
        return {
            **self.kept.to_json(),
            "in": self.total.to_json(),
            "removed": {
                reason: {**removals.tally.to_json(), "samples": removals.samples}
                for reason, removals in sorted(
                    self.removed.items(), key=lambda item: (-item[1].tally.documents, item[0])
                )
            },
            "by": {name: _largest(groups, largest) for name, groups in self.by.items()},
            "changes": dict(sorted(self.changes.items())),
            "flow": {step: flow.to_json() for step, flow in self.flow.items()},
        }

    @staticmethod
    def from_json(stored: Mapping[str, Any]) -> Statistics:
        def tally(item: Mapping[str, Any]) -> Tally:
            return Tally(item["documents"], item["bytes"])

        return Statistics(
            kept=tally(stored),
            removed={reason: Removals(tally(item), item["samples"]) for reason, item in stored["removed"].items()},
            by={
                name: {value: tally(item) for value, item in stored["by"].get(name, {}).items()} for name in DIMENSIONS
            },
            changes=Counter(stored["changes"]),
            came=tally(stored["in"]) if stored["flow"] else Tally(),
            flow={
                step: Flow(tally(item), {reason: tally(gone) for reason, gone in item["removed"].items()})
                for step, item in stored["flow"].items()
            },
        )

    def summary(self) -> dict[str, Any]:
        """The few numbers that go into the manifest."""
        reasons = {reason: removals.tally.documents for reason, removals in sorted(self.removed.items())}
        return {"in": self.total.documents, **self.kept.to_json(), "removed": reasons}


def _largest(groups: Mapping[str, Tally], limit: int | None) -> dict[str, dict[str, int]]:
    ordered = sorted(groups.items(), key=lambda item: (-item[1].bytes, item[0]))
    listed = {value: tally.to_json() for value, tally in ordered[:limit]}
    if limit is not None and len(ordered) > limit:
        other = Tally()
        for _, tally in ordered[limit:]:
            other.add(tally.documents, tally.bytes)
        listed[OTHER] = other.to_json()
    return listed


def _sample(row: Mapping[str, Any]) -> dict[str, Any]:
    names = ("id", "title", "source", "path", "value", "threshold", "kept_id")
    sample: dict[str, Any] = {name: row[name] for name in names if name != "kept_id" or row[name] is not None}
    sample["text"] = row["text"][:SAMPLE_CHARACTERS]
    return sample


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
