"""The schedule that all optimizers of a run follow."""

from __future__ import annotations

import pytest
import torch

from lmcraft.training.config import PretrainConfig
from lmcraft.training.muon import Muon
from lmcraft.training.optimizers import FIRST_MOMENTUM, MOMENTUM_STEPS, make_optimizers, set_schedule


def test_momentum_rises_to_its_last_value_and_depends_on_the_step_alone() -> None:
    model = torch.nn.Linear(4, 4)
    muon, adam = make_optimizers(model, PretrainConfig(depth=1, train_tokens=1))
    assert isinstance(muon, Muon)
    last, seen = muon.param_groups[0]["momentum"], []
    for step in (0, MOMENTUM_STEPS // 2, MOMENTUM_STEPS, 10 * MOMENTUM_STEPS, 0):
        set_schedule([muon, adam], 0.5, step)
        seen.append(muon.param_groups[0]["momentum"])
    assert seen == pytest.approx([FIRST_MOMENTUM, (FIRST_MOMENTUM + last) / 2, last, last, FIRST_MOMENTUM])
    assert all(group["lr"] == group["peak_lr"] / 2 for each in (muon, adam) for group in each.param_groups)
