"""Words of texts, as hashes and places, by one compiled pass over Arrow's bytes.

The algorithm `lmcraft-words-1`, which everything that compares documents counts in:

* A word is a run of letters and digits (any script) with the combining marks that follow them. In scripts written
  without spaces (Chinese characters, kana, Thai, Lao, Burmese, Khmer) each character with its marks is a word.
  Everything else parts words, but for invisible format characters (soft hyphen, joiners, variation selectors,
  bidirectional controls), which are passed over inside a word.
* Words are compared folded: compatibility decomposition (NFKD) and case folding of each code point, of which letters,
  digits and marks are kept. Accents count; composed and decomposed spelling, width and case do not; nor does the order
  of the marks on one letter.
* The hash of a word is a polynomial in its folded code points modulo 2**64, finished by splitmix64.

Characters that Unicode assigned after the version that Python knows (`unicodedata.unidata_version`) part words.
"""

from __future__ import annotations

import functools
import sys
import unicodedata
from dataclasses import dataclass

import numba
import numpy as np
import pyarrow as pa

WORDS = "lmcraft-words-1"
"""Names the algorithm; a change that alters a word or its hash needs a new name, as stored ones are void."""

OTHER, WORD, MARK, SINGLE, IGNORED = range(5)
"""Classes of code points: parts words; letter or digit; combining mark; a word by itself; invisible, passed over."""


@dataclass(frozen=True)
class Words:
    """The words of n documents in a row; those of document d are `starts[d]` to `starts[d + 1]`."""

    hashes: np.ndarray  # uint64, one a word, of the folded word
    begin: np.ndarray  # int32, one a word: its first byte, counted from the beginning of its document
    end: np.ndarray  # int32, one a word: the byte after its last
    starts: np.ndarray  # int64, n + 1

    @property
    def counts(self) -> np.ndarray:
        """Words in each document (int64)."""
        return np.diff(self.starts)


def words(texts: pa.StringArray) -> Words:
    """The words of each text (null: none)."""
    data, offsets = utf8(texts)
    size = _most_words(offsets)
    hashes, begin, end = np.empty(size, np.uint64), np.empty(size, np.int32), np.empty(size, np.int32)
    starts = np.empty(len(offsets), np.int64)
    count = _words(data, offsets, *_tables(), hashes, begin, end, starts)
    return Words(hashes[:count], begin[:count], end[:count], starts)


def word_hashes(texts: pa.StringArray) -> tuple[np.ndarray, np.ndarray]:
    """`hashes` and `starts` of `words(texts)`, for less time and memory."""
    data, offsets = utf8(texts)
    hashes = np.empty(_most_words(offsets), np.uint64)
    starts = np.empty(len(offsets), np.int64)
    none = np.empty(0, np.int32)
    return hashes[: _words(data, offsets, *_tables(), hashes, none, none, starts)], starts


def classes() -> np.ndarray:
    """The class of every code point: uint8 of shape (0x110000,), read-only."""
    return _tables()[0]


def utf8(texts: pa.StringArray) -> tuple[np.ndarray, np.ndarray]:
    """The bytes that an array of strings lies in (uint8), and where its n strings begin and end (int32, n + 1)."""
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    if texts.type != pa.string():
        texts = texts.cast(pa.string())
    if texts.null_count:
        texts = texts.fill_null("")
    _, offsets, data = texts.buffers()
    if not len(texts) or data is None:
        # Read-only like all others, for which compiled code is at hand.
        return np.frombuffer(b"", np.uint8), np.frombuffer(bytes(4 * (len(texts) + 1)), np.int32)
    places = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    return np.frombuffer(data, np.uint8), places


@numba.njit(inline="always")
def splitmix(value: np.uint64) -> np.uint64:
    """The mixing function of splitmix64 (Steele, Lea and Flood, 2014), for use in compiled code."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@numba.njit(cache=True, nogil=True)
def mixed(values: np.ndarray) -> np.ndarray:
    """`splitmix` of each value (uint64)."""
    result = np.empty_like(values)
    for index in range(len(values)):
        result[index] = splitmix(values[index])
    return result


@numba.njit(cache=True, nogil=True)
def hash_bytes(data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """A 64-bit hash of each string as it stands (uint64); `data` and `offsets` as `utf8` gives them."""
    result = np.empty(len(offsets) - 1, np.uint64)
    for index in range(len(result)):
        value = np.uint64(offsets[index + 1] - offsets[index])
        for place in range(offsets[index], offsets[index + 1]):
            value = (value + np.uint64(data[place]) + np.uint64(1)) * _BASE
        result[index] = splitmix(value)
    return result


@numba.njit(cache=True, nogil=True)
def first_bytes(data: np.ndarray, offsets: np.ndarray, count: int) -> np.ndarray:
    """The first 8 * count bytes of each string as numbers that sort as they do: uint64 of shape (n, count)."""
    result = np.zeros((len(offsets) - 1, count), np.uint64)
    for index in range(len(result)):
        first = offsets[index]
        for place in range(min(8 * count, offsets[index + 1] - first)):
            shift = np.uint64(56 - 8 * (place % 8))
            result[index, place // 8] |= np.uint64(data[first + place]) << shift
    return result


@numba.njit(cache=True, nogil=True)
def hash_text(data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """128 bits of hash of each string, as uint64 of shape (n, 2).

    ASCII letters are folded, runs of ASCII white space count as one space, and none at the beginning or end counts.
    Eight bytes at a time are multiplied and rotated, twice and differently.
    """
    result = np.empty((len(offsets) - 1, 2), np.uint64)
    for index in range(len(result)):
        one, other, size = np.uint64(1), np.uint64(2), np.uint64(0)
        block, filled = np.uint64(0), np.uint64(0)
        space = False
        for place in range(offsets[index], offsets[index + 1]):
            byte = data[place]
            if byte <= 32 and (byte == 32 or 9 <= byte <= 13 or 28 <= byte <= 31):
                space = bool(size > 0)
                continue
            if space:
                space = False
                block |= np.uint64(32) << filled
                filled += np.uint64(8)
                size += np.uint64(1)
                if filled == 64:
                    one, other = _absorb(one, other, block)
                    block, filled = np.uint64(0), np.uint64(0)
            if 65 <= byte <= 90:
                byte += np.uint8(32)
            block |= np.uint64(byte) << filled
            filled += np.uint64(8)
            size += np.uint64(1)
            if filled == 64:
                one, other = _absorb(one, other, block)
                block, filled = np.uint64(0), np.uint64(0)
        one, other = _absorb(one, other, block)
        one, other = _absorb(one, other, size)
        result[index, 0] = splitmix(one)
        result[index, 1] = splitmix(other)
    return result


@numba.njit(inline="always")
def _absorb(one: np.uint64, other: np.uint64, block: np.uint64) -> tuple[np.uint64, np.uint64]:
    one = (one ^ block) * np.uint64(0xBF58476D1CE4E5B9)
    one = (one << np.uint64(31)) | (one >> np.uint64(33))
    other = (other + block) * np.uint64(0x94D049BB133111EB)
    other = other ^ (other >> np.uint64(29))
    return one, other


@numba.njit(inline="always")
def decode(data: np.ndarray, place: int) -> tuple[int, int]:
    """The code point that begins at a byte that is not ASCII, and its bytes; for compiled code on valid UTF-8."""
    lead = int(data[place])
    second = int(data[place + 1]) & 0x3F
    if lead < 0xE0:
        return ((lead & 0x1F) << 6) | second, 2
    third = int(data[place + 2]) & 0x3F
    if lead < 0xF0:
        return ((lead & 0x0F) << 12) | (second << 6) | third, 3
    return ((lead & 0x07) << 18) | (second << 12) | (third << 6) | (int(data[place + 3]) & 0x3F), 4


@numba.njit(inline="always")
def encode(result: np.ndarray, at: int, code: int) -> int:
    """Write a code point as UTF-8; gives the place behind it. For compiled code."""
    if code < 0x80:
        result[at] = code
        return at + 1
    if code < 0x800:
        result[at] = 0xC0 | (code >> 6)
        result[at + 1] = 0x80 | (code & 0x3F)
        return at + 2
    if code < 0x10000:
        result[at] = 0xE0 | (code >> 12)
        result[at + 1] = 0x80 | ((code >> 6) & 0x3F)
        result[at + 2] = 0x80 | (code & 0x3F)
        return at + 3
    result[at] = 0xF0 | (code >> 18)
    result[at + 1] = 0x80 | ((code >> 12) & 0x3F)
    result[at + 2] = 0x80 | ((code >> 6) & 0x3F)
    result[at + 3] = 0x80 | (code & 0x3F)
    return at + 4


_BASE = np.uint64(0x9E3779B97F4A7C15)
_MARK_BASE = np.uint64(0xD6E8FEB86659FD93)
_SINGLE_SCRIPTS = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x2FDF),  # radicals
    (0x3005, 0x3007),
    (0x3021, 0x3029),
    (0x3031, 0x303C),
    (0x3040, 0x312F),  # kana, Bopomofo
    (0x31A0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xA9E0, 0xA9FF),
    (0xAA60, 0xAA7F),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),  # half-width kana
    (0x1AFF0, 0x1B16F),
    (0x20000, 0x3FFFF),
)
_ASSIGNED = (range(0x32400), range(0xE0000, 0xE0200))
"""Where assigned characters are, private use aside."""


@functools.cache
def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Class and fold of each code point, and the folds of several code points.

    A fold that is not negative is a code point. A negative one, -1 - n, stands for `expansions[n]` code points that
    follow there, marks among them negated.
    """
    kinds = np.zeros(sys.maxunicode + 1, np.uint8)
    folds = np.arange(sys.maxunicode + 1, dtype=np.int32)
    expansions: list[int] = []
    single = np.zeros(sys.maxunicode + 1, bool)
    for first, last in _SINGLE_SCRIPTS:
        single[first : last + 1] = True
    for code in (code for part in _ASSIGNED for code in part):
        character = chr(code)
        kinds[code] = kind = _class(character, bool(single[code]))
        if kind in (OTHER, IGNORED):
            continue
        decomposed = unicodedata.normalize("NFKD", character)
        folded = unicodedata.normalize("NFKD", decomposed.casefold())
        if folded == character:
            continue
        if any(single[ord(part)] for part in folded):
            kinds[code] = SINGLE
        kept = [(ord(part), _class(part, False)) for part in folded]
        signed = [-point if part == MARK else point for point, part in kept if part in (WORD, MARK)]
        if len(signed) == 1 and (signed[0] < 0) == (kind == MARK):
            folds[code] = abs(signed[0])
        else:
            folds[code] = -1 - len(expansions)
            expansions += [len(signed), *signed]
    tables = (kinds, folds, np.array(expansions, np.int32))
    for table in tables:
        table.flags.writeable = False
    return tables


def _class(character: str, single: bool) -> int:
    category = unicodedata.category(character)
    if category in ("Mn", "Mc", "Me"):
        return IGNORED if "\ufe00" <= character <= "\ufe0f" or character >= "\U000e0100" else MARK
    if category == "Cf":
        return OTHER if character == "\u200b" else IGNORED  # the zero width space is there to part words
    if not character.isalnum():
        return OTHER
    return SINGLE if single else WORD


def _most_words(offsets: np.ndarray) -> int:
    """No text has more: a word takes two bytes with what parts it from the next, and a character that is one three."""
    return (int(offsets[-1]) - int(offsets[0]) + len(offsets)) // 2 + 1


@numba.njit(cache=True, nogil=True)
def _words(
    data: np.ndarray,
    offsets: np.ndarray,
    kinds: np.ndarray,
    folds: np.ndarray,
    expansions: np.ndarray,
    hashes: np.ndarray,
    begin: np.ndarray,
    end: np.ndarray,
    starts: np.ndarray,
) -> int:
    """Fill `hashes`, `starts` and, unless they are empty, `begin` and `end`; give the number of words."""
    ascii_steps = np.zeros(128, np.uint64)  # what an ASCII character adds to the hash of its word; 0: it parts words
    for character in range(128):
        if kinds[character] == WORD:
            ascii_steps[character] = folds[character] + 1
    spans = len(begin) > 0
    count = 0
    for document in range(len(offsets) - 1):
        starts[document] = count
        first, stop = offsets[document], offsets[document + 1]
        place = first
        inside = False  # a word is open: its hash so far is `value`, and it ended, so far, at `last`
        value = np.uint64(0)
        last = first
        while place < stop:
            byte = data[place]
            if byte < 0x80:  # most text: letters of a run at once, and nothing but letters, digits and what parts them
                step_in = ascii_steps[byte]
                if step_in:
                    if not inside:
                        value = np.uint64(0)
                        inside = True
                        if spans:
                            begin[count] = place - first
                    while step_in:
                        value = (value + step_in) * _BASE
                        place += 1
                        if place == stop or data[place] >= 0x80:
                            break
                        step_in = ascii_steps[data[place]]
                    last = place
                    continue
                place += 1
                if inside:
                    hashes[count] = splitmix(value)
                    if spans:
                        end[count] = last - first
                    count += 1
                    inside = False
                continue
            code, size = decode(data, place)
            kind = kinds[code]
            if kind in (WORD, SINGLE) or (kind == MARK and inside):
                if inside and kind == SINGLE:
                    hashes[count] = splitmix(value)
                    if spans:
                        end[count] = last - first
                    count += 1
                    inside = False
                if not inside:
                    value = np.uint64(0)
                    inside = True
                    if spans:
                        begin[count] = place - first
                fold = folds[code]
                if fold >= 0:
                    if kind == MARK:
                        value = value + (np.uint64(fold) + np.uint64(1)) * _MARK_BASE
                    else:
                        value = (value + np.uint64(fold) + np.uint64(1)) * _BASE
                else:
                    where = -1 - fold
                    for step in range(1, expansions[where] + 1):
                        point = expansions[where + step]
                        if point < 0:
                            value = value + (np.uint64(-point) + np.uint64(1)) * _MARK_BASE
                        else:
                            value = (value + np.uint64(point) + np.uint64(1)) * _BASE
                place += size
                last = place
                if kind == SINGLE:
                    # Stays open for its marks; a letter that follows is a word of its own.
                    while place < stop and data[place] >= 0x80:
                        code, size = decode(data, place)
                        if kinds[code] == IGNORED:
                            place += size
                            continue
                        if kinds[code] != MARK:
                            break
                        value = value + (np.uint64(max(folds[code], 0)) + np.uint64(1)) * _MARK_BASE
                        place += size
                        last = place
                    hashes[count] = splitmix(value)
                    if spans:
                        end[count] = last - first
                    count += 1
                    inside = False
            elif kind == IGNORED:
                place += size
            else:
                place += size
                if inside:
                    hashes[count] = splitmix(value)
                    if spans:
                        end[count] = last - first
                    count += 1
                    inside = False
        if inside:
            hashes[count] = splitmix(value)
            if spans:
                end[count] = last - first
            count += 1
    starts[len(offsets) - 1] = count
    return count
