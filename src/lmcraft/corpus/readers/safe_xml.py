"""XML by expat with what makes it dangerous turned off: entities that expand, files it would fetch, endless depth."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.entities import html5
from typing import IO, Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

MAX_DEPTH = 1000
"""Elements within elements; documents for people stay below 50."""

MAX_ENTITY_CHARACTERS = 64
"""An entity that a file declares may stand for a few characters, such as a publisher's name, not for more entities."""

CHUNK_BYTES = 1 << 18


class XmlRefused(Exception):
    """The file is XML that is not read; the words say why."""


Damaged = expat.ExpatError


class SafeParser:
    """Calls `start(name, attributes)`, `end(name)` and `data(text)` with names stripped of their namespace.

    Nothing outside the file is ever read. Raises XmlRefused or `Damaged`.
    """

    def __init__(
        self,
        start: Callable[[str, dict[str, str]], None],
        end: Callable[[str], None],
        data: Callable[[str], None],
    ) -> None:
        parser = self.parser = expat.ParserCreate()
        self.depth = 0
        # Names such as &nbsp; that a DTD elsewhere declares come to SkippedEntityHandler in place of an error.
        parser.UseForeignDTD(True)
        parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
        parser.buffer_text = True
        parser.buffer_size = 1 << 16
        parser.EntityDeclHandler = _check_entity

        def on_start(name: str, attributes: dict[str, str]) -> None:
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise XmlRefused(f"elements are nested more than {MAX_DEPTH} deep")
            start(name.rpartition(":")[2], attributes)

        def on_end(name: str) -> None:
            self.depth -= 1
            end(name.rpartition(":")[2])

        def on_entity(name: str, is_parameter: bool) -> None:
            if not is_parameter:
                data(html5.get(name + ";", f"&{name};"))

        parser.StartElementHandler = on_start
        parser.EndElementHandler = on_end
        parser.CharacterDataHandler = data
        parser.SkippedEntityHandler = on_entity

    @property
    def offset(self) -> int:
        """Of the element that is being reported, in bytes."""
        return int(self.parser.CurrentByteIndex)

    def feed(self, content: bytes) -> None:
        self.parser.Parse(content, False)

    def finish(self) -> None:
        self.parser.Parse(b"", True)


def parse(stream: IO[bytes]) -> Element:
    """A small file as a tree, names without namespaces. Raises XmlRefused or `Damaged`."""
    builder = TreeBuilder()

    def local(attributes: dict[str, str]) -> dict[Any, Any]:
        return {name.rpartition(":")[2]: value for name, value in attributes.items()}

    def start(name: str, attributes: dict[str, str]) -> None:
        builder.start(name, local(attributes))

    def end(name: str) -> None:
        builder.end(name)

    def data(text: str) -> None:
        builder.data(text)

    parser = SafeParser(start, end, data)
    while content := stream.read(CHUNK_BYTES):
        parser.feed(content)
    parser.finish()
    return builder.close()


def _check_entity(
    name: str,
    is_parameter: bool,
    value: str | None,
    base: str | None,
    system: str | None,
    public: str | None,
    notation: str | None,
) -> None:
    if value is None:
        return  # declared elsewhere, which is never read
    if is_parameter or len(value) > MAX_ENTITY_CHARACTERS or re.search("[&<%]", value):
        raise XmlRefused(f"it declares the entity {name!r}, which may expand without end")
