"""The memory plan is near what a run takes, and what cannot fit is refused before any work, with a cure that works."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lmcraft.model import ModelConfig
from lmcraft.recipe.stage import Progress, Runtime, UserError
from lmcraft.training import memory, pretrain
from lmcraft.training.config import PretrainConfig
from lmcraft.training.memory import (
    MemoryPlan,
    available_bytes,
    check_memory,
    plan_memory,
    refuse_what_does_not_fit,
    shown_bytes,
)

CPU = torch.device("cpu")
SHAPE = ModelConfig(
    vocab_size=1000,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=2,
    head_dim=32,
    max_position_embeddings=64,
)


@pytest.mark.skipif(sys.platform != "linux", reason="forks, and asks Linux for the peak")
def test_the_plan_is_within_a_factor_of_two_of_the_measured_peak() -> None:
    script = Path(__file__).with_name("measured_memory.py")
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    rows = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(rows) == 3, ran.stderr
    for row in rows:
        assert 1 / 2 < row["planned"] / row["measured"] < 2, rows


def plan_of(**changes: Any) -> MemoryPlan:
    size = {"rows": 8, "micro_rows": 4, "row_tokens": 64, "optimizer": "muon"} | changes
    return plan_memory(size.pop("shape", SHAPE), size.pop("dtype", torch.float32), CPU, **size)


def test_what_stands_follows_from_the_number_of_parameters() -> None:
    number, tables = SHAPE.parameters(), 1000 * 64
    muon, adam = plan_of(), plan_of(optimizer="adamw")
    assert muon.weights == muon.gradients == 4 * number
    assert muon.optimizer == 4 * (number + tables)
    assert adam.optimizer == 8 * number
    assert plan_of(shards=4).standing - muon.batch == (muon.standing - muon.batch) // 4
    assert plan_of(ahead=1).weights > muon.weights


def test_activations_grow_with_tokens_layers_and_precision() -> None:
    base = plan_of()
    assert plan_of(micro_rows=8).activations == 2 * base.activations
    assert plan_of(dtype=torch.bfloat16).activations < base.activations
    assert plan_of(shape=SHAPE.model_copy(update={"num_hidden_layers": 4})).activations > 1.6 * base.activations
    sparse = {"model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
    assert plan_of(shape=ModelConfig(**SHAPE.model_dump() | sparse)).activations > base.activations


def test_what_does_not_fit_is_refused_with_a_cure_that_fits() -> None:
    plan = plan_of(micro_rows=8)
    refuse_what_does_not_fit(plan, plan.total, 8, 64)
    with pytest.raises(UserError, match=r"too little: set micro_batch_tokens to \d+ \(now 512\)") as refused:
        refuse_what_does_not_fit(plan, int(0.7 * plan.total), 8, 64)
    fitting = int(re.findall(r"micro_batch_tokens to (\d+)", str(refused.value))[0]) // 64
    assert plan_of(micro_rows=fitting).total <= 0.75 * plan.total
    one = plan_of(micro_rows=1)
    with pytest.raises(UserError, match=r"lower context \(now rows of 64 tokens\), hidden_size or depth, or free"):
        refuse_what_does_not_fit(one, int(one.standing * 1.15), 1, 64)
    with pytest.raises(UserError, match=r"weights, gradients and optimizer state alone take .*: lower depth"):
        refuse_what_does_not_fit(plan, plan.standing, 8, 64)


def test_a_model_too_large_for_the_machine_is_refused_before_any_step_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pretrain.STAGE.check is not None
    pretrain.STAGE.check(PretrainConfig(depth=2), Runtime(device="cpu"))
    monkeypatch.setattr(memory, "available_bytes", lambda device: 10_000_000)
    with pytest.raises(UserError, match=r"needs about .*B of memory and 10 MB are available, .*B too little: weights"):
        pretrain.STAGE.check(PretrainConfig(depth=8), Runtime(device="cpu"))


def test_the_plan_is_printed_and_tightness_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []

    class Notes(Progress):
        def note(self, text: str) -> None:
            notes.append(text)

    config, runtime = PretrainConfig(precision="float32"), Runtime(device="cpu", progress=Notes())
    total = plan_of().total
    monkeypatch.setattr(memory, "available_bytes", lambda device: 2 * total)
    said = check_memory(SHAPE, config, runtime, rows=8, micro_rows=4, row_tokens=64)
    assert set(said) == {"weights", "gradients", "optimizer", "activations", "logits", "batch", "in all"}
    assert not notes
    monkeypatch.setattr(memory, "available_bytes", lambda device: int(1.1 * total))
    check_memory(SHAPE, config, runtime, rows=8, micro_rows=4, row_tokens=64)
    assert notes == ["  memory is tight: the plan takes more than 80% of what is available"]


def test_ranks_share_the_weights_the_rows_and_the_memory_of_their_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    class FourRanks:
        """Two copies of the weights on two processes each, all on this machine."""

        data, shards, local_size = 4, 2, 4

    config = PretrainConfig(precision="float32")
    alone = plan_of()
    monkeypatch.setattr(memory, "available_bytes", lambda device: 1_000_000_000)
    ranks: Any = FourRanks()
    said = check_memory(SHAPE, config, Runtime(device="cpu", ranks=ranks), rows=8, micro_rows=4, row_tokens=64)
    assert said["weights"] == shown_bytes(1.5 * alone.weights)  # half of them, and the model that they become
    assert said["optimizer"] == shown_bytes(alone.optimizer / 2)
    assert said["activations"] == shown_bytes(plan_of(micro_rows=2).activations)
    assert said["in all"].endswith("of 250 MB available")
    monkeypatch.setattr(memory, "available_bytes", lambda device: alone.total)
    with pytest.raises(UserError, match="too little"):
        check_memory(SHAPE, config, Runtime(device="cpu", ranks=ranks), rows=8, micro_rows=4, row_tokens=64)


@pytest.mark.parametrize("version", [1, 2])
def test_the_limit_of_a_container_or_job_counts(tmp_path: Path, version: int) -> None:
    own = tmp_path / "own"
    own.write_text("3:cpu:/elsewhere\n4:memory:/job/task\n" if version == 1 else "0::/job/task\n")
    root = tmp_path / "memory" if version == 1 else tmp_path
    limit, used, dropped = (
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        if version == 1
        else ("memory.max", "memory.current", "inactive_file")
    )
    task = root / "job" / "task"
    task.mkdir(parents=True)
    (task / limit).write_text("max\n")
    assert available_bytes(CPU, tmp_path, own) > 1_000_000
    (root / "job" / limit).write_text("1000000\n")
    (root / "job" / used).write_text("700000\n")
    (root / "job" / "memory.stat").write_text(f"anon 5\n{dropped} 200000\n")
    assert available_bytes(CPU, tmp_path, own) == 500_000
    assert available_bytes(CPU, tmp_path, tmp_path / "none") > 1_000_000
