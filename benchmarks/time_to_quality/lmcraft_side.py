"""Our side: the stages `tokenizer`, `tokens` and `pretrain` as a recipe has them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.time_to_quality.contest import Clock, Trained, say


@dataclass
class Settings:
    vocab: int = say("vocab_size of the tokenizer", 4096)
    recipe: str = say("a recipe whose first pretrain step gives the settings", "")
    set: list[str] = field(
        default_factory=list,
        metadata={"help": "a setting of pretrain, name=value, again for each; goes before the recipe's"},
    )
    compile: str = say("runtime.compile: auto, on, off", "on")


def prepare(data: Path, folder: Path, settings: Settings) -> None:
    from lmcraft.recipe.stage import Runtime
    from lmcraft.tokens import pack, train

    inputs = {"documents": data / "documents", "tokenizer": folder / "tokenizer"}
    for name in ("tokenizer", "tokens"):
        (folder / name).mkdir(exist_ok=True)
    train.run(train.TokenizerConfig(vocab_size=settings.vocab), inputs, folder / "tokenizer", Runtime())
    pack.run(pack.TokensConfig(), inputs, folder / "tokens", Runtime())


WRITING_S = 1.0
"""Kept for writing the model once the last step is done."""

REHEARSAL_S = 30.0


def train(data: Path, folder: Path, settings: Settings, seed: int, clock: Clock, work: Path) -> Trained:
    from lmcraft.training import pretrain

    budget = clock.budget if clock.most_steps is None else REHEARSAL_S
    config = _with(make_config(settings, seed), train_minutes=(budget - clock.elapsed() - WRITING_S) / 60)
    summary = pretrain.run(config, _inputs(folder), _fresh(work / "model"), _runtime(settings, work))
    seconds = clock.elapsed()

    from benchmarks.time_to_quality.judging import Judge
    from lmcraft.model import load_model
    from lmcraft.tokens import Tokenizer

    model, tokenizer = load_model(work / "model"), Tokenizer.load(work / "model")
    return Trained(
        judge=Judge(model, tokenizer.encode, tokenizer.bos_id, model.config.max_position_embeddings),
        parameters=summary["parameters"],
        tokens=summary["tokens"],
        steps=summary["steps"],
        notes={"pretrain": config.identity(), "summary": summary},
        seconds=seconds,
    )


def make_config(settings: Settings, seed: int) -> Any:
    from lmcraft.training.config import PretrainConfig

    values: dict[str, Any] = {}
    if settings.recipe:
        steps = yaml.safe_load(Path(settings.recipe).read_text(encoding="utf-8"))["steps"].values()
        found = next(step for step in steps if step["stage"] == "pretrain")
        sizes = ("train_tokens", "tokens_per_parameter", "train_minutes")
        values = {
            name: value for name, value in found.items() if name in PretrainConfig.model_fields and name not in sizes
        }
    for each in settings.set:
        name, _, value = each.partition("=")
        values[name] = yaml.safe_load(value)
    return PretrainConfig(**{"max_epochs": 1000.0, **values, "seed": seed})


def _with(config: Any, **values: Any) -> Any:
    return type(config)(**(config.model_dump(exclude_unset=True) | values))


def _inputs(folder: Path) -> dict[str, Path]:
    return {"tokens": folder / "tokens", "tokenizer": folder / "tokenizer"}


def _runtime(settings: Settings, work: Path) -> Any:
    from lmcraft.recipe.stage import Runtime

    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    return Runtime(device="cpu", workers=threads, compile=settings.compile, scratch=_fresh(work / "scratch"))


def _fresh(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder
