"""XML files by the user's mapping of elements, read as a stream: a file of any size in the memory of one record."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from typing import IO

from lmcraft.corpus.readers.records import Fault, Item, Reading, Record, excerpt, first_line, moment, too_long
from lmcraft.corpus.readers.safe_xml import CHUNK_BYTES, Damaged, SafeParser, XmlRefused
from lmcraft.corpus.readers.streams import size_of
from lmcraft.corpus.readers.wikipedia import is_wikipedia, read_wikipedia
from lmcraft.corpus.readers.xml_mapping import XmlMapping

LINE, PARAGRAPH = "\1", "\2"
"""Marks of ends in gathered text; XML holds no such characters."""
FIELDS = ("title", "description", "language", "topic", "url", "collected_at")


def read_xml(stream: IO[bytes], place: str, reading: Reading) -> Iterator[Item]:
    """Records by `reading.xml`; a Wikipedia dump needs no mapping. `place#2` is the second record of a file."""
    if reading.xml is None:
        if is_wikipedia(stream):
            yield from read_wikipedia(stream, place, reading)
            return
        detail = "XML is read by a mapping: say in `xml` of the source which elements are the text"
        yield Fault(place, "unknown format", size_of(stream), detail=detail)
        return
    mapper = _Mapper(reading.xml, place, reading)
    taken = 0
    try:
        while content := stream.read(CHUNK_BYTES):
            taken += len(content)
            mapper.parser.feed(content)
            yield from mapper.ready()
        mapper.parser.finish()
    except Damaged as error:
        yield from mapper.ready()
        where = mapper.parser.parser.ErrorByteIndex
        yield Fault(place, "malformed XML", size_of(stream) or taken, value=float(where), detail=first_line(error))
        return
    except XmlRefused as error:
        yield from mapper.ready()
        yield Fault(place, "XML refused", size_of(stream) or taken, detail=first_line(error))
        return
    if not mapper.count:
        detail = f"no element {reading.xml.record!r} in it"
        yield Fault(place, "no records in XML", taken, detail=detail)


@dataclass(frozen=True)
class _Path:
    """`b/c@d` or `/a/b`: what a stack of names must end with, or be."""

    names: tuple[str, ...]
    anchored: bool
    attribute: str | None

    @staticmethod
    def of(path: str) -> _Path:
        elements, _, attribute = path.partition("@")
        return _Path(tuple(elements.strip("/").split("/")), path.startswith("/"), attribute or None)

    def matches(self, stack: list[str]) -> bool:
        """Whether the innermost element of the stack is one of these."""
        if len(stack) != len(self.names) if self.anchored else len(stack) < len(self.names):
            return False
        return all(want in (name, "*") for want, name in zip(reversed(self.names), reversed(stack), strict=False))


class _Paths:
    """Paths by the name of their last element, since nearly every element of a file matches none."""

    def __init__(self, paths: Iterable[tuple[str, str]]) -> None:
        self.by_name: dict[str, list[tuple[str, _Path]]] = {}
        for what, given in paths:
            path = _Path.of(given)
            self.by_name.setdefault(path.names[-1], []).append((what, path))

    def matches(self, stack: list[str]) -> list[tuple[str, str | None]]:
        """What the innermost element is, each with the attribute that is wanted of it."""
        named, any_name = self.by_name.get(stack[-1]), self.by_name.get("*")
        if named is None and any_name is None:
            return []
        candidates = (named or []) + (any_name or [])
        return [(what, path.attribute) for what, path in candidates if path.matches(stack)]


@lru_cache(maxsize=64)
def _compiled(*paths: str | None, names: tuple[str, ...] = ()) -> _Paths:
    """The paths that are given, each called by its name; a folder of small files asks for the same ones again."""
    return _Paths((name, path) for name, path in zip_longest(names, paths, fillvalue="") if path)


class _Mapper:
    """Turns elements into records. Paragraphs end where an element of `paragraphs` begins or ends."""

    def __init__(self, mapping: XmlMapping, place: str, reading: Reading) -> None:
        self.mapping, self.place, self.reading = mapping, place, reading
        self.record = _compiled(mapping.record)
        self.text = _compiled(*mapping.text)
        self.drop = _compiled(*mapping.drop)
        self.fields = _compiled(*(getattr(mapping, name) for name in FIELDS), names=FIELDS)
        self.breaks = dict.fromkeys(mapping.lines, LINE) | dict.fromkeys(mapping.paragraphs, PARAGRAPH)
        self.stack: list[str] = []
        self.items: list[Item] = []
        self.count = 0
        self.before: dict[str, str] = {}  # fields seen outside of records
        self.within: dict[str, str] = {}  # fields of this record
        self.open_fields: list[tuple[str, int, list[str]]] = []  # name, depth, pieces of its text
        self.record_depth = self.text_depth = self.drop_depth = 0
        self.parts: list[str] = []
        self.characters = 0
        self.offset = 0
        self.keep_space = mapping.keep_space
        self.parser = SafeParser(self.on_start, self.on_end, self.on_data)

    def ready(self) -> Iterator[Item]:
        items, self.items = self.items, []
        yield from items

    def on_start(self, name: str, attributes: dict[str, str]) -> None:
        stack = self.stack
        stack.append(name)
        depth = len(stack)
        if not self.record_depth and (self.record.matches(stack) if self.mapping.record else depth == 1):
            self.record_depth = depth
            self.count += 1
            self.parts, self.within, self.characters = [], {}, 0
            self.offset = self.parser.offset
        for field, attribute in self.fields.matches(stack):
            if attribute is None:
                self.open_fields.append((field, depth, []))
            else:
                local = {key.rpartition(":")[2]: value for key, value in attributes.items()}
                self.found(field, local.get(attribute))
        if not self.record_depth or self.drop_depth:
            return
        if self.drop.matches(stack):
            self.drop_depth = depth
            return
        if not self.text_depth and (not self.mapping.text or self.text.matches(stack)):
            self.text_depth = depth
            self.parts.append(PARAGRAPH)
        elif name in self.breaks:
            self.parts.append(self.breaks[name])

    def on_end(self, name: str) -> None:
        depth = len(self.stack)
        while self.open_fields and self.open_fields[-1][1] == depth:
            field, _, pieces = self.open_fields.pop()
            self.found(field, "".join(pieces))
        if self.drop_depth == depth:
            self.drop_depth = 0
        elif not self.drop_depth and name in self.breaks:
            self.parts.append(self.breaks[name])
        if self.text_depth == depth:
            self.text_depth = 0
            self.parts.append(PARAGRAPH)
        self.stack.pop()
        if self.record_depth == depth:
            self.record_depth = 0
            self.items.append(self.finished())

    def on_data(self, text: str) -> None:
        for _, _, pieces in self.open_fields:
            pieces.append(text[:10_000])
        if self.text_depth and not self.drop_depth:
            self.characters += len(text)
            if self.characters <= self.reading.max_record_bytes:
                self.parts.append(text)

    def found(self, field: str, value: str | None) -> None:
        if value := " ".join((value or "").split()):
            if self.record_depth:
                self.within.setdefault(field, value)
            else:
                self.before[field] = value

    def finished(self) -> Item:
        here = f"{self.place}#{self.count}" if self.stack else self.place
        text = _joined(self.parts, self.keep_space)
        self.parts = []
        size = self.characters if self.characters > self.reading.max_record_bytes else len(text.encode())
        if size > self.reading.max_record_bytes:
            return too_long(here, size, text[:2000].encode(), self.reading)
        if not text:
            return Fault(here, "empty text", self.parser.offset - self.offset, excerpt(str(self.within).encode()))
        fields = self.before | self.within
        return Record(
            here,
            text,
            **{name: fields.get(name) for name in FIELDS if name != "collected_at"},
            offset=self.offset,
            collected_at=moment(fields.get("collected_at")),
        )


def _joined(parts: list[str], keep_space: bool) -> str:
    """Text with its marks made line ends and empty lines; runs of blanks become one unless they are kept."""
    text = "".join(parts)
    if not keep_space:
        text = re.sub(r"[ \t\r\n]+", " ", text)
    blank = "\r\n" if keep_space else " "
    paragraphs = []
    for paragraph in text.split(PARAGRAPH):
        lines = [line for part in paragraph.split(LINE) if (line := part.strip(blank)) and not line.isspace()]
        paragraphs.append("\n".join(lines))
    return "\n\n".join(filter(None, paragraphs)).strip()
