"""Stage `curate`: documents -> documents that are mended, masked, checked, unique, and split.

The steps run in *passes* over the shards. A step that learns looks at every shard first and begins a new pass; the
steps that follow it go along. Each shard of a pass is a task for the engine's workers: read, apply the steps, publish
the shard, then a ledger line that counts it. A killed run keeps every shard that has its line.
"""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from lmcraft.corpus import documents
from lmcraft.corpus.engine import Engine, advance, open_engine
from lmcraft.corpus.engine.corpus import Corpus
from lmcraft.corpus.step import Arrays, Drop, Judged, Known, Shard, Step
from lmcraft.corpus.steps.registry import StepChoice, default_steps, step_and_config
from lmcraft.corpus.steps.split import SPLIT, Split
from lmcraft.recipe.stage import Input, Inputs, Runtime, Stage, StageConfig, UserError

WORK = "work.json"
"""Names the work whose shards a scratch folder holds."""

DONE = "done.json"
"""Says that a pass is complete."""


class CurateConfig(StageConfig):
    """What is done to documents, and how many are held out."""

    steps: list[StepChoice] = Field(
        default_factory=default_steps, description="Steps in order, each `- name: {settings}`."
    )
    heldout: float = Field(0.03, ge=0, lt=1, description="Share of documents kept from training, chosen by hash.")
    heldout_minimum: int = Field(8, ge=0, description="Hold out at least so many, if that is no more than a quarter.")
    on_error: Literal["set_aside", "stop"] = Field(
        "set_aside", description="When a step fails on a document: keep it aside with the error, or stop the run."
    )


def run(config: CurateConfig, inputs: Inputs, out: Path, runtime: Runtime) -> dict[str, Any]:
    """Apply the steps and the split. Raises UserError when nothing is left."""
    out.mkdir(parents=True, exist_ok=True)
    found = inputs["documents"]
    folders = [Path(folder) for folder in (found if isinstance(found, list) else [found])]
    shards = [path for folder in folders for path in documents.shard_paths(folder)]
    others = {name: value for name, value in inputs.items() if name != "documents"}
    scratch = (runtime.scratch or out) / ".curate"
    _forget_other_work(scratch, out, config, shards, others)
    passes = _passes(config)
    statistics = documents.Statistics()
    reports: dict[str, Any] = {}
    works = [
        _Pass(number, steps, scratch, out if number == len(passes) - 1 else None, config.on_error, others)
        for number, steps in enumerate(passes)
    ]
    for work in works:  # first of all, as what is missing for the last step should not come out in the end
        work.prepare(runtime)
    with open_engine(runtime, len(shards)) as engine:
        for work in works:
            shards, made = work.run(shards, engine, runtime)
            statistics.merge(made)
            reports |= work.reports()
    _check(statistics, config, out)
    for label, flow in statistics.flow.items():
        if failed := flow.removed.get(f"error in {label}"):
            runtime.progress.note(
                f"  {label} FAILED on {failed.documents} documents; they are set aside, the errors in errors-*.parquet"
            )
    stored = statistics.to_json(documents.LARGEST_GROUPS)
    stored["steps"] = reports
    documents.write_json(out / "statistics.json", stored)
    (scratch / WORK).unlink()  # first, so that a kill in the next line leaves nothing that looks like work to continue
    shutil.rmtree(scratch)
    splits = {split: tally.documents for split, tally in sorted(statistics.by["split"].items())}
    return statistics.summary() | {"split": splits}


@dataclass(frozen=True)
class _Labelled:
    """A step of this run: `label` is its name, numbered when the recipe has it more than once."""

    label: str
    step: Step
    settings: StageConfig


def _passes(config: CurateConfig) -> list[list[_Labelled]]:
    """The steps in runs, each beginning with one that learns (the first perhaps not); the last does the split."""
    chosen = [step_and_config(choice) for choice in config.steps]
    chosen.append((SPLIT, Split(heldout=config.heldout, heldout_minimum=config.heldout_minimum)))
    seen: dict[str, int] = {}
    passes: list[list[_Labelled]] = [[]]
    for step, settings in chosen:
        seen[step.name] = seen.get(step.name, 0) + 1
        label = step.name if seen[step.name] == 1 else f"{step.name} {seen[step.name]}"
        if step.learn is not None and passes[-1]:
            passes.append([])
        passes[-1].append(_Labelled(label, step, settings))
    return passes


@dataclass(frozen=True)
class _Pass:
    """One pass: its steps, and where its shards go. `out` is the artifact's folder in the last pass."""

    number: int
    steps: Sequence[_Labelled]
    scratch: Path
    out: Path | None
    on_error: str
    inputs: Inputs

    @property
    def folder(self) -> Path:
        return self.scratch / f"pass-{self.number}"

    def run(self, shards: Sequence[Path], engine: Engine, runtime: Runtime) -> tuple[list[Path], documents.Statistics]:
        """Bring every shard through; the shards made, and the counts of this pass."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / DONE).exists():
            total = documents.Statistics()
            numbered = list(_numbered(shards))
            self._learn(numbered, engine, runtime)
            rows = sum(map(documents.shard_rows, shards))
            label = ", ".join(item.label for item in self.steps)
            with runtime.progress.task(label, rows, "documents") as task:
                for ledger in engine.map(_run_shard, [(self, shard) for shard in numbered], task.advance):
                    total.merge(documents.Statistics.from_json(json.loads(ledger.read_text(encoding="utf-8"))))
            documents.write_json(self.folder / DONE, total.to_json())
            if self.number:  # what the pass before made has been read for the last time
                for path in (self.scratch / f"pass-{self.number - 1}").glob("documents-*.parquet"):
                    path.unlink()
        stored = json.loads((self.folder / DONE).read_text(encoding="utf-8"))
        made = [self.target(index) for index in range(len(shards))]
        return made, documents.Statistics.from_json(stored)

    def target(self, index: int) -> Path:
        return (self.out or self.folder) / f"documents-{index:05d}.parquet"

    def prepare(self, runtime: Runtime) -> None:
        """Publish what steps make of their settings and the other inputs."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for item in self.steps:
            if item.step.prepare is not None and not (folder := self._place("prepared", item)).exists():
                _store_arrays(folder, item.step.prepare(item.settings, self.inputs, runtime))

    def arrays(self, item: _Labelled) -> Arrays:
        """What a step has prepared and learnt."""
        return {**_load_arrays(self._place("prepared", item)), **_load_arrays(self._place("learnt", item))}

    def _place(self, kind: str, item: _Labelled) -> Path:
        return self.folder / f"{kind}-{item.label.replace(' ', '-')}"

    def reports(self) -> dict[str, Any]:
        return {
            item.label: item.step.report(self.arrays(item), item.settings)
            for item in self.steps
            if item.step.report is not None
        }

    def _learn(self, shards: Sequence[Shard], engine: Engine, runtime: Runtime) -> None:
        """Publish what the steps of this pass must know of all documents."""
        rows = sum(documents.shard_rows(shard.path) for shard in shards)
        for item in self.steps:
            folder = self._place("learnt", item)
            if item.step.learn is None or folder.exists():
                continue
            work = self._place("learn", item)
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            corpus = Corpus(shards, rows, self.inputs, work, engine, runtime.progress)
            _store_arrays(folder, item.step.learn(corpus, item.settings))
            shutil.rmtree(work)


def _numbered(shards: Sequence[Path]) -> Iterator[Shard]:
    row = 0
    for index, path in enumerate(shards):
        yield Shard(index, path, row)
        row += documents.shard_rows(path)


def _store_arrays(folder: Path, arrays: Arrays) -> None:
    partial = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for name, array in arrays.items():
        np.save(partial / f"{name}.npy", array, allow_pickle=False)
    partial.rename(folder)


def _load_arrays(folder: Path) -> Arrays:
    """Arrays mapped into memory, so that workers share them."""
    return _mapped(folder, folder.stat().st_mtime_ns) if folder.exists() else {}


@functools.lru_cache(maxsize=32)
def _mapped(folder: Path, changed: int) -> Arrays:
    loaded: dict[str, np.ndarray] = {}
    for path in sorted(folder.glob("*.npy")):
        empty = path.stat().st_size < 4096 and not np.load(path, allow_pickle=False).size  # nothing to map
        loaded[path.stem] = np.load(path, mmap_mode=None if empty else "r", allow_pickle=False)
    return loaded


def _run_shard(work: _Pass, shard: Shard) -> Path:
    """Bring one shard through the steps of a pass, on a worker; gives the ledger."""
    ledger = work.folder / f"{shard.index:05d}.json"
    if ledger.exists():
        advance(documents.shard_rows(shard.path))
        return ledger
    made = _Made(work.steps)
    known = [Known(work.arrays(item), work.inputs, label=item.label) for item in work.steps]
    row = shard.first_row
    for batch in documents.read_shard(shard.path):
        rows = np.arange(row, row + batch.num_rows)
        row += batch.num_rows
        if work.number == 0:
            made.came.add(batch.num_rows, _text_bytes(batch))
        for item, knowledge in zip(work.steps, known, strict=True):
            # Only the first step of a pass learns, so the rows are still those that it counted.
            at = replace(knowledge, rows=rows) if item.step.learn is not None else knowledge
            judgements = _judge(item, batch, at, work.on_error)
            batch = pa.concat_batches([made.take(item.label, judged) for judged in judgements])  # noqa: PLW2901
            made.flow[item.label].left.add(batch.num_rows, _text_bytes(batch))
        made.kept.append(batch)
        advance(len(rows))
    made.write(work, shard.index)
    documents.write_json(ledger, made.statistics(work.out is not None).to_json())
    return ledger


def _judge(item: _Labelled, batch: pa.RecordBatch, known: Known, on_error: str) -> Iterator[Judged]:
    """The step's judgement; where it fails, of ever smaller parts, until the documents that it fails on are alone."""
    if batch.num_rows == 0:
        yield Judged(batch)
        return
    try:
        judged = item.step.judge(batch, item.settings, known)
        yield judged
    except (UserError, MemoryError, OSError):
        raise
    except Exception as error:
        if batch.num_rows > 1:
            half = batch.num_rows // 2
            for start, size in ((0, half), (half, batch.num_rows - half)):
                rows = None if known.rows is None else known.rows[start : start + size]
                yield from _judge(item, batch.slice(start, size), replace(known, rows=rows), on_error)
            return
        what = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
        if on_error == "stop":
            place = f"{batch['source'][0]}/{batch['path'][0]} (id {batch['id'][0]})"
            raise UserError(
                f"the step {item.label!r} failed on {place}: {what}; mend it, or set on_error: set_aside"
            ) from error
        aside = pa.table({"id": batch["id"], "step": pa.array([item.label]), "error": pa.array([what], pa.string())})
        yield Judged(batch, (Drop(f"error in {item.label}", np.ones(1, bool)),), {"errors": aside})


class _Made:
    """What a shard has become so far."""

    def __init__(self, steps: Sequence[_Labelled]) -> None:
        self.kept: list[pa.RecordBatch] = []
        self.removed: list[pa.RecordBatch] = []
        self.aside: dict[str, list[pa.Table]] = {}
        self.came = documents.Tally()
        self.flow = {item.label: documents.Flow() for item in steps}

    def take(self, label: str, judged: Judged) -> pa.RecordBatch:
        """The rows that no drop names; those that one names go to `removed` under the first reason."""
        batch = judged.batch
        alive = np.ones(batch.num_rows, bool)
        for drop in judged.drops:
            rows = np.flatnonzero(drop.rows & alive)
            if len(rows):
                values = [None] * len(rows) if drop.values is None else drop.values[rows].tolist()
                kept = [None] * len(rows) if drop.kept is None else [drop.kept[row] for row in rows.tolist()]
                taken = batch.take(pa.array(rows))
                self.removed.append(_as_removed(taken, label, drop.reason, values, drop.threshold, kept))
                gone = self.flow[label].removed.setdefault(drop.reason, documents.Tally())
                gone.add(len(rows), _text_bytes(taken))
                alive[rows] = False
        for name, table in judged.aside.items():
            if table.num_rows:
                self.aside.setdefault(name, []).append(table)
        return batch if alive.all() else batch.filter(pa.array(alive))

    def removed_table(self) -> pa.Table:
        return pa.Table.from_batches(self.removed, documents.REMOVED_SCHEMA)

    def statistics(self, last: bool) -> documents.Statistics:
        statistics = documents.Statistics(came=self.came, flow=self.flow)
        if last:
            statistics.keep(pa.Table.from_batches(self.kept, documents.SCHEMA))
        statistics.remove(self.removed_table())
        return statistics

    def write(self, work: _Pass, index: int) -> None:
        kept = pa.Table.from_batches(self.kept, documents.SCHEMA)
        tables = {"removed": self.removed_table()} | {
            name: pa.concat_tables(pieces) for name, pieces in self.aside.items()
        }
        if work.out is None:
            for name, table in tables.items():
                if table.num_rows:
                    documents.write_parquet(work.folder / f"{name}-{index:05d}.parquet", table, level=1)
            documents.write_parquet(work.target(index), kept, level=1)
            return
        earlier: dict[str, list[pa.Table]] = {}
        for number in range(work.number):
            for path in sorted((work.scratch / f"pass-{number}").glob(f"*-{index:05d}.parquet")):
                if not path.name.startswith("documents-"):
                    earlier.setdefault(path.name.rpartition("-")[0], []).append(pq.read_table(path))
        for name in sorted({*tables, *earlier}):
            pieces = [*earlier.get(name, []), *([tables[name]] if name in tables else [])]
            table = pa.concat_tables([piece.cast(pieces[-1].schema) for piece in pieces])
            if table.num_rows:
                documents.write_parquet(work.out / f"{name}-{index:05d}.parquet", table)
        if kept.num_rows:
            documents.write_parquet(work.target(index), kept)


def _as_removed(
    batch: pa.RecordBatch,
    step: str,
    reason: str,
    values: Sequence[float | None],
    threshold: float | None,
    kept: Sequence[str | None],
) -> pa.RecordBatch:
    size = batch.num_rows
    added: list[list[Any]] = [[step] * size, [reason] * size, list(values), [threshold] * size, list(kept)]
    types = documents.REMOVED_SCHEMA.types[len(documents.SCHEMA) :]
    arrays = [pa.array(column, kind) for column, kind in zip(added, types, strict=True)]
    return pa.RecordBatch.from_arrays([*batch.columns, *arrays], schema=documents.REMOVED_SCHEMA)


def _text_bytes(batch: pa.RecordBatch) -> int:
    return pc.sum(pc.binary_length(batch["text"])).as_py() or 0


def _check(statistics: documents.Statistics, config: CurateConfig, out: Path) -> None:
    kept = statistics.kept.documents
    for label, flow in statistics.flow.items():
        failed = flow.removed.get(f"error in {label}", documents.Tally()).documents
        if failed > 20 and failed > flow.left.documents:
            raise UserError(
                f"the step {label!r} failed on {failed} documents, more than it left; the first error: "
                f"{_first_error(out, label)}; mend the step"
            )
    if not kept:
        removed = sorted(statistics.removed.items(), key=lambda item: (-item[1].tally.documents, item[0]))
        reasons = ", ".join(f"{item.tally.documents} as {reason!r}" for reason, item in removed)
        for path in sorted(out.glob("errors-*.parquet")):  # the artifact that would tell it does not come to be
            reasons += f"; the first error: {pq.read_table(path)['error'][0]}"
            break
        raise UserError(f"curate removed every document ({reasons or 'there were none'}); relax that step or add text")
    held = statistics.by["split"].get("heldout", documents.Tally()).documents
    if not held and config.heldout > 0 and config.heldout_minimum > 0:
        raise UserError(
            f"the documents that are left ({kept}) are too few to hold any out for measuring; add text, or cut the "
            "files into more (a text or Markdown file is one document), or set heldout: 0"
        )


def _first_error(out: Path, label: str) -> str:
    for path in sorted(out.glob("errors-*.parquet")):
        for row in pq.read_table(path).to_pylist():
            if row["step"] == label:
                return str(row["error"])
    return "not kept"


def _forget_other_work(scratch: Path, out: Path, config: CurateConfig, shards: Sequence[Path], others: Inputs) -> None:
    """Keep what an interrupted run of the same work left, and only that."""
    read = list(shards)
    for name in sorted(others):
        folders = others[name] if isinstance(others[name], list) else [others[name]]
        read += [path for folder in folders for path in sorted(Path(folder).rglob("*")) if path.is_file()]
    stats = [(path.name, path.stat()) for path in read]
    work = {"config": config.identity(), "input": [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]}
    ledger = scratch / WORK
    with contextlib.suppress(OSError, ValueError):
        if json.loads(ledger.read_text(encoding="utf-8")) == work:
            return
    shutil.rmtree(scratch, ignore_errors=True)
    for path in out.glob("*-[0-9]*.parquet*"):
        path.unlink()
    scratch.mkdir(parents=True)
    documents.write_json(ledger, work)


STAGE = Stage(
    name="curate",
    version=3,
    config=CurateConfig,
    inputs={
        "documents": Input(kinds=("documents",), many=True),
        "earlier": Input(kinds=("documents",), many=True, required=False),
        "evaluation_sets": Input(kinds=("documents",), many=True, required=False),
        "classifier": Input(kinds=("classifier",), many=True, required=False),
        "model": Input(kinds=("ngrams",), required=False),
        "mixture": Input(kinds=("mixture",), required=False),
    },
    output="documents",
    run=run,
    help="Repair, mask, check, deduplicate and split documents; every removed one is kept aside with its reason.",
)
