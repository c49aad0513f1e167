"""Files that are one document each: plain text, Markdown, HTML as it is, source code; and a line a document."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import IO

from lmcraft.corpus.readers.encodings import BYTE_ORDER_MARKS, decode, known_encoding
from lmcraft.corpus.readers.records import Fault, Item, Reading, Record, excerpt, invalid_utf8, too_long
from lmcraft.corpus.readers.streams import EXCERPT_BYTES, bounded_lines, size_of

HEADING = re.compile(r"^ {0,3}#[ \t]++(\S.{0,500}?)[ \t]*+#*+[ \t]*+$", re.MULTILINE)
"""Bounded and without steps back, since a line may be the whole file."""

META_BYTES = 4096
"""Where a page's own word on its encoding is looked for; the HTML standard says 1024."""

MOST_REPLACED = 0.001
"""Pages are rarely clean; a larger share of characters that fit the encoding nowhere makes a page undecodable."""


def read_text(stream: IO[bytes], place: str, reading: Reading) -> Iterator[Item]:
    """A text file is one document."""
    yield _whole_text(stream, place, reading, None)


def read_lines(stream: IO[bytes], place: str, reading: Reading) -> Iterator[Item]:
    """A line a document; blank lines hold none. What is not in the encoding (UTF-8, unless given) costs its line."""
    encoding = "utf-8" if reading.encoding == "auto" else known_encoding(reading.encoding)
    for number, offset, content, size, excess in bounded_lines(stream, reading.max_record_bytes, reading.cut):
        here = f"{place}:{number}"
        if excess:
            yield too_long(here, size, content, reading)
            continue
        if number == 1 and b"\0" in content and not encoding.startswith(("utf-16", "utf-32")):
            yield Fault(place, "binary file", size_of(stream), detail="NUL bytes at its beginning")
            return
        try:
            text = content.decode("utf-8-sig" if number == 1 and encoding == "utf-8" else encoding)
        except UnicodeDecodeError as error:
            if encoding == "utf-8":
                yield invalid_utf8(here, content, offset, error)
            else:
                at = offset + error.start
                detail = f"not {encoding}: byte at offset {at}"
                yield Fault(here, "undecodable text", size, excerpt(content), float(at), detail=detail)
            continue
        if text.strip():
            yield Record(here, text, offset=offset)


def read_code(stream: IO[bytes], place: str, reading: Reading) -> Iterator[Item]:
    """A file of source code is one document."""
    yield _whole_text(stream, place, reading, "code")


def read_markdown(stream: IO[bytes], place: str, reading: Reading) -> Iterator[Item]:
    """A Markdown file is one document; its first `# heading` outside code is the title, taken out if it comes first."""
    record = _whole_text(stream, place, reading, "markdown")
    if isinstance(record, Record):
        text = record.text
        fence = re.search(r"^ {0,3}(```|~~~)", text, re.MULTILINE)
        heading = HEADING.search(text, 0, fence.start() if fence else len(text))
        if heading is not None:
            record.title = heading[1]
            if not text[: heading.start()].strip():
                record.text = text[heading.end() :].lstrip("\n")
        if not record.text or record.text.isspace():
            yield Fault(place, "empty text", size_of(stream))
            return
    yield record


def read_html(stream: IO[bytes], place: str, reading: Reading) -> Iterator[Item]:
    """A page is one document, kept as HTML: the step `extract` of curate makes text of it."""
    content = _whole_file(stream, place, reading)
    if isinstance(content, Fault):
        yield content
        return
    given = None if reading.encoding == "auto" else reading.encoding
    decoded = html_text(content, place, given)
    if isinstance(decoded, Fault):
        yield decoded
    else:
        yield Record(place, decoded[0], format="html", note=decoded[1])


def html_text(content: bytes, place: str, declared: str | None) -> tuple[str, str | None] | Fault:
    """A page's text by byte order mark, then by what HTTP or the user declared, the page itself, or a look at it."""
    from resiliparse.parse.encoding import detect_encoding

    if not content.strip():
        return Fault(place, "empty text", len(content))
    name = next((name for mark, name in BYTE_ORDER_MARKS if content.startswith(mark)), None) or _declared(
        content, declared
    )
    if (nul := content.count(b"\0")) > MOST_REPLACED * len(content) and not name.startswith(("utf-16", "utf-32")):
        return Fault(place, "binary file", len(content), excerpt(content), float(nul), detail=f"{nul} NUL bytes")
    try:
        return content.decode(name), None if name.startswith("utf-8") else f"decoded from {name}"
    except UnicodeDecodeError:
        pass
    text = content.decode(name, "replace")
    if text.count("\ufffd") > MOST_REPLACED * len(text):
        name = detect_encoding(content) or name
        text = content.decode(name, "replace")
    if (bad := text.count("\ufffd")) > MOST_REPLACED * len(text):
        detail = f"{bad} of {len(text)} characters fit no encoding"
        return Fault(place, "undecodable text", len(content), excerpt(content), bad / len(text), MOST_REPLACED, detail)
    return text, f"decoded from {name}" + (", bad bytes replaced" if bad else "")


def _declared(content: bytes, declared: str | None) -> str:
    """The encoding that was declared, as browsers understand it (`iso-8859-1` is windows-1252); else UTF-8."""
    from resiliparse.parse.encoding import map_encoding_to_html5

    if declared is None:
        beginning = content[:META_BYTES]
        meta = re.search(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w.:-]{1,40})""", beginning, re.IGNORECASE)
        xml = re.match(rb"""\s*<\?xml[^>]{0,100}?encoding\s*=\s*["']([\w.:-]{1,40})""", beginning)
        found = meta or xml
        declared = found[1].decode("ascii", "replace") if found else "utf-8"
    name = map_encoding_to_html5(declared, fallback_utf8=True) or "utf-8"
    try:
        codecs.lookup(name)
    except LookupError:
        return "utf-8"
    # A page that says UTF-16 in ASCII letters is not.
    return "utf-8" if name.startswith("utf-16") and b"\0" not in content[:1000] else name


def _whole_file(stream: IO[bytes], place: str, reading: Reading) -> bytes | Fault:
    content = stream.read(reading.max_record_bytes + 1)
    if len(content) <= reading.max_record_bytes:
        return content
    size = len(content)
    while piece := stream.read(1 << 20):
        size += len(piece)
    return too_long(place, size, content[:EXCERPT_BYTES], reading)


def _whole_text(stream: IO[bytes], place: str, reading: Reading, format: str | None) -> Item:
    content = _whole_file(stream, place, reading)
    if isinstance(content, Fault):
        return content
    decoded = decode(content, place, reading)
    if isinstance(decoded, Fault):
        return decoded
    text, note = decoded
    if not text or text.isspace():
        return Fault(place, "empty text", len(content))
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return Record(place, text, format=format, note=note)
