"""Gendered words are exchanged so that the sentence stays one, names stay, and the copy says whence it comes."""

from __future__ import annotations

from pathlib import Path

import pytest
from shards import applied, table_of

from lmcraft.corpus.step import Known
from lmcraft.corpus.steps.counterfactual import COUNTERFACTUAL, Counterfactual, Swap, counterfactual


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("She told him that her brother knew.", "He told her that his sister knew."),
        ("He saw her.", "She saw him."),
        ("He saw her again and gave her the book.", "She saw him again and gave him the book."),
        ("The book is his. His book, his old book", "The book is hers. Her book, her old book"),
        ("It was hers, not his; Herself", "It was his, not hers; Himself"),
        ("HIS MOTHER", "HER FATHER"),
        ("He's the king's son", "She's the queen's daughter"),
        ("Queen Anne was a queen. Mr. Fox, Mrs Fox, Sir Fox", "Queen Anne was a king. Mr. Fox, Mrs Fox, Sir Fox"),
        ("Heather, hero-worship, sheet, the lady-in-waiting", "Heather, hero-worship, sheet, the lady-in-waiting"),
        ("They miss Miss Marple", "They miss Miss Marple"),
        ("her only child hurt her back", "his only child hurt his back"),
        ("ladies and gentlemen", "gentlemen and ladies"),
        ("He gave her his\ncoat", "She gave him her\ncoat"),
    ],
)  # fmt: skip
def test_words_are_exchanged(text: str, expected: str) -> None:
    assert Swap([])(text)[0] == expected


@pytest.mark.parametrize(
    "text", ["He told his father.", "The king and his sister saw the woman.", "She hurt herself; her son ran."]
)
def test_twice_gives_the_original(text: str) -> None:
    swap = Swap([])
    assert swap(swap(text)[0])[0] == text


def test_a_copy_follows_its_original_and_names_it(tmp_path: Path) -> None:
    texts = ["He came.", "Nobody came.", "She left.", "Elle et he.", "He is held out."]
    languages = ["en", "en", "en", "fr", "en"]
    table = table_of(
        texts, language=languages, title=["His day", None, None, None, None], split=[None] * 4 + ["heldout"]
    )
    kept, removed, _ = applied(COUNTERFACTUAL, tmp_path, [table])
    assert [row["text"] for row in kept] == [
        "He came.", "She came.", "Nobody came.", "She left.", "He left.", "Elle et he.", "He is held out.",
    ]  # fmt: skip
    assert kept[1]["parent"] == kept[0]["id"] != kept[1]["id"]
    assert (kept[1]["title"], kept[1]["changes"]) == ("Her day", ["counterfactual"])
    assert kept[0]["changes"] is None
    assert not removed


def test_copies_of_two_such_steps_have_ids_of_their_own() -> None:
    batch = table_of(["He came.", "She left."], language=["en", "en"]).combine_chunks().to_batches()[0]
    once = counterfactual(batch, Counterfactual(), Known(label="counterfactual")).batch
    twice = counterfactual(once, Counterfactual(), Known(label="counterfactual 2")).batch
    assert len(set(twice["id"].to_pylist())) == twice.num_rows == 8


def test_a_replacement_keeps_number_and_ids(tmp_path: Path) -> None:
    table = table_of(["He came."] * 400, language=["en"] * 400)
    kept, _, _ = applied(COUNTERFACTUAL, tmp_path / "a", [table], mode="replace", share=0.5)
    assert [row["id"] for row in kept] == table["id"].to_pylist()
    swapped = {row["id"] for row in kept if row["text"] == "She came."}
    assert 150 < len(swapped) < 250
    again, _, _ = applied(
        COUNTERFACTUAL, tmp_path / "b", [table.slice(0, 33), table.slice(33)], mode="replace", share=0.5
    )
    assert {row["id"] for row in again if row["text"] == "She came."} == swapped


def test_pairs_of_ones_own() -> None:
    assert Swap([["Christian", "Muslim"]], gender=False)("A Muslim and he, Christians") == (
        "A Christian and he, Christians",
        1,
    )
    for wrong in ([["a"]], [["a", "b c"]], [["a", "b"], ["A", "c"]]):
        with pytest.raises(ValueError):
            Counterfactual.model_validate({"pairs": wrong})
