"""Streams of bytes in bounded memory: compressed files that may be damaged or bombs, lines that may be endless."""

from __future__ import annotations

import bz2
import io
import lzma
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, NamedTuple

import zstandard

EXCERPT_BYTES = 2000
"""How much of a bad record is kept to look at."""

SPOOL_BYTES = 16_000_000
"""A stream that must be seekable is held in memory up to this size, then in a temporary file."""


@dataclass(frozen=True)
class Expansion:
    """How far compressed bytes may expand: beyond `free_bytes`, not more than `ratio` times; never past `most_bytes`.

    Text packs 3 to 10 times, repetitive records up to about 100; gzip's bound is 1032, those of xz, bzip2 and zstd are
    far above it.
    """

    ratio: float = 300.0
    free_bytes: int = 200_000_000
    most_bytes: int = 1 << 42

    def limit(self, packed: int) -> float:
        """Most bytes that so many packed bytes may give."""
        return min(max(packed * self.ratio, self.free_bytes), self.most_bytes)


class Bomb(Exception):
    """Compressed bytes that expand too far; `source` is what was unpacking them."""

    def __init__(self, unpacked: int, packed: int, limit: float, source: object) -> None:
        super().__init__(f"{packed} bytes unpack to {unpacked} and more")
        self.unpacked, self.limit, self.source = unpacked, limit, source


DAMAGED = (EOFError, zlib.error, zstandard.ZstdError, lzma.LZMAError, Bomb)
"""What reading from `decompressed` raises when the file is cut, expands too far, or is not what its name says."""


class Line(NamedTuple):
    """A line without its end: number from 1, offset of its first byte, true size.

    With `excess` only its beginning is in `content`.
    """

    number: int
    offset: int
    content: bytes
    size: int
    excess: bool


@dataclass(frozen=True)
class Cut:
    """A piece of a large file: whole lines from byte `first` to `end`, or row groups of Parquet.

    `before` lines or rows are before it in the file.
    """

    first: int
    end: int
    before: int


def bounded_lines(stream: IO[bytes], limit: int, cut: Cut | None = None) -> Iterator[Line]:
    """Lines of a byte stream; of one longer than `limit` bytes only the beginning is kept, the rest is read past.

    Of a `cut` only its lines; the stream must then be one that can seek.
    """
    number, offset = (cut.before, cut.first) if cut else (0, 0)
    if cut:
        stream.seek(cut.first)
    while (cut is None or offset < cut.end) and (content := stream.readline(limit + 2)):
        number += 1
        size = len(content)
        ended = content.endswith(b"\n")
        bare = content.rstrip(b"\r\n") if ended else content
        if len(bare) > limit:
            bare = content[:EXCERPT_BYTES]
            del content
            while not ended and (rest := stream.readline(1 << 20)):
                size += len(rest)
                ended = rest.endswith(b"\n")
            yield Line(number, offset, bare, size, True)
        else:
            yield Line(number, offset, bare, size, False)
        offset += size


def bare_name(name: str) -> str:
    """A file's name in lower case without the ending of its compression: `A.JSONL.gz` is `a.jsonl`, `a.tgz` `a.tar`."""
    lower = name.lower()
    for short, long in SHORT_NAMES.items():
        if lower.endswith(short):
            lower = lower.removesuffix(short) + long
    ending = next((ending for ending in COMPRESSIONS if lower.endswith(ending)), "")
    return lower.removesuffix(ending)


def decompressed(file: IO[bytes], name: str, expansion: Expansion | None = None) -> IO[bytes]:
    """The content of a file by the ending of its name (.gz .zst .xz .bz2 and .tgz), or the file as it is."""
    lower = name.lower()
    lower = next((lower + long for short, long in SHORT_NAMES.items() if lower.endswith(short)), lower)
    for ending, new_frame in COMPRESSIONS.items():
        if lower.endswith(ending):
            return io.BufferedReader(_Unpacked(file, new_frame, expansion or Expansion()), 1 << 18)
    return file


def seekable(stream: IO[bytes]) -> IO[bytes]:
    """The stream itself when one can seek in it, else a copy that is deleted when closed."""
    if stream.seekable():
        return stream
    copy = tempfile.SpooledTemporaryFile(SPOOL_BYTES)  # noqa: SIM115 - the caller closes it
    try:
        shutil.copyfileobj(stream, copy, 1 << 20)
    except BaseException:
        copy.close()
        raise
    copy.seek(0)
    return copy


def size_of(stream: IO[bytes]) -> int:
    """Bytes of the file under a stream; 0 when it cannot be known."""
    raw = getattr(stream, "raw", stream)
    if isinstance(raw, _Unpacked):
        return size_of(raw.file)
    if isinstance(size := getattr(raw, "size", None), int):
        return size
    try:
        return os.fstat(stream.fileno()).st_size
    except (OSError, ValueError, AttributeError):
        return 0


class _Unpacked(io.RawIOBase):
    """The content of one or more compressed frames; a file that ends inside one gives all it has, then an EOFError.

    The libraries' own readers end such a file in silence (zstandard) or hold back what they had (gzip). Input goes in
    by small pieces, so that a few bytes that stand for gigabytes are still unpacked a little at a time.
    """

    PIECE = 2048

    def __init__(self, file: IO[bytes], new_frame: Callable[[], Any], expansion: Expansion) -> None:
        self.file = file
        self.new_frame = new_frame
        self.expansion = expansion
        self.frame: Any = None
        self.pending = memoryview(b"")
        self.rest = b""
        self.taken = self.given = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.pending:
            piece = self.rest
            if not piece:
                piece = self.file.read(self.PIECE)
                self.taken += len(piece)
            self.rest = b""
            if not piece:
                if self.frame is not None:
                    raise EOFError("the file ends before its last compressed frame does")
                return 0
            if self.frame is None:
                if not piece.strip(b"\0"):  # padding between frames
                    continue
                self.frame = self.new_frame()
            try:
                self.pending = memoryview(self.frame.decompress(piece))
            except OSError as error:  # bz2 calls bad data so, and the file system's errors must stay apart from it
                raise EOFError(str(error)) from error
            self.given += len(self.pending)
            if self.given > (limit := self.expansion.limit(self.taken)):
                raise Bomb(self.given, self.taken, limit, self)
            if self.frame.eof:
                self.rest, self.frame = self.frame.unused_data, None
        count = min(len(buffer), len(self.pending))
        buffer[:count] = self.pending[:count]
        self.pending = self.pending[count:]
        return count


COMPRESSIONS: dict[str, Callable[[], Any]] = {
    ".gz": lambda: zlib.decompressobj(wbits=31),
    ".zst": lambda: zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj(),
    ".xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=1 << 28),
    ".bz2": bz2.BZ2Decompressor,
}
"""Ending of a name -> a new decompressor of one frame."""

SHORT_NAMES = {".tgz": ".tar.gz", ".txz": ".tar.xz", ".tbz2": ".tar.bz2", ".tzst": ".tar.zst"}
