"""Continued pretraining: an imported model learns on, longer or with other tokens; what does not fit is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_pretrain import SMALL, TOWNS, runtime, write_documents

from lmcraft.model import ModelConfig, load_model
from lmcraft.model.importing import STAGE as IMPORT
from lmcraft.model.importing import ImportConfig
from lmcraft.recipe.runner import run_steps
from lmcraft.recipe.schema import load_recipe
from lmcraft.recipe.stage import Runtime, UserError
from lmcraft.stages import STAGES
from lmcraft.store.store import Store
from lmcraft.tokens import Tokenizer, pack, train
from lmcraft.training import pretrain
from lmcraft.training.config import PretrainConfig
from lmcraft.training.continued import continued_shape

RECIPES = Path(__file__).parents[2] / "recipes"
SHAPE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}

ON: dict[str, Any] = {
    "context": 128,
    "train_tokens": 8_000,
    "batch_tokens": 1024,
    "evaluations": 1,
    "learning_rate": 0.002,
    "embedding_learning_rate": 0.005,
}


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Documents, their tokenizer and tokens, and a model trained on them, written by transformers and imported."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("material")
    sentences = [f"{TOWNS[i]} is a town. {TOWNS[i]} lies by the river {TOWNS[i * 7 % 900]}." for i in range(900)]
    documents = write_documents(folder / "documents", [" ".join(sentences[i : i + 9]) for i in range(0, 900, 2)])
    for name in ("tokenizer", "other", "tokens", "other tokens", "model"):
        (folder / name).mkdir()
    found = {"documents": documents}
    for name, size in (("tokenizer", 512), ("other", 540)):
        train.STAGE.run(train.STAGE.config(vocab_size=size), {"documents": documents}, folder / name, Runtime())
    for out, name in (("tokens", "tokenizer"), ("other tokens", "other")):
        inputs = {"documents": documents, "tokenizer": folder / name}
        pack.STAGE.run(pack.STAGE.config(), inputs, folder / out, Runtime())
    found |= {name: folder / name for name in ("tokenizer", "other", "tokens", "other tokens", "model")}
    base = runtime(folder / "base")
    pretrain.STAGE.run(
        PretrainConfig(**{**SMALL, "evaluations": 0}), found_inputs(found), folder / "base" / "out", base
    )
    theirs = AutoModelForCausalLM.from_pretrained(folder / "base" / "out", dtype=torch.float32)
    theirs.save_pretrained(folder / "theirs", max_shard_size="100KB")
    Tokenizer.load(folder / "tokenizer").save(folder / "theirs")
    IMPORT.run(ImportConfig(model=str(folder / "theirs")), {}, folder / "model", Runtime())
    return found


def found_inputs(material: dict[str, Path]) -> dict[str, Path]:
    return {name: material[name] for name in ("tokens", "tokenizer")}


def run(material: dict[str, Path], folder: Path, **changes: Any) -> list[float]:
    """Held-out bits per byte before and after."""
    inputs = {name: material[name] for name in ("tokens", "tokenizer", "model")}
    pretrain.STAGE.run(PretrainConfig(**{**ON, **changes}), inputs, folder / "out", runtime(folder))
    rows = [json.loads(line) for line in (folder / "out" / "metrics.jsonl").read_text().splitlines()]
    return [row["heldout_bits_per_byte"] for row in rows if "heldout_bits_per_byte" in row]


def test_an_imported_model_goes_on_where_it_was(material: dict[str, Path], tmp_path: Path) -> None:
    before, *_, after = run(material, tmp_path)
    assert before < 3.0, "it starts as the trained model, not as a fresh one"
    assert after < before
    assert load_model(tmp_path / "out").config == load_model(material["model"]).config


def test_its_tokenizer_can_be_taken_from_the_model_itself(material: dict[str, Path], tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.mkdir()
    inputs = {"documents": material["documents"], "tokenizer": material["model"]}
    pack.STAGE.run(pack.STAGE.config(), inputs, tokens, Runtime())
    run({**material, "tokens": tokens, "tokenizer": material["model"]}, tmp_path)


def test_the_context_grows_only_with_a_scaling(material: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"context is 256, but the input model's is 128: .* set rope_scaling"):
        run(material, tmp_path / "no", context=256)
    run(material, tmp_path, context=256, rope_scaling={"rope_type": "yarn", "factor": 2.0})
    config = load_model(tmp_path / "out").config
    assert config.max_position_embeddings == 256
    assert config.rope_scaling is not None
    assert config.rope_scaling.original_max_position_embeddings == 128
    training = json.loads((tmp_path / "out" / "training.json").read_text())
    assert training["plan"]["row_tokens"] > 128


def test_a_new_vocabulary_is_an_explicit_wish_and_keeps_known_tokens(material: dict[str, Path], tmp_path: Path) -> None:
    other = {**material, "tokens": material["other tokens"], "tokenizer": material["other"]}
    with pytest.raises(UserError, match=r"not made by the tokenizer of the input model: .* new_vocabulary: true"):
        run(other, tmp_path / "no")
    before, *_, after = run(other, tmp_path, new_vocabulary=True)
    assert before < 4.0, "most tokens are known, so it does not start from nothing"
    assert after < before
    assert load_model(tmp_path / "out").config.vocab_size == 540
    assert Tokenizer.load(tmp_path / "out").sha256 == Tokenizer.load(material["other"]).sha256
    with pytest.raises(UserError, match="has this tokenizer already; leave it out"):
        run(material, tmp_path / "same", new_vocabulary=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 3}, "depth is set to 3, but the input model has 1; leave depth out"),
        ({"architecture": "llama"}, "architecture is set to llama, but the input model has qwen3"),
        ({"tie_embeddings": False}, "tie_embeddings is set to False, but the input model has True"),
        ({"parameters": 10_000}, "brings its size with it; leave parameters out"),
        (
            {"context": 512, "rope_scaling": {"rope_type": "yarn", "factor": 2.0}},
            "stretches the input model.s 128 positions to 256, but context is 512",
        ),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "to 256, but context is 128 .the model.s is 128."),
    ],
)
def test_another_shape_than_the_models_is_refused(
    material: dict[str, Path], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run(material, tmp_path, **changes)


def test_a_model_with_nan_in_its_weights_is_refused(material: dict[str, Path], tmp_path: Path) -> None:
    spoilt = shutil.copytree(material["model"], tmp_path / "spoilt")
    state = load_file(spoilt / "model.safetensors")
    state["model.norm.weight"][0] = float("inf")
    save_file(state, spoilt / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"spoilt: 1 of 64 weights in model\.norm\.weight are NaN or infinite"):
        run({**material, "model": spoilt}, tmp_path / "run")


def test_a_model_with_fewer_embeddings_than_its_tokenizer_has_tokens_is_refused(
    material: dict[str, Path], tmp_path: Path
) -> None:
    cut = shutil.copytree(material["model"], tmp_path / "cut")
    state = load_file(cut / "model.safetensors")
    state["model.embed_tokens.weight"] = state["model.embed_tokens.weight"][:500].clone()
    save_file(state, cut / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((cut / "config.json").read_text())
    (cut / "config.json").write_text(json.dumps({**config, "vocab_size": 500}))
    with pytest.raises(UserError, match="its tokenizer has 512 tokens, but its embeddings only 500"):
        run({**material, "model": cut}, tmp_path / "run")


@pytest.mark.parametrize(
    "changes",
    [{"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, {"new_vocabulary": True}],
    ids=lambda changes: next(iter(changes)),
)
def test_without_a_model_there_is_nothing_to_change(
    material: dict[str, Path], tmp_path: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match=f"{next(iter(changes))} changes an input model, and this step has none"):
        pretrain.STAGE.run(PretrainConfig(**ON, **changes), found_inputs(material), tmp_path, runtime(tmp_path))


def test_one_of_two_twins_becomes_the_other_by_its_objective() -> None:
    llama = ModelConfig(**{**SHAPE, "model_type": "llama"})
    assert continued_shape(llama, PretrainConfig(objective="masked", context=64)).model_type == "eurobert"
    bert = ModelConfig(**{**SHAPE, "model_type": "eurobert"})
    assert continued_shape(bert, PretrainConfig(objective="mixed", context=64)).model_type == "llama"
    with pytest.raises(UserError, match="objective next_token trains no eurobert, which sees what follows"):
        continued_shape(bert, PretrainConfig(context=64))
    with pytest.raises(UserError, match="objective mixed trains llama or eurobert; the input model is qwen3"):
        continued_shape(ModelConfig(**SHAPE), PretrainConfig(objective="mixed", context=64))


def test_the_recipe_goes_from_a_directory_to_a_card(
    material: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-texts").mkdir()
    for number, text in enumerate(pq.read_table(material["documents"])["text"].to_pylist()):
        (tmp_path / "my-texts" / f"{number}.txt").write_text(text)
    shutil.copytree(material["model"], tmp_path / "my-model")
    (tmp_path / "my-model" / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    settings = ["context=128", "train_tokens=6000", "batch_tokens=1024", "evaluations=0"]
    overrides = [f"pretrain.{each}" for each in settings] + ["curate.steps=[{exact: {}}]"]
    recipe = load_recipe(RECIPES / "continue.yaml", STAGES, overrides)
    steps = list(recipe.steps.values())
    store = Store(tmp_path / "store")
    made = run_steps(recipe, store, Runtime(device="cpu", workers=1, cache=tmp_path / "cache"), steps)
    imported = json.loads((made["import"].path / "manifest.json").read_text())
    assert imported["summary"]["licence"] == "cc-by-4.0"
    assert {source["name"] for source in imported["sources"]} >= {"my-model/config.json", "my-model/model.safetensors"}
    card = (made["export"].path / "README.md").read_text()
    assert "trained-from-scratch" not in card
    assert "| my-model | a model made elsewhere, trained on text that is not recorded here | cc-by-4.0 |" in card
    assert "Licence of this model: not chosen" in card, "the texts of the folder have no licence"
    assert load_model(made["export"].path).config == load_model(material["model"]).config
