"""Planted heads do what they are planted for, before any training, and are made from the seed alone."""

from __future__ import annotations

import pytest
import torch

from lmcraft.model import ModelConfig, Transformer
from lmcraft.model.planted import OFFSETS, can_plant, plant_heads
from lmcraft.model.rotary import rotary, rotate
from lmcraft.training.config import PretrainConfig
from lmcraft.training.optimizers import make_optimizers, set_schedule

SHAPES = {
    "one_key_head": {"num_key_value_heads": 1},
    "three_key_heads": {"num_key_value_heads": 3},
    "grouped": {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 32},
    "experts": {
        "model_type": "qwen3_moe",
        "num_key_value_heads": 1,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 64,
    },
}


def config(**changes: object) -> ModelConfig:
    values: dict[str, object] = {
        "vocab_size": 512,
        "hidden_size": 192,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 64,
        "max_position_embeddings": 256,
        "tie_word_embeddings": False,
    }
    return ModelConfig(**(values | changes))  # type: ignore[arg-type]


def planted(seed: int = 0, **changes: object) -> Transformer:
    network = Transformer(config(**changes))
    network.initialise(seed)
    plant_heads(network, seed)
    return network


@torch.no_grad()
def attention_of(network: Transformer, tokens_BT: torch.Tensor, layer: int) -> torch.Tensor:
    """How much each head of a layer attends to each position, [B, H, T, T], from the weights and the definition."""
    shape = network.config
    T = tokens_BT.shape[1]
    cos, sin = rotary(torch.arange(T)[None], shape.head_dim, shape.rope_theta, None)
    x = network.model.embed_tokens(tokens_BT)
    for number in range(layer):
        x = network.model.layers[number](x, cos, sin, None, None, None)
    block = network.model.layers[layer]
    x, attention = block.input_layernorm(x), block.self_attn
    q = attention.q_norm(attention.q_proj(x).unflatten(-1, (shape.num_attention_heads, -1))).transpose(1, 2)
    k = attention.k_norm(attention.k_proj(x).unflatten(-1, (shape.num_key_value_heads, -1))).transpose(1, 2)
    q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    k = k.repeat_interleave(shape.num_attention_heads // shape.num_key_value_heads, 1)
    scores = (q @ k.mT) * shape.head_dim**-0.5
    return scores.masked_fill(torch.ones(T, T).triu(1).bool(), float("-inf")).softmax(-1)


@pytest.mark.parametrize("shape", SHAPES)
def test_heads_of_the_first_layer_look_one_and_two_tokens_back(shape: str) -> None:
    network = planted(**SHAPES[shape])
    tokens = torch.randint(0, 512, (2, 128), generator=torch.Generator().manual_seed(1))
    found = attention_of(network, tokens, 0)
    for head, offset in enumerate(OFFSETS):
        assert found[:, head].diagonal(-offset, dim1=1, dim2=2).mean() > 0.6, (head, offset)
    free = found[:, -1]
    assert free[:, -1].max() < 0.5  # the last head's attention is spread, as at any other start


@pytest.mark.parametrize("shape", SHAPES)
def test_the_induction_head_finds_what_followed_the_last_time(shape: str) -> None:
    network = planted(**SHAPES[shape])
    once = torch.randperm(512, generator=torch.Generator().manual_seed(2))[:60]
    found = attention_of(network, torch.cat([once, once])[None], 1)[0, 0]
    followed = torch.arange(60, 119)  # each token of the second half but its last; it stood 60 earlier
    assert found[followed, followed - 59].mean() > 0.3  # by chance .01
    unplanted = Transformer(config(**SHAPES[shape]))
    unplanted.initialise(0)
    assert attention_of(unplanted, torch.cat([once, once])[None], 1)[0, 0][followed, followed - 59].mean() < 0.05


def test_the_induction_head_is_still_there_when_the_rate_has_risen() -> None:
    network, random = planted(), torch.Generator().manual_seed(5)
    optimizers = make_optimizers(network, PretrainConfig(depth=3, tie_embeddings=False))
    successors = torch.randint(0, 512, (512, 4), generator=random)
    for step in range(60):
        tokens = [torch.randint(0, 512, (8,), generator=random)]
        for _ in range(31):
            tokens.append(successors[tokens[-1], torch.randint(0, 4, (8,), generator=random)])
        text_BT = torch.stack([*tokens, *tokens], 1)
        logits = network(text_BT[:, :-1])
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), text_BT[:, 1:].flatten()).backward()
        set_schedule(optimizers, min(1.0, (step + 1) / 20), step)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    once = torch.randperm(512, generator=random)[:60]
    found = attention_of(network, torch.cat([once, once])[None], 1)[0, 0]
    followed = torch.arange(60, 119)
    assert found[followed, followed - 59].mean() > 0.2  # by chance .01


def test_planting_depends_on_the_seed_alone_and_predictions_start_as_without() -> None:
    a, b, c = planted(3), planted(3), planted(4)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.model.layers[0].self_attn.v_proj.weight, c.model.layers[0].self_attn.v_proj.weight)
    with torch.no_grad():
        log_probabilities = a(torch.arange(100)[None]).log_softmax(-1)
    assert (log_probabilities.exp().sum(-1) - 1).abs().max() < 1e-5
    assert log_probabilities.std() < 0.1


def test_only_networks_with_the_parts_have_them() -> None:
    assert can_plant(config())
    for changes in (
        {"model_type": "llama"},
        {"num_hidden_layers": 1},
        {"num_attention_heads": 1},
        {"head_dim": 4},
        {"hidden_size": 64},
        {"tie_word_embeddings": True},
    ):
        assert not can_plant(config(**changes))
