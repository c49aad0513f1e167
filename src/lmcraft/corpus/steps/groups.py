"""Groups of documents: the values of one or several dimensions, as one label a document.

A dimension is a column (`source`, `language`, `topic`, `licence`, `format`), a score in bands (`score:quality`), or
the largest of several scores of one family (`most:mentions:gender` is `female`, `male`, … by the scores
`mentions:gender/female`, `mentions:gender/male`, …).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lmcraft.corpus.documents import NONE
from lmcraft.corpus.step import score

COLUMNS = ("source", "language", "topic", "licence", "format")
SCORE, MOST = "score:", "most:"
TIE = "(even)"
SEPARATOR = " / "
"""Between the values of several dimensions in a group's name."""

Bands = Mapping[str, Sequence[float]]


def check_dimensions(by: Sequence[str], bands: Bands) -> None:
    """Raises ValueError when a dimension is not one, or a score has no bands."""
    for name in by:
        if name.startswith(SCORE):
            edges = bands.get(name.removeprefix(SCORE))
            if not edges:
                raise ValueError(f"{name} needs its limits: bands: {{{name.removeprefix(SCORE)}: [0.3, 0.7]}}")
            if list(edges) != sorted(set(edges)):
                raise ValueError(f"the bands of {name} must rise: {list(edges)}")
        elif name not in COLUMNS and not name.startswith(MOST):
            raise ValueError(f"documents have no dimension {name!r}; take {', '.join(COLUMNS)}, score:… or most:…")
    if len(set(by)) != len(by):
        raise ValueError("a dimension is named twice in `by`")


def columns_of(by: Sequence[str]) -> list[str]:
    """Columns that `group_labels` reads."""
    return list(dict.fromkeys(name if name in COLUMNS else "scores" for name in by))


def group_labels(batch: pa.RecordBatch, by: Sequence[str], bands: Bands) -> pa.Array:
    """The group of each row (string): the values of the dimensions joined by ` / `, `(none)` where there is none."""
    values = [_values(batch, name, bands) for name in by]
    if len(values) == 1:
        return values[0].cast(pa.string())
    plain = [pc.replace_substring(value, SEPARATOR, "/") for value in values]  # so that a name says where it was joined
    return pc.binary_join_element_wise(*plain, SEPARATOR).cast(pa.string())


def band_names(edges: Sequence[float]) -> list[str]:
    """Names of the bands between the limits: a value belongs to the band that it opens."""
    inner = [f"{low:g} to {high:g}" for low, high in itertools.pairwise(edges)]
    return [f"below {edges[0]:g}", *inner, f"{edges[-1]:g} and more"]


def _values(batch: pa.RecordBatch, name: str, bands: Bands) -> pa.Array:
    if name.startswith(SCORE):
        score_name = name.removeprefix(SCORE)
        edges = np.asarray(bands[score_name], np.float32)  # scores are stored so; .7 must meet its own band
        found = score(batch, score_name).astype(np.float32)
        names = np.array([*band_names(bands[score_name]), NONE])
        return pa.array(names[np.where(np.isnan(found), len(names) - 1, np.searchsorted(edges, found, side="right"))])
    if name.startswith(MOST):
        prefix = name.removeprefix(MOST) + "/"
        return pa.array([_largest(row, prefix) for row in batch["scores"].to_pylist()], pa.string())
    return pc.fill_null(batch[name], NONE)


def _largest(scores: Sequence[tuple[str, float]] | None, prefix: str) -> str:
    found = [(value, name) for name, value in scores or () if name.startswith(prefix) and value > 0]
    if not found:
        return NONE
    most = max(value for value, _ in found)
    names = [name for value, name in found if value == most]
    return names[0].removeprefix(prefix) if len(names) == 1 else TIE
