"""A document's bits per byte are the model's, and neither batch nor interruption shows in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lmcraft.corpus.documents import SCHEMA, read_documents, read_statistics
from lmcraft.corpus.step import score
from lmcraft.evaluation.document_scores import ScoreConfig, bits_per_byte, run
from lmcraft.inference import Engine
from lmcraft.recipe.stage import Runtime, UserError


def _rates(directory: Path) -> np.ndarray:
    return np.concatenate([score(batch, "bits_per_byte") for batch in read_documents(directory)])


def test_documents_stay_as_they_were_but_for_the_score(documents: Path, model: Path, tmp_path: Path) -> None:
    run(ScoreConfig(), {"documents": documents, "model": model}, tmp_path, Runtime(device="cpu"))
    rates = _rates(tmp_path)
    assert len(rates) == 120
    # An untrained model of 512 tokens: about log2 512 = 9 bits a token of a few bytes.
    assert np.nanmin(rates) > 2
    assert np.nanmax(rates) < 10
    columns = [name for name in SCHEMA.names if name != "scores"]
    before, after = (
        [batch.to_pylist() for batch in read_documents(folder, columns)] for folder in (documents, tmp_path)
    )
    assert before == after
    assert read_statistics(tmp_path)["documents"] == 120


def test_a_score_does_not_depend_on_the_other_documents(documents: Path, model: Path) -> None:
    engine = Engine.load(model, device="cpu", dtype="float32")
    texts = [text for batch in read_documents(documents, ["text"]) for text in batch["text"].to_pylist()[:12]]
    texts += ["", "é"]
    together = bits_per_byte(engine, texts, 64, 16384)
    assert np.array_equal([bits_per_byte(engine, [text], 64, 16384)[0] for text in texts], together, equal_nan=True)
    assert np.isnan(together[-2])


def test_a_finished_shard_is_not_scored_again(documents: Path, model: Path, tmp_path: Path) -> None:
    run(ScoreConfig(), {"documents": documents, "model": model}, tmp_path, Runtime(device="cpu"))
    (shard,) = tmp_path.glob("documents-*.parquet")
    written = shard.stat().st_mtime_ns
    run(ScoreConfig(), {"documents": documents, "model": model}, tmp_path, Runtime(device="cpu"))
    assert shard.stat().st_mtime_ns == written


def test_a_cut_inside_a_character_leaves_it_out(model: Path) -> None:
    engine = Engine.load(model, device="cpu", dtype="float32")
    assert bits_per_byte(engine, ["abé"], 64, 3)[0] == bits_per_byte(engine, ["ab"], 64, 3)[0]


def test_an_overlap_as_long_as_the_context_is_a_sentence(documents: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="overlap is 128"):
        run(ScoreConfig(overlap=128), {"documents": documents, "model": model}, tmp_path, Runtime(device="cpu"))
