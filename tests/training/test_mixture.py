"""A mixture is found that serves the target, says what it is worth, and does not depend on being interrupted."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lmcraft.corpus import documents
from lmcraft.evaluation.baselines import ByteNgram
from lmcraft.recipe.stage import Progress, Runtime, Task, UserError
from lmcraft.tokens import train
from lmcraft.training import mixture
from lmcraft.training.mixture_proxies import ngram_proxy
from lmcraft.training.mixture_regression import best_mixture, draw_mixtures, fit_all, within

SYLLABLES = {"a": "ba be bi bo bu da de di do du", "b": "ka ke ki ko ku ta te ti to tu", "c": "la le li lo lu ra re ri"}


def write_documents(folder: Path, counts: dict[str, int], seed: int = 0, words: int = 60) -> Path:
    """Three made-up languages; the words of each repeat, so that text of one teaches nothing of another."""
    draw = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for source, count in counts.items():
        syllables = SYLLABLES[source].split()
        lexicon = ["".join(np.random.default_rng(number).choice(syllables, 3)) for number in range(words)]
        for number in range(count):
            text = " ".join(draw.choice(lexicon, 80))
            split = "heldout" if number % 8 == 0 else "train"
            name = f"{source}{number}"
            rows.append({"id": name, "text": text, "source": source, "path": name, "split": split})
    folder.mkdir(parents=True)
    documents.write_parquet(folder / "documents-00000.parquet", pa.Table.from_pylist(rows, documents.SCHEMA))
    return folder


def settings(**changes: Any) -> mixture.MixtureConfig:
    small = {"proxies": 10, "proxy_bytes": 30_000, "heldout_bytes": 8000, "ngram": 4, "validation_seeds": 3}
    return mixture.MixtureConfig.model_validate(small | changes)


def found(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "mixture.json").read_text()))


def test_the_weights_go_where_the_target_is(tmp_path: Path) -> None:
    folder = write_documents(tmp_path / "d", {"a": 100, "b": 200, "c": 100}, words=900)
    config = settings(target={"a": 0.5, "b": 0.5}, proxies=24)
    summary = mixture.run(config, {"documents": folder}, tmp_path / "out", Runtime())
    result = found(tmp_path / "out")
    assert result["weights"]["c"] < 0.18
    assert min(result["weights"]["a"], result["weights"]["b"]) > 0.25
    assert sum(result["weights"].values()) == pytest.approx(1)
    assert result["validation"]["gain_over_natural"]["better"]
    assert summary["gain_over_natural"] > 0
    assert len((tmp_path / "out" / "proxies.jsonl").read_text().splitlines()) == 24
    assert not (tmp_path / "out" / ".mixture").exists()


def test_no_group_gets_more_than_its_epochs(tmp_path: Path) -> None:
    folder = write_documents(tmp_path / "d", {"a": 16, "b": 200, "c": 100})
    config = settings(target={"a": 1.0}, max_epochs=2.0)
    mixture.run(config, {"documents": folder}, tmp_path / "out", Runtime())
    result = found(tmp_path / "out")
    assert result["weights"]["a"] <= result["limits"]["a"] + 1e-9
    assert result["limits"]["a"] == pytest.approx(2 * result["natural"]["a"])


def test_a_killed_run_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    class Kill(Task):
        calls = 0

        def advance(self, amount: float = 1, text: str | None = None) -> None:
            Kill.calls += 1
            if Kill.calls == 5:
                raise Killed

    class Killing(Progress):
        def task(self, description: str, total: float | None, unit: str, done: float = 0) -> Task:
            return Kill()

    folder = write_documents(tmp_path / "d", {"a": 60, "b": 60})
    whole = tmp_path / "whole"
    mixture.run(settings(), {"documents": folder}, whole, Runtime())
    with pytest.raises(Killed):
        mixture.run(settings(), {"documents": folder}, tmp_path / "out", Runtime(progress=Killing()))
    assert len(list((tmp_path / "out" / ".mixture").glob("*.json"))) == 5
    mixture.run(settings(), {"documents": folder}, tmp_path / "out", Runtime())
    for name in ("mixture.json", "proxies.jsonl"):
        assert (whole / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_a_target_of_other_documents(tmp_path: Path) -> None:
    folder = write_documents(tmp_path / "d", {"a": 100, "b": 100})
    target = write_documents(tmp_path / "t", {"b": 20}, seed=1)
    mixture.run(settings(), {"documents": folder, "target": target}, tmp_path / "out", Runtime())
    assert found(tmp_path / "out")["weights"]["b"] > 0.8


@pytest.mark.parametrize(
    ("changes", "counts", "message"),
    [
        ({}, {"a": 20}, "make 1 groups"),
        ({"most_groups": 2}, {"a": 20, "b": 20, "c": 20}, "make 3 groups"),
        ({"target": {"z": 1.0}}, {"a": 20, "b": 20}, "target names the group 'z'"),
        ({"target_bytes": 10**9}, {"a": 20, "b": 20}, "do not fill target_bytes"),
        ({"proxy": "transformer"}, {"a": 20, "b": 20}, "needs the input `tokenizer`"),
        ({}, {"a": 20, "b": 1}, "no training text|has no held-out text|make 1 groups"),
    ],
)
def test_what_cannot_be_is_a_sentence(
    tmp_path: Path, changes: dict[str, Any], counts: dict[str, int], message: str
) -> None:
    folder = write_documents(tmp_path / "d", counts)
    with pytest.raises(UserError, match=message):
        mixture.run(settings(**changes), {"documents": folder}, tmp_path / "out", Runtime())


def test_the_ngram_proxy_is_a_distribution_and_that_of_the_evaluation(tmp_path: Path) -> None:
    texts = ["the cat sat on the mat", "a dog ate the cat’s hat"] * 3
    test = ["the dog sat on a mat"]
    bits = ngram_proxy(1, [test])(texts, 0, tmp_path)[0]
    expected = ByteNgram(1, texts).nats(test[0]) / (math.log(2) * len(test[0]))
    assert bits == pytest.approx(expected)
    # Longer orders differ only in how a text begins.
    several = ngram_proxy(4, [test])(texts, 0, tmp_path)[0]
    assert several == pytest.approx(ByteNgram(4, texts).nats(test[0]) / (math.log(2) * len(test[0])), abs=0.15)


def test_the_transformer_proxy_learns_what_it_is_given(tmp_path: Path) -> None:
    folder = write_documents(tmp_path / "d", {"a": 40, "b": 40})
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    train.STAGE.run(
        train.STAGE.config.model_validate({"vocab_size": 512}), {"documents": folder}, tokenizer, Runtime(scratch=None)
    )
    tiny = {"depth": 1, "hidden_size": 32, "head_dim": 16, "context": 64, "batch_tokens": 256, "precision": "float32"}
    config = settings(
        proxy="transformer", transformer=tiny, proxies=8, proxy_bytes=10_000, heldout_bytes=2000, validation_seeds=2
    )
    inputs = {"documents": folder, "tokenizer": tokenizer}
    mixture.run(config, inputs, tmp_path / "out", Runtime(workers=1, device="cpu"))
    rows = [json.loads(line) for line in (tmp_path / "out" / "proxies.jsonl").read_text().splitlines()]
    more_a = max(rows, key=lambda row: row["weights"][0])
    more_b = min(rows, key=lambda row: row["weights"][0])
    assert more_a["bits_per_byte"][0] < more_b["bits_per_byte"][0]
    assert more_a["bits_per_byte"][1] > more_b["bits_per_byte"][1]
    assert not (tmp_path / "out" / ".mixture").exists()


def test_a_setting_that_means_nothing_to_a_proxy_is_refused() -> None:
    with pytest.raises(ValueError, match="the transformer proxy knows no objective: it is a new network that predicts"):
        settings(transformer={"depth": 1, "objective": "masked"})


def test_a_group_of_which_little_is_drawn_has_some(tmp_path: Path) -> None:
    """Of a thousand pieces, two are wanted: by chance alone a seventh of all draws had none."""
    folder = write_documents(tmp_path / "d", {"a": 1000})
    sizes = {"a": sum(len(text.encode()) for _, _, text, _ in mixture._pieces(settings(), folder, None))}
    wanted = 2 * sizes["a"] // 1000
    for seed in range(20):
        assert mixture._gather(settings(seed=seed), folder, None, {"a": wanted}, sizes)["a"]


def test_regression_finds_a_planted_optimum() -> None:
    natural = np.array([0.6, 0.3, 0.1])
    weights = draw_mixtures(natural, 40, np.ones(3), 0)
    outcomes = 2 - 0.1 * np.log(weights + 0.01) @ np.array([[0.2], [0.5], [0.3]])
    fits = fit_all(weights, outcomes, np.ones(1))
    assert fits[0].name == "log"
    assert fits[0].r2(outcomes, np.ones(1)) > 0.99
    best = best_mixture(fits[0], np.ones(1), draw_mixtures(natural, 20_000, np.ones(3), 1))
    assert best == pytest.approx([0.2, 0.5, 0.3], abs=0.05)


def test_noise_has_no_r2() -> None:
    weights = draw_mixtures(np.array([0.5, 0.5]), 30, np.ones(2), 0)
    noise = np.random.default_rng(0).normal(size=(30, 1))
    assert fit_all(weights, noise, np.ones(1))[0].r2(noise, np.ones(1)) < 0.25


def test_weights_above_their_limit_are_given_to_the_others() -> None:
    assert within(np.array([0.8, 0.1, 0.1]), np.array([0.4, 0.25, 1.0])).tolist() == pytest.approx([0.4, 0.25, 0.35])
