"""Stage `collect`: sources -> documents. Every record is kept with its place, or set aside with the reason.

The parts of the sources (files, or pieces of large ones) are gathered into tasks of about `TASK_BYTES`, which the
engine's workers read in parallel; how they are cut does not depend on the engine, so neither do the shards.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import Field, field_validator

from lmcraft.corpus import documents
from lmcraft.corpus.engine import advance, open_engine
from lmcraft.corpus.readers.files import Fault, Item, Record
from lmcraft.corpus.removals import REASON, Removals, read_removals
from lmcraft.corpus.sources.opt_out import OptOut
from lmcraft.corpus.sources.registry import AnySource
from lmcraft.corpus.sources.source import Part, SourceConfig
from lmcraft.recipe.stage import LOCATION, Inputs, Progress, Runtime, Source, Stage, StageConfig, UserError, count

TASK_BYTES = 64_000_000
"""A task is a run of parts of one source of about so many bytes; a part that is larger is a task of its own."""

SHARD_CHARACTERS = 64_000_000
"""A shard is also cut when it holds this much text, so that memory stays bounded when documents are long."""

PROGRESS_RECORDS = 256


class CollectConfig(StageConfig):
    """Where documents come from."""

    sources: list[AnySource] = Field(min_length=1, description="Sources of documents, in this order.")
    shard_documents: int = Field(10_000, ge=1, description="Most documents in one shard; also how often work is saved.")
    opt_out: str | list[str] | None = Field(
        None,
        json_schema_extra=LOCATION,
        description="Whose texts are left out: a list file, or its rules such as `domain: example.org`.",
    )
    # An Arrow column of text holds 2 GiB.
    max_record_bytes: int = Field(
        50_000_000, ge=1, le=1_000_000_000, description="A longer record is set aside, without loading it."
    )

    @field_validator("sources")
    @classmethod
    def _names_differ(cls, sources: list[Any]) -> list[Any]:
        names = [source.source_name for source in sources]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two sources are called {doubled[0]!r}; give each its own `name`")
        return sources


def sources(config: CollectConfig, runtime: Runtime) -> list[Source]:
    """What the step reads from outside: every file of every source with its digest, and what is to be left out."""
    found = [found for source in config.sources for found in source.digests(runtime)]
    return found + _removals(config, runtime).sources() + OptOut.load(config.opt_out).identity()


def run(config: CollectConfig, inputs: Inputs, out: Path, runtime: Runtime) -> dict[str, Any]:
    """Read every source into shards of documents. A killed run goes on after its last finished shard."""
    out.mkdir(parents=True, exist_ok=True)
    scratch = (runtime.scratch or out) / ".collect"
    scratch.mkdir(parents=True, exist_ok=True)
    tasks = list(_tasks(config, runtime))
    opt_out = OptOut.load(config.opt_out)
    _forget_other_work(config, tasks, _removals(config, runtime), opt_out, out, scratch)
    size = sum(part.bytes for task in tasks for part in task.parts)
    plain = Runtime(workers=1, cache=runtime.cache, removals=runtime.removals)  # what a source on a worker is told
    statistics = documents.Statistics()
    faults: Counter[tuple[str, str]] = Counter()
    with (
        open_engine(runtime, len(tasks)) as engine,
        runtime.progress.task(f"collect {count(size)}B", None, "documents") as bar,
    ):
        for notes, ledger in engine.map(
            _run_task, [(config, task, opt_out, out, scratch, plain) for task in tasks], bar.advance
        ):
            for note in notes:
                runtime.progress.note(note)
            stored = json.loads(ledger.read_text(encoding="utf-8"))
            statistics.merge(documents.Statistics.from_json(stored["statistics"]))
            faults.update({(stored["source"], reason): number for reason, number in stored["faults"].items()})
    for name in (source.source_name for source in config.sources):
        if name not in statistics.by["source"]:
            found = ", ".join(f"{number} x {reason}" for (of, reason), number in sorted(faults.items()) if of == name)
            raise UserError(
                f"the source {name!r} gave no document ({found or 'it is empty'}); "
                "give it text or take it out of the recipe"
            )
    documents.write_json(out / "statistics.json", statistics.to_json(documents.LARGEST_GROUPS))
    for path in scratch.iterdir():
        path.unlink()
    scratch.rmdir()
    return statistics.summary()


@dataclass(frozen=True)
class _Task:
    """Some parts of one source, in order; the first task of a source also reports what was passed over."""

    number: int
    source: int
    parts: Sequence[Part]
    passed_over: Sequence[Fault] = ()


def _tasks(config: CollectConfig, runtime: Runtime) -> Iterator[_Task]:
    number = 0
    for place, source in enumerate(config.sources):
        listing = source.listing(runtime)
        passed_over: Sequence[Fault] = listing.passed_over
        parts: list[Part] = []
        for part in listing.parts:
            if parts and sum(item.bytes for item in parts) + part.bytes > TASK_BYTES:
                yield _Task(number, place, parts, passed_over)
                number, parts, passed_over = number + 1, [], ()
            parts.append(part)
        yield _Task(number, place, parts, passed_over)
        number += 1


def _run_task(
    config: CollectConfig, task: _Task, opt_out: OptOut, out: Path, scratch: Path, runtime: Runtime
) -> tuple[list[str], Path]:
    """Read one task into shards, on a worker; lines for the user, and the ledger."""
    source: SourceConfig = config.sources[task.source]
    notes: list[str] = []
    runtime = replace(runtime, progress=_Notes(notes))
    shards = _Shards.resumed(config, source, task.number, out, scratch)
    shards.removals = read_removals(runtime.removals).of([source.source_name])
    shards.opt_out = opt_out
    if shards.finished:
        advance(shards.statistics.kept.documents)
        return notes, shards.ledger
    advance(shards.statistics.kept.documents)
    items: Iterator[Item]
    for number in range(shards.cursor[0], len(task.parts) + 1):
        if number == 0:
            items = iter(task.passed_over)
        else:
            items = source.read(task.parts[number - 1], config.max_record_bytes, runtime)
        done = index = shards.cursor[1] if number == shards.cursor[0] else 0
        for index, item in enumerate(islice(items, done, None), done + 1):
            shards.add(item)
            if shards.full():
                shards.publish([number, index])
            if index % PROGRESS_RECORDS == 0:
                advance(PROGRESS_RECORDS)
        advance((index - done) % PROGRESS_RECORDS)
    shards.finished = True
    shards.publish([len(task.parts) + 1, 0])
    return notes, shards.ledger


_NONE: list[str] = []


def _columns() -> dict[str, list[Any]]:
    """What a source says of documents, by columns of `documents.SCHEMA`."""
    names = ("id", "text", "title", "description", "language", "topic", "format", "path")
    return {name: [] for name in (*names, "url", "offset", "collected_at", "licence", "changes")}


@dataclass
class _Shards:
    """Documents and faults on their way into shards, and the ledger that says how far the published ones reach."""

    config: CollectConfig
    source: SourceConfig
    number: int
    out: Path
    ledger: Path
    removals: Removals = field(default_factory=Removals)
    opt_out: OptOut = field(default_factory=OptOut)
    statistics: documents.Statistics = field(default_factory=documents.Statistics)
    faults: Counter[str] = field(default_factory=Counter)
    finished: bool = False
    cursor: list[int] = field(default_factory=lambda: [0, 0])  # part, records of it
    kept_shards: int = 0
    removed_shards: int = 0
    kept: dict[str, list[Any]] = field(default_factory=_columns)
    removed: list[dict[str, Any]] = field(default_factory=list)
    removed_sizes: list[int] = field(default_factory=list)
    characters: int = 0

    @staticmethod
    def resumed(config: CollectConfig, source: SourceConfig, number: int, out: Path, scratch: Path) -> _Shards:
        shards = _Shards(config, source, number, out, scratch / f"{number:05d}.json")
        with contextlib.suppress(OSError, ValueError):
            stored = json.loads(shards.ledger.read_text(encoding="utf-8"))
            shards.statistics = documents.Statistics.from_json(stored["statistics"])
            shards.faults = Counter(stored["faults"])
            shards.finished, shards.cursor = stored["finished"], stored["cursor"]
            shards.kept_shards, shards.removed_shards = stored["shards"]
        for kind, finished in (("documents", shards.kept_shards), ("removed", shards.removed_shards)):
            for path in sorted(out.glob(f"{kind}-{number:05d}-*.parquet*"))[finished:]:
                path.unlink()
        return shards

    def add(self, item: Item) -> None:
        opted_out = self.opt_out.fault(item, self.source.source_name) if isinstance(item, Record) else None
        item = opted_out or item
        if isinstance(item, Fault):
            self.faults[item.reason] += 1
            if self.source.stops_at(item) and not opted_out:
                raise UserError(
                    f"{self.source.source_name}/{item}; mend or remove it, or set on_bad_record: skip to set such "
                    "records aside"
                )
        name = self.source.source_name
        if isinstance(item, Record):
            self._add_record(name, item)
            return
        address = item.place if "://" in item.place else None
        identity = documents.document_id(name, item.place, item.excerpt)
        unwanted = self.removals.wants(name, identity, item.excerpt, item.place, address)
        if unwanted or self.opt_out.rule(name, item.place, address, identity):
            text = ""  # the beginning of a broken record is a text too
        else:
            text = item.excerpt
        row = {"id": identity, "text": text, "source": name, "reason": item.reason}
        self._remove(row | {"value": item.value, "threshold": item.threshold}, item.place, item.size)

    def _add_record(self, name: str, record: Record) -> None:
        identity = documents.document_id(name, record.place, record.text)
        if self.removals.wants(name, identity, record.text, record.place, record.url):
            # Where it was stays on record; what it said does not.
            self.faults[REASON] += 1
            row = {"id": identity, "text": "", "source": name, "url": link(record.url), "reason": REASON}
            self._remove(row, record.place, len(record.text.encode("utf-8", "surrogatepass")))
            return
        kept = self.kept
        kept["id"].append(identity)
        kept["text"].append(record.text)
        kept["title"].append(record.title)
        kept["description"].append(record.description)
        kept["language"].append(language_tag(record.language))
        kept["topic"].append(record.topic)
        kept["format"].append(record.format)
        kept["path"].append(record.place)
        kept["url"].append(link(record.url))
        kept["offset"].append(record.offset)
        kept["collected_at"].append(record.collected_at)
        kept["licence"].append(record.licence or self.source.licence)
        kept["changes"].append([record.note] if record.note else _NONE)
        self.characters += len(record.text)

    def _remove(self, row: dict[str, Any], place: str, size: int) -> None:
        self.removed.append(row | {"path": place, "licence": self.source.licence, "changes": []})
        self.removed_sizes.append(size)

    def full(self) -> bool:
        most = self.config.shard_documents
        return len(self.kept["id"]) >= most or len(self.removed) >= most or self.characters >= SHARD_CHARACTERS

    def publish(self, cursor: list[int]) -> None:
        """Write what was gathered, then the ledger: a kill in between only repeats the same shards."""
        if count := len(self.kept["id"]):
            columns = self.kept | {"source": [self.source.source_name] * count}
            arrays = [
                pa.array(columns[field.name], field.type) if field.name in columns else pa.nulls(count, field.type)
                for field in documents.SCHEMA
            ]
            table = pa.Table.from_arrays(arrays, schema=documents.SCHEMA)
            documents.write_parquet(self.out / f"documents-{self.number:05d}-{self.kept_shards:05d}.parquet", table)
            self.statistics.keep(table)
            self.kept_shards += 1
        if self.removed:
            table = pa.Table.from_pylist(self.removed, schema=documents.REMOVED_SCHEMA)
            documents.write_parquet(self.out / f"removed-{self.number:05d}-{self.removed_shards:05d}.parquet", table)
            self.statistics.remove(table, self.removed_sizes)
            self.removed_shards += 1
        self.kept, self.removed, self.removed_sizes, self.characters, self.cursor = _columns(), [], [], 0, cursor
        stored = {
            "source": self.source.source_name,
            "finished": self.finished,
            "cursor": cursor,
            "shards": [self.kept_shards, self.removed_shards],
            "faults": dict(self.faults),
            "statistics": self.statistics.to_json(),
        }
        documents.write_json(self.ledger, stored)


def link(url: str | None) -> str | None:
    """An address as it may be shown to follow: nothing that a browser would run (`javascript:`, `data:`), no mail."""
    if url is None:
        return None
    scheme = _SCHEME.match(url)
    return None if scheme and scheme[1].lower() not in _LINKS else url


_SCHEME = re.compile(r"[\0-\x20]*([A-Za-z][A-Za-z0-9+\t\r\n-]*):(?!\d+(?:/|$))")
"""Of an address that has one: `example.org:80/a` and `localhost:80/a` have none."""

_LINK_WORDS = """
http https ftp ftps sftp s3 gs gcs az abfs hf file git ssh svn ipfs gopher gemini doi urn
"""
_LINKS = frozenset(_LINK_WORDS.split())


def language_tag(declared: str | None) -> str | None:
    """`EN_us` -> `en`: the language subtag, so that what sources declare can be compared."""
    return declared.strip().lower().replace("_", "-").split("-")[0] or None if declared else None


def _removals(config: CollectConfig, runtime: Runtime) -> Removals:
    return read_removals(runtime.removals).of(source.source_name for source in config.sources)


def _forget_other_work(
    config: CollectConfig, tasks: Sequence[_Task], removals: Removals, opt_out: OptOut, out: Path, scratch: Path
) -> None:
    """Keep what an interrupted run of the same work left, and only that."""
    parts = [[task.source, [[part.name, part.bytes, repr(part.cut)] for part in task.parts]] for task in tasks]
    kept = {"removals": [item.same() for item in removals.items], "opt_out": opt_out.digest}
    work = json.loads(json.dumps({"config": config.identity(), "tasks": parts} | kept))
    ledger = scratch / "work.json"
    with contextlib.suppress(OSError, ValueError):
        if json.loads(ledger.read_text(encoding="utf-8")) == work:
            return
    for path in [*scratch.iterdir(), *out.glob("*-[0-9]*.parquet*")]:
        path.unlink()
    documents.write_json(ledger, work)


class _Notes(Progress):
    """Gathers on a worker what the user is to read."""

    def __init__(self, notes: list[str]) -> None:
        self.notes = notes

    def note(self, text: str) -> None:
        self.notes.append(text)


STAGE = Stage(
    name="collect",
    version=3,
    config=CollectConfig,
    inputs={},
    output="documents",
    run=run,
    sources=sources,
    help="Gather documents from folders, archives, the web, Git and the package index, with licence and place.",
)
