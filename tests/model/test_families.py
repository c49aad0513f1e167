"""Every family is the one that `transformers` has: both ways through a directory, cached, and packed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from families import (
    BASE,
    CONTEXT,
    FAMILIES,
    MIXTURE,
    SCALED,
    YARN,
    difference,
    load_theirs,
    random_model,
    shape,
    tokens,
)

from lmcraft.model import KVCache, ModelConfig, load_model, save_model
from lmcraft.model.rotary import RopeScaling
from lmcraft.recipe.stage import UserError

each_family = pytest.mark.parametrize("changes", FAMILIES.values(), ids=FAMILIES.keys())
one_of_each = pytest.mark.parametrize("family", ["qwen3", "llama", "olmo3", "qwen3_moe"])
TOLERANCE = 1e-4


@each_family
def test_ours_is_the_same_to_transformers(tmp_path: Path, changes: dict[str, Any]) -> None:
    model = random_model(shape(changes))
    save_model(model, tmp_path)
    theirs, row = load_theirs(tmp_path), tokens(3, 2 * CONTEXT)
    with torch.no_grad():
        assert difference(model(row), theirs(row).logits) < TOLERANCE
    assert sum(p.numel() for p in model.parameters()) == model.config.parameters()


@each_family
def test_what_transformers_writes_is_the_same_to_us(tmp_path: Path, changes: dict[str, Any]) -> None:
    save_model(random_model(shape(changes)), tmp_path / "ours")
    theirs, row = load_theirs(tmp_path / "ours"), tokens(2, 2 * CONTEXT)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 1
    again = load_model(tmp_path / "theirs")
    assert ModelConfig.read(tmp_path / "theirs") == shape(changes)
    with torch.no_grad():
        assert difference(again(row), theirs(row).logits) < TOLERANCE


@pytest.mark.parametrize("changes", SCALED.values(), ids=SCALED.keys())
def test_scaled_positions_are_those_of_transformers_beyond_the_first_context(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    model = random_model(shape({**changes, "max_position_embeddings": 4 * CONTEXT}))
    save_model(model, tmp_path / "ours")
    theirs, row = load_theirs(tmp_path / "ours"), tokens(2, 4 * CONTEXT)
    theirs.save_pretrained(tmp_path / "theirs")
    again = load_model(tmp_path / "theirs")
    with torch.no_grad():
        expected = theirs(row).logits
        assert difference(model(row), expected) < TOLERANCE
        assert difference(again(row), expected) < TOLERANCE
        plain = random_model(shape({**changes, "rope_scaling": None}))
        assert difference(plain(row), expected) > 100 * TOLERANCE, "the scaling must be seen by this test"


def test_configs_of_before_rope_parameters_are_read(tmp_path: Path) -> None:
    save_model(random_model(shape({"rope_scaling": YARN})), tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    old = {name: value for name, value in raw.items() if name != "rope_parameters"}
    old |= {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}
    (tmp_path / "config.json").write_text(json.dumps(old))
    config = ModelConfig.read(tmp_path)
    assert (config.rope_theta, config.rope_scaling) == (5e5, RopeScaling(rope_type="linear", factor=2.0))


@each_family
@pytest.mark.parametrize("prompt", [1, 5, 20])
def test_decoding_token_by_token_gives_the_logits_of_the_whole(changes: dict[str, Any], prompt: int) -> None:
    """Two rows at different places, far beyond the window."""
    model = random_model(shape(changes))
    row, behind = tokens(2, CONTEXT), torch.tensor([[0], [3]])
    with torch.inference_mode():
        whole = model(row)
        cache = KVCache(model.config, 2, CONTEXT, "cpu", torch.float32)
        for table in (cache.keys, cache.values):
            table.fill_(9.0)  # what an earlier row left behind
        start = torch.arange(prompt + 3).expand(2, -1)
        logits = model(row[:, : prompt + 3], start, cache=cache.rows(0, 2, prefill=True))
        torch.testing.assert_close(logits, whole[:, : prompt + 3], rtol=1e-4, atol=1e-4)
        for place in range(prompt, CONTEXT - 3):
            places = place + behind
            logits = model(row.gather(1, places), places, cache=cache.rows(0, 2))
            expected = whole[torch.arange(2), places[:, 0]]
            torch.testing.assert_close(logits[:, 0], expected, rtol=1e-4, atol=1e-4)
        one = cache.rows(1, 2, reach=CONTEXT)
        last = model(row[1:, -1:], torch.tensor([[CONTEXT - 1]]), cache=one)
        torch.testing.assert_close(last[0, 0], whole[1, -1], rtol=1e-4, atol=1e-4)


@one_of_each
def test_packed_documents_give_the_logits_and_gradients_of_each_alone(family: str) -> None:
    lengths = (5, 17, 9)
    documents = [tokens(1, n, seed=n)[0] for n in lengths]
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    numbers = torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)])[None]
    packed, alone = random_model(shape(FAMILIES[family])), random_model(shape(FAMILIES[family]))
    logits = packed(torch.cat(documents)[None], positions, numbers)[0]
    expected = torch.cat([alone(document[None])[0] for document in documents])
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    for each in (logits, expected):
        each.log_softmax(-1).square().mean().backward()
    for (name, ours), theirs in zip(packed.named_parameters(), alone.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None, name
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4 * float(theirs.grad.abs().max()) + 1e-9)


def test_a_window_ends_where_it_says() -> None:
    model = random_model(shape({**FAMILIES["olmo3"], "num_hidden_layers": 1, "layer_types": ("sliding_attention",)}))
    row = tokens(1, 20)
    changed = row.clone()
    changed[0, 4] = (row[0, 4] + 1) % 97
    with torch.no_grad():
        differs = (model(row) != model(changed)).any(-1)[0]
    assert differs.nonzero()[:, 0].tolist() == list(range(4, 4 + 7))


def test_dropless_experts_compute_every_choice_wherever_all_go() -> None:
    """All tokens to the same experts: a layer with a capacity would drop most of them."""
    model = random_model(shape(FAMILIES["qwen3_moe"]))
    mixture: Any = model.model.layers[0].mlp
    x = torch.randn(2, 50, BASE["hidden_size"], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mixture.gate.weight.zero_()
        out = mixture(x)  # equal probabilities: the first two experts, a half each
        chosen = (mixture.gate(x).softmax(-1)).topk(2).indices.unique().tolist()
        expected = sum(mixture.experts[e](x) for e in chosen) / 2
    assert len(chosen) == 2
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


def test_routing_is_recorded_only_where_asked_for() -> None:
    model = random_model(shape(FAMILIES["qwen3_moe with dense layers"]))
    with model.routing() as routing:
        model(tokens(2, 9))
    model(tokens(2, 9))
    assert [tuple(logits.shape) for logits in routing] == [(2, 9, MIXTURE["num_experts"])]
    assert routing[0].requires_grad


def test_figures_count_what_a_token_meets() -> None:
    dense, mixture = shape(FAMILIES["qwen3"]), shape(FAMILIES["qwen3_moe"])
    router, expert = 32 * 6, 3 * 32 * 24
    assert mixture.parameters() - mixture.parameters(active=True) == 4 * 4 * expert
    assert dense.parameters(active=True) == dense.parameters()
    # two experts of half the width: the work of the dense network and the router's
    assert mixture.flops_per_token(16) - dense.flops_per_token(16) == 6 * 4 * router
    windowed = shape(FAMILIES["olmo3"])
    assert windowed.flops_per_token(7) == dense.flops_per_token(7)
    seen = [min(i + 0.5, 7) for i in range(32)]  # of its own score half, as in 12 L H A T / 2
    exact = 12 * 32 * (3 * sum(seen) / 32 + 16)
    assert windowed.flops_per_token(32) - windowed.flops_per_token(0) == pytest.approx(exact)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2'; lmcraft loads the families .*olmo3, qwen3, qwen3_moe"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "'dynamic'.* lmcraft knows linear, yarn and"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "mscale": 1.0}}, "'yarn': mscale"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is not supported"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is not supported"),
        ({"hidden_size": None}, "no usable value"),
        ({"model_type": "qwen3_moe"}, "qwen3_moe needs num_experts"),
        ({"model_type": "olmo3", "layer_types": ["full_attention"]}, "layer_types with one entry a layer"),
    ],
)
def test_configs_of_other_networks_are_refused_with_a_sentence(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    save_model(random_model(shape({})), tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(UserError, match=message):
        load_model(tmp_path)
