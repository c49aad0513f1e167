"""Words and their hashes: against a slow definition in plain Python, on any text."""

from __future__ import annotations

import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lmcraft.corpus.words import IGNORED, MARK, OTHER, SINGLE, WORD, classes, hash_bytes, utf8, word_hashes, words

TEXT = st.lists(st.text(), max_size=6)


def found(text: str) -> list[str]:
    """The words as they stand in the text."""
    cut = words(pa.array([text], pa.string()))
    data = text.encode()
    return [data[begin:end].decode() for begin, end in zip(cut.begin, cut.end, strict=True)]


def hashes(text: str) -> list[int]:
    return [int(value) for value in word_hashes(pa.array([text], pa.string()))[0]]


def defined(text: str) -> list[str]:
    """The definition, a character at a time."""
    kinds = classes()
    result: list[str] = []
    current, passed = "", ""
    for character in text:
        kind = kinds[ord(character)]
        if kind == IGNORED:
            passed += character
            continue
        single_open = bool(current) and any(kinds[ord(part)] == SINGLE for part in current)
        if current and (kind in (OTHER, SINGLE) or (kind == WORD and single_open)):
            result.append(current)
            current = ""
        if kind in (WORD, SINGLE) or (kind == MARK and current):
            current = current + passed + character if current else character
        passed = ""
    return [*result, current] if current else result


@given(TEXT)
@example(["Straße, ﬁne: café", "東京は日本 が か\u3099x", "co\u00adop\u200d हिन्दी \u0301a", "", "a東b東c"])
@settings(max_examples=300, deadline=None)
def test_words_are_those_of_the_definition(texts: list[str]) -> None:
    cut = words(pa.array(texts, pa.string()))
    for row, text in enumerate(texts):
        inside = slice(cut.starts[row], cut.starts[row + 1])
        data = text.encode()
        spans = zip(cut.begin[inside], cut.end[inside], strict=True)
        assert [data[begin:end].decode() for begin, end in spans] == defined(text)
    plain, starts = word_hashes(pa.array(texts, pa.string()))
    assert np.array_equal(plain, cut.hashes)
    assert np.array_equal(starts, cut.starts)
    assert cut.counts.sum() == len(plain)


@given(st.text(), st.text())
@settings(max_examples=300, deadline=None)
def test_canonical_spelling_does_not_count(one: str, other: str) -> None:
    for form in ("NFC", "NFD"):
        assert hashes(unicodedata.normalize(form, one)) == hashes(one)
    if unicodedata.normalize("NFC", one) != unicodedata.normalize("NFC", other) and hashes(one) == hashes(other) != []:
        folded = [unicodedata.normalize("NFKD", text).casefold() for text in (one, other)]
        letters = [[part for part in text if part.isalnum()] for text in folded]
        assert letters[0] == letters[1]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Straße", "STRASSE"),
        ("ﬁne", "fine"),
        ("Ｗｉｄｅ　１２", "wide 12"),
        ("ê\u0323", "ệ"),
        ("co\u00adop", "coop"),
        ("が", "か\u3099"),
        ("x²", "X2"),
    ],
)
def test_what_is_folded_together(one: str, other: str) -> None:
    assert hashes(one) == hashes(other)


@pytest.mark.parametrize(
    ("one", "other"), [("resume", "résumé"), ("कि", "क"), ("ab", "ba"), ("a b", "ab"), ("12", "13"), ("कि", "की")]
)
def test_what_is_told_apart(one: str, other: str) -> None:
    assert hashes(one) != hashes(other)


def test_scripts() -> None:
    assert found("भाषा हिन्दी") == ["भाषा", "हिन्दी"]
    assert found("我喜欢 GPT4模型。") == ["我", "喜", "欢", "GPT4", "模", "型"]
    assert found("ที่") == ["ที่"]
    assert found("가나다 라") == ["가나다", "라"]
    assert found("don't a_b x\u200by") == ["don", "t", "a", "b", "x", "y"]


def test_hashes_stay_the_same_over_versions() -> None:
    # Stored under a name (WORDS): if this fails on purpose, the algorithm needs a new name.
    assert [hex(value) for value in hashes("Straße 東 हिन्दी x²")] == EXPECTED


EXPECTED = ["0x95ba2c453bfbf112", "0xf94c91e317feff82", "0x1fc53caa20a9c663", "0xc020db56009792ec"]


def test_slices_nulls_and_large_strings() -> None:
    texts = pa.array(["one two", None, "three", "four five"])
    cut = words(texts[1:])
    assert cut.starts.tolist() == [0, 0, 1, 3]
    assert np.array_equal(words(texts.cast(pa.large_string())).hashes, words(texts).hashes)
    assert np.array_equal(words(pa.chunked_array([texts[:2], texts[2:]])).hashes, words(texts).hashes)
    assert words(pa.array([], pa.string())).starts.tolist() == [0]
    assert words(pa.array(["", ""])).starts.tolist() == [0, 0, 0]


def test_classes_are_read_only_and_whole() -> None:
    assert classes().shape == (0x110000,)
    assert not classes().flags.writeable
    assert [classes()[ord(part)] for part in "a1 ु東\u00ad"] == [WORD, WORD, OTHER, MARK, SINGLE, IGNORED]


def test_bytes_are_hashed_as_they_stand() -> None:
    one, other = (hash_bytes(*utf8(pa.array(texts))) for texts in (["a", "A", "", "a"], ["a"]))
    assert len(set(one.tolist())) == 3
    assert one[0] == one[3] == other[0]
