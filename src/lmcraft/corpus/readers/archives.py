"""Archives of files (zip, tar): members are read one after the other where they lie, and are never unpacked to disk."""

from __future__ import annotations

import hashlib
import io
import re
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from typing import IO, Any

from lmcraft.corpus.readers.json_files import expands_too_far
from lmcraft.corpus.readers.patterns import glob_regex
from lmcraft.corpus.readers.records import Fault, Item, Reading, first_line
from lmcraft.corpus.readers.streams import DAMAGED, Bomb, seekable, size_of
from lmcraft.recipe.stage import UserError

MAX_TAR_HEADER_BYTES = 1 << 20
"""tarfile reads extended headers whole; they hold names."""


def read_zip(stream: IO[bytes], place: str, reading: Reading) -> Iterator[Item]:
    """The documents of a zip archive's members; `place!name` is a member."""
    whole = seekable(stream)
    budget = _Budget(reading, whole.seek(0, io.SEEK_END))
    wanted = _Wanted(reading.members)
    called = _Names()
    try:
        with zipfile.ZipFile(whole) as archive:
            for info in archive.infolist():
                if info.is_dir() or not (name := _clean(info.filename)) or not wanted(name):
                    continue
                here = f"{place}!{called(name)}"
                mode = info.external_attr >> 16
                fault = _refused(info.filename, here, info.file_size, linked=stat.S_ISLNK(mode))
                if fault is None and info.flag_bits & 1:
                    fault = Fault(here, "encrypted file", info.file_size)
                if fault is not None:
                    yield fault
                    continue
                try:
                    with archive.open(info) as member:
                        yield from _read_member(member, here, info.file_size, budget, reading)
                except Bomb as error:
                    yield expands_too_far(here, stream, error)
                    return
                except (zipfile.BadZipFile, NotImplementedError, RuntimeError, *DAMAGED) as error:
                    yield Fault(here, "damaged archive", info.compress_size, detail=first_line(error))
        yield from wanted.none(place)
    except UserError:  # a ValueError too
        raise
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, *DAMAGED) as error:
        yield Fault(place, "damaged archive", size_of(stream), detail=first_line(error))
    finally:
        if whole is not stream:
            whole.close()


def read_tar(stream: IO[bytes], place: str, reading: Reading) -> Iterator[Item]:
    """The documents of a tar archive's members, as the stream brings them; `place!name` is a member."""
    source = _Forward(stream)
    budget = _Budget(reading, None)
    wanted = _Wanted(reading.members)
    called = _Names()
    last = place
    try:
        with tarfile.TarFile(fileobj=source, mode="r", encoding="utf-8", errors="backslashreplace") as archive:  # type: ignore[arg-type]
            while (info := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # it would keep all
                if info.isdir() or not (name := _clean(info.name)) or not wanted(name):
                    continue
                here = last = f"{place}!{called(name)}"
                fault = _refused(info.name, here, info.size, linked=info.issym() or info.islnk())
                if fault is None and (not info.isreg() or info.issparse()):
                    fault = Fault(here, "not a regular file", info.size)
                if fault is not None:
                    yield fault
                    continue
                member = _TarMember(source, info.size)
                yield from _read_member(member, here, info.size, budget, reading)
        yield from wanted.none(place)
        if source.last_block.strip(b"\0") or len(source.last_block) < tarfile.BLOCKSIZE:
            # tarfile takes a bad or missing header for the end.
            yield Fault(last, "damaged archive", size_of(stream), detail=f"it breaks off or is damaged after {last}")
    except Bomb as error:
        yield expands_too_far(last, stream, error)
    except UserError:  # a ValueError too
        raise
    except (tarfile.TarError, RecursionError, ValueError, *DAMAGED) as error:
        detail = f"at or after {last}: {first_line(error)}"
        yield Fault(last, "damaged archive", size_of(stream), detail=detail)


class _Wanted:
    """The user's choice among the members."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.matches = re.compile(glob_regex(pattern)).fullmatch
        self.seen = self.chosen = 0

    def __call__(self, name: str) -> bool:
        self.seen += 1
        found = self.matches(name) is not None
        self.chosen += found
        return found

    def none(self, place: str) -> Iterator[Fault]:
        """A fault when nothing was chosen."""
        if not self.chosen:
            detail = f"none of its {self.seen} files matches `members: {self.pattern}`"
            yield Fault(place, "no such file in the archive", value=float(self.seen), detail=detail)


class _Names:
    """Names for the members of an archive, each once: it may hold several of one name, the second is `x (2).txt`."""

    def __init__(self) -> None:
        self.given: set[int] = set()  # hashes: an archive may have millions of members

    def __call__(self, name: str) -> str:
        folder, slash, file = name.rpartition("/")
        stem, point, endings = file.partition(".")
        number = 1
        while (key := _short_hash(name)) in self.given:
            number += 1
            name = f"{folder}{slash}{stem} ({number}){point}{endings}"
        self.given.add(key)
        return name


def _short_hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


class _Budget:
    """What the members of an archive have given so far. `packed` is None when the stream below watches itself."""

    def __init__(self, reading: Reading, packed: int | None) -> None:
        self.expansion = reading.expansion
        self.packed = packed or 0
        self.bounded = packed is not None
        self.given = 0

    def take(self, count: int) -> None:
        self.given += count
        if not self.bounded:
            return
        limit = self.expansion.limit(self.packed)
        if self.given > limit:
            raise Bomb(self.given, self.packed, limit, self)


class _Member(io.RawIOBase):
    """The bytes of one member, counted. `size` is what the archive says of it."""

    def __init__(self, source: Any, size: int, budget: _Budget) -> None:
        self.source, self.size, self.budget = source, size, budget

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self.source.read(min(len(buffer), 1 << 18))  # so that a bomb is noticed before it is unpacked
        self.budget.take(len(content))
        buffer[: len(content)] = content
        return len(content)


class _TarMember:
    """The next `size` bytes of a tar file; ends in an error when there are fewer."""

    def __init__(self, source: _Forward, size: int) -> None:
        self.source, self.left = source, size

    def read(self, count: int) -> bytes:
        content = self.source.take(min(count, self.left))
        if not content and self.left:
            raise EOFError("the archive ends inside this file")
        self.left -= len(content)
        return content


class _Forward:
    """A stream as tarfile wants it, read once from front to back. Remembers what it gave last: a header, at the end."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.position = 0
        self.last_block = b""

    def tell(self) -> int:
        return self.position

    def seek(self, position: int, whence: int = 0) -> int:
        if whence or position < self.position:
            raise tarfile.ReadError("this archive cannot be read from front to back")
        while self.position < position:
            if not self.take(min(1 << 20, position - self.position)):
                raise EOFError("the archive ends inside a file")
        return self.position

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= MAX_TAR_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {count} bytes")
        content = b""
        while len(content) < count and (piece := self.take(count - len(content))):
            content += piece
        if count == tarfile.BLOCKSIZE:
            self.last_block = content
        return content

    def take(self, count: int) -> bytes:
        content = self.stream.read(count)
        self.position += len(content)
        return content


def _read_member(source: Any, here: str, size: int, budget: _Budget, reading: Reading) -> Iterator[Item]:
    from lmcraft.corpus.readers.files import read_stream

    yield from read_stream(io.BufferedReader(_Member(source, size, budget), 1 << 18), here, reading, nested=True)


def _clean(name: str) -> str:
    return name.removeprefix("./").rstrip("/")


def _refused(name: str, here: str, size: int, *, linked: bool) -> Fault | None:
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or re.match(r"[A-Za-z]:", name) or "\0" in name:
        return Fault(here, "path leads out of the archive", size)
    if linked:
        return Fault(here, "link not followed", size)
    if any(part.startswith(".") and part != "." for part in parts):
        return Fault(here, "hidden file", size)
    return None
