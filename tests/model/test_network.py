"""The network: equal to transformers' on the same weights, and packed documents cannot see each other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lmcraft.model import ModelConfig, Transformer, load_model, save_model
from lmcraft.recipe.stage import UserError


def config(**changes: object) -> ModelConfig:
    base = {
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 64,
    }
    return ModelConfig(**{**base, **changes})


def random_model(shape: ModelConfig, seed: int = 0) -> Transformer:
    model = Transformer(shape)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.3 if parameter.ndim > 1 else 1.0
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale + (parameter.ndim == 1))
    return model.eval()


@pytest.mark.parametrize("changes", [{}, {"model_type": "llama"}, {"tie_word_embeddings": False}, {"rope_theta": 5e5}])
def test_saved_directories_load_in_transformers_with_equal_logits(tmp_path: Path, changes: dict[str, object]) -> None:
    from transformers import AutoModelForCausalLM

    model = random_model(config(**changes))
    save_model(model, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True, dtype=torch.float32).eval()
    tokens = torch.randint(0, 97, (3, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, expected = model(tokens), theirs(tokens).logits
    assert (ours - expected).abs().max() / expected.abs().max() < 1e-5
    assert sum(p.numel() for p in model.parameters()) == model.config.parameters()


def test_loading_gives_back_the_same_weights(tmp_path: Path) -> None:
    model = random_model(config())
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert again.lm_head.weight is again.model.embed_tokens.weight


def test_packed_documents_give_the_logits_of_each_alone() -> None:
    model = random_model(config())
    generator = torch.Generator().manual_seed(2)
    documents = [torch.randint(0, 97, (n,), generator=generator) for n in (5, 17, 9)]
    tokens = torch.cat(documents)[None]
    positions = torch.cat([torch.arange(len(d)) for d in documents])[None]
    numbers = torch.cat([torch.full((len(d),), i) for i, d in enumerate(documents)])[None]
    with torch.no_grad():
        packed = model(tokens, positions, numbers)[0].split([5, 17, 9])
        for document, logits in zip(documents, packed, strict=True):
            assert torch.allclose(model(document[None])[0], logits, atol=1e-5)
        changed = tokens.clone()
        changed[0, :5] = (changed[0, :5] + 1) % 97
        after = model(changed, positions, numbers)[0]
    assert torch.equal(after[5:], torch.cat(packed)[5:]), "changing document 1 must leave the others untouched"


def test_the_future_is_not_seen() -> None:
    model = random_model(config())
    tokens = torch.randint(0, 97, (1, 20), generator=torch.Generator().manual_seed(3))
    changed = tokens.clone()
    changed[0, 12:] = (changed[0, 12:] + 1) % 97
    with torch.no_grad():
        assert torch.equal(model(tokens)[0, :12], model(changed)[0, :12])


def test_initial_weights_depend_on_the_seed_alone_and_layers_start_as_identity() -> None:
    a, b, c = Transformer(config()), Transformer(config()), Transformer(config())
    a.initialise(5)
    torch.rand(7)
    b.initialise(5)
    c.initialise(6)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.model.embed_tokens.weight, c.model.embed_tokens.weight)
    tokens = torch.arange(10)[None]
    with torch.no_grad():
        assert torch.allclose(a.hidden(tokens), a.model.norm(a.model.embed_tokens(tokens)))


def test_foreign_and_damaged_directories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        load_model(tmp_path)
    save_model(random_model(config()), tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        load_model(tmp_path)
    weights.write_bytes(whole)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"num_hidden_layers": 3', '"num_hidden_layers": 4'))
    with pytest.raises(UserError, match="of another architecture"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(text.replace('"model_type": "qwen3"', '"model_type": "gpt2"'))
    with pytest.raises(UserError, match="model_type"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(text.replace('"attention_bias": false', '"attention_bias": true'))
    with pytest.raises(UserError, match="attention_bias is not supported"):
        load_model(tmp_path)
