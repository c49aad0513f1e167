"""How good a score is: areas under curves with intervals, calibration, tables of thresholds.

Every measure takes weights of the documents, so that classes of unequal size can count alike.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lmcraft.intervals import Z95, proportion


def share(hits: int, n: int) -> dict[str, Any]:
    """A proportion with Wilson's 95% interval (Wilson, 1927); of nothing: nulls, not zeros."""
    if n == 0:
        return {"value": None, "low": None, "high": None, "n": 0}
    value, low, high, _ = proportion(hits, n)
    return {"value": _short(value), "low": _short(low), "high": _short(high), "n": n}


def auc(scores: np.ndarray, positive: np.ndarray) -> dict[str, Any]:
    """Probability that a positive scores above a negative (ties half), with DeLong's 95% interval.

    DeLong, DeLong and Clarke-Pearson, 1988. Where no pair is out of order that variance is 0 and says nothing: there
    the low end is 1 - 3/m, m documents of the smaller class (none of m seen: at most 3/m, at 95%).
    """
    first, second = scores[positive], scores[~positive]
    m, n = len(first), len(second)
    if m < 2 or n < 2:
        return {"value": None, "low": None, "high": None, "positives": m, "negatives": n}
    ordered_second, ordered_first = np.sort(second), np.sort(first)
    above = (np.searchsorted(ordered_second, first, "left") + np.searchsorted(ordered_second, first, "right")) / (2 * n)
    below = 1 - (np.searchsorted(ordered_first, second, "left") + np.searchsorted(ordered_first, second, "right")) / (
        2 * m
    )
    value = float(above.mean())
    error = math.sqrt(above.var(ddof=1) / m + below.var(ddof=1) / n)
    low, high = max(0.0, value - Z95 * error), min(1.0, value + Z95 * error)
    if error == 0:
        low, high = (1 - 3 / min(m, n), 1.0) if value == 1 else (value, value)
    return {"value": _short(value), "low": _short(low), "high": _short(high), "positives": m, "negatives": n}


def calibration(probability: np.ndarray, correct: np.ndarray, weights: np.ndarray, bins: int = 10) -> dict[str, Any]:
    """Expected calibration error over bins of equal width (Naeini, Cooper and Hauskrecht, 2015), with the bins.

    `probability`: what was said; `correct` (bool): whether it came true. The table lists bins that hold anything.
    """
    place = np.minimum((probability * bins).astype(np.int64), bins - 1)
    table, error, total = [], 0.0, float(weights.sum())
    for index in range(bins):
        inside = place == index
        weight = float(weights[inside].sum())
        if weight == 0:
            continue
        said = float((probability[inside] * weights[inside]).sum() / weight)
        came = float((correct[inside] * weights[inside]).sum() / weight)
        error += weight / total * abs(said - came)
        table.append({"from": index / bins, "said": _short(said), "came": _short(came), "n": int(inside.sum())})
    return {"expected_calibration_error": _short(error), "n": len(probability), "bins": table}


def thresholds(probability: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> list[dict[str, Any]]:
    """What keeping everything from a threshold up would mean: precision, recall, and the shares that are kept."""
    rows = []
    for limit in (0.01, 0.05, *(step / 10 for step in range(1, 10)), 0.95, 0.99):
        kept = probability >= limit
        right, all_kept = float(weights[kept & positive].sum()), float(weights[kept].sum())
        rows.append(
            {
                "threshold": limit,
                "precision": _short(right / all_kept) if all_kept else None,
                "recall": _share(kept, positive),
                "false_positives": _share(kept, ~positive),
                "kept": _short(float(kept.mean())),
            }
        )
    return rows


def confusion(said: np.ndarray, label: np.ndarray, classes: int) -> np.ndarray:
    """[classes, classes]: how many documents of a class (row) were taken for which (column)."""
    return np.bincount(label * classes + said, minlength=classes * classes).reshape(classes, classes)


def _share(chosen: np.ndarray, of: np.ndarray) -> float | None:
    return _short(float(chosen[of].mean())) if of.any() else None


def _short(value: float) -> float:
    return round(value, 5)
