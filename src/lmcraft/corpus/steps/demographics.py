"""Step `demographics`: how often a document mentions groups of people, by word lists of our own.

The counts become scores `mentions:KIND/GROUP`, by which `balance` can mix and which the data card adds up. They count
words, not people: a name is no mention, and in French, Spanish and German neither is a pronoun, whose gender there is
the noun's. Words that mostly mean something else (Polish and polish, old, black) count only before a word for people.
"""

from __future__ import annotations

import functools
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numba
import numpy as np
import pyarrow as pa
from pydantic import Field

from lmcraft.corpus.documents import read_documents
from lmcraft.corpus.step import Judged, Known, Step, replace_columns
from lmcraft.corpus.steps.demographic_words import LISTS
from lmcraft.corpus.words import splitmix, words
from lmcraft.recipe.stage import StageConfig

Kind = Literal["gender", "religion", "origin", "age", "disability", "orientation"]
KINDS: tuple[Kind, ...] = ("gender", "religion", "origin", "age", "disability", "orientation")
PREFIX = "mentions:"
NAME = 1 << 16
"""Added to the group of a pair that is one name."""


class Demographics(StageConfig):
    """Counts mentions of groups of people as scores (`mentions:gender/female`); removes nothing."""

    kinds: list[Kind] = Field(default=list(KINDS), min_length=1, description="What is counted.")
    default_language: str | None = Field(
        "en", description="Lists used where a document's language is unknown; null: it is not counted."
    )


def demographics(batch: pa.RecordBatch, config: Demographics, known: Known) -> Judged:
    languages = np.array([code or config.default_language or "" for code in batch["language"].to_pylist()])
    found: list[dict[str, float]] = [{} for _ in range(batch.num_rows)]
    for language in sorted(set(languages.tolist()) & set(LISTS)):
        rows = np.flatnonzero(languages == language)
        groups, counts = count_mentions(batch["text"].take(pa.array(rows)), language)
        wanted = [place for place, group in enumerate(groups) if group.split("/")[0] in config.kinds]
        for place in wanted:
            for row in np.flatnonzero(counts[:, place]).tolist():
                found[rows[row]][PREFIX + groups[place]] = float(counts[row, place])
    counted = {PREFIX + kind + "/" for kind in config.kinds}
    scores = []
    for old, new in zip(batch["scores"].to_pylist(), found, strict=True):
        kept = {name: value for name, value in old or () if name[: name.find("/") + 1] not in counted}
        scores.append(sorted((kept | new).items()))
    return Judged(replace_columns(batch, {"scores": pa.array(scores, batch.schema.field("scores").type)}))


def count_mentions(texts: pa.StringArray, language: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Groups (`gender/female`) and how often each text mentions them: int32 of [texts, groups]."""
    groups, keys, group_of, firsts = _table(language)
    found = words(texts)
    counts = np.zeros((len(texts), len(groups)), np.int32)
    _count(found.hashes, found.starts, keys, group_of, firsts, counts)
    return groups, counts


def mentions(directory: Path) -> dict[str, Any]:
    """What the documents of an artifact mention, for the data card; empty when the step did not run.

    By kind: `groups` (mentions, documents, share of the kind's mentions, each document counted as often as it is
    seen), `tvd` (total variation distance to equal shares, as HELM's representation bias, Liang et al. 2022) and
    `together` (documents that mention both of two groups, and their share of those that mention either).
    """
    total: Counter[str] = Counter()
    inside: Counter[str] = Counter()
    together: Counter[tuple[str, str]] = Counter()
    for batch in read_documents(directory, ["scores", "repeats"]):
        for scores, repeats in zip(batch["scores"].to_pylist(), batch["repeats"].to_pylist(), strict=True):
            here = [(name.removeprefix(PREFIX), value) for name, value in scores or () if name.startswith(PREFIX)]
            for name, value in here:
                total[name] += int(value) * (repeats or 1)
                inside[name] += 1
            together.update(combinations(sorted(name for name, _ in here), 2))
    result: dict[str, Any] = {}
    for kind in KINDS:
        names = [name for name in sorted(total, key=lambda name: (-total[name], name)) if name.startswith(kind + "/")]
        number = sum(total[name] for name in names)
        if not number:
            continue
        every = [name for name in _every_group() if name.startswith(kind + "/")]
        result[kind] = {
            "groups": {
                name.split("/")[1]: {
                    "mentions": total[name],
                    "documents": inside[name],
                    "share": round(total[name] / number, 4),
                }
                for name in names
            },
            "tvd": round(sum(abs(total[name] / number - 1 / len(every)) for name in every) / 2, 4),
            "together": [
                {
                    "groups": [first.split("/")[1], second.split("/")[1]],
                    "documents": both,
                    "share": round(both / (inside[first] + inside[second] - both), 4),
                }
                for (first, second), both in sorted(together.items(), key=lambda item: (-item[1], item[0]))
                if first.startswith(kind + "/") and second.startswith(kind + "/")
            ],
        }
    return result


@functools.cache
def _every_group() -> list[str]:
    return sorted({name for text in LISTS.values() for name in read_list(text)})


@functools.cache
def _table(language: str) -> tuple[tuple[str, ...], np.ndarray, np.ndarray, np.ndarray]:
    """Groups; a hash table of the keys of words and pairs (uint64, 0: free) with the group of each."""
    lists = read_list(LISTS[language])
    groups = tuple(sorted(lists))
    entries: dict[int, int] = {}
    names: set[int] = set()
    for number, group in enumerate(groups):
        for entry in lists[group]:
            hashes = words(pa.array([entry])).hashes.tolist()
            key = hashes[0] if len(hashes) == 1 else int(_pair(np.uint64(hashes[0]), np.uint64(hashes[1])))
            if "_" in entry:
                names.add(key)
            if len(hashes) > 2 or entries.setdefault(key, number) != number:
                raise AssertionError(f"{language}: {entry!r} is in two groups or longer than two words")
    size = 1 << (4 * len(entries)).bit_length()
    keys, group_of = np.zeros(size, np.uint64), np.zeros(size, np.int32)
    for key, number in entries.items():
        place = key & (size - 1)
        while keys[place]:
            place = (place + 1) & (size - 1)
        keys[place], group_of[place] = key, number + NAME * (key in names)
    firsts = np.zeros(1 << 16, np.bool_)  # lowest bits of the words that begin a pair
    for group in groups:
        for entry in lists[group]:
            hashes = words(pa.array([entry])).hashes
            if len(hashes) == 2:
                firsts[int(hashes[0]) & 0xFFFF] = True
    return groups, keys, group_of, firsts


@numba.njit(inline="always")
def _pair(first: np.uint64, second: np.uint64) -> np.uint64:
    return splitmix(first ^ splitmix(second))


@numba.njit(cache=True, nogil=True)
def _find(key: np.uint64, keys: np.ndarray, group_of: np.ndarray) -> int:
    last = np.uint64(len(keys) - 1)
    place = key & last
    while keys[place] != 0:
        if keys[place] == key:
            return int(group_of[place])
        place = (place + np.uint64(1)) & last
    return -1


@numba.njit(cache=True, nogil=True)
def _count(
    hashes: np.ndarray,
    starts: np.ndarray,
    keys: np.ndarray,
    group_of: np.ndarray,
    firsts: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Add up mentions; the words of a pair that is a name count no more by themselves."""
    for document in range(len(starts) - 1):
        place = starts[document]
        while place < starts[document + 1]:
            if place + 1 < starts[document + 1] and firsts[hashes[place] & np.uint64(0xFFFF)]:
                found = _find(_pair(hashes[place], hashes[place + 1]), keys, group_of)
                if found >= NAME:
                    counts[document, found - NAME] += 1
                    place += 2
                    continue
                if found >= 0:
                    counts[document, found] += 1
            found = _find(hashes[place], keys, group_of)
            if found >= 0:
                counts[document, found] += 1
            place += 1


def read_list(text: str) -> dict[str, list[str]]:
    """Group -> words and pairs of words of one of the lists: `old man`, and `sri_lankan` where the pair is one name."""
    lines = text.replace("\n  ", " ").strip().split("\n")
    entries = {name: words_.split() for name, words_ in (line.split(": ", 1) for line in lines)}
    people = entries.pop("*")
    return {
        name: [
            one.replace("_", " ").replace("*", person) if "*" in one else one
            for one in listed
            for person in (people if "*" in one else [""])
        ]
        for name, listed in entries.items()
    }


DEMOGRAPHICS = Step("demographics", Demographics, demographics)
