"""Step `balance`: a mixture of groups of documents, by leaving some out and letting others be seen more often.

Which documents of a group stay is decided by a hash of (seed, id): the choice does not depend on order or shards, and
a smaller share is a part of a larger one. The limit on the hash is found from all documents, so that a group's size
is met within half a document. Shares are counted in bytes (or documents) as a pass over the text sees them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from lmcraft.corpus.documents import OTHER
from lmcraft.corpus.step import Arrays, Drop, Judged, Known, Shard, Step, note_changes, replace_columns
from lmcraft.corpus.steps.allocation import (
    WhenShort,
    allocate,
    even_shares,
    fixed_shares,
    temperature_shares,
)
from lmcraft.corpus.steps.groups import SEPARATOR, check_dimensions, columns_of, group_labels
from lmcraft.recipe.stage import Inputs, StageConfig, UserError

if TYPE_CHECKING:
    from lmcraft.corpus.engine.corpus import Corpus

ALL = 2**63 - 1
"""Hashes are below this; as a limit it takes every document."""

MOST_EPOCHS = 2**31 - 1
MOST_GROUPS = 100_000
NAMED_REASONS = 50
"""So many groups, the largest, have a reason of removal of their own."""


class Balance(StageConfig):
    """Changes how much of each group there is, by leaving documents out or repeating them."""

    by: list[str] = Field(
        default=["source"],
        min_length=1,
        description="Dimensions: source, language, topic, licence, format, score:NAME (in `bands`), most:FAMILY.",
    )
    bands: dict[str, list[float]] = Field(default={}, description="Limits between the bands of a score, by its name.")
    method: Literal["natural", "shares", "temperature", "unimax", "mixture"] = Field(
        "natural",
        description="natural: sizes as they are (for limits alone); mixture: weights that a `mixture` step found.",
    )
    shares: dict[str, dict[str, float]] = Field(
        default={}, description="For `shares`: dimension -> value -> share; '*' stands for all other values."
    )
    temperature: float = Field(2.0, ge=1, description="For `temperature`: share ~ size^(1/temperature).")
    unit: Literal["bytes", "documents"] = Field("bytes", description="What shares, target and limits count.")
    target: int | None = Field(None, gt=0, description="Wanted total; null: what there is.")
    max_epochs: float | dict[str, float] = Field(
        4.0, description="How often a document may be seen in a pass, for all or by group ('*': the others)."
    )
    max_size: dict[str, int] = Field(default={}, description="Most of a group, by its name ('*': each of the others).")
    when_short: WhenShort | None = Field(
        None, description="A group has too little: fill with others, shrink the total, or stop. Null: shares shrink."
    )
    seed: int = Field(0, ge=0, description="Another seed keeps other documents.")

    @model_validator(mode="after")
    def _fits(self) -> Balance:
        check_dimensions(self.by, self.bands)
        if (self.method == "shares") != bool(self.shares):
            raise ValueError("`shares` belongs to `method: shares`, and that needs it")
        for name in self.shares:
            if unknown := [part for part in name.split(SEPARATOR) if part not in self.by]:
                raise ValueError(f"shares of {unknown[0]!r} need that dimension in `by`")
            if any(share < 0 for share in self.shares[name].values()):
                raise ValueError(f"a share of {name} is below 0")
        epochs = self.max_epochs.values() if isinstance(self.max_epochs, dict) else [self.max_epochs]
        if any(value <= 0 for value in epochs) or any(value < 0 for value in self.max_size.values()):
            raise ValueError("max_epochs must be above 0, and max_size not below 0")
        return self


def learn(corpus: Corpus, config: Balance) -> Arrays:
    """Sizes of all groups, what they shall be, and the limits on the hash that give it.

    Arrays of one item a group, sorted by name: `groups`, `documents`, `bytes` (before), `wanted` (share), `copies`
    (how often each document is seen at least), `limits` (below it: once more), `kept`, `bytes_after`,
    `documents_after` (as often as seen).
    """
    tables = list(corpus.map(_measure, config, corpus.scratch, label="balance: sizes"))
    names = sorted({name for table in tables for name in table["names"]})
    if len(names) > MOST_GROUPS:
        raise UserError(f"{' and '.join(config.by)} make {len(names)} groups; balance takes at most {MOST_GROUPS}")
    number = {name: index for index, name in enumerate(names)}
    numbers = [np.array([number[name] for name in table["names"]], np.int64) for table in tables]
    documents, size, once = (_add_up(tables, numbers, field, len(names)) for field in ("documents", "bytes", "once"))
    sizes = (size if config.unit == "bytes" else documents).astype(np.float64)
    if not sizes.sum():
        raise UserError("there are no documents left to balance; relax an earlier step")
    wanted = _wanted(config, names, sizes, once.astype(np.float64), corpus.inputs)
    epochs = np.divide(wanted, sizes, out=np.zeros_like(sizes), where=sizes > 0)
    copies = np.floor(epochs + 1e-9)
    records = _Records([corpus.scratch / f"balance-{shard.index:05d}.bin" for shard in corpus.shards], numbers, config)
    limits = _limits(records, np.maximum(wanted - copies * sizes, 0), len(names))
    most = np.array([min(np.ceil(value), MOST_EPOCHS) for value in _epochs(config, names)], np.int64)
    after = _after(records, copies.astype(np.int64), limits, most)
    return {
        "groups": np.array(names),
        "documents": documents,
        "bytes": size,
        "wanted": wanted / wanted.sum(),
        "copies": copies.astype(np.int32),
        "limits": limits,
        "most": most.astype(np.int32),
        **after,
    }


def balance(batch: pa.RecordBatch, config: Balance, known: Known) -> Judged:
    arrays = known.arrays
    coded = group_labels(batch, config.by, config.bands).dictionary_encode()
    names = coded.dictionary.to_pylist()
    of_name = np.searchsorted(arrays["groups"], np.array(names, dtype=arrays["groups"].dtype))
    groups = of_name[coded.indices.to_numpy(zero_copy_only=False)]
    hashes = document_hashes(batch["id"], config.seed)
    times = arrays["copies"][groups] + (hashes < arrays["limits"][groups])
    before = pc.fill_null(batch["repeats"], 1).to_numpy(zero_copy_only=False).astype(np.int64)
    repeats = np.minimum(times * before, arrays["most"][groups])
    drops = []
    largest = set(np.argsort(-arrays["bytes"], kind="stable")[:NAMED_REASONS].tolist())
    for name, group in sorted(zip(names, of_name.tolist(), strict=True)):
        rows = (groups == group) & (times == 0)
        if rows.any():
            reason = f"balance: {name if group in largest else OTHER}"
            drops.append(Drop(reason, rows, hashes / ALL, float(arrays["limits"][group] / ALL)))
    unset = np.asarray(pc.is_null(batch["repeats"])) & (repeats == 1)
    changed = replace_columns(batch, {"repeats": pa.array(repeats.astype(np.int32), pa.int32(), mask=unset)})
    return Judged(note_changes(changed, (["repeated"] if more else [] for more in repeats > before)), tuple(drops))


def report(arrays: Arrays, config: Balance) -> dict[str, Any]:
    """Every group (the largest thousand) before and after, as JSON: the table and the picture of the data card."""
    before = _shares(arrays["bytes"] if config.unit == "bytes" else arrays["documents"])
    after = _shares(arrays["bytes_after"] if config.unit == "bytes" else arrays["documents_after"])
    rows = []
    for group in np.argsort(-arrays["bytes"], kind="stable")[:1000].tolist():
        number = int(arrays["documents"][group])
        rows.append(
            {
                "group": str(arrays["groups"][group]),
                "documents": number,
                "bytes": int(arrays["bytes"][group]),
                "share": float(before[group]),
                "wanted_share": float(arrays["wanted"][group]),
                "documents_kept": int(arrays["kept"][group]),
                "documents_seen": int(arrays["documents_after"][group]),
                "bytes_seen": int(arrays["bytes_after"][group]),
                "share_after": float(after[group]),
                "epochs": round(int(arrays["bytes_after"][group]) / max(int(arrays["bytes"][group]), 1), 4),
            }
        )
    return {
        "by": config.by,
        "method": config.method,
        "unit": config.unit,
        "groups": rows,
        "groups_not_listed": max(0, len(arrays["groups"]) - 1000),
        "bytes": int(arrays["bytes"].sum()),
        "bytes_seen": int(arrays["bytes_after"].sum()),
        "largest_error": float(np.abs(after - arrays["wanted"]).max()),
    }


def document_hashes(ids: pa.Array, seed: int) -> np.ndarray:
    """A number in 0..2^63-2 of each id (int64), the same wherever it stands."""
    key = f"balance {seed}".encode()
    digests = b"".join(hashlib.blake2b(name.encode(), digest_size=8, key=key).digest() for name in ids.to_pylist())
    return np.minimum(np.frombuffer(digests, "<u8") >> np.uint64(1), np.uint64(ALL - 1)).astype(np.int64)


_RECORD = np.dtype([("group", "<u4"), ("times", "<i4"), ("hash", "<i8"), ("bytes", "<i8")])
_CHUNK = 1 << 19


def _measure(shard: Shard, config: Balance, scratch: Path) -> dict[str, Any]:
    """Names and sizes of the groups of a shard; a record of 24 bytes a document goes to a file."""
    from lmcraft.corpus.engine import advance

    names: dict[str, int] = {}
    documents, size, once = (np.zeros(0, np.int64) for _ in range(3))
    partial = scratch / f"balance-{shard.index:05d}.tmp"
    with partial.open("wb") as file:
        for _, batch in shard.batches(["id", "text", "repeats", *columns_of(config.by)]):
            coded = group_labels(batch, config.by, config.bands).dictionary_encode()
            number = np.array([names.setdefault(name, len(names)) for name in coded.dictionary.to_pylist()], np.int64)
            if len(names) > MOST_GROUPS:
                raise UserError(f"{' and '.join(config.by)} make more groups than balance takes ({MOST_GROUPS})")
            records = np.empty(batch.num_rows, _RECORD)
            records["group"] = number[coded.indices.to_numpy(zero_copy_only=False)]
            records["times"] = pc.fill_null(batch["repeats"], 1).to_numpy(zero_copy_only=False)
            records["hash"] = document_hashes(batch["id"], config.seed)
            records["bytes"] = pc.binary_length(batch["text"]).to_numpy(zero_copy_only=False)
            records.tofile(file)
            grown = np.zeros(len(names) - len(documents), np.int64)
            documents, size, once = (np.append(total, grown) for total in (documents, size, once))
            np.add.at(documents, records["group"], records["times"])
            np.add.at(size, records["group"], records["times"] * records["bytes"])
            np.add.at(once, records["group"], records["bytes"] if config.unit == "bytes" else 1)
            advance(batch.num_rows)
    partial.replace(partial.with_suffix(".bin"))
    return {"names": list(names), "documents": documents, "bytes": size, "once": once}


def _add_up(tables: Sequence[Mapping[str, Any]], numbers: Sequence[np.ndarray], field: str, groups: int) -> np.ndarray:
    total = np.zeros(groups, np.int64)
    for table, number in zip(tables, numbers, strict=True):
        total[number] += table[field]
    return total


def _wanted(config: Balance, names: list[str], sizes: np.ndarray, once: np.ndarray, inputs: Inputs) -> np.ndarray:
    """Size that each group shall have."""
    if config.method == "shares":
        shares = fixed_shares(sizes, names, config.by, config.shares)
    elif config.method == "mixture":
        shares = fixed_shares(sizes, names, config.by, {SEPARATOR.join(config.by): _mixture(config, inputs)})
    elif config.method == "temperature":
        shares = temperature_shares(sizes, config.temperature)
    elif config.method == "unimax":
        shares = even_shares(sizes)
    else:
        shares = sizes / sizes.sum()
    for setting, given in (("max_epochs", config.max_epochs), ("max_size", config.max_size)):
        if isinstance(given, dict) and (unknown := sorted(set(given) - {*names, "*"})):
            raise UserError(f"balance: {setting} names the group {unknown[0]!r}, but there are only {_some(names)}")
    limits = once * np.array(_epochs(config, names))  # what earlier steps repeat is not repeated so often once more
    caps = np.array([config.max_size.get(name, config.max_size.get("*", np.inf)) for name in names], np.float64)
    short = config.when_short or ("shrink" if config.method == "shares" else "fill")
    return allocate(shares, np.minimum(limits, caps), float(config.target or sizes.sum()), short)


def _epochs(config: Balance, names: Sequence[str]) -> list[float]:
    epochs = config.max_epochs if isinstance(config.max_epochs, dict) else {"*": config.max_epochs}
    return [epochs.get(name, epochs.get("*", np.inf)) for name in names]


def _mixture(config: Balance, inputs: Inputs) -> dict[str, float]:
    directory = inputs.get("mixture")
    if directory is None:
        raise UserError("`method: mixture` needs the stage input `mixture`: the name of a step of the stage `mixture`")
    path = Path(directory) / "mixture.json"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        weights = {str(name): float(weight) for name, weight in stored["weights"].items()}
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{path} cannot be read as a mixture ({error}); run the step `mixture` again") from error
    if stored.get("by") != config.by or stored.get("bands", {}) != config.bands:
        raise UserError(f"the mixture's groups are by {stored.get('by')}, those of this balance by {config.by}")
    return weights


def _some(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names[:8]) + (" …" if len(names) > 8 else "")


class _Records:
    """The records that `_measure` wrote, chunk by chunk: groups, hashes, sizes in the unit, times, bytes."""

    def __init__(self, files: Sequence[Path], numbers: Sequence[np.ndarray], config: Balance) -> None:
        self.files, self.numbers, self.in_bytes = files, numbers, config.unit == "bytes"

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        for path, number in zip(self.files, self.numbers, strict=True):
            with path.open("rb") as file:
                while len(records := np.fromfile(file, _RECORD, _CHUNK)):
                    times, size = records["times"].astype(np.int64), records["bytes"]
                    unit = times * size if self.in_bytes else times
                    yield number[records["group"]], records["hash"], unit, times, size


def _limits(records: _Records, wanted: np.ndarray, groups: int) -> np.ndarray:
    """For each group the limit (int64) such that the documents with a hash below it come to `wanted`, as near as whole
    documents can: a histogram finds the bin in which the limit lies, then that bin's documents are sorted."""
    bits = int(np.clip(22 - int(groups).bit_length(), 4, 12))
    bins = 1 << bits
    shift = np.int64(63 - bits)
    histogram = np.zeros(groups * bins)
    for group, hashes, unit, _, _ in records:
        histogram += np.bincount(group * bins + (hashes >> shift), unit, len(histogram))
    cumulated = np.cumsum(histogram.reshape(groups, bins), axis=1)
    total = cumulated[:, -1]
    crossing = (cumulated <= wanted[:, None]).sum(axis=1)  # first bin that goes beyond; `bins` when none does
    below = np.where(crossing > 0, cumulated[np.arange(groups), np.maximum(crossing, 1) - 1], 0.0)
    found: list[tuple[np.ndarray, ...]] = []
    for group, hashes, unit, _, _ in records:
        inside = (hashes >> shift) == crossing[group]
        found.append((group[inside], hashes[inside], unit[inside]))
    group, hashes, unit = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.lexsort((hashes, group))
    group, hashes, unit = group[order], hashes[order], unit[order]
    limits = np.where(crossing >= bins, ALL, (crossing + 1) << shift)
    for number in np.flatnonzero((crossing < bins) & (wanted < total)).tolist():
        first, last = np.searchsorted(group, [number, number + 1])
        sums = below[number] + np.concatenate([[0.0], np.cumsum(unit[first:last])])
        best = int(np.argmin(np.abs(sums - wanted[number])))
        at = first + best
        limits[number] = hashes[at] if at < last else min(int(crossing[number] + 1) << int(shift), ALL)
    return np.minimum(limits, ALL).astype(np.int64)


def _after(records: _Records, copies: np.ndarray, limits: np.ndarray, most: np.ndarray) -> dict[str, np.ndarray]:
    """What is kept and seen of each group."""
    kept, seen, size = (np.zeros(len(copies)) for _ in range(3))
    for group, hashes, _, times, nbytes in records:
        often = copies[group] + (hashes < limits[group])
        kept += np.bincount(group, often > 0, len(copies))
        times = np.minimum(often * times, most[group])  # noqa: PLW2901
        seen += np.bincount(group, times, len(copies))
        size += np.bincount(group, times * nbytes, len(copies))
    result = {"kept": kept, "documents_after": seen, "bytes_after": size}
    return {name: values.astype(np.int64) for name, values in result.items()}


def _shares(values: np.ndarray) -> np.ndarray:
    return values / max(values.sum(), 1)


BALANCE = Step("balance", Balance, balance, learn=learn, report=report)
