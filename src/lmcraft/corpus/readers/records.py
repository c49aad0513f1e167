"""What readers hand out: records and faults, each with its place; and what readers are told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import cached_property
from typing import IO, Any

from lmcraft.corpus.readers.streams import EXCERPT_BYTES, Cut, Expansion, size_of
from lmcraft.corpus.readers.xml_mapping import XmlMapping
from lmcraft.recipe.stage import UserError


@dataclass(slots=True)
class Record:
    """A document as the source has it. `place` is relative to the source."""

    place: str
    text: str
    title: str | None = None
    description: str | None = None
    language: str | None = None
    topic: str | None = None
    licence: str | None = None
    format: str | None = None  # html, markdown, code; None: plain text
    url: str | None = None
    offset: int | None = None  # first byte of the record in its file, decompressed
    collected_at: datetime | None = None  # with a time zone, when the source says it
    note: str | None = None  # what had to be done to read it: "decoded from cp1252"


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


Item = Record | Fault


@dataclass(frozen=True)
class Columns:
    """Names of the fields that hold each part of a record. `required` ones must exist, not only the text."""

    text: str = "text"
    more_text: tuple[str, ...] = ()  # fields whose text follows it: the answers after a question
    title: str | None = "title"
    description: str | None = "description"
    language: str | None = "language"
    topic: str | None = "topic"
    licence: str | None = "licence"
    url: str | None = "url"
    collected_at: str | None = None
    required: frozenset[str] = frozenset()

    @cached_property
    def optional(self) -> tuple[tuple[str, str], ...]:
        """Parts of a record that are looked for besides its text, each with the name of its field."""
        parts = ("title", "description", "language", "topic", "licence", "url", "collected_at")
        return tuple((part, name) for part in parts if (name := getattr(self, part)) is not None)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All fields that are looked at, each once."""
        return tuple(dict.fromkeys((self.text, *self.more_text, *(name for _, name in self.optional))))


@dataclass(frozen=True)
class Reading:
    """What every reader is told. `note` shows a line to the user.

    `pattern` is the user's choice of files: endings that it names (`**/*.py`) are read as code, which other patterns
    leave out. `members` chooses among the files of an archive. `format` reads every file as that, whatever its name.
    `records` are the steps of the path that leads to each record inside a value of JSON.
    """

    columns: Columns = field(default_factory=Columns)
    max_record_bytes: int = 50_000_000
    note: Callable[[str], None] = lambda text: None
    encoding: str = "auto"
    format: str | None = None
    xml: XmlMapping | None = None
    records: tuple[str, ...] = ()
    pattern: str = "**/*"
    members: str = "**/*"
    quotes: bool | None = None  # None: in CSV yes, in TSV no
    expansion: Expansion = field(default_factory=Expansion)
    cut: Cut | None = None  # only this piece of the file


Reader = Callable[[IO[bytes], str, Reading], Iterator[Item]]
"""A reader is given a stream at its beginning (decompressed, perhaps not seekable) and the place it is called by."""

NOT_BAD_INPUT = frozenset({"redirect", "other namespace", "no text in this type", "HTTP error"})
"""Reasons of readers that are the way of the format, not damage: counted, but no cause for stopping."""


def check_columns(names: Any, place: str, reading: Reading, *, fixed: bool = False) -> None:
    """Raise UserError when the text field, or an optional one that the user named, is not among `names`.

    Unless `names` are `fixed` for all records of a file, an optional one that is missing is only told to the user.
    """
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
            if name == reading.columns.text or fixed:
                raise UserError(sentence)
            reading.note(sentence)  # a record of JSON may leave an optional field out


def record_of(
    value: dict[str, Any], here: str, size: int, reading: Reading, *, offset: int | None = None, checked: bool = False
) -> Item:
    """A record out of named fields. `checked`: its strings are known to be valid Unicode within the limit."""
    text = value.get(reading.columns.text)
    if text is None or text == "":
        return Fault(here, "empty text", size)
    if not isinstance(text, str):
        return Fault(here, "text is not a string", size, str(text)[:EXCERPT_BYTES], detail=type(text).__name__)
    if text.isspace():
        return Fault(here, "empty text", size)
    for name in reading.columns.more_text:
        text = "\n".join([text, *_strings(value.get(name))])
    parts: dict[str, Any] = {}
    for part, name in reading.columns.optional:
        if (given := value.get(name)) is not None:
            parts[part] = _short_text(given)
    if not checked:
        try:
            length = sum(len(part.encode("utf-8")) for part in (text, *parts.values()) if part is not None)
        except UnicodeEncodeError:  # JSON can spell half of a surrogate pair
            excerpt = text[:EXCERPT_BYTES].encode("utf-8", "backslashreplace").decode()
            return Fault(here, "invalid Unicode", size, excerpt, detail="half of a surrogate pair")
        if length > reading.max_record_bytes:
            return too_long(here, length, text[:EXCERPT_BYTES].encode(), reading)
    if "collected_at" in parts:
        parts["collected_at"] = moment(parts["collected_at"])
    return Record(here, text, offset=offset, **parts)


def _strings(value: Any) -> list[str]:
    """The texts in a field: itself, those of a list, or those of an object's values, in order."""
    if isinstance(value, str):
        return [value] if value.strip() else []
    if isinstance(value, dict):
        value = list(value.values())
    return [text for item in value for text in _strings(item)] if isinstance(value, list) else []


def moment(text: str | None) -> datetime | None:
    """A time as ISO 8601 has it, in UTC where it says nothing else; None for anything that is not one."""
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def too_long(place: str, size: int, beginning: bytes, reading: Reading) -> Fault:
    limit = reading.max_record_bytes
    detail = f"{size} bytes; max_record_bytes is {limit}"
    return Fault(place, "record too long", size, excerpt(beginning), float(size), float(limit), detail)


def invalid_utf8(place: str, content: bytes, offset: int, error: UnicodeDecodeError) -> Fault:
    """`offset` is that of `content` in its file."""
    at = offset + error.start
    detail = f"byte 0x{error.object[error.start]:02x} at offset {at}"
    around = content[max(0, error.start - 100) : error.start + EXCERPT_BYTES - 100]
    return Fault(place, "invalid UTF-8", len(content), excerpt(around), value=float(at), detail=detail)


def damaged(place: str, what: str, stream: IO[bytes], error: BaseException) -> Fault:
    return Fault(place, what, size_of(stream), detail=first_line(error))


def excerpt(content: bytes) -> str:
    return content[:EXCERPT_BYTES].decode("utf-8", "backslashreplace")


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _short_text(value: Any) -> str | None:
    if isinstance(value, str):
        return value.strip() or None
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
