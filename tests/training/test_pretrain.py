"""Stages `pretrain` and `sft` on a small corpus: what they write, what they refuse, and that they learn."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmcraft.corpus.documents import SCHEMA
from lmcraft.model import load_model
from lmcraft.posttraining import sft
from lmcraft.posttraining.sft import SFTConfig
from lmcraft.recipe.schema import ParallelConfig
from lmcraft.recipe.stage import Runtime, UserError
from lmcraft.tokens import Tokenizer, pack, train
from lmcraft.training import pretrain
from lmcraft.training.config import PretrainConfig

CITIES = ["Oslo", "Lima", "Rome", "Cairo", "Delhi", "Quito", "Paris", "Bonn", "Kyoto", "Turin", "Basel", "Lagos"]
SYLLABLES = ["ba", "ke", "li", "mo", "nu", "ra", "se", "ti", "vo", "zu", "dren", "gal", "hom", "jix", "pel", "wyn"]
TOWNS = [a + b + c for a in SYLLABLES for b in SYLLABLES[:8] for c in SYLLABLES[8:]]
SMALL: dict[str, Any] = {
    "depth": 1,
    "hidden_size": 64,
    "head_dim": 32,
    "context": 128,
    "train_tokens": 24_000,
    "batch_tokens": 1024,
    "evaluations": 2,
}


def write_documents(folder: Path, texts: list[str]) -> Path:
    folder.mkdir()
    rows = [
        dict.fromkeys(SCHEMA.names)
        | {"id": f"{i:032x}", "text": text, "source": "made", "path": str(i), "changes": [], "language": "en"}
        | {"split": "heldout" if i % 10 == 0 else "train"}
        for i, text in enumerate(texts)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / "documents-00000.parquet")
    return folder


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("material")
    texts = [
        f"{TOWNS[i]} is a town. The road from {TOWNS[i]} to {TOWNS[i - 1]} is {i % 7 + 2} miles long, "
        f"and {TOWNS[i - 1]} lies by the river {TOWNS[i * 7 % 900]}."
        for i in range(600)
    ]
    documents = write_documents(folder / "documents", texts)
    tokenizer, tokens = folder / "tokenizer", folder / "tokens"
    for out in (tokenizer, tokens):
        out.mkdir()
    runtime = Runtime(scratch=None)
    train.STAGE.run(train.STAGE.config(vocab_size=512), {"documents": documents}, tokenizer, runtime)
    pack.STAGE.run(pack.STAGE.config(), {"documents": documents, "tokenizer": tokenizer}, tokens, runtime)
    return {"documents": documents, "tokenizer": tokenizer, "tokens": tokens}


def runtime(folder: Path, **changes: Any) -> Runtime:
    (folder / "scratch").mkdir(parents=True, exist_ok=True)
    (folder / "out").mkdir(exist_ok=True)
    return Runtime(device="cpu", workers=1, scratch=folder / "scratch", **changes)


def run_pretrain(material: dict[str, Path], folder: Path, **changes: Any) -> dict[str, Any]:
    where = runtime(folder, **({"tensorboard": folder / "board"} if changes.pop("board", False) else {}))
    summary = pretrain.STAGE.run(PretrainConfig(**{**SMALL, **changes}), material, folder / "out", where)
    assert summary is not None
    return summary


def test_a_model_learns_from_labels_shared_with_n_grams(material: dict[str, Path], tmp_path: Path) -> None:
    summary = run_pretrain(material, tmp_path, ngram_smoothing=0.5)
    plan = json.loads((tmp_path / "out" / "training.json").read_text())["plan"]
    assert plan["ngram_smoothing"] == 0.5
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert summary["heldout_bits_per_byte"] < 0.6 * rows[0]["heldout_bits_per_byte"]


def test_a_model_learns_and_everything_derived_is_written_down(material: dict[str, Path], tmp_path: Path) -> None:
    summary = run_pretrain(material, tmp_path, board=True)
    out = tmp_path / "out"
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    heldout = [row["heldout_bits_per_byte"] for row in metrics if "heldout_bits_per_byte" in row]
    assert heldout[-1] < 0.6 * heldout[0]
    assert heldout[-1] == summary["heldout_bits_per_byte"]
    training = json.loads((out / "training.json").read_text())
    assert training["shape"]["hidden_size"] == 64
    assert training["plan"]["steps"] == len([row for row in metrics if "loss" in row]) == 23
    telemetry = [json.loads(line) for line in (out / "telemetry.jsonl").read_text().splitlines()]
    assert telemetry[-1]["step"] == 23
    assert 0 < telemetry[-1]["matmul_share"] < 1.5
    assert Tokenizer.load(out).sha256 == Tokenizer.load(material["tokenizer"]).sha256
    assert load_model(out).config.vocab_size == 512
    assert list((tmp_path / "board").glob("events.out.tfevents.*"))


def test_a_run_of_minutes_ends_in_time_with_its_rates_run_down(material: dict[str, Path], tmp_path: Path) -> None:
    started = time.monotonic()
    summary = run_pretrain(material, tmp_path, train_tokens=None, train_minutes=0.1, final_rate=0.0)
    assert time.monotonic() - started < 6 + 4, "the last evaluation and the files come after the clock"
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    taken = [row for row in rows if "loss" in row]
    assert summary["steps"] == len(taken) > 10
    assert summary["tokens"] == summary["steps"] * 1024
    assert taken[-1]["rate"] < 0.2 < max(row["rate"] for row in taken)
    assert sum("heldout_bits_per_byte" in row for row in rows) == 1 + 1 + 1, "before, half way and after"


def test_the_same_settings_give_the_same_bytes(material: dict[str, Path], tmp_path: Path) -> None:
    for name in ("a", "b"):
        run_pretrain(material, tmp_path / name, architecture="llama", tie_embeddings=False, evaluations=0)
    for file in ("model.safetensors", "metrics.jsonl", "config.json", "training.json"):
        assert (tmp_path / "a" / "out" / file).read_bytes() == (tmp_path / "b" / "out" / file).read_bytes()


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": "olmo3", "sliding_window": 24, "depth": 2},
        {"architecture": "qwen3_moe", "experts": 4, "moe_intermediate_size": 32},
    ],
    ids=["olmo3", "qwen3_moe"],
)
def test_other_families_learn_too(material: dict[str, Path], tmp_path: Path, changes: dict[str, Any]) -> None:
    run_pretrain(material, tmp_path, **changes)
    metrics = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    heldout = [row["heldout_bits_per_byte"] for row in metrics if "heldout_bits_per_byte" in row]
    assert heldout[-1] < 0.6 * heldout[0]
    assert load_model(tmp_path / "out").config.model_type == changes["architecture"]


def test_a_corpus_too_small_is_refused_with_the_figures(material: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the corpus has [\d.]+k training tokens, too few for .* add text, or lower"):
        run_pretrain(material, tmp_path, train_tokens=50_000_000)


def test_rows_shrink_to_the_longest_document(material: dict[str, Path], tmp_path: Path) -> None:
    run_pretrain(material, tmp_path, context=4096, evaluations=0)
    plan = json.loads((tmp_path / "out" / "training.json").read_text())["plan"]
    assert plan["row_tokens"] == 64
    assert load_model(tmp_path / "out").config.max_position_embeddings == 4096


def test_rows_are_cut_at_first_where_they_can_be(material: dict[str, Path], tmp_path: Path) -> None:
    run_pretrain(material, tmp_path / "cut", context=64, first_context=16, first_context_share=0.5)
    plan = json.loads((tmp_path / "cut" / "out" / "training.json").read_text())["plan"]
    assert (plan["row_tokens"], plan["first_row_tokens"]) == (64, 16)
    metrics = [json.loads(line) for line in (tmp_path / "cut" / "out" / "metrics.jsonl").read_text().splitlines()]
    heldout = [row["heldout_bits_per_byte"] for row in metrics if "heldout_bits_per_byte" in row]
    assert heldout[-1] < 0.6 * heldout[0]
    run_pretrain(material, tmp_path / "shrunk", context=4096, first_context=1024, evaluations=0)
    assert "first_row_tokens" not in json.loads((tmp_path / "shrunk" / "out" / "training.json").read_text())["plan"]
    with pytest.raises(ValueError, match=r"first_context \(100\) must divide context \(256\)"):
        PretrainConfig(context=256, first_context=100)
    with pytest.raises(ValueError, match="set that too"):
        PretrainConfig(first_context_share=0.5)


def test_a_network_starts_with_planted_heads_where_it_can_have_them(material: dict[str, Path], tmp_path: Path) -> None:
    deep = {
        "depth": 2,
        "hidden_size": 96,
        "evaluations": 1,
        "train_tokens": 8_000,
        "context": 64,
        "tie_embeddings": False,
    }
    found = {}
    variants = {"default": {}, "without": {"planted_heads": False}, "tied": {"tie_embeddings": True}}
    for name, planted in variants.items():
        run_pretrain(material, tmp_path / name, **{**deep, **planted})
        plan = json.loads((tmp_path / name / "out" / "training.json").read_text())["plan"]
        found[name] = plan["planted_heads"], load_model(tmp_path / name / "out").model.embed_tokens.weight[:, 0].mean()
    assert found["default"][0] and not found["without"][0] and not found["tied"][0]
    assert found["default"][1] > 0.3 > abs(found["without"][1])  # the feature in common
    with pytest.raises(UserError, match="planted_heads is true, but this network can not have them"):
        run_pretrain(material, tmp_path / "shallow", planted_heads=True)
    with pytest.raises(UserError, match="this network can not have them"):
        pretrain.check(PretrainConfig(depth=4, architecture="llama", planted_heads=True), Runtime())
    with pytest.raises(UserError, match="this step has an input model"):
        pretrain.STAGE.run(
            PretrainConfig(
                **{**SMALL, "planted_heads": True, "context": 64, "depth": None, "hidden_size": None, "head_dim": None}
            ),
            {**material, "model": tmp_path / "default" / "out"},
            tmp_path / "on" / "out",
            runtime(tmp_path / "on"),
        )


def test_tokens_of_another_tokenizer_are_refused(material: dict[str, Path], tmp_path: Path) -> None:
    other = tmp_path / "tokenizer"
    other.mkdir()
    inputs = {"documents": material["documents"]}
    train.STAGE.run(train.STAGE.config(vocab_size=520), inputs, other, Runtime())
    with pytest.raises(UserError, match="made by another tokenizer"):
        run_pretrain({**material, "tokenizer": other}, tmp_path)


def test_an_unknown_device_is_refused_before_anything_runs() -> None:
    assert pretrain.STAGE.check is not None
    with pytest.raises(UserError, match="device 'tpu9' is not available on this machine; choose one of: auto"):
        pretrain.STAGE.check(PretrainConfig(), Runtime(device="tpu9"))
    assert pretrain.STAGE.estimate is not None
    assert (pretrain.STAGE.estimate(PretrainConfig(**SMALL), Runtime(device="cpu")) or 0) > 0


def conversations(folder: Path, pairs: list[tuple[str, str]]) -> Path:
    folder.mkdir()
    rows = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}], "task": "t", "answer": a}
        for q, a in pairs
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_fine_tuning_teaches_the_answer_and_to_stop(material: dict[str, Path], tmp_path: Path) -> None:
    from lmcraft.inference import Engine, Sampling

    run_pretrain(material, tmp_path / "base", evaluations=0)
    pairs = [(f"Where is {city}?", f"{city} is north") for city in CITIES] * 6
    inputs = {"model": tmp_path / "base" / "out", "conversations": conversations(tmp_path / "talk", pairs)}
    where = runtime(tmp_path / "sft")
    config = SFTConfig(batch_tokens=512, epochs=20, learning_rate=0.02, embedding_learning_rate=0.01)
    sft.STAGE.run(config, inputs, tmp_path / "sft" / "out", where)
    engine = Engine.load(tmp_path / "sft" / "out", device="cpu")
    prompts = [engine.tokenizer.encode_prompt([{"role": "user", "content": q}]) for q, _ in pairs[:12]]
    answers = engine.generate(prompts, Sampling(max_tokens=20, temperature=0.0))
    assert [answer.finish for answer in answers].count("stop") >= 11
    assert sum(answer.text == right for answer, (_, right) in zip(answers, pairs[:12], strict=True)) >= 10


def test_conversations_that_fit_no_row_are_refused(material: dict[str, Path], tmp_path: Path) -> None:
    run_pretrain(material, tmp_path / "base", evaluations=0)
    talk = conversations(tmp_path / "talk", [("word " * 300, "yes")])
    inputs = {"model": tmp_path / "base" / "out", "conversations": talk}
    for settings, words in (
        ({}, "none of the 1 conversations fits rows of 128 tokens; pretrain with a longer context"),
        ({"batch_tokens": 64}, "fits rows of 64 tokens; raise context or batch_tokens"),
        ({"context": 256}, "context is 256, but the model's is 128: lower it, or leave it out"),
    ):
        with pytest.raises(UserError, match=words):
            sft.STAGE.run(SFTConfig(**settings), inputs, tmp_path, runtime(tmp_path / "sft"))  # type: ignore[arg-type]


def test_what_reads_whole_rows_is_refused_where_processes_share_them() -> None:
    class Sharing:
        shares_layers, settings = True, ParallelConfig(context=2)

    shared = Runtime(device="cpu", ranks=Sharing())  # type: ignore[arg-type]
    for config, words in (
        (PretrainConfig(predict_ahead=1), "predict_ahead reads rows whole: set"),
        (PretrainConfig(objective="masked"), "masked rows see both sides of a token: set"),
    ):
        assert pretrain.STAGE.check is not None
        with pytest.raises(UserError, match=words):
            pretrain.STAGE.check(config, shared)
