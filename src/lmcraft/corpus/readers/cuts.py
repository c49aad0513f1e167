"""Large files in pieces that several workers read: files of lines by bytes, Parquet by row groups.

Where a file is cut depends on its bytes alone. A piece knows how many lines or rows are before it, so that its records
are called what they would be called in the whole file.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from lmcraft.corpus.readers.files import reader_for
from lmcraft.corpus.readers.json_files import read_json_lines
from lmcraft.corpus.readers.records import Reader, Reading
from lmcraft.corpus.readers.streams import Cut, bare_name
from lmcraft.corpus.readers.tables import read_parquet
from lmcraft.corpus.readers.text_files import read_lines

CUT_BYTES = 64_000_000
"""A piece ends with the line or row group that reaches this size."""

BLOCK_BYTES = 4_000_000


def cuts_of(path: Path, name: str, reading: Reading) -> list[Cut]:
    """The pieces of a file in order; none when it is to be read whole: small, compressed, or of another format.

    So is what cannot be read or does not begin as it should, for what a reader says of that holds for the whole file.
    Lines are counted at some GB/s, once.
    """
    reader = reader_for(name, reading)
    try:
        if bare_name(name) != name.lower() or path.stat().st_size <= CUT_BYTES:
            return []
        if reader in (read_json_lines, read_lines):
            cuts = list(_by_lines(path, reader, reading))
        elif reader is read_parquet:
            cuts = list(_by_row_groups(path))
        else:
            return []
    except (OSError, pa.ArrowException):
        return []
    return cuts if len(cuts) > 1 else []


def _by_lines(path: Path, reader: Reader, reading: Reading) -> Iterator[Cut]:
    first = before = lines = position = 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK_BYTES):
            if position == 0 and not _is_clear(block, reader, reading):
                return
            start = 0
            while (end := block.find(b"\n", max(start, first + CUT_BYTES - 1 - position)) + 1) > 0:
                lines += block.count(b"\n", start, end)
                yield Cut(first, position + end, before)
                first, before, start = position + end, lines, end
            lines += block.count(b"\n", start)
            position += len(block)
    if first < position:
        yield Cut(first, position, before)


def _is_clear(beginning: bytes, reader: Reader, reading: Reading) -> bool:
    """Whether what a reader learns from the beginning of a file can be learnt here, so in the first piece.

    That is whether it is text at all, and of JSON whether the first object has the fields that were named.
    """
    if b"\n" not in beginning or b"\0" in beginning:
        return False
    if reader is read_lines or reading.records:
        return True
    return any(map(_is_object, beginning.removeprefix(codecs.BOM_UTF8).split(b"\n")[:100]))


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(orjson.loads(line), dict)
    except ValueError:
        return False


def _by_row_groups(path: Path) -> Iterator[Cut]:
    with pq.ParquetFile(path) as file:
        metadata = file.metadata
    first = before = rows = size = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        rows += group.num_rows
        size += sum(group.column(column).total_compressed_size for column in range(group.num_columns))
        if size >= CUT_BYTES or number + 1 == metadata.num_row_groups:
            yield Cut(first, number + 1, before)
            first, before, size = number + 1, rows, 0
