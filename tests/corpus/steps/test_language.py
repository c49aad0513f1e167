"""The language check speaks against a source only when it is sure, and never against right texts."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from lmcraft.corpus.documents import SCHEMA
from lmcraft.corpus.step import Judged, Known, score
from lmcraft.corpus.steps.language import Language, canonical, certainty, detect, differ, known_languages, language

ENGLISH = "The history of the river begins in the mountains, where small streams come together after the snow melts."
FRENCH = "L'histoire du fleuve commence dans les montagnes, où de petits ruisseaux se rejoignent après la fonte."
SPANISH = "La historia del río comienza en las montañas, donde pequeños arroyos se juntan después de la nieve."
CODE = "for (int i = 0; i < n; i++) {\n  total[i] += price[i] * count[i];\n  if (!ok(total)) { return -1; }\n}\n" * 3


def judge(rows: list[tuple[str, str | None]], **settings: object) -> Judged:
    records = [{"id": "0", "text": text, "language": code, "source": "s", "path": "p"} for text, code in rows]
    return language(pa.RecordBatch.from_pylist(records, SCHEMA), Language.model_validate(settings), Known())


def dropped(judged: Judged) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for drop in judged.drops:
        if drop.rows.any():
            found.setdefault(drop.reason, []).extend(np.flatnonzero(drop.rows).tolist())
    return found


def test_a_sure_contradiction_is_removed_and_a_right_claim_is_not() -> None:
    found = judge([(ENGLISH, "en"), (FRENCH, "fr"), (SPANISH, "es"), (FRENCH, "en")])
    assert dropped(found) == {"language differs from the declared one": [3]}


def test_documents_that_claim_nothing_get_the_language_found() -> None:
    found = judge([(ENGLISH, None), (SPANISH, None), ("12 34 56", None)])
    assert found.batch["language"].to_pylist() == ["en", "es", None]
    assert found.batch["changes"].to_pylist() == [["language detected"], ["language detected"], None]
    assert (score(found.batch, "language")[:2] > 0.5).all()


def test_a_doubt_is_no_contradiction() -> None:
    assert dropped(judge([("Kyoto", "fr"), ("12 34 56", "en")])) == {}


def test_short_texts_must_be_surer() -> None:
    assert certainty(np.array([5, 50, 100, 1000]), 0.4).tolist() == [0.95, 0.9, 0.8, 0.4]
    assert (certainty(np.array([5, 50, 100, 1000]), 0.96) == 0.96).all()
    drops = judge([("the house", "fr"), (FRENCH * 3, "en")]).drops
    assert {drop.threshold for drop in drops} == {0.95, 0.5}


def test_unwanted_and_unclear_languages_are_removed_when_languages_are_named() -> None:
    found = judge([(ENGLISH, None), (SPANISH, "es"), ("12 34 56", None)], languages=["en"])
    assert dropped(found) == {"language unclear": [2], "language not wanted": [1]}


def test_other_codes_of_a_language_and_its_near_kin_are_no_contradiction() -> None:
    assert canonical("zh-CN") == canonical("cmn") == canonical("zh_Hant") == "zh"
    assert canonical("eng") == canonical("en-GB") == "en"
    assert dropped(judge([(ENGLISH, "eng"), (ENGLISH, "en-US")], languages=["eng"])) == {}
    assert not differ("hr", "sr")
    assert not differ("xx", "en"), "a language that the classifier does not know cannot be contradicted"
    assert len(known_languages()) >= 170


def test_code_is_code_and_has_no_language() -> None:
    found = judge([(CODE, None), (ENGLISH, None), (CODE, "en")], languages=["en"])
    assert dropped(found) == {}
    assert found.batch["format"].to_pylist() == ["code", None, "code"]
    assert found.batch["language"].to_pylist() == [None, "en", "en"]
    assert found.batch["changes"].to_pylist()[0] == ["recognised as code"]
    assert np.isnan(score(found.batch, "language")[0])
    assert judge([(CODE, None)], recognise_code=False).batch["format"].to_pylist() == [None]


@pytest.mark.parametrize("text", ["0x3f 99 12 " * 50, "\x00\x01\x02\ufffd" * 99, "|--|--|--|\n" * 20])
def test_what_has_few_letters_has_no_language(text: str) -> None:
    assert detect([text]) == ([None], np.zeros(1))


@pytest.mark.parametrize("text", ["", "\n\n", "a" * 100_000, "a\x00b" * 50, "\u2028\n" * 9])
def test_odd_texts_do_not_break_the_detector(text: str) -> None:
    judge([(text, None)])


def test_each_text_is_judged_by_itself() -> None:
    rows = [(ENGLISH, "en"), (FRENCH, None), (CODE, None), ("", None), (SPANISH * 30, "en")]
    together = judge(rows)
    alone = [judge([row]) for row in rows]
    assert together.batch.to_pylist() == [one.batch.to_pylist()[0] for one in alone]
    assert dropped(together) == {"language differs from the declared one": [4]}
