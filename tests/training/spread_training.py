"""What every process of a test does: `spread_training.py CASE FOLDER`, with the environment of torchrun.

The first process prints one line of JSON.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file

from lmcraft.model import ModelConfig, Transformer
from lmcraft.recipe.schema import ParallelConfig
from lmcraft.recipe.stage import Followed, Progress, Runtime, Terminated, UserError
from lmcraft.training import energy, loop, spread
from lmcraft.training.ahead import Ahead, next_tokens
from lmcraft.training.balancing import balanced
from lmcraft.training.clock import Clock
from lmcraft.training.config import TrainingConfig
from lmcraft.training.loader import Loader
from lmcraft.training.loop import Machine, train
from lmcraft.training.masking import Masking
from lmcraft.training.monitors import Monitors
from lmcraft.training.ngram_labels import NgramLabels
from lmcraft.training.objectives import next_token
from lmcraft.training.parallel import ALONE, full_matrix, local_part, spread_over
from lmcraft.training.ranks import Ranks
from lmcraft.training.sharded import save_sharded

STEPS = 20
ROWS, ROW = 8, 32
CPU = torch.device("cpu")
SHAPE = ModelConfig(
    vocab_size=61,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=ROW,
    tie_word_embeddings=False,
)
SHAPES: dict[str, dict[str, Any]] = {
    "tied": {"tie_word_embeddings": True},
    "llama": {"model_type": "llama"},
    "windows": {"model_type": "olmo3", "sliding_window": 8, "layer_types": ("sliding_attention", "full_attention")},
    "experts": {
        "model_type": "qwen3_moe",
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 48,
        "norm_topk_prob": True,
    },
}
"""Other networks whose gradients are compared."""
NOT_OFFERED = {
    "windows": {"tensor"},
    "experts": {"tensor", "context"},
    "ahead": {"tensor", "context"},
    "masked": {"context"},
}
MESHES: dict[int, dict[str, dict[str, int]]] = {
    2: {"shard": {}, "tensor": {"tensor": 2}, "context": {"context": 2}},
    4: {
        "shard": {},
        "hybrid": {"replicate": 2},
        "tensor": {"tensor": 2},
        "context": {"context": 2},
        "both": {"context": 2, "tensor": 2},
    },
}
"""Number of processes -> settings of runtime.parallel that must change nothing."""

CURVES = {
    2: [("shard", "adamw", 0), ("tensor", "muon", 0), ("shard", "muon", 2)],
    4: [*((name, "adamw", 0) for name in ("shard", "hybrid", "tensor", "context")), ("hybrid", "muon", 0)],
}
"""Mesh, optimizer, and how many tokens after the next one are predicted."""
CLIPPED = 0.05
"""Norm to which the gradients of those are clipped."""


class Texts:
    lengths = np.random.default_rng(0).integers(4, 30, 80).astype(np.int64)

    def tokens_of(self, number: int) -> Any:
        return (np.arange(self.lengths[number]) + number * 7) % 61

    def ngram_labels(self) -> NgramLabels:
        return NgramLabels(np.concatenate([self.tokens_of(n) for n in range(80)]).astype(np.uint16), 61, 0.6, seed=0)

    def trained_on(self, number: int) -> None:
        return None


class Notes(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def fresh(ahead: int = 0, shape: ModelConfig = SHAPE) -> Transformer:
    """A network whose every weight matters from the first step on."""
    model = Transformer(shape)
    if ahead:
        model.add_module("ahead", Ahead(shape, ahead))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.fill_(1.0)
            else:
                parameter.copy_(0.3 * parameter.shape[1] ** -0.5 * torch.randn(parameter.shape, generator=generator))
    return model


def trained(
    folder: Path,
    ranks: Ranks | None,
    optimizer: str = "adamw",
    ahead: int = 0,
    evaluations: int = 0,
    clock: Clock | None = None,
    **more: Any,
) -> tuple[Transformer, loop.History | None, list[str]]:
    """The history is None on all ranks but the first."""
    folder.mkdir(parents=True, exist_ok=True)
    progress = Notes()
    model = fresh(ahead)
    config = TrainingConfig(optimizer=optimizer, evaluations=evaluations, **more)  # type: ignore[arg-type]
    history = None
    with contextlib.suppress(Followed):
        history = train(
            model,
            Loader(Texts(), ROW, ROWS, seed=0, ngram_labels=Texts().ngram_labels()),
            next_tokens(0.3) if ahead else next_token(),
            config,
            steps=STEPS if clock is None else 10_000,
            micro_rows=4,
            machine=Machine(CPU, torch.float32, False, 1e-6),
            evaluate=lambda nats_of: nats_of(Loader(Texts(), ROW, 5, seed=9).batch(0))[0],
            out=folder,
            runtime=Runtime(workers=1, scratch=folder, progress=progress, ranks=ranks),
            clock=clock,
            monitors=Monitors(Loader(Texts(), ROW, 5, seed=9).batch(0)),
        )
    return model, history, progress.notes


def with_settings(ranks: Ranks, **degrees: int) -> Ranks:
    """The same processes, sharing the work in another way."""
    settings = ParallelConfig(**degrees, timeout=ranks.settings.timeout)
    ranks.settings = settings
    ranks.shard = ranks.size // (settings.replicate * settings.context * settings.tensor)
    return ranks


def curves(folder: Path, ranks: Ranks) -> dict[str, Any]:
    """Losses and held-out figures of meshes."""
    rows: dict[str, Any] = {}
    for name, optimizer, ahead in CURVES[ranks.size]:
        settings = with_settings(ranks, **MESHES[ranks.size][name])
        clip = CLIPPED if ahead else 1.0
        place = folder / f"{name}-{optimizer}-{ahead}"
        model, history, _ = trained(place, settings, optimizer, ahead, evaluations=2, clip_norm=clip)
        if history is not None:
            rows[f"{name} {optimizer} {ahead}"] = history.metrics
            keep(model, folder / f"{name}-{optimizer}-{ahead}")
    return rows


def keep(model: Transformer, folder: Path) -> None:
    weights = {name: value.detach().clone() for name, value in model.named_parameters()}
    save_file(weights, folder / "end.safetensors")


def gradients(folder: Path, ranks: Ranks | None) -> dict[str, Any]:
    """In float64, of one batch, whole: the gradient of each mesh and micro-batch, by what learns and what is learnt."""
    rows = 6  # which four do not divide
    masking = Masking(60, (0,), share=0.3, spans=False, rows=0.5, seed=0)
    batches = {
        "next": Loader(Texts(), ROW, rows, seed=0, ngram_labels=Texts().ngram_labels()).batch(0),
        "ahead": Loader(Texts(), ROW, rows, seed=0).batch(0),
        "masked": Loader(Texts(), ROW, rows, seed=0, masking=masking).batch(0),
        **{name: Loader(Texts(), ROW, rows, seed=0).batch(0) for name in SHAPES},
    }
    machine = Machine(CPU, torch.float64, False, 1e-6)
    ways: dict[str, dict[str, int] | None] = {"alone": None} if ranks is None else dict(MESHES[ranks.size])
    found: dict[str, Any] = {}
    for learnt, name in ((learnt, name) for name in ways for learnt in batches):
        degrees, batch, ahead = ways[name] or {}, batches[learnt], 2 * (learnt == "ahead")
        if NOT_OFFERED.get(learnt, set()) & set(degrees):
            continue
        shape = ModelConfig(**SHAPE.model_dump() | SHAPES.get(learnt, {}))
        for micro_rows in (1, 3) if name in ("alone", "shard") else (3,):
            share = ALONE if ranks is None else spread_over(with_settings(ranks, **degrees), shape, ROW)
            network = share.network(fresh(ahead, shape).double(), CPU)
            objective = next_tokens(0.3) if ahead else next_token()
            objective = share.objective(balanced(objective, 0.1) if shape.num_experts else objective)
            loss, weight = loop._accumulate(network, share.part(batch), objective, micro_rows, machine, share)
            assert weight == batch.predicted
            whole = [full_matrix(value.grad) for value in network.parameters() if value.grad is not None]
            for key, value in network.named_parameters():
                assert torch.equal(local_part(full_matrix(value.detach()), value), _local(value)), (name, key)
            found[f"{learnt} {name} {micro_rows}"] = [loss, *(value.double().flatten().tolist() for value in whole)]
    return found


def clocked(folder: Path, ranks: Ranks) -> dict[str, Any]:
    """A run by the clock, of processes whose clocks differ, and what it cost them all."""
    clock = Clock(60.0)
    spent = clock.spent
    clock.spent = lambda: 15.0 * spent() + 5.0 * ranks.rank  # type: ignore[method-assign]
    joules = energy.Meter.joules
    energy.Meter.joules = lambda meter: 10.0 + ranks.rank  # type: ignore[method-assign]
    try:
        _, history, _ = trained(folder, ranks, evaluations=2, clock=clock)
    finally:
        energy.Meter.joules = joules  # type: ignore[method-assign]
    seen = ranks.gather([clock._ticked, clock.share()])
    assert seen == [seen[0]] * ranks.size
    return {"metrics": history.metrics, "energy": history.energy, "share": clock.share()} if history else {}


def _local(tensor: Any) -> torch.Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def stopped(folder: Path, ranks: Ranks | None) -> None:
    """A run of which the last process hears SIGTERM in step 5: all save and end."""
    rate_factor = loop.rate_factor

    def terminated(step: int, *rest: Any) -> float:
        if step == 4 and (ranks is None or not ranks.first):
            os.kill(os.getpid(), signal.SIGTERM)
        return rate_factor(step, *rest)

    loop.rate_factor = terminated  # type: ignore[assignment]
    try:
        trained(folder, ranks, "muon", evaluations=2)
    except Terminated:
        loop.rate_factor = rate_factor  # type: ignore[assignment]
        return
    raise AssertionError("it went on")


def resumed(folder: Path, ranks: Ranks | None) -> dict[str, Any]:
    """Goes on with what `stopped` left."""
    _, history, notes = trained(folder, ranks, "muon", evaluations=2)
    return {"metrics": history.metrics, "notes": notes} if history else {}


def two(folder: Path, ranks: Ranks) -> None:
    """All that two processes are asked for, in one start."""
    found = {"curves": curves(folder, ranks), "gradients": gradients(folder, ranks)}
    stopped(folder / "stopped", with_settings(ranks, tensor=2))
    found["clocked"] = clocked(folder / "clocked", with_settings(ranks))
    found["refused"] = refused(folder, ranks)
    found["full"] = full(folder / "full", ranks)
    print(json.dumps({**found, "vanished": vanished(folder / "vanished", with_settings(ranks))}), flush=True)
    os._exit(0)  # there is nobody to take leave of


def four(folder: Path, ranks: Ranks) -> dict[str, Any]:
    found = {"curves": curves(folder, ranks), "gradients": gradients(folder, ranks)}
    return {**found, "resumed": resumed(folder / "stopped-4", with_settings(ranks))}


def full(folder: Path, ranks: Ranks) -> str:
    """What a checkpoint ends with when the disk of one process is full."""
    write = dcp.HuggingFaceStorageWriter.write_data

    def fails(*arguments: Any) -> Any:
        if not ranks.first:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(*arguments)

    dcp.HuggingFaceStorageWriter.write_data = fails  # type: ignore[method-assign]
    try:
        save_sharded(ranks, folder, 1, {"a": torch.ones(2)}, {}, None)
    except OSError as error:
        return f"{error.strerror} {sorted(folder.iterdir())}"
    finally:
        dcp.HuggingFaceStorageWriter.write_data = write  # type: ignore[method-assign]
    return "it was written"


def refused(folder: Path, ranks: Ranks) -> list[str]:
    """Sentences: of ranks that disagree, and of degrees that do not fit the network."""
    said = []
    tries: list[Callable[[], Any]] = [
        lambda: trained(folder / "other", with_settings(ranks), learning_rate=0.02 + ranks.rank),
        lambda: spread_over(with_settings(ranks, context=2), SHAPE, 31),
        lambda: spread_over(with_settings(ranks, tensor=2), SHAPE.model_copy(update={"num_key_value_heads": 1}), 32),
    ]
    for attempt in tries:
        try:
            attempt()
        except UserError as error:
            said.append(str(error))
    return said


def vanished(folder: Path, ranks: Ranks) -> dict[str, Any]:
    """What the first process says when the last one stops answering in the middle of a run."""
    folder.mkdir(exist_ok=True)
    ranks.settings, ranks.timeout = ParallelConfig(timeout=2.0), timedelta(seconds=2)
    spread._SET_TIMEOUT(ranks.timeout, dist.group.WORLD)
    if not ranks.first:
        rate_factor = loop.rate_factor

        def stopping(step: int, *rest: Any) -> float:
            if step == 3:
                (folder / "stopped").write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGSTOP)
            return rate_factor(step, *rest)

        loop.rate_factor = stopping  # type: ignore[assignment]
    began = time.monotonic()
    try:
        with ranks.watched():
            trained(folder, ranks)
    except UserError as error:
        os.kill(int((folder / "stopped").read_text()), signal.SIGKILL)
        return {"said": str(error), "seconds": time.monotonic() - began}
    raise AssertionError("nobody was missed")


def killed(folder: Path, ranks: Ranks) -> dict[str, Any]:
    """One process is killed in the middle of its first life; torchrun starts all again."""
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        loop.CHECKPOINT_SECONDS = 0.0
        if ranks.rank == 1:
            rate_factor = loop.rate_factor

            def dying(step: int, *rest: Any) -> float:
                if step == 7:
                    os.kill(os.getpid(), signal.SIGKILL)
                return rate_factor(step, *rest)

            loop.rate_factor = dying  # type: ignore[assignment]
    with ranks.watched():
        model, history, notes = trained(folder, ranks)
    if history:
        keep(model, folder)
    return {"notes": notes}


def main() -> None:
    case, folder = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    ranks = Ranks(ParallelConfig(timeout=60.0), "cpu")
    try:
        answer = globals()[case](folder, ranks)
    except UserError as error:
        sys.exit(f"rank {ranks.rank}: {error}")
    if ranks.first:
        print(json.dumps(answer), flush=True)
    dist.barrier()
    ranks.leave()


if __name__ == "__main__":
    main()
