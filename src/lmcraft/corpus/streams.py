"""Streams of bytes in bounded memory: compressed files that may be damaged, lines that may be endless."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any

import zstandard

EXCERPT_BYTES = 2000
"""How much of a bad record is kept to look at."""

DAMAGED = (EOFError, zlib.error, zstandard.ZstdError)
"""What reading from `decompressed` raises when the file is cut or not what its name says."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line without its end: number from 1, offset of its first byte, true size.

    With `excess` only its beginning is in `content`.
    """

    number: int
    offset: int
    content: bytes
    size: int
    excess: bool


def bounded_lines(stream: IO[bytes], limit: int) -> Iterator[Line]:
    """Lines of a byte stream; of one longer than `limit` bytes only the beginning is kept, the rest is read past."""
    offset = 0
    number = 0
    while content := stream.readline(limit + 2):
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


def decompressed(file: io.BufferedReader, name: str) -> io.BufferedReader:
    """The content of a file by the ending of its name: .gz, .zst, or as it is."""
    lower = name.lower()
    if lower.endswith(".gz"):
        return io.BufferedReader(_Unpacked(file, lambda: zlib.decompressobj(wbits=31)), 1 << 18)
    if lower.endswith(".zst"):
        zstd = zstandard.ZstdDecompressor(max_window_size=1 << 27)
        return io.BufferedReader(_Unpacked(file, zstd.decompressobj), 1 << 18)
    return file


class _Unpacked(io.RawIOBase):
    """The content of one or more compressed frames; a file that ends inside one gives all it has, then an EOFError.

    The libraries' own readers end such a file in silence (zstandard) or hold back what they had (gzip). Input goes in
    by small pieces, so that a few bytes that stand for gigabytes are still unpacked a little at a time.
    """

    PIECE = 2048

    def __init__(self, file: IO[bytes], new_frame: Callable[[], Any]) -> None:
        self.file = file
        self.new_frame = new_frame
        self.frame: Any = None
        self.pending = memoryview(b"")
        self.rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.pending:
            piece = self.rest or self.file.read(self.PIECE)
            self.rest = b""
            if not piece:
                if self.frame is not None:
                    raise EOFError("the file ends before its last compressed frame does")
                return 0
            if self.frame is None:
                if not piece.strip(b"\0"):  # padding between frames
                    continue
                self.frame = self.new_frame()
            self.pending = memoryview(self.frame.decompress(piece))
            if self.frame.eof:
                self.rest, self.frame = self.frame.unused_data, None
        count = min(len(buffer), len(self.pending))
        buffer[:count] = self.pending[:count]
        self.pending = self.pending[count:]
        return count
