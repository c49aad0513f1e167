"""Stage `ngrams`: documents -> a byte n-gram model, by which step `perplexity` tells how likely a text is.

Interpolated n-grams with Witten-Bell's weights (Witten and Bell, 1991) down to uniform bytes, as CCNet (Wenzek et al.,
2020) filters by an n-gram model of clean text; bytes, so that one model serves any language and any text has a score.
N-grams of the highest order that were seen once are dropped and their mass given to the lower order, so that
probabilities still add up to one. A text is scored by itself: neither its batch nor its neighbours matter.

A transformer of ours scores documents in its own room: stage `score` (lmcraft.evaluation.document_scores).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pyarrow as pa
from pydantic import Field

from lmcraft.corpus import documents, words
from lmcraft.recipe.stage import Input, Inputs, Runtime, Stage, StageConfig, Task, UserError

ALGORITHM = "lmcraft-byte-ngrams-1"
SETTINGS, TABLES = "ngrams.json", "ngrams.safetensors"
PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)


class NgramsConfig(StageConfig):
    """The size of the model, and how much it reads."""

    order: int = Field(6, ge=1, le=7, description="Bytes in the longest n-gram.")
    sample_bytes: int = Field(
        24_000_000, ge=1000, le=200_000_000, description="Most text to count, drawn by hash; needs 30 times its memory."
    )
    max_bytes: int = Field(65536, ge=100, description="Bytes of a document that are counted, from its beginning.")
    heldout: float = Field(0.05, gt=0, le=0.5, description="Share of the drawn documents that only measure.")


@dataclass(frozen=True)
class Ngrams:
    """A byte n-gram model.

    `keys`: the bytes of an n-gram, the latest lowest, and its length in the top byte (uint64, sorted); `log2`: of each
    the log2 of its last byte's probability after the others; `back`: log2 of the weight of the lower order in the
    context that the n-gram is (float32, NaN: never a context).
    """

    order: int
    keys: np.ndarray
    log2: np.ndarray
    back: np.ndarray

    @staticmethod
    def load(directory: Path) -> Ngrams:
        """Read a directory made by the stage `ngrams`. Raises UserError when it is none or is damaged."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            settings = json.loads((directory / SETTINGS).read_text(encoding="utf-8"))
            stored = load_file(directory / TABLES)
            if settings["algorithm"] != ALGORITHM:
                raise ValueError(f"made by {settings['algorithm']}, this version has {ALGORITHM}")
            return Ngrams(int(settings["order"]), stored["keys"], stored["log2"], stored["back"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise UserError(
                f"{directory} holds no n-gram model that can be read ({error}); give the output of an ngrams step"
            ) from error

    def table(self) -> dict[str, np.ndarray]:
        """The model as an open hash table for `bits`: arrays that workers can map into memory."""
        slots = 1 << max(4, math.ceil(math.log2(max(len(self.keys), 1) / 0.6)))
        keys = np.zeros(slots, np.uint64)
        values = np.zeros((slots, 2), np.float32)
        _fill(self.keys, np.stack([self.log2, self.back], axis=1), keys, values)
        return {"order": np.array([self.order]), "keys": keys, "values": values}


def bits(texts: pa.Array, table: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Bits (float64) of each text under the model, every byte after those before it, and the texts' bytes (int64)."""
    data, offsets = words.utf8(texts)
    return _bits(data, offsets, int(table["order"][0]), table["keys"], table["values"]), np.diff(offsets).astype(
        np.int64
    )


def fit(texts: list[bytes], order: int) -> Ngrams:
    """Count n-grams of all orders and give each its probability."""
    joined = np.concatenate([_codes(text, order) for text in texts])
    lower_keys, lower_p = np.empty(0, np.uint64), np.empty(0, np.float64)
    tables: list[tuple[np.ndarray, np.ndarray]] = []
    backs: list[tuple[np.ndarray, np.ndarray]] = []
    for length in range(1, order + 1):
        grams, counts = np.unique(joined & _mask(length), return_counts=True)
        contexts, first = np.unique(grams >> np.uint64(8), return_index=True)
        kinds = np.diff(np.append(first, len(grams)))
        totals = np.add.reduceat(counts, first)
        of = np.repeat(np.arange(len(contexts)), kinds)
        kept = counts > 1 if length == order and order > 3 else np.ones(len(grams), bool)
        share = counts / (totals + kinds)[of]
        weight = 1 - np.add.reduceat(np.where(kept, share, 0), first)
        if length == 1:
            below = np.full(len(grams), 1 / 256)
        else:
            below = lower_p[np.searchsorted(lower_keys, grams & _mask(length - 1))]
        p = np.where(kept, share, 0) + weight[of] * below
        lower_keys, lower_p = grams, p
        tables.append((_key(grams[kept], length), p[kept]))
        backs.append((_key(contexts, length - 1), weight))
    keys = np.concatenate([keys for keys, _ in tables])
    log2 = np.log2(np.concatenate([p for _, p in tables])).astype(np.float32)
    return _with_backs(order, keys, log2, backs)


def run(config: NgramsConfig, inputs: Inputs, out: Path, runtime: Runtime) -> dict[str, Any]:
    """Draw text, count, and measure the model on documents that it has not counted.

    Raises UserError when there is no text.
    """
    from safetensors.numpy import save_file

    out.mkdir(parents=True, exist_ok=True)
    with runtime.progress.task("read text", None, "documents") as task:
        drawn, left_out = _draw(config, (Path(path) for path in inputs["documents"]), task)
    measured = [key for key in drawn if (key & 0xFFFFFFFF) < config.heldout * 2.0**32]
    counted = [drawn[key] for key in drawn if (key & 0xFFFFFFFF) >= config.heldout * 2.0**32]
    if not counted or not measured:
        raise UserError(
            f"ngrams has {len(counted)} documents to count and {len(measured)} to measure by; give more documents "
            "(a hundred at least)"
        )
    with runtime.progress.task("count n-grams", None, "bytes") as task:
        model = fit(counted, config.order)
        task.advance(sum(map(len, counted)))
    save_file({"keys": model.keys, "log2": model.log2, "back": model.back}, out / (TABLES + ".tmp"))
    (out / (TABLES + ".tmp")).replace(out / TABLES)
    heldout = pa.array([drawn[key].decode("utf-8", "ignore") for key in measured])
    found, sizes = bits(heldout, model.table())
    rates = found / np.maximum(sizes, 1)
    settings: dict[str, Any] = {
        "algorithm": ALGORITHM,
        "order": config.order,
        "ngrams": len(model.keys),
        "counted": {"documents": len(counted), "bytes": sum(map(len, counted))},
        "left_out": dict(sorted(left_out.items())),
        "heldout": {
            "documents": len(measured),
            "bytes": int(sizes.sum()),
            "bits_per_byte": round(float(found.sum() / sizes.sum()), 4),
            "by_document": {str(q): round(float(np.percentile(rates, q)), 4) for q in PERCENTILES},
        },
    }
    documents.write_json(out / SETTINGS, settings)
    return {"ngrams": len(model.keys), **settings["heldout"]}


def _draw(config: NgramsConfig, paths: Iterator[Path], task: Task) -> tuple[dict[int, bytes], Counter[str]]:
    """Different documents of the smallest hashes, up to `sample_bytes`, in the order of the hashes."""
    held: dict[int, bytes] = {}
    left_out: Counter[str] = Counter()
    size, limit = 0, 1 << 64
    for path in paths:
        for batch in documents.read_documents(path, ["text", "split"]):
            task.advance(batch.num_rows)
            for row in batch.to_pylist():
                text = row["text"].encode("utf-8")
                key = int.from_bytes(hashlib.blake2b(text, digest_size=8, person=b"ngrams").digest(), "big")
                if row["split"] == "heldout":
                    left_out["held out by curate"] += 1
                elif not text or key in held:
                    left_out["no text" if not text else "same text again"] += 1
                elif key > limit:
                    left_out["beyond sample_bytes"] += 1
                else:
                    held[key] = text[: config.max_bytes]
                    size += len(held[key])
                    if size > 2 * config.sample_bytes:
                        held, size, limit = _smallest(held, config.sample_bytes, left_out)
    held, _, _ = _smallest(held, config.sample_bytes, left_out)
    return held, left_out


def _smallest(held: dict[int, bytes], budget: int, left_out: Counter[str]) -> tuple[dict[int, bytes], int, int]:
    size = 0
    kept: dict[int, bytes] = {}
    for key in sorted(held):
        if kept and size + len(held[key]) > budget:
            left_out["beyond sample_bytes"] += len(held) - len(kept)
            return kept, size, max(kept)
        kept[key] = held[key]
        size += len(held[key])
    return kept, size, 1 << 64


def _with_backs(order: int, keys: np.ndarray, log2: np.ndarray, backs: list[tuple[np.ndarray, np.ndarray]]) -> Ngrams:
    """Give every context its weight. A context that is no n-gram itself (the padding's) becomes an entry of its own,
    whose probability is never asked for: as an n-gram it is looked up from the order below, NaN."""
    contexts = np.concatenate([keys for keys, _ in backs])
    weights = np.log2(np.concatenate([weight for _, weight in backs])).astype(np.float32)
    every = np.union1d(keys, contexts)
    all_log2 = np.full(len(every), np.nan, np.float32)
    all_log2[np.searchsorted(every, keys)] = log2
    back = np.full(len(every), np.nan, np.float32)
    back[np.searchsorted(every, contexts)] = weights
    return Ngrams(order, every, all_log2, back)


def _codes(text: bytes, order: int) -> np.ndarray:
    """One integer a byte, holding it and the order-1 bytes before it (itself lowest); before a text are newlines."""
    raw = np.frombuffer(b"\n" * (order - 1) + text, np.uint8).astype(np.uint64)
    n = len(raw) - order + 1
    codes = np.zeros(n, np.uint64)
    for back in range(order):
        codes |= raw[order - 1 - back : order - 1 - back + n] << np.uint64(8 * back)
    return codes


def _mask(length: int) -> np.uint64:
    return np.uint64((1 << (8 * length)) - 1)


def _key(codes: np.ndarray, length: int) -> np.ndarray:
    # One more than the length, so that no key is 0, which is an empty slot.
    return codes | np.uint64((length + 1) << 56)


@numba.njit(inline="always")
def _slot(key, keys):  # type: ignore[no-untyped-def]
    """Where a key is, or the empty slot where it would be."""
    mask = np.uint64(len(keys) - 1)
    at = words.splitmix(key) & mask
    while keys[at] != 0 and keys[at] != key:
        at = (at + np.uint64(1)) & mask
    return at


@numba.njit(cache=True, nogil=True)
def _fill(from_keys, from_values, keys, values):  # type: ignore[no-untyped-def]
    for row in range(len(from_keys)):
        at = _slot(from_keys[row], keys)
        keys[at] = from_keys[row]
        values[at, 0], values[at, 1] = from_values[row, 0], from_values[row, 1]


@numba.njit(cache=True, nogil=True)
def _bits(data, offsets, order, keys, values):  # type: ignore[no-untyped-def]
    result = np.zeros(len(offsets) - 1, np.float64)
    ones = ~np.uint64(0)
    for row in range(len(offsets) - 1):
        code = np.uint64(0)
        for _ in range(order - 1):
            code = (code << np.uint64(8)) | np.uint64(10)
        total = 0.0
        for place in range(offsets[row], offsets[row + 1]):
            code = (code << np.uint64(8)) | np.uint64(data[place])
            length = order
            while length > 0:
                gram = code & (ones >> np.uint64(64 - 8 * length))
                at = _slot(gram | (np.uint64(length + 1) << np.uint64(56)), keys)
                if keys[at] != 0 and values[at, 0] == values[at, 0]:
                    total -= values[at, 0]
                    break
                # Not seen after these bytes: the lower order, by its weight in this context, if that was seen.
                context = (gram >> np.uint64(8)) | (np.uint64(length) << np.uint64(56))
                at = _slot(context, keys)
                if keys[at] != 0 and values[at, 1] == values[at, 1]:
                    total -= values[at, 1]
                length -= 1
            if length == 0:
                total += 8.0
        result[row] = total
    return result


STAGE = Stage(
    name="ngrams",
    version=1,
    config=NgramsConfig,
    inputs={"documents": Input(kinds=("documents",), many=True)},
    output="ngrams",
    run=run,
    help="Count byte n-grams of clean text: a small model for the step perplexity.",
)
