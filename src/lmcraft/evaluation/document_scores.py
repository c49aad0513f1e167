"""Stage `score`: documents and a transformer -> the same documents, with bits per byte in their scores.

It is here and not a step of curation, because a room imports only from rooms above it, and because workers of curation
should not each load a network. Curate its output with step `perplexity` and `score: bits_per_byte` to filter by it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from lmcraft.corpus import documents
from lmcraft.corpus.step import add_score
from lmcraft.evaluation.likelihood import Scorer, document_nats
from lmcraft.inference import Engine
from lmcraft.inference.devices import use_workers
from lmcraft.recipe.stage import Input, Inputs, Runtime, Stage, StageConfig, UserError


class ScoreConfig(StageConfig):
    """Which number documents get, and how it is worked out."""

    name: str = Field("bits_per_byte", pattern=r"^[A-Za-z][\w-]*$", description="Name of the number in `scores`.")
    max_bytes: int = Field(16384, ge=1, description="Bytes of a document that are scored, from its beginning.")
    overlap: int | None = Field(
        None, ge=1, description="Tokens that a later window of a long document shows again; half the context if null."
    )
    precision: Literal["float32", "bfloat16", "auto"] = Field("float32", description="Precision of the arithmetic.")


def run(config: ScoreConfig, inputs: Inputs, out: Path, runtime: Runtime) -> dict[str, Any]:
    """Score shard by shard; shards already in `out` stay. An empty text gets no score.

    Raises UserError when the documents or the model cannot be read, or the overlap does not fit the context.
    """
    out.mkdir(parents=True, exist_ok=True)
    use_workers(runtime.workers)
    engine = Engine.load(Path(inputs["model"]), device=runtime.device, dtype=config.precision)
    overlap = config.overlap or engine.context // 2
    if overlap >= engine.context:
        raise UserError(f"overlap is {overlap}, but the model's context is {engine.context}: set overlap below it")
    statistics = documents.Statistics()
    paths = documents.shard_paths(Path(inputs["documents"]))
    with runtime.progress.task("score", sum(map(documents.shard_rows, paths)), "documents") as task:
        for path in paths:
            target = out / path.name
            if not target.exists():
                batches = []
                for batch in documents.read_shard(path):
                    rates = bits_per_byte(engine, batch["text"].to_pylist(), overlap, config.max_bytes)
                    batches.append(add_score(batch, config.name, rates))
                    task.advance(batch.num_rows)
                documents.write_parquet(target, pa.Table.from_batches(batches, documents.SCHEMA))
            for batch in documents.read_shard(target):
                statistics.keep(pa.Table.from_batches([batch]))
    documents.write_json(out / "statistics.json", statistics.to_json(documents.LARGEST_GROUPS))
    return statistics.summary()


def bits_per_byte(engine: Engine, texts: list[str], overlap: int, max_bytes: int) -> np.ndarray:
    """Of each text (float64; NaN where it is empty), after the document's boundary.

    Each window goes through the network alone: matrix products of other shapes round otherwise, and a document's
    number must not depend on its neighbours.
    """
    alone = _Alone(engine)
    rates = np.full(len(texts), np.nan)
    for row, text in enumerate(texts):
        # A limit in the middle of a character would leave bytes that no text has.
        cut = text.encode("utf-8")[:max_bytes].decode("utf-8", "ignore")
        if cut:
            ids = [engine.tokenizer.bos_id, *engine.tokenizer.encode(cut)]
            nats = document_nats(alone, [ids], engine.context, overlap)[0]
            rates[row] = nats / math.log(2) / len(cut.encode("utf-8"))
    return rates


class _Alone(Scorer):
    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def log_likelihood(self, sequences: Any) -> list[np.ndarray]:
        return [self.engine.log_likelihood([sequence])[0] for sequence in sequences]


STAGE = Stage(
    name="score",
    version=1,
    config=ScoreConfig,
    inputs={"documents": Input(kinds=("documents",)), "model": Input(kinds=("model",))},
    output="documents",
    run=run,
    help="Give every document its bits per byte under a model, for curation's step perplexity.",
)
