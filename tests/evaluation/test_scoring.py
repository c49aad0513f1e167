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


@pytest.mark.parametrize(
    ("prediction", "answer", "right"),
    [
        ("42", "42", True),
        (" 42\n", "42", True),
        ("42.", "42", True),
        ("A B  C", "a b c", True),
        ("Cafe\u0301", "café", True),
        ("4", "42", False),
        ("421", "42", False),
        ("-42", "42", False),
        ("4.2", "42", False),
        ("42 43", "42", False),
        ("The answer is 42", "42", False),
        ("abc", "a b c", False),
        ("a b", "a b c", False),
        ("a c b", "a b c", False),
        ("cafe", "café", False),
        ("", "42", False),
        (".", "42", False),
    ],
)
def test_an_answer_is_right_only_when_it_says_the_answer_and_no_more(prediction: str, answer: str, right: bool) -> None:
    assert exact_match(prediction, answer) is right
