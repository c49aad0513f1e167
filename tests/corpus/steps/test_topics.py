"""Clustering finds topics that were planted, names them by their words, and does not depend on shards or batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from shards import applied, table_of

from lmcraft.corpus.step import Known
from lmcraft.corpus.steps.topics import TOPICS, Topics, bucket_counts, report, topics
from lmcraft.recipe.stage import UserError

PLANTED = {
    "sea": "ship harbour sailor wave anchor storm island captain",
    "kitchen": "bread butter oven flour sugar kettle spoon recipe",
    "court": "judge trial lawyer verdict appeal statute witness crime",
}

COMMON = "the of and a to in was for on that with by"


def planted(count: int = 240) -> tuple[list[str], list[str]]:
    draw = np.random.default_rng(3)
    names = [list(PLANTED)[row % 3] for row in range(count)]
    texts = [" ".join([*draw.choice(PLANTED[name].split(), 6), *draw.choice(COMMON.split(), 12)]) for name in names]
    return texts, names


SETTINGS: dict[str, Any] = {"topics": 3, "dimensions": 8, "sample": 100_000, "min_documents": 2}


def test_planted_topics_are_found_and_named(tmp_path: Path) -> None:
    texts, names = planted()
    kept, _, arrays = applied(TOPICS, tmp_path, [table_of(texts, language=["en"] * 240)], **SETTINGS)
    groups = {(row["topic"], name) for row, name in zip(kept, names, strict=True)}
    assert len(groups) == 3
    for topic, name in groups:
        assert set(topic.split(", ")) <= set(PLANTED[name].split())
    assert kept[0]["changes"] == ["topic by clustering"]
    assert dict(kept[0]["scores"])["topic"] > 0.8
    assert sum(item["documents_of_sample"] for item in report(arrays, Topics.model_validate({}))["en"]) == 240


def test_shards_order_and_batches_do_not_matter(tmp_path: Path) -> None:
    texts, _ = planted()
    table = table_of(texts, language=["en", "fr"] * 120)
    first, _, arrays = applied(TOPICS, tmp_path / "a", [table], **SETTINGS)
    mixed = table.take(pa.array(np.random.default_rng(0).permutation(240)))
    parts = [mixed.slice(0, 1), mixed.slice(1, 100), mixed.slice(101)]
    second, _, others = applied(TOPICS, tmp_path / "b", parts, **SETTINGS)
    assert all(np.array_equal(arrays[name], others[name]) for name in arrays)
    assert {row["id"]: row["topic"] for row in first} == {row["id"]: row["topic"] for row in second}
    whole = table.combine_chunks().to_batches()[0]
    config, known = Topics.model_validate(SETTINGS), Known(arrays)
    alone = [topics(whole.slice(row, 1), config, known).batch.to_pylist()[0] for row in range(30)]
    assert alone == topics(whole, config, known).batch.to_pylist()[:30]


def test_topics_that_are_there_stay_unless_asked(tmp_path: Path) -> None:
    texts, _ = planted()
    table = table_of(texts, language=["en"] * 240, topic=["mine", None] * 120)
    kept, _, _ = applied(TOPICS, tmp_path / "a", [table], **SETTINGS)
    assert {row["topic"] == "mine" for row in kept[::2]} == {True}
    assert {row["topic"] == "mine" for row in kept[1::2]} == {False}
    kept, _, _ = applied(TOPICS, tmp_path / "b", [table], replace=True, **SETTINGS)
    assert "mine" not in {row["topic"] for row in kept}


def test_a_text_of_no_known_word_has_no_topic(tmp_path: Path) -> None:
    texts, _ = planted()
    kept, _, _ = applied(TOPICS, tmp_path, [table_of([*texts, "!!", "zzz"])], **SETTINGS)
    assert [row["topic"] for row in kept[-2:]] == [None, None]


def test_too_few_documents_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="too few words for 20 topics"):
        applied(TOPICS, tmp_path, [table_of(["one text", "another text"])])


def test_a_language_too_small_for_topics_has_none(tmp_path: Path) -> None:
    texts, _ = planted()
    odd = [f"w{number}" for number in range(8)]
    kept, _, arrays = applied(
        TOPICS, tmp_path, [table_of([*texts, *odd], language=["en"] * 240 + ["fi"] * 8)], **SETTINGS
    )
    assert arrays["languages"].tolist() == ["en"]
    assert {row["topic"] for row in kept[240:]} == {None}


def test_buckets_count_words() -> None:
    lengths, buckets, counts = bucket_counts(pa.array(["a b a", "", "b"]))
    assert lengths.tolist() == [2, 0, 1]
    assert counts.tolist() == [2.0, 1.0, 1.0]
    assert buckets[1] == buckets[2] != buckets[0]
