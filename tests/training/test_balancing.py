"""Load balancing is that of transformers, splits into micro-batches, and balances."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lmcraft.model import ModelConfig, Transformer
from lmcraft.training.balancing import balanced, load_balance
from lmcraft.training.loss import IGNORE
from lmcraft.training.objectives import Batch, next_token

SHAPE = ModelConfig(
    model_type="qwen3_moe",
    vocab_size=31,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
    max_position_embeddings=32,
    num_experts=5,
    num_experts_per_tok=2,
    moe_intermediate_size=16,
    norm_topk_prob=True,
)


def batch(rows: int = 4, length: int = 16) -> Batch:
    """The last quarter of each row is padding."""
    tokens = torch.randint(0, 31, (rows, length), generator=torch.Generator().manual_seed(1))
    labels, documents = tokens.roll(-1, 1), torch.zeros_like(tokens)
    labels[:, length * 3 // 4 - 1 :], documents[:, length * 3 // 4 :] = IGNORE, -1
    return Batch(tokens, labels, torch.arange(length).expand(rows, -1).contiguous(), documents)


def model() -> Transformer:
    network = Transformer(SHAPE)
    network.initialise(0)
    return network


def test_the_balance_of_a_row_is_that_of_transformers() -> None:
    from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

    logits = torch.randn(3, 10, 5, generator=torch.Generator().manual_seed(0))
    real = torch.arange(10).expand(3, -1) < torch.tensor([[10], [7], [1]])
    ours = load_balance(logits, 2, real)
    for row in range(3):
        theirs: Any = load_balancing_loss_func((logits[row],), 5, 2, real[row : row + 1].long())
        torch.testing.assert_close(ours[row], theirs)
    assert load_balance(torch.zeros(1, 4, 5), 5, torch.ones(1, 4, dtype=torch.bool)).item() == pytest.approx(5)


@pytest.mark.parametrize("micro", [1, 2])
def test_the_gradient_does_not_depend_on_micro_batches(micro: int) -> None:
    whole, parts, data = model(), model(), batch()
    objective = balanced(next_token(), 0.5)
    objective(whole, data, torch.float32)[0].backward()
    for start in range(0, 4, micro):
        objective(parts, data.rows(start, start + micro), torch.float32)[0].backward()
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None, "every expert has a gradient, if only of zero"
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)
    gates = [p.grad for name, p in whole.named_parameters() if name.endswith("mlp.gate.weight")]
    assert all(grad is not None and grad.abs().max() > 0 for grad in gates)


def test_without_a_weight_it_is_the_objective_itself() -> None:
    network, data = model(), batch()
    plain, predicted = next_token()(network, data, torch.float32)
    assert balanced(next_token(), 0.0)(network, data, torch.float32) == (plain, predicted)


def test_a_router_that_sends_all_to_two_experts_is_cured() -> None:
    network, data = model(), batch()
    gates = [p for name, p in network.named_parameters() if name.endswith("mlp.gate.weight")]
    with torch.no_grad():
        for gate in gates:
            gate[:2] = 0.5 * network.model.norm(network.model.embed_tokens(data.tokens)).mean((0, 1)).sign()
    optimizer = torch.optim.Adam(gates, lr=0.05)
    values = []
    for _ in range(40):
        with network.routing() as routing:
            network(data.tokens)
        values.append(float(load_balance(routing[0], 2, data.documents >= 0).detach().mean()))
        optimizer.zero_grad()
        balanced(next_token(), 1.0)(network, data, torch.float32)[0].backward()
        optimizer.step()
    assert values[-1] - 2 < (values[0] - 2) / 3


def test_an_imported_mixture_may_have_no_mixture_in_it() -> None:
    dense = SHAPE.model_copy(update={"decoder_sparse_step": 3})
    assert SHAPE.has_experts and not dense.has_experts
    network = Transformer(dense)
    network.initialise(0)
    loss, predicted = next_token()(network, batch(), torch.float32)
    assert predicted and torch.isfinite(loss)
