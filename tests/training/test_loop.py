"""The loop: any split gives the same gradient, a resumed run is the uninterrupted one, nothing fails in silence."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lmcraft.model import ModelConfig, Transformer
from lmcraft.recipe.stage import Progress, Runtime, Task, Terminated, UserError
from lmcraft.training import checkpoint, hardware, loop, parallel, stability
from lmcraft.training.checkpoint import load_checkpoint, save_checkpoint
from lmcraft.training.clock import Clock
from lmcraft.training.config import PretrainConfig, TrainingConfig, default_batch_tokens, derive_shape
from lmcraft.training.hardware import matmul_flops_per_token, matmul_seconds_per_token, resolve_precision
from lmcraft.training.loader import Loader
from lmcraft.training.loop import Machine, train
from lmcraft.training.ngram_labels import NgramLabels
from lmcraft.training.objectives import Batch, next_token
from lmcraft.training.optimizers import rate_factor

SHAPE = ModelConfig(
    vocab_size=61,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=32,
)
CPU = torch.device("cpu")


class Texts:
    """Documents with a pattern to learn: each counts up from a random token."""

    lengths = np.random.default_rng(0).integers(4, 30, 80).astype(np.int64)

    def tokens_of(self, number: int) -> Any:
        return (np.arange(self.lengths[number]) + number * 7) % 61

    def ngram_labels(self) -> NgramLabels:
        return NgramLabels(np.concatenate([self.tokens_of(n) for n in range(80)]).astype(np.uint16), 61, 0.6, seed=0)

    def trained_on(self, number: int) -> None:
        return None


class KillAt(Progress):
    """Raises in the middle of training after some advances, as a kill would stop it."""

    def __init__(self, advances: int | None):
        self.left = advances
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def task(self, description: str, total: float | None, unit: str, done: float = 0) -> Task:
        progress = self

        class Counting(Task):
            def advance(self, amount: float = 1, text: str | None = None) -> None:
                if progress.left is not None:
                    progress.left -= 1
                    if progress.left == 0:
                        raise KeyboardInterrupt

        return Counting()


def run(
    folder: Path,
    progress: Progress,
    dtype: torch.dtype = torch.float32,
    compiled: bool = False,
    objective: Any = None,
    first_context: int | None = None,
    tokenizer: str = "one",
    layers: int = 2,
    clock: Clock | None = None,
    **changes: Any,
) -> Any:
    (folder / "scratch").mkdir(parents=True, exist_ok=True)
    config = TrainingConfig(**{"evaluations": 3, **changes})
    model = Transformer(SHAPE.model_copy(update={"num_hidden_layers": layers}))
    model.initialise(0)
    history = train(
        model,
        Loader(Texts(), 32, 4, seed=0, tokenizer=tokenizer),
        objective or next_token(),
        config,
        steps=24,
        micro_rows=2,
        machine=Machine(CPU, dtype, compiled, 1e-6),
        evaluate=lambda nats_of: nats_of(Loader(Texts(), 32, 4, seed=9).batch(0))[0],
        out=folder,
        runtime=Runtime(scratch=folder / "scratch", progress=progress),
        first_context=first_context,
        first_context_share=0.5,
        clock=clock,
    )
    return model, history


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_killed_run_ends_with_the_same_weights_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    rate = 0.02 if optimizer == "muon" else 0.003
    settings: dict[str, Any] = {"optimizer": optimizer, "learning_rate": rate, "dtype": dtype}
    whole, history = run(tmp_path / "whole", Progress(), **settings)
    for kill in (1, 9, 6):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "killed", KillAt(kill), **settings)
    progress = KillAt(None)
    resumed, again = run(tmp_path / "killed", progress, **settings)
    assert any("resuming at step 13" in note for note in progress.notes)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert history.metrics == again.metrics
    assert (tmp_path / "whole" / "metrics.jsonl").read_bytes() == (tmp_path / "killed" / "metrics.jsonl").read_bytes()
    losses = [row["loss"] for row in history.metrics if "loss" in row]
    assert losses[-1] < losses[0] - 0.5, "it must learn something for this to mean anything"


def test_rows_are_cut_at_first_and_a_killed_run_ends_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    shapes: list[tuple[int, ...]] = []

    def watched(model: Transformer, batch: Batch, dtype: torch.dtype) -> Any:
        shapes.append(tuple(batch.tokens.shape))
        return next_token()(model, batch, dtype)

    whole, history = run(tmp_path / "whole", Progress(), objective=watched, first_context=8)
    assert shapes == 24 * [(8, 8)] + 24 * [(2, 32)], "two micro-batches a step, of as many tokens"
    for kill in (9, 6):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "killed", KillAt(kill), first_context=8)
    resumed, again = run(tmp_path / "killed", Progress(), first_context=8)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert history.metrics == again.metrics


def test_a_killed_compiled_run_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := hardware._why_not_compile(CPU):
        pytest.skip(reason)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    whole, history = run(tmp_path / "whole", Progress(), dtype=torch.bfloat16, compiled=True)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", KillAt(11), dtype=torch.bfloat16, compiled=True)
    resumed, again = run(tmp_path / "killed", Progress(), dtype=torch.bfloat16, compiled=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert history.metrics == again.metrics


def test_heldout_bits_leave_out_what_the_objective_adds(tmp_path: Path) -> None:
    _, plain = run(tmp_path / "plain", Progress(), objective=next_token(0.0))
    _, extra = run(tmp_path / "extra", Progress(), objective=next_token(1.0))
    firsts = [history.metrics[0]["heldout_bits_per_byte"] for history in (plain, extra)]
    assert firsts[0] == firsts[1], "before the first step the weights are the same"


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    whole, _ = run(tmp_path / "whole", Progress())
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", KillAt(10))
    newest = sorted((tmp_path / "killed" / "scratch" / "checkpoints").glob("step-*"))[-1] / "tensors.safetensors"
    data = bytearray(newest.read_bytes())
    data[-5] ^= 1
    newest.write_bytes(bytes(data))
    progress = KillAt(None)
    resumed, _ = run(tmp_path / "killed", progress)
    assert any("is damaged" in note for note in progress.notes)
    assert any("resuming at step 8" in note for note in progress.notes)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


@pytest.mark.parametrize("others", [False, True])
def test_any_split_into_micro_batches_gives_the_same_gradient(others: bool) -> None:
    batch = Loader(Texts(), 32, 6, seed=0, ngram_labels=Texts().ngram_labels() if others else None).batch(0)
    assert (batch.other_labels is not None) == others
    gradients = []
    for micro_rows in (1, 2, 4, 6):
        model = Transformer(SHAPE).double()
        model.initialise(1)
        machine = Machine(CPU, torch.float64, False, 1e-6)
        loss, weight = loop._accumulate(model, batch, next_token(), micro_rows, machine)
        assert weight == batch.predicted
        gradients.append([parameter.grad for parameter in model.parameters()] + [torch.tensor(loss)])
    for other in gradients[1:]:
        for a, b in zip(gradients[0], other, strict=True):
            assert torch.allclose(a.double(), b.double(), rtol=1e-10, atol=1e-12)


def test_a_run_that_explodes_stops_with_a_sentence(tmp_path: Path) -> None:
    def exploding(model: Transformer, batch: Any, dtype: torch.dtype) -> Any:
        loss, weight = next_token()(model, batch, dtype)
        return loss * (math.inf if batch.tokens.sum() else 1.0), weight

    model = Transformer(SHAPE)
    model.initialise(0)
    with pytest.raises(
        UserError, match=r"at step 1: the loss is inf; steps left out in a row: 1; no checkpoint was written yet"
    ):
        train(
            model,
            Loader(Texts(), 32, 4, seed=0),
            exploding,
            TrainingConfig(),
            steps=3,
            micro_rows=4,
            machine=Machine(CPU, torch.float32, False, 1e-6),
            evaluate=None,
            out=tmp_path,
            runtime=Runtime(scratch=tmp_path),
        )


def test_checkpoints_hold_nested_state_and_no_pickle(tmp_path: Path) -> None:
    state = {"a": [torch.arange(3), {"b": None, "c": 1.5}], "d": {0: torch.ones(2, dtype=torch.bfloat16), "e": "text"}}
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, state)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-000000002", "step-000000003"]
    restored = load_checkpoint(tmp_path, Progress())
    assert restored is not None
    step, again = restored
    assert step == 3
    assert torch.equal(again["a"][0], torch.arange(3))
    assert again["a"][1] == {"b": None, "c": 1.5}
    assert again["d"][0].dtype == torch.bfloat16
    with pytest.raises(TypeError, match="cannot be stored"):
        save_checkpoint(tmp_path, 4, {"f": object()})
    assert json.loads((tmp_path / "step-000000003" / "state.json").read_text())["step"] == 3


def test_the_best_checkpoint_stays_and_a_full_disk_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step, quality in ((1, 3.0), (2, 2.0), (3, None), (4, 2.5), (5, None)):
        save_checkpoint(tmp_path, step, {"a": torch.ones(2)}, quality=quality)
    kept = ["step-000000002", "step-000000004", "step-000000005"]
    assert [path.name for path in sorted(tmp_path.iterdir())] == kept

    def full(*arguments: Any) -> None:
        (tmp_path / f"writing-{os.getpid()}" / "tensors.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(tmp_path, 6, {"a": torch.ones(2)})
    assert [path.name for path in sorted(tmp_path.iterdir())] == kept


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"learning_rate": 0.5}, "settings.learning_rate was 0.02, now 0.5"),
        ({"tokenizer": "other"}, 'data.tokenizer was "one", now "other"'),
        ({"layers": 3}, "network.num_hidden_layers was 2, now 3"),
        ({"seed": 3, "z_loss": 1e-4}, "settings.z_loss was 0.0, now 0.0001; settings.seed was 0, now 3"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], words: str
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, KillAt(5))
    with pytest.raises(UserError, match=re.escape(words)):
        run(tmp_path, Progress(), **changes)


def test_a_run_that_goes_on_in_another_precision_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, KillAt(5), dtype=torch.bfloat16)
    progress = KillAt(None)
    run(tmp_path, progress)
    assert progress.notes[:2] == [
        "  resuming at step 4 of 24",
        "  which was made in torch.bfloat16; from here on it is torch.float32",
    ]


def test_checkpoints_that_take_long_are_seldom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step takes a second of this clock, every checkpoint one or three."""
    now, saves = [0.0], list[int]()
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 2.0)
    monkeypatch.setattr(loop, "QUICK_SAVE", 1.0)

    def counting(model: Transformer, batch: Batch, dtype: torch.dtype) -> Any:
        now[0] += 0.5  # a step has two micro-batches
        return next_token()(model, batch, dtype)

    for seconds, expected in ((1.0, [2, 4, 6, 8, 10]), (3.0, [2, 8])):
        saves.clear()

        def slow(folder: Path, step: int, *rest: Any, seconds: float = seconds) -> None:
            now[0] += seconds
            saves.append(step)

        monkeypatch.setattr(parallel, "save_checkpoint", slow)
        run(tmp_path / str(seconds), KillAt(None), objective=counting, evaluations=0)
        assert saves[: len(expected)] == expected


def test_what_a_kill_left_of_a_checkpoint_is_removed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / "writing-1").mkdir()
    (tmp_path / "writing-1" / "tensors.safetensors").write_bytes(b"half")
    save_checkpoint(tmp_path, 1, {"a": torch.ones(2)})
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001"]


def test_a_run_by_the_clock_whose_text_ends_first_has_its_rates_run_down(tmp_path: Path) -> None:
    _, history = run(tmp_path, Progress(), clock=Clock(1000.0), final_rate=0.0)
    rates = [row["rate"] for row in history.metrics if "rate" in row]
    assert len(rates) == 24 and max(rates) == 1.0 and rates[-1] < 0.2


def test_a_checkpoint_of_other_data_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, KillAt(5))
    monkeypatch.setattr(Texts, "tokens_of", lambda self, number: np.full(self.lengths[number], 7))
    with pytest.raises(UserError, match=r"another run: data\.fingerprint was"):
        run(tmp_path, Progress())


def test_sigterm_saves_and_the_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    whole, _ = run(tmp_path / "whole", Progress())

    class Terminating(KillAt):
        def task(self, description: str, total: float | None, unit: str, done: float = 0) -> Task:
            class AtTheFifth(Task):
                calls = 0

                def advance(self, amount: float = 1, text: str | None = None) -> None:
                    self.calls += 1
                    if self.calls == 5:
                        os.kill(os.getpid(), signal.SIGTERM)

            return AtTheFifth()

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated):
        run(tmp_path / "ended", Terminating(None))
    assert signal.getsignal(signal.SIGTERM) is before
    progress = KillAt(None)
    resumed, _ = run(tmp_path / "ended", progress)
    assert any("resuming at step 5" in note for note in progress.notes)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_a_step_that_stands_out_is_left_out_and_a_resumed_run_decides_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stability, "FEWEST", 4)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    spikes = {tuple(Loader(Texts(), 32, 4, seed=0).batch(step).tokens[0].tolist()) for step in (9, 15)}

    def spiking(model: Transformer, batch: Any, dtype: torch.dtype) -> Any:
        loss, weight = next_token()(model, batch, dtype)
        return loss * (1e4 if tuple(batch.tokens[0].tolist()) in spikes else 1.0), weight

    whole, history = run(tmp_path / "whole", Progress(), objective=spiking)
    assert [row["step"] for row in history.metrics if row.get("left_out")] == [10, 16]
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", KillAt(13), objective=spiking)
    resumed, again = run(tmp_path / "killed", Progress(), objective=spiking)
    assert history.metrics == again.metrics
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_the_schedule_rises_holds_and_falls() -> None:
    config = TrainingConfig(warmup=0.1, decay=0.5, final_rate=0.1)
    factors = [rate_factor(step, 100, config) for step in range(100)]
    assert factors[0] == 0.1
    assert factors[10:50] == [1.0] * 40
    assert all(a > b for a, b in pairwise(factors[50:]))
    assert 0.1 < factors[-1] < 0.13


def test_one_dial_derives_the_rest_and_all_of_it_can_be_set() -> None:
    shape = derive_shape(PretrainConfig(depth=6), 4096, {})
    assert (shape.hidden_size, shape.num_attention_heads, shape.head_dim, shape.intermediate_size) == (384, 6, 64, 1024)
    by_count = derive_shape(PretrainConfig(parameters=shape.parameters()), 4096, {})
    assert by_count == shape
    chosen = derive_shape(
        PretrainConfig(depth=2, hidden_size=96, head_dim=32, kv_heads=1, intermediate_size=100), 512, {}
    )
    assert (chosen.num_attention_heads, chosen.num_key_value_heads, chosen.intermediate_size) == (3, 1, 100)
    with pytest.raises(ValueError, match="depth or parameters, not both"):
        PretrainConfig(depth=2, parameters=10)
    with pytest.raises(UserError, match="multiple of kv_heads"):
        derive_shape(PretrainConfig(depth=2, kv_heads=3), 512, {})
    assert default_batch_tokens(3_000_000, 512) % 512 == 0


def test_vector_instructions_are_asked_for_only_where_taking_them_for_granted_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch._inductor import config as inductor

    tried = []

    def compile_(function: Any) -> Any:
        tried.append(inductor.cpp.vec_isa_ok)
        if inductor.cpp.vec_isa_ok:
            raise RuntimeError("unknown instruction")
        return function

    monkeypatch.setattr(torch, "compile", compile_)
    monkeypatch.setenv("CXX", "true")
    with inductor.patch({"cpp.vec_isa_ok": None}):
        assert hardware._why_not_compile(CPU) is None
    assert tried == [True, None]


def test_the_floor_is_measured_and_counts_the_same_operations() -> None:
    seconds = matmul_seconds_per_token(SHAPE, 256, torch.float32, CPU, budget_s=0.1)
    rate = matmul_flops_per_token(SHAPE) / seconds
    assert 1e8 < rate < 1e14
    d, layers = SHAPE.hidden_size, SHAPE.num_hidden_layers
    matrices = layers * (4 * d * d + 3 * d * SHAPE.intermediate_size) + SHAPE.vocab_size * d
    assert matmul_flops_per_token(SHAPE) == 6 * matrices
    assert resolve_precision("float32", CPU) == torch.float32
