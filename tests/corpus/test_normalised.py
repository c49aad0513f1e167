"""The compiled pass gives what Python's own functions give, for any text."""

from __future__ import annotations

import sys

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from lmcraft.corpus.normalised import normalised, normalised_texts
from lmcraft.corpus.steps.split import split_hash, split_hashes


def assert_same(texts: list[str]) -> None:
    assert list(normalised_texts(pa.array(texts, pa.string()))) == [normalised(text).encode() for text in texts]


def test_every_character_alone_and_between_letters() -> None:
    characters = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    assert_same(characters)
    assert_same([f"a{character}b" for character in characters if ord(character) < 0x30000])


@settings(deadline=None)
@given(st.lists(st.text(max_size=40), max_size=5))
def test_any_texts(texts: list[str]) -> None:
    assert_same(texts)
    assert split_hashes(pa.array(texts, pa.string())).tolist() == [split_hash(text) for text in texts]


def test_a_text_that_grows_and_slices() -> None:
    texts = ["\ufb03" * 500, " ß … ™ ½ é e\u0301 \u3000 A\x1cB ", "\u1100\u1161\u11a8 한"]
    assert_same(texts)
    assert list(normalised_texts(pa.array(texts).slice(1, 2))) == [normalised(text).encode() for text in texts[1:]]
