"""Tables, a row a document: Parquet, CSV, TSV."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lmcraft.corpus.readers.encodings import known_encoding
from lmcraft.corpus.readers.records import (
    Fault,
    Item,
    Reading,
    check_columns,
    damaged,
    first_line,
    invalid_utf8,
    record_of,
    too_long,
)
from lmcraft.corpus.readers.streams import EXCERPT_BYTES, bounded_lines, seekable, size_of
from lmcraft.recipe.stage import UserError

BATCH_BYTES = 16_000_000


def read_parquet(stream: IO[bytes], place: str, reading: Reading) -> Iterator[Item]:
    """One document a row, some MB at a time; rows count from 1."""
    row = reading.cut.before if reading.cut else 0
    whole = seekable(stream)
    try:
        with pq.ParquetFile(whole, pre_buffer=False) as file:
            check_columns(file.schema_arrow.names, place, reading, fixed=True)
            present = [name for name in reading.columns.names if name in file.schema_arrow.names]
            groups = range(reading.cut.first, reading.cut.end) if reading.cut else range(file.num_row_groups)
            for batch in file.iter_batches(_batch_rows(file.metadata), list(groups), present):
                columns, checked = _strings(batch, place, reading.max_record_bytes)
                for number in range(batch.num_rows):
                    row += 1
                    values = {name: columns[name][number] for name in present}
                    here = f"{place}:{row}"
                    yield record_of(values, here, 0, reading, checked=True) if checked else _row(values, here, reading)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the file system's, not Arrow's
            raise
        yield damaged(f"{place}:{row + 1}", "damaged Parquet", stream, error)
    finally:
        if whole is not stream:
            whole.close()


def read_csv(stream: IO[bytes], place: str, reading: Reading) -> Iterator[Item]:
    """One document a row, named by the first line; the delimiter is the one that line has most of: , ; tab or |."""
    yield from _read_delimited(stream, place, reading, None, reading.quotes is not False)


def read_tsv(stream: IO[bytes], place: str, reading: Reading) -> Iterator[Item]:
    """One document a row, tab between fields. A quotation mark is a letter as any other, unless `quotes` is set."""
    yield from _read_delimited(stream, place, reading, "\t", reading.quotes is True)


def _read_delimited(
    stream: IO[bytes], place: str, reading: Reading, delimiter: str | None, quotes: bool
) -> Iterator[Item]:
    encoding = "utf-8" if reading.encoding == "auto" else known_encoding(reading.encoding)
    lines = _Lines(stream, reading.max_record_bytes, encoding)
    header_line = next(lines, None)
    if header_line is None or not header_line.strip():
        yield Fault(place, "empty text", size_of(stream))
        return
    if "\0" in header_line:
        yield Fault(place, "binary file", size_of(stream), detail="NUL bytes at its beginning")
        return
    header_line = header_line.removeprefix("\ufeff")
    delimiter = delimiter or max(",;\t|", key=header_line.count)
    # The limit belongs to the process; every reader of CSV sets its own before it reads on.
    csv.field_size_limit(reading.max_record_bytes)
    rows = csv.reader(
        lines.after(header_line), delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
    )
    try:
        header = next(rows)
    except csv.Error as error:
        yield Fault(place, "malformed CSV", size_of(stream), header_line[:EXCERPT_BYTES], detail=first_line(error))
        return
    check_columns(header, place, reading, fixed=True)
    position = {name: header.index(name) for name in dict.fromkeys(header)}
    wanted = {name: position[name] for name in reading.columns.names if name in position}
    while True:
        lines.begin()
        try:
            csv.field_size_limit(reading.max_record_bytes)
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            here = f"{place}:{lines.first_line}"
            if lines.excess:
                yield too_long(here, lines.size, lines.beginning.encode("utf-8", "replace"), reading)
            else:
                yield Fault(here, "malformed CSV", lines.size, lines.beginning, detail=first_line(error))
            continue
        if not row:  # a blank line
            continue
        here = f"{place}:{lines.first_line}"
        if lines.excess:
            yield too_long(here, lines.size, lines.beginning.encode("utf-8", "replace"), reading)
        elif len(row) != len(header):
            detail = f"{len(row)} fields where the first line has {len(header)}"
            yield Fault(here, "malformed CSV", lines.size, lines.beginning, float(len(row)), float(len(header)), detail)
        elif lines.undecodable:
            detail = f"the row is not {encoding}"
            reason = "invalid UTF-8" if encoding == "utf-8" else "undecodable text"
            yield Fault(here, reason, lines.size, lines.beginning, detail=detail)
        else:
            values: dict[str, Any] = {name: row[index] for name, index in wanted.items()}
            yield record_of(values, here, lines.size, reading, offset=lines.offset, checked=True)


class _Lines:
    """Lines of a file as text, that remembers where the row now being read began and whether it was whole."""

    def __init__(self, stream: IO[bytes], limit: int, encoding: str) -> None:
        self.lines = bounded_lines(stream, limit)
        self.encoding, self.limit = encoding, limit
        self.pushed: str | None = None
        self.begin()

    def begin(self) -> None:
        """The next line begins a row."""
        self.first_line = self.offset = self.size = 0
        self.excess = self.undecodable = False
        self.beginning = ""

    def after(self, line: str) -> _Lines:
        """These lines with one more before them."""
        self.pushed = line
        return self

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if self.pushed is not None:
            line, self.pushed = self.pushed, None
            return line
        number, offset, content, size, excess = next(self.lines)
        try:
            text = content.decode(self.encoding)
        except UnicodeDecodeError:
            self.undecodable = True
            text = content.decode(self.encoding, "replace")
        if not self.first_line:
            self.first_line, self.offset = number, offset
            self.beginning = text[:EXCERPT_BYTES]
        self.size += size
        self.excess = self.excess or excess or self.size > self.limit + 2
        if excess:  # an open quotation mark in it must not draw the next lines in
            text = text.replace('"', "'")
        return text + "\n"


def _batch_rows(metadata: Any) -> int:
    """Rows whose text takes some MB, however long the documents are."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    longest = max((group.total_byte_size / max(1, group.num_rows) for group in groups), default=0)
    return int(min(4096, max(1, BATCH_BYTES / max(1, longest))))


def _strings(batch: pa.RecordBatch, place: str, limit: int) -> tuple[dict[str, list[Any]], bool]:
    """Columns as lists of str, and True; as lists of bytes, and False, when each row must be looked at.

    That is when some string does not keep to UTF-8 (a file may claim it, and that must cost one row only) or may be
    beyond the limit.
    """
    arrays = {name: _text_column(column, name, place) for name, column in zip(batch.schema.names, batch, strict=True)}
    try:
        for array in arrays.values():
            array.validate(full=True)
        longest = max((pc.max(pc.binary_length(array)).as_py() or 0 for array in arrays.values()), default=0)
        if longest * len(arrays) <= limit:
            return {name: array.to_pylist() for name, array in arrays.items()}, True
    except pa.ArrowInvalid:
        pass
    return {name: array.cast(pa.large_binary()).to_pylist() for name, array in arrays.items()}, False


def _text_column(column: pa.Array, name: str, place: str) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_temporal(kind):
        column = column.cast(pa.string())
    if pa.types.is_string_view(column.type):
        column = column.cast(pa.large_string())
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise UserError(f"{place}: column {name!r} is of type {column.type}, not text; name a column of strings")
    return column


def _row(values: dict[str, bytes | None], here: str, reading: Reading) -> Item:
    size = sum(len(value) for value in values.values() if value is not None)
    if size > reading.max_record_bytes:
        return too_long(here, size, (values[reading.columns.text] or b"")[:EXCERPT_BYTES], reading)
    decoded: dict[str, Any] = {}
    for name, value in values.items():
        try:
            decoded[name] = None if value is None else value.decode("utf-8")
        except UnicodeDecodeError as error:
            return invalid_utf8(here, value or b"", 0, error)
    return record_of(decoded, here, 0, reading, checked=True)
