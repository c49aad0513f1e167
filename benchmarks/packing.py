"""Loss after the same steps with documents packed whole (best fit), cut from one stream, or segmented beforehand.

    python benchmarks/packing.py --books FOLDER [--minutes 1] [--seeds 3]

The same text, tokenizer, network, steps and seeds; bits per byte of the same held-out documents.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from lmcraft.corpus import collect, curate
from lmcraft.recipe.stage import Runtime
from lmcraft.tokens import pack, train
from lmcraft.training import pretrain
from lmcraft.training.config import PretrainConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--books", required=True, help="folder of text (a folder source's path)")
    parser.add_argument("--pattern", default="**/*")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=600_000)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--piece", type=int, default=2_000, help="characters of a document; of a segment: half of it")
    options = parser.parse_args()
    runtime = Runtime()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        source = {"kind": "folder", "name": "text", "path": options.books, "pattern": options.pattern}
        collect.run(collect.CollectConfig.model_validate({"sources": [source]}), {}, root / "collect", runtime)
        first: dict[str, Any] = {"steps": [{"segment": {"max_characters": options.piece}}]}
        curated = root / "curate"
        curate.run(curate.CurateConfig.model_validate(first), {"documents": root / "collect"}, curated, runtime)
        train.run(train.TokenizerConfig(vocab_size=4096), {"documents": curated}, root / "tokenizer", runtime)
        inputs = {"documents": curated, "tokenizer": root / "tokenizer"}
        pack.run(pack.TokensConfig(), inputs, root / "tokens", runtime)
        inputs = {"tokens": root / "tokens", "tokenizer": root / "tokenizer"}
        found: dict[str, list[tuple[float, float]]] = {}
        for seed in range(options.seeds):
            for packing in ("best_fit", "concatenate"):
                settings = {"depth": 3, "context": options.context, "train_tokens": options.tokens, "evaluations": 1}
                config = PretrainConfig.model_validate(settings | {"packing": packing, "seed": seed})
                out = root / f"{packing}-{seed}"
                out.mkdir()
                summary = pretrain.run(config, inputs, out, Runtime(scratch=root / f"scratch-{packing}-{seed}"))
                fill = json.loads((out / "training.json").read_text())["plan"]["packing_fill"]
                found.setdefault(packing, []).append((summary["heldout_bits_per_byte"], fill))
                print(
                    f"{packing:12} seed {seed}: {summary['heldout_bits_per_byte']:.4f} bits per byte, fill {fill:.3f}"
                )
    for packing, rows in found.items():
        losses = [loss for loss, _ in rows]
        spread = f"{min(losses):.4f}-{max(losses):.4f}"
        print(f"{packing:12} mean {statistics.mean(losses):.4f} ({spread}, n = {len(losses)}), fill {rows[0][1]:.3f}")


if __name__ == "__main__":
    main()
