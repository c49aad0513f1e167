"""A folder of software as a source, or the standard library of the Python that runs."""

from __future__ import annotations

import re
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Literal

from pydantic import Field

from lmcraft.corpus.readers.records import Fault, Item, Reading
from lmcraft.corpus.sources.code_files import CodeFiles
from lmcraft.corpus.sources.code_licences import Licences, names_a_licence
from lmcraft.corpus.sources.code_options import CodeOptions
from lmcraft.corpus.sources.folder_listing import Listing as FolderListing
from lmcraft.corpus.sources.folder_listing import glob_regex, list_files
from lmcraft.corpus.sources.source import Listing, Part
from lmcraft.corpus.sources.wheel_files import sha256_of
from lmcraft.recipe.stage import LOCATION, Runtime, Source

STANDARD_LIBRARY = "python-stdlib"


class CodeSource(CodeOptions):
    """Code and prose of a folder, with the licence of each file."""

    kind: Literal["code"]
    name: str | None = Field(None, description="Name of the source in documents; default: the folder's.")
    path: str = Field(
        json_schema_extra=LOCATION, description=f"The folder; `{STANDARD_LIBRARY}`: Python's own standard library."
    )

    @property
    def source_name(self) -> str:
        if self.path == STANDARD_LIBRARY:
            return self.name or f"python-{sys.version_info.major}.{sys.version_info.minor}"
        return self.name or self._root().resolve().name or "code"

    def digests(self, runtime: Runtime) -> list[Source]:
        """Every file with its sha256, and what the folder's listing passes over."""
        listing = self._files(self.pattern)
        found = []
        read = sorted({*listing.files, *self._licence_files()})
        for relative, path in read:
            try:
                found.append(Source(f"{self.source_name}/{relative}", sha256_of(path), path.stat().st_size))
            except OSError as error:  # the run sets the file aside; that it could not be read is part of the input
                unreadable = sha256(f"unreadable: {error.strerror}".encode()).hexdigest()
                found.append(Source(f"{self.source_name}/{relative}", unreadable))
        for fault in listing.passed_over:
            found.append(Source(f"{self.source_name}/{fault.place}", sha256(fault.reason.encode()).hexdigest()))
        return found

    def listing(self, runtime: Runtime) -> Listing:
        """One part for all: licences are looked for up the tree."""
        listing = self._files(self.pattern)
        size = sum(_size(path) for _, path in listing.files)
        return Listing([Part("files", size)], listing.passed_over)

    def read(self, part: Part, max_record_bytes: int, runtime: Runtime) -> Iterator[Item]:
        found = dict(self._files(self.pattern).files)
        licences = dict(self._licence_files())
        files = CodeFiles(
            Licences(list(licences), lambda path: licences[path].read_bytes()),
            max_file_bytes=min(self.max_file_bytes, max_record_bytes),
            generated=self.generated,
            vendored=self.vendored,
            prose=self.prose,
            reading=Reading(max_record_bytes=max_record_bytes, note=runtime.progress.note),
        )
        for relative, path in found.items():
            if fault := files.refused(relative, _size(path)):
                yield fault
                continue
            try:
                content = path.read_bytes()
            except OSError as error:
                yield Fault(relative, "unreadable file", detail=error.strerror or str(error))
                continue
            yield files.document(relative, content)

    def _root(self) -> Path:
        if self.path == STANDARD_LIBRARY:
            return Path(sysconfig.get_paths()["stdlib"])
        return Path(self.path).expanduser()

    def _licence_files(self) -> list[tuple[str, Path]]:
        """Licence texts count whether or not the pattern asks for them."""
        return [(relative, path) for relative, path in self._files("**/*").files if names_a_licence(relative)]

    def _files(self, pattern: str) -> FolderListing:
        if self.path != STANDARD_LIBRARY:
            return list_files(str(self._root()), pattern)
        # What was installed beside the library is not of it and may be very much, so it is not even listed.
        matches = re.compile(glob_regex(pattern)).fullmatch
        listing = FolderListing()
        for item in sorted(self._root().iterdir()):
            if item.is_file():
                listing.files.append((item.name, item))
            elif item.name not in ("site-packages", "dist-packages", "__pycache__") and any(item.iterdir()):
                inside = list_files(str(item), "**/*")
                listing.files += [(f"{item.name}/{relative}", path) for relative, path in inside.files]
                listing.passed_over += [replace(each, place=f"{item.name}/{each.place}") for each in inside.passed_over]
        listing.files = sorted(each for each in listing.files if "__pycache__" not in each[0] and matches(each[0]))
        return listing


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
