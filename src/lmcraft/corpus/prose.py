"""Whether a text is prose, code, or neither (tables, binary data): a few counts by one light compiled pass."""

from __future__ import annotations

from collections.abc import Mapping

import numba
import numpy as np
import pyarrow as pa

from lmcraft.corpus import signals_kernel as kernel
from lmcraft.corpus.words import decode, utf8

CODE_MARKS, CODE_LINES = 0.04, 0.25
"""Shares of brackets and operators, and of lines that end in ; { or }, from which on a text is code.

Round brackets say little: statutes have as many. At these limits, of windows of 2,000 characters, 85% of C headers and
62% of Python's standard library (its docstrings) are code, .7% of statutes, none of novels and of UDHR's 381 languages.
"""

CODE_CHARACTERS = 200
"""A shorter text is never taken for code: two placeholders in a sentence have as many brackets."""

FEWEST_LETTERS = 0.5
"""Share of letters and marks among what is not white space, below which a text has no language."""

COUNTS = ("characters", "spaces", "letters", "marks", "code_marks", "lines", "code_lines")
"""Counts of `signals`, which says what each means."""


def counts(texts: pa.StringArray) -> dict[str, np.ndarray]:
    """`COUNTS` of each text (int64)."""
    data, offsets = utf8(texts)
    result = np.zeros((len(COUNTS), len(offsets) - 1), np.int64)
    _count(data, offsets, kernel.flags(), result)
    return dict(zip(COUNTS, result, strict=True))


def looks_like_code(measured: Mapping[str, np.ndarray]) -> np.ndarray:
    """Which texts are program code by their punctuation (bool), from their counts."""
    marks = measured["code_marks"] / np.maximum(measured["characters"] - measured["spaces"], 1)
    code_lines = measured["code_lines"] > CODE_LINES * measured["lines"]
    return ((marks > CODE_MARKS) | (code_lines & (marks > 0.75 * CODE_MARKS))) & (
        measured["characters"] >= CODE_CHARACTERS
    )


def has_language(measured: Mapping[str, np.ndarray]) -> np.ndarray:
    """Which texts are mostly letters (bool), from their counts."""
    letters = measured["letters"] + measured["marks"]
    return np.asarray(letters > FEWEST_LETTERS * (measured["characters"] - measured["spaces"]))


@numba.njit(cache=True, nogil=True)
def _count(data: np.ndarray, offsets: np.ndarray, table: np.ndarray, result: np.ndarray) -> None:
    for document in range(len(offsets) - 1):
        place, stop = offsets[document], offsets[document + 1]
        characters = spaces = letters = marks = code_marks = lines = code_lines = 0
        last = -1  # byte of this line, white space aside; -1: none yet
        while place < stop:
            byte = data[place]
            if byte < 0x80:
                bits, size = table[byte], 1
            else:
                code, size = decode(data, place)
                bits = table[code]
            characters += 1
            if bits & kernel.SPACE_BIT:
                spaces += 1
                if byte == 10 and last >= 0:
                    lines += 1
                    code_lines += last in (59, 123, 125)
                    last = -1
            else:
                letters += bits & kernel.LETTER_BIT
                marks += (bits & kernel.MARK_BIT) > 0
                code_marks += (bits & kernel.CODE_BIT) > 0
                last = int(byte)
            place += size
        if last >= 0:
            lines += 1
            code_lines += last in (59, 123, 125)
        result[0, document] = characters
        result[1, document] = spaces
        result[2, document] = letters
        result[3, document] = marks
        result[4, document] = code_marks
        result[5, document] = lines
        result[6, document] = code_lines
