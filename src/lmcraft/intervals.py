"""A measured value with its interval, for every room that reports one."""

from __future__ import annotations

import math
from typing import NamedTuple

Z95 = 1.959963984540054


class Estimate(NamedTuple):
    """A measured value with its 95% interval and the number of items (or documents) behind it."""

    value: float
    low: float
    high: float
    n: int


def proportion(hits: int, n: int) -> Estimate:
    """Share of hits with Wilson's score interval (Wilson 1927), which stays inside 0..1 and holds for small n."""
    if not 0 <= hits <= n or n == 0:
        raise ValueError(f"{hits} hits of {n} items is not a proportion")
    p, z2 = hits / n, Z95 * Z95
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    low = 0.0 if hits == 0 else middle - half
    high = 1.0 if hits == n else middle + half
    return Estimate(p, low, high, n)
