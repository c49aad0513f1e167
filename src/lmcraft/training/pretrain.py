"""Stage `pretrain`: tokens -> a base model."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmcraft.inference.devices import resolve_device
from lmcraft.model import ModelConfig, Transformer, save_model
from lmcraft.recipe.stage import Input, Inputs, Runtime, Stage, UserError, count
from lmcraft.tokens import Tokenizer, TokenShards
from lmcraft.training.config import (
    PretrainConfig,
    TrainingPlan,
    choose_micro_rows,
    default_batch_tokens,
    derive_shape,
)
from lmcraft.training.hardware import resolve_precision
from lmcraft.training.heldout import heldout_bits_per_byte
from lmcraft.training.loader import Loader
from lmcraft.training.loop import resolve_machine, train
from lmcraft.training.objectives import next_token


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
    tokenizer = Tokenizer.load(inputs["tokenizer"])
    documents = Documents(TokenShards(inputs["tokens"], "train"))
    if documents.shards.tokenizer_sha256 != tokenizer.sha256:
        raise UserError("these tokens were made by another tokenizer; give the tokenizer step that `tokens` used")
    shape = derive_shape(
        config,
        tokenizer.vocab_size,
        {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id},
    )
    plan, loader = make_training_plan(config, shape, documents, runtime)
    model = Transformer(shape)
    model.initialise(config.seed)
    machine = resolve_machine(model, config, runtime, plan.train_tokens, plan.micro_rows * plan.row_tokens)
    resolved = {
        "shape": shape.model_dump(exclude={"bos_token_id", "eos_token_id", "pad_token_id"}),
        "plan": plan.describe(),
    }
    print_resolved({**resolved, "machine": machine.describe()}, runtime)
    evaluate = heldout_bits_per_byte(inputs["tokens"], plan.row_tokens, plan.micro_rows, config.heldout_tokens)
    history = train(
        model,
        loader,
        next_token(config.z_loss),
        config,
        steps=plan.steps,
        micro_rows=plan.micro_rows,
        machine=machine,
        evaluate=evaluate,
        out=out,
        runtime=runtime,
    )
    save_model(model.float(), out, "float32", list(tokenizer.stop_ids))
    tokenizer.save(out)
    (out / "training.json").write_text(json.dumps(resolved, indent=2) + "\n", encoding="utf-8")
    speeds = sorted(row["tokens_per_second"] for row in history.telemetry)
    mfus = sorted(row["mfu"] for row in history.telemetry)
    return {
        "parameters": plan.parameters,
        "steps": plan.steps,
        "tokens": plan.steps * plan.rows * plan.row_tokens,
        "heldout_bits_per_byte": history.metrics[-1].get("heldout_bits_per_byte"),
        "loss": next(row["loss"] for row in reversed(history.metrics) if "loss" in row),
        "tokens_per_second": round(speeds[len(speeds) // 2]),
        "mfu": round(mfus[len(mfus) // 2], 4),
        "matmul_floor_tokens_per_second": round(1 / machine.floor_seconds_per_token),
        **machine.describe(),
    }


def make_training_plan(
    config: PretrainConfig, shape: ModelConfig, documents: Documents, runtime: Runtime
) -> tuple[TrainingPlan, Loader]:
    """Derive the size of the run. Raises UserError when the corpus is too small for it."""
    corpus = documents.shards.tokens
    train_tokens = config.train_tokens or round(config.tokens_per_parameter * shape.parameters())
    row = config.context
    longest = int(documents.lengths.max())
    if longest < row:
        row = min(row, max(64, -(-longest // 64) * 64))
        runtime.progress.note(
            f"  no document is longer than {longest} tokens: rows of {row} instead of {config.context}"
        )
    batch = config.batch_tokens or default_batch_tokens(train_tokens, row)
    rows = max(1, batch // row)
    steps = max(1, train_tokens // (rows * row))
    if corpus < 2 * rows * row or train_tokens > config.max_epochs * corpus:
        raise UserError(
            f"the corpus has {count(corpus)} training tokens, too few for steps of {count(rows * row)} and "
            f"{count(train_tokens)} in all (at most {config.max_epochs:g} epochs): add text, or lower batch_tokens and "
            "train_tokens, or raise max_epochs"
        )
    micro_rows = choose_micro_rows(config, rows, row, resolve_device(runtime.device))
    loader = Loader(documents, row, rows, config.seed, packing=config.packing)
    plan = TrainingPlan(
        parameters=shape.parameters(),
        flops_per_token=shape.flops_per_token(row),
        train_tokens=steps * rows * row,
        corpus_tokens=corpus,
        epochs=round(steps * rows * row * loader.fill() / corpus, 3),
        row_tokens=row,
        rows=rows,
        micro_rows=micro_rows,
        steps=steps,
        packing_fill=round(loader.fill(), 4),
    )
    return plan, loader


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
    resolve_precision(config.precision, resolve_device(runtime.device))
    derive_shape(config, 4096, {})
    if runtime.tensorboard is not None and find_spec("tensorboard") is None:
        raise UserError('runtime.tensorboard needs TensorBoard: pip install "lmcraft[tensorboard]"')


def estimate(config: PretrainConfig, runtime: Runtime) -> float | None:
    """Seconds on this machine: operations over a quick measurement of its matrix products, at 35% of that rate."""
    from lmcraft.training.hardware import matmul_seconds_per_token

    shape = derive_shape(config, 4096, {})
    device = resolve_device(runtime.device)
    tokens = config.train_tokens or round(config.tokens_per_parameter * shape.parameters())
    floor = matmul_seconds_per_token(shape, 4096, resolve_precision(config.precision, device), device, budget_s=0.3)
    return tokens * floor / 0.35


def copy_tokenizer(source: Path, out: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)


STAGE = Stage(
    name="pretrain",
    version=1,
    config=PretrainConfig,
    inputs={"tokens": Input(("tokens",)), "tokenizer": Input(("tokenizer",))},
    output="model",
    run=run,
    help="Train a new model to predict the next token.",
    check=check,
    estimate=estimate,
    volatile=("telemetry.jsonl",),
)
