"""Mentions are counted by words, in the document's language, and what is counted can be mixed by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from shards import applied, table_of

from lmcraft.corpus import documents
from lmcraft.corpus.steps.balance import BALANCE
from lmcraft.corpus.steps.demographic_words import LISTS
from lmcraft.corpus.steps.demographics import DEMOGRAPHICS, KINDS, count_mentions, mentions, read_list


def counted(tmp_path: Path, text: str, language: str | None = "en", **settings: Any) -> dict[str, float]:
    kept, _, _ = applied(DEMOGRAPHICS, tmp_path, [table_of([text], language=[language])], **settings)
    return {name.removeprefix("mentions:"): value for name, value in kept[0]["scores"]}


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("She told HER brother. Heresy, sheep, mankind.", "en", {"gender/female": 2, "gender/male": 1}),
        ("Two black cats, an old chair; a black woman, an old man.", "en",
         {"origin/black": 1, "gender/female": 1, "gender/male": 1, "age/old": 1}),
        ("African-American and Latin American writers polish Polish families", "en",
         {"origin/black": 1, "origin/latin american": 1, "origin/european": 1}),
        ("Elle est grande, la maison. La mère et les personnes âgées.", "fr", {"gender/female": 1, "age/old": 1}),
        ("La mujer judía y sus hijos", "es", {"gender/female": 1, "religion/jewish": 1}),
        ("Die Mütter, ein alter Mann und alte Häuser", "de", {"gender/female": 1, "gender/male": 1, "age/old": 1}),
        ("She is here", "fi", {}),
        ("She is here", None, {"gender/female": 1}),
    ],
)  # fmt: skip
def test_words_are_counted_in_the_language_of_the_document(
    tmp_path: Path, text: str, language: str | None, expected: dict[str, float]
) -> None:
    assert counted(tmp_path, text, language) == expected


def test_only_the_kinds_asked_for_and_other_scores_stay(tmp_path: Path) -> None:
    table = table_of(["A Muslim woman"], scores=[[("quality", 0.5), ("mentions:gender/male", 3.0)]])
    kept, _, _ = applied(DEMOGRAPHICS, tmp_path, [table], kinds=["gender"])
    assert kept[0]["scores"] == [("mentions:gender/female", 1.0), ("quality", 0.5)]


@pytest.mark.parametrize("language", LISTS)
def test_every_listed_word_is_found_in_its_group(language: str) -> None:
    lists = read_list(LISTS[language])
    assert {name.split("/")[0] for name in lists} == set(KINDS)
    for name, entries in lists.items():
        groups, counts = count_mentions(pa.array(entries), language)
        assert (counts[:, groups.index(name)] >= 1).all()


def test_the_sums_for_the_data_card(tmp_path: Path) -> None:
    texts = ["she and he", "he, his father", "a woman", "nothing"]
    kept, _, _ = applied(DEMOGRAPHICS, tmp_path / "a", [table_of(texts, repeats=[None, 2, None, None])])
    out = tmp_path / "out"
    out.mkdir()
    documents.write_parquet(out / "documents-00000.parquet", pa.Table.from_pylist(kept, documents.SCHEMA))
    gender = mentions(out)["gender"]
    assert gender["groups"]["male"] == {"mentions": 7, "documents": 2, "share": round(7 / 9, 4)}
    assert gender["groups"]["female"] == {"mentions": 2, "documents": 2, "share": round(2 / 9, 4)}
    assert gender["together"] == [{"groups": ["female", "male"], "documents": 1, "share": round(1 / 3, 4)}]
    assert gender["tvd"] == pytest.approx(7 / 9 - 1 / 3, abs=1e-4)  # a third group, never mentioned


def test_a_balance_by_mentions_evens_them_out(tmp_path: Path) -> None:
    texts = ["He was here."] * 300 + ["She was here"] * 60 + ["Nobody came."] * 200
    kept, _, _ = applied(DEMOGRAPHICS, tmp_path / "a", [table_of(texts)])
    columns = {name: [row[name] for row in kept] for name in ("id", "scores")}
    shares = {"most:mentions:gender": {"female": 0.25, "male": 0.25, "*": 0.5}}
    settings: dict[str, Any] = {"by": ["most:mentions:gender"], "method": "shares", "shares": shares, "max_epochs": 2.0}
    mixed, _, _ = applied(BALANCE, tmp_path / "b", [table_of(texts, **columns)], **settings)
    sizes = dict.fromkeys(("He", "She", "Nobody"), 0)
    for row in mixed:
        sizes[row["text"].split()[0]] += len(row["text"]) * (row["repeats"] or 1)
    assert sizes["He"] == pytest.approx(sizes["She"], abs=13)
    assert sizes["Nobody"] == pytest.approx(2 * sizes["She"], abs=26)
