"""Products in float8, emulated where the processor has none: the same parameters, nearly the same steps, and the
network as it was afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lmcraft.model import ModelConfig, Transformer
from lmcraft.recipe.stage import Runtime, UserError
from lmcraft.training.config import TrainingConfig
from lmcraft.training.float8 import check_float8, from_float8, to_float8
from lmcraft.training.optimizers import make_optimizers

SHAPE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
}


def trained(float8: bool, shape: dict[str, Any]) -> tuple[Transformer, list[float]]:
    model = Transformer(ModelConfig(**shape))
    model.initialise(0)
    optimizers = make_optimizers(model, TrainingConfig(), torch.bfloat16)
    names = list(model.state_dict())
    linears = to_float8(model, emulate=True) if float8 else []
    assert list(model.state_dict()) == names
    tokens = torch.randint(64, (8, 32), generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(30):
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(tokens[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    from_float8(linears)
    return model, losses


@pytest.mark.parametrize("experts", [None, 16])
def test_float8_learns_as_bfloat16_does_and_leaves_a_plain_network(experts: int | None) -> None:
    pytest.importorskip("torchao")
    sparse = {"model_type": "qwen3_moe", "num_experts": experts, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    shape = SHAPE | (sparse if experts else {})
    (plain, sixteen), (network, eight) = trained(False, shape), trained(True, shape)
    assert sixteen[-1] < 0.5 * sixteen[0], "it must learn something for this to mean anything"
    assert eight != sixteen, "nothing was rounded"
    assert eight[10] == pytest.approx(sixteen[10], rel=0.1)
    assert eight[-1] < 0.1 * eight[0]
    assert [type(module) for module in network.modules()] == [type(module) for module in plain.modules()]
    assert list(network.state_dict()) == list(plain.state_dict())
    with torch.no_grad():
        tokens = torch.arange(24)[None]
        difference = (network(tokens) - plain(tokens)).abs().max()
    assert 0 < difference < plain(tokens).abs().max()


def test_mixtures_and_odd_sizes_stay_as_they_are() -> None:
    pytest.importorskip("torchao")
    sparse = {"model_type": "qwen3_moe", "num_experts": 16, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    model = Transformer(ModelConfig(**SHAPE | {"head_dim": 20} | sparse))
    kept = {name for _, name, _ in to_float8(model, emulate=True)}
    assert kept == set()
    model = Transformer(ModelConfig(**SHAPE | sparse))
    kept = {name for _, name, _ in to_float8(model, emulate=True)}
    assert kept == {"q_proj", "k_proj", "v_proj", "o_proj"}
    changed = {name for name, module in model.named_modules() if type(module).__name__ == "Float8Linear"}
    assert changed == {f"model.layers.{i}.self_attn.{name}" for i in range(2) for name in kept}


def test_a_device_without_float8_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"needs an NVIDIA GPU of compute capability 8\.9 .*, not cpu: set precision: auto"
    ):
        check_float8(torch.device("cpu"), Runtime())
