"""One pass over the bytes of texts that finds where personal data could stand, so that clean text costs little.

Whatever `personal_data.find` finds holds an *anchor*: seven digits close together, four with three points among them,
an at sign, colons or hyphens between hexadecimal digits, the begin of a known key, an assignment to what is called a
password, or a very long word. Only windows around anchors are read by regular expressions.
"""

from __future__ import annotations

from typing import Any

# ruff: noqa: PLR1714, SIM110 - the compiled form of `in` and `any` is slower
import numba as nb
import numpy as np

MARGIN = 256
"""Bytes on both sides of an anchor that belong to its window: an address and the words that announce a number fit."""

DIGITS, POINTS, AT, PAIRS, KEY, LONG_WORD = 1, 2, 4, 8, 16, 32
"""Kinds of anchors, in the order named above (a key and an assignment are one)."""

LONGEST_SECRET = 16384
"""Bytes behind an anchor to which a window reaches where no blank ends it, or where a private key begins."""


def windows(data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Windows of rows of UTF-8: int64 (windows, 4) of row, first byte, end, and the signs of the anchors in it (added).

    Bytes count in `data`; windows do not overlap.

    data: uint8; offsets: int (rows + 1,), where each row begins.
    """
    room = int(offsets[-1] - offsets[0]) // MARGIN + 2 * len(offsets) + 2
    found = np.empty((room, 4), np.int64)
    return found[: _windows(data, offsets.astype(np.int64), found)]


def _word(text: str) -> int:
    return int.from_bytes(text.encode(), "little")


_SECRET_WORDS = np.array([_word(word) for word in ("pass", "pwd\0", "secr", "toke", "key\0", "cred")], np.uint32)
_SECRET_MASKS = np.array([0xFFFFFFFF, 0xFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFF, 0xFFFFFFFF], np.uint32)
_PREFIXES = (
    *("AKIA", "ASIA", "AIza", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "gith", "glpa", "xoxa", "xoxb", "xoxe"),
    *("xoxo", "xoxp", "xoxr", "xoxs", "hook", "ya29", "_liv", "_tes", "sk-\0", "hf_\0", "npm_", "pypi", "SG.\0"),
    *("eyJ\0", "----"),
)
_BEGIN_WORDS = np.array([_word(word) for word in _PREFIXES], np.uint32)
_BEGIN_MASKS = np.array([0xFFFFFF if word[3] == "\0" else 0xFFFFFFFF for word in _PREFIXES], np.uint32)
_PRIVATE_KEY = _word("----")


def _classes() -> np.ndarray:
    """What a byte may begin: 1 digit, 2 at sign, 3 colon, 4 hyphen, 5 equals, 6 a known key; 0 nothing."""
    table = np.zeros(256, np.uint8)
    for word in _PREFIXES:
        table[ord(word[0])] = 6
    table[ord("0") : ord("9") + 1] = 1
    for sign, number in (("@", 2), (":", 3), ("-", 4), ("=", 5)):
        table[ord(sign)] = number
    return table


_CLASSES = _classes()
_DIGITS_APART = 4
"""A digit belongs to the cluster of the last one if it stands at most so many characters behind it."""


@nb.njit(cache=True, nogil=True)
def _windows(data: Any, offsets: Any, found: Any) -> int:  # pragma: no cover - compiled
    count = 0
    for row in range(len(offsets) - 1):
        first, end = offsets[row], offsets[row + 1]
        open_start, open_end, signs = -1, -1, 0
        characters = 0
        digits, dots, last_digit, cluster = 0, 0, -10, first
        last_sign, last_sign_byte, run = -10, 0, 0
        for at in range(first, end):
            byte = data[at]
            if (byte & 0xC0) != 0x80:
                characters += 1
            if 48 <= byte <= 57 or 65 <= byte <= 90 or 97 <= byte <= 122:
                run += 1
            else:
                run = 0
            sign = LONG_WORD if run == 26 else 0
            start, reach = at, at
            kind = _CLASSES[byte]
            if kind == 1:
                if characters - last_digit <= _DIGITS_APART:
                    digits += 1
                else:
                    digits, dots, cluster = 1, 0, at
                last_digit = characters
                if digits >= 7:
                    sign |= DIGITS
                    start = cluster
                if digits >= 4 and dots >= 3:
                    sign |= POINTS
                    start = cluster
            elif byte == 46:
                dots += 1
            elif kind == 2:
                sign |= AT
            elif kind == 3 or kind == 4:
                # Two of the same sign with only hexadecimal digits between them: IPv6, MAC.
                near = at - last_sign <= 5 if kind == 3 else at - last_sign == 3
                if byte == last_sign_byte and near and _hexadecimal(data, last_sign + 1, at):
                    sign |= PAIRS
                last_sign, last_sign_byte = at, byte
            if (kind == 3 or kind == 5) and _names_secret(data, first, at):
                sign |= KEY
            elif (kind == 4 or kind == 6) and at + 4 <= end:
                begin = _four(data, at)
                if _known(begin) and (begin != _PRIVATE_KEY or (at + 7 < end and data[at + 5] == 66)):  # "-----B"
                    sign |= KEY
                    if begin == _PRIVATE_KEY:
                        reach = min(end, at + LONGEST_SECRET)
            if sign:
                start = max(first, start - MARGIN)
                if open_start >= 0 and start > open_end:
                    count = _close(data, found, count, row, open_start, open_end, first, end, signs)
                    open_start = -1
                if open_start < 0:
                    # The window before may have been drawn out to the end of its word.
                    open_start = start if count == 0 or found[count - 1, 0] != row else max(start, found[count - 1, 2])
                    open_end = at
                    signs = 0
                signs |= sign
                open_end = max(open_end, min(end, reach + MARGIN))
        if open_start >= 0:
            count = _close(data, found, count, row, open_start, open_end, first, end, signs)
    return count


@nb.njit(cache=True, nogil=True)
def _close(
    data: Any, found: Any, count: int, row: int, start: int, stop: int, first: int, end: int, signs: int
) -> int:  # pragma: no cover - compiled
    while start > first and (data[start] & 0xC0) == 0x80:
        start -= 1
    limit = min(end, stop + LONGEST_SECRET)
    while stop < limit and data[stop] > 32:
        stop += 1
    while stop < end and (data[stop] & 0xC0) == 0x80:
        stop += 1
    if count and found[count - 1, 0] == row and start <= found[count - 1, 2]:
        found[count - 1, 2] = max(stop, found[count - 1, 2])
        found[count - 1, 3] |= signs
        return count
    found[count, 0], found[count, 1], found[count, 2], found[count, 3] = row, start, stop, signs
    return count + 1


@nb.njit(cache=True, nogil=True, inline="always")
def _four(data: Any, at: int) -> Any:  # pragma: no cover - compiled
    return np.uint32(
        np.uint32(data[at])
        | (np.uint32(data[at + 1]) << np.uint32(8))
        | (np.uint32(data[at + 2]) << np.uint32(16))
        | (np.uint32(data[at + 3]) << np.uint32(24))
    )


@nb.njit(cache=True, nogil=True)
def _known(begin: Any) -> bool:  # pragma: no cover - compiled
    for index in range(len(_BEGIN_WORDS)):
        if (begin & _BEGIN_MASKS[index]) == _BEGIN_WORDS[index]:
            return True
    return False


@nb.njit(cache=True, nogil=True)
def _hexadecimal(data: Any, start: int, end: int) -> bool:  # pragma: no cover - compiled
    for at in range(start, end):
        byte = data[at] | 32
        if not (48 <= data[at] <= 57 or 97 <= byte <= 102):
            return False
    return True


@nb.njit(cache=True, nogil=True)
def _names_secret(data: Any, first: int, at: int) -> bool:  # pragma: no cover - compiled
    """Whether one of the words stands in the 40 bytes before."""
    for place in range(max(first, at - 40), at - 2):
        word = _four(data, place) | np.uint32(0x20202020)
        for index in range(len(_SECRET_WORDS)):
            if (word & _SECRET_MASKS[index]) == _SECRET_WORDS[index]:
                return True
    return False
