"""A classifier learns what tells its classes apart, says how sure it may be, and follows from the examples alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from corpora import WORDS, batch_of, contents

from lmcraft.corpus import documents
from lmcraft.corpus.classifier import Classifier, ClassifierConfig, evaluate, run
from lmcraft.corpus.classifier_features import Features, first_places, frequencies, logits, word_hashes
from lmcraft.recipe.stage import Runtime, UserError

OTHERS = ("market", "credit", "profit", "budget", "tariff", "export", "tender", "ledger", "broker", "margin", "asset")


def prose(seed: int, words: tuple[str, ...] = WORDS, length: int = 20) -> str:
    """A sentence of these words, different for every seed."""
    digest = hashlib.sha256(f"{seed}".encode()).digest() * 4
    return "The " + " ".join(words[byte % len(words)] for byte in digest[:length]) + f" by the {words[seed % 11]}."


def noise(seed: int) -> str:
    return f"{prose(seed)} click here >> buy | login | {prose(seed + 1, length=8)} share this"


def artifact(folder: Path, texts: list[str], shards: int = 1, **columns: list[Any]) -> Path:
    """Documents with these texts, cut into so many shards."""
    folder.mkdir()
    batch = batch_of(texts, **columns)
    size = -(-batch.num_rows // shards)
    for index in range(shards):
        part = pa.Table.from_batches([batch.slice(index * size, size)])
        documents.write_parquet(folder / f"documents-{index:05d}.parquet", part)
    return folder


def train(out: Path, inputs: dict[str, Any], **settings: Any) -> Path:
    config = ClassifierConfig.model_validate({"bits": 14, **settings})
    run(config, inputs, out, Runtime(workers=1, cache=out.parent))
    return out


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return artifact(tmp_path / "good", [prose(seed) for seed in range(300)], language=["en", "fr"] * 150)


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    return artifact(tmp_path / "bad", [noise(1000 + seed) for seed in range(200)], language=["en"] * 200)


@pytest.fixture
def trained(tmp_path: Path, good: Path, bad: Path) -> Path:
    return train(tmp_path / "trained", {"good": [good], "bad": [bad]})


def evaluation(directory: Path) -> dict[str, Any]:
    return dict(json.loads((directory / "evaluation.json").read_text()))


def test_good_and_bad_are_told_apart_on_texts_not_trained_on(trained: Path) -> None:
    found = evaluation(trained)
    assert found["auc"]["value"] > 0.99
    assert found["auc"]["low"] < found["auc"]["value"] <= found["auc"]["high"]
    assert found["calibration"]["expected_calibration_error"] < 0.1
    parts = found["examples"]["drawn"]
    assert sum(parts["good"].values()) == 300
    assert sum(parts["bad"].values()) == 200
    assert found["auc"]["positives"] == parts["good"]["heldout"]
    new = pa.array([prose(5000), noise(5001)])
    assert (Classifier.load(trained).scores(new) > 0.5).tolist() == [True, False]


def test_the_telling_ngrams_can_be_read(trained: Path) -> None:
    telling = " ".join(item["ngram"] for item in evaluation(trained)["telling"]["bad"])
    assert "click" in telling
    assert all(item["weight"] > 0 for items in evaluation(trained)["telling"].values() for item in items)


def test_rates_are_given_by_language_and_source(trained: Path) -> None:
    found = evaluation(trained)
    assert set(found["by_language"]) == {"en", "fr"}
    assert found["by_language"]["fr"]["kept"] == {"value": None, "low": None, "high": None, "n": 0}
    assert set(found["by_source"]) == {"made"}
    assert [row["recall"] for row in found["thresholds"]] == sorted(
        (row["recall"] for row in found["thresholds"]), reverse=True
    )


def test_the_bytes_do_not_depend_on_order_or_shards(tmp_path: Path, trained: Path, good: Path, bad: Path) -> None:
    texts = [prose(seed) for seed in range(300)]
    again = artifact(tmp_path / "again", texts[::-1], shards=3, language=(["fr", "en"] * 150))
    other = train(tmp_path / "other", {"good": [again], "bad": [bad]})
    assert contents(other) == contents(trained)


def test_what_is_held_out_stays_so_when_examples_are_added(
    tmp_path: Path, good: Path, bad: Path, trained: Path
) -> None:
    """A text's part follows from the text: one that has measured is never trained on later."""
    more = artifact(tmp_path / "more", [prose(seed) for seed in range(300, 400)])
    other = train(tmp_path / "other", {"good": [good, more], "bad": [bad]})
    assert evaluation(other)["examples"]["drawn"]["bad"] == evaluation(trained)["examples"]["drawn"]["bad"]


def test_a_text_in_both_classes_and_a_repeated_one_are_left_out_and_counted(tmp_path: Path, bad: Path) -> None:
    texts = [prose(seed) for seed in range(100)]
    good = artifact(tmp_path / "good", [*texts, texts[0], noise(1000), " "])
    found = evaluation(train(tmp_path / "out", {"good": [good], "bad": [bad]}))["examples"]
    assert found["left_out"] == {"no text": 1, "same text again": 1, "text in more than one class": 2}
    assert sum(found["drawn"]["good"].values()) == 100
    assert sum(found["drawn"]["bad"].values()) == 199


def test_documents_that_curate_held_out_are_not_trained_on(tmp_path: Path, bad: Path) -> None:
    held = artifact(tmp_path / "g", [prose(seed) for seed in range(200)], split=["heldout"] * 100 + ["train"] * 100)
    found = evaluation(train(tmp_path / "out", {"good": [held], "bad": [bad]}))["examples"]["drawn"]["good"]
    assert found["heldout"] > 100
    assert found["train"] < 100


def test_a_source_can_be_kept_for_measuring(tmp_path: Path) -> None:
    sources = ["a", "b"] * 100
    good = artifact(tmp_path / "g", [prose(seed) for seed in range(200)], source=sources)
    bad = artifact(tmp_path / "b", [noise(seed) for seed in range(1000, 1200)], source=sources)
    out = train(tmp_path / "out", {"good": [good], "bad": [bad]}, heldout_sources=["b"])
    found = evaluation(out)
    assert found["by_source"].keys() == {"b"}
    assert found["n"] == 200


def test_memory_is_bounded_by_a_draw_that_treats_classes_alike(tmp_path: Path, good: Path, bad: Path) -> None:
    found = evaluation(train(tmp_path / "out", {"good": [good], "bad": [bad]}, sample_bytes=60_000))["examples"]
    drawn = {name: sum(parts.values()) for name, parts in found["drawn"].items()}
    assert drawn["good"] + drawn["bad"] + found["left_out"]["beyond sample_bytes"] == 500
    assert 20 < drawn["bad"] < drawn["good"] < 80  # bad texts are longer


def test_three_topics(tmp_path: Path) -> None:
    texts = [prose(seed) for seed in range(100)] + [prose(seed, OTHERS) for seed in range(100)]
    texts += [f"{noise(seed)} {prose(seed, OTHERS)}" for seed in range(100)]
    labels = ["nature"] * 100 + ["trade"] * 100 + ["noise"] * 100
    texts, labels = [*texts, "few " * 9, "no label at all"], [*labels, "rare", None]
    found = train(tmp_path / "out", {"documents": [artifact(tmp_path / "d", texts, topic=labels)]}, label="topic")
    result = evaluation(found)
    assert result["classes"] == ["nature", "noise", "trade"]
    assert result["accuracy"]["value"] > 0.95
    assert result["examples"]["left_out"] == {"class of too few": 1, "no label": 1}
    classifier = Classifier.load(found)
    probabilities = classifier.probabilities(pa.array([prose(999), prose(999, OTHERS)]))
    assert probabilities.argmax(axis=1).tolist() == [0, 2]
    assert probabilities.sum(axis=1) == pytest.approx([1, 1])


def test_ignored_words_leave_no_trace(tmp_path: Path, bad: Path) -> None:
    """Not only is the word no feature: its neighbours become neighbours, and a score is the same to the last bit."""
    good = artifact(tmp_path / "g", [prose(seed) + " Gay people." for seed in range(100)])
    directory = train(tmp_path / "out", {"good": [good], "bad": [bad]}, ignore=["Zürich"], ignore_identities=True)
    classifier = Classifier.load(directory)
    plain = "I am a person who likes the river."
    variants = [plain.replace("a person", f"a {name} person") for name in ("gay", "Muslim", "BLACK", "zürich", "Deaf")]
    scores = classifier.scores(pa.array([plain, *variants]))
    assert len(set(scores.tolist())) == 1
    assert classifier.scores(pa.array([plain.replace("a person", "a tall-haired person")]))[0] != scores[0]


def test_scores_do_not_depend_on_the_batch(trained: Path) -> None:
    classifier = Classifier.load(trained)
    texts = [prose(seed) for seed in range(20)] + [noise(seed) for seed in range(20)] + ["", "日本語"]
    whole = classifier.scores(pa.array(texts))
    assert [classifier.scores(pa.array([text]))[0] for text in texts] == whole.tolist()
    assert classifier.scores(pa.array(texts)[7:12]).tolist() == whole[7:12].tolist()
    assert classifier.scores(pa.chunked_array([texts[:3], texts[3:]])).tolist() == whole.tolist()


def test_a_classifier_survives_the_disk_and_the_workers(trained: Path, tmp_path: Path) -> None:
    classifier = Classifier.load(trained)
    other = Classifier.of_arrays(classifier.arrays())
    texts = pa.array([prose(7), noise(8)])
    assert other.scores(texts).tolist() == classifier.scores(texts).tolist()
    (tmp_path / "copy").mkdir()
    other.save(tmp_path / "copy")
    assert (tmp_path / "copy" / "classifier.json").read_bytes() == (trained / "classifier.json").read_bytes()


@pytest.mark.parametrize(
    ("inputs", "settings", "message"),
    [
        (["good"], {}, "needs the inputs `good` and `bad`"),
        (["good", "bad", "documents"], {}, "needs the inputs `good` and `bad`"),
        (["good", "bad"], {"label": "topic"}, "needs the input `documents`"),
        (["documents"], {"label": "topic"}, "two classes"),
        (["good", "few"], {}, "two classes with 20 different documents"),
    ],
)
def test_inputs_that_do_not_fit_are_a_sentence(
    tmp_path: Path, good: Path, bad: Path, inputs: list[str], settings: dict[str, Any], message: str
) -> None:
    few = artifact(tmp_path / "few", [noise(seed) for seed in range(19)])
    given = {"good": ("good", good), "bad": ("bad", bad), "documents": ("documents", good), "few": ("bad", few)}
    with pytest.raises(UserError, match=message):
        train(tmp_path / "out", {given[name][0]: [given[name][1]] for name in inputs}, **settings)


def test_damaged_classifiers_are_a_sentence(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no classifier"):
        Classifier.load(tmp_path)
    settings = json.loads((trained / "classifier.json").read_text())
    (trained / "classifier.json").write_text(json.dumps(settings | {"algorithm": "other-1"}))
    with pytest.raises(UserError, match="train it again"):
        Classifier.load(trained)
    (trained / "classifier.json").write_text(json.dumps(settings))
    (trained / "classifier.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="no classifier"):
        Classifier.load(trained)


class TestFeatures:
    """What the compiled kernels make of a text, against a plain account of it."""

    def _ngrams(self, text: str, **settings: Any) -> set[str]:
        features = Features(bits=20, **settings)
        counts = frequencies(pa.array([text]), features)
        return set(first_places(pa.array([text]), np.flatnonzero(counts), features).values())

    def test_words_pairs_and_signs(self) -> None:
        found = self._ngrams("The cat\n\n sat. 日本", words=2, characters=0)
        assert found == {
            *("The", "cat", "\n\n ", "sat", ".", "日", "本"),
            *("The cat", "cat\n\n ", "\n\n sat", "sat.", ". 日", "日本"),
        }

    def test_triples(self) -> None:
        assert self._ngrams("a b c", words=3, characters=0) == {"a", "b", "c", "a b", "b c", "a b c"}

    def test_characters_inside_words_with_their_edges(self) -> None:
        found = self._ngrams("épater", words=1, characters=4)
        assert found == {"épater", "épa", "épat", "pate", "ater", "ter"}

    def test_case_and_digits_are_folded(self) -> None:
        features = Features(bits=12)
        one, two = (frequencies(pa.array([text]), features) for text in ("ÉTÉ 1987 Ω", "été 2024 ω"))
        assert np.array_equal(one, two)

    def test_a_feature_counts_once_a_document(self) -> None:
        assert frequencies(pa.array(["a a a a", "a"]), Features(bits=12, words=1, characters=0)).max() == 2

    def test_only_the_beginning_is_looked_at_and_no_character_is_cut(self) -> None:
        features = Features(bits=12, max_bytes=6)
        weights = np.random.default_rng(0).normal(size=(4096, 1)).astype(np.float32)
        long, short = (logits(pa.array([text]), weights, features) for text in ("ab éé", "ab é"))
        assert long == short

    def test_hashes_of_phrases_are_those_of_their_words(self) -> None:
        assert set(word_hashes(["Puerto Rican"])) == {*word_hashes(["puerto"]), *word_hashes(["RICAN"])}

    def test_nulls_and_no_texts(self) -> None:
        weights = np.ones((4096, 1), np.float32)
        features = Features(bits=12)
        assert logits(pa.array([None, ""], pa.string()), weights, features).tolist() == [[0], [0]]
        assert logits(pa.array([], pa.string()), weights, features).shape == (0, 1)


def test_evaluate_names_no_number_it_cannot_know(trained: Path, tmp_path: Path) -> None:
    from lmcraft.corpus.classifier import Examples

    one = Examples(
        ("bad", "good"), pa.array(["x"]), np.array([1]), np.array([1], np.uint64), ["made"], [None], np.array([False])
    )
    assert evaluate(Classifier.load(trained), one)["auc"]["value"] is None
