"""Web archives: every page with its address, time and offset; what breaks in the middle or at the end is told."""

from __future__ import annotations

import gzip
import zlib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from reading import brief, file, one_fault, read, records


def record(kind: str, block: bytes, url: str = "http://a.example/", fields: str = "") -> bytes:
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2024-05-18T01:58:10Z\r\n"
        f"WARC-Record-ID: <urn:uuid:{len(block)}>\r\n{fields}Content-Length: {len(block)}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


def page(body: bytes, status: str = "200 OK", headers: str = "Content-Type: text/html; charset=utf-8\r\n") -> bytes:
    return f"HTTP/1.1 {status}\r\n{headers}\r\n".encode() + body


FIRST = record("response", page("<p>Füchse".encode()))
SECOND = record("response", page(b"<p>Second"), "https://b.example/x")


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
def test_pages_have_address_time_and_offset(tmp_path: Path, name: str) -> None:
    parts = [record("warcinfo", b"software: x"), record("request", b"GET / HTTP/1.1\r\n\r\n"), FIRST, SECOND]
    content = b"".join(map(gzip.compress, parts)) if name.endswith("gz") else b"".join(parts)
    one, two = records(read(file(tmp_path, name, content)))
    offset = len(parts[0]) + len(parts[1])
    assert (one.place, one.text, one.url, one.format) == (f"{name}:{offset}", "<p>Füchse", "http://a.example/", "html")
    assert (one.offset, one.collected_at) == (offset, datetime(2024, 5, 18, 1, 58, 10, tzinfo=UTC))
    assert (two.text, two.url) == ("<p>Second", "https://b.example/x")


def test_the_text_of_wet_files_is_plain(tmp_path: Path) -> None:
    content = record("conversion", "Füchse\nund Hasen".encode(), fields="Content-Type: text/plain\r\n")
    (found,) = read(file(tmp_path, "a.warc.wet.gz", gzip.compress(content)))
    assert brief([found]) == [("a.warc.wet.gz:0", "Füchse\nund Hasen")]
    assert records([found])[0].format is None


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ("Content-Encoding: gzip\r\n", gzip.compress(b"<p>packed")),
        ("Content-Encoding: deflate\r\n", zlib.compress(b"<p>packed")),
        ("Transfer-Encoding: chunked\r\n", b"3\r\n<p>\r\n6\r\npacked\r\n0\r\n\r\n"),
    ],
)
def test_http_encodings_are_undone(tmp_path: Path, headers: str, body: bytes) -> None:
    content = record("response", page(body, headers=f"Content-Type: text/html\r\n{headers}"))
    assert brief(read(file(tmp_path, "a.warc", content))) == [("a.warc:0", "<p>packed")]


def test_the_charset_of_http_goes_before_that_of_the_page(tmp_path: Path) -> None:
    body = "<meta charset=utf-8>Füchse".encode("cp1252")
    content = record("response", page(body, headers="Content-Type: text/html; charset=iso-8859-1\r\n"))
    assert "Füchse" in records(read(file(tmp_path, "a.warc", content)))[0].text


def test_what_is_no_page_is_counted(tmp_path: Path) -> None:
    content = (
        record("response", page(b"gone", "404 Not Found"))
        + record("response", page(b"\x89PNG", headers="Content-Type: image/png\r\n"))
        + record("response", b"not HTTP at all")
        + record("response", page(b""))
        + record("response", b"20240518 1.2.3.4", "dns:a.example")
        + record("revisit", b"")
        + FIRST
    )
    reasons = [reason for _, reason in brief(read(file(tmp_path, "a.warc", content)))]
    assert reasons == ["HTTP error", "no text in this type", "malformed HTTP", "empty text", "<p>Füchse"]


@pytest.mark.parametrize("cut", [200, len(FIRST) + 30, len(FIRST) + len(SECOND) - 8])
def test_a_cut_file_says_so(tmp_path: Path, cut: int) -> None:
    items = read(file(tmp_path, "a.warc", (FIRST + SECOND)[:cut]))
    assert items[-1] is one_fault(items)
    assert one_fault(items).reason == "cut WARC"
    assert len(records(items)) == (cut > len(FIRST))


def test_a_cut_compressed_file_gives_its_whole_records_and_a_fault(tmp_path: Path) -> None:
    """FastWARC alone gives half the records of such a file and no error."""
    parts = [record("response", page(f"<p>page {number}".encode() * 50)) for number in range(40)]
    content = b"".join(map(gzip.compress, parts))
    whole = len(b"".join(map(gzip.compress, parts[:20])))
    items = read(file(tmp_path, "a.warc.gz", content[: whole + 60]))
    assert len(records(items)) == 20
    assert one_fault(items).reason == "damaged compression"


def test_after_a_bad_header_the_next_record_is_found(tmp_path: Path) -> None:
    bad = b"WARC/1.0\r\nWARC-Type: response\r\nContent-Length: many\r\n\r\n<p>lost\r\n\r\n"
    items = read(file(tmp_path, "a.warc", FIRST + b"rubbish\r\nmore of it\r\n" + SECOND + bad + FIRST))
    assert [reason for _, reason in brief(items)] == [
        "<p>Füchse",
        "malformed WARC",
        "<p>Second",
        "malformed WARC",
        "malformed WARC",
        "<p>Füchse",
    ]
    assert [item.reason for item in read(file(tmp_path, "b.warc", b"plainly not that")) if not records([item])] == [
        "malformed WARC"
    ]


def test_long_records_and_bombs_of_http_are_not_held(tmp_path: Path) -> None:
    packed = gzip.compress(b"x" * 5_000_000)
    bomb = record("response", page(packed, headers="Content-Type: text/html\r\nContent-Encoding: gzip\r\n"))
    items = read(
        file(tmp_path, "a.warc", record("response", page(b"x" * 300_000)) + bomb + FIRST), max_record_bytes=50_000
    )
    assert [reason for _, reason in brief(items)] == ["record too long", "record too long", "<p>Füchse"]
