"""EPUB books: a zip archive of chapters in XHTML, with an order and a description of the book."""

from __future__ import annotations

import posixpath
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO
from urllib.parse import unquote
from xml.etree.ElementTree import Element

from lmcraft.corpus.readers.records import Fault, Item, Reading, Record, first_line, too_long
from lmcraft.corpus.readers.safe_xml import Damaged, XmlRefused, parse
from lmcraft.corpus.readers.streams import seekable, size_of
from lmcraft.corpus.readers.text_files import html_text

CONTAINER = "META-INF/container.xml"
ENCRYPTION = "META-INF/encryption.xml"
HTML_TYPES = ("application/xhtml+xml", "text/html")
MAX_PACKAGE_BYTES = 10_000_000


class _Refused(Exception):
    """Why a book is not read: the reason and its details."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def read_epub(stream: IO[bytes], place: str, reading: Reading) -> Iterator[Item]:
    """A book is one document: its chapters in reading order, an empty line between them."""
    whole = seekable(stream)
    try:
        with zipfile.ZipFile(whole) as book:
            yield _book(book, place, reading)
    except _Refused as error:
        yield Fault(place, error.reason, size_of(stream), detail=str(error))
    except (zipfile.BadZipFile, Damaged, XmlRefused, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        yield Fault(place, "damaged EPUB", size_of(stream), detail=first_line(error))
    finally:
        if whole is not stream:
            whole.close()


def _book(book: zipfile.ZipFile, place: str, reading: Reading) -> Item:
    from resiliparse.extract.html2text import extract_plain_text

    package_name = next((found.get("full-path", "") for found in _tree(book, CONTAINER).iter("rootfile")), "")
    package = _tree(book, _inside("", package_name))
    locked = _encrypted(book)
    files = {item.get("id"): item for item in package.iter("item")}
    texts: list[str] = []
    notes: set[str] = set()
    size = 0
    for reference in package.iter("itemref"):
        item = files.get(reference.get("idref"))
        if item is None or item.get("media-type") not in HTML_TYPES:
            continue
        name = _inside(posixpath.dirname(package_name), unquote(item.get("href", "").partition("#")[0]))
        if name in locked:
            raise _Refused("encrypted EPUB", f"{name} is encrypted")
        chapter = _member(book, name, reading.max_record_bytes, reading)
        decoded = html_text(chapter, f"{place}!{name}", None)
        if isinstance(decoded, Fault):
            if decoded.reason == "empty text":
                continue
            raise _Refused(decoded.reason, f"{name}: {decoded.detail}")
        if decoded[1]:
            notes.add(decoded[1])
        text = extract_plain_text(decoded[0], preserve_formatting=True, alt_texts=False).strip()
        size += len(text.encode()) + 2
        if size > reading.max_record_bytes:
            return too_long(place, size, texts[0].encode() if texts else text.encode(), reading)
        if text:
            texts.append(text)
    if not texts:
        return Fault(place, "empty text", detail="no chapter with text in the reading order")
    authors = [author for author in _values(package, "creator") if author]
    return Record(
        place,
        "\n\n".join(texts),
        title=next(iter(_values(package, "title")), None),
        description=f"by {', '.join(authors)}" if authors else None,
        language=next(iter(_values(package, "language")), None),
        topic=next(iter(_values(package, "subject")), None),
        note="; ".join(sorted(notes)) or None,
    )


def _inside(folder: str, name: str) -> str:
    path = posixpath.normpath(posixpath.join(folder, name))
    if not name or path.startswith(("..", "/")) or "\\" in path:
        raise _Refused("path leads out of the archive", f"{name!r} in {folder or 'the book'!r}")
    return path


def _member(book: zipfile.ZipFile, name: str, limit: int, reading: Reading) -> bytes:
    try:
        info = book.getinfo(name)
    except KeyError:
        raise _Refused("damaged EPUB", f"{name} is not in the book") from None
    expansion = reading.expansion
    if info.file_size > max(expansion.free_bytes, info.compress_size * expansion.ratio):
        raise _Refused("expands too far", f"{name}: {info.compress_size} bytes unpack to {info.file_size}")
    if info.file_size > limit:
        raise _Refused("record too long", f"{name} has {info.file_size} bytes; max_record_bytes is {limit}")
    with book.open(info) as member:  # zipfile stops at the size that was declared
        return member.read(limit + 1)


def _tree(book: zipfile.ZipFile, name: str) -> Element:
    try:
        info = book.getinfo(name)
    except KeyError:
        raise _Refused("damaged EPUB", f"{name} is not in the book") from None
    if info.file_size > MAX_PACKAGE_BYTES:
        raise _Refused("expands too far", f"{name} unpacks to {info.file_size} bytes")
    with book.open(info) as member:
        return parse(member)


def _encrypted(book: zipfile.ZipFile) -> set[str]:
    if ENCRYPTION not in book.namelist():
        return set()
    return {unquote(found.get("URI", "")) for found in _tree(book, ENCRYPTION).iter("CipherReference")}


def _values(package: Element, name: str) -> list[str]:
    found = [" ".join("".join(element.itertext()).split()) for element in package.iter(name)]
    return [value for value in found if value]
