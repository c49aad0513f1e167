"""Step `perplexity`: how likely a document is under a small model of ours, in bits per byte.

The model is a byte n-gram model (stage `ngrams`), given as input `model`; or, where documents come from stage `score`,
any number that this left in `scores`, such as a transformer's bits per byte. So curation needs nothing of the rooms
below it, where transformers live.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from lmcraft.corpus import ngrams
from lmcraft.corpus.step import Arrays, Drop, Judged, Known, Step, add_score, score
from lmcraft.recipe.stage import Inputs, Runtime, StageConfig, UserError

SCORE = "bits_per_byte"


class Perplexity(StageConfig):
    """Removes documents that a model of ours finds too unlikely, or too likely to tell it anything."""

    score: str | None = Field(
        None, description="Take the number of this name that stage `score` left; null: score by the input `model`."
    )
    min: float | None = Field(None, ge=0, description="A document of fewer bits per byte is removed.")
    max: float | None = Field(None, ge=0, description="A document of more bits per byte is removed.")

    @model_validator(mode="after")
    def _limits_leave_room(self) -> Perplexity:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("min must not be more than max")
        return self


def perplexity(batch: pa.RecordBatch, config: Perplexity, known: Known) -> Judged:
    """Adds `scores["bits_per_byte"]` if it scores; an empty document has none and stays."""
    if config.score is not None:
        rate = score(batch, config.score)
        missing = np.isnan(rate)
        drops = [Drop(f"no score {config.score}", missing)]
    else:
        found, sizes = ngrams.bits(batch["text"], known.arrays)
        rate = np.where(sizes > 0, found / np.maximum(sizes, 1), np.nan)
        batch = add_score(batch, SCORE, rate)
        drops = []
    if config.min is not None:
        drops.append(Drop("perplexity low", rate < config.min, rate, config.min))
    if config.max is not None:
        drops.append(Drop("perplexity high", rate > config.max, rate, config.max))
    return Judged(batch, tuple(drops))


def _prepare(config: Perplexity, inputs: Inputs, runtime: Runtime) -> Arrays:
    if config.score is not None:
        return {}
    if inputs.get("model") is None:
        raise UserError(
            "step `perplexity` needs a model: name a step of stage `ngrams` under `model`, or let stage `score` "
            "score the documents before and say `score: bits_per_byte`"
        )
    return ngrams.Ngrams.load(Path(inputs["model"])).table()


PERPLEXITY = Step("perplexity", Perplexity, perplexity, prepare=_prepare)
