"""How much of each group there shall be: arithmetic on sizes alone, no documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from lmcraft.corpus.steps.groups import SEPARATOR
from lmcraft.recipe.stage import UserError

REST = "*"
"""In shares: all values that are not named, in proportion of their sizes."""

WhenShort = Literal["fill", "shrink", "stop"]


def temperature_shares(sizes: np.ndarray, temperature: float) -> np.ndarray:
    """p ~ size^(1/T) (Devlin 2018 for multilingual BERT): 1 as it is, larger is flatter."""
    powers = np.where(sizes > 0, np.maximum(sizes, 1e-300) / sizes.max(), 0) ** (1 / temperature)
    return powers / powers.sum()


def even_shares(sizes: np.ndarray) -> np.ndarray:
    """The same for all. Under limits and with `fill` this is UniMax (Chung et al., ICLR 2023, algorithm 1)."""
    return np.where(sizes > 0, 1.0, 0.0) / np.count_nonzero(sizes)


def fixed_shares(
    sizes: np.ndarray, labels: Sequence[str], by: Sequence[str], shares: Mapping[str, Mapping[str, float]]
) -> np.ndarray:
    """Shares of the groups so that each dimension has the shares asked for, as near to the sizes as that allows.

    `shares` names for a dimension (or several, joined by ` / ` as in `by`) the shares of its values. With one
    dimension this is plain proportion; with several, iterative proportional fitting (Deming and Stephan 1940), whose
    result has the least relative entropy to the sizes. Raises UserError when a value has no documents, when shares
    do not add up to 1, or when no mixture of these groups has them.
    """
    parts = [label.split(SEPARATOR) if len(by) > 1 else [label] for label in labels]
    wanted = []
    for dimensions, named in shares.items():
        places = [by.index(name) for name in dimensions.split(SEPARATOR)]
        values = np.array([SEPARATOR.join(part[place] for place in places) for part in parts])
        wanted.append((dimensions, *_cells(dimensions, values, sizes, named)))
    table: np.ndarray = sizes / sizes.sum()
    worst = 0.0
    for _ in range(2000):
        worst = 0.0
        for _, cells, share in wanted:
            sums = np.bincount(cells, table, len(share))
            worst = max(worst, float(np.abs(sums - share).max()))
            table = table * np.divide(share, sums, out=np.zeros_like(share), where=sums > 0)[cells]
        if worst < 1e-9:
            return table / table.sum()
    raise UserError(
        f"no mixture of these documents has all the shares asked for (off by {worst:.3g} at best, last for "
        f"{wanted[-1][0]}): their dimensions are too much the same; ask for shares of fewer dimensions, or of the pairs"
    )


def _cells(
    dimensions: str, values: np.ndarray, sizes: np.ndarray, named: Mapping[str, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Number of each group's cell, and the share of each cell; the values not named are cells of their own."""
    known, cells = np.unique(values, return_inverse=True)
    inside = np.bincount(cells, sizes, len(known))
    present = dict(zip(known.tolist(), inside.tolist(), strict=True))
    for value, share in named.items():
        if value != REST and share > 0 and not present.get(value):
            there = ", ".join(repr(name) for name in list(present)[:8])
            raise UserError(f"no document has the {dimensions} {value!r}, which is to have a share; there are {there}")
    rest = np.array([value not in named for value in known.tolist()], bool)
    left = named.get(REST, 0.0)
    total = sum(named.values())
    if abs(total - 1) > 1e-6:
        raise UserError(f"the shares of {dimensions} add up to {total:g}, not 1; '*' stands for all others")
    if left > 0 and not inside[rest].sum():
        raise UserError(f"no document has another {dimensions} than those named, but '*' is to have a share")
    result = np.array([named.get(value, 0.0) for value in known.tolist()], np.float64)
    if left > 0:
        result[rest] = left * inside[rest] / inside[rest].sum()
    return cells, result / result.sum()


def allocate(shares: np.ndarray, limits: np.ndarray, total: float, when_short: WhenShort) -> np.ndarray:
    """Sizes of the groups: `shares` of `total`, none above its limit.

    Where a limit is met, `fill` lets the other groups have what is missing, `shrink` lowers the total until all shares
    are met, and `stop` raises UserError.
    """
    wanted = shares * total
    if (wanted <= limits * (1 + 1e-9)).all():
        return np.minimum(wanted, limits)
    if when_short == "fill":
        return _fill(shares, limits, total)
    possible = float(np.min(limits[shares > 0] / shares[shares > 0]))
    if when_short == "stop":
        raise UserError(
            f"the shares cannot be met: there is enough for {possible:.0f} of the {total:.0f} wanted; lower the target,"
            " raise max_epochs or max_size, or set when_short: shrink or fill"
        )
    return np.minimum(shares * possible, limits)


def _fill(shares: np.ndarray, limits: np.ndarray, total: float) -> np.ndarray:
    """Raise all groups in proportion of their shares until the total is reached, each stopping at its limit."""
    level = np.divide(limits, shares, out=np.full_like(limits, np.inf), where=shares > 0)
    result = np.zeros_like(limits)
    left, weight = float(total), float(shares.sum())
    for group in np.argsort(level, kind="stable").tolist():
        if shares[group] <= 0:
            continue
        result[group] = min(limits[group], left * shares[group] / weight)
        left -= float(result[group])
        weight = max(weight - float(shares[group]), 1e-300)
    return result
