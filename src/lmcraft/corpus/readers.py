"""Readers: one file of bytes -> records and faults, in order, each with its place, in bounded memory.

A reader never stops at a bad record: it yields a `Fault` and goes on where it can. What ends a file (a truncated
stream, an unreadable disk) is a fault too; the records before it are kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from lmcraft.corpus.streams import DAMAGED, EXCERPT_BYTES, Line, bounded_lines, decompressed
from lmcraft.recipe.stage import UserError


@dataclass(frozen=True, slots=True)
class Record:
    """A document as the source has it. `place` is relative to the source."""

    place: str
    text: str
    title: str | None = None
    description: str | None = None
    language: str | None = None
    topic: str | None = None
    licence: str | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that could not become a document: where, why, how long (bytes), and its beginning.

    `value` and `threshold` are numbers that belong to the reason: an offset, a length and the limit it passed.
    """

    place: str
    reason: str
    size: int = 0
    excerpt: str = ""
    value: float | None = None
    threshold: float | None = None
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}" + (f" ({self.detail})" if self.detail else "")


@dataclass(frozen=True)
class Columns:
    """Names of the fields that hold each part of a record. `required` ones must exist, not only the text."""

    text: str = "text"
    title: str | None = "title"
    description: str | None = "description"
    language: str | None = "language"
    topic: str | None = "topic"
    licence: str | None = "licence"
    required: frozenset[str] = frozenset()

    def optional(self) -> dict[str, str]:
        parts = ("title", "description", "language", "topic", "licence")
        return {part: name for part in parts if (name := getattr(self, part)) is not None}


@dataclass(frozen=True)
class Reading:
    """What every reader is told: field names and the largest record in bytes. `note` shows a line to the user."""

    columns: Columns = field(default_factory=Columns)
    max_record_bytes: int = 50_000_000
    note: Callable[[str], None] = lambda text: None


Item = Record | Fault
Reader = Callable[[Path, str, Reading], Iterator[Item]]


def read_file(path: Path, place: str, reading: Reading) -> Iterator[Item]:
    """Records and faults of one file, by the ending of its name; `place` is what the records call the file."""
    reader = reader_for(place)
    if reader is None:
        yield Fault(place, "unknown format", _size(path), detail=f"known endings: {', '.join(READERS)}")
        return
    try:
        yield from reader(path, place, reading)
    except OSError as error:
        yield Fault(place, "unreadable file", _size(path), detail=error.strerror or str(error))


def reader_for(name: str) -> Reader | None:
    """The reader of a file name, by its longest known ending."""
    lower = name.lower()
    return next((reader for ending, reader in READERS.items() if lower.endswith(ending)), None)


def read_text(path: Path, place: str, reading: Reading) -> Iterator[Item]:
    """A text file is one document."""
    text = _whole_text(path, place, reading)
    yield text if isinstance(text, Fault) else Record(place, text)


def read_markdown(path: Path, place: str, reading: Reading) -> Iterator[Item]:
    """A Markdown file is one document; its first `# heading` outside code is the title, taken out if it comes first."""
    text = _whole_text(path, place, reading)
    if isinstance(text, Fault):
        yield text
        return
    fence = re.search(r"^ {0,3}(```|~~~)", text, re.MULTILINE)
    heading = re.search(r"^ {0,3}#[ \t]+(.+?)[ \t]*#*[ \t]*$", text[: fence.start() if fence else None], re.MULTILINE)
    if heading is None:
        yield Record(place, text)
        return
    body = text[heading.end() :].lstrip("\n") if not text[: heading.start()].strip() else text
    yield Record(place, body, heading[1]) if body.strip() else Fault(place, "empty text", len(text.encode()))


def read_json_lines(path: Path, place: str, reading: Reading) -> Iterator[Item]:
    """One JSON object a line, plain, .gz or .zst. Blank lines hold no record."""
    with path.open("rb") as compressed:
        stream = decompressed(compressed, place)
        line_number = 0
        seen_object = False
        try:
            if b"\0" in stream.peek(8192)[:8192]:
                yield Fault(place, "binary file", _size(path), detail="NUL bytes at its beginning")
                return
            for line in bounded_lines(stream, reading.max_record_bytes):
                line_number = line.number
                here = f"{place}:{line.number}"
                if line.excess:
                    yield _too_long(here, line.size, line.content, reading)
                    continue
                if not line.content.strip():
                    continue
                value = _parse(line, here)
                if isinstance(value, Fault):
                    yield value
                    continue
                if not seen_object:
                    seen_object = True
                    check_columns(value.keys(), here, reading)
                yield from _record(value, here, line.size, reading)
        except DAMAGED as error:
            detail = f"the compressed stream breaks after line {line_number}: {_first_line(error)}"
            yield Fault(f"{place}:{line_number + 1}", "damaged compression", _size(path), detail=detail)


def read_parquet(path: Path, place: str, reading: Reading) -> Iterator[Item]:
    """One document a row, a row group at a time; rows count from 1."""
    row = 0
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            check_columns(file.schema_arrow.names, place, reading)
            wanted = [reading.columns.text, *reading.columns.optional().values()]
            present = [name for name in dict.fromkeys(wanted) if name in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=512, columns=present):
                columns = {name: _strings(batch[name], name, place) for name in present}
                for index in range(batch.num_rows):
                    row += 1
                    yield from _parquet_row({name: columns[name][index] for name in present}, f"{place}:{row}", reading)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the file system's, not Arrow's
            raise
        yield Fault(f"{place}:{row + 1}", "damaged Parquet", _size(path), detail=_first_line(error))


def read_json_objects(stream: IO[bytes], place: str, reading: Reading) -> Iterator[Item]:
    """A JSON file that is one object of objects (`{key: record}`) or a list of them; `place#key` names a record.

    Raises UserError when the file is something else.
    """
    try:
        value = json.load(stream)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} is not JSON ({_first_line(error)})") from error
    if isinstance(value, dict):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list):
        items = [(str(number), item) for number, item in enumerate(value, 1)]
    else:
        raise UserError(f"{place} holds neither an object nor a list of records")
    checked = False
    for key, item in items:
        here = f"{place}#{key}"
        if not isinstance(item, dict):
            yield Fault(here, "not a JSON object", len(str(item)), str(item)[:EXCERPT_BYTES])
            continue
        if not checked:
            checked = True
            check_columns(item.keys(), place, reading)
        yield from _record(item, here, 0, reading)


def check_columns(names: Any, place: str, reading: Reading) -> None:
    """Raise UserError when the text field, or an optional one that the user named, is not among `names`."""
    existing = [str(name) for name in names]
    for name in [reading.columns.text, *sorted(reading.columns.required)]:
        if name not in existing:
            near = get_close_matches(name, existing, 1) or get_close_matches(
                name.casefold(), [item.casefold() for item in existing], 1
            )
            nearest = next((item for item in existing if near and item.casefold() == near[0].casefold()), None)
            hint = (
                f"; did you mean {nearest!r}?" if nearest else "; name the right one in the source's *_column settings"
            )
            sentence = f"{place} has no column {name!r}; it has {', '.join(map(repr, existing[:50])) or 'none'}{hint}"
            if name == reading.columns.text or place.lower().endswith(".parquet"):
                raise UserError(sentence)
            reading.note(sentence)  # a record of JSON may leave an optional field out


def _parse(line: Line, here: str) -> dict[str, Any] | Fault:
    try:
        text = line.content.decode("utf-8-sig" if line.number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        return _invalid_utf8(here, line.content, line.offset, error)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Fault(here, "malformed JSON", line.size, text[:EXCERPT_BYTES], detail=_first_line(error))
    if not isinstance(value, dict):
        return Fault(here, "not a JSON object", line.size, text[:EXCERPT_BYTES])
    return value


def _record(value: Mapping[str, Any], here: str, size: int, reading: Reading) -> Iterator[Item]:
    text = value.get(reading.columns.text)
    if text is None or (isinstance(text, str) and not text.strip()):
        yield Fault(here, "empty text", size)
        return
    if not isinstance(text, str):
        yield Fault(here, "text is not a string", size, str(text)[:EXCERPT_BYTES], detail=type(text).__name__)
        return
    parts = {part: _short_text(value.get(name)) for part, name in reading.columns.optional().items()}
    try:
        length = sum(len(part.encode("utf-8")) for part in (text, *parts.values()) if part is not None)
    except UnicodeEncodeError:  # JSON can spell half of a surrogate pair
        excerpt = text[:EXCERPT_BYTES].encode("utf-8", "backslashreplace").decode()
        yield Fault(here, "invalid Unicode", size, excerpt, detail="half of a surrogate pair")
        return
    if length > reading.max_record_bytes:
        yield _too_long(here, length, text[:EXCERPT_BYTES].encode(), reading)
        return
    yield Record(here, text, **parts)


def _parquet_row(values: Mapping[str, bytes | None], here: str, reading: Reading) -> Iterator[Item]:
    size = sum(len(value) for value in values.values() if value is not None)
    if size > reading.max_record_bytes:
        yield _too_long(here, size, (values[reading.columns.text] or b"")[:EXCERPT_BYTES], reading)
        return
    decoded: dict[str, str | None] = {}
    for name, value in values.items():
        try:
            decoded[name] = None if value is None else value.decode("utf-8")
        except UnicodeDecodeError as error:
            yield _invalid_utf8(here, value or b"", 0, error)
            return
    yield from _record(decoded, here, size, reading)


def _strings(column: pa.Array, name: str, place: str) -> list[bytes | None]:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        column = column.cast(pa.string())
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    if not any(kind(column.type) for kind in kinds):
        raise UserError(f"{place}: column {name!r} is of type {column.type}, not text; name a column of strings")
    # Bytes first: a file may claim UTF-8 and not keep to it, and that must cost one row only.
    return list(column.cast(pa.large_binary()).to_pylist())


def _whole_text(path: Path, place: str, reading: Reading) -> str | Fault:
    with path.open("rb") as file:
        content = file.read(reading.max_record_bytes + 1)
    if len(content) > reading.max_record_bytes:
        return _too_long(place, _size(path), content[:EXCERPT_BYTES], reading)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        detail = "the file is UTF-16; save it as UTF-8"
        return Fault(place, "invalid UTF-8", len(content), value=0.0, detail=detail)
    if (nul := content.find(b"\0")) >= 0:
        detail = f"NUL byte at offset {nul}"
        return Fault(place, "binary file", len(content), _excerpt(content), value=float(nul), detail=detail)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return _invalid_utf8(place, content, 0, error)
    if not text.strip():
        return Fault(place, "empty text", len(content))
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _invalid_utf8(place: str, content: bytes, offset: int, error: UnicodeDecodeError) -> Fault:
    at = offset + error.start
    detail = f"byte 0x{content[error.start]:02x} at offset {at}"
    around = content[max(0, error.start - 100) : error.start + EXCERPT_BYTES - 100]
    return Fault(place, "invalid UTF-8", len(content), _excerpt(around), value=float(at), detail=detail)


def _too_long(place: str, size: int, beginning: bytes, reading: Reading) -> Fault:
    limit = reading.max_record_bytes
    detail = f"{size} bytes; max_record_bytes is {limit}"
    return Fault(place, "record too long", size, _excerpt(beginning), float(size), float(limit), detail)


def _excerpt(content: bytes) -> str:
    return content[:EXCERPT_BYTES].decode("utf-8", "backslashreplace")


def _short_text(value: Any) -> str | None:
    if isinstance(value, str):
        return value.strip() or None
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


READERS: dict[str, Reader] = {
    ".txt": read_text,
    ".text": read_text,
    ".md": read_markdown,
    ".markdown": read_markdown,
    ".jsonl": read_json_lines,
    ".jsonl.gz": read_json_lines,
    ".jsonl.zst": read_json_lines,
    ".parquet": read_parquet,
}
"""Ending of a file name -> its reader. A new format is a function of (path, place, reading) and a line here."""
