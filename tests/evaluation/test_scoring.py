"""An answer is right when it is the answer, however it is spaced; what stands around it makes it wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcraft.evaluation.scoring import exact_match, normalise, token_f1


@pytest.mark.parametrize("said", ["Paris", " paris.\n", "PARIS !", "Ｐａｒｉｓ"])
def test_spacing_case_and_closing_punctuation_do_not_matter(said):
    assert exact_match(said, "Paris")


@pytest.mark.parametrize("said", ["", "Paris, France", "It is Paris", "Pari", "Paris Paris"])
def test_anything_else_is_wrong(said):
    assert not exact_match(said, "Paris")


def test_an_answer_of_punctuation_alone_is_still_an_answer():
    assert normalise("...") == "..."
    assert not exact_match("", "...")


def test_token_f1_by_hand():
    assert token_f1("country in Europe", "country in western Europe") == pytest.approx(2 * 3 / 7)
    assert token_f1("Country, in Europe!", "country in europe") == 1.0
    assert token_f1("river", "city") == 0.0
    assert token_f1("", "city") == 0.0
    assert token_f1("the the the", "the") == pytest.approx(0.5)


@given(st.text(), st.text())
def test_f1_is_symmetric_and_bounded(one, other):
    assert token_f1(one, other) == token_f1(other, one)
    assert 0.0 <= token_f1(one, other) <= 1.0
    assert token_f1(one, one) == 1.0


@given(st.text())
def test_normalising_twice_changes_nothing(text):
    assert normalise(normalise(text)) == normalise(text)
