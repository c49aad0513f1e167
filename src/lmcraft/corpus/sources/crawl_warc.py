"""WARC/1.1 (ISO 28500:2017) as a crawler writes it: one gzip member a record, appended, with digests."""

from __future__ import annotations

import base64
import gzip
import hashlib
import uuid
from collections.abc import Iterable
from datetime import datetime

from lmcraft.corpus.sources.web import Response

_ON_THE_WAY = frozenset({"content-encoding", "transfer-encoding", "content-length"})
"""Headers that no longer fit a body whose encodings were undone; kept under the name that Common Crawl gives them."""


def warcinfo(software: str, contact: str, when: datetime, filename: str) -> bytes:
    """The record that begins a file."""
    block = _fields(
        {
            "software": software,
            "format": "WARC File Format 1.1",
            "conformsTo": "https://iipc.github.io/warc-specifications/specifications/warc-format/warc-1.1/",
            "operator": contact,
            "robots": "RFC 9309",
        }
    )
    return _record("warcinfo", when, "application/warc-fields", block, {"WARC-Filename": filename})


def page_records(response: Response, user_agent: str, when: datetime, via: str | None) -> bytes:
    """Request, response and metadata (which page led here) of one page."""
    from urllib.parse import urlsplit

    from lmcraft.corpus.sources.crawl_urls import path_of

    url = response.url
    request_id, response_id = _id(), _id()
    where = {"WARC-Target-URI": url} | ({"WARC-IP-Address": response.address} if response.address else {})
    request = f"GET {path_of(url)} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nUser-Agent: {user_agent}\r\n"
    head = f"HTTP/1.1 {response.status} {response.reason}".rstrip() + "\r\n"
    for name, value in response.headers:
        head += f"{'x-crawler-' if name in _ON_THE_WAY else ''}{name}: {value}\r\n"
    head += f"content-length: {len(response.body)}\r\n\r\n"
    block = head.encode("utf-8", "replace") + response.body
    payload = {"WARC-Payload-Digest": _digest(response.body)}
    records = [
        _record(
            "request",
            when,
            "application/http; msgtype=request",
            (request + "Accept: */*\r\nAccept-Encoding: gzip\r\n\r\n").encode("ascii", "replace"),
            {**where, "WARC-Concurrent-To": response_id},
            request_id,
        ),
        _record("response", when, "application/http; msgtype=response", block, {**where, **payload}, response_id),
    ]
    if via is not None:
        about = {"WARC-Target-URI": url, "WARC-Refers-To": response_id}
        records.append(_record("metadata", when, "application/warc-fields", _fields({"via": via}), about))
    return b"".join(records)


def _record(
    kind: str, when: datetime, content_type: str, block: bytes, more: dict[str, str], record_id: str | None = None
) -> bytes:
    headers = {
        "WARC-Type": kind,
        "WARC-Record-ID": record_id or _id(),
        "WARC-Date": when.strftime("%Y-%m-%dT%H:%M:%SZ"),
        **more,
        "WARC-Block-Digest": _digest(block),
        "Content-Type": content_type,
        "Content-Length": str(len(block)),
    }
    head = "WARC/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
    return gzip.compress(head.encode("utf-8") + block + b"\r\n\r\n", 6, mtime=0)


def _fields(values: dict[str, str] | Iterable[tuple[str, str]]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in dict(values).items()).encode("utf-8")


def _digest(content: bytes) -> str:
    digest = hashlib.sha1(content, usedforsecurity=False).digest()  # the form that WARC tools check
    return f"sha1:{base64.b32encode(digest).decode()}"


def _id() -> str:
    return f"<urn:uuid:{uuid.uuid4()}>"
