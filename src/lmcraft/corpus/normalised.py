"""Texts for comparing them: NFKC, case folded, every run of white space one space; by a compiled pass for most."""

from __future__ import annotations

import functools
import sys
import unicodedata
from collections.abc import Iterator

import numba
import numpy as np
import pyarrow as pa

from lmcraft.corpus.words import decode, encode, utf8


def normalised(text: str) -> str:
    """The text for comparing: NFKC, case folded, every run of white space one space."""
    if text.isascii():
        return " ".join(text.lower().split())
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def normalised_texts(texts: pa.StringArray) -> Iterator[bytes]:
    """`normalised(text).encode()` of each text.

    Characters that neither compose with others nor are marks are looked up one by one; a text with another one takes
    the way of `normalised`.
    """
    data, offsets = utf8(texts)
    content, places, simple = _fold(data, offsets, *_folds())
    for row in range(len(texts)):
        if simple[row]:
            yield content[places[row] : places[row + 1]].tobytes()
        else:
            yield normalised(texts[row].as_py()).encode()


_LONGEST = 4
"""Characters that one may fold to; of those with more (a few ligatures) texts take the slow way."""


@functools.cache
def _folds() -> tuple[np.ndarray, np.ndarray]:
    """What each code point becomes when no neighbour matters, and sequences.

    Not negative: a code point; white space is 32. -1: neighbours may matter. -2 - n: row n of the sequences, which
    end in zeros.
    """
    folds = np.arange(sys.maxunicode + 1, dtype=np.int32)
    sequences: list[list[int]] = []
    folds[0xF0000:] = folds[0x2F800:0x2FA20] = folds[0xE0000:0xE1000] = -1
    for code in (*range(0x80, 0x3400), *range(0xA000, 0xAC00), *range(0xD7A4, 0xD800), *range(0xF900, 0x20000)):
        character = chr(code)
        composed = unicodedata.normalize("NFKC", character) if unicodedata.decomposition(character) else character
        if any(unicodedata.category(part)[0] == "M" or part in _JAMO for part in (character, *composed)):
            folds[code] = -1
            continue
        folded = [ord(part) for part in composed.casefold()]
        if composed.isspace():
            folds[code] = 32
        elif len(folded) == 1:
            folds[code] = folded[0]
        elif len(folded) > _LONGEST or any(chr(part).isspace() for part in folded):
            folds[code] = -1
        else:
            folds[code] = -2 - len(sequences)
            sequences.append([*folded, *[0] * (_LONGEST - len(folded))])
    for code in range(0x80):
        folds[code] = 32 if chr(code).isspace() else ord(chr(code).lower())
    tables = (folds, np.array(sequences, np.int32))
    for table in tables:
        table.flags.writeable = False
    return tables


_JAMO = frozenset(map(chr, (*range(0x1100, 0x1200), *range(0xA960, 0xA980), *range(0xD7B0, 0xD800))))
"""Letters of Hangul that join to syllables."""


@numba.njit(cache=True, nogil=True)
def _fold(
    data: np.ndarray, offsets: np.ndarray, folds: np.ndarray, sequences: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Texts folded (uint8), where each begins and ends, and which (bool) could be: of others nothing is written."""
    size = int(offsets[-1]) - int(offsets[0])
    result = np.empty(size + size // 4 + 64, np.uint8)
    places = np.zeros(len(offsets), np.int64)
    simple = np.ones(len(offsets) - 1, np.bool_)
    at = 0
    for index in range(len(simple)):
        begin = at
        space = False
        place, stop = offsets[index], offsets[index + 1]
        while place < stop:
            code = int(data[place])
            length = 1
            if code >= 0x80:
                code, length = decode(data, place)
            fold = folds[code]
            if fold == 32:
                space = at > begin
                place += length
                continue
            if fold == -1 or at + 32 > len(result):
                simple[index] = False
                at = begin
                break
            if space:
                space = False
                result[at] = 32
                at += 1
            if fold >= 0:
                at = encode(result, at, fold)
            else:
                row = sequences[-2 - fold]
                for part in row:
                    if part:
                        at = encode(result, at, part)
            place += length
        places[index + 1] = at
    return result, places, simple
