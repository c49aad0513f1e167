"""What every kind of source is: settings that say where documents are, and how they are read piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import Field

from lmcraft.corpus.readers.files import NOT_BAD_INPUT, Fault, Item
from lmcraft.corpus.readers.streams import Cut
from lmcraft.recipe.stage import Runtime, Source, StageConfig


@dataclass(frozen=True)
class Part:
    """A piece of a source that one worker reads from beginning to end: a file, mostly, or a cut of a large one.

    `name` is its place inside the source, with forward slashes; `bytes` about how much there is to read.
    """

    name: str
    bytes: int = 0
    path: Path | None = None
    cut: Cut | None = None


@dataclass
class Listing:
    """The parts of a source in a fixed order, and what was passed over (hidden files, unknown formats)."""

    parts: list[Part] = field(default_factory=list)
    passed_over: list[Fault] = field(default_factory=list)


PASSED_OVER = NOT_BAD_INPUT | {"hidden file", "unknown format", "link not followed", "not a regular file"}
"""Faults that are not bad input, so `on_bad_record: fail` does not stop for them; they are counted all the same."""


class SourceConfig(StageConfig):
    """What the settings of all kinds of sources share. A kind is a subclass with `kind: Literal["..."]`."""

    name: str | None = Field(None, description="Name of the source in documents and statistics.")
    licence: str | None = Field(None, description="Licence of the texts (SPDX), kept with each document.")
    on_bad_record: Literal["skip", "fail"] = Field("skip", description="Count bad records and go on, or stop.")

    @property
    def source_name(self) -> str:
        """The name that documents carry."""
        raise NotImplementedError

    def digests(self, runtime: Runtime) -> list[Source]:
        """What is read from outside, by name and digest: it enters the artifact's identity. Raises UserError."""
        raise NotImplementedError

    def listing(self, runtime: Runtime) -> Listing:
        """The parts, after whatever must be fetched is in `runtime.cache`. Raises UserError."""
        raise NotImplementedError

    def read(self, part: Part, max_record_bytes: int, runtime: Runtime) -> Iterator[Item]:
        """Records and faults of one part, in order. Called on a worker, maybe on another machine."""
        raise NotImplementedError

    def stops_at(self, fault: Fault) -> bool:
        """Whether the run is to stop at a fault."""
        return self.on_bad_record == "fail" and fault.reason not in PASSED_OVER
