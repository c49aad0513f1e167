"""Steps `quality` and `topic` say what their classifier says, and ask for one they can know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpora import WORDS, batch_of

from lmcraft.corpus import documents
from lmcraft.corpus.classifier import ClassifierConfig, run
from lmcraft.corpus.step import Judged, Known, score
from lmcraft.corpus.steps.quality import QUALITY, TOPIC, Quality, Topic
from lmcraft.recipe.stage import Runtime, UserError

TRADE = ("market", "credit", "profit", "budget", "tariff", "export", "tender", "ledger", "broker", "margin", "asset")
BOOKS = ("author", "chapter", "novel", "poem", "verse", "reader", "printer", "page", "editor", "library", "margin")


def _text(words: tuple[str, ...], seed: int) -> str:
    rng = np.random.default_rng(seed)
    return " ".join(words[index] for index in rng.integers(0, 11, 12)) + f" {seed}"


def _trained(folder: Path, name: str, *kinds: tuple[str, ...]) -> Path:
    labels = ("bad", "good") if len(kinds) == 2 else tuple("abc")
    texts = [(_text(kind, seed), label) for kind, label in zip(kinds, labels, strict=True) for seed in range(60)]
    (folder / f"{name}-texts").mkdir()
    batch = batch_of([text for text, _ in texts], topic=[label for _, label in texts])
    documents.write_parquet(
        folder / f"{name}-texts" / "documents-00000.parquet", documents.pa.Table.from_batches([batch])
    )
    config = ClassifierConfig(name=name, label="topic", bits=12)
    run(config, {"documents": [folder / f"{name}-texts"]}, folder / name, Runtime(workers=1, cache=folder))
    return folder / name


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("classifiers")
    return {
        "nature": _trained(folder, "nature", TRADE, WORDS),
        "subject": _trained(folder, "subject", WORDS, TRADE, BOOKS),
    }


def _judge(step: Any, config: Any, inputs: list[Path], **columns: list[Any]) -> Judged:
    texts = [_text(WORDS, 100), _text(TRADE, 101), _text(BOOKS, 102), ""]
    arrays = step.prepare(config, {"classifier": inputs}, Runtime())
    return step.judge(batch_of(texts, **columns), config, Known(arrays=arrays))  # type: ignore[no-any-return]


def test_documents_get_the_score_and_go_with_value_and_threshold(classifiers: dict[str, Path]) -> None:
    judged = _judge(QUALITY, Quality(min=0.5), [classifiers["nature"]])
    probability = score(judged.batch, "nature")
    assert probability[0] > 0.8
    assert probability[1] < 0.2
    (drop,) = judged.drops
    assert (drop.reason, drop.threshold) == ("nature low", 0.5)
    assert drop.rows.tolist() == (probability < 0.5).tolist()
    assert drop.values == pytest.approx(probability)


def test_without_limits_nothing_goes(classifiers: dict[str, Path]) -> None:
    assert _judge(QUALITY, Quality(), [classifiers["nature"]]).drops == ()


def test_a_screen_is_a_classifier_with_a_maximum(classifiers: dict[str, Path]) -> None:
    (drop,) = _judge(QUALITY, Quality(max=0.5), [classifiers["nature"]]).drops
    assert (drop.reason, drop.rows[:2].tolist()) == ("nature high", [True, False])


def test_topics_are_filled_in_where_none_is_and_the_classifier_is_sure(classifiers: dict[str, Path]) -> None:
    known = {"topic": [None, "mine", None, None]}
    judged = _judge(TOPIC, Topic(min=0.6), [classifiers["subject"]], **known)
    assert judged.batch["topic"].to_pylist() == ["a", "mine", "c", None]
    assert judged.batch["changes"].to_pylist() == [["topic assigned"], [], ["topic assigned"], []]
    assert not np.isnan(score(judged.batch, "topic")).any()
    replaced = _judge(TOPIC, Topic(min=0.6, replace=True), [classifiers["subject"]], **known)
    assert replaced.batch["topic"].to_pylist() == ["a", "b", "c", None]


def test_of_several_classifiers_the_named_one_judges(classifiers: dict[str, Path]) -> None:
    both = list(classifiers.values())
    assert "nature" in dict(_judge(QUALITY, Quality(classifier="nature"), both).batch["scores"].to_pylist()[0])
    with pytest.raises(UserError, match="say which"):
        _judge(QUALITY, Quality(), both)
    with pytest.raises(UserError, match="has nature, subject"):
        _judge(QUALITY, Quality(classifier="other"), both)
    with pytest.raises(UserError, match="name a step"):
        _judge(QUALITY, Quality(), [])
    with pytest.raises(UserError, match="two classes"):
        _judge(QUALITY, Quality(classifier="subject"), both)


def test_limits_that_leave_no_room_are_refused() -> None:
    with pytest.raises(ValueError, match="min must not be more"):
        Quality(min=0.6, max=0.5)
