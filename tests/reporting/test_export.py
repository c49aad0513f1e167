"""What is exported is what was trained, to transformers too; anything else is refused with the first difference."""

import builtins
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from lmcraft.recipe.stage import Runtime, UserError
from lmcraft.reporting import check, export
from lmcraft.reporting.check import CHATS, GREEDY_TOKENS, TEXTS, TOLERANCE, ExportDiffers, check_export
from lmcraft.reporting.export import STAGE, ExportConfig, write_directory

RUNTIME = Runtime()


def rewrite_json(path, change):
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def rewrite_weights(path, change):
    state = load_file(path / "model.safetensors")
    change(state)
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture
def shorter(monkeypatch):
    """Fewer greedy tokens, where they are not the point."""
    monkeypatch.setattr(check, "GREEDY_TOKENS", 5)


@pytest.fixture
def exported(artifacts, tmp_path):
    out = tmp_path / "exported"
    write_directory(artifacts["sft"], out, None)
    return out


@pytest.fixture(scope="module")
def whole(artifacts, tmp_path_factory):
    out = tmp_path_factory.mktemp("export")
    inputs = {"model": artifacts["sft"], "evaluation": artifacts["evaluate"], "documents": artifacts["curate"]}
    summary = STAGE.run(ExportConfig(name="small"), inputs, out, RUNTIME)
    return out, inputs, summary


def test_a_sound_export_agrees_in_every_respect(whole):
    out, _, summary = whole
    found = json.loads((out / "export.json").read_text(encoding="utf-8"))
    assert found["max_relative_logit_difference"] <= TOLERANCE / 10
    assert found["prompts"] == len(TEXTS) + len(CHATS)
    assert found["greedy_tokens_equal"] + found["greedy_ties"] == found["greedy_tokens"] == 50 * found["prompts"]
    assert found["greedy_ties"] == 0
    assert summary["name"] == "small"
    assert {path.name for path in out.iterdir()} == {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "export.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_the_same_inputs_give_the_same_bytes(whole, tmp_path):
    out, inputs, _ = whole
    STAGE.run(ExportConfig(name="small"), inputs, tmp_path, RUNTIME)
    for path in out.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_the_energy_of_the_training_lies_beside_the_card(whole, tmp_path):
    _, inputs, _ = whole
    model, out = shutil.copytree(inputs["model"], tmp_path / "model"), tmp_path / "out"
    manifest = {"key": "1" * 64, "step": "base", "stage": "pretrain", "kind": "model"}
    energy = {"kwh": 0.25, "measured": True, "how": "processors measured by RAPL", "gco2e": 12.5}
    (model / "manifest.json").write_text(json.dumps(manifest | {"summary": {"energy": energy}}), encoding="utf-8")
    STAGE.run(ExportConfig(name="small"), {**inputs, "model": model}, out, RUNTIME)
    found = json.loads((out / "energy.json").read_text(encoding="utf-8"))
    assert found == {"kwh": 0.25, "gco2e": 12.5, "steps": [{"step": "base", "stage": "pretrain", **energy}]}
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "`energy.json` beside this card" in card and "0.25" not in card, "a card that is the same again"
    assert "energy.json" in STAGE.volatile


MIXTURE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "norm_topk_prob": True}


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "llama"},
        {"tie_word_embeddings": False},
        {"model_type": "olmo3", "sliding_window": 8, "num_hidden_layers": 4},
        {"model_type": "qwen3_moe", **MIXTURE},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}},
    ],
    ids=["llama", "untied", "olmo3", "qwen3_moe", "yarn"],
)
def test_other_architectures_agree_too(save_random, shorter, tmp_path, changes):
    save_random(tmp_path / "model", **changes)
    STAGE.run(ExportConfig(), {"model": tmp_path / "model"}, tmp_path / "out", RUNTIME)


def test_weights_can_be_stored_in_bfloat16(artifacts, shorter, tmp_path):
    STAGE.run(ExportConfig(dtype="bfloat16"), {"model": artifacts["sft"]}, tmp_path, RUNTIME)
    assert {w.dtype for w in load_file(tmp_path / "model.safetensors").values()} == {torch.bfloat16}


def swap_theta(path):
    def change(config):
        config["rope_theta"] = config["rope_parameters"]["rope_theta"] = 500.0

    rewrite_json(path / "config.json", change)


def permute_a_weight(path):
    name = "model.layers.1.self_attn.q_proj.weight"
    rewrite_weights(path, lambda state: state.update({name: state[name].flip(0).contiguous()}))


def lose_a_norm(path):
    rewrite_weights(path, lambda state: state.update({"model.norm.weight": state["model.norm.weight"] * 1.001}))


def swap_two_tokens(path):
    def change(tokenizer):
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary["e"], vocabulary["t"] = vocabulary["t"], vocabulary["e"]

    rewrite_json(path / "tokenizer.json", change)


def lose_the_newline_of_the_template(path):
    file = path / "chat_template.jinja"
    file.write_text(file.read_text(encoding="utf-8").replace('assistant\\n"', 'assistant"'), encoding="utf-8")


def lose_the_loss_mask(path):
    file = path / "chat_template.jinja"
    text = file.read_text(encoding="utf-8")
    text = text.replace("{%- generation -%}", "").replace("{%- endgeneration -%}", "")
    file.write_text(text, encoding="utf-8")


def lose_the_weights(path):
    (path / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (swap_theta, "logits differ by .* most at position"),
        (permute_a_weight, "logits differ"),
        (lose_a_norm, "logits differ by 0.00"),
        (swap_two_tokens, "token ids of"),
        (lose_the_newline_of_the_template, "rendering of chat 1 with the assistant's header differ"),
        (lose_the_loss_mask, "mask of what the assistant says"),
        (lose_the_weights, "transformers does not load"),
    ],
)
def test_a_damaged_export_is_refused_with_the_first_difference(artifacts, exported, shorter, damage, message):
    damage(exported)
    with pytest.raises(ExportDiffers, match=message):
        check_export(exported, artifacts["sft"])


def test_greedy_tokens_are_compared_where_logits_agree(artifacts, exported, monkeypatch):
    """A network whose first choice is another token is caught by the greedy comparison alone."""
    monkeypatch.setattr(check, "_compare_logits", lambda *_: 0.0)
    swap_theta(exported)
    with pytest.raises(ExportDiffers, match=f"greedy token .* of {GREEDY_TOKENS} after prompt"):
        check_export(exported, artifacts["sft"])


def test_without_transformers_the_extra_is_named(artifacts, exported, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "transformers":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r'pip install "lmcraft\[export\]"'):
        check_export(exported, artifacts["sft"])
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "lmcraft\[export\]"'):
        STAGE.check(ExportConfig(), RUNTIME)


def test_a_folder_without_a_model_is_named(artifacts, tmp_path):
    with pytest.raises(UserError, match=r"tokenizer|config\.json"):
        STAGE.run(ExportConfig(), {"model": artifacts["evaluate"]}, tmp_path / "out", RUNTIME)
    bare = shutil.copytree(artifacts["sft"], tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    with pytest.raises(UserError, match="safetensors"):
        STAGE.run(ExportConfig(), {"model": bare}, tmp_path / "out2", RUNTIME)
