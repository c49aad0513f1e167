"""Loss after the same steps with documents packed whole (best fit), cut from one stream, or segmented beforehand.

    python benchmarks/packing.py --books FOLDER [--documents 1200] [--segments 900 300] [--seeds 3]

The same text, tokenizer, network, steps and seeds; bits per byte of the same held-out documents, which are never cut
on structure. Books are one file each and many rows long, so that there would be nothing to pack: pieces of a book of at
most --documents characters stand for documents. The steps have the same number of positions; padding is part of them,
so an arm that fills its rows less reads less text, and what it read is shown.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lmcraft.corpus import collect, curate, documents
from lmcraft.corpus.step import Known
from lmcraft.corpus.steps.segment import SEGMENT, Segment
from lmcraft.recipe.stage import Runtime
from lmcraft.tokens import pack, train
from lmcraft.training import mixture, pretrain
from lmcraft.training.config import PretrainConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--books", required=True, help="folder of text (a folder source's path)")
    parser.add_argument("--pattern", default="**/*")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=600_000)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--documents", type=int, default=1_200, help="most characters of a document")
    parser.add_argument(
        "--segments", type=int, nargs="+", default=[900], help="most characters of a segment; an arm each"
    )
    parser.add_argument("--threads", type=int, default=2, help="1 on a busy machine, where two wait for each other")
    parser.add_argument("--titles", action="store_true", help="the book's title before each piece, as the stage has it")
    parser.add_argument("--only-fill", action="store_true", help="how full the rows are, without training")
    options = parser.parse_args()
    runtime = Runtime(workers=options.threads)
    written = pack.TokensConfig() if options.titles else pack.TokensConfig(template="{text}")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        source = {"kind": "folder", "name": "text", "path": options.books, "pattern": options.pattern}
        collect.run(collect.CollectConfig.model_validate({"sources": [source]}), {}, root / "collect", runtime)
        settings: dict[str, Any] = {"steps": [{"segment": {"max_characters": options.documents}}], "heldout": 0.05}
        inputs: dict[str, Any] = {"documents": root / "collect"}
        curate.run(curate.CurateConfig.model_validate(settings), inputs, root / "whole", runtime)
        train.run(train.TokenizerConfig(vocab_size=4096), {"documents": root / "whole"}, root / "tokenizer", runtime)
        arms = {"best_fit": ("whole", "best_fit"), "concatenate": ("whole", "concatenate")}
        for size in options.segments:
            segmented(root / "whole", root / f"cut-{size}", size)
            arms[f"best_fit of segments of {size}"] = (f"cut-{size}", "best_fit")
        for name in dict.fromkeys(name for name, _ in arms.values()):
            inputs = {"documents": root / name, "tokenizer": root / "tokenizer"}
            pack.run(written, inputs, root / f"tokens-{name}", runtime)
        fills = {arm: fill(root / f"tokens-{name}", packing, options.context) for arm, (name, packing) in arms.items()}
        for arm, found in fills.items():
            print(f"{arm:28} {found}", flush=True)
        if options.only_fill:
            return
        losses: dict[str, list[float]] = {arm: [] for arm in arms}
        for seed in range(options.seeds):
            for number, (arm, (name, packing)) in enumerate(arms.items()):
                config = PretrainConfig.model_validate(
                    {
                        "depth": 3,
                        "context": options.context,
                        "train_tokens": options.tokens,
                        "batch_tokens": 8192,
                        "evaluations": 1,
                        "heldout_tokens": 150_000,
                        "packing": packing,
                        "seed": seed,
                    }
                )
                out = root / f"model-{number}-{seed}"
                scratch = root / f"scratch-{number}-{seed}"
                out.mkdir()
                scratch.mkdir()
                inputs = {"tokens": root / f"tokens-{name}", "tokenizer": root / "tokenizer"}
                clock = time.monotonic()
                summary = pretrain.run(config, inputs, out, Runtime(workers=options.threads, scratch=scratch))
                plan = json.loads((out / "training.json").read_text(encoding="utf-8"))["plan"]
                losses[arm].append(summary["heldout_bits_per_byte"])
                print(
                    f"seed {seed}, {arm:28} {losses[arm][-1]:.4f} bits per byte, {plan['epochs']:.2f} epochs of "
                    f"{plan['corpus_tokens']} tokens ({time.monotonic() - clock:.0f} s)",
                    flush=True,
                )
    first = losses["best_fit"]
    for arm, values in losses.items():
        apart = mixture._gain(values, first)
        print(
            f"{arm:28} {np.mean(values):.4f} ({min(values):.4f}-{max(values):.4f}, n = {len(values)} seeds), against "
            f"best_fit {apart['mean']:+.4f} [{apart['low']:+.4f}, {apart['high']:+.4f}]; {fills[arm]}"
        )


def segmented(whole: Path, out: Path, longest: int) -> None:
    """The training documents cut on their structure; those held out stay as they are."""
    out.mkdir()
    config = Segment(max_characters=longest)
    parts = {
        split: pa.Table.from_batches(list(documents.read_documents(whole, None, split)), documents.SCHEMA)
        for split in ("train", "heldout")
    }
    cut = [
        SEGMENT.judge(batch.cast(documents.SCHEMA), config, Known({})).batch
        for batch in parts["train"].to_batches(max_chunksize=1000)
    ]
    parts["train"] = pa.Table.from_batches(cut, documents.SCHEMA)
    documents.write_parquet(out / "documents-00000.parquet", pa.concat_tables(parts.values()))


def fill(tokens: Path, packing: str, context: int) -> str:
    """How full the rows are, and how many documents that would fit into a row are cut all the same."""
    shards = pretrain.TokenShards(tokens, "train")
    loader = pretrain.Loader(pretrain.Documents(shards), context, 1, 0, packing=packing)
    rows = loader.epoch(0)
    pieces = rows.pieces[rows.index, 0]
    times = np.bincount(pieces, minlength=shards.documents)
    fitting = shards.lengths <= context
    return (
        f"fill {loader.fill():.4f}, {len(loader.epoch(0))} rows, {shards.documents} documents, "
        f"{fitting.mean():.2f} of them fit a row, {(times[fitting] > 1).sum()} of these are cut"
    )


if __name__ == "__main__":
    main()
