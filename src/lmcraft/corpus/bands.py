"""What the bands of a MinHash signature find, and which to take for a wanted similarity.

Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", 3.4: documents of Jaccard similarity J share one of b
bands of r rows with probability 1 - (1 - J**r)**b.
"""

from __future__ import annotations

import functools

import numpy as np


def probability(similarity: float | np.ndarray, bands: int, rows: int) -> np.ndarray:
    """That two documents of this Jaccard similarity are compared."""
    return 1 - (1 - np.asarray(similarity, np.float64) ** rows) ** bands


@functools.cache
def chosen_bands(similarity: float, hashes: int) -> tuple[int, int]:
    """Bands and rows of at most so many hashes that tell best between pairs above and below a similarity.

    Least is the sum of two areas: that above the curve of `probability` to the right of the similarity (pairs missed)
    and that under the curve to its left (pairs compared in vain). Of equals the one with fewer hashes.
    """
    grid = (np.arange(2000) + 0.5) / 2000
    best = (np.inf, 0, 1, 1)
    for rows in range(1, hashes + 1):
        for bands in range(1, hashes // rows + 1):
            found = probability(grid, bands, rows)
            area = float(np.where(grid < similarity, found, 1 - found).mean())
            best = min(best, (round(area, 9), bands * rows, bands, rows))
    return best[2], best[3]
