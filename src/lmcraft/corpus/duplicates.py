"""Steps `exact` and `near`: a document goes only for the sake of one that is kept and that it resembles.

Near duplicates: MinHash (Broder, 1997) over word n-grams, with candidates from banding (Leskovec, Rajaraman and
Ullman, "Mining of Massive Datasets", 3.4), checked by the share of the signature that agrees, which estimates the
Jaccard similarity of the two sets of n-grams. Connected components would also remove documents that nothing kept
resembles; the greedy pass does not.
"""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata

import numpy as np
import pyarrow as pa
from pydantic import Field

from lmcraft.corpus.steps import Duplicates, GlobalStep, Keys
from lmcraft.recipe.stage import StageConfig

SIGNATURE = "lmcraft-minhash-1"
"""Names how signatures are computed; a change of anything that alters one needs a new name, as stored ones are void.

Words of the NFKC case-folded text (letters and digits of any script; every character of scripts without spaces is a
word), 64-bit BLAKE2b of each, n-grams by polynomial hashing, mixed by splitmix64, then multiply-shift hashes with odd
multipliers from the same generator, the upper 32 bits, minimum.
"""


class Exact(StageConfig):
    """Removes documents whose text is the same but for case, spacing and Unicode form; the longest one stays."""


class Near(StageConfig):
    """Removes documents that share most of their word n-grams with one that is kept."""

    ngram: int = Field(5, ge=1, description="Words in an n-gram.")
    bands: int = Field(25, ge=1, description="Bands of the signature; two documents that share one are compared.")
    rows: int = Field(5, ge=1, description="Hashes in a band.")
    agree: float = Field(0.5, gt=0, le=1, description="Share of the signature that must agree: the least similarity.")


def normalised(text: str) -> str:
    """The text for comparing: NFKC, case folded, every run of white space one space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def exact_keys(batch: pa.RecordBatch, config: Exact) -> np.ndarray:
    """16 bytes of hash a document, as two uint64."""
    digests = (
        hashlib.blake2b(normalised(text).encode(), digest_size=16).digest() for text in batch["text"].to_pylist()
    )
    return np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)


def decide_exact(keys: Keys, config: Exact) -> Duplicates:
    ranked = keys.keys[keys.first]
    # Of equal keys np.unique reports the first, and `first` puts the one to keep there.
    _, leader, group = np.unique(ranked, axis=0, return_index=True, return_inverse=True)
    kept = leader[group.reshape(-1)]
    rows = np.flatnonzero(kept != np.arange(len(kept)))
    return Duplicates(keys.first[rows], keys.first[kept[rows]], np.ones(len(rows)))


def signatures(batch: pa.RecordBatch, config: Near) -> np.ndarray:
    """MinHash signature of each document: uint32 of shape (documents, bands * rows)."""
    texts = batch["text"].to_pylist()
    if not texts:
        return np.empty((0, config.bands * config.rows), np.uint32)
    words = [_WORD.findall(unicodedata.normalize("NFKC", text).casefold()) for text in texts]
    shingles, starts = _shingles(words, config.ngram)
    multipliers = _splitmix(np.arange(1, config.bands * config.rows + 1, dtype=np.uint64)) | np.uint64(1)
    columns = [np.minimum.reduceat((shingles * multiplier) >> np.uint64(32), starts) for multiplier in multipliers]
    return np.stack(columns, axis=1).astype(np.uint32)


def decide_near(keys: Keys, config: Near) -> Duplicates:
    """Greedy: in the order of `keys.first`, drop what shares a band with a kept document and agrees with it enough."""
    ranked = keys.keys[keys.first]
    buckets = _buckets(ranked, config.bands, config.rows)
    members: dict[int, list[int]] = {}  # bucket -> kept documents in it
    removed: list[tuple[int, int, float]] = []
    for rank in np.flatnonzero((buckets >= 0).any(axis=1)):
        mine = [bucket for bucket in buckets[rank].tolist() if bucket >= 0]
        candidates = np.array(sorted({other for bucket in mine for other in members.get(bucket, ())}), np.int64)
        if len(candidates):
            agreement = (ranked[candidates] == ranked[rank]).mean(axis=1)
            best = int(agreement.argmax())  # the first of equals
            if agreement[best] >= config.agree:
                removed.append((int(rank), int(candidates[best]), float(agreement[best])))
                continue
        for bucket in mine:
            members.setdefault(bucket, []).append(int(rank))
    rows, kept, values = zip(*removed, strict=True) if removed else ((), (), ())
    return Duplicates(
        keys.first[np.array(rows, np.int64)], keys.first[np.array(kept, np.int64)], np.array(values, np.float64)
    )


# Scripts written without spaces: kana, Chinese characters, Thai, Lao, Burmese, Khmer. Each character is a word.
_SPACELESS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_WORD = re.compile(rf"[{_SPACELESS}]|[^\W_{_SPACELESS}]+")


@functools.lru_cache(maxsize=1 << 18)
def _word_hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


def _shingles(words: list[list[str]], ngram: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of the n-grams of all documents in a row (uint64), and where each document's begin.

    A document of fewer words than an n-gram has one, of all its words; one of no words has that of nothing.
    """
    counts = np.array([len(document) for document in words])
    padded = np.maximum(counts, ngram)  # short documents are filled up with zeros
    hashes = np.zeros(int(padded.sum()), np.uint64)
    starts = np.concatenate([[0], np.cumsum(padded)[:-1]])
    for document, start in zip(words, starts, strict=True):
        hashes[start : start + len(document)] = np.fromiter(map(_word_hash, document), np.uint64, len(document))
    rolled = np.zeros(len(hashes) - ngram + 1, np.uint64)
    for place in range(ngram):
        rolled = rolled * np.uint64(0x9E3779B97F4A7C15) + hashes[place : place + len(rolled)]
    grams = padded - ngram + 1
    inside = np.arange(len(rolled)) - np.repeat(starts, padded)[: len(rolled)] < np.repeat(grams, padded)[: len(rolled)]
    return _splitmix(rolled[inside]), np.concatenate([[0], np.cumsum(grams)[:-1]])


def _splitmix(values: np.ndarray) -> np.ndarray:
    """The mixing function of splitmix64 (Steele, Lea and Flood, 2014) on uint64."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _buckets(signatures: np.ndarray, bands: int, rows: int) -> np.ndarray:
    """For each document and band a number of the bucket (int64), -1 where nobody else is in it."""
    buckets = np.full((len(signatures), bands), -1, np.int64)
    used = 0
    for band in range(bands):
        part = signatures[:, band * rows : (band + 1) * rows].astype(np.uint64)
        key = np.zeros(len(part), np.uint64)
        for row in range(rows):  # two bands that collide only make a pair more to check
            key = _splitmix(key ^ part[:, row])
        _, number, count = np.unique(key, return_inverse=True, return_counts=True)
        shared = count[number] > 1
        buckets[shared, band] = number[shared] + used
        used += len(count)
    return buckets


EXACT = GlobalStep("exact", Exact, "exact duplicate", exact_keys, decide_exact)
NEAR = GlobalStep("near", Near, "near duplicate", signatures, decide_near, lambda config: config.agree)
