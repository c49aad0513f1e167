"""Train short, extend: bits per byte by position after a context of 128 became one of 512, by each RoPE scaling.

    python benchmarks/context_extension.py --books FOLDER [--seeds 3] [--tokens 400000] [--tune 40000]

One small network a seed is trained on rows of `SHORT` tokens. Each arm then changes its RoPE, is measured as it is,
trained on `--tune` more tokens in rows of `LONG`, and measured again. `long from the start` saw all tokens in rows of
`LONG`. Measured are the same windows of `LONG` tokens of held-out pieces of books, in bits per byte of the tokens at
the positions of each quarter.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lmcraft.corpus import collect, curate
from lmcraft.model import ModelConfig, Transformer
from lmcraft.recipe.stage import Runtime
from lmcraft.tokens import Tokenizer, TokenShards, pack, train
from lmcraft.training.config import PretrainConfig, derive_shape
from lmcraft.training.loader import Loader
from lmcraft.training.loop import Machine
from lmcraft.training.loop import train as train_loop
from lmcraft.training.objectives import next_token
from lmcraft.training.pretrain import Documents

SHORT, LONG, BATCH = 128, 512, 2048
FACTOR = LONG // SHORT
ARMS: dict[str, dict[str, Any]] = {
    "unchanged": {},
    "theta x 8": {"rope_theta": 80_000.0},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": float(FACTOR)}},
    "yarn": {"rope_scaling": {"rope_type": "yarn", "factor": float(FACTOR)}},
    "llama3": {"rope_scaling": {"rope_type": "llama3", "factor": float(FACTOR)}},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--books", required=True, help="folder of text (a folder source's path)")
    parser.add_argument("--pattern", default="**/*")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=400_000)
    parser.add_argument("--tune", type=int, default=40_000)
    parser.add_argument("--windows", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    runtime = Runtime(workers=options.threads)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        tokenizer, documents, windows = material(root, options, runtime)
        print(
            f"{documents.shards.tokens} training tokens; {len(windows)} windows of {LONG}, the same for all", flush=True
        )
        rows: dict[str, list[np.ndarray]] = {}
        for seed in range(options.seeds):
            start = time.monotonic()
            short = trained(shape(tokenizer, SHORT), None, documents, options.tokens, seed, root, runtime)
            for name, changes in ARMS.items():
                long = ModelConfig(**{**short.config.model_dump(), **changes, **scaled(changes)})
                model = with_weights(long, short)
                rows.setdefault(f"{name}, as it is", []).append(by_position(model, tokenizer, windows))
                model = trained(long, model, documents, options.tune, seed, root, runtime)
                rows.setdefault(f"{name}, tuned", []).append(by_position(model, tokenizer, windows))
            whole = trained(shape(tokenizer, LONG), None, documents, options.tokens + options.tune, seed, root, runtime)
            rows.setdefault("long from the start", []).append(by_position(whole, tokenizer, windows))
            print(f"seed {seed}: {time.monotonic() - start:.0f} s", flush=True)
    print("bits per byte at positions (mean ± standard error over seeds)")
    print(f"{'':24}" + "".join(f"{q * SHORT:>9}-{(q + 1) * SHORT - 1:<5}" for q in range(FACTOR)))
    for name, found in rows.items():
        mean, error = np.mean(found, 0), np.std(found, 0, ddof=1) / math.sqrt(len(found)) if len(found) > 1 else None
        cells = (f"{m:>8.3f}" + (f" ±{error[q]:.3f}" if error is not None else "") for q, m in enumerate(mean))
        print(f"{name:24}" + " ".join(cells))
    print(json.dumps({name: np.round(found, 4).tolist() for name, found in rows.items()}))


def material(root: Path, options: Any, runtime: Runtime) -> tuple[Tokenizer, Documents, np.ndarray]:
    """Books in pieces longer than a window; a tenth of them held out."""
    source = {"kind": "folder", "name": "text", "path": options.books, "pattern": options.pattern}
    collect.run(collect.CollectConfig.model_validate({"sources": [source]}), {}, root / "collect", runtime)
    settings: dict[str, Any] = {"steps": [{"segment": {"max_characters": 20_000}}], "heldout": 0.1}
    inputs: dict[str, Any] = {"documents": root / "collect"}
    curate.run(curate.CurateConfig.model_validate(settings), inputs, root / "documents", runtime)
    inputs = {"documents": root / "documents"}
    train.run(train.TokenizerConfig(vocab_size=2048), inputs, root / "tokenizer", runtime)
    inputs["tokenizer"] = root / "tokenizer"
    pack.run(pack.TokensConfig(), inputs, root / "tokens", runtime)
    heldout = TokenShards(root / "tokens", "heldout")
    every = [
        heldout.document(number)[start : start + LONG + 1]
        for number, length in enumerate(heldout.lengths.tolist())
        for start in range(0, length - LONG, LONG)
    ]
    windows = np.stack(every[:: max(1, len(every) // options.windows)][: options.windows]).astype(np.int64)
    return Tokenizer.load(root / "tokenizer"), Documents(TokenShards(root / "tokens", "train")), windows


def settings(context: int, tokens: int, seed: int) -> PretrainConfig:
    return PretrainConfig(
        depth=3, hidden_size=128, head_dim=32, context=context, train_tokens=tokens, evaluations=0, seed=seed
    )


def shape(tokenizer: Tokenizer, context: int) -> ModelConfig:
    return derive_shape(settings(context, 1, 0), tokenizer.vocab_size, {})


def scaled(changes: dict[str, Any]) -> dict[str, Any]:
    """The longer context; a scaling is told the one before."""
    known = {"max_position_embeddings": LONG}
    scaling = changes.get("rope_scaling")
    if scaling and scaling["rope_type"] != "linear":
        known["rope_scaling"] = {**scaling, "original_max_position_embeddings": SHORT}
    return known


def with_weights(config: ModelConfig, model: Transformer) -> Transformer:
    copy = Transformer(config)
    copy.load_state_dict(model.state_dict())
    return copy.eval()


def trained(
    config: ModelConfig,
    model: Transformer | None,
    documents: Documents,
    tokens: int,
    seed: int,
    root: Path,
    runtime: Runtime,
) -> Transformer:
    """`model` (or a fresh one) after so many tokens in rows of the config's context; a tune has a tenth of the rate."""
    run = settings(config.max_position_embeddings, tokens, seed)
    if model is None:
        model = Transformer(config)
        model.initialise(seed)
    else:
        run = run.model_copy(
            update={"learning_rate": 0.001, "embedding_learning_rate": 0.003, "norm_learning_rate": 0.0005}
        )
    rows = BATCH // run.context
    loader = Loader(documents, run.context, rows, seed)
    machine = Machine(torch.device("cpu"), torch.float32, False, 1.0)  # no need of its speed
    with tempfile.TemporaryDirectory(dir=root) as out:
        train_loop(
            model,
            loader,
            next_token(),
            run,
            steps=tokens // BATCH,
            micro_rows=rows,
            machine=machine,
            evaluate=None,
            out=Path(out),
            runtime=runtime,
        )
    return model.eval()


@torch.no_grad()
def by_position(model: Transformer, tokenizer: Tokenizer, windows: np.ndarray) -> np.ndarray:
    """Bits per byte of the tokens in each quarter of the windows, [4]."""
    sizes = np.array([len(tokenizer.token_bytes(token)) for token in range(tokenizer.vocab_size)])
    nats = np.concatenate(
        [
            torch.nn.functional.cross_entropy(
                model(torch.from_numpy(part[:, :-1])).transpose(1, 2).float(),
                torch.from_numpy(part[:, 1:]),
                reduction="none",
            ).numpy()
            for part in np.array_split(windows, max(1, len(windows) // 8))
        ]
    )
    quarters = (len(windows), FACTOR, SHORT)
    return nats.reshape(quarters).sum((0, 2)) / (math.log(2) * sizes[windows[:, 1:]].reshape(quarters).sum((0, 2)))


if __name__ == "__main__":
    main()
