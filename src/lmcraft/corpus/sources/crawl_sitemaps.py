"""Sitemaps (sitemaps.org protocol 0.9): lists of URLs and lists of such lists, plain or gzip, read with limits."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any
from xml.parsers import expat

from lmcraft.corpus.sources.crawl_urls import normalise
from lmcraft.corpus.sources.web import WebFault

MAX_SITEMAP_BYTES = 52_428_800
MAX_SITEMAP_URLS = 50_000
"""The protocol's own limits for one file: 50 MB unpacked, 50,000 URLs."""

PIECE = 1 << 14


@dataclass
class Sitemap:
    """What a sitemap lists: pages, and further sitemaps."""

    pages: list[str] = field(default_factory=list)
    sitemaps: list[str] = field(default_factory=list)
    invalid: int = 0


def read_sitemap(body: bytes, url: str) -> Sitemap:
    """Parse XML (plain or gzip) or a text file of one URL a line. Raises WebFault when it is neither or too large."""
    sitemap = Sitemap()
    if body[:2] != b"\x1f\x8b" and not body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        for line in body.decode("utf-8", "replace").splitlines()[:MAX_SITEMAP_URLS]:
            _add(sitemap.pages, line, url, sitemap)
        return sitemap
    parser = _parser(sitemap, url)
    unpack = zlib.decompressobj(31) if body[:2] == b"\x1f\x8b" else None
    size = 0
    try:
        for start in range(0, len(body), PIECE):
            piece = body[start : start + PIECE]
            while piece:
                text = piece if unpack is None else unpack.decompress(piece, 1 << 20)
                piece = b"" if unpack is None else unpack.unconsumed_tail
                size += len(text)
                if size > MAX_SITEMAP_BYTES:
                    detail = f"it unpacks to more than {MAX_SITEMAP_BYTES} bytes"
                    raise WebFault("sitemap too large", detail, float(size), float(MAX_SITEMAP_BYTES))
                parser.Parse(text, False)
        if unpack is not None and not unpack.eof:
            raise WebFault("damaged compression", "the sitemap ends before its compressed stream does", again=True)
        parser.Parse(b"", True)
    except zlib.error as error:
        raise WebFault("damaged compression", str(error)) from None
    except expat.ExpatError as error:
        raise WebFault("malformed sitemap", str(error)) from None
    return sitemap


def _parser(sitemap: Sitemap, url: str) -> Any:
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    open_elements: list[str] = []
    text: list[str] = []

    def start(name: str, attributes: Any) -> None:
        open_elements.append(name.rpartition(" ")[2].lower())
        text.clear()
        if len(open_elements) > 16:
            raise WebFault("malformed sitemap", "elements nested deeper than 16")

    def end(name: str) -> None:
        inside = open_elements[-2:]
        open_elements.pop()
        if inside in (["url", "loc"], ["sitemap", "loc"]):
            target = sitemap.pages if inside[0] == "url" else sitemap.sitemaps
            if len(sitemap.pages) + len(sitemap.sitemaps) >= MAX_SITEMAP_URLS:
                detail = f"more than {MAX_SITEMAP_URLS} URLs"
                raise WebFault("sitemap too large", detail, float(MAX_SITEMAP_URLS + 1), float(MAX_SITEMAP_URLS))
            _add(target, "".join(text), url, sitemap)

    def characters(data: str) -> None:
        if open_elements and open_elements[-1] == "loc" and sum(map(len, text)) < 4000:
            text.append(data)

    def doctype(*parts: Any) -> None:  # where entities that stand for gigabytes would be declared
        raise WebFault("malformed sitemap", "a document type declaration")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = characters
    parser.StartDoctypeDeclHandler = doctype
    return parser


def _add(target: list[str], text: str, url: str, sitemap: Sitemap) -> None:
    if not text.strip():
        return
    if (found := normalise(text, url)) is None:
        sitemap.invalid += 1
    else:
        target.append(found)
