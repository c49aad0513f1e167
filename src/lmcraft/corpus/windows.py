"""Windows of words that occur more than once: which could, and their hashes. Compiled, over hashes of words.

Winnowing (Schleimer, Wilkerson and Aiken, 2003): of the hashes of all runs of k words in a window, the least is its
anchor. Equal windows have equal anchors, so only windows whose anchor occurs twice can occur twice.
"""

from __future__ import annotations

import numba
import numpy as np

from lmcraft.corpus.words import splitmix


def anchors(hashes: np.ndarray, starts: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Anchors (uint64) of all windows of `size` words, and the document of each; each place in the text once.

    `hashes` and `starts` are those of `words.word_hashes`.
    """
    most = int(np.maximum(np.diff(starts) - size + 1, 0).sum())
    keys, documents = np.empty(most, np.uint64), np.empty(most, np.int64)
    count = _windows(hashes, starts, size, np.empty(0, np.uint64), 1, 0, keys, documents, np.empty(0, np.int32))
    return keys[:count], documents[:count]


def windows(
    hashes: np.ndarray, starts: np.ndarray, size: int, table: np.ndarray, parts: int, part: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hash, document and first word of every window whose anchor is in the table (as `table_of` makes it).

    Windows are dealt into `parts` by their hash; only those of one are given.
    """
    most = int(np.maximum(np.diff(starts) - size + 1, 0).sum())
    keys, documents, places = np.empty(most, np.uint64), np.empty(most, np.int64), np.empty(most, np.int32)
    count = _windows(hashes, starts, size, table, parts, part, keys, documents, places)
    return keys[:count], documents[:count], places[:count]


def table_size(count: int) -> int:
    """Places of a table for so many keys: a power of two, at most four fifths full."""
    return 1 << max(4, (count * 5 // 4).bit_length())


@numba.njit(cache=True, nogil=True)
def put(table: np.ndarray, keys: np.ndarray) -> None:
    """Add keys to a hash table of zeros with open addresses."""
    mask = np.uint64(len(table) - 1)
    for key in keys:
        key = max(key, np.uint64(1))  # noqa: PLW2901
        place = key & mask
        while table[place] != 0 and table[place] != key:
            place = (place + np.uint64(1)) & mask
        table[place] = key


_BASE = np.uint64(0xD6E8FEB86659FD93)


@numba.njit(inline="always")
def _has(table: np.ndarray, key: np.uint64) -> bool:
    mask = np.uint64(len(table) - 1)
    key = max(key, np.uint64(1))
    place = key & mask
    while table[place] != 0:
        if table[place] == key:
            return True
        place = (place + np.uint64(1)) & mask
    return False


@numba.njit(inline="always")
def _power(exponent: int) -> np.uint64:
    value = np.uint64(1)
    for _ in range(exponent):
        value = value * _BASE
    return value


@numba.njit(cache=True, nogil=True)
def _windows(
    hashes: np.ndarray,
    starts: np.ndarray,
    size: int,
    table: np.ndarray,
    parts: int,
    part: int,
    keys: np.ndarray,
    documents: np.ndarray,
    places: np.ndarray,
) -> int:
    """With a table the windows that it lets through, else the anchors; gives how many."""
    run = (size + 1) // 2
    inside = size - run + 1  # runs of a window
    run_power, size_power = _power(run), _power(size)
    count = 0
    longest = 0
    for document in range(len(starts) - 1):
        longest = max(longest, starts[document + 1] - starts[document])
    runs = np.empty(longest, np.uint64)
    for document in range(len(starts) - 1):
        first, length = starts[document], starts[document + 1] - starts[document]
        if length < size:
            continue
        value = np.uint64(0)
        for word in range(run):
            value = value * _BASE + hashes[first + word]
        runs[0] = splitmix(value)
        for word in range(1, length - run + 1):
            value = value * _BASE - hashes[first + word - 1] * run_power + hashes[first + word + run - 1]
            runs[word] = splitmix(value)
        window = np.uint64(0)
        if len(table):
            for word in range(size):
                window = window * _BASE + hashes[first + word]
        least, at = np.uint64(0), -1
        known = False
        for place in range(length - size + 1):
            last = place + inside - 1
            changed = False
            if at < place:
                at, least = place, runs[place]
                for other in range(place + 1, last + 1):
                    if runs[other] <= least:
                        at, least = other, runs[other]
                changed = True
            elif runs[last] <= least:
                at, least = last, runs[last]
                changed = True
            if not len(table):
                if changed:
                    keys[count], documents[count] = least, document
                    count += 1
                continue
            if changed:
                known = _has(table, least)
            if place:
                window = window * _BASE - hashes[first + place - 1] * size_power + hashes[first + place + size - 1]
            if known:
                key = splitmix(window)
                if parts == 1 or (key >> np.uint64(8)) % np.uint64(parts) == part:
                    keys[count], documents[count], places[count] = key, document, place
                    count += 1
    return count
