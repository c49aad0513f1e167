"""Hashed n-grams of a text, and the linear model over them: kernels over the UTF-8 bytes of Arrow strings.

Features are those of fastText's classifier (Joulin et al., "Bag of Tricks for Efficient Text Classification", 2016):
words and runs of words, hashed into a table of fixed size, with n-grams of characters inside words. Each feature counts
once a document, and the vector of a document has length one, so that neither length nor repetition makes a score.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import pyarrow as pa

from lmcraft.corpus import words

ALGORITHM = "lmcraft-hashed-ngrams-1"
"""Names how text becomes features; weights trained under another name are void.

Characters are taken in lower case, digits as 0; their classes are those of lmcraft.corpus.words. A word is a run of
letters, digits and marks; a sign, the end of a line, and each character of scripts without spaces is a word of its own.
"""


@dataclass(frozen=True)
class Features:
    """What is looked at. `ignored`: hashes (uint64, sorted) of words that are skipped as if they were not there."""

    bits: int = 20
    words: int = 2
    characters: int = 4
    max_bytes: int = 65536
    ignored: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        return 1 << self.bits

    def table(self) -> np.ndarray:
        """The ignored words as an open hash table (uint64, at most half full)."""
        slots = 16
        while slots < 2 * len(self.ignored) + 2:
            slots *= 2
        table = np.zeros(slots, np.uint64)
        for value in self.ignored:
            at = value % slots
            while table[at]:
                at = (at + 1) % slots
            table[at] = value
        return table


def word_hashes(phrases: Iterable[str]) -> tuple[int, ...]:
    """The hashes by which `Features.ignored` knows words; of a phrase, those of each of its words."""
    found: set[int] = set()
    for phrase in phrases:
        data, starts, ends = text_bytes(pa.array([phrase]))
        found.update(int(value) for value in _word_hashes(data, starts[0], ends[0], _units()))
    return tuple(sorted(found))


def text_bytes(texts: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The bytes of all texts (uint8) and where each begins and ends in them (int64); a null is empty."""
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    large = texts.cast(pa.large_string())
    if not len(large):
        return np.zeros(1, np.uint8), np.empty(0, np.int64), np.empty(0, np.int64)
    _, offset_buffer, data_buffer = large.buffers()
    offsets = np.frombuffer(offset_buffer, np.int64)[large.offset : large.offset + len(large) + 1]
    empty = data_buffer is None or not data_buffer.size
    data = np.zeros(1, np.uint8) if empty else np.frombuffer(data_buffer, np.uint8)
    starts, ends = offsets[:-1], offsets[1:]
    if large.null_count:
        ends = np.where(large.is_null().to_numpy(zero_copy_only=False), starts, ends)
    return data, starts, ends


def train(
    data: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    labels: np.ndarray,
    importance: np.ndarray,
    outputs: int,
    features: Features,
    epochs: int,
    rate: float,
) -> np.ndarray:
    """Weights float32 [2^bits, outputs] by AdaGrad (Duchi, Hazan and Singer, 2011).

    One output: logistic regression on labels 0 and 1; more: softmax. Documents are taken in the order given, one by
    one on one thread, so that the same documents give the same bytes. There is no bias: of a text without features
    nothing is known, and classes count alike.
    """
    weights = np.zeros((features.size, outputs), np.float32)
    _train(
        data,
        starts,
        ends,
        labels.astype(np.int64),
        importance.astype(np.float32),
        weights,
        features.bits,
        features.words,
        features.characters,
        features.max_bytes,
        features.table(),
        _units(),
        epochs,
        np.float32(rate),
    )
    return weights


def logits(texts: pa.Array, weights: np.ndarray, features: Features) -> np.ndarray:
    """[documents, outputs] float32: the weighted sum of each document's features, 0 where there are none."""
    data, starts, ends = text_bytes(texts)
    return _logits(
        data,
        starts,
        ends,
        weights,
        features.bits,
        features.words,
        features.characters,
        features.max_bytes,
        features.table(),
        _units(),
    )


def frequencies(texts: pa.Array, features: Features) -> np.ndarray:
    """In how many of the texts each feature occurs (int64 [2^bits])."""
    data, starts, ends = text_bytes(texts)
    counts = np.zeros(features.size, np.int64)
    _frequencies(
        data,
        starts,
        ends,
        counts,
        features.bits,
        features.words,
        features.characters,
        features.max_bytes,
        features.table(),
        _units(),
    )
    return counts


def first_places(texts: pa.Array, wanted: np.ndarray, features: Features) -> dict[int, str]:
    """For each wanted feature the piece of text, in the first text that has one, which it stands for."""
    data, starts, ends = text_bytes(texts)
    places = np.full((features.size, 2), -1, np.int64)
    places[wanted] = -2
    _first_places(
        data,
        starts,
        ends,
        places,
        features.bits,
        features.words,
        features.characters,
        features.max_bytes,
        features.table(),
        _units(),
    )
    return {
        int(index): bytes(data[places[index, 0] : places[index, 1]]).decode("utf-8", "replace")
        for index in wanted
        if places[index, 0] >= 0
    }


SPACE, LETTER, SIGN, ALONE, LINE = range(5)


@functools.cache
def _units() -> np.ndarray:
    """For every code point its lower case (all digits 0) and, in the top byte, its class: uint32 (0x110000,)."""
    kinds = words.classes()
    units = np.arange(len(kinds), dtype=np.uint32)
    classes = np.full(len(kinds), SIGN, np.uint32)
    classes[(kinds == words.WORD) | (kinds == words.MARK) | (kinds == words.IGNORED)] = LETTER
    classes[kinds == words.SINGLE] = ALONE
    for code in range(0x20000):
        character = chr(code)
        if character.isspace() or not ((code >= 32 and character.isprintable()) or kinds[code] != words.OTHER):
            classes[code] = SPACE
        elif character.isdecimal():
            units[code] = ord("0")
        elif len(lower := character.lower()) == 1:
            units[code] = ord(lower)
    classes[ord("\n")] = LINE
    return units | (classes << np.uint32(24))


_P = np.uint64(0x9E3779B97F4A7C15)
_Q = np.uint64(0xBF58476D1CE4E5B9)
_R = np.uint64(0x94D049BB133111EB)
_NO_WORD = np.uint64(0)


def _kernel(function: Any) -> Any:
    return numba.njit(cache=True, nogil=True)(function)


@numba.njit(inline="always")
def _mix(value: np.uint64) -> np.uint64:
    """The mixing function of splitmix64 (Steele, Lea and Flood, 2014)."""
    value = (value ^ (value >> np.uint64(30))) * _Q
    value = (value ^ (value >> np.uint64(27))) * _R
    return value ^ (value >> np.uint64(31))


@numba.njit(inline="always")
def _decode(data, at, end, units):  # type: ignore[no-untyped-def]
    """Code point (lower case, digits 0), its length in bytes, its class."""
    code, length = int(data[at]), 1
    if code >= 0x80:
        code, length = words.decode(data, at)
    unit = units[code]
    return unit & np.uint32(0xFFFFFF), length, unit >> np.uint32(24)


@_kernel
def _is_ignored(table, word):  # type: ignore[no-untyped-def]
    mask = np.uint64(len(table) - 1)
    at = word & mask
    while table[at] != 0:
        if table[at] == word:
            return True
        at = (at + np.uint64(1)) & mask
    return False


@_kernel
def _walk(data, start, end, bits, run, characters, max_bytes, ignored, units, ids, spans, want_spans):  # type: ignore[no-untyped-def]
    """Write the features of one document into `ids` (repeats included) and return how many there are.

    `spans` [len(ids), 2] gets the bytes each stands for, where wanted.
    """
    mask = np.uint64((1 << bits) - 1)
    if end - start > max_bytes:
        end = start + max_bytes
        while end > start and (data[end] & 0xC0) == 0x80:  # not within a character
            end -= 1
    count = 0
    before, before2 = _NO_WORD, _NO_WORD
    before_at, before2_at = start, start
    at = start
    skip = len(ignored) > 16 or ignored.any()
    top = np.uint64(1)
    for _ in range(characters):
        top *= _P
    recent = np.zeros(16, np.uint64)
    while at < end:
        code, length, kind = _decode(data, at, end, units)
        word_at = at
        if kind == SPACE:
            at += length
            continue
        word = np.uint64(kind + 1)
        if kind != LETTER:
            word = (word ^ np.uint64(code)) * _P
            at += length
            if kind == LINE:  # a run of ends of lines is one
                while at < end and (data[at] == 10 or data[at] == 13 or data[at] == 32 or data[at] == 9):
                    at += 1
        else:
            first_id = count
            rolling = np.uint64(0)
            seen = 0
            if characters > 0:  # the edge of the word is its first character
                rolling = np.uint64(1)
                recent[0] = np.uint64(1)
                seen = 1
            while at < end:
                word = (word ^ np.uint64(code)) * _P
                at += length
                if characters > 0:
                    rolling = rolling * _P + np.uint64(code)
                    if seen >= characters:
                        rolling -= recent[seen % characters] * top
                    recent[seen % characters] = np.uint64(code)
                    seen += 1
                    if seen >= characters:
                        ids[count] = np.int32(_mix(rolling + np.uint64(characters)) & mask)
                        if want_spans:
                            spans[count, 0], spans[count, 1] = _back(data, word_at, at, characters), at
                        count += 1
                if at >= end:
                    break
                code, length, kind = _decode(data, at, end, units)
                if kind != LETTER:
                    break
            if characters > 0 and seen >= characters:
                rolling = rolling * _P + np.uint64(1) - recent[seen % characters] * top
                ids[count] = np.int32(_mix(rolling + np.uint64(characters)) & mask)
                if want_spans:
                    spans[count, 0], spans[count, 1] = _back(data, word_at, at, characters - 1), at
                count += 1
            if skip and _is_ignored(ignored, word):
                count = first_id  # as if the word were not there: its neighbours become neighbours
                continue
        ids[count] = np.int32(_mix(word) & mask)
        if want_spans:
            spans[count, 0], spans[count, 1] = word_at, at
        count += 1
        if run >= 2 and before != _NO_WORD:
            pair = before * _Q + word
            ids[count] = np.int32(_mix(pair) & mask)
            if want_spans:
                spans[count, 0], spans[count, 1] = before_at, at
            count += 1
            if run >= 3 and before2 != _NO_WORD:
                ids[count] = np.int32(_mix(before2 * _R + pair) & mask)
                if want_spans:
                    spans[count, 0], spans[count, 1] = before2_at, at
                count += 1
        before2, before = before, word
        before2_at, before_at = before_at, word_at
    return count


@_kernel
def _back(data, first, at, characters):  # type: ignore[no-untyped-def]
    """Where the last `characters` characters before `at` begin, but not before `first`."""
    while characters > 0 and at > first:
        at -= 1
        while at > first and (data[at] & 0xC0) == 0x80:
            at -= 1
        characters -= 1
    return at


@_kernel
def _room(starts, ends, max_bytes, run):  # type: ignore[no-untyped-def]
    """How many features a document may have: a word a byte at most, and a character n-gram or two."""
    longest = 0
    for row in range(len(starts)):
        longest = max(longest, min(ends[row] - starts[row], max_bytes))
    return longest * (run + 2) + 16


@_kernel
def _once(ids, count, stamps, stamp):  # type: ignore[no-untyped-def]
    """Move the first of each feature to the front; return how many differ."""
    kept = 0
    for place in range(count):
        index = ids[place]
        if stamps[index] != stamp:
            stamps[index] = stamp
            ids[kept] = index
            kept += 1
    return kept


@_kernel
def _logits(data, starts, ends, weights, bits, run, characters, max_bytes, ignored, units):  # type: ignore[no-untyped-def]
    outputs = weights.shape[1]
    result = np.empty((len(starts), outputs), np.float32)
    ids = np.empty(_room(starts, ends, max_bytes, run), np.int32)
    spans = np.empty((1, 2), np.int64)
    stamps = np.full(1 << bits, -1, np.int32)
    for row in range(len(starts)):
        count = _walk(data, starts[row], ends[row], bits, run, characters, max_bytes, ignored, units, ids, spans, False)
        count = _once(ids, count, stamps, row)
        norm = np.float32(1 / np.sqrt(count)) if count else np.float32(0)
        for output in range(outputs):
            total = np.float32(0)
            for place in range(count):
                total += weights[ids[place], output]
            result[row, output] = total * norm
    return result


@_kernel
def _train(  # type: ignore[no-untyped-def]
    data,
    starts,
    ends,
    labels,
    importance,
    weights,
    bits,
    run,
    characters,
    max_bytes,
    ignored,
    units,
    epochs,
    rate,
):
    outputs = weights.shape[1]
    ids = np.empty(_room(starts, ends, max_bytes, run), np.int32)
    spans = np.empty((1, 2), np.int64)
    stamps = np.full(1 << bits, -1, np.int32)
    squares = np.full((1 << bits, outputs), 1e-8, np.float32)
    slopes = np.empty(outputs, np.float32)
    for epoch in range(epochs):
        for row in range(len(starts)):
            count = _walk(
                data, starts[row], ends[row], bits, run, characters, max_bytes, ignored, units, ids, spans, False
            )
            count = _once(ids, count, stamps, epoch * len(starts) + row)
            if count == 0:
                continue
            norm = np.float32(1 / np.sqrt(count))
            for output in range(outputs):
                total = np.float32(0)
                for place in range(count):
                    total += weights[ids[place], output]
                slopes[output] = total * norm
            if outputs == 1:
                slopes[0] = np.float32(1) / (np.float32(1) + np.exp(-slopes[0])) - np.float32(labels[row])
            else:
                highest = slopes.max()
                whole = np.float32(0)
                for output in range(outputs):
                    slopes[output] = np.exp(slopes[output] - highest)
                    whole += slopes[output]
                for output in range(outputs):
                    slopes[output] = slopes[output] / whole - np.float32(labels[row] == output)
            for output in range(outputs):
                slope = slopes[output] * importance[row] * norm
                for place in range(count):
                    index = ids[place]
                    squares[index, output] += slope * slope
                    weights[index, output] -= rate * slope / np.sqrt(squares[index, output])


@_kernel
def _frequencies(data, starts, ends, counts, bits, run, characters, max_bytes, ignored, units):  # type: ignore[no-untyped-def]
    ids = np.empty(_room(starts, ends, max_bytes, run), np.int32)
    spans = np.empty((1, 2), np.int64)
    stamps = np.full(1 << bits, -1, np.int32)
    for row in range(len(starts)):
        count = _walk(data, starts[row], ends[row], bits, run, characters, max_bytes, ignored, units, ids, spans, False)
        for place in range(_once(ids, count, stamps, row)):
            counts[ids[place]] += 1


@_kernel
def _first_places(data, starts, ends, places, bits, run, characters, max_bytes, ignored, units):  # type: ignore[no-untyped-def]
    room = _room(starts, ends, max_bytes, run)
    ids = np.empty(room, np.int32)
    spans = np.empty((room, 2), np.int64)
    for row in range(len(starts)):
        count = _walk(data, starts[row], ends[row], bits, run, characters, max_bytes, ignored, units, ids, spans, True)
        for place in range(count):
            if places[ids[place], 0] == -2:
                places[ids[place], 0] = spans[place, 0]
                places[ids[place], 1] = spans[place, 1]


@_kernel
def _word_hashes(data, start, end, units):  # type: ignore[no-untyped-def]
    """The hashes of the words made of letters, as `_walk` makes them."""
    found = np.empty(end - start + 1, np.uint64)
    count = 0
    at = start
    while at < end:
        code, length, kind = _decode(data, at, end, units)
        at += length
        if kind != LETTER:
            continue
        word = (np.uint64(LETTER + 1) ^ np.uint64(code)) * _P
        while at < end:
            code, length, kind = _decode(data, at, end, units)
            if kind != LETTER:
                break
            word = (word ^ np.uint64(code)) * _P
            at += length
        found[count] = word
        count += 1
    return found[:count]
