"""Stage `pretrain`: tokens -> a base model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lmcraft.inference.devices import resolve_device
from lmcraft.model import ModelConfig, Transformer, save_model
from lmcraft.model.planted import plant_heads
from lmcraft.recipe.stage import Input, Inputs, Runtime, Stage, UserError, count
from lmcraft.tokens import Tokenizer, TokenShards
from lmcraft.tokens.tokenizer import MASK
from lmcraft.training.ahead import Ahead, next_tokens
from lmcraft.training.balancing import balanced
from lmcraft.training.clock import Clock
from lmcraft.training.config import (
    CLOCKED_BATCH_TOKENS,
    PretrainConfig,
    TrainingPlan,
    choose_micro_rows,
    default_batch_tokens,
    derive_shape,
    ngram_share,
    plants_heads,
)
from lmcraft.training.continued import continue_from, refuse_what_needs_a_model
from lmcraft.training.float8 import check_float8
from lmcraft.training.hardware import resolve_precision
from lmcraft.training.heldout import Evaluate, heldout_bits_per_byte, heldout_masked_nats, monitored_batch
from lmcraft.training.loader import Loader
from lmcraft.training.loop import resolve_machine, train
from lmcraft.training.masking import Masking
from lmcraft.training.memory import available_bytes, check_memory, shown_bytes
from lmcraft.training.monitors import Monitors
from lmcraft.training.ngram_labels import SORTING_BYTES, NgramLabels
from lmcraft.training.objectives import Batch, next_token


class Documents:
    """The documents of a split as sequences in which every token but the first is predicted."""

    def __init__(self, shards: TokenShards):
        self.shards = shards

    @property
    def lengths(self) -> NDArray[np.int64]:
        return self.shards.lengths

    def tokens_of(self, number: int) -> NDArray[Any]:
        return self.shards.document(number)

    def trained_on(self, number: int) -> None:
        return None


def run(config: PretrainConfig, inputs: Inputs, out: Path, runtime: Runtime) -> dict[str, Any]:
    clock = Clock(60 * config.train_minutes) if config.train_minutes else None
    tokenizer = Tokenizer.load(inputs["tokenizer"])
    documents = Documents(TokenShards(inputs["tokens"], "train"))
    if documents.shards.tokenizer_sha256 != tokenizer.sha256:
        raise UserError("these tokens were made by another tokenizer; give the tokenizer step that `tokens` used")
    special = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    masking = make_masking(config, tokenizer)
    if masking is not None:
        special["mask_token_id"] = masking.mask_id
    model = continue_from(inputs["model"], config, tokenizer, special) if "model" in inputs else None
    if model is None:
        refuse_what_needs_a_model(config)
    elif config.planted_heads:
        raise UserError("planted_heads is how a new network starts, and this step has an input model: leave it out")
    shape = model.config if model else derive_shape(config, tokenizer.vocab_size, special)
    planted = model is None and plants_heads(config, shape)
    share = ngram_share(config, documents.shards.tokens, new=model is None)
    plan, loader = make_training_plan(config, shape, documents, runtime, masking, share)
    memory = check_memory(
        shape,
        config,
        runtime,
        rows=plan.rows,
        micro_rows=plan.micro_rows,
        row_tokens=plan.row_tokens,
        ahead=config.predict_ahead,
    )
    if model is None:
        model = Transformer(shape)
        model.initialise(config.seed)
        if planted:
            plant_heads(model, config.seed)
    objective = next_token(config.z_loss)
    if config.predict_ahead:
        ahead = Ahead(shape, config.predict_ahead)
        ahead.initialise(config.seed)
        model.add_module("ahead", ahead)  # so that the optimizers and the checkpoints have it
        objective = next_tokens(config.predict_ahead_weight, config.z_loss)
    machine = resolve_machine(model, config, runtime, plan.train_tokens, plan.micro_rows * plan.row_tokens)
    resolved = {
        "shape": shape.model_dump(
            exclude={"bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id"}, exclude_none=True
        ),
        "plan": {**plan.describe(), "planted_heads": planted, "ngram_smoothing": share},
    }
    print_resolved({**resolved, "memory": memory, "machine": machine.describe()}, runtime)
    heldout = make_evaluations(config, inputs["tokens"], plan, masking)
    on_the_way, *afterwards = heldout
    history = train(
        model,
        loader,
        balanced(objective, config.router_aux_loss) if shape.has_experts else objective,
        config,
        steps=plan.steps,
        micro_rows=plan.micro_rows,
        machine=machine,
        evaluate=heldout[on_the_way],
        evaluated=on_the_way,
        out=out,
        runtime=runtime,
        clock=clock,
        first_context=plan.first_row_tokens,
        first_context_share=config.first_context_share,
        monitors=Monitors(
            monitored_batch(inputs["tokens"], plan.row_tokens, masking) or loader.batch(0).rows(0, plan.micro_rows),
            heldout[on_the_way],
        ),
    )
    model = model.float().to(machine.device)
    if config.predict_ahead:
        del model.ahead
    for name in afterwards:
        if (evaluate := heldout[name]) is not None:
            history.metrics[-1][name] = evaluate(nats_of(model, machine.device))
    history.write(out)
    save_model(model, out, "float32", list(tokenizer.stop_ids))
    tokenizer.save(out)
    (out / "training.json").write_text(json.dumps(resolved, indent=2) + "\n", encoding="utf-8")
    speeds = sorted(row["tokens_per_second"] for row in history.telemetry)
    shares = sorted(row["matmul_share"] for row in history.telemetry)
    steps = max(row["step"] for row in history.metrics)
    return {
        "parameters": plan.parameters,
        "steps": steps,
        "tokens": steps * plan.rows * plan.row_tokens,
        "steps_left_out": history.left_out,
        **{name: history.metrics[-1].get(name) for name in heldout},
        "loss": next(row["loss"] for row in reversed(history.metrics) if "loss" in row),
        "tokens_per_second": round(speeds[len(speeds) // 2]),
        "matmul_share": round(shares[len(shares) // 2], 4),
        "matmul_floor_tokens_per_second": round(1 / machine.floor_seconds_per_token),
        "energy": history.energy,
        **machine.describe(),
    }


def make_masking(config: PretrainConfig, tokenizer: Tokenizer) -> Masking | None:
    """None for `next_token`. Raises UserError when the tokenizer has no mask."""
    if config.objective == "next_token":
        return None
    if tokenizer.mask_id is None:
        raise UserError(
            f"objective {config.objective} hides tokens under {MASK}, which this tokenizer lacks: give its step "
            "mask_token: true"
        )
    rows = 1.0 if config.objective == "masked" else config.masked_rows
    spans = config.masking == "spans"
    return Masking(tokenizer.mask_id, tokenizer.special_ids, config.mask_share, spans, rows, config.seed)


def make_evaluations(
    config: PretrainConfig, tokens: Path, plan: TrainingPlan, masking: Masking | None
) -> dict[str, Evaluate | None]:
    """What is measured on held-out text, by name: the first on the way and at the end, others at the end."""
    size = (plan.row_tokens, plan.micro_rows, config.heldout_tokens)
    found: dict[str, Evaluate | None] = {}
    if config.objective != "masked":
        found["heldout_bits_per_byte"] = heldout_bits_per_byte(tokens, *size)
    if masking is not None:
        found["heldout_masked_nats"] = heldout_masked_nats(tokens, *size, masking)
    return found


def nats_of(model: Transformer, device: torch.device) -> Callable[[Batch], tuple[float, int]]:
    """Nats and number of the labelled tokens of a batch, in float32."""
    objective = next_token()

    @torch.no_grad()
    def measure(batch: Batch) -> tuple[float, int]:
        nats, predicted = objective(model, batch.to(device), torch.float32)
        return float(nats), predicted

    return measure


def make_training_plan(
    config: PretrainConfig,
    shape: ModelConfig,
    documents: Documents,
    runtime: Runtime,
    masking: Masking | None = None,
    share: float = 0.0,
) -> tuple[TrainingPlan, Loader]:
    """Derive the size of the run. Raises UserError when the corpus is too small for it."""
    corpus = documents.shards.tokens
    if config.train_minutes:
        train_tokens = int(config.max_epochs * corpus)  # the clock ends it before
    else:
        train_tokens = config.train_tokens or round(config.tokens_per_parameter * shape.parameters(active=True))
    row = config.context
    longest = int(documents.lengths.max())
    if longest < row:
        row = min(row, max(64, -(-longest // 64) * 64))
        runtime.progress.note(
            f"  no document is longer than {longest} tokens: rows of {row} instead of {config.context}"
        )
    first = config.first_context
    if first and row % first:
        runtime.progress.note(
            f"  rows of {row} tokens are not cut to first_context ({first}), which does not divide them"
        )
        first = None
    derived = CLOCKED_BATCH_TOKENS if config.train_minutes else default_batch_tokens(train_tokens, row)
    batch = config.batch_tokens or derived
    if batch < row:
        runtime.progress.note(f"  steps of one row of {row} tokens: batch_tokens ({batch}) does not hold one")
    rows = max(1, batch // row)
    steps = max(1, train_tokens // (rows * row))
    if corpus < 2 * rows * row or train_tokens > config.max_epochs * corpus:
        raise UserError(
            f"the corpus has {count(corpus)} training tokens, too few for steps of {count(rows * row)} and "
            f"{count(train_tokens)} in all (at most {config.max_epochs:g} epochs): add text, or lower batch_tokens and "
            "train_tokens, or raise max_epochs"
        )
    micro_rows = choose_micro_rows(config, rows, row, resolve_device(runtime.device))
    labels = make_ngram_labels(documents, share, config.seed, runtime) if share else None
    loader = Loader(
        documents,
        row,
        rows,
        config.seed,
        packing=config.packing,
        masking=masking,
        ngram_labels=labels,
        tokenizer=documents.shards.tokenizer_sha256,
    )
    plan = TrainingPlan(
        parameters=shape.parameters(),
        active_parameters=shape.parameters(active=True),
        flops_per_token=shape.flops_per_token(row),
        train_tokens=steps * rows * row,
        corpus_tokens=corpus,
        epochs=round(steps * rows * row * loader.fill() / corpus, 3),
        row_tokens=row,
        first_row_tokens=first,
        rows=rows,
        micro_rows=micro_rows,
        steps=steps,
        packing_fill=round(loader.fill(), 4),
    )
    return plan, loader


def make_ngram_labels(documents: Documents, share: float, seed: int, runtime: Runtime) -> NgramLabels:
    """Raises UserError when there is too little memory to sort the text; the processes of a machine share it."""
    needed = documents.shards.tokens * SORTING_BYTES
    available = available_bytes(torch.device("cpu")) // (runtime.ranks.local_size if runtime.ranks else 1)
    if needed > available:
        raise UserError(
            f"ngram_smoothing sorts the training text, for which this process needs about {shown_bytes(needed)} of "
            f"memory and has {shown_bytes(available)}: set ngram_smoothing to 0, or free memory"
        )
    tokens = np.concatenate([documents.tokens_of(n) for n in range(len(documents.lengths))])
    return NgramLabels(tokens, documents.shards.vocab_size, share, seed)


def print_resolved(resolved: dict[str, Any], runtime: Runtime) -> None:
    """Every derived value, a line a group: what was chosen can be seen and set."""
    for group, values in resolved.items():
        shown = ", ".join(f"{name} {_figure(value)}" for name, value in values.items())
        runtime.progress.note(f"  {group}: {shown}")


def _figure(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 100_000:
        return count(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def check(config: PretrainConfig, runtime: Runtime) -> None:
    refuse_to_part(config, runtime)
    device = resolve_device(runtime.device)
    resolve_precision(config.precision, device)
    if config.precision == "float8":
        check_float8(device, runtime)
    smallest = derive_shape(config, 512, {})  # what text there is, and its vocabulary, is not known yet
    plants_heads(config, smallest)
    check_memory(smallest, config, runtime, rows=1, micro_rows=1, row_tokens=1)
    if runtime.tensorboard is not None and find_spec("tensorboard") is None:
        raise UserError('runtime.tensorboard needs TensorBoard: pip install "lmcraft[tensorboard]"')


def refuse_to_part(config: PretrainConfig, runtime: Runtime) -> None:
    """Raises UserError for what reads whole rows where processes are to share them."""
    if runtime.ranks is None or not runtime.ranks.shares_layers:
        return
    if config.predict_ahead:
        raise UserError("predict_ahead reads rows whole: set runtime.parallel.tensor and runtime.parallel.context to 1")
    if config.objective != "next_token" and runtime.ranks.settings.context > 1:
        raise UserError("masked rows see both sides of a token: set runtime.parallel.context: 1")


def estimate(config: PretrainConfig, runtime: Runtime) -> float | None:
    """Seconds on this machine: operations over a quick measurement of its matrix products, at 35% of that rate."""
    from lmcraft.training.hardware import matmul_seconds_per_token

    if config.train_minutes:
        return 60 * config.train_minutes
    shape = derive_shape(config, 4096, {})
    device = resolve_device(runtime.device)
    tokens = config.train_tokens or round(config.tokens_per_parameter * shape.parameters(active=True))
    floor = matmul_seconds_per_token(shape, 4096, resolve_precision(config.precision, device), device, budget_s=0.3)
    return tokens * floor / 0.35


def copy_tokenizer(source: Path, out: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)


STAGE = Stage(
    name="pretrain",
    version=7,
    config=PretrainConfig,
    inputs={
        "tokens": Input(("tokens",)),
        "tokenizer": Input(("tokenizer", "model")),
        "model": Input(("model",), required=False),
    },
    output="model",
    run=run,
    help="Train a new model: to predict the next token, to fill masks, or both.",
    check=check,
    estimate=estimate,
    volatile=("telemetry.jsonl", "energy.json"),
    ranks=True,
)
