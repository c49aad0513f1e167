"""The held-out split: decided by a hash of the text alone, after duplicates are gone and before anything is trained."""

from __future__ import annotations

import hashlib

import numpy as np

from lmcraft.corpus.duplicates import normalised


def split_hash(text: str) -> int:
    """A uint64 that depends on nothing but what the text says, so that a text is held out wherever it turns up."""
    return int.from_bytes(hashlib.sha256(b"split\0" + normalised(text).encode()).digest()[:8], "big")


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
