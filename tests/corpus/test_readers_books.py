"""Books: EPUB and PDF give text at once, or the reason why there is none."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
from pypdf import PdfWriter
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject
from reading import brief, file, one_fault, read, records

from lmcraft.corpus.readers.streams import Expansion

CONTAINER = '<container><rootfiles><rootfile full-path="OEBPS/book.opf"/></rootfiles></container>'
PACKAGE = """<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata>
<dc:title>The River</dc:title><dc:creator>Ann Example</dc:creator><dc:language>en-GB</dc:language></metadata>
<manifest>
<item id="b" href="b.xhtml" media-type="application/xhtml+xml"/>
<item id="a" href="{a}" media-type="application/xhtml+xml"/>
<item id="p" href="p.png" media-type="image/png"/></manifest>
<spine><itemref idref="a"/><itemref idref="p"/><itemref idref="b"/></spine></package>"""


def epub(href: str = "text/a%20b.xhtml", **more: str) -> bytes:
    members = {
        "META-INF/container.xml": CONTAINER,
        "OEBPS/book.opf": PACKAGE.format(a=href),
        "OEBPS/text/a b.xhtml": "<html><head><title>x</title></head><h1>One</h1><p>It  <i>rose</i>.</p></html>",
        "OEBPS/b.xhtml": "<html><body><p>It fell.</p></body></html>",
        **more,
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as book:
        for name, content in members.items():
            book.writestr(name, content)
    return packed.getvalue()


def test_chapters_come_in_reading_order(tmp_path: Path) -> None:
    (book,) = records(read(file(tmp_path, "a.epub", epub())))
    assert book.text == "One\n\nIt rose.\n\nIt fell."
    assert (book.title, book.description, book.language) == ("The River", "by Ann Example", "en-GB")
    assert book.format is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (epub("../../etc/passwd"), "path leads out of the archive"),
        (epub("/etc/passwd"), "path leads out of the archive"),
        (epub("missing.xhtml"), "damaged EPUB"),
        (epub(**{"META-INF/container.xml": "<container"}), "damaged EPUB"),
        (epub(**{"OEBPS/book.opf": "<!DOCTYPE x [<!ENTITY a '&b;&b;'>]><package/>"}), "damaged EPUB"),
        (epub(**{"OEBPS/b.xhtml": "<p>" + "0" * 3_000_000}), "expands too far"),
        (epub(**{"META-INF/encryption.xml": '<e><CipherReference URI="OEBPS/b.xhtml"/></e>'}), "encrypted EPUB"),
        (epub(**{"OEBPS/b.xhtml": "", "OEBPS/text/a b.xhtml": "<body/>"}), "empty text"),
        (b"no zip", "damaged EPUB"),
        (epub()[:400], "damaged EPUB"),
    ],
)
def test_a_book_that_cannot_be_read_says_why(tmp_path: Path, content: bytes, reason: str) -> None:
    items = read(file(tmp_path, "a.epub", content), expansion=Expansion(ratio=20, free_bytes=100_000))
    assert one_fault(items).reason == reason
    assert len(items) == 1


def test_a_book_longer_than_the_limit_is_set_aside(tmp_path: Path) -> None:
    long = epub(**{"OEBPS/b.xhtml": "<p>" + "word " * 3000})
    assert one_fault(read(file(tmp_path, "a.epub", long), max_record_bytes=10_000)).reason == "record too long"


def pdf(pages: list[str], password: str | None = None) -> bytes:
    writer = PdfWriter()
    font = DictionaryObject(
        {
            NameObject(key): NameObject(value)
            for key, value in {"/Type": "/Font", "/Subtype": "/Type1", "/BaseFont": "/Helvetica"}.items()
        }
    )
    for text in pages:
        page = writer.add_blank_page(300, 300)
        fonts = DictionaryObject({NameObject("/F"): font})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        stream = DecodedStreamObject()
        stream.set_data(f"BT /F 12 Tf 20 200 Td ({text}) Tj ET".encode() if text else b"")
        page[NameObject("/Contents")] = stream
    writer.add_metadata({"/Title": "The River"})
    if password is not None:
        writer.encrypt(password, algorithm="RC4-128")
    packed = io.BytesIO()
    writer.write(packed)
    return packed.getvalue()


def test_the_text_layer_of_a_pdf(tmp_path: Path) -> None:
    path = file(tmp_path, "a.pdf", pdf(["It rose.", "", "It fell."]))
    (found,) = records(read(path))
    assert (found.place, found.text, found.title) == ("a.pdf", "It rose.\n\nIt fell.", "The River")
    assert one_fault(read(path, max_record_bytes=10)).reason == "record too long"


def test_pdf_without_text_locked_or_damaged_is_set_aside_by_its_reason(tmp_path: Path) -> None:
    contents = {
        "scan": pdf(["", ""]),
        "locked": pdf(["It rose."], "secret"),
        "cut": pdf(["It rose."])[:100],
        "none": b"x",
    }
    reasons = {
        name: one_fault(read(file(tmp_path, f"{name}.pdf", content))).reason for name, content in contents.items()
    }
    assert reasons == {"scan": "no text layer", "locked": "encrypted PDF", "cut": "damaged PDF", "none": "damaged PDF"}


def test_books_inside_archives(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.pdf", pdf(["It rose."]))
        archive.writestr("b.epub", epub())
    items = read(file(tmp_path, "x.zip", packed.getvalue()))
    assert brief(items) == [("x.zip!a.pdf", "It rose."), ("x.zip!b.epub", "One\n\nIt rose.\n\nIt fell.")]
