"""The `Trainer` of transformers with a Qwen3 or Llama config and AdamW; needs its `accelerate`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.time_to_quality import plain_bpe
from benchmarks.time_to_quality.contest import Clock, Rows, TokenFile, Trained, say


@dataclass
class Settings:
    family: str = say("qwen3 or llama", "qwen3")
    vocab: int = say("tokens of its BPE", 4096)
    depth: int = say("layers", 4)
    width: int = say("of the model", 256)
    head_dim: int = say("of a head", 64)
    mlp: int = say("width of the feed-forward layers; 0: 8/3 of the width in 64s", 0)
    context: int = say("tokens of a row", 512)
    batch: int = say("tokens of a step", 8192)
    device_batch: int = say("rows of a forward pass; 0: those of a step", 0)
    tie: bool = say("one table for embeddings and head", True)
    bf16: bool = say("autocast", True)
    compile: bool = say("torch.compile", True)
    lr: float = say("peak rate of AdamW", 3e-3)
    schedule: str = say("cosine or wsd (linear to the end over the last 40%)", "cosine")
    warmup: float = say("share of the run", 0.03)
    final: float = say("last rate as a share of the peak", 0.05)
    weight_decay: float = say("", 0.1)
    beta2: float = say("", 0.95)
    clip: float = say("largest norm of the gradient", 1.0)


def prepare(data: Path, folder: Path, settings: Settings) -> None:
    plain_bpe.prepare(data, folder, settings.vocab)


def train(data: Path, folder: Path, settings: Settings, seed: int, clock: Clock, work: Path) -> Trained:
    import torch
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
        Trainer,
        TrainerCallback,
        TrainingArguments,
        set_seed,
    )

    set_seed(seed)
    config_of, model_of = {"qwen3": (Qwen3Config, Qwen3ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}[
        settings.family
    ]
    tokenizer = plain_bpe.PlainBPE(folder)
    heads = settings.width // settings.head_dim
    model = model_of(
        config_of(
            vocab_size=tokenizer.size,
            hidden_size=settings.width,
            intermediate_size=settings.mlp or -(-settings.width * 8 // (3 * 64)) * 64,
            num_hidden_layers=settings.depth,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            head_dim=settings.head_dim,
            max_position_embeddings=settings.context,
            tie_word_embeddings=settings.tie,
            use_cache=False,
            bos_token_id=tokenizer.bos,
            eos_token_id=tokenizer.bos,
            pad_token_id=None,
        )
    )
    rows = Rows(TokenFile.open(folder), settings.context - 1, seed)  # it shifts the labels itself

    class Dataset(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, number: int) -> dict[str, Any]:
            ids = torch.from_numpy(rows.row(number))
            return {"input_ids": ids, "labels": ids}

    class Timed(Trainer):
        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer, lambda _: rate(clock.share(), settings)
            )
            return self.lr_scheduler

    class Stop(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            clock.another_step()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = not clock.another_step()

    step_rows = settings.batch // settings.context
    micro = settings.device_batch or step_rows
    trainer = Timed(
        model=model,
        train_dataset=Dataset(),
        callbacks=[Stop()],
        args=TrainingArguments(
            output_dir=str(work),
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=step_rows // micro,
            max_steps=10**6,
            learning_rate=settings.lr,
            weight_decay=settings.weight_decay,
            adam_beta2=settings.beta2,
            max_grad_norm=settings.clip,
            optim="adamw_torch_fused",
            bf16=settings.bf16,
            torch_compile=settings.compile,
            use_cpu=True,
            seed=seed,
            logging_strategy="no",
            save_strategy="no",
            eval_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_drop_last=True,
        ),
    )
    trainer.train()
    seconds = clock.elapsed()

    from benchmarks.time_to_quality.judging import Judge

    steps = trainer.state.global_step
    model.float().eval()
    return Trained(
        judge=Judge(lambda tokens: model(tokens).logits, tokenizer.encode, tokenizer.bos, settings.context),
        parameters=sum(each.numel() for each in model.parameters()),
        tokens=steps * step_rows * settings.context,
        steps=steps,
        seconds=seconds,
    )


def rate(share: float, settings: Settings) -> float:
    """Linear warm-up, then a cosine or flat and linear, down to `final`. At least a little in the first step."""
    if share < settings.warmup:
        return max(share / settings.warmup, 0.01)
    if settings.schedule == "wsd":
        left = min(1.0, (1 - share) / 0.4)
    else:
        left = 0.5 * (1 + math.cos(math.pi * (share - settings.warmup) / (1 - settings.warmup)))
    return settings.final + (1 - settings.final) * left
