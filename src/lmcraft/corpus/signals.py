"""What the filter rules measure on a text: counts by one compiled pass, and shares made of them.

Words are Unicode's: accents, Cyrillic and Devanagari letters are letters, combining marks add no length, a syllable of
Hangul is the two or three letters that it is written with. A text with more than 30% of its letters in scripts without
spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan …) has no word length; two such characters (Chinese,
Japanese) or four (the others) count as a word, and its n-grams are of as many characters.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from lmcraft.corpus import signals_kernel as kernel
from lmcraft.corpus.signals_stop_words import STOP_WORDS
from lmcraft.corpus.words import mixed, utf8

Values = dict[str, np.ndarray]

DOCS: dict[str, str] = {
    "characters": "code points",
    "letters": "letters of any script",
    "uppercase": "capital letters",
    "digits": "digits and other numerals",
    "marks": "combining marks and invisible characters",
    "spaces": "white space, newlines included",
    "controls": "control characters, private use, U+FFFD",
    "code_marks": "characters of {}[];=<>_\\&+",
    "unspaced": "characters of scripts written without spaces",
    "newlines": "newlines",
    "tokens": "runs of characters between white space (unspaced scripts: see above)",
    "words": "tokens with a letter or digit",
    "stop_words": "how many different stop words of the document's language; undefined when it has no list",
    "hashes": "#",
    "ellipses": "... and …",
    "curly_brackets": "{",
    "lorem_ipsums": "lines with the phrase lorem ipsum",
    "lines": "lines that are not blank",
    "bullet_lines": "lines that begin with • - * ‣ ▪ ● ◦ or ⁃",
    "ellipsis_lines": "lines that end in ... or …",
    "punctuated_lines": "lines that end a sentence (closing quotes and brackets may follow)",
    "short_lines": "lines of at most 30 columns (a wide character is two)",
    "code_lines": "lines that end in ; { or }",
    "line_characters": "characters of the lines",
    "repeated_lines": "lines that stand in the text before",
    "repeated_line_characters": "their characters",
    "paragraphs": "what blank lines part",
    "repeated_paragraphs": "paragraphs that stand in the text before",
    "repeated_paragraph_characters": "their characters",
    "sentences": "ends of sentences; a line ends one",
    "c4_lines": "lines that C4 keeps",
    "c4_sentences": "sentences of the lines that C4 keeps",
    "c4_curly_brackets": "{ in lines that C4 looks at",
    "c4_lorem_ipsums": "lorem ipsum in lines that C4 looks at",
}
"""The counts that expressions may name."""

_SHARES: dict[str, tuple[str, str]] = {
    "word_length": ("word_letters", "spaced_words"),
    "hashes_per_word": ("hashes", "tokens"),
    "ellipses_per_word": ("ellipses", "tokens"),
    "newlines_per_word": ("newlines", "tokens"),
    "bullet_line_share": ("bullet_lines", "lines"),
    "ellipsis_line_share": ("ellipsis_lines", "lines"),
    "punctuated_line_share": ("punctuated_lines", "lines"),
    "short_line_share": ("short_lines", "lines"),
    "code_line_share": ("code_lines", "lines"),
    "letter_word_share": ("letter_tokens", "tokens"),
    "repeated_line_share": ("repeated_lines", "lines"),
    "repeated_line_character_share": ("repeated_line_characters", "characters"),
    "repeated_paragraph_share": ("repeated_paragraphs", "paragraphs"),
    "repeated_paragraph_character_share": ("repeated_paragraph_characters", "characters"),
    **{f"top_{n}_gram_share": (f"top_{n}_gram", "characters") for n in range(2, 5)},
    **{f"repeated_{n}_gram_share": (f"repeated_{n}_grams", "characters") for n in range(5, 11)},
}

NAMES = (*DOCS, *_SHARES)
"""Every signal."""


def needs_repetition(names: Sequence[str]) -> bool:
    """Whether one of these signals needs the pass over lines and n-grams that makes up half of the time."""
    return any(name.startswith(("repeated_", "top_")) for name in names)


def signals(texts: pa.StringArray, languages: Sequence[str | None] | None = None, repetition: bool = True) -> Values:
    """Every signal of `NAMES` for n texts (float64, n each). A null text is an empty one.

    `languages` (ISO 639 codes) chooses the stop words. A share of nothing is 0; a signal that does not apply is NaN:
    the word length of a text without spaces, the ends of sentences in Thai and Lao, which mark none, stop words without
    a list. Without `repetition` the signals that begin
    with `repeated_` or `top_` are left out.
    """
    data, offsets = utf8(texts)
    result = np.empty((len(offsets) - 1, len(kernel.COUNTS)))
    hashes, bits, numbers = _stop_tables()
    lists = np.full(len(result), -1, np.int32)
    if languages is not None:
        chosen = {code: numbers.get((code or "").split("-")[0], -1) for code in set(languages)}
        lists[:] = [chosen[code] for code in languages]
    kernel.count(data, offsets, kernel.flags(), kernel.ANCHORS, hashes, bits, lists, repetition, result)
    counts: Values = {name: result[:, column] for column, name in enumerate(kernel.COUNTS)}
    found = {name: counts[name] for name in DOCS}
    for name, (part, whole) in _SHARES.items():
        found[name] = counts[part] / np.maximum(counts[whole], 1)
    found["word_length"][counts["unspaced"] > kernel.UNSPACED_SHARE * counts["letters"]] = np.nan
    unended = counts["unended"] > kernel.UNSPACED_SHARE * counts["letters"]
    for name in ("punctuated_line_share", "sentences", "c4_sentences"):
        found[name] = np.where(unended, np.nan, found[name])
    return found if repetition else {name: values for name, values in found.items() if not needs_repetition([name])}


LINE_VERDICTS = (
    "",
    "lines without end of sentence removed (c4)",
    "lines of few words removed (c4)",
    "lines with javascript removed (c4)",
    "lines with policies removed (c4)",
    "lines with a word of over 1000 characters removed (c4)",
)


def c4_lines(texts: pa.StringArray) -> tuple[pa.StringArray, np.ndarray]:
    """The texts with the lines only that C4 keeps, and how many lines of each met which of `LINE_VERDICTS`.

    Raffel et al., JMLR 21 (2020), section 2.2, in the order of its published code; citation marks ([12], [edit],
    [citation needed]) go as well.
    """
    data, offsets = utf8(texts)
    cleaned = np.empty(int(offsets[-1] - offsets[0]) + 1, np.uint8)
    places = np.empty(len(offsets), np.int32)
    verdicts = np.zeros((len(offsets) - 1, len(LINE_VERDICTS)), np.int64)
    kernel.clean_lines(data, offsets, kernel.flags(), kernel.ANCHORS, cleaned, places, verdicts)
    buffers = [None, pa.py_buffer(places), pa.py_buffer(cleaned[: places[-1]].copy())]
    return pa.Array.from_buffers(pa.string(), len(offsets) - 1, buffers), verdicts


@functools.cache
def _stop_tables() -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """Open hash tables of the stop words, a row a language, which bit each has, and the row of each language."""
    hashes = np.zeros((len(STOP_WORDS), kernel.STOP_SLOTS), np.uint64)
    bits = np.zeros_like(hashes)
    for row, listed in enumerate(STOP_WORDS.values()):
        # The kernel folds the case of ASCII only.
        forms = [(form, bit) for bit, word in enumerate(listed.split()) for form in {word, word.capitalize()}]
        values = mixed(np.array([_polynomial(form.encode()) for form, _ in forms], np.uint64)).tolist()
        for value, (_, bit) in zip(values, forms, strict=True):
            slot = value % kernel.STOP_SLOTS
            while hashes[row, slot] not in (0, value):
                slot = (slot + 1) % kernel.STOP_SLOTS
            hashes[row, slot], bits[row, slot] = value, 1 << bit
    return hashes, bits, {language: row for row, language in enumerate(STOP_WORDS)}


def _polynomial(word: bytes) -> int:
    value = 0
    for byte in word:
        lower = byte | 32 if 65 <= byte <= 90 else byte
        value = (value + lower + 1) * 0x9E3779B97F4A7C15 % 2**64
    return value
