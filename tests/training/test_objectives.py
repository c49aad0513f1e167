"""Every objective: packed documents give the loss and gradients of each alone, and no label is off by one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lmcraft.model import ModelConfig, Transformer
from lmcraft.training import loop
from lmcraft.training.loader import Loader
from lmcraft.training.loop import Machine
from lmcraft.training.loss import IGNORE
from lmcraft.training.masking import Masking
from lmcraft.training.objectives import Batch, next_token

MASK = 60
MASKINGS = {
    "next_token": None,
    "masked": Masking(MASK, (0, MASK), 0.3, False, 1.0, 0),
    "spans": Masking(MASK, (0, MASK), 0.4, True, 1.0, 0),
    "mixed": Masking(MASK, (0, MASK), 0.3, False, 0.5, 0),
}


class Texts:
    lengths = np.random.default_rng(0).integers(4, 30, 60).astype(np.int64)

    def tokens_of(self, number: int) -> Any:
        tokens = np.random.default_rng(number).integers(1, MASK, self.lengths[number])
        tokens[[0, -1]] = 0
        return tokens

    def trained_on(self, number: int) -> None:
        return None


def network(name: str) -> Transformer:
    """Random everywhere: in a fresh network the layers are the identity."""
    shape = ModelConfig(
        model_type={"next_token": "qwen3", "mixed": "llama"}.get(name, "eurobert"),
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
    )
    model = Transformer(shape)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2, generator=generator)
    return model.double()


def alone(batch: Batch) -> list[Batch]:
    """Each document of the rows as a batch of its own."""
    parts = []
    for row in range(len(batch.tokens)):
        for number in batch.documents[row].unique().tolist():
            of = batch.documents[row] == number
            if number >= 0:
                seen = None if batch.bidirectional is None else batch.bidirectional[row : row + 1]
                parts.append(
                    Batch(
                        batch.tokens[row, of][None],
                        batch.labels[row, of][None],
                        torch.arange(int(of.sum()))[None],
                        torch.zeros(1, int(of.sum()), dtype=torch.int64),
                        seen,
                    )
                )
    return parts


def loss_and_gradients(model: Transformer, batches: list[Batch], objective: Any) -> tuple[Tensor, int, list[Tensor]]:
    model.zero_grad(set_to_none=True)
    total, weight = torch.zeros((), dtype=torch.float64), 0
    for batch in batches:
        loss, predicted = objective(model, batch, torch.float64)
        loss.backward()
        total, weight = total + loss.detach(), weight + predicted
    return total, weight, [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("name", MASKINGS)
def test_packed_documents_have_the_loss_and_gradients_of_each_alone(name: str) -> None:
    batch = Loader(Texts(), 48, 6, seed=0, masking=MASKINGS[name]).batch(0)
    assert (batch.documents.amax(1) > 0).all(), "several documents a row, or nothing is tested"
    assert (batch.documents < 0).any(), "and some padding"
    model, objective = network(name), next_token(0.01)
    packed = loss_and_gradients(model, [batch], objective)
    unpacked = loss_and_gradients(model, alone(batch), objective)
    assert packed[1] == unpacked[1] > 0
    assert torch.allclose(packed[0], unpacked[0], rtol=1e-12)
    assert len(packed[2]) == len(unpacked[2]) == len(list(model.parameters()))
    for a, b in zip(packed[2], unpacked[2], strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", MASKINGS)
def test_cut_rows_lose_no_label_and_see_nothing_across_a_cut(name: str) -> None:
    batch = Loader(Texts(), 48, 6, seed=0, masking=MASKINGS[name]).batch(0)
    batch = replace(batch, other_labels=torch.stack((batch.tokens, -batch.tokens), dim=-1))
    cut = batch.cut(24)
    assert cut.tokens.shape == (12, 24)
    assert torch.equal(cut.rows(2, 5).other_labels, torch.stack((cut.tokens, -cut.tokens), dim=-1)[2:5])
    assert torch.equal(cut.tokens.flatten(), batch.tokens.flatten())
    assert torch.equal(cut.labels.flatten(), batch.labels.flatten())
    assert (batch.documents[:, 23] == batch.documents[:, 24]).any(), "some document is cut, or nothing is tested"
    model, objective = network(name), next_token(0.01)
    packed = loss_and_gradients(model, [cut], objective)
    unpacked = loss_and_gradients(model, alone(cut), objective)  # where a piece's positions begin at 0
    whole = loss_and_gradients(model, [batch], objective)
    assert packed[1] == unpacked[1] == whole[1]
    assert not torch.allclose(packed[0], whole[0], rtol=1e-6)
    assert torch.allclose(packed[0], unpacked[0], rtol=1e-12)
    for a, b in zip(packed[2], unpacked[2], strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", MASKINGS)
def test_any_split_into_micro_batches_gives_the_same_gradient(name: str) -> None:
    batch = Loader(Texts(), 48, 6, seed=0, masking=MASKINGS[name]).batch(1)
    found = []
    for micro_rows in (1, 2, 6):
        model = network(name)
        loss, weight = loop._accumulate(
            model, batch, next_token(), micro_rows, Machine(torch.device("cpu"), torch.float64, False, 1e-6)
        )
        assert weight == batch.predicted
        found.append([torch.tensor(loss), *(p.grad for p in model.parameters() if p.grad is not None)])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


class Oracle(nn.Module):
    """Gives position i the answer that `answers` has there, with certainty."""

    def __init__(self, answers: Tensor):
        super().__init__()
        self.answers, self.lm_head = answers, nn.Linear(61, 61, bias=False)
        self.lm_head.weight.data = torch.eye(61)

    def hidden(self, *arguments: Any, **more: Any) -> Tensor:
        return 100.0 * nn.functional.one_hot(self.answers, 61).float()


@pytest.mark.parametrize("name", MASKINGS)
def test_who_knows_the_answers_loses_nothing_and_one_place_off_all(name: str) -> None:
    plain = Loader(Texts(), 48, 6, seed=0).batch(2)
    batch = Loader(Texts(), 48, 6, seed=0, masking=MASKINGS[name]).batch(2)
    following = plain.tokens.roll(-1, dims=1)
    own = plain.tokens if batch.bidirectional is None else plain.tokens.clone()
    masked = torch.zeros(6, dtype=torch.bool) if batch.bidirectional is None else batch.bidirectional
    right = torch.where(masked[:, None], own, following)
    loss, weight = next_token()(Oracle(right), batch, torch.float32)  # type: ignore[arg-type]
    assert weight > 50
    assert loss < 1e-6
    shifted = torch.where(masked[:, None], following, own)
    assert next_token()(Oracle(shifted), batch, torch.float32)[0] > 80 * weight  # type: ignore[arg-type]


def test_a_masked_batch_made_by_hand() -> None:
    """One position hidden: the loss is -log of what the network gives that token at that place, seeing both sides."""
    model = network("masked")
    tokens = torch.tensor([[0, 11, 12, MASK, 14, 15, 0]])
    labels = torch.full((1, 7), IGNORE)
    labels[0, 3] = 13
    positions, documents = torch.arange(7)[None], torch.zeros(1, 7, dtype=torch.int64)
    batch = Batch(tokens, labels, positions, documents, torch.ones(1, dtype=torch.bool))
    loss, weight = next_token()(model, batch, torch.float64)
    assert weight == 1
    assert torch.allclose(loss, -model(tokens)[0, 3].log_softmax(-1)[13], rtol=1e-12)
    changed = tokens.clone()
    changed[0, 5] = 20
    assert not torch.allclose(model(changed)[0, 3], model(tokens)[0, 3]), "what follows is seen"


def test_a_row_with_nothing_to_hide_weighs_nothing() -> None:
    tokens = torch.zeros(2, 5, dtype=torch.int64)
    batch = Batch(tokens, tokens, torch.arange(5).expand(2, 5), tokens)
    masked = MASKINGS["masked"](batch, 0)
    loss, weight = next_token()(network("masked"), masked, torch.float64)
    assert (float(loss.detach()), weight) == (0.0, 0)
