"""Our side: the stages `tokenizer`, `tokens` and `pretrain` as a recipe has them."""

from __future__ import annotations

import json
import os
import statistics
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
    probe_seconds: float = say("of the run before the clock that measures the speed", 25.0)


def prepare(data: Path, folder: Path, settings: Settings) -> None:
    from lmcraft.recipe.stage import Runtime
    from lmcraft.tokens import pack, train

    inputs = {"documents": data / "documents", "tokenizer": folder / "tokenizer"}
    for name in ("tokenizer", "tokens"):
        (folder / name).mkdir(exist_ok=True)
    train.run(train.TokenizerConfig(vocab_size=settings.vocab), inputs, folder / "tokenizer", Runtime())
    pack.run(pack.TokensConfig(), inputs, folder / "tokens", Runtime())


def rehearse(data: Path, folder: Path, settings: Settings, seed: int, clock: Clock, work: Path) -> dict[str, Any]:
    """A short run before the clock starts, to know how many tokens fit: `pretrain` is sized by tokens."""
    from lmcraft.training import pretrain
    from lmcraft.training.config import default_batch_tokens

    config = make_config(settings, seed)
    runtime = _runtime(settings, work)
    per_second = 1e6 / (pretrain.estimate(_with(config, train_tokens=1_000_000), runtime) or 1)
    batch = config.batch_tokens or default_batch_tokens(round(clock.budget * per_second), config.context)
    tokens = max(3 * batch, round(settings.probe_seconds * per_second))
    started = clock.elapsed()
    summary = pretrain.run(
        _with(config, train_tokens=tokens, batch_tokens=batch), _inputs(folder), _fresh(work / "model"), runtime
    )
    rows = [json.loads(line) for line in (work / "model" / "telemetry.jsonl").read_text().splitlines()]
    speed = statistics.median(row["tokens_per_second"] for row in rows[len(rows) // 3 :])
    # What a run takes besides its steps at full speed: imports before this, compilation, the writing of the model.
    overhead = clock.elapsed() - summary["tokens"] / speed
    return {"tokens_per_second": speed, "overhead": overhead, "imports": started}


def train(
    data: Path, folder: Path, settings: Settings, seed: int, clock: Clock, work: Path, rehearsed: dict[str, Any]
) -> Trained:
    from lmcraft.training import pretrain

    config = fit_to_budget(make_config(settings, seed), clock, rehearsed)
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
        notes={"pretrain": config.identity(), "summary": summary, "rehearsed": rehearsed},
        seconds=seconds,
    )


def fit_to_budget(config: Any, clock: Clock, rehearsed: dict[str, Any]) -> Any:
    """The settings with a size that fills the budget. `pretrain` may have a setting for that; else it is given the
    tokens that fit at the speed of the rehearsal, less a hundredth."""
    if "train_minutes" in type(config).model_fields:
        writing = 1.0
        return _with(config, train_minutes=(clock.budget - clock.elapsed() - writing) / 60)
    seconds = clock.budget - rehearsed["overhead"]
    if seconds <= 0:
        raise SystemExit(f"start-up alone takes {rehearsed['overhead']:.0f} s: set a longer budget")
    return _with(config, train_tokens=round(0.99 * seconds * rehearsed["tokens_per_second"]))


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
