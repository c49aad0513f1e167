"""What one change of the settings or of the optimizer does to a small model, at equal tokens and with the same seeds.

    python -m benchmarks.ablations --text TEXT --tokens 2000000 --seed 0 1 --set depth=4 --set hidden_size=192 \\
        --change kv_heads=1 --change adam.beta2=0.95 --change muon.momentum=0.97 muon.row_beta=0.99

TEXT is what `python -m benchmarks.time_to_quality prepare` made. The base has the defaults of `pretrain` and what
--set says; each --change is a variant of it. Names are settings of `pretrain`, or `muon.` with momentum, row_beta or
cautious, or `adam.` with beta1 or beta2. Judged as in the contest, on its tuning pieces: bits per byte for
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

OPTIMIZERS = {"muon": ("momentum", "row_beta", "cautious"), "adam": ("beta1", "beta2")}
"""What `--change` may say of them."""

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
    try:
        base, changes = values(options.set), [values(change) for change in options.change]
        for each in ({}, *changes):  # before hours of training
            settings(base | each, 0, options.tokens)
    except ValueError as error:
        parser.error(str(error))
    print(f"| changed | bits per byte, mean | seeds {' '.join(map(str, options.seed))} | difference | tokens/s |")
    print("|-|-|-|-|-|", flush=True)
    first: list[dict[str, Any]] = []
    for said, change in zip([[], *options.change], [{}, *changes], strict=True):
        rows = [trained(base | change, seed, options, folder, pieces) for seed in options.seed]
        first = first or rows
        print(as_line(" ".join(said), rows, first), flush=True)


def values(said: list[str]) -> dict[str, Any]:
    found = {}
    for each in said:
        name, separator, value = each.partition("=")
        if not separator:
            raise ValueError(f"{each!r} is not of the form name=value")
        found[name] = yaml.safe_load(value)
    return found


def settings(given: dict[str, Any], seed: int, tokens: int) -> tuple[PretrainConfig, dict[str, Any]]:
    """Those of `pretrain`, and those of its optimizers."""
    own = {name: value for name, value in given.items() if "." not in name}
    of_optimizer = {name: value for name, value in given.items() if "." in name}
    for name in of_optimizer:
        kind, _, what = name.partition(".")
        if what not in OPTIMIZERS.get(kind, ()):
            raise ValueError(f"{name} is no setting of the optimizers; --help names them")
    config = PretrainConfig(**{**BASE, "train_tokens": tokens, **own, "seed": seed})
    return config, of_optimizer


def trained(
    given: dict[str, Any], seed: int, options: argparse.Namespace, folder: Path, pieces: list[dict[str, Any]]
) -> dict[str, Any]:
    config, of_optimizer = settings(given, seed, options.tokens)
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
            for optimizer in optimizers:
                if isinstance(optimizer, Muon) == (kind == "muon"):
                    change(optimizer, what, value)
        return optimizers

    loop.make_optimizers = make
    try:
        yield
    finally:
        loop.make_optimizers = made


def change(optimizer: torch.optim.Optimizer, what: str, value: Any) -> None:
    for group in optimizer.param_groups:
        if what in ("beta1", "beta2"):
            group["betas"] = (value, group["betas"][1]) if what == "beta1" else (group["betas"][0], value)
        else:
            group["last_momentum" if what == "momentum" else what] = value


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
