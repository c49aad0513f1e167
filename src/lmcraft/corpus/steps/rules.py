"""Step `length`: the plain limits on a document. (Further rules about a document alone belong here.)"""

from __future__ import annotations

import pyarrow as pa
from pydantic import Field, model_validator

from lmcraft.corpus.step import Drop, Judged, Known, Step, characters
from lmcraft.recipe.stage import StageConfig


class Length(StageConfig):
    """Removes documents shorter or longer than the limits."""

    min_characters: int = Field(40, ge=1, description="A shorter text is removed.")
    max_characters: int | None = Field(None, ge=1, description="A longer text is removed; null: no limit.")

    @model_validator(mode="after")
    def _limits_leave_room(self) -> Length:
        if self.max_characters is not None and self.max_characters < self.min_characters:
            raise ValueError("max_characters must not be less than min_characters")
        return self


def length(batch: pa.RecordBatch, config: Length, known: Known) -> Judged:
    size = characters(batch)
    drops = [Drop("too short", size < config.min_characters, size, config.min_characters)]
    if config.max_characters is not None:
        drops.append(Drop("too long", size > config.max_characters, size, config.max_characters))
    return Judged(batch, tuple(drops))


LENGTH = Step("length", Length, length)
