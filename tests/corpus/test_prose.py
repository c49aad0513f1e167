"""The light pass counts as the pass of all signals does."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmcraft.corpus import prose
from lmcraft.corpus.signals import signals

TEXTS = [
    "",
    " \n\n ",
    "if (a[0] == b) {\n  c = 1;\n}\n\n",
    "नदी पहाड़ों से\u200d शुरू;",
    "a\r\nb {\r\n\u2028x;",
    "ፍቅር፡ሰላም።",
    "12 ½ {}",
    "\x00\n\x00",
]


def assert_same(texts: list[str]) -> None:
    array = pa.array(texts, pa.string())
    counted, measured = prose.counts(array), signals(array, repetition=False)
    for name in prose.COUNTS:
        np.testing.assert_array_equal(counted[name], measured[name], name)


def test_counts_are_those_of_the_signals() -> None:
    assert_same(TEXTS)


@settings(deadline=None)
@given(st.lists(st.text(max_size=60), max_size=4))
def test_counts_are_those_of_the_signals_for_any_text(texts: list[str]) -> None:
    assert_same(texts)


@pytest.mark.parametrize(("text", "code"), [("x = {a: [1]};\n" * 30, True), ("A sentence (of words).\n" * 30, False)])
def test_code_is_told_by_its_marks(text: str, code: bool) -> None:
    assert prose.looks_like_code(prose.counts(pa.array([text]))).tolist() == [code]
