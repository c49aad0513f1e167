"""Folders as sources: which files belong to one, in a fixed order, and what was passed over."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lmcraft.corpus.readers.files import READERS, Fault
from lmcraft.corpus.readers.patterns import glob_regex
from lmcraft.recipe.stage import UserError


@dataclass
class Listing:
    """Files to read, as (path relative to the folder, path), sorted by the former; and what was passed over."""

    files: list[tuple[str, Path]] = field(default_factory=list)
    passed_over: list[Fault] = field(default_factory=list)


def list_files(location: str, pattern: str) -> Listing:
    """The regular files of a folder that match `pattern`: `**/` any folders, `*` and `?` within a name, `{a,b}` either.

    Hidden files and folders are passed over, and links that lead out of the folder or to another folder of it.
    A location that is a file is a folder of that one file. Raises UserError when there is nothing to read.
    """
    root = Path(location).expanduser()
    if not root.exists():
        raise UserError(f"the folder {location!r} does not exist; correct `path` of this source")
    listing = Listing()
    if root.is_file():
        listing.files.append((root.name, root))
        return listing
    inside = root.resolve()
    matches = re.compile(glob_regex(pattern)).fullmatch
    for relative, path in _walk(root, listing):
        if not matches(relative):
            continue
        fault = _why_not(relative, path, inside)
        if fault is None:
            listing.files.append((relative, path))
        else:
            listing.passed_over.append(fault)
    listing.files.sort()
    listing.passed_over.sort(key=lambda fault: fault.place)
    if not listing.files:
        seen = f" ({len(listing.passed_over)} passed over: {listing.passed_over[0]})" if listing.passed_over else ""
        raise UserError(
            f"no file in {location!r} matches {pattern!r}{seen}; put files ending in {', '.join(READERS)} there "
            "or correct `path` or `pattern`"
        )
    return listing


def _walk(root: Path, listing: Listing) -> Iterator[tuple[str, Path]]:
    def unreadable(error: OSError) -> None:
        place = _place(Path(error.filename), root)
        listing.passed_over.append(Fault(place, "unreadable folder", detail=error.strerror or str(error)))

    for folder, folders, names in os.walk(root, onerror=unreadable):
        base = Path(folder)
        hidden = [name for name in (*folders, *names) if name.startswith(".")]
        links = [name for name in folders if not name.startswith(".") and (base / name).is_symlink()]
        for name in hidden:
            listing.passed_over.append(Fault(_place(base / name, root), "hidden file"))
        for name in links:
            listing.passed_over.append(Fault(_place(base / name, root), "link not followed"))
        folders[:] = [name for name in folders if name not in hidden and name not in links]
        for name in names:
            if not name.startswith("."):
                yield _place(base / name, root), base / name


def _place(path: Path, root: Path) -> str:
    """The path inside the folder; bytes of a name that are not UTF-8 are spelt out, so that it can be written down."""
    return os.fsencode(path.relative_to(root).as_posix()).decode("utf-8", "backslashreplace")


def _why_not(relative: str, path: Path, inside: Path) -> Fault | None:
    if path.is_symlink() and path.exists() and not path.resolve().is_relative_to(inside):
        return Fault(relative, "link not followed", detail="it leads out of the folder")
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return Fault(relative, "unreadable file", detail=error.strerror or str(error))
    if not stat.S_ISREG(mode):
        return Fault(relative, "not a regular file")
    return None
