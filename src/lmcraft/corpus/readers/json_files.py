"""JSON: an object a line, or one file of records."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, Any

import orjson

from lmcraft.corpus.readers.encodings import known_encoding
from lmcraft.corpus.readers.records import (
    Fault,
    Item,
    Reading,
    check_columns,
    excerpt,
    first_line,
    invalid_utf8,
    record_of,
    too_long,
)
from lmcraft.corpus.readers.streams import DAMAGED, EXCERPT_BYTES, Bomb, bounded_lines, size_of
from lmcraft.recipe.stage import UserError

MAX_JSON_BYTES = 200_000_000
"""A file of JSON that is no JSONL is parsed whole, which takes several times its size."""


def read_json_lines(stream: IO[bytes], place: str, reading: Reading) -> Iterator[Item]:
    """One JSON object a line. Blank lines hold no record."""
    line_number = 0
    seen_object = reading.cut is not None and reading.cut.first > 0
    encoding = None if reading.encoding in ("auto", "utf-8") else known_encoding(reading.encoding)
    try:
        if b"\0" in stream.peek(8192)[:8192]:  # type: ignore[attr-defined]
            yield Fault(place, "binary file", size_of(stream), detail="NUL bytes at its beginning")
            return
        for line_number, offset, content, size, excess in bounded_lines(stream, reading.max_record_bytes, reading.cut):
            here = f"{place}:{line_number}"
            if excess:
                yield too_long(here, size, content, reading)
                continue
            try:
                value = orjson.loads(content if encoding is None else content.decode(encoding))
                checked = True
            except ValueError:
                if not content.strip():
                    continue
                value = _explained(content, here, offset, size, line_number, encoding or "utf-8")
                checked = False
                if isinstance(value, Fault):
                    yield value
                    continue
            if reading.records:
                yield from _inner_records(value, here, size, reading)
                continue
            if not isinstance(value, dict):
                yield Fault(here, "not a JSON object", size, excerpt(content))
                continue
            if not seen_object:
                seen_object = True
                check_columns(value.keys(), here, reading)
            # JSON never spells a string in fewer bytes than UTF-8, so a line within the limit holds no text beyond it.
            yield record_of(value, here, size, reading, offset=offset, checked=checked)
    except DAMAGED as error:
        here = f"{place}:{line_number + 1}"
        if isinstance(error, Bomb):
            yield expands_too_far(here, stream, error)
            return
        detail = f"the compressed stream breaks after line {line_number}: {first_line(error)}"
        yield Fault(here, "damaged compression", size_of(stream), detail=detail)


def read_json(stream: IO[bytes], place: str, reading: Reading) -> Iterator[Item]:
    """One file of records: a list, an object of objects (`{key: record}`), a single record, or what `records` leads to.

    A file that is none of these is a fault, not the user's mistake: settings and metadata are JSON too.
    """
    content = stream.read(MAX_JSON_BYTES + 1)
    if len(content) > MAX_JSON_BYTES:
        detail = f"more than {MAX_JSON_BYTES} bytes in one JSON value; make it JSONL, a record a line"
        yield Fault(place, "file too long", size_of(stream), excerpt(content), threshold=MAX_JSON_BYTES, detail=detail)
        return
    try:
        value = _parsed(content)
    except (ValueError, RecursionError) as error:
        yield Fault(place, "malformed JSON", len(content), excerpt(content), detail=first_line(error))
        return
    if reading.records:
        yield from _inner_records(value, place, len(content), reading)
        return
    if isinstance(value, dict) and isinstance(value.get(reading.columns.text), str):
        yield record_of(value, place, len(content), reading)
        return
    items = _keyed(value)
    if not any(isinstance(item, dict) and reading.columns.text in item for _, item in items):
        detail = f"neither a record nor a list or object of records with a field {reading.columns.text!r}"
        yield Fault(place, "no records in JSON", len(content), excerpt(content), detail=detail)
        return
    yield from _records(items, place, reading, check=False)


def read_json_objects(stream: IO[bytes], place: str, reading: Reading) -> Iterator[Item]:
    """A JSON file that is one object of objects (`{key: record}`) or a list of them; `place#key` names a record.

    Raises UserError when the file is something else.
    """
    try:
        value = _parsed(stream.read())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} is not JSON ({first_line(error)})") from error
    if not isinstance(value, (dict, list)):
        raise UserError(f"{place} holds neither an object nor a list of records")
    yield from _records(_keyed(value), place, reading, check=True)


def expands_too_far(place: str, stream: IO[bytes], error: Bomb) -> Fault:
    detail = f"{error}; if the file is what it should be, raise `max_expansion` of its source"
    return Fault(place, "expands too far", size_of(stream), "", float(error.unpacked), float(error.limit), detail)


def _parsed(content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except ValueError:  # orjson is stricter: no NaN, no half surrogates, no byte order mark
        return json.loads(content.decode("utf-8-sig"))


def _keyed(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [(str(key), item) for key, item in value.items()]
    return [(str(number), item) for number, item in enumerate(value, 1)] if isinstance(value, list) else []


def _inner_records(value: Any, place: str, size: int, reading: Reading) -> Iterator[Item]:
    """The records that the path leads to: objects, or texts without fields. Each is named by its own path."""
    found = list(_walk(value, reading.records))
    text = reading.columns.text
    if not any(isinstance(item, str) or (isinstance(item, dict) and text in item) for _, item in found):
        detail = (
            f"`records: {'.'.join(reading.records)}` leads to {len(found)} values, none a text or with a field {text!r}"
        )
        yield Fault(place, "no records in JSON", size, str(value)[:EXCERPT_BYTES], detail=detail)
        return
    yield from _records(
        [(key, {text: item} if isinstance(item, str) else item) for key, item in found], place, reading, check=False
    )


def _walk(value: Any, path: tuple[str, ...], way: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """What a path leads to, each with the names and numbers on its own way there; `*` is every element."""
    if not path:
        yield ".".join(way), value
        return
    items = _keyed(value)
    if path[0] != "*":
        items = [(key, item) for key, item in items if key == path[0] and isinstance(value, dict)]
    for key, item in items:
        yield from _walk(item, path[1:], (*way, key))


def _records(items: list[tuple[str, Any]], place: str, reading: Reading, *, check: bool) -> Iterator[Item]:
    seen_object = not check
    for key, item in items:
        here = f"{place}#{key}"
        if not isinstance(item, dict):
            yield Fault(here, "not a JSON object", len(str(item)), str(item)[:EXCERPT_BYTES])
            continue
        if not seen_object:
            seen_object = True
            check_columns(item.keys(), place, reading)
        yield record_of(item, here, 0, reading)


def _explained(content: bytes, here: str, offset: int, size: int, number: int, encoding: str) -> Any:
    """What orjson refused: the value, if Python's parser takes it, else the fault with its true reason."""
    try:
        text = content.decode("utf-8-sig" if number == 1 and encoding == "utf-8" else encoding)
    except UnicodeDecodeError as error:
        if encoding == "utf-8":
            return invalid_utf8(here, content, offset, error)
        detail = f"not {encoding}: byte at offset {offset + error.start}"
        return Fault(here, "undecodable text", size, excerpt(content), float(offset + error.start), detail=detail)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        return Fault(here, "malformed JSON", size, excerpt(content), detail=first_line(error))
