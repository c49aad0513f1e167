"""Files of a folder as a source."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Literal

from pydantic import Field

from lmcraft.corpus.readers.files import Item, Record, read_file
from lmcraft.corpus.sources.file_options import FileOptions
from lmcraft.corpus.sources.folder_listing import list_files
from lmcraft.corpus.sources.source import Listing, Part
from lmcraft.recipe.stage import LOCATION, Runtime, Source


class FolderSource(FileOptions):
    """Files of a folder: text, Markdown, HTML, JSONL, JSON, Parquet, CSV, EPUB, PDF, WARC, XML; also in archives."""

    kind: Literal["folder"]
    path: str = Field(json_schema_extra=LOCATION, description="The folder (or one file).")

    @property
    def source_name(self) -> str:
        return self.name or Path(self.path).expanduser().resolve().name or "folder"

    def digests(self, runtime: Runtime) -> list[Source]:
        """Every file with its sha256, and what is passed over by name."""
        listing = list_files(self.path, self.pattern)
        found = []
        for relative, path in listing.files:
            name = f"{self.source_name}/{relative}"
            try:
                with path.open("rb") as file:
                    found.append(Source(name, file_digest(file, "sha256").hexdigest(), path.stat().st_size))
            except OSError as error:  # the run sets the file aside; that it could not be read is part of the input
                found.append(Source(name, sha256(f"unreadable: {error.strerror}".encode()).hexdigest()))
        for fault in listing.passed_over:
            found.append(Source(f"{self.source_name}/{fault.place}", sha256(fault.reason.encode()).hexdigest()))
        return found

    def listing(self, runtime: Runtime) -> Listing:
        """One part a file, or several of a large one."""
        listing = list_files(self.path, self.pattern)
        parts = [part for relative, path in listing.files for part in self.parts_of(path, relative, runtime)]
        return Listing(parts, listing.passed_over)

    def read(self, part: Part, max_record_bytes: int, runtime: Runtime) -> Iterator[Item]:
        assert part.path is not None
        items = read_file(part.path, part.name, self.reading(max_record_bytes, runtime, part.cut))
        if self.language is None:
            yield from items
            return
        for item in items:
            if isinstance(item, Record) and item.language is None:
                item.language = self.language
            yield item
