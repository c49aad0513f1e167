"""Stage `index`: documents -> an index that answers "was this text in them?" without reading them again.

Of the word n-grams of a document those are kept that winnowing selects (Schleimer, Wilkerson and Aiken, "Winnowing:
local algorithms for document fingerprinting", SIGMOD 2003): one in each window of `window` successive n-grams. So every
run of `ngram + window - 1` words that a text has in common with a document is found, from about 2 / (window + 1)
fingerprints a word, and nothing shorter than `ngram` words ever counts. Built out of core, read through memory maps.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from lmcraft.corpus import documents
from lmcraft.corpus.engine import advance, open_engine
from lmcraft.corpus.engine.corpus import Corpus
from lmcraft.corpus.overlap import BASE, key_of, power
from lmcraft.corpus.step import Shard
from lmcraft.corpus.words import WORDS, splitmix, words
from lmcraft.recipe.stage import Input, Inputs, Runtime, Stage, StageConfig, UserError

ALGORITHM = "lmcraft-winnow-1"
"""Names how fingerprints are selected and stored; with `WORDS` it decides whether an index can be read."""

PREFIX_BITS = 16
"""Highest bits of a fingerprint: found by a table. The next 32 are stored, the rest is dropped."""

RECORD = np.dtype([("key", np.uint64), ("row", np.uint32)])
COLUMNS = ("id", "source", "path", "url", "licence", "split", "parent")
HEADER_BYTES = 128
"""Of a one-dimensional `.npy` file; numpy pads the header so that a length of any digits fits."""


class IndexConfig(StageConfig):
    """How fine the index is."""

    ngram: int = Field(8, ge=2, le=64, description="Words in an n-gram: the shortest run of words that is ever found.")
    window: int = Field(
        8,
        ge=1,
        le=256,
        description="Successive n-grams of which one is kept: any common run of ngram + window - 1 is found.",
    )


def run(config: IndexConfig, inputs: Inputs, out: Path, runtime: Runtime) -> dict[str, Any]:
    """Index all documents of the inputs. The files depend on nothing but them and the settings."""
    out.mkdir(parents=True, exist_ok=True)
    scratch = (runtime.scratch or out) / ".index"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    shards: list[Shard] = []
    counts: list[list[int]] = []
    first_row = 0
    for directory in inputs["documents"]:
        counts.append([])
        for path in documents.shard_paths(Path(directory)):
            shards.append(Shard(len(shards), path, first_row))
            counts[-1].append(documents.shard_rows(path))
            first_row += counts[-1][-1]
    _write_documents(out / "documents.parquet", shards)
    entries = 0
    starts = np.zeros((1 << PREFIX_BITS) + 1, np.int64)
    with open_engine(runtime, len(shards)) as engine:
        corpus = Corpus(shards, first_row, inputs, scratch, engine, runtime.progress)
        statistics = np.zeros(3, np.int64)
        with _Array(out / "fingerprints.npy", np.uint32) as low, _Array(out / "rows.npy", np.uint32) as rows:
            for records in corpus.group(
                _fingerprints, config.ngram, config.window, scratch, reduce=_distinct, label="index"
            ):
                key = records["key"]
                starts[1:] += np.bincount(
                    (key >> np.uint64(64 - PREFIX_BITS)).astype(np.int64), minlength=len(starts) - 1
                )
                low.append((key >> np.uint64(64 - PREFIX_BITS - 32)).astype(np.uint32))
                rows.append(records["row"])
                entries += len(records)
        for path in sorted(scratch.glob("count-*.json")):
            statistics += np.array(json.loads(path.read_text()), np.int64)
    with _Array(out / "starts.npy", np.int64) as table:
        table.append(np.cumsum(starts))
    shutil.rmtree(scratch)
    n_words, n_bytes, unseen = statistics.tolist()
    meta = {
        "algorithm": ALGORITHM,
        "words": WORDS,
        "ngram": config.ngram,
        "window": config.window,
        "guaranteed_words": config.ngram + config.window - 1,
        "documents": first_row,
        "documents_of_fewer_words": unseen,
        "shards": counts,
        "text_words": n_words,
        "text_bytes": n_bytes,
        "entries": entries,
    }
    documents.write_json(out / "index.json", meta)
    return {name: meta[name] for name in ("documents", "documents_of_fewer_words", "text_bytes", "entries")}


@dataclass(frozen=True)
class Match:
    """A document with which a text has words in common.

    `shared`: fingerprints of the text that it has. After the document was read: `words`, the longest common run;
    `excerpt`, that run as the document has it; `covered`: which words of the text lie in common n-grams.
    """

    row: int
    document: dict[str, str | None]
    shared: int
    words: int | None = None
    excerpt: str | None = None
    covered: np.ndarray | None = None


@dataclass(frozen=True)
class Answer:
    """What an index says of a text: `found` of its `fingerprints` are in some document; best matches first."""

    words: int
    fingerprints: int
    found: int
    documents: int  # that share a fingerprint
    matches: list[Match]

    @property
    def verbatim(self) -> float | None:
        """Share of the text's words that lie in n-grams of the matches read; None when none was read."""
        covered = [match.covered for match in self.matches if match.covered is not None]
        return float(np.logical_or.reduce(covered).mean()) if covered else None


class TextIndex:
    """An index, mapped into memory. `directories`: the documents it was made of, as far as they are still there."""

    def __init__(self, directory: Path, directories: Sequence[Path | None] = ()) -> None:
        """Raises UserError when the index is damaged or made by another algorithm."""
        self.directory = directory
        self.meta = _meta(directory)
        self.ngram, self.window = int(self.meta["ngram"]), int(self.meta["window"])
        self.directories = list(directories)
        try:
            arrays = [
                np.load(directory / f"{name}.npy", mmap_mode="r", allow_pickle=False)
                for name in ("starts", "fingerprints", "rows")
            ]
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"the index {directory} is damaged ({error}); build it again") from None
        self.starts, self.low, self.rows = arrays
        if len(self.low) != self.meta["entries"] or len(self.rows) != len(self.low) or self.starts[-1] != len(self.low):
            raise UserError(f"the index {directory} is damaged: its files do not fit each other; build it again")

    def fingerprints(self, text: str) -> np.ndarray:
        """Keys (uint64) that winnowing selects of a text, without doubles."""
        found = words(pa.array([text], pa.string()))
        return np.unique(_winnow(found.hashes, found.starts, self.ngram, self.window)[0])

    def look_up(self, keys: np.ndarray) -> list[np.ndarray]:
        """For each key the rows of the documents that have it (uint32)."""
        prefixes = (keys >> np.uint64(64 - PREFIX_BITS)).astype(np.int64)
        lows = (keys >> np.uint64(64 - PREFIX_BITS - 32)).astype(np.uint32)
        found = []
        for prefix, low in zip(prefixes.tolist(), lows, strict=True):
            begin, end = int(self.starts[prefix]), int(self.starts[prefix + 1])
            slot = self.low[begin:end]
            first, last = np.searchsorted(slot, low, "left"), np.searchsorted(slot, low, "right")
            found.append(np.asarray(self.rows[begin + first : begin + last]))
        return found

    def ask(self, text: str, most: int = 10) -> Answer:
        """Whether the text, or runs of its words, stand in the documents. At most `most` matches are named and read.

        Raises UserError when the text has fewer words than an n-gram.
        """
        asked = words(pa.array([text], pa.string()))
        if len(asked.hashes) < self.ngram:
            raise UserError(
                f"the text has {len(asked.hashes)} words, and this index answers from {self.ngram} on; give more of it"
            )
        keys = self.fingerprints(text)
        held = self.look_up(keys)
        rows, shared = np.unique(np.concatenate([np.empty(0, np.uint32), *held]), return_counts=True)
        best = np.lexsort((rows, -shared))[:most]
        matches = [self._match(int(rows[place]), int(shared[place]), asked.hashes) for place in best]
        matches.sort(key=lambda match: (-(match.words or 0), -match.shared, match.row))
        return Answer(len(asked.hashes), len(keys), sum(len(each) > 0 for each in held), len(rows), matches)

    def _match(self, row: int, shared: int, asked: np.ndarray) -> Match:
        document = self._documents.slice(row, 1).to_pylist()[0]
        text = self._text(row)
        if text is None:
            return Match(row, document, shared)
        held = words(pa.array([text], pa.string()))
        covered = np.zeros(len(asked), np.bool_)
        begin, length = _common_runs(asked, held.hashes, self.ngram, covered)
        if not length:
            return Match(row, document, shared, 0, "", covered)
        excerpt = text.encode()[held.begin[begin] : held.end[begin + length - 1]].decode()
        return Match(row, document, shared, int(length), excerpt, covered)

    @cached_property
    def _documents(self) -> pa.Table:
        try:
            return pq.read_table(self.directory / "documents.parquet", memory_map=True)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"the index {self.directory} is damaged ({error}); build it again") from None

    def _text(self, row: int) -> str | None:
        """The text of a document, None when its artifact is gone."""
        for number, counts in enumerate(self.meta["shards"]):
            for shard, count in enumerate(counts):
                if row < count:
                    directory = self.directories[number] if number < len(self.directories) else None
                    return None if directory is None else _text_of(documents.shard_paths(directory)[shard], row)
                row -= count
        return None


def _fingerprints(shard: Shard, ngram: int, window: int, counts: Path) -> Iterator[np.ndarray]:
    """Records of one shard for `Corpus.group`; words, bytes and documents that are too short go into a file."""
    counted = np.zeros(3, np.int64)
    for numbers, batch in shard.batches(["text"]):
        found = words(batch["text"])
        keys, rows = _winnow(found.hashes, found.starts, ngram, window)
        records = np.empty(len(keys), RECORD)
        records["key"], records["row"] = keys, rows + numbers[0]
        size = pc.sum(pc.binary_length(batch["text"])).as_py() or 0
        counted += (len(found.hashes), size, int((found.counts < ngram).sum()))
        advance(batch.num_rows)
        yield records
    documents.write_json(counts / f"count-{shard.index:05d}.json", counted.tolist())


def _distinct(records: np.ndarray, ngram: int, window: int, counts: Path) -> np.ndarray:
    """Each pair of a fingerprint, as far as it is stored, and a document once; sorted."""
    kept = np.uint64(64 - PREFIX_BITS - 32)
    keys = records["key"] >> kept << kept
    order = np.lexsort((records["row"], keys))
    keys, rows = keys[order], records["row"][order]
    new = np.ones(len(keys), np.bool_)
    new[1:] = (keys[1:] != keys[:-1]) | (rows[1:] != rows[:-1])
    distinct = np.empty(int(new.sum()), RECORD)
    distinct["key"], distinct["row"] = keys[new], rows[new]
    return distinct


def _write_documents(path: Path, shards: Sequence[Shard]) -> None:
    """Where each row came from, without its text."""
    schema = pa.schema([documents.SCHEMA.field(name) for name in COLUMNS])
    partial = path.with_name(path.name + ".tmp")
    with partial.open("wb") as file:
        with pq.ParquetWriter(file, schema, compression="zstd", compression_level=3) as writer:
            for shard in shards:
                pieces = [batch for _, batch in shard.batches(list(COLUMNS))]
                writer.write_table(pa.Table.from_batches(pieces, schema), row_group_size=65536)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


class _Array:
    """A one-dimensional `.npy` file written piece by piece, whole when it has its name."""

    def __init__(self, path: Path, kind: type[np.generic]) -> None:
        self.path, self.kind, self.length = path, np.dtype(kind), 0

    def __enter__(self) -> _Array:
        self.file: IO[bytes] = self.path.with_name(self.path.name + ".tmp").open("wb")
        self.file.write(b"\0" * HEADER_BYTES)
        return self

    def append(self, array: np.ndarray) -> None:
        self.file.write(np.ascontiguousarray(array, self.kind).data)
        self.length += len(array)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            header = io.BytesIO()
            described = {"descr": self.kind.str, "fortran_order": False, "shape": (self.length,)}
            np.lib.format.write_array_header_1_0(header, described)
            assert len(header.getvalue()) == HEADER_BYTES
            self.file.seek(0)
            self.file.write(header.getvalue())
            self.file.flush()
            os.fsync(self.file.fileno())
        self.file.close()
        if kind is None:
            Path(self.file.name).replace(self.path)


def _meta(directory: Path) -> dict[str, Any]:
    path = directory / "index.json"
    try:
        meta = dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(f"{directory} holds no index.json: give what an `index` step made") from None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); build the index again") from None
    if (meta.get("algorithm"), meta.get("words")) != (ALGORITHM, WORDS):
        raise UserError(
            f"the index {directory} was made by {meta.get('algorithm')} with {meta.get('words')}, this lmcraft reads "
            f"{ALGORITHM} with {WORDS}; build it again"
        )
    return meta


def _text_of(path: Path, row: int) -> str:
    """The text of one row of a shard, from its row group alone."""
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            if row < size:
                return str(file.read_row_group(group, columns=["text"])["text"][row].as_py())
            row -= size
    raise IndexError(row)


@numba.njit(cache=True, nogil=True)
def _winnow(hashes: np.ndarray, starts: np.ndarray, ngram: int, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Fingerprints: in each window the n-gram that comes first in an order of its own, of equals the last.

    The order is not that of the keys, so that the keys kept are as even as the others. A text of fewer n-grams than
    a window is one window.
    """
    room = max(len(hashes), 1)
    found, rows = np.empty(room, np.uint64), np.empty(room, np.uint32)
    keys, ranks = np.empty(window, np.uint64), np.empty(window, np.uint64)
    count = 0
    oldest = power(ngram)
    for row in range(len(starts) - 1):
        begin, end = starts[row], starts[row + 1]
        grams = end - begin - ngram + 1
        gram = np.uint64(0)
        least = -1  # the n-gram that stands for the windows seen last
        for word in range(begin, end):
            gram = gram * np.uint64(BASE) + hashes[word]
            if word - begin >= ngram:
                gram -= hashes[word - ngram] * oldest
            number = word - begin - ngram + 1
            if number < 0:
                continue
            key = key_of(gram, ngram)
            slot = number % window
            keys[slot], ranks[slot] = key, splitmix(key)
            if number < window - 1 and number < grams - 1:
                continue  # the first window is not full yet
            first = max(number - window + 1, 0)
            if least >= first:
                if ranks[slot] >= ranks[least % window]:
                    continue
                least = number
            else:
                least = number
                for other in range(number - 1, first - 1, -1):
                    if ranks[other % window] < ranks[least % window]:
                        least = other
            found[count], rows[count] = keys[least % window], row
            count += 1
    return found[:count], rows[:count]


@numba.njit(cache=True, nogil=True)
def _common_runs(asked: np.ndarray, held: np.ndarray, ngram: int, covered: np.ndarray) -> tuple[int, int]:
    """The first word (of `held`) and the length of the longest run of words in common, of at least an n-gram.

    Sets `covered` for every word of `asked` that lies in a common n-gram.
    """
    grams = len(asked) - ngram + 1
    keys = np.empty(grams, np.uint64)
    oldest = power(ngram)
    gram = np.uint64(0)
    for word in range(len(asked)):
        gram = gram * np.uint64(BASE) + asked[word]
        if word >= ngram:
            gram -= asked[word - ngram] * oldest
        if word >= ngram - 1:
            keys[word - ngram + 1] = key_of(gram, ngram)
    order = np.argsort(keys)
    ordered = keys[order]
    runs = np.zeros(grams + 1, np.int64)  # where the n-gram of `held` before this one matched: length of that run
    before = np.zeros(grams + 1, np.int64)
    best, best_end = 0, 0
    gram = np.uint64(0)
    touched = np.empty(grams, np.int64)
    touched_before = np.empty(grams, np.int64)
    n_before = 0
    for word in range(len(held)):
        gram = gram * np.uint64(BASE) + held[word]
        if word >= ngram:
            gram -= held[word - ngram] * oldest
        n_now = 0
        if word >= ngram - 1:
            key = key_of(gram, ngram)
            place = np.searchsorted(ordered, key)
            while place < grams and ordered[place] == key:
                at = order[place]
                runs[at + 1] = before[at] + 1
                touched[n_now] = at + 1
                n_now += 1
                for each in range(at, at + ngram):
                    covered[each] = True
                if runs[at + 1] > best:
                    best, best_end = runs[at + 1], word + 1
                place += 1
        for each in range(n_before):
            before[touched_before[each]] = 0
        for each in range(n_now):
            at = touched[each]
            before[at], touched_before[each] = runs[at], at
        n_before = n_now
    length = best + ngram - 1 if best else 0
    return best_end - length, length


STAGE = Stage(
    name="index",
    version=1,
    config=IndexConfig,
    inputs={"documents": Input(kinds=("documents",), many=True)},
    output="index",
    run=run,
    help="Index word n-grams of documents, to answer later whether a text was in them (`lmcraft overlap`).",
)
