"""Stage `curate`: documents -> documents that are mended, masked, checked, unique, and split.

Shards go one by one through *passes*: a pass applies a run of local steps and publishes each shard with its count of
removals; the global steps after it decide over all its shards which documents the next pass leaves out. The last
pass adds the split and writes the artifact. A killed run keeps every shard that was published.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from lmcraft.corpus import documents
from lmcraft.corpus.duplicates import NEAR, SIGNATURE
from lmcraft.corpus.registry import StepChoice, default_steps, step_and_config
from lmcraft.corpus.split import held_out, split_hash
from lmcraft.corpus.steps import GlobalStep, Judged, Keys, LocalStep, characters
from lmcraft.recipe.stage import Input, Inputs, Runtime, Stage, StageConfig, UserError

WORK = "work.json"
"""Names the work whose shards a scratch folder holds."""


class CurateConfig(StageConfig):
    """What is done to documents, and how many are held out."""

    steps: list[StepChoice] = Field(
        default_factory=default_steps, description="Steps in order, each `- name: {settings}`."
    )
    heldout: float = Field(0.03, ge=0, lt=1, description="Share of documents kept from training, chosen by hash.")
    heldout_minimum: int = Field(8, ge=0, description="Hold out at least so many, if that is no more than a quarter.")


def run(config: CurateConfig, inputs: Inputs, out: Path, runtime: Runtime) -> dict[str, Any]:
    """Apply the steps and the split. Raises UserError when nothing is left."""
    out.mkdir(parents=True, exist_ok=True)
    shards = documents.shard_paths(Path(inputs["documents"]))
    scratch = (runtime.scratch or out) / ".curate"
    _forget_other_work(scratch, out, config, shards)
    passes = _passes(config)
    folders = [scratch / f"pass-{number}" for number in range(len(passes))]
    removals = _Removals()
    for folder, (local, compare) in zip(folders, passes, strict=True):
        label = ", ".join(step.name for step, _ in local) or "copy"
        shards = _run_pass(shards, local, removals, folder, runtime, label)
        removals = _Removals()
        for step, settings in compare:
            removals.add(step, settings, *_keys(shards, step, settings, removals, runtime))
    held = _choose_held_out(shards, removals, config)
    kept = sum(map(documents.shard_rows, shards)) - len(removals.decided)
    if kept and not held and config.heldout > 0 and config.heldout_minimum > 0:
        raise UserError(
            f"the documents that are left ({kept}) are too few to hold any out for measuring; add text, or cut the "
            "files into more (a text or Markdown file is one document), or set heldout: 0"
        )
    statistics = _write(shards, removals, held, folders, out, runtime)
    if not statistics.kept.documents:
        removed = sorted(statistics.removed.items(), key=lambda item: (-item[1].tally.documents, item[0]))
        reasons = ", ".join(f"{item.tally.documents} as {reason!r}" for reason, item in removed)
        raise UserError(f"curate removed every document ({reasons or 'there were none'}); relax that step or add text")
    stored = statistics.to_json(documents.LARGEST_GROUPS)
    if any(step is NEAR for _, compare in passes for step, _ in compare):
        stored["signature"] = SIGNATURE
    documents.write_json(out / "statistics.json", stored)
    (scratch / WORK).unlink()  # first, so that a kill in the next line leaves nothing that looks like work to continue
    shutil.rmtree(scratch)
    splits = {split: tally.documents for split, tally in sorted(statistics.by["split"].items())}
    return statistics.summary() | {"split": splits}


@dataclass
class _Removals:
    """What global steps decided over the rows of a pass; rows count through all shards."""

    decided: dict[int, tuple[str, float, float | None, int]] = field(default_factory=dict)  # ..., row of the kept one
    ids: dict[int, str] = field(default_factory=dict)  # of the kept rows named above

    def add(self, step: GlobalStep, config: StageConfig, rows: np.ndarray, keys: Keys) -> None:
        found = step.decide(keys, config)
        threshold = step.threshold(config)
        for index, kept, value in zip(found.rows.tolist(), found.kept.tolist(), found.values.tolist(), strict=True):
            self.decided[int(rows[index])] = (step.reason, value, threshold, int(rows[kept]))
            self.ids[int(rows[kept])] = str(keys.ids[kept])
        # The one that an exact duplicate was removed for may have gone now: it had the same words, so its twin is ours.
        for row, (reason, value, limit, kept) in list(self.decided.items()):
            if limit is None and kept in self.decided:
                self.decided[row] = (reason, value, limit, self.decided[kept][3])


Pass = tuple[list[tuple[LocalStep, StageConfig]], list[tuple[GlobalStep, StageConfig]]]
"""Local steps, and the global steps that compare what they left."""


def _passes(config: CurateConfig) -> list[Pass]:
    """The steps as runs of local steps, each with the global steps that follow it."""
    passes: list[Pass] = [([], [])]
    for step, settings in map(step_and_config, config.steps):
        if isinstance(step, GlobalStep):
            passes[-1][1].append((step, settings))
        else:
            if passes[-1][1]:
                passes.append(([], []))
            passes[-1][0].append((step, settings))
    return passes


def _run_pass(
    shards: Sequence[Path],
    local: Sequence[tuple[LocalStep, StageConfig]],
    removals: _Removals,
    folder: Path,
    runtime: Runtime,
    label: str,
) -> list[Path]:
    """Leave out what was decided, apply local steps, publish each shard; the shards made before are not made again."""
    folder.mkdir(parents=True, exist_ok=True)
    made = [folder / f"documents-{index:05d}.parquet" for index in range(len(shards))]
    with runtime.progress.task(label, None, "documents") as task:
        first_row = 0
        for index, shard in enumerate(shards):
            ledger = folder / f"{index:05d}.json"
            rows = documents.shard_rows(shard)
            if not ledger.exists():
                kept: list[pa.RecordBatch] = []
                removed: list[pa.RecordBatch] = []
                for batch in _without(shard, first_row, removals, removed):
                    kept.append(_apply(batch, local, removed))
                    task.advance(batch.num_rows)
                statistics = documents.Statistics()
                statistics.remove(_removed_table(removed))
                documents.write_parquet(made[index], pa.Table.from_batches(kept, documents.SCHEMA))
                documents.write_parquet(folder / f"removed-{index:05d}.parquet", _removed_table(removed))
                documents.write_json(ledger, statistics.to_json())
            first_row += rows
    return made


def _apply(
    batch: pa.RecordBatch, local: Sequence[tuple[LocalStep, StageConfig]], removed: list[pa.RecordBatch]
) -> pa.RecordBatch:
    for step, settings in local:
        judged = step.judge(batch, settings)
        batch = _drop(judged, removed)
    return batch


def _drop(judged: Judged, removed: list[pa.RecordBatch]) -> pa.RecordBatch:
    """The rows that no drop names; those that one names go to `removed` under the first reason."""
    batch = judged.batch
    alive = np.ones(batch.num_rows, bool)
    for drop in judged.drops:
        rows = np.flatnonzero(drop.rows & alive)
        if len(rows):
            values = [None] * len(rows) if drop.values is None else drop.values[rows].tolist()
            removed.append(
                _as_removed(batch.take(pa.array(rows)), drop.reason, values, drop.threshold, [None] * len(rows))
            )
            alive[rows] = False
    return batch if alive.all() else batch.filter(pa.array(alive))


def _as_removed(
    batch: pa.RecordBatch,
    reason: str,
    values: Sequence[float | None],
    threshold: float | None,
    kept: Sequence[str | None],
) -> pa.RecordBatch:
    size = batch.num_rows
    added: list[list[Any]] = [[reason] * size, list(values), [threshold] * size, list(kept)]
    types = documents.REMOVED_SCHEMA.types[len(documents.SCHEMA) :]
    arrays = [pa.array(column, kind) for column, kind in zip(added, types, strict=True)]
    return pa.RecordBatch.from_arrays([*batch.columns, *arrays], schema=documents.REMOVED_SCHEMA)


def _removed_table(removed: list[pa.RecordBatch]) -> pa.Table:
    return pa.Table.from_batches(removed, documents.REMOVED_SCHEMA)


def _without(
    shard: Path, first_row: int, removals: _Removals, removed: list[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Batches of a shard less the rows decided upon, which go to `removed`. Batches keep their rows' order."""
    for stored in documents.read_shard(shard):
        batch = stored.cast(documents.SCHEMA)
        gone = [row for row in range(batch.num_rows) if first_row + row in removals.decided]
        for row in gone:
            reason, value, threshold, kept = removals.decided[first_row + row]
            removed.append(_as_removed(batch.slice(row, 1), reason, [value], threshold, [removals.ids[kept]]))
        alive = np.ones(batch.num_rows, bool)
        alive[gone] = False
        first_row += batch.num_rows
        yield batch.filter(pa.array(alive)) if gone else batch


def _kept_rows(shards: Iterable[Path], removals: _Removals) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
    """Batches of the rows that are still there, with their numbers."""
    first_row = 0
    for shard in shards:
        for batch in documents.read_shard(shard, ["id", "text"]):
            numbers = np.arange(first_row, first_row + batch.num_rows)
            alive = np.array([number not in removals.decided for number in numbers.tolist()], bool)
            first_row += batch.num_rows
            yield numbers[alive], batch.filter(pa.array(alive))


def _keys(
    shards: Sequence[Path], step: GlobalStep, config: StageConfig, removals: _Removals, runtime: Runtime
) -> tuple[np.ndarray, Keys]:
    rows, ids, sizes, keys = [], [], [], []
    with runtime.progress.task(step.name, None, "documents") as task:
        for numbers, batch in _kept_rows(shards, removals):
            if not batch.num_rows:
                continue
            rows.append(numbers)
            ids.append(np.array(batch["id"].to_pylist()))
            sizes.append(characters(batch))
            keys.append(step.keys(batch, config))
            task.advance(batch.num_rows)
    return np.concatenate(rows), Keys(np.concatenate(ids), np.concatenate(sizes), np.concatenate(keys))


def _choose_held_out(shards: Sequence[Path], removals: _Removals, config: CurateConfig) -> frozenset[int]:
    """Rows of the held-out documents."""
    rows: list[int] = []
    hashes: list[int] = []
    for numbers, batch in _kept_rows(shards, removals):
        rows.extend(numbers.tolist())
        hashes.extend(split_hash(text) for text in batch["text"].to_pylist())
    chosen = held_out(np.array(hashes, np.uint64), config.heldout, config.heldout_minimum)
    return frozenset(np.array(rows, np.int64)[chosen].tolist())


def _write(
    shards: Sequence[Path],
    removals: _Removals,
    held: frozenset[int],
    folders: Sequence[Path],
    out: Path,
    runtime: Runtime,
) -> documents.Statistics:
    """Publish the artifact's shards, each with its split and with all that was removed from it; count everything."""
    total = documents.Statistics()
    with runtime.progress.task("split and write", None, "documents") as task:
        first_row = 0
        for index, shard in enumerate(shards):
            ledger = folders[-1] / f"written-{index:05d}.json"
            rows = documents.shard_rows(shard)
            if not ledger.exists():
                removed: list[pa.RecordBatch] = []
                kept = pa.Table.from_batches(list(_without(shard, first_row, removals, removed)), documents.SCHEMA)
                alive = [row for row in range(first_row, first_row + rows) if row not in removals.decided]
                split = pa.array(["heldout" if row in held else "train" for row in alive], pa.string())
                kept = kept.set_column(kept.schema.get_field_index("split"), documents.SCHEMA.field("split"), split)
                statistics = documents.Statistics()
                statistics.keep(kept)
                statistics.remove(_removed_table(removed))
                if kept.num_rows:
                    documents.write_parquet(out / f"documents-{index:05d}.parquet", kept)
                earlier = [pq.read_table(folder / f"removed-{index:05d}.parquet") for folder in folders]
                every = pa.concat_tables([*earlier, _removed_table(removed)])
                if every.num_rows:
                    documents.write_parquet(out / f"removed-{index:05d}.parquet", every)
                documents.write_json(ledger, statistics.to_json())
                task.advance(rows)
            for path in (ledger, *(folder / f"{index:05d}.json" for folder in folders)):
                total.merge(documents.Statistics.from_json(json.loads(path.read_text(encoding="utf-8"))))
            first_row += rows
    return total


def _forget_other_work(scratch: Path, out: Path, config: CurateConfig, shards: Sequence[Path]) -> None:
    """Keep what an interrupted run of the same work left, and only that."""
    stats = [(path.name, path.stat()) for path in shards]
    work = {"config": config.identity(), "input": [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]}
    ledger = scratch / WORK
    with contextlib.suppress(OSError, ValueError):
        if json.loads(ledger.read_text(encoding="utf-8")) == work:
            return
    shutil.rmtree(scratch, ignore_errors=True)
    for path in [*out.glob("documents-*.parquet*"), *out.glob("removed-*.parquet*")]:
        path.unlink()
    scratch.mkdir(parents=True)
    documents.write_json(ledger, work)


STAGE = Stage(
    name="curate",
    version=1,
    config=CurateConfig,
    inputs={"documents": Input(kinds=("documents",))},
    output="documents",
    run=run,
    help="Repair, mask, check, deduplicate and split documents; every removed one is kept aside with its reason.",
)
