"""Word n-grams that texts share: a table of the n-grams of evaluation items, and the kernel that finds them.

Words are those of `words.py` (compatibility forms and case folded, punctuation ignored), so neither case, punctuation
nor line breaks hide a copy. An n-gram is known by 64 bits: among a billion words the chance that any of them is taken
for one of a million n-grams that it is not is 5e-5.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numba import njit

from lmcraft.corpus.words import Words, splitmix
from lmcraft.corpus.words import words as words_of

BASE = 0x9E3779B97F4A7C15
"""Odd multiplier of the polynomial over the hashes of words."""

FILTER_BITS = 32
"""Bits of the filter for each n-gram of the table: one look-up in about 32 goes on to the sorted keys in vain."""

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Hits:
    """Where n-grams of the table begin in a batch of documents: arrays of the same length, in order of place."""

    rows: np.ndarray  # int64, document
    words: np.ndarray  # int64, first word, counted through the batch
    lengths: np.ndarray  # int64, words
    grams: np.ndarray  # int64, n-gram of the table


@dataclass(frozen=True)
class Overlaps:
    """Pairs of a document and an item that have n-grams in common, ordered by document, then item."""

    rows: np.ndarray  # int64, document
    items: np.ndarray  # int64
    grams: np.ndarray  # int64, different n-grams of the item found in the document
    shares: np.ndarray  # float64, of the item's n-grams
    spans: list[list[tuple[int, int]]]  # in bytes of the document's text, apart from each other, in order


def gram_table(batches: Iterable[pa.StringArray], ngram: int, shortest: int, generic: int) -> dict[str, np.ndarray]:
    """The table of all n-grams of items, an item a string; items count through all batches.

    An item of fewer words than an n-gram is found only as a whole, one of fewer than `shortest` words never. An
    n-gram that more than `generic` items have is no evidence for any of them and is left out.

    Arrays: `keys` (uint64, sorted) and `slots` (where keys with the same highest bits begin); `starts`, `items`,
    `places` (which items have the n-gram, and where: rows `starts[i]:starts[i + 1]`); `item_words`, `item_grams` (0:
    cannot be found); `filter`, `anchors`, `lengths` for the kernel; `settings` (ngram, shortest).
    """
    if not 1 <= shortest <= ngram:
        raise ValueError(f"shortest is {shortest}, but must be 1 to {ngram}")
    parts: list[tuple[np.ndarray, ...]] = []
    counts: list[np.ndarray] = []
    anchors: list[np.ndarray] = []
    items = 0
    for texts in batches:
        words = words_of(texts)
        size = np.diff(words.starts)
        keys, rows, places = _grams_of(words.hashes, words.starts, ngram, shortest)
        parts.append((keys, rows + items, places))
        anchors.append(_anchors_of(words.hashes, words.starts, ngram, shortest))
        counts.append(size)
        items += len(size)
    item_words = np.concatenate([np.empty(0, np.int64), *counts]).astype(np.int64)
    keys, rows, places = (
        np.concatenate([np.empty(0, kind), *(part[column] for part in parts)])
        for column, kind in enumerate((np.uint64, np.int64, np.int64))
    )
    order = np.lexsort((places, rows, keys))
    keys, rows, places = keys[order], rows[order], places[order]
    first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.empty(0, np.int64)
    new_item = np.concatenate([[True], (keys[1:] != keys[:-1]) | (rows[1:] != rows[:-1])]) if len(keys) else first
    holders = np.add.reduceat(new_item, first, dtype=np.int64) if len(keys) else first
    specific = np.repeat(holders <= generic, np.diff(np.append(first, len(keys))))
    keys, rows, places = keys[specific], rows[specific], places[specific]
    unique, starts = np.unique(keys, return_index=True)
    short = item_words[item_words < ngram]
    lengths = np.zeros(ngram + 1, np.bool_)
    lengths[np.unique(short[short >= shortest])] = True
    return {
        "keys": unique,
        "starts": np.append(starts, len(keys)).astype(np.int64),
        "items": rows.astype(np.int32),
        "places": places.astype(np.int32),
        "item_words": item_words,
        "item_grams": np.bincount(rows, minlength=items).astype(np.int64),
        "slots": _slots(unique),
        "filter": _filter(unique),
        "anchors": _filter(np.unique(np.concatenate([np.empty(0, np.uint64), *anchors]))),
        "lengths": lengths,
        "settings": np.array([ngram, shortest], np.int64),
    }


def find(words: Words, table: Arrays) -> Hits:
    """Every place of a batch of documents where an n-gram of the table stands."""
    ngram, shortest = table["settings"].tolist()
    room = 1 + len(words.hashes) // 64
    while True:
        rows, first, lengths, grams = (np.empty(room, np.int64) for _ in range(4))
        found = _find(
            words.hashes,
            words.starts,
            ngram,
            shortest,
            table["keys"],
            table["slots"],
            table["filter"],
            table["anchors"],
            table["lengths"],
            rows,
            first,
            lengths,
            grams,
        )
        if found <= room:
            return Hits(rows[:found], first[:found], lengths[:found], grams[:found])
        room = found


def overlaps(words: Words, hits: Hits, table: Arrays) -> Overlaps:
    """Hits gathered by document and item."""
    begin, end = table["starts"][hits.grams], table["starts"][hits.grams + 1]
    each = end - begin
    hit = np.repeat(np.arange(len(each)), each)
    entry = np.arange(len(hit)) - np.repeat(np.cumsum(each) - each, each) + np.repeat(begin, each)
    rows, items, places = hits.rows[hit], table["items"][entry].astype(np.int64), table["places"][entry]
    order = np.lexsort((hits.words[hit], items, rows))
    hit, rows, items, places = hit[order], rows[order], items[order], places[order]
    if not len(hit):
        none = np.empty(0, np.int64)
        return Overlaps(none, none, none, np.empty(0, np.float64), [])
    first = np.flatnonzero(np.concatenate([[True], (rows[1:] != rows[:-1]) | (items[1:] != items[:-1])]))
    bounds = np.append(first, len(hit))
    grams = np.array([len(np.unique(places[a:b])) for a, b in itertools.pairwise(bounds)], np.int64)
    spans = [_spans(words, hits.words[hit[a:b]], hits.lengths[hit[a:b]]) for a, b in itertools.pairwise(bounds)]
    shares = grams / table["item_grams"][items[first]]
    return Overlaps(rows[first], items[first], grams, shares, spans)


def _spans(words: Words, first: np.ndarray, lengths: np.ndarray) -> list[tuple[int, int]]:
    """Bytes of the text that the n-grams cover, those that touch or overlap joined."""
    spans: list[tuple[int, int]] = []
    last = -1  # word after the span that is open
    for word, length in zip(first.tolist(), lengths.tolist(), strict=True):
        begin, end = int(words.begin[word]), int(words.end[word + length - 1])
        if spans and word <= last:
            spans[-1] = (spans[-1][0], max(spans[-1][1], end))
        else:
            spans.append((begin, end))
        last = max(last, word + length)
    return spans


def _slots(keys: np.ndarray) -> np.ndarray:
    """Where keys with the same highest bits begin, and the end: int32, for about four keys each."""
    size = max(2, 1 << (len(keys) // 4).bit_length())
    place = (keys >> np.uint64(64 - size.bit_length() + 1)).astype(np.int64)
    return np.concatenate([[0], np.cumsum(np.bincount(place, minlength=size))]).astype(np.int32)


def _filter(keys: np.ndarray) -> np.ndarray:
    """A bit set over the highest bits of keys; its length is a power of two of 64-bit words."""
    size = max(64, 1 << (max(len(keys), 1) * FILTER_BITS - 1).bit_length())
    bits = np.zeros(size // 64, np.uint64)
    place = keys >> np.uint64(64 - size.bit_length() + 1)
    np.bitwise_or.at(bits, (place >> np.uint64(6)).astype(np.int64), np.uint64(1) << (place & np.uint64(63)))
    return bits


@njit(cache=True, nogil=True, inline="always")
def key_of(gram: np.uint64, length: int) -> np.uint64:
    """The key of so many words, from the polynomial over their hashes: every bit of it depends on every word."""
    return splitmix(gram + np.uint64(length) * np.uint64(BASE))


@njit(cache=True, nogil=True)
def power(length: int) -> np.uint64:
    """BASE to that power, modulo 2**64."""
    result = np.uint64(1)
    for _ in range(length):
        result *= np.uint64(BASE)
    return result


@njit(cache=True, nogil=True)
def _grams_of(
    hashes: np.ndarray, starts: np.ndarray, ngram: int, shortest: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    count = 0
    for row in range(len(starts) - 1):
        size = starts[row + 1] - starts[row]
        count += size - ngram + 1 if size >= ngram else (1 if size >= shortest else 0)
    keys, rows, places = np.empty(count, np.uint64), np.empty(count, np.int64), np.empty(count, np.int64)
    at = 0
    for row in range(len(starts) - 1):
        begin, end = starts[row], starts[row + 1]
        size = end - begin
        if size < shortest:
            continue
        length = min(size, ngram)
        oldest = power(length)
        gram = np.uint64(0)
        for word in range(begin, end):
            gram = gram * np.uint64(BASE) + hashes[word]
            if word - begin >= length:
                gram -= hashes[word - length] * oldest
            if word - begin >= length - 1:
                keys[at], rows[at], places[at] = key_of(gram, length), row, word - begin - length + 1
                at += 1
    return keys, rows, places


@njit(cache=True, nogil=True)
def _anchors_of(hashes: np.ndarray, starts: np.ndarray, ngram: int, shortest: int) -> np.ndarray:
    """The first `shortest` words of each item that is shorter than an n-gram."""
    found = np.empty(len(starts), np.uint64)
    count = 0
    for row in range(len(starts) - 1):
        size = starts[row + 1] - starts[row]
        if shortest <= size < ngram:
            gram = np.uint64(0)
            for word in range(starts[row], starts[row] + shortest):
                gram = gram * np.uint64(BASE) + hashes[word]
            found[count] = key_of(gram, shortest)
            count += 1
    return found[:count]


@njit(cache=True, nogil=True, inline="always")
def _maybe(bits: np.ndarray, shift: np.uint64, key: np.uint64) -> bool:
    place = key >> shift
    return (bits[place >> np.uint64(6)] >> (place & np.uint64(63))) & np.uint64(1) != 0


@njit(cache=True, nogil=True, inline="always")
def _place(keys: np.ndarray, slots: np.ndarray, shift: np.uint64, key: np.uint64) -> int:
    """The number of the key, -1 when it is not there."""
    slot = key >> shift
    for place in range(slots[slot], slots[slot + np.uint64(1)]):
        if keys[place] == key:
            return place
    return -1


@njit(cache=True, nogil=True)
def _shift(size: int) -> np.uint64:
    """How far a key is shifted so that its highest bits count through so many (a power of two)."""
    shift = 64
    while size > 1:
        size >>= 1
        shift -= 1
    return np.uint64(shift)


@njit(cache=True, nogil=True)
def _find(
    hashes: np.ndarray,
    starts: np.ndarray,
    ngram: int,
    shortest: int,
    keys: np.ndarray,
    slots: np.ndarray,
    bits: np.ndarray,
    anchors: np.ndarray,
    lengths: np.ndarray,
    rows: np.ndarray,
    first: np.ndarray,
    sizes: np.ndarray,
    grams: np.ndarray,
) -> int:
    """Fills the four last arrays; returns how many hits there are, also when they have no room for all."""
    room = len(rows)
    found = 0
    shift, anchor_shift, slot_shift = _shift(64 * len(bits)), _shift(64 * len(anchors)), _shift(len(slots) - 1)
    oldest, oldest_anchor = power(ngram), power(shortest)
    shorter = lengths.any()
    for row in range(len(starts) - 1):
        begin, end = starts[row], starts[row + 1]
        gram, anchor = np.uint64(0), np.uint64(0)
        for word in range(begin, end):
            gram = gram * np.uint64(BASE) + hashes[word]
            if word - begin >= ngram:
                gram -= hashes[word - ngram] * oldest
            if word - begin >= ngram - 1:
                key = key_of(gram, ngram)
                if _maybe(bits, shift, key):
                    place = _place(keys, slots, slot_shift, key)
                    if place >= 0:
                        if found < room:
                            rows[found], first[found] = row, word - ngram + 1
                            sizes[found], grams[found] = ngram, place
                        found += 1
            if not shorter:
                continue
            anchor = anchor * np.uint64(BASE) + hashes[word]
            if word - begin >= shortest:
                anchor -= hashes[word - shortest] * oldest_anchor
            if word - begin < shortest - 1 or not _maybe(anchors, anchor_shift, key_of(anchor, shortest)):
                continue
            longer, begin_word = anchor, word - shortest + 1
            for length in range(shortest, ngram):
                if length > shortest:
                    if begin_word + length > end:
                        break
                    longer = longer * np.uint64(BASE) + hashes[begin_word + length - 1]
                if lengths[length]:
                    key = key_of(longer, length)
                    if _maybe(bits, shift, key):
                        place = _place(keys, slots, slot_shift, key)
                        if place >= 0:
                            if found < room:
                                rows[found], first[found] = row, begin_word
                                sizes[found], grams[found] = length, place
                            found += 1
    return found
