"""Tokens further ahead are predicted within their document, help from outside the model, and leave no trace in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from test_masked_pretrain import KillAt
from test_objectives import Texts, alone, loss_and_gradients, network
from test_pretrain import SMALL, material, run_pretrain, runtime  # noqa: F401 - a fixture

from lmcraft.model import load_model
from lmcraft.training import loop, pretrain
from lmcraft.training.ahead import Ahead, labels_ahead, next_tokens
from lmcraft.training.config import PretrainConfig
from lmcraft.training.loader import Loader
from lmcraft.training.loop import Machine
from lmcraft.training.loss import IGNORE
from lmcraft.training.objectives import next_token


def with_ahead(count: int) -> Any:
    model = network("next_token")
    ahead = Ahead(model.config, count)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in ahead.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2, generator=generator)
    model.add_module("ahead", ahead.double())
    return model


def test_the_labels_end_with_the_document() -> None:
    batch = Loader(Texts(), 48, 4, seed=0).batch(0)
    for distance in (1, 2, 47, 48, 60):
        labels = labels_ahead(batch, distance)
        for row in range(4):
            for at in range(48):
                there = at + distance + 1
                same = there < 48 and batch.documents[row, at] == batch.documents[row, there] >= 0
                assert labels[row, at] == (batch.tokens[row, there] if same else IGNORE)


def test_packed_documents_have_the_loss_and_gradients_of_each_alone() -> None:
    batch = Loader(Texts(), 48, 6, seed=0).batch(0)
    model = with_ahead(3)
    objective = next_tokens(0.3, 0.01)
    packed, unpacked = (loss_and_gradients(model, batches, objective) for batches in ([batch], alone(batch)))
    assert packed[1] == unpacked[1] > 0
    assert torch.allclose(packed[0], unpacked[0], rtol=1e-12)
    assert len(packed[2]) == len(unpacked[2]) == len(list(model.parameters()))
    for a, b in zip(packed[2], unpacked[2], strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-10)


def test_any_split_into_micro_batches_gives_the_same_gradient() -> None:
    batch = Loader(Texts(), 48, 6, seed=0).batch(1)
    found = []
    for micro_rows in (1, 3, 6):
        model = with_ahead(2)
        machine = Machine(torch.device("cpu"), torch.float64, False, 1e-6)
        loop._accumulate(model, batch, next_tokens(0.3), micro_rows, machine)
        found.append([parameter.grad for parameter in model.parameters()])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


def test_the_loss_is_that_of_the_next_token_and_the_weighted_mean_of_the_others() -> None:
    batch = Loader(Texts(), 48, 2, seed=0).batch(0)
    model = with_ahead(2)
    plain, predicted = next_token()(model, batch, torch.float64)
    both = [next_tokens(weight)(model, batch, torch.float64) for weight in (0.5, 1.0)]
    assert both[0][1] == predicted
    assert torch.allclose(both[1][0] - plain, 2 * (both[0][0] - plain), rtol=1e-9)
    assert both[0][0] > plain


def test_no_position_sees_the_token_that_it_predicts() -> None:
    """Changing a token leaves every loss alone that is of an earlier token, however far ahead it was predicted."""
    batch = Loader(Texts(), 48, 1, seed=0).batch(0)
    model = with_ahead(2)

    def parts(tokens: torch.Tensor) -> list[torch.Tensor]:
        states: list[torch.Tensor] = []
        hooks = [
            step.norm.register_forward_hook(lambda _m, _i, out: states.append(out[0])) for step in model.ahead.steps
        ]
        changed = type(batch)(tokens, batch.labels, batch.positions, batch.documents)
        with torch.no_grad():
            next_tokens(1.0)(model, changed, torch.float64)
        for hook in hooks:
            hook.remove()
        return states

    length = int((batch.documents[0] == 0).sum())
    tokens = batch.tokens.clone()
    tokens[0, length - 2] = (tokens[0, length - 2] + 1) % 60
    for distance, (before, after) in enumerate(zip(parts(batch.tokens), parts(tokens), strict=True), 1):
        first = length - 2 - distance  # the first whose input holds the changed token
        assert torch.equal(before[:first], after[:first])
        assert not torch.equal(before[first], after[first])


def test_what_is_written_is_the_model_alone_and_checkpoints_hold_the_rest(
    material: dict[str, Path],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    run_pretrain(material, tmp_path / "plain", evaluations=0)
    run_pretrain(material, tmp_path / "whole", evaluations=0, predict_ahead=2)
    names = []
    for name in ("plain", "whole"):
        with safe_open(tmp_path / name / "out" / "model.safetensors", "pt") as file:
            names.append(set(file.keys()))
    assert names[0] == names[1]
    a, b = (load_model(tmp_path / name / "out") for name in ("plain", "whole"))
    assert a.config == b.config
    assert not torch.equal(a.model.embed_tokens.weight, b.model.embed_tokens.weight), "it has learnt otherwise"
    checkpoint = sorted((tmp_path / "whole" / "scratch" / "checkpoints").glob("step-*"))[-1]
    with safe_open(checkpoint / "tensors.safetensors", "pt") as file:
        assert any("/model/ahead.steps.1.projection.weight" in key for key in file.keys())  # noqa: SIM118

    killed = tmp_path / "killed"
    config = PretrainConfig(**{**SMALL, "evaluations": 0, "predict_ahead": 2})
    with pytest.raises(KeyboardInterrupt):
        pretrain.STAGE.run(config, material, killed / "out", runtime(killed, progress=KillAt(9)))
    pretrain.STAGE.run(config, material, killed / "out", runtime(killed))
    for file_ in ("model.safetensors", "metrics.jsonl"):
        assert (killed / "out" / file_).read_bytes() == (tmp_path / "whole" / "out" / file_).read_bytes()


def test_the_written_model_is_the_trunk_that_was_trained(
    material: dict[str, Path],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Held-out bits per byte were measured with the layers beside the model, and are the same without them."""
    run_pretrain(material, tmp_path, predict_ahead=1)
    last = json.loads((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()[-1])
    evaluate = pretrain.heldout_bits_per_byte(material["tokens"], 128, 8, PretrainConfig().heldout_tokens)
    assert evaluate is not None
    model = load_model(tmp_path / "out")
    found = evaluate(pretrain.nats_of(model, torch.device("cpu")))
    assert found == pytest.approx(last["heldout_bits_per_byte"], rel=1e-2), "float32 here, bfloat16 there"


def test_masks_and_tokens_ahead_do_not_go_together() -> None:
    with pytest.raises(ValueError, match="predict_ahead looks past the next token; objective mixed hides tokens"):
        PretrainConfig(objective="mixed", predict_ahead=1)


@pytest.mark.parametrize("changes", [{"architecture": "olmo3", "head_dim": 32}, {"architecture": "qwen3_moe"}])
def test_other_families_look_ahead_too(
    material: dict[str, Path],  # noqa: F811
    tmp_path: Path,
    changes: dict[str, Any],
) -> None:
    run_pretrain(material, tmp_path, evaluations=0, predict_ahead=1, **changes)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()[1:-1]]
    assert losses[-1] < losses[0] - 0.5
    assert load_model(tmp_path / "out").config.model_type == changes["architecture"]
