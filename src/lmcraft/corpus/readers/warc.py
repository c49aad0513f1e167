"""Web archives: WARC (pages as fetched) and WET (their plain text).

The records are cut here, so that a file that ends inside one, or has a bad header in its middle, says so; inside a
record FastWARC parses HTTP and undoes its encodings. (Given the whole file, FastWARC 2.0 ends a cut one in silence,
stops for good at a bad header, and aborts on streams that cannot seek.)
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from lmcraft.corpus.readers.encodings import decode
from lmcraft.corpus.readers.records import Fault, Item, Reading, Record, excerpt, moment, too_long
from lmcraft.corpus.readers.text_files import html_text

MAX_HEADER_BYTES = 65_536

HTTP_RECORD = (
    b"WARC/1.0\r\nWARC-Type: response\r\nContent-Type: application/http; msgtype=response\r\nContent-Length: %d\r\n\r\n"
)

HTML_TYPES = frozenset({"text/html", "application/xhtml+xml"})
PLAIN_TYPES = frozenset({"text/plain"})


def read_warc(stream: IO[bytes], place: str, reading: Reading) -> Iterator[Item]:
    """Pages (`response`, `resource`) as HTML and `conversion` records as text; `place:offset` names a record.

    Requests, metadata and revisits hold no document and are passed by.
    """
    scanner = _Scanner(stream, reading.max_record_bytes)
    for found in scanner.records():
        if isinstance(found, _Gap):
            yield Fault(
                f"{place}:{found.offset}", found.reason, found.size, excerpt(found.beginning), detail=found.detail
            )
            continue
        item = _document(found, f"{place}:{found.offset}", reading)
        if item is not None:
            yield item


@dataclass
class _Raw:
    offset: int
    fields: dict[str, str]
    block: bytes
    size: int  # as declared; more than the block has when that was too long to keep


@dataclass
class _Gap:
    offset: int
    reason: str
    size: int
    beginning: bytes
    detail: str


class _Scanner:
    """Cuts a stream into records in bounded memory; after bytes that are none it goes on at the next one."""

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        self.stream, self.limit = stream, limit
        self.offset = 0

    def line(self) -> bytes:
        line = self.stream.readline(MAX_HEADER_BYTES)
        self.offset += len(line)
        return line

    def records(self) -> Iterator[_Raw | _Gap]:
        begin, junk = 0, b""
        while True:
            start = self.offset
            line = self.line()
            if line.startswith(b"WARC/") or not line:
                if junk.strip():
                    yield _Gap(begin, "malformed WARC", start - begin, junk, "bytes that are no record")
                if not line:
                    return
                junk = b""
                found = self.record(start, line)
                yield found
                if isinstance(found, _Gap) and found.reason == "cut WARC":
                    return
                begin = self.offset
            else:
                if not junk.strip():
                    begin, junk = start, b""
                junk += line if len(junk) < 2000 else b""

    def record(self, start: int, version: bytes) -> _Raw | _Gap:
        lines = [version]
        size = len(version)
        while (line := self.line()).strip():
            size += len(line)
            if size > MAX_HEADER_BYTES:
                return _Gap(start, "malformed WARC", size, b"".join(lines), "the header has no end")
            lines.append(line)
        header = b"".join(lines)
        if not line:
            return _Gap(start, "cut WARC", len(header), header, "the file ends in the header of a record")
        fields = _fields(header)
        length = fields.get("content-length", "")
        if not re.fullmatch(r"\d{1,15}", length):
            return _Gap(start, "malformed WARC", len(header), header, f"its Content-Length is {length!r}")
        declared = int(length)
        block = self.stream.read(min(declared, self.limit + MAX_HEADER_BYTES))
        taken = len(block)
        while taken < declared and (piece := self.stream.read(min(1 << 20, declared - taken))):
            taken += len(piece)
        self.offset += taken
        if taken < declared:
            detail = f"the file ends after {taken} of the {declared} bytes of the record"
            return _Gap(start, "cut WARC", taken, header + block[:1000], detail)
        return _Raw(start, fields, block, declared)


def _fields(header: bytes) -> dict[str, str]:
    """Names in lower case; a line that begins with a blank goes on with the one before."""
    text = re.sub(r"\r?\n[ \t]+", " ", header.decode("utf-8", "replace"))
    pairs = (line.partition(":") for line in text.splitlines()[1:])
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _document(raw: _Raw, here: str, reading: Reading) -> Item | None:
    kind = raw.fields.get("warc-type", "").lower()
    if kind not in ("response", "resource", "conversion"):
        return None
    url = raw.fields.get("warc-target-uri", "").strip("<>") or None
    if kind == "response" and url is not None and not url.lower().startswith(("http:", "https:")):
        return None  # DNS answers
    if len(raw.block) < raw.size:
        return too_long(here, raw.size, raw.block[:2000], reading)
    content, content_type, charset, status = raw.block, raw.fields.get("content-type", ""), None, 200
    if kind == "response":
        parsed = _http(raw, reading.max_record_bytes)
        if isinstance(parsed, str):
            return Fault(here, "malformed HTTP", raw.size, excerpt(raw.block), detail=parsed)
        content, content_type, charset, status = parsed
    if status != 200:
        return Fault(here, "HTTP error", raw.size, url or "", value=float(status), detail=f"status {status} of {url}")
    if len(content) > reading.max_record_bytes:
        return too_long(here, len(content), content[:2000], reading)
    media = content_type.partition(";")[0].strip().lower()
    note = f"cut by the crawler ({cut})" if (cut := raw.fields.get("warc-truncated")) else None
    collected = moment(raw.fields.get("warc-date"))
    if media in HTML_TYPES or (not media and b"<html" in content[:2000].lower()):
        decoded = html_text(content, here, charset)
    elif media in PLAIN_TYPES:
        decoded = decode(content, here, reading)
    else:
        return Fault(here, "no text in this type", raw.size, url or "", detail=media or "no Content-Type")
    if isinstance(decoded, Fault):
        return decoded
    text, how = decoded
    if not text or text.isspace():
        return Fault(here, "empty text", raw.size, url or "")
    return Record(
        here,
        text,
        format="html" if media not in PLAIN_TYPES else None,
        url=url,
        offset=raw.offset,
        collected_at=collected,
        note="; ".join(part for part in (note, how) if part) or None,
    )


def _http(raw: _Raw, limit: int) -> tuple[bytes, str, str | None, int] | str:
    """Body with its encodings undone (at most limit + 1 bytes), type, charset, status; or what is wrong."""
    from fastwarc.warc import ArchiveIterator

    # A header of our own, since not every crawler names the type of the block.
    whole = io.BytesIO(HTTP_RECORD % len(raw.block) + raw.block + b"\r\n\r\n")
    try:
        record = next(ArchiveIterator(whole, parse_http=True, auto_decode="all", stream_detect=False))
        headers = record.http_headers
        if headers is None or not headers.status_code:
            return "no HTTP status line"
        body = record.reader.read(limit + 1)
        content_type = headers.get("Content-Type") or ""
        return body, content_type, record.http_charset, int(headers.status_code)
    except (OSError, ValueError, EOFError, StopIteration) as error:
        return str(error) or type(error).__name__
