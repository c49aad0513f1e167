"""Step `screens`: toxic language and sexual content, by words whose every hit can be shown.

Text is judged by density: the weight of what was found in a hundred words (of a short text: in `SHORTEST` words), so
that a book in which somebody threatens somebody passes and a comment that threatens does not. Names of groups have no
weight and are in no pattern (see `screens_terms`; tests hold this). What the screen lets through and takes wrongly is
measured by `benchmarks/screens.py`, group by group. A learned screen is the stage `classifier` with
`ignore_identities`, and step `quality` with `max`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numba
import numpy as np
import pyarrow as pa
from pydantic import Field

from lmcraft.corpus import words
from lmcraft.corpus.step import Drop, Judged, Known, Step, add_score
from lmcraft.corpus.steps import screens_terms as terms
from lmcraft.recipe.stage import StageConfig

Kind = Literal["toxicity", "sexual"]
SCREEN = "lmcraft-screens-1"
"""Names terms, weights and density; a change of any needs a new name."""
SHORTEST = 25
"""A text of fewer words is measured as if it had so many: one rude word in a short sentence is not abuse."""
AROUND = 120
"""Bytes on either side of a word in which a pattern that needs it may lie."""


class Screens(StageConfig):
    """Removes documents with much toxic language or sexual content, by lists of terms and patterns."""

    kinds: list[Kind] = Field(["toxicity", "sexual"], min_length=1, description="What is looked for.")
    max_toxicity: float = Field(1.0, ge=0, description="Most weight of toxic terms in a hundred words.")
    max_sexual: float = Field(1.0, ge=0, description="Most weight of sexual terms in a hundred words.")


@dataclass(frozen=True)
class Finding:
    """What was found where, for reading: `name` is a pattern's name, or `term`."""

    kind: Kind
    name: str
    text: str
    weight: float


def screens(batch: pa.RecordBatch, config: Screens, known: Known) -> Judged:
    """Adds `scores["toxicity"]` and `scores["sexual"]`: weight in a hundred words."""
    drops = []
    limits: Mapping[Kind, tuple[str, float]] = {
        "toxicity": ("toxic language", config.max_toxicity),
        "sexual": ("sexual content", config.max_sexual),
    }
    found = densities(batch["text"])
    for kind in sorted(set(config.kinds)):
        reason, limit = limits[kind]
        batch = add_score(batch, kind, found[kind])
        drops.append(Drop(reason, found[kind] > limit, found[kind], limit))
    return Judged(batch, tuple(drops))


def densities(texts: pa.Array) -> dict[Kind, np.ndarray]:
    """For each kind the weight found in a hundred words of each text (float64)."""
    weights, counts = _weights(texts, None)
    size = np.maximum(counts, SHORTEST) / 100
    return {"toxicity": weights[:, 0] / size, "sexual": weights[:, 1] / size}


def explain(text: str) -> list[Finding]:
    """Everything that counts in one text, in no particular order of importance."""
    findings: list[Finding] = []
    _weights(pa.array([text], pa.string()), findings)
    return findings


KINDS: tuple[Kind, Kind] = ("toxicity", "sexual")


def _weights(texts: pa.Array, findings: list[Finding] | None) -> tuple[np.ndarray, np.ndarray]:
    """[documents, 2] weight of terms and patterns, and how many words each text has."""
    lexicon = _lexicon()
    found = words.words(texts)
    which, document = _look_up(found.hashes, found.starts, lexicon.hashes)
    weights = np.zeros((len(found.starts) - 1, 2))
    # In the order of the words, so that sums of floats come out the same however the batch was cut.
    np.add.at(weights, document, lexicon.weights[which[:, 1]])
    data, offsets = words.utf8(texts)
    looked_at: dict[tuple[int, int], int] = {}  # document and pattern -> byte up to which it was searched
    for (place, term), row in zip(which.tolist(), document.tolist(), strict=True):
        first = int(offsets[row])
        begin, end = int(found.begin[place]), int(found.end[place])
        if findings is not None:
            text = bytes(data[first + begin : first + end]).decode()
            findings += [
                Finding(kind, "term", text, float(weight))
                for kind, weight in zip(KINDS, lexicon.weights[term], strict=True)
                if weight
            ]
        if not lexicon.patterns[term]:
            continue
        low, high = max(0, begin - AROUND), min(int(offsets[row + 1]) - first, end + AROUND)
        window = bytes(data[first + low : first + high])
        for number in lexicon.patterns[term]:
            pattern = lexicon.compiled[number]
            for match in pattern.expression.finditer(window.lower()):
                # The match that this word is part of: each is found by each of its words, and counts once.
                if not match.start() + low <= begin < match.end() + low:
                    continue
                if match.start() + low < looked_at.get((row, number), 0):
                    continue
                looked_at[row, number] = match.end() + low
                weights[row, pattern.column] += pattern.weight
                if findings is not None:
                    text = window[match.start() : match.end()].decode("utf-8", "replace")
                    findings.append(Finding(KINDS[pattern.column], pattern.name, text, pattern.weight))
    return weights, found.counts


@dataclass(frozen=True)
class _Pattern:
    name: str
    column: int
    weight: float
    expression: re.Pattern[bytes]


@dataclass(frozen=True)
class _Lexicon:
    hashes: np.ndarray  # uint64, sorted: all words that mean something here
    weights: np.ndarray  # float64 [words, 2]
    patterns: tuple[tuple[int, ...], ...]  # for each word, numbers of the patterns that need it
    compiled: tuple[_Pattern, ...]


@functools.cache
def _lexicon() -> _Lexicon:
    compiled: list[_Pattern] = []
    needed_by: dict[str, list[int]] = {}
    for column, patterns in enumerate((terms.TOXIC_PATTERNS, terms.SEXUAL_PATTERNS)):
        for name, (weight, expression, needed) in patterns.items():
            for word in needed.split():
                needed_by.setdefault(word, []).append(len(compiled))
            # Apostrophes come in two shapes, and a line may end anywhere.
            flexible = expression.replace("'", "(?:'|\u2019)").replace(" ?", r"\s*").replace(" ", r"\s+").encode()
            compiled.append(_Pattern(name, column, weight, re.compile(flexible)))
    every = sorted({*terms.TOXIC, *terms.SEXUAL, *needed_by})
    hashes, starts = words.word_hashes(pa.array(every))
    if (np.diff(starts) != 1).any():
        raise AssertionError("a term is one word")
    order = np.argsort(hashes)
    ordered = [every[index] for index in order]
    return _Lexicon(
        hashes[order],
        np.array([[terms.TOXIC.get(word, 0.0), terms.SEXUAL.get(word, 0.0)] for word in ordered]),
        tuple(tuple(needed_by.get(word, ())) for word in ordered),
        tuple(compiled),
    )


def _look_up(hashes: np.ndarray, starts: np.ndarray, lexicon: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of the words that the lexicon has, each with its number there (int64 [hits, 2]), and their documents."""
    bits = 16  # a first sieve: most words end here
    sieve = np.zeros(1 << bits, np.bool_)
    sieve[(lexicon >> np.uint64(64 - bits)).astype(np.int64)] = True
    hits = _hits(hashes, sieve, 64 - bits, lexicon)
    return hits, np.searchsorted(starts, hits[:, 0], "right") - 1


def _compiled(function: Any) -> Any:
    return numba.njit(cache=True, nogil=True)(function)


@_compiled
def _hits(hashes, sieve, shift, lexicon):  # type: ignore[no-untyped-def]
    found = np.empty((1024, 2), np.int64)
    count = 0
    for place in range(len(hashes)):
        if not sieve[hashes[place] >> np.uint64(shift)]:
            continue
        low, high = 0, len(lexicon)
        while low < high:
            middle = (low + high) // 2
            if lexicon[middle] < hashes[place]:
                low = middle + 1
            else:
                high = middle
        if low < len(lexicon) and lexicon[low] == hashes[place]:
            if count == len(found):
                larger = np.empty((2 * count, 2), np.int64)
                larger[:count] = found
                found = larger
            found[count, 0], found[count, 1] = place, low
            count += 1
    return found[:count]


SCREENS = Step("screens", Screens, screens)
