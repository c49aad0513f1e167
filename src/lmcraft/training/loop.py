"""The one training loop. Every kind of training is an objective given to it."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from lmcraft.inference.devices import resolve_device, use_workers
from lmcraft.model import Transformer
from lmcraft.recipe.stage import Runtime, Terminated, UserError
from lmcraft.training import energy
from lmcraft.training.checkpoint import Identity, rng_state, set_rng_state
from lmcraft.training.clock import Clock
from lmcraft.training.config import TrainingConfig
from lmcraft.training.float8 import check_float8, from_float8, to_float8
from lmcraft.training.hardware import (
    keep_freed_memory,
    matmul_flops_per_token,
    matmul_seconds_per_token,
    resolve_precision,
    wants_compile,
)
from lmcraft.training.loader import Loader, Prefetched
from lmcraft.training.loss import compiled_loss
from lmcraft.training.monitors import UNITS as MEASURED
from lmcraft.training.monitors import Monitors
from lmcraft.training.objectives import Batch, Objective, next_token
from lmcraft.training.optimizers import make_optimizers, rate_factor, set_schedule
from lmcraft.training.parallel import ALONE, Alone, spread_over
from lmcraft.training.stability import SpikeGuard

CHECKPOINT_SECONDS = 20.0
"""Time between checkpoints: what a kill can cost."""

QUICK_SAVE = 0.4
"""Seconds that a checkpoint may take. One that takes longer is made as much more seldom: that is 2% of the time."""

Evaluate = Callable[[Callable[[Batch], tuple[float, int]]], float]
"""Given a function from a batch to (nats, predicted tokens), gives a held-out figure."""

UNITS = {"heldout_bits_per_byte": "bits/byte", "heldout_masked_nats": "nats/mask"}
"""Of the held-out figures, for the progress bar."""


@dataclass
class History:
    """Rows of metrics.jsonl (the same whenever the run is repeated) and of telemetry.jsonl (times and speeds), and what
    the run cost in energy (energy.json)."""

    metrics: list[dict[str, Any]] = field(default_factory=list)
    telemetry: list[dict[str, Any]] = field(default_factory=list)
    energy: dict[str, Any] = field(default_factory=dict)

    @property
    def left_out(self) -> int:
        """Steps that the spike guard left out."""
        return sum(row.get("left_out", False) for row in self.metrics)

    def write(self, out: Path) -> None:
        (out / energy.FILE).write_text(json.dumps(self.energy, indent=2) + "\n", encoding="utf-8")
        for name, rows in (("metrics.jsonl", self.metrics), ("telemetry.jsonl", self.telemetry)):
            (out / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@dataclass(frozen=True)
class Machine:
    """Where and how a run computes, resolved once and written down."""

    device: torch.device
    dtype: torch.dtype
    compiled: bool
    floor_seconds_per_token: float
    float8: bool = False

    def describe(self) -> dict[str, Any]:
        return {
            "device": str(self.device),
            "precision": "float8" if self.float8 else str(self.dtype).removeprefix("torch."),
            "compiled": self.compiled,
            "threads": torch.get_num_threads(),
        }


def resolve_machine(model: Transformer, config: TrainingConfig, runtime: Runtime, tokens: int, micro: int) -> Machine:
    """Choose device, precision and compilation, and measure the matmul-bound time of a token."""
    use_workers(runtime.workers)
    keep_freed_memory()
    device = resolve_device(runtime.device)
    dtype = resolve_precision(config.precision, device)
    if config.precision == "float8":
        check_float8(device, runtime)
    elif dtype == torch.bfloat16 and resolve_precision("auto", device) != dtype:
        runtime.progress.note(f"  bfloat16 is set, but this {device.type} only emulates it: float32 would be faster")
    floor = matmul_seconds_per_token(model.config, micro, dtype, device)
    compiled = wants_compile(runtime, device, tokens * matmul_flops_per_token(model.config))
    return Machine(device, dtype, compiled, floor, config.precision == "float8")


def train(
    model: Transformer,
    loader: Loader,
    objective: Objective,
    config: TrainingConfig,
    *,
    steps: int,
    micro_rows: int,
    machine: Machine,
    evaluate: Evaluate | None,
    evaluated: str = "heldout_bits_per_byte",
    out: Path,
    runtime: Runtime,
    monitors: Monitors | None = None,
    clock: Clock | None = None,
    first_context: int | None = None,
    first_context_share: float = 0.0,
) -> History:
    """Train in place; returns the history, whose last row holds the final held-out figure, by the name `evaluated`.

    The gradient of a step is that of (sum of losses) / (sum of weights) over the whole batch, so it does not depend on
    `micro_rows`. A run that was killed goes on from `runtime.scratch` and ends with the same weights, bit for bit on
    the same machine; SIGTERM saves first. Raises UserError when the checkpoints there are of another run, and when the
    loss or the gradient stay far above what they were or are not finite; Terminated after SIGTERM. `monitors` are
    measured with each evaluation and after the last step, and written beside the history. With `clock` the run ends
    when its time is over, after `steps` at the latest, and the schedule follows the clock. Over the first
    `first_context_share` of the run rows are cut to `first_context` tokens, as many in all to a step. With
    `runtime.ranks` all ranks call it with the same arguments; the first one writes, and the others end with Followed.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)
    outputs: Any = torch.utils.deterministic
    outputs.fill_uninitialized_memory = False  # with NaN, in every kernel: that costs an eighth of a small step
    device = machine.device
    meter = energy.Meter(device, runtime.watts_per_core, runtime.ranks is None or runtime.ranks.local_rank == 0)
    spread = spread_over(runtime.ranks, model.config, first_context or loader.row_tokens)
    this_run = _identity(model, loader, config, steps)
    spread.agree(this_run)
    network = spread.network(model, device).train()
    optimizers = make_optimizers(network, config, machine.dtype)
    history = History()
    guard = SpikeGuard(config.spike_limit, steps)
    first = 0
    checkpoints = (runtime.scratch or out) / "checkpoints"
    if restored := spread.load(checkpoints, runtime.progress, this_run, network, optimizers):
        first, state = restored
        network.load_state_dict(state["model"])
        for optimizer, optimizer_state in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(optimizer_state)
        set_rng_state(state["rng"])
        history = History(json.loads(state["metrics"]), json.loads(state["telemetry"]))
        guard.restore(state["guard"])
        if monitors:
            monitors.rows = json.loads(state["monitors"])
        if clock:
            clock.restore(state["clock"])
        runtime.progress.note(f"  resuming at step {first} of {steps}")
        if state["precision"] != str(machine.dtype):
            runtime.progress.note(f"  which was made in {state['precision']}; from here on it is {machine.dtype}")
    linears = to_float8(network) if machine.float8 else []
    if machine.compiled:
        for part in (*network.model.layers, network.model.norm):
            part.compile(dynamic=False)
    board = _tensorboard(runtime)

    objective = spread.objective(objective)
    likelihood = spread.objective(next_token())  # without what the objective may add, such as z-loss

    def run_evaluation(step: int) -> float | None:
        if evaluate is None:
            return None
        with torch.no_grad(), torch.compiler.set_stance("force_eager"), _autocast(machine):
            value = evaluate(
                lambda batch: spread.sums(*likelihood(network, spread.part(batch).to(device), machine.dtype))
            )
        history.metrics.append({"step": step, evaluated: value})
        if board:
            board.add_scalar(evaluated, value, step)
        if monitors:
            _show(board, monitors.sources(step))
        return value

    def run_monitors(step: int) -> None:
        if monitors is None or not spread.whole_layers:
            return
        with torch.no_grad(), torch.compiler.set_stance("force_eager"), _autocast(machine):
            _show(board, monitors.forward(network, step, runtime.progress.note))
            spread.release(network)

    def evaluates_after(step: int) -> bool:
        if clock:
            return clock.crossed(config.evaluations)
        every = max(1, steps // config.evaluations) if config.evaluations else steps + 1
        return step % every == 0 and step < steps and steps - step >= every // 2

    if first == 0:
        run_evaluation(0)
    quality = _Best(history, evaluated)
    heldout = quality.last()
    step_tokens = loader.rows * loader.row_tokens
    flops = matmul_flops_per_token(model.config)
    rate = spread.size * flops / machine.floor_seconds_per_token
    micro_rows = spread.micro_rows(loader.rows, micro_rows)
    saved = mark = time.monotonic()
    saving = 0.0
    marked = first
    seconds_before = history.telemetry[-1]["seconds"] if history.telemetry else 0.0
    joules_before = history.telemetry[-1]["joules"] if history.telemetry else 0.0
    joules, joules_elsewhere = 0.0, 0.0

    def save(step: int) -> None:
        state = _state(network, optimizers, history, guard, monitors, clock, machine)
        spread.save(checkpoints, step, state, this_run, quality.now())

    done, total = first, None if clock else steps * step_tokens
    with (
        _Termination() as termination,
        runtime.progress.task("training", total, "tokens", first * step_tokens) as task,
        Prefetched(loader, steps) as batches,
    ):
        for step in range(first, steps):
            last = step + 1 == steps or (clock is not None and not clock.tick(spread.of_first(clock.spent())))
            at, of = step, steps
            if clock:  # or the text, seen as often as it may be, ends before the time does
                at, of = max(int(clock.share() * 10_000), step * 10_000 // steps), 10_000
            factor = rate_factor(at, of, config)
            set_schedule(optimizers, factor, step)
            batch, batch_rows = spread.part(batches.batch(step)), micro_rows
            batch = replace(batch, other_share=batch.other_share * (1 - at / of))
            if first_context and at < first_context_share * of:
                batch, batch_rows = batch.cut(first_context), micro_rows * (loader.row_tokens // first_context)
            loss, weight = _accumulate(network, batch, objective, batch_rows, machine, spread)
            evaluates = not last and evaluates_after(step + 1)
            before_step = monitors.before(network) if monitors and (evaluates or last) else None
            norm = spread.number(torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip_norm, foreach=True))
            done = step + 1
            row = {"step": done, "tokens": done * step_tokens, "loss": loss / weight, "rate": factor, "grad_norm": norm}
            if reason := guard.stands_out(loss / weight, norm):
                row["left_out"] = True
                runtime.progress.note(f"  step {done} is left out: {reason}")
                if guard.hopeless:
                    raise UserError(_hopeless(done, reason, guard, checkpoints))
            for optimizer in optimizers:
                if not reason:
                    optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            history.metrics.append(row)
            if monitors and before_step:
                before = time.monotonic()
                _show(board, monitors.after(before_step, done, factor, runtime.progress.note))
                run_monitors(done)
                mark += time.monotonic() - before
            now = time.monotonic()
            if now - mark >= 2.0 or last:
                speed = (done - marked) * step_tokens / (now - mark)
                share = speed * flops / rate
                seconds_before += now - mark
                joules = meter.joules()
                measured = {
                    "tokens_per_second": speed,
                    "matmul_share": share,
                    "joules": joules_before + joules + joules_elsewhere,
                }
                history.telemetry.append({"step": done, "seconds": round(seconds_before, 3), **measured})
                mark, marked = now, done
                if board:
                    for name in ("loss", "rate", "grad_norm"):
                        board.add_scalar(name, row[name], done)
                    board.add_scalar("tokens_per_second", speed, done)
            shown = f"loss {row['loss']:.3f}" + (f" · held-out {heldout:.3f} {UNITS[evaluated]}" if heldout else "")
            if clock:
                shown += f" · {clock.spent() / 60:.1f} of {clock.budget_s / 60:g} minutes"
            if history.telemetry:
                shown += f" · {history.telemetry[-1]['matmul_share']:.0%} of the matmul rate"
            task.advance(step_tokens, shown)
            if evaluates:
                before = time.monotonic()
                heldout = run_evaluation(done)
                mark += time.monotonic() - before
            wait = CHECKPOINT_SECONDS * max(1.0, saving / QUICK_SAVE)
            due = time.monotonic() - saved >= wait or quality.improved()
            if last:
                break
            due_anywhere, asked_anywhere, all_joules = spread.sum(due, termination.asked, joules)
            joules_elsewhere = all_joules - joules
            if due_anywhere or asked_anywhere:
                before = time.monotonic()
                joules = meter.joules()
                joules_elsewhere = spread.sum(joules)[0] - joules
                if history.telemetry:
                    history.telemetry[-1]["joules"] = joules_before + joules + joules_elsewhere
                save(done)
                saved = time.monotonic()
                saving = saved - before
                mark += saving
                if asked_anywhere:
                    runtime.progress.note(f"  stopped after step {done} of {steps}; what was learnt is saved")
                    raise Terminated
    from_float8(linears)
    run_evaluation(done)
    if board:
        board.close()
    joules, estimated = spread.sum(meter.joules(), not meter.measured)
    how = " / ".join(dict.fromkeys(spread.gather(meter.how)))
    how += f"; the sum of {spread.size} processes" if spread.size > 1 else ""
    spread.finish(network, model)
    model.eval()
    history.energy = energy.cost(joules_before + joules, how, not estimated, runtime)
    history.write(out)
    if monitors:
        monitors.write(out)
    return history


def _accumulate(
    model: Transformer,
    batch: Batch,
    objective: Objective,
    micro_rows: int,
    machine: Machine,
    spread: Alone = ALONE,
) -> tuple[float, int]:
    """Gradients of the whole batch's mean loss, of which `batch` is this process's part. Returns (sum of losses,
    weight) of the whole."""
    total, weight = torch.zeros((), device=machine.device), 0
    for start in range(0, batch.tokens.shape[0], micro_rows):
        micro = batch.rows(start, start + micro_rows).to(machine.device)
        with _autocast(machine), compiled_loss(machine.compiled):
            loss, micro_weight = objective(model, micro, machine.dtype)
        loss.backward()
        total, weight = total + loss.detach(), weight + micro_weight
    losses, weight = spread.sums(total, weight)
    weight = max(weight, 1)
    torch._foreach_div_([p.grad for p in model.parameters() if p.grad is not None], float(weight))
    return losses, weight


def _autocast(machine: Machine) -> torch.autocast:
    return torch.autocast(machine.device.type, dtype=torch.bfloat16, enabled=machine.dtype == torch.bfloat16)


class _Best:
    """Held-out figures as the history has them by name, and whether they were never so low."""

    def __init__(self, history: History, name: str) -> None:
        self.history, self.name = history, name
        self.seen = len(self._values())

    def _values(self) -> list[float]:
        return [row[self.name] for row in self.history.metrics if self.name in row]

    def last(self) -> float | None:
        return next(reversed(self._values()), None)

    def now(self) -> float | None:
        """That of the last step, if it was measured there."""
        last = self.history.metrics[-1] if self.history.metrics else {}
        return last.get(self.name)

    def improved(self) -> bool:
        """Whether a new lowest value came since the last question."""
        values = self._values()
        new, self.seen = values[self.seen :], len(values)
        return bool(new) and min(new) == min(values)


class _Termination:
    """Hears SIGTERM (a scheduler that takes the machine away) while it is open, in the main thread."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def _hear(self, number: int, frame: object) -> None:
        self.asked = True

    def __enter__(self) -> _Termination:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._hear)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)


def _identity(model: Transformer, loader: Loader, config: TrainingConfig, steps: int) -> Identity:
    """What the next step depends on besides the checkpoint."""
    return {
        "settings": config.identity(),
        "network": model.config.model_dump(mode="json"),
        "data": {
            "tokenizer": loader.tokenizer,
            "fingerprint": loader.fingerprint(),
            "row_tokens": loader.row_tokens,
            "rows": loader.rows,
            "seed": loader.seed,
            "packing": loader.packing,
        },
        "steps": steps,
    }


def _state(
    network: Transformer,
    optimizers: list[torch.optim.Optimizer],
    history: History,
    guard: SpikeGuard,
    monitors: Monitors | None,
    clock: Clock | None,
    machine: Machine,
) -> dict[str, Any]:
    """All that the next step depends on."""
    return {
        "model": network.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "rng": rng_state(),
        "metrics": json.dumps(history.metrics),  # texts: of a long run they are most of the state
        "telemetry": json.dumps(history.telemetry),
        "guard": guard.state(),
        "monitors": json.dumps(monitors.rows if monitors else []),
        "clock": clock.state() if clock else None,
        "precision": str(machine.dtype),
    }


def _hopeless(step: int, reason: str, guard: SpikeGuard, checkpoints: Path) -> str:
    kept = sorted(path.name for path in checkpoints.glob("step-*"))
    back = f"the last good checkpoint ({kept[-1]}) is kept" if kept else "no checkpoint was written yet"
    cure = "lower learning_rate or embedding_learning_rate, or set precision: float32"
    if not guard.losses:
        cure = "no step was taken yet, so no rate is at fault: look at the input model's weights, or lower z_loss, or "
        cure += "set precision: float32"
    return f"training stopped at step {step}: {reason}; steps left out in a row: {guard.left_out}; {back}; {cure}"


def _show(board: Any, rows: list[dict[str, Any]]) -> None:
    """Rows of the monitors on the board, a chart a measurement with a line a layer or source."""
    for row in rows if board else ():
        place = f"layer {row['layer']}" if "layer" in row else row["source"]
        for name in MEASURED:
            if row.get(name) is not None:
                board.add_scalar(f"{name}/{place}", row[name], row["step"])


def _tensorboard(runtime: Runtime) -> Any:
    if runtime.tensorboard is None:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError('runtime.tensorboard needs TensorBoard: pip install "lmcraft[tensorboard]"') from None
    return SummaryWriter(str(runtime.tensorboard))
