"""Stage `sft`: model + conversations -> a model that answers (supervised fine-tuning)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lmcraft.inference.devices import resolve_device
from lmcraft.model import load_model, refuse_spoilt_weights, save_model
from lmcraft.posttraining.conversations import read_conversations
from lmcraft.recipe.stage import Input, Inputs, Runtime, Stage, UserError, count
from lmcraft.tokens import Tokenizer
from lmcraft.training.config import TrainingConfig, choose_micro_rows
from lmcraft.training.continued import refuse_ids_beyond
from lmcraft.training.float8 import check_float8
from lmcraft.training.hardware import resolve_precision
from lmcraft.training.loader import Loader
from lmcraft.training.loop import resolve_machine, train
from lmcraft.training.memory import check_memory
from lmcraft.training.monitors import Monitors
from lmcraft.training.objectives import next_token
from lmcraft.training.pretrain import copy_tokenizer, print_resolved


class SFTConfig(TrainingConfig):
    """Fine-tuning on conversations: the loss is on the assistant's words and their stop token only."""

    learning_rate: float = Field(0.01, gt=0, description="peak rate of the matrices")
    embedding_learning_rate: float = Field(0.003, gt=0, description="peak rate of AdamW for embeddings and head")
    head_learning_rate: float | None = Field(0.001, gt=0, description="of the head where it is not tied")
    norm_learning_rate: float = Field(0.001, gt=0, description="peak rate of AdamW for norm weights")
    weight_decay: float = Field(0.0, ge=0)
    decay: float = Field(0.8, ge=0, le=1, description="share of the steps, at the end, in which the rate falls")
    batch_tokens: int = Field(8192, gt=0, description="tokens of a step")
    context: int | None = Field(
        None,
        gt=0,
        description="tokens of a row, and of the longest conversation; default: the model's, or batch_tokens",
    )
    epochs: float = Field(1.0, gt=0, description="how often each conversation is seen")


class Conversations:
    """Tokenised conversations; trained on the assistant's tokens."""

    def __init__(self, file: Path, tokenizer: Tokenizer, longest: int):
        rows = read_conversations(file)
        pairs = tokenizer.encode_chats([row["messages"] for row in rows])
        kept = [(ids, mask) for ids, mask in pairs if len(ids) <= longest]
        self.too_long = len(pairs) - len(kept)
        self.ids = [np.asarray(ids, np.int64) for ids, _ in kept]
        self.masks = [np.asarray(mask, np.bool_) for _, mask in kept]

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.asarray([len(ids) for ids in self.ids], np.int64)

    def tokens_of(self, number: int) -> NDArray[np.int64]:
        return self.ids[number]

    def trained_on(self, number: int) -> NDArray[np.bool_]:
        return self.masks[number]


def run(config: SFTConfig, inputs: Inputs, out: Path, runtime: Runtime) -> dict[str, Any]:
    tokenizer = Tokenizer.load(inputs["model"])
    model = load_model(inputs["model"])
    refuse_spoilt_weights(model, inputs["model"])
    refuse_ids_beyond(inputs["model"], tokenizer, model.config)
    if not model.config.causal:
        raise UserError(
            f"{inputs['model']} fills masks and cannot learn to answer: pretrain with objective: next_token or mixed"
        )
    longest = model.config.max_position_embeddings
    row = min(longest, config.context or config.batch_tokens)
    if config.context and config.context > longest:
        raise UserError(f"context is {config.context}, but the model's is {longest}: lower it, or leave it out")
    conversations = Conversations(inputs["conversations"] / "train.jsonl", tokenizer, row)
    if not conversations.ids:
        raise UserError(
            f"none of the {conversations.too_long} conversations fits rows of {row} tokens; "
            + ("pretrain with a longer context" if row == longest else "raise context or batch_tokens")
            if conversations.too_long
            else "there are no conversations to learn from"
        )
    rows = max(1, config.batch_tokens // row)
    loader = Loader(conversations, row, rows, config.seed, split=False, tokenizer=tokenizer.sha256)
    epoch_rows = len(loader.epoch(0))
    steps = max(1, round(config.epochs * epoch_rows / rows))
    micro_rows = choose_micro_rows(config, rows, row, resolve_device(runtime.device))
    memory = check_memory(model.config, config, runtime, rows=rows, micro_rows=micro_rows, row_tokens=row)
    machine = resolve_machine(model, config, runtime, steps * rows * row, micro_rows * row)
    resolved = {
        "plan": {
            "conversations": len(conversations.ids),
            "too_long": conversations.too_long,
            "conversation_tokens": int(conversations.lengths.sum()),
            "answer_tokens": int(sum(mask.sum() for mask in conversations.masks)),
            "row_tokens": row,
            "rows": rows,
            "micro_rows": micro_rows,
            "steps": steps,
            "epochs": config.epochs,
            "packing_fill": round(loader.fill(), 4),
        },
    }
    print_resolved({**resolved, "memory": memory, "machine": machine.describe()}, runtime)
    if conversations.too_long:
        runtime.progress.note(f"  left out {count(conversations.too_long)} conversations longer than {row} tokens")
    history = train(
        model,
        loader,
        next_token(config.z_loss),
        config,
        steps=steps,
        micro_rows=micro_rows,
        machine=machine,
        evaluate=None,
        out=out,
        runtime=runtime,
        monitors=Monitors(loader.batch(0).rows(0, micro_rows)),
    )
    save_model(model.float(), out, "float32", list(tokenizer.stop_ids))
    copy_tokenizer(inputs["model"], out)
    (out / "training.json").write_text(json.dumps(resolved, indent=2) + "\n", encoding="utf-8")
    speeds = sorted(row["tokens_per_second"] for row in history.telemetry)
    return {
        "steps": steps,
        "tokens": steps * rows * row,
        "steps_left_out": history.left_out,
        "loss": history.metrics[-1]["loss"],
        "tokens_per_second": round(speeds[len(speeds) // 2]),
        "energy": history.energy,
        **machine.describe(),
    }


def check(config: SFTConfig, runtime: Runtime) -> None:
    device = resolve_device(runtime.device)
    resolve_precision(config.precision, device)
    if config.precision == "float8":
        check_float8(device, runtime)


STAGE = Stage(
    name="sft",
    version=6,
    config=SFTConfig,
    inputs={"model": Input(("model",)), "conversations": Input(("conversations",))},
    output="model",
    run=run,
    help="Fine-tune a model on conversations.",
    check=check,
    volatile=("telemetry.jsonl", "energy.json"),
    ranks=True,
)
