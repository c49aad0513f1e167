"""Intervals and comparisons: how far a number measured on n items may be from the truth."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lmcraft.intervals import Estimate


def ratio(numerators: Sequence[float], denominators: Sequence[float], resamples: int, seed: int) -> Estimate:
    """Sum of numerators over sum of denominators, with the percentile bootstrap over the pairs (Efron 1979).

    Used where the items differ in size (bits and bytes of documents). The same seed and the same number of items give
    the same draw, so two models compared on the same documents are resampled alike.
    """
    top, bottom = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    if len(top) == 0 or len(top) != len(bottom) or bottom.sum() <= 0:
        raise ValueError("a ratio needs as many numerators as denominators, and a positive total below the line")
    ratios = np.array([top[draw].sum() / bottom[draw].sum() for draw in _draws(len(top), resamples, seed)])
    low, high = np.percentile(ratios, [2.5, 97.5])
    return Estimate(float(top.sum() / bottom.sum()), float(low), float(high), len(top))


def mean(values: Sequence[float], resamples: int, seed: int) -> Estimate:
    """Mean with its percentile bootstrap over the items."""
    return ratio(values, [1.0] * len(values), resamples, seed)


def compare(first: Sequence[bool], second: Sequence[bool]) -> tuple[float, float, float]:
    """Accuracy of `first` minus accuracy of `second` on the same items: difference, its standard error, and the
    two-sided p-value of McNemar's exact test (1947) on the items that only one of them got right."""
    if len(first) != len(second) or not first:
        raise ValueError("a paired comparison needs the same items, at least one")
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    n, apart = len(first), only_first + only_second
    error = math.sqrt(max(0.0, apart - (only_first - only_second) ** 2 / n)) / n
    tail = sum(math.comb(apart, k) for k in range(min(only_first, only_second) + 1))
    p = min(1.0, 2 * tail / 2**apart) if apart else 1.0
    return (only_first - only_second) / n, error, p


def _draws(n: int, resamples: int, seed: int) -> np.ndarray:
    """[resamples, n] indices drawn with replacement."""
    return np.random.Generator(np.random.PCG64(seed)).integers(0, n, size=(resamples, n))
