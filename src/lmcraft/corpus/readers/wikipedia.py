"""Wikipedia's dumps (`pages-articles`): a stream of pages in XML, their wikitext made plain."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import IO, Any
from urllib.parse import quote, urljoin

from lmcraft.corpus.isolation import Failure, isolated
from lmcraft.corpus.readers.records import Fault, Item, Reading, Record, first_line, moment, too_long
from lmcraft.corpus.readers.safe_xml import CHUNK_BYTES, Damaged, SafeParser, XmlRefused
from lmcraft.corpus.readers.streams import size_of

SECONDS = 5.0
"""Processor time for one page."""

MEMORY_BYTES = 1 << 30

FILE, CATEGORY = "6", "14"
"""Keys of the namespaces whose links are pictures and labels, not text."""


def is_wikipedia(stream: IO[bytes]) -> bool:
    """Whether the stream begins as a dump of MediaWiki; it stays where it is."""
    return re.match(rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?<mediawiki[\s>]", stream.peek(1024)[:1024]) is not None  # type: ignore[attr-defined]


def read_wikipedia(stream: IO[bytes], place: str, reading: Reading) -> Iterator[Item]:
    """Articles (namespace 0) as plain text. Redirects and pages of other namespaces are faults, which counts them.

    `place#id` is a page by its number in the wiki.
    """
    dump = _Dump()
    try:
        while content := stream.read(CHUNK_BYTES):
            dump.parser.feed(content)
            yield from _items(dump, place, reading)
        dump.parser.finish()
    except Damaged as error:
        yield from _items(dump, place, reading)
        where = dump.parser.parser.ErrorByteIndex
        yield Fault(place, "malformed XML", size_of(stream), value=float(where), detail=first_line(error))
    except XmlRefused as error:
        yield from _items(dump, place, reading)
        yield Fault(place, "XML refused", size_of(stream), detail=first_line(error))


def plain_text(wikitext: str, not_text: tuple[str, ...] = ("file", "image", "category")) -> str:
    """Wikitext without markup, templates, tables, references and pictures; headings stay, on lines of their own.

    `not_text`: namespaces in lower case whose links are left out.
    """
    import mwparserfromhell
    from mwparserfromhell.nodes import Tag, Wikilink

    code = mwparserfromhell.parse(wikitext, skip_style_tags=True)
    for node in code.filter(recursive=True, matches=lambda node: isinstance(node, (Tag, Wikilink))):
        if isinstance(node, Tag):
            unwanted = str(node.tag).strip().lower() in NO_TEXT_TAGS
        else:
            assert isinstance(node, Wikilink)
            unwanted = str(node.title).lstrip(": ").partition(":")[0].strip().lower() in not_text
        if unwanted:
            try:
                code.remove(node)
            except ValueError:  # it went with the node around it
                continue
    text = code.strip_code(normalize=True, collapse=True)
    text = re.sub(r"'{2,5}", "", text)
    text = re.sub(r"^[*#:;]+ ?", "", text, flags=re.MULTILINE)
    text = re.sub(r"^__[A-Z]+__$", "", text, flags=re.MULTILINE)
    text = re.sub(r"^[ \t]+|[ \t]+$", "", text, flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


_NO_TEXT_TAGS = """
    ref references table gallery timeline math chem score syntaxhighlight source imagemap mapframe
    maplink templatestyles noinclude includeonly hiero graph
"""
NO_TEXT_TAGS = frozenset(_NO_TEXT_TAGS.split())


@dataclass
class _Page:
    offset: int
    values: dict[str, str] = field(default_factory=dict)
    size: int = 0


class _Dump:
    """Pages as they end. Of one that is too long the text is not held."""

    WANTED = frozenset({"title", "ns", "id", "timestamp", "text", "base"})

    def __init__(self) -> None:
        self.pages: list[_Page] = []
        self.page: _Page | None = None
        self.pieces: list[str] | None = None
        self.base = ""
        self.not_text = {"file", "image", "category"}
        self.key = ""
        self.limit = 0
        self.parser = SafeParser(self.on_start, self.on_end, self.on_data)

    def on_start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "page":
            self.page = _Page(self.parser.offset)
        elif name == "redirect" and self.page is not None:
            self.page.values["redirect"] = attributes.get("title", "")
        elif name in self.WANTED or name == "namespace":
            self.pieces = []
            self.key = attributes.get("key", "")

    def on_data(self, text: str) -> None:
        if self.pieces is not None:
            if self.page is not None:
                self.page.size += len(text)
                if self.limit and self.page.size > self.limit:
                    self.pieces = self.pieces[:1]
                    return
            self.pieces.append(text)

    def on_end(self, name: str) -> None:
        if self.pieces is not None and (name in self.WANTED or name == "namespace"):
            text = "".join(self.pieces)
            self.pieces = None
            if name == "base":
                self.base = text
            elif name == "namespace":
                if self.key in (FILE, CATEGORY):
                    self.not_text.add(text.strip().lower())
            elif self.page is not None:
                self.page.values.setdefault(name, text)  # the page's id comes before its revision's
        elif name == "page" and self.page is not None:
            self.pages.append(self.page)
            self.page = None


def _items(dump: _Dump, place: str, reading: Reading) -> Iterator[Item]:
    """Records and faults of the pages that are there by now, in order."""
    dump.limit = reading.max_record_bytes
    pages, dump.pages = dump.pages, []
    judged = [(page, _why_not(page, f"{place}#{page.values.get('id', '')}", reading)) for page in pages]
    articles = [page.values["text"] for page, fault in judged if fault is None]
    convert: Any = partial(plain_text, not_text=tuple(sorted(dump.not_text)))
    texts = isolated(convert, SECONDS, MEMORY_BYTES).map(articles)
    for page, fault in judged:
        if fault is not None:
            yield fault
            continue
        text = next(texts)
        here = f"{place}#{page.values.get('id', '')}"
        if isinstance(text, Failure):
            reason = text.reason("making plain text of wikitext")
            yield Fault(here, reason, page.size, page.values["text"][:2000], threshold=text.limit, detail=text.detail)
        elif not text:
            yield Fault(here, "empty text", page.size, page.values["text"][:2000])
        else:
            title = page.values.get("title")
            url = urljoin(dump.base, quote(title.replace(" ", "_"), safe="/:,()'!*@")) if title and dump.base else None
            collected = moment(page.values.get("timestamp"))
            yield Record(here, text, title, url=url, offset=page.offset, collected_at=collected)


def _why_not(page: _Page, here: str, reading: Reading) -> Fault | None:
    title = page.values.get("title", "")
    if "redirect" in page.values:
        return Fault(here, "redirect", page.size, title, detail=f"to {page.values['redirect']}")
    if page.values.get("ns", "0") != "0":
        return Fault(here, "other namespace", page.size, title)
    if page.size > reading.max_record_bytes:
        return too_long(here, page.size, page.values.get("text", "")[:2000].encode(), reading)
    if not page.values.get("text", "").strip():
        return Fault(here, "empty text", page.size, title)
    return None
