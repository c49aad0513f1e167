"""The held-out split: decided by a hash of the text alone, after duplicates are gone and before anything is trained.

It is the last step of every `curate`, so it has no name in a recipe; its settings are the stage's own.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa

from lmcraft.corpus.engine.corpus import Corpus, advance
from lmcraft.corpus.normalised import normalised, normalised_texts
from lmcraft.corpus.step import Arrays, Judged, Known, Shard, Step, replace_columns
from lmcraft.recipe.stage import StageConfig

_SPLIT = b"split\0"


class Split(StageConfig):
    """Which documents are held out; see the settings of `curate`."""

    heldout: float
    heldout_minimum: int


def learn(corpus: Corpus, config: Split) -> Arrays:
    """`heldout`: a bool for each row."""
    parents = np.unique(np.concatenate([np.empty(0, np.uint64), *corpus.map(_parents, label="families")]))
    family = corpus.scratch / "parents.npy"
    np.save(family, parents)
    hashes = np.concatenate([np.empty(0, np.uint64), *corpus.map(_hashes, family, label="split")])
    return {"heldout": held_out(hashes, config.heldout, config.heldout_minimum)}


def split(batch: pa.RecordBatch, config: Split, known: Known) -> Judged:
    names = np.where(known.arrays["heldout"][known.rows], "heldout", "train")
    return Judged(replace_columns(batch, {"split": pa.array(names.tolist(), pa.string())}))


def split_hash(text: str) -> int:
    """A uint64 that depends on nothing but what the text says, so that a text is held out wherever it turns up."""
    return int.from_bytes(hashlib.sha256(_SPLIT + normalised(text).encode()).digest()[:8], "big")


def split_hashes(texts: pa.StringArray) -> np.ndarray:
    """`split_hash` of each text (uint64)."""
    found = np.empty(len(texts), np.uint64)
    for row, content in enumerate(normalised_texts(texts)):
        digest = hashlib.sha256(_SPLIT)
        digest.update(content)
        found[row] = int.from_bytes(digest.digest()[:8], "big")
    return found


def held_out(hashes: np.ndarray, fraction: float, minimum: int) -> np.ndarray:
    """Which documents (bool) are held out: those with a hash in the lowest `fraction` of all hashes.

    So the choice for one document does not depend on the others, except in a small corpus: there the lowest hashes
    are added until `minimum` documents are held out, or a quarter of the corpus.
    """
    chosen = hashes < np.uint64(min(int(fraction * 2.0**64), 2**64 - 1))
    least = min(minimum, len(hashes) // 4) if fraction > 0 else 0
    if chosen.sum() < least:
        chosen[np.argsort(hashes, kind="stable")[:least]] = True
    return chosen


def _parents(shard: Shard) -> np.ndarray:
    """Hashes of the ids that documents of the shard name as their parents."""
    found: set[int] = set()
    for _, batch in shard.batches(["parent"]):
        found.update(split_hash(parent) for parent in batch["parent"].drop_null().unique().to_pylist())
    return np.array(sorted(found), np.uint64)


def _hashes(shard: Shard, family: Path) -> np.ndarray:
    """A document and those made of it (its chunks, its swapped copies) share a hash, so that they stay together."""
    parents = np.load(family, allow_pickle=False)
    found = [np.empty(0, np.uint64)]
    for _, batch in shard.batches(["id", "parent", "text"]):
        hashes = split_hashes(batch["text"])
        if len(parents):
            heads = zip(batch["parent"].to_pylist(), batch["id"].to_pylist(), strict=True)
            ids = np.array([split_hash(parent or own) for parent, own in heads], np.uint64)
            hashes = np.where(np.isin(ids, parents), ids, hashes)
        found.append(hashes)
        advance(batch.num_rows)
    return np.concatenate(found)


SPLIT = Step("split", Split, split, learn=learn)
