"""What one change of the settings or of the optimizer does to a small model, at equal tokens and with the same seeds.

    python -m benchmarks.ablations --text TEXT --tokens 2000000 --seed 0 1 --set depth=4 --set hidden_size=192 \\
        --change kv_heads=1 --change adam.beta2=0.95 --change muon.momentum=0.97 muon.row_beta=0.99

TEXT is what `python -m benchmarks.time_to_quality prepare` made. The base has the defaults of `pretrain` and what
--set says; each --change is a variant of it. Names are settings of `pretrain`, or `muon.` with momentum, row_beta,
cautious or steps, or `adam.` with beta1 or beta2. Judged as in the contest, on its tuning pieces: bits per byte for
each seed, and the difference to the base, paired by seeds and pieces, with two standard errors over pieces. The
seeds' own spread is that of the base's row: smaller differences say nothing, whatever the pieces say.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.time_to_quality.judging import Judge, judge, ratio, read_pieces, standard_error
from benchmarks.time_to_quality.lmcraft_side import Settings, prepare
from lmcraft.model import load_model
from lmcraft.recipe.stage import Runtime
from lmcraft.tokens import Tokenizer
from lmcraft.training import loop, pretrain
from lmcraft.training.config import PretrainConfig
from lmcraft.training.muon import Muon

BASE = {"depth": 4, "hidden_size": 192, "context": 256, "tie_embeddings": False, "evaluations": 0, "max_epochs": 1000.0}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ablations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--text", type=Path, required=True, help="folder of the contest's text")
    parser.add_argument("--tokens", type=int, default=2_000_000, help="of each run (default: %(default)s)")
    parser.add_argument("--vocab", type=int, default=4096, help="of the tokenizer (default: %(default)s)")
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1], help="(default: 0 1)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the base")
    parser.add_argument("--change", action="append", nargs="+", default=[], metavar="NAME=VALUE", help="a variant")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="(default: %(default)s)")
    options = parser.parse_args()
    folder = options.text / "tokens" / f"lmcraft-{options.vocab}"
    if not (folder / "done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        prepare(options.text, folder, Settings(vocab=options.vocab))
        (folder / "done").touch()
    pieces = read_pieces(options.text / "tuning.jsonl")
    base = values(options.set)
    print(f"| changed | bits per byte, mean | seeds {' '.join(map(str, options.seed))} | difference | tokens/s |")
    print("|-|-|-|-|-|", flush=True)
    first: list[dict[str, Any]] = []
    for change in [[], *options.change]:
        rows = [trained({**base, **values(change)}, seed, options, folder, pieces) for seed in options.seed]
        first = first or rows
        print(as_line(" ".join(change), rows, first), flush=True)


def values(said: list[str]) -> dict[str, Any]:
    found = {}
    for each in said:
        name, separator, value = each.partition("=")
        if not separator:
            raise SystemExit(f"{each!r} is not of the form name=value")
        found[name] = yaml.safe_load(value)
    return found


def trained(
    settings: dict[str, Any], seed: int, options: argparse.Namespace, folder: Path, pieces: list[dict[str, Any]]
) -> dict[str, Any]:
    of_optimizer = {name: value for name, value in settings.items() if "." in name}
    own = {name: value for name, value in settings.items() if "." not in name}
    config = PretrainConfig(**{**BASE, "train_tokens": options.tokens, **own, "seed": seed})
    with tempfile.TemporaryDirectory() as temporary, changed_optimizers(of_optimizer):
        out, scratch = Path(temporary) / "model", Path(temporary) / "scratch"
        out.mkdir()
        scratch.mkdir()
        inputs = {"tokens": folder / "tokens", "tokenizer": folder / "tokenizer"}
        summary = pretrain.run(config, inputs, out, Runtime(workers=options.threads, scratch=scratch))
        model, tokenizer = load_model(out), Tokenizer.load(out)
    context = model.config.max_position_embeddings
    found = judge(Judge(model, tokenizer.encode, tokenizer.bos_id, context), pieces)
    return {**found, "tokens_per_second": summary["tokens_per_second"]}


@contextmanager
def changed_optimizers(changes: dict[str, Any]) -> Iterator[None]:
    """Within it, the training loop makes its optimizers with `changes`."""
    made = loop.make_optimizers

    @functools.wraps(made)
    def make(*given: Any) -> list[torch.optim.Optimizer]:
        optimizers = made(*given)
        for name, value in changes.items():
            kind, _, what = name.partition(".")
            chosen = [each for each in optimizers if isinstance(each, Muon) == (kind == "muon")]
            if kind not in ("muon", "adam") or not chosen:
                raise SystemExit(f"{name} is no setting of the optimizers here")
            for optimizer in chosen:
                change(optimizer, what, value)
        return optimizers

    loop.make_optimizers = make
    try:
        yield
    finally:
        loop.make_optimizers = made


def change(optimizer: torch.optim.Optimizer, what: str, value: Any) -> None:
    if isinstance(optimizer, Muon) and what == "steps":
        optimizer.steps = value
        return
    for group in optimizer.param_groups:
        if what in ("beta1", "beta2"):
            group["betas"] = (value, group["betas"][1]) if what == "beta1" else (group["betas"][0], value)
        elif what in group:
            group[what] = value
        else:
            raise SystemExit(f"{type(optimizer).__name__} has no {what}")


def as_line(name: str, rows: list[dict[str, Any]], base: list[dict[str, Any]]) -> str:
    figures = [row["bits_per_byte"] for row in rows]
    sizes = np.array(rows[0]["piece_bytes"])
    apart = ""
    if rows is not base:
        nats = np.mean([row["piece_nats"] for row in rows], 0) - np.mean([row["piece_nats"] for row in base], 0)
        apart = f"{ratio(nats, sizes):+.4f} ± {2 * standard_error(nats, sizes):.4f}"
    seeds, speed = " ".join(f"{each:.4f}" for each in figures), statistics.median(r["tokens_per_second"] for r in rows)
    return f"| {name} | {statistics.mean(figures):.4f} | {seeds} | {apart} | {speed:.0f} |"


if __name__ == "__main__":
    main()
