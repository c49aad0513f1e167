"""Step `near`: a document goes only for the sake of one that is kept and that it resembles.

MinHash signatures over word n-grams give candidates by bands; a candidate counts when the Jaccard similarity of the two
sets of n-grams is high enough. The share of the signature that agrees only estimates it: where many documents share a
pattern, some pair of them always seems more alike than it is. Then, in the order of preference, what resembles a kept
document goes. Connected components would also remove documents that nothing kept resembles.

Nothing larger than a few bytes a document is held in memory: signatures, bands and the buckets that more than one
document is in lie in files. Documents without a word are compared with nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from lmcraft.corpus.bands import chosen_bands, probability
from lmcraft.corpus.documents import shard_rows
from lmcraft.corpus.engine.corpus import Corpus, advance
from lmcraft.corpus.keeping import (
    COLUMNS,
    PRIORITY,
    Keep,
    by_shard,
    gather,
    ordered,
    priorities,
    removals,
    removed,
    with_earlier,
)
from lmcraft.corpus.mapped import new_npy, open_numbers
from lmcraft.corpus.step import Arrays, Judged, Known, Shard, Step
from lmcraft.recipe.stage import UserError

COMPARED = 256
"""A document is compared with at most so many kept ones of a bucket, those of highest preference."""

ROUND_BYTES = 64_000_000
"""Bands go through the engine in rounds, of at most so many bytes a shard."""


class Near(Keep):
    """Removes documents that share most of their word n-grams with one that is kept.

    Documents that resemble one of an artifact given to the stage as `earlier` go for its sake.
    """

    ngram: int = Field(5, ge=1, description="Words in an n-gram.")
    bands: int = Field(
        25, ge=1, le=1024, description="Bands of the signature; two documents that share one are compared."
    )
    rows: int = Field(5, ge=1, le=64, description="Hashes in a band.")
    similarity: float | None = Field(
        None, gt=0, lt=1, description="Wanted Jaccard similarity; bands and rows are then chosen to tell best there."
    )
    hashes: int = Field(128, ge=1, le=4096, description="With `similarity`: the most hashes in a signature.")
    agree: float = Field(
        0.5, gt=0, le=1, description="Least agreement of two documents alike; with `similarity`, that is the default."
    )
    verify: Literal["jaccard", "signature"] = Field(
        "jaccard",
        description="Agreement of candidates: the exact Jaccard similarity of their n-grams, or (less reading, and "
        "wrong by some hundredths) the share of the signature that is equal.",
    )
    store_signatures: bool = Field(
        False,
        description="Keep signatures beside the documents, so that a later run with these as `earlier` is quicker.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> Near:
        if self.similarity is not None and self.model_fields_set & {"bands", "rows"}:
            raise ValueError("give either `similarity`, from which bands and rows follow, or `bands` and `rows`")
        return self

    @property
    def shape(self) -> tuple[int, int]:
        """Bands and rows."""
        return (self.bands, self.rows) if self.similarity is None else chosen_bands(self.similarity, self.hashes)

    @property
    def threshold(self) -> float:
        """Least agreement."""
        return self.agree if self.similarity is None or "agree" in self.model_fields_set else self.similarity

    @property
    def least(self) -> float:
        """Agreement of signatures below which the n-grams need not be compared: five standard deviations off.

        Of two documents as alike as `threshold`, fewer than one pair in a million has a signature so far apart.
        """
        bands, rows = self.shape
        return self.threshold - 5 * math.sqrt(self.threshold * (1 - self.threshold) / (bands * rows))

    @property
    def algorithm(self) -> str:
        """Name of the signatures: those of one name can be compared."""
        from lmcraft.corpus.minhash import SIGNATURE

        return f"{SIGNATURE}, {self.ngram}-grams"


def learn(corpus: Corpus, config: Near) -> Arrays:
    """Rows to remove, with links to the rows that stay (see `keeping.removals`), and `full`: buckets out of room."""
    every = with_earlier(corpus)
    for shard in every.shards[len(corpus.shards) :]:
        _check_stored(_stored_path(shard), config)
    bands, rows = config.shape
    largest = max(every.map(_sign, every.scratch, config, len(corpus.shards), label="signatures"), default=0)
    step = max(1, ROUND_BYTES // max(1, largest * _BAND.itemsize))
    members = every.scratch / "members.bin"
    with members.open("wb") as file:
        for first in range(0, bands, step):
            end = min(first + step, bands)
            label = "bands" if step >= bands else f"bands {first + 1}-{end} of {bands}"
            for found in every.group(_bands, every.scratch, first, end, rows, corpus.rows, reduce=_shared, label=label):
                found.tofile(file)
    if not members.stat().st_size:
        return {**removals(every, *(np.empty(0, np.int64),) * 3), "full": np.zeros(1, np.int64)}
    listed = open_numbers(members, np.int64, members.stat().st_size // 8)
    counts = np.zeros(every.rows, np.int32)
    bucket_count = 0
    for piece in _pieces(listed):
        counts += np.bincount(np.where(piece < 0, ~piece, piece), minlength=every.rows).astype(np.int32)
        bucket_count += int((piece < 0).sum())
    involved = np.flatnonzero(counts)
    by_rank = involved[ordered(gather(every, "priority", involved), before=[involved < corpus.rows])]
    kept, values, full = _choose(every, config, corpus.rows, listed, counts, bucket_count, by_rank)
    gone = np.flatnonzero(kept >= 0)
    links = removals(every, by_rank[gone], by_rank[kept[gone]], values[gone])
    return {**links, "full": np.array([full])}


def judge(batch: pa.RecordBatch, config: Near, known: Known) -> Judged:
    drop = removed(batch, known, "near duplicate", config.threshold)
    if not config.store_signatures:
        return Judged(batch, (drop,))
    return Judged(batch, (drop,), {"signatures": _signature_table(batch.filter(pa.array(~drop.rows)), config)})


def report(arrays: Arrays, config: Near) -> dict[str, Any]:
    """How documents were compared: what `statistics.json` says of the step."""
    bands, rows = config.shape
    curve = {f"{value / 10:.1f}": round(float(probability(value / 10, bands, rows)), 4) for value in range(1, 10)}
    return {
        "signature": config.algorithm,
        "bands": bands,
        "rows": rows,
        "agree": config.threshold,
        "verified by": config.verify,
        "probability of comparing two documents by their Jaccard similarity": curve,
        f"buckets of more than {COMPARED} kept documents": int(arrays["full"][0]),
    }


_BAND = np.dtype([("key", "<u8"), ("row", "<i8")])


def _sign(shard: Shard, scratch: Path, config: Near, own: int) -> int:
    """Signatures, order and `worded` of a shard's documents into files; gives the number of documents."""
    from lmcraft.corpus.minhash import signatures

    bands, rows = config.shape
    stored = _read_stored(shard, bands * rows) if shard.index >= own else {}
    count = shard_rows(shard.path)
    # Straight into files: a shard may hold millions of short documents.
    order, signed, worded = (
        new_npy(scratch / f"{name}-{shard.index:05d}.npy", kind, (count, *shape))
        for name, kind, shape in (
            ("priority", PRIORITY, ()),
            ("signature", np.dtype(np.uint16), (bands * rows,)),
            ("worded", np.dtype(bool), ()),
        )
    )
    for numbers, batch in shard.batches(COLUMNS):
        inside = slice(numbers[0] - shard.first_row, numbers[-1] + 1 - shard.first_row)
        order[inside] = priorities(batch, config)
        if stored:
            signed[inside], worded[inside] = _look_up(batch, stored, config)
        else:
            signed[inside], worded[inside] = signatures(batch["text"], config.ngram, bands * rows)
        advance(batch.num_rows)
    return count


def _bands(shard: Shard, scratch: Path, first: int, end: int, rows: int, new: int) -> Iterator[np.ndarray]:
    """The bands from `first` to `end` of a shard's documents that have words."""
    from lmcraft.corpus.minhash import band_keys

    signed = np.load(scratch / f"signature-{shard.index:05d}.npy", mmap_mode="r", allow_pickle=False)
    worded = np.load(scratch / f"worded-{shard.index:05d}.npy", allow_pickle=False)
    for start in range(0, len(signed), 16384):
        inside = start + np.flatnonzero(worded[start : start + 16384])
        records = np.empty((len(inside), end - first), _BAND)
        records["key"] = band_keys(np.array(signed[inside]), first, end, rows)
        records["row"] = shard.first_row + inside[:, None]
        yield records.reshape(-1)
        advance(min(16384, len(signed) - start))


def _shared(records: np.ndarray, scratch: Path, first: int, end: int, rows: int, new: int) -> np.ndarray:
    """Rows that share a key, key after key, the first of each inverted; keys without a row under `new` are left out."""
    if not len(records):
        return np.empty(0, np.int64)
    starts = np.flatnonzero(np.append(True, records["key"][1:] != records["key"][:-1]))
    sizes = np.diff(np.append(starts, len(records)))
    wanted = (sizes > 1) & np.logical_or.reduceat(records["row"] < new, starts)
    head = np.zeros(len(records), bool)
    head[starts] = True
    return np.where(head, ~records["row"], records["row"])[np.repeat(wanted, sizes)]


def _choose(
    corpus: Corpus,
    config: Near,
    new: int,
    listed: np.ndarray,
    counts: np.ndarray,
    bucket_count: int,
    by_rank: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Lay out what `minhash.choose` looks at in files, and let it choose."""
    from lmcraft.corpus.minhash import choose, spread, worth_comparing

    scratch, total = corpus.scratch, len(by_rank)
    ranks = np.full(corpus.rows, -1, np.int32)
    ranks[by_rank] = np.arange(total, dtype=np.int32)
    bucket_starts = np.append(0, np.cumsum(counts[by_rank], dtype=np.int64))
    buckets = open_numbers(scratch / "buckets.bin", np.int32, len(listed))
    places = np.zeros(bucket_count + 1, np.int64)
    spread(listed, ranks, np.zeros(total, np.int32), bucket_starts, buckets, places)
    bands, rows = config.shape
    signed = open_numbers(scratch / "ranked.bin", np.uint16, total * bands * rows).reshape(total, -1)
    for shard, inside in by_shard(corpus, np.sort(by_rank)):
        stored = np.load(scratch / f"signature-{shard.index:05d}.npy", mmap_mode="r", allow_pickle=False)
        for start in range(0, len(inside), 65536):
            piece = inside[start : start + 65536]
            signed[ranks[shard.first_row + piece]] = stored[piece]
    none = np.empty(0, np.int64)
    grams, gram_first, gram_end, least = np.empty(0, np.uint64), none, none, 0.0
    if config.verify == "jaccard":
        least = config.least
        worth = np.flatnonzero(worth_comparing(listed, ranks, signed, least))
        grams, first, end = _all_grams(corpus, config, by_rank[worth])
        gram_first, gram_end = np.zeros(total, np.int64), np.zeros(total, np.int64)
        gram_first[worth], gram_end[worth] = first, end
    kept, values = np.empty(total, np.int32), np.zeros(total, np.float32)
    members = open_numbers(scratch / "kept.bin", np.int32, len(listed))
    full = choose(
        by_rank >= new,
        bucket_starts,
        buckets,
        places,
        members,
        COMPARED,
        signed,
        least,
        grams,
        gram_first,
        gram_end,
        config.threshold,
        kept,
        values,
    )
    return kept, values, full


def _all_grams(corpus: Corpus, config: Near, by_rank: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The n-grams of the documents to compare, in a file, and by rank where each one's begin and end."""
    rows = np.sort(by_rank)
    wanted = corpus.scratch / "compared.npy"
    np.save(wanted, rows, allow_pickle=False)
    sizes = np.concatenate(list(corpus.map(_grams, corpus.scratch, wanted, config, label="n-grams")))
    path = corpus.scratch / "grams.bin"
    with path.open("wb") as file:
        for shard in corpus.shards:
            piece = corpus.scratch / f"grams-{shard.index:05d}.bin"
            with piece.open("rb") as other:
                while content := other.read(1 << 24):
                    file.write(content)
            piece.unlink()
    ends = np.cumsum(sizes)
    place = np.searchsorted(rows, by_rank)
    return open_numbers(path, np.uint64, int(sizes.sum())), (ends - sizes)[place], ends[place]


def _grams(shard: Shard, scratch: Path, wanted: Path, config: Near) -> np.ndarray:
    """The n-grams of a shard's documents named in the file `wanted` into another; gives how many each has."""
    from lmcraft.corpus.minhash import ngrams

    rows = np.load(wanted, mmap_mode="r", allow_pickle=False)
    sizes = [np.empty(0, np.int64)]
    with (scratch / f"grams-{shard.index:05d}.bin").open("wb") as file:
        for numbers, batch in shard.batches(["text"]):
            first, last = np.searchsorted(rows, (numbers[0], numbers[-1] + 1))
            advance(batch.num_rows)
            if first == last:
                continue
            found, starts = ngrams(batch["text"].take(pa.array(rows[first:last] - numbers[0])), config.ngram)
            found.tofile(file)
            sizes.append(np.diff(starts))
    return np.concatenate(sizes)


def _signature_table(batch: pa.RecordBatch, config: Near) -> pa.Table:
    from lmcraft.corpus.minhash import signatures
    from lmcraft.corpus.words import hash_bytes, utf8

    bands, rows = config.shape
    signed, worded = signatures(batch["text"], config.ngram, bands * rows)
    kind = pa.binary(2 * bands * rows)
    return pa.table(
        {
            "id": batch["id"],
            "text_hash": pa.array(hash_bytes(*utf8(batch["text"]))),
            "has_words": pa.array(worded),
            "signature": pa.FixedSizeBinaryArray.from_buffers(
                kind, len(signed), [None, pa.py_buffer(signed.astype("<u2").tobytes())]
            ),
            "algorithm": pa.array([config.algorithm] * len(signed), pa.string()),
        }
    )


def _stored_path(shard: Shard) -> Path:
    return shard.path.with_name(shard.path.name.replace("documents-", "signatures-"))


def _check_stored(path: Path, config: Near) -> None:
    """Raises UserError when there are stored signatures that this step cannot compare with its own."""
    if not path.exists():
        return
    try:
        with pq.ParquetFile(path) as file:
            size = file.schema_arrow.field("signature").type.byte_width // 2
            names = {
                name for batch in file.iter_batches(columns=["algorithm"]) for name in batch[0].unique().to_pylist()
            }
    except (pa.ArrowException, OSError, KeyError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} holds no signatures that can be read ({error}); build those documents again"
        ) from error
    bands, rows = config.shape
    if names != {config.algorithm}:
        raise UserError(
            f"{path} holds signatures by {', '.join(map(repr, sorted(names)))}, but `near` computes "
            f"{config.algorithm!r}; set `ngram` as it was there, or build those documents again"
        )
    if size < bands * rows:
        raise UserError(
            f"{path} holds signatures of {size} hashes, but `near` needs {bands * rows}; set `bands` and `rows` to no "
            "more than that, or build those documents again"
        )


def _read_stored(shard: Shard, hashes: int) -> dict[str, Any]:
    """Stored signatures of an earlier artifact's shard, looked up by id."""
    path = _stored_path(shard)
    if not path.exists():
        return {}
    table = pq.read_table(path, columns=["id", "text_hash", "has_words", "signature"]).combine_chunks()
    column = table["signature"].combine_chunks()
    width = column.type.byte_width
    signed = np.frombuffer(column.buffers()[1], "<u2").reshape(-1, width // 2)[column.offset :][: len(column)]
    return {
        "place": {name: row for row, name in enumerate(table["id"].to_pylist())},
        "signed": signed[:, :hashes],
        "text_hash": table["text_hash"].to_numpy(),
        "has_words": table["has_words"].to_numpy(),
    }


def _look_up(batch: pa.RecordBatch, stored: dict[str, Any], config: Near) -> tuple[np.ndarray, np.ndarray]:
    """As `signatures`, but of documents with a stored one of the same text that is taken."""
    from lmcraft.corpus.minhash import signatures
    from lmcraft.corpus.words import hash_bytes, utf8

    place = np.array([stored["place"].get(name, -1) for name in batch["id"].to_pylist()], np.int64)
    known = place >= 0
    known[known] = stored["text_hash"][place[known]] == hash_bytes(*utf8(batch["text"]))[known]
    bands, rows = config.shape
    signed, worded = np.empty((batch.num_rows, bands * rows), np.uint16), np.empty(batch.num_rows, bool)
    signed[known], worded[known] = stored["signed"][place[known]], stored["has_words"][place[known]]
    if not known.all():
        others = batch["text"].filter(pa.array(~known))
        signed[~known], worded[~known] = signatures(others, config.ngram, bands * rows)
    return signed, worded


def _pieces(listed: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(listed), 1 << 22):
        yield listed[start : start + (1 << 22)]


NEAR = Step("near", Near, judge, learn=learn, report=report)
