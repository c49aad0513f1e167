"""The language check speaks against a source only when it is sure, and never against right texts."""

from __future__ import annotations

import pyarrow as pa
import pytest

from lmcraft.corpus.documents import SCHEMA
from lmcraft.corpus.language import Language, language
from lmcraft.corpus.steps import Judged

ENGLISH = "The history of the river begins in the mountains, where small streams come together after the snow melts."
FRENCH = "L'histoire du fleuve commence dans les montagnes, où de petits ruisseaux se rejoignent après la fonte."
SPANISH = "La historia del río comienza en las montañas, donde pequeños arroyos se juntan después de la nieve."


def judge(rows: list[tuple[str, str | None]], **settings: object) -> Judged:
    records = [{"id": "0", "text": text, "language": code, "source": "s", "path": "p"} for text, code in rows]
    return language(pa.RecordBatch.from_pylist(records, SCHEMA), Language.model_validate(settings))


def dropped(judged: Judged) -> dict[str, list[int]]:
    return {
        drop.reason: [row for row, gone in enumerate(drop.rows) if gone] for drop in judged.drops if drop.rows.any()
    }


def test_a_sure_contradiction_is_removed_and_a_right_claim_is_not() -> None:
    found = judge([(ENGLISH, "en"), (FRENCH, "fr"), (SPANISH, "es"), (FRENCH, "en")])
    assert dropped(found) == {"language differs from the declared one": [3]}


def test_documents_that_claim_nothing_get_the_language_found() -> None:
    found = judge([(ENGLISH, None), (SPANISH, None), ("12 34 56", None)], min_probability=0.6)
    assert found.batch["language"].to_pylist() == ["en", "es", None]
    assert found.batch["changes"].to_pylist() == [["language detected"], ["language detected"], []]


def test_a_doubt_is_no_contradiction() -> None:
    assert dropped(judge([("Kyoto", "fr"), ("12 34 56", "en")], min_probability=0.9)) == {}


def test_unwanted_and_unclear_languages_are_removed_when_languages_are_named() -> None:
    found = judge([(ENGLISH, None), (SPANISH, "es"), ("12 34 56", None)], languages=["en"], min_probability=0.6)
    assert dropped(found)["language unclear"] == [2]
    assert 1 in dropped(found)["language not wanted"]
    assert 0 not in dropped(found)["language not wanted"]


@pytest.mark.parametrize("text", ["", "\n\n", "a" * 100_000])
def test_odd_texts_do_not_break_the_detector(text: str) -> None:
    judge([(text, None)])
