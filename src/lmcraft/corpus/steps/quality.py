"""Steps `quality` and `topic`: what a classifier of ours says of a document (see lmcraft.corpus.classifier)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from lmcraft.corpus.classifier import Classifier
from lmcraft.corpus.step import Arrays, Drop, Judged, Known, Step, add_score, note_changes, replace_columns
from lmcraft.recipe.stage import Inputs, Runtime, StageConfig, UserError


class Quality(StageConfig):
    """Scores documents by a classifier of two classes, and removes those beyond the limits."""

    classifier: str | None = Field(
        None, description="Name of the classifier among the inputs; may be left out where there is one."
    )
    min: float | None = Field(None, ge=0, le=1, description="A document of a lower probability is removed.")
    max: float | None = Field(None, ge=0, le=1, description="A document of a higher probability is removed.")

    @model_validator(mode="after")
    def _limits_leave_room(self) -> Quality:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("min must not be more than max")
        return self


def quality(batch: pa.RecordBatch, config: Quality, known: Known) -> Judged:
    """Adds `scores[<the classifier's name>]`: the probability of `good` where classes are equally frequent."""
    classifier = Classifier.of_arrays(known.arrays)
    probability = classifier.scores(batch["text"])
    drops = []
    if config.min is not None:
        drops.append(Drop(f"{classifier.name} low", probability < config.min, probability, config.min))
    if config.max is not None:
        drops.append(Drop(f"{classifier.name} high", probability > config.max, probability, config.max))
    return Judged(add_score(batch, classifier.name, probability), tuple(drops))


class Topic(StageConfig):
    """Fills the column `topic` by a classifier that was trained on labelled topics."""

    classifier: str | None = Field(
        None, description="Name of the classifier among the inputs; may be left out where there is one."
    )
    min: float = Field(0.5, ge=0, le=1, description="Below this probability the topic stays as it is.")
    replace: bool = Field(False, description="Also change the topic of documents that have one.")


def topic(batch: pa.RecordBatch, config: Topic, known: Known) -> Judged:
    """Adds `scores["topic"]`, the probability of the likeliest topic, also where it is too low to be filled in."""
    classifier = Classifier.of_arrays(known.arrays)
    probabilities = classifier.probabilities(batch["text"])
    best = probabilities.argmax(axis=1)
    highest = probabilities[np.arange(len(best)), best]
    old = batch["topic"].to_pylist()
    fill = [
        (config.replace or value is None) and probability >= config.min
        for value, probability in zip(old, highest.tolist(), strict=True)
    ]
    new = [classifier.classes[index] if filled else value for index, value, filled in zip(best, old, fill, strict=True)]
    batch = add_score(replace_columns(batch, {"topic": pa.array(new, pa.string())}), "topic", highest)
    return Judged(note_changes(batch, (["topic assigned"] if filled else [] for filled in fill)))


def _prepare_quality(config: Quality, inputs: Inputs, runtime: Runtime) -> Arrays:
    classifier = chosen(config.classifier, inputs)
    if len(classifier.classes) != 2:
        raise UserError(
            f"step `quality` needs a classifier of two classes, and {classifier.name!r} has "
            f"{len(classifier.classes)}; for these use step `topic`"
        )
    return classifier.arrays()


def _prepare_topic(config: Topic, inputs: Inputs, runtime: Runtime) -> Arrays:
    return chosen(config.classifier, inputs).arrays()


def chosen(name: str | None, inputs: Inputs) -> Classifier:
    """The classifier of that name among the stage's inputs, or the only one. Raises UserError when it is not clear."""
    found = [Classifier.load(Path(path)) for path in inputs.get("classifier") or ()]
    matching = [each for each in found if name is None or each.name == name]
    if len(matching) == 1:
        return matching[0]
    names = ", ".join(sorted(each.name for each in found)) or "none"
    if name is not None and not matching:
        raise UserError(
            f"the step asks for classifier {name!r}, and the input `classifier` has {names}: name the step that "
            "trains it under `classifier`"
        )
    raise UserError(
        f"the step needs one classifier, and the input `classifier` has {names}: "
        + ("say which by `classifier: NAME`" if found else "name a step of stage `classifier` there")
    )


QUALITY = Step("quality", Quality, quality, prepare=_prepare_quality)
TOPIC = Step("topic", Topic, topic, prepare=_prepare_topic)
