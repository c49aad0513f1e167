"""The n-gram model is a probability; a document's bits are its own; what is unlikely goes with its number."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from corpora import batch_of, contents, sentence

from lmcraft.corpus import documents
from lmcraft.corpus.ngrams import Ngrams, NgramsConfig, bits, fit, run
from lmcraft.corpus.step import Known, score
from lmcraft.corpus.steps.perplexity import PERPLEXITY, Perplexity
from lmcraft.recipe.stage import Runtime, UserError

TEXTS = [sentence(seed, 12) for seed in range(120)]


def _artifact(folder: Path, texts: list[str], parts: int = 1) -> Path:
    folder.mkdir()
    size = -(-len(texts) // parts)
    for index in range(parts):
        batch = batch_of(texts[index * size : (index + 1) * size])
        documents.write_parquet(folder / f"documents-{index:05d}.parquet", pa.Table.from_batches([batch]))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ngrams")
    run(
        NgramsConfig(),
        {"documents": [_artifact(folder / "texts", TEXTS)]},
        folder / "model",
        Runtime(workers=1, cache=folder),
    )
    return folder / "model"


@pytest.mark.parametrize("order", [1, 2, 4, 6, 7])
@pytest.mark.parametrize("context", ["", "The r", "qqq zzz", "captain"])
def test_probabilities_of_the_next_byte_add_up_to_one(order: int, context: str) -> None:
    """Also where the context was never seen, and though n-grams seen once were dropped."""
    model = fit([text.encode() for text in TEXTS], order)
    table = model.table()
    before = bits(pa.array([context]), table)[0][0]
    # Bytes above 127 begin no text by themselves: what is left for them is a 256th each of some weight.
    nexts = bits(pa.array([context + chr(code) for code in range(128)]), table)[0]
    two = bits(pa.array([context + "\u0080"]), table)[0]
    total = (2.0 ** (before - nexts)).sum()
    assert total <= 1 + 1e-6
    unseen = 2.0 ** (before - bits(pa.array([context + "\x01"]), table)[0][0])  # as unlikely as each of the other 128
    assert total + 128 * unseen == pytest.approx(1, abs=1e-5)
    assert np.isfinite(two).all()


def test_it_is_the_byte_model_of_witten_and_bell() -> None:
    """Against the sum worked out by hand: after `a` came b twice and c once, three bytes and two kinds."""
    table = fit([b"ab", b"ab", b"ac"], 2).table()
    unigram = {"a": 3 / 9, "b": 2 / 9, "c": 1 / 9}  # 6 bytes, 3 kinds: counts / 9, and a third of 1/256 for each
    p_b = unigram["b"] + 1 / 3 / 256
    expected = (2 + 2 * p_b) / 5
    after, before = (bits(pa.array([text]), table)[0][0] for text in ("ab", "a"))
    assert 2.0 ** (before - after) == pytest.approx(expected, rel=1e-5)


def test_clean_text_is_likelier_than_noise(model: Path) -> None:
    table = Ngrams.load(model).table()
    texts = [sentence(900, 12), "xq%7 zzk## pfft @@ 0x00ff", "日本語"]
    found, sizes = bits(pa.array(texts), table)
    clean, noise, unseen = found / sizes
    assert clean < 4
    assert noise > 6
    assert unseen > 8


def test_a_document_is_scored_by_itself(model: Path) -> None:
    table = Ngrams.load(model).table()
    texts = [*TEXTS[:20], "", "é", sentence(77)]
    whole = bits(pa.array(texts), table)[0]
    assert [bits(pa.array([text]), table)[0][0] for text in texts] == whole.tolist()
    assert bits(pa.array(texts)[5:9], table)[0].tolist() == whole[5:9].tolist()


def test_the_model_does_not_depend_on_order_or_shards(tmp_path: Path, model: Path) -> None:
    other = _artifact(tmp_path / "texts", TEXTS[::-1], parts=3)
    run(NgramsConfig(), {"documents": [other]}, tmp_path / "model", Runtime(workers=1, cache=tmp_path))
    assert contents(tmp_path / "model") == contents(model)


def test_its_bits_on_documents_not_counted_are_told(model: Path) -> None:
    told = json.loads((model / "ngrams.json").read_text())
    assert told["heldout"]["documents"] + told["counted"]["documents"] == 120
    assert 0.5 < told["heldout"]["bits_per_byte"] < 4
    by_document = list(told["heldout"]["by_document"].values())
    assert by_document == sorted(by_document)


def test_the_draw_is_bounded(tmp_path: Path) -> None:
    texts = _artifact(tmp_path / "texts", TEXTS)
    run(
        NgramsConfig(sample_bytes=4000, heldout=0.3),
        {"documents": [texts]},
        tmp_path / "model",
        Runtime(workers=1, cache=tmp_path),
    )
    told = json.loads((tmp_path / "model" / "ngrams.json").read_text())
    assert told["counted"]["bytes"] + told["heldout"]["bytes"] <= 4000
    assert told["left_out"]["beyond sample_bytes"] == 120 - told["counted"]["documents"] - told["heldout"]["documents"]


def test_documents_beyond_the_limits_go(model: Path) -> None:
    config = Perplexity(min=0.7, max=5)
    arrays = PERPLEXITY.prepare(config, {"model": model}, Runtime())  # type: ignore[misc]
    batch = batch_of([sentence(900, 12), "xq%7 zzk## pfft @@", "a" * 500, ""])
    judged = PERPLEXITY.judge(batch, config, Known(arrays=arrays))
    found = {drop.reason: drop.rows.tolist() for drop in judged.drops}
    low = bits(pa.array(["a" * 500]), arrays)[0][0] / 500
    assert found["perplexity high"][:2] == [False, True]
    assert found["perplexity low"] == [False, False, low < 0.7, False]
    rates = score(judged.batch, "bits_per_byte")
    assert np.isnan(rates[3])
    assert rates[2] == pytest.approx(low)


def test_a_number_that_a_stage_left_can_be_used_and_its_absence_is_told() -> None:
    batch = batch_of(["a", "b", "c"], scores=[[("bits_per_byte", 1.0)], [("bits_per_byte", 3.0)], None])
    config = Perplexity(score="bits_per_byte", max=2)
    assert PERPLEXITY.prepare(config, {}, Runtime()) == {}  # type: ignore[misc]
    found = {drop.reason: drop.rows.tolist() for drop in PERPLEXITY.judge(batch, config, Known()).drops}
    assert found == {"no score bits_per_byte": [False, False, True], "perplexity high": [False, True, False]}


def test_what_is_missing_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs a model"):
        PERPLEXITY.prepare(Perplexity(), {}, Runtime())  # type: ignore[misc]
    with pytest.raises(UserError, match="no n-gram model"):
        Ngrams.load(tmp_path)
    with pytest.raises(UserError, match="give more documents"):
        run(
            NgramsConfig(),
            {"documents": [_artifact(tmp_path / "t", ["a"])]},
            tmp_path / "m",
            Runtime(workers=1, cache=tmp_path),
        )
    with pytest.raises(ValueError, match="min must not be more"):
        Perplexity(min=3, max=2)
