"""The text layer of PDF files, read by a child process with limits: the format is large and its files are odd."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from lmcraft.corpus.isolation import Failure, isolated
from lmcraft.corpus.readers.records import Fault, Item, Reading, Record, too_long
from lmcraft.corpus.readers.streams import size_of

SECONDS = 120.0
"""Processor time for one file."""

MEMORY_BYTES = 1 << 30


def read_pdf(stream: IO[bytes], place: str, reading: Reading) -> Iterator[Item]:
    """A PDF file is one document: the text of its pages, an empty line between them. Scans have none and are faults."""
    path = getattr(getattr(stream, "raw", None), "name", None)
    if isinstance(path, str):
        yield _record(Path(path), stream, place, reading)
        return
    with tempfile.TemporaryDirectory() as folder:  # a member of an archive; the child needs a name to open
        copy = Path(folder) / "document.pdf"
        with copy.open("wb") as out:
            while content := stream.read(1 << 20):
                out.write(content)
        yield _record(copy, stream, place, reading)


def _record(path: Path, stream: IO[bytes], place: str, reading: Reading) -> Item:
    (found,) = isolated(pdf_text, SECONDS, MEMORY_BYTES).map([(str(path), reading.max_record_bytes)])
    size = size_of(stream) or path.stat().st_size
    if isinstance(found, Failure):
        reason = "damaged PDF" if found.kind == "error" else found.reason("reading PDF")
        return Fault(place, reason, size, threshold=found.limit, detail=found.detail)
    if "reason" in found:
        return Fault(place, found["reason"], size, detail=found.get("detail", ""))
    if found["bytes"] > reading.max_record_bytes:
        return too_long(place, found["bytes"], found["text"][:2000].encode(), reading)
    return Record(place, found["text"], found["title"])


def pdf_text(job: tuple[str, int]) -> dict[str, Any]:
    """Text, title and bytes of text of (path, most bytes); or a reason why not. Runs in the child."""
    from pypdf import PdfReader
    from pypdf.errors import DependencyError, FileNotDecryptedError, WrongPasswordError

    path, limit = job
    reader = PdfReader(path)
    try:
        if reader.is_encrypted and not reader.decrypt(""):
            return {"reason": "encrypted PDF"}
        pages = []
        size = 0
        for page in reader.pages:
            text = page.extract_text().encode("utf-8", "replace").decode().strip()
            size += len(text.encode()) + 2
            if text and size <= limit + 2:
                pages.append(text)
        number = len(reader.pages)
    except (FileNotDecryptedError, WrongPasswordError, DependencyError) as error:
        return {"reason": "encrypted PDF", "detail": str(error)}
    if not pages:
        return {"reason": "no text layer", "detail": f"{number} pages without text; scans need text recognition"}
    return {"text": "\n\n".join(pages), "bytes": size - 2, "title": _title(reader)}


def _title(reader: Any) -> str | None:
    try:
        title = reader.metadata.title
        return (" ".join(str(title).encode("utf-8", "ignore").decode().split()) or None) if title else None
    except Exception:  # broken metadata is no reason to lose the text
        return None
