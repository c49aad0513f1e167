"""Bad material for training ends in one sentence that says what, where and how to mend it."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_pretrain import material, run_pretrain

from lmcraft.model import Transformer
from lmcraft.recipe.stage import Progress, Runtime, UserError
from lmcraft.training import loop, pretrain
from lmcraft.training.config import PretrainConfig, TrainingConfig, derive_shape
from lmcraft.training.loop import resolve_machine
from lmcraft.training.stability import SpikeGuard

__all__ = ["material"]


def test_a_shard_of_one_token_is_refused(material: dict[str, Path], tmp_path: Path) -> None:
    tokens = shutil.copytree(material["tokens"], tmp_path / "tokens")
    np.save(tokens / "train-00000.npy", np.load(tokens / "train-00000.npy")[:1])
    np.save(tokens / "train-00000.offsets.npy", np.array([0, 1]))
    meta = json.loads((tokens / "tokens.json").read_text())
    meta["documents"]["train"] = meta["tokens"]["train"] = 1
    (tokens / "tokens.json").write_text(json.dumps(meta))
    with pytest.raises(UserError, match=r"the corpus has 1 training tokens, too few for steps of .*: add text"):
        run_pretrain({**material, "tokens": tokens}, tmp_path / "run")


def test_an_id_beyond_the_vocabulary_is_refused_before_training(material: dict[str, Path], tmp_path: Path) -> None:
    tokens = shutil.copytree(material["tokens"], tmp_path / "tokens")
    ids = np.load(tokens / "train-00000.npy")
    ids[9] = 512
    np.save(tokens / "train-00000.npy", ids)
    with pytest.raises(UserError, match=r"train-00000\.npy holds token 512, outside the vocabulary of 512; rebuild it"):
        run_pretrain({**material, "tokens": tokens}, tmp_path / "run")


def test_a_text_that_memory_does_not_hold_sorted_is_refused(
    material: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrain, "available_bytes", lambda device: 100_000)
    with pytest.raises(UserError, match=r"needs about .* kB of memory and has 100 kB: set ngram_smoothing to 0"):
        run_pretrain(material, tmp_path, ngram_smoothing=0.5)


def test_a_loss_that_is_nan_at_the_first_step_stops_the_run_at_once(
    material: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoilt(model: Transformer, seed: int) -> None:
        with torch.no_grad():
            model.model.norm.weight.fill_(math.nan)

    monkeypatch.setattr(Transformer, "initialise", spoilt)
    with pytest.raises(
        UserError, match=r"stopped at step 1: the loss is nan; .* no step was taken yet, so no rate is at"
    ):
        run_pretrain(material, tmp_path)
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_a_loss_that_is_nan_later_is_left_out_with_patience() -> None:
    guard = SpikeGuard(None, 1000)
    assert guard.stands_out(2.0, 1.0) is None
    for left_out in range(1, 8):
        assert guard.stands_out(math.nan, 1.0) == "the loss is nan"
        assert guard.left_out == left_out and not guard.hopeless
    assert guard.stands_out(math.nan, 1.0) and guard.hopeless


def test_a_norm_of_less_than_twice_the_mean_does_not_stand_out() -> None:
    """.391 after these was a harmless step of a quickstart, 6.5 deviations above their mean; so was .259 after .179."""
    guard = SpikeGuard(6.0, 1000)
    for step in range(128):
        guard.stands_out(3.0 + 0.01 * (step % 5), 0.281 + 0.01 * (-1) ** step)
    assert guard.stands_out(3.0, 0.391) is None
    reason = guard.stands_out(3.0, 0.6)
    assert reason == "the gradient norm is 0.6, where the last 128 were 0.282 ± 0.014"
    assert "the loss is 9" in str(guard.stands_out(9.0, 0.281))


class Notes(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


@pytest.mark.parametrize("able", [True, False])
def test_bfloat16_where_it_is_only_emulated_is_allowed_but_said(monkeypatch: pytest.MonkeyPatch, able: bool) -> None:
    capabilities: dict[str, Any] = {"avx512_bf16": able}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(loop, "matmul_seconds_per_token", lambda *arguments: 1e-6)
    model, notes = Transformer(derive_shape(PretrainConfig(depth=1), 512, {})), Notes()
    runtime = Runtime(device="cpu", workers=torch.get_num_threads(), compile="off", progress=notes)
    machine = resolve_machine(model, TrainingConfig(precision="bfloat16"), runtime, 1000, 64)
    assert machine.dtype == torch.bfloat16
    said = [] if able else ["  bfloat16 is set, but this cpu only emulates it: float32 would be faster"]
    assert notes.lines == said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_cuda_where_none_is_is_refused_by_what_there_is() -> None:
    assert pretrain.STAGE.check is not None
    with pytest.raises(UserError, match=r"device 'cuda' is not available on this machine; choose one of: auto, .*cpu"):
        pretrain.STAGE.check(PretrainConfig(), Runtime(device="cuda"))
