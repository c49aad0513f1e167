"""Stage `collect`: sources -> documents. Every record is kept with its place, or set aside with the reason."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field, field_validator

from lmcraft.corpus import documents, folders, wheels
from lmcraft.corpus.readers import Columns, Fault, Item, Reading, Record, read_file
from lmcraft.recipe.stage import LOCATION, Inputs, Runtime, Source, Stage, StageConfig, UserError

SHARD_CHARACTERS = 64_000_000
"""A shard is also cut when it holds this much text, so that memory stays bounded when documents are long."""

PROGRESS_RECORDS = 256


class WheelFile(StageConfig):
    """What is known of one JSON file of a wheel."""

    language: str | None = Field(None, description="Language of its documents, such as `en`.")


class WheelFields(StageConfig):
    """Which field of a record holds what."""

    text: str = "text"
    title: str | None = "title"
    description: str | None = "description"
    topic: str | None = "topic"


class WheelSource(StageConfig):
    """JSON files inside a wheel of the Python package index; pip fetches it, nothing of it is installed or run."""

    kind: Literal["wheel"]
    name: str | None = Field(None, description="Name of the source in documents and statistics; default: the package.")
    package: str = Field(description="Name of the package.")
    version: str = Field(description="Exact version.")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="Digest of the wheel's file.")
    files: dict[str, WheelFile] = Field(min_length=1, description="Path inside the wheel -> what is known of the file.")
    fields: WheelFields = WheelFields()
    licence: str | None = Field(None, description="Licence of the texts (SPDX), kept with each document.")
    on_bad_record: Literal["skip", "fail"] = Field("skip", description="Count bad records and go on, or stop.")


class FolderSource(StageConfig):
    """Files of a folder: .txt .text .md .markdown .jsonl .jsonl.gz .jsonl.zst .parquet."""

    kind: Literal["folder"]
    name: str | None = Field(None, description="Name of the source in documents and statistics; default: the folder's.")
    path: str = Field(json_schema_extra=LOCATION, description="The folder (or one file).")
    pattern: str = Field("**/*", description="Which files: `**/` any folders, `*` and `?` within a name.")
    licence: str | None = Field(None, description="Licence of the texts (SPDX), kept with each document.")
    language: str | None = Field(None, description="Language of the texts, such as `en`; null: `curate` finds it.")
    text_column: str = Field("text", description="Field of JSONL and Parquet that holds the text.")
    title_column: str | None = Field("title", description="Field of the title, used where it exists.")
    description_column: str | None = Field("description", description="Field of the short description.")
    language_column: str | None = Field("language", description="Field of the language; it goes before `language`.")
    topic_column: str | None = Field("topic", description="Field of the topic.")
    licence_column: str | None = Field("licence", description="Field of the licence; it goes before `licence`.")
    on_bad_record: Literal["skip", "fail"] = Field("skip", description="Count bad records and go on, or stop.")

    @property
    def source_name(self) -> str:
        return self.name or Path(self.path).expanduser().resolve().name or "folder"

    def columns(self) -> Columns:
        parts = ("title", "description", "language", "topic", "licence")
        chosen = {part: getattr(self, f"{part}_column") for part in parts}
        named = {name for part, name in chosen.items() if name and f"{part}_column" in self.model_fields_set}
        return Columns(text=self.text_column, **chosen, required=frozenset(named))


AnySource = Annotated[WheelSource | FolderSource, Field(discriminator="kind")]


class CollectConfig(StageConfig):
    """Where documents come from."""

    sources: list[AnySource] = Field(min_length=1, description="Wheels and folders, read in this order.")
    shard_documents: int = Field(10_000, ge=1, description="Most documents in one shard; also how often work is saved.")
    max_record_bytes: int = Field(50_000_000, ge=1, description="A longer record is set aside, without loading it.")

    @field_validator("sources")
    @classmethod
    def _names_differ(cls, sources: list[Any]) -> list[Any]:
        names = [_name(source) for source in sources]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two sources are called {doubled[0]!r}; give each its own `name`")
        return sources


def sources(config: CollectConfig, runtime: Runtime) -> list[Source]:
    """What the step reads from outside: the pinned wheels, and every file of the folders with its digest."""
    found = []
    for source in config.sources:
        if isinstance(source, WheelSource):
            found.append(Source(f"pypi:{source.package}=={source.version}", source.sha256))
            continue
        listing = folders.list_files(source.path, source.pattern)
        for relative, path in listing.files:
            name = f"{_name(source)}/{relative}"
            try:
                found.append(Source(name, wheels.sha256_of(path), path.stat().st_size))
            except OSError as error:  # the run sets the file aside; that it could not be read is part of the input
                found.append(Source(name, sha256(f"unreadable: {error.strerror}".encode()).hexdigest()))
        for fault in listing.passed_over:
            found.append(Source(f"{_name(source)}/{fault.place}", sha256(fault.reason.encode()).hexdigest()))
    return found


def run(config: CollectConfig, inputs: Inputs, out: Path, runtime: Runtime) -> dict[str, Any]:
    """Read every source into shards of documents. A killed run goes on after its last finished shard."""
    out.mkdir(parents=True, exist_ok=True)
    shards = _Shards.resumed(config, out, (runtime.scratch or out) / ".collect.json")
    with runtime.progress.task("collect", None, "documents", done=shards.statistics.kept.documents) as task:
        for place in range(shards.cursor[0], len(config.sources)):
            source = config.sources[place]
            set_aside: Counter[str] = Counter()
            for number, (language, items) in enumerate(_files(source, config, runtime)):
                if [place, number] < shards.cursor[:2]:
                    continue
                done = index = shards.cursor[2] if [place, number] == shards.cursor[:2] else 0
                for index, item in enumerate(islice(items, done, None), done + 1):
                    if isinstance(item, Fault):
                        set_aside[item.reason] += 1
                        _stop_if_set(item, source)
                    shards.add(item, source, language)
                    if shards.full():
                        shards.publish([place, number, index])
                    if index % PROGRESS_RECORDS == 0:
                        task.advance(PROGRESS_RECORDS)
                task.advance((index - done) % PROGRESS_RECORDS)
            if not shards.holds(_name(source)):
                found = ", ".join(f"{number} x {reason}" for reason, number in sorted(set_aside.items()))
                raise UserError(
                    f"the source {_name(source)!r} gave no document ({found or 'it is empty'}); "
                    "give it text or take it out of the recipe"
                )
    shards.publish([len(config.sources), 0, 0])
    documents.write_json(out / "statistics.json", shards.statistics.to_json(documents.LARGEST_GROUPS))
    shards.ledger.unlink()
    return shards.statistics.summary()


PASSED_OVER = frozenset({"hidden file", "unknown format", "link not followed", "not a regular file"})
"""Not bad input, so `on_bad_record: fail` does not stop for them; they are counted all the same."""


@dataclass
class _Shards:
    """Documents and faults on their way into shards, and the ledger that says how far the published ones reach."""

    config: CollectConfig
    out: Path
    ledger: Path
    statistics: documents.Statistics = field(default_factory=documents.Statistics)
    cursor: list[int] = field(default_factory=lambda: [0, 0, 0])  # source, file, records of that file
    kept_shards: int = 0
    removed_shards: int = 0
    kept: list[dict[str, Any]] = field(default_factory=list)
    removed: list[dict[str, Any]] = field(default_factory=list)
    removed_sizes: list[int] = field(default_factory=list)
    characters: int = 0

    @staticmethod
    def resumed(config: CollectConfig, out: Path, ledger: Path) -> _Shards:
        ledger.parent.mkdir(parents=True, exist_ok=True)
        shards = _Shards(config, out, ledger)
        try:
            stored = json.loads(ledger.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            stored = None
        if stored is not None and stored["config"] == config.identity():
            shards.statistics = documents.Statistics.from_json(stored["statistics"])
            shards.cursor = stored["cursor"]
            shards.kept_shards, shards.removed_shards = stored["shards"]
        for kind, finished in (("documents", shards.kept_shards), ("removed", shards.removed_shards)):
            for path in sorted(out.glob(f"{kind}-*.parquet*"))[finished:]:
                path.unlink()
        return shards

    def holds(self, source: str) -> bool:
        """Whether the source gave any document."""
        return source in self.statistics.by["source"] or any(row["source"] == source for row in self.kept)

    def add(self, item: Item, source: WheelSource | FolderSource, language: str | None) -> None:
        text = item.text if isinstance(item, Record) else item.excerpt
        name = _name(source)
        row: dict[str, Any] = {"id": documents.document_id(name, item.place, text), "text": text, "source": name}
        row |= {"path": item.place, "licence": source.licence, "changes": []}
        if isinstance(item, Record):
            row |= {"title": item.title, "description": item.description, "topic": item.topic}
            row |= {"licence": item.licence or source.licence, "language": language_tag(item.language or language)}
            self.kept.append(row)
            self.characters += len(text)
        else:
            row |= {"reason": item.reason, "value": item.value, "threshold": item.threshold}
            self.removed.append(row)
            self.removed_sizes.append(item.size)

    def full(self) -> bool:
        most = self.config.shard_documents
        return len(self.kept) >= most or len(self.removed) >= most or self.characters >= SHARD_CHARACTERS

    def publish(self, cursor: list[int]) -> None:
        """Write what was gathered, then the ledger: a kill in between only repeats the same shards."""
        if self.kept:
            table = pa.Table.from_pylist(self.kept, schema=documents.SCHEMA)
            documents.write_parquet(self.out / f"documents-{self.kept_shards:05d}.parquet", table)
            self.statistics.keep(table)
            self.kept_shards += 1
        if self.removed:
            table = pa.Table.from_pylist(self.removed, schema=documents.REMOVED_SCHEMA)
            documents.write_parquet(self.out / f"removed-{self.removed_shards:05d}.parquet", table)
            self.statistics.remove(table, self.removed_sizes)
            self.removed_shards += 1
        self.kept, self.removed, self.removed_sizes, self.characters, self.cursor = [], [], [], 0, cursor
        stored = {
            "config": self.config.identity(),
            "cursor": cursor,
            "shards": [self.kept_shards, self.removed_shards],
            "statistics": self.statistics.to_json(),
        }
        documents.write_json(self.ledger, stored)


def language_tag(declared: str | None) -> str | None:
    """`EN_us` -> `en`: the language subtag, so that what sources declare can be compared."""
    return declared.strip().lower().replace("_", "-").split("-")[0] or None if declared else None


def _name(source: WheelSource | FolderSource) -> str:
    return source.source_name if isinstance(source, FolderSource) else source.name or source.package


def _files(
    source: WheelSource | FolderSource, config: CollectConfig, runtime: Runtime
) -> Iterator[tuple[str | None, Iterator[Item]]]:
    """For each file of a source the language declared for it and an iterator of its records."""
    note = runtime.progress.note
    if isinstance(source, WheelSource):
        wheel = wheels.fetch_wheel(source.package, source.version, source.sha256, runtime.cache)
        reading = Reading(
            Columns(**source.fields.model_dump(), language=None, licence=None), config.max_record_bytes, note
        )
        for name, items in wheels.read_wheel(wheel, source.files, reading, f"{source.package} {source.version}"):
            yield source.files[name].language, items
        return
    listing = folders.list_files(source.path, source.pattern)
    yield None, iter(listing.passed_over)
    reading = Reading(source.columns(), config.max_record_bytes, note)
    for relative, path in listing.files:
        yield source.language, read_file(path, relative, reading)


def _stop_if_set(fault: Fault, source: WheelSource | FolderSource) -> None:
    if source.on_bad_record == "fail" and fault.reason not in PASSED_OVER:
        raise UserError(
            f"{_name(source)}/{fault}; mend or remove it, or set on_bad_record: skip to set such records aside"
        )


STAGE = Stage(
    name="collect",
    version=1,
    config=CollectConfig,
    inputs={},
    output="documents",
    run=run,
    sources=sources,
    help="Gather documents from wheels and folders of text, Markdown, JSONL and Parquet, with licence and place.",
)
