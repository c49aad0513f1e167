"""Readers: one file of bytes -> records and faults, in order, each with its place, in bounded memory.

A reader never stops at a bad record: it yields a `Fault` and goes on where it can. What ends a file (a truncated
stream, an unreadable disk) is a fault too; the records before it are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from lmcraft.corpus.readers.archives import read_tar, read_zip
from lmcraft.corpus.readers.epub import read_epub
from lmcraft.corpus.readers.json_files import expands_too_far, read_json, read_json_lines, read_json_objects
from lmcraft.corpus.readers.pdf import read_pdf
from lmcraft.corpus.readers.records import (
    NOT_BAD_INPUT,
    Columns,
    Fault,
    Item,
    Reader,
    Reading,
    Record,
    check_columns,
    damaged,
)
from lmcraft.corpus.readers.streams import COMPRESSIONS, DAMAGED, Bomb, bare_name, decompressed, size_of
from lmcraft.corpus.readers.tables import read_csv, read_parquet, read_tsv
from lmcraft.corpus.readers.text_files import read_code, read_html, read_lines, read_markdown, read_text
from lmcraft.corpus.readers.warc import read_warc
from lmcraft.corpus.readers.xml_files import read_xml

__all__ = [
    "FORMATS",
    "NOT_BAD_INPUT",
    "READERS",
    "Columns",
    "Fault",
    "Item",
    "Reader",
    "Reading",
    "Record",
    "check_columns",
    "read_file",
    "read_json_objects",
    "read_stream",
    "reader_for",
]

READERS: dict[str, Reader] = {
    ".txt": read_text,
    ".text": read_text,
    ".rst": read_text,
    ".md": read_markdown,
    ".markdown": read_markdown,
    ".html": read_html,
    ".htm": read_html,
    ".xhtml": read_html,
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".json": read_json,
    ".parquet": read_parquet,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".epub": read_epub,
    ".pdf": read_pdf,
    ".warc": read_warc,
    ".wet": read_warc,
    ".xml": read_xml,
    ".zip": read_zip,
    ".tar": read_tar,
}
"""Ending of a file name, without that of a compression (`COMPRESSIONS`) -> its reader.

A new format is a function of (stream, place, reading) and a line here.
"""

ARCHIVES: tuple[Reader, ...] = (read_zip, read_tar)

FORMATS: dict[str, Reader] = {
    "text": read_text,
    "lines": read_lines,
    "markdown": read_markdown,
    "html": read_html,
    "code": read_code,
}
"""What the user may say that files are, whatever their names."""

_CODE_ENDINGS = """
    .asm .bash .c .cc .clj .cpp .cs .cu .cxx .dart .ex .exs .f .f90 .fs .go .h .hh .hpp .hs .java .jl
    .js .jsx .kt .lisp .lua .m .mjs .ml .mli .nim .pas .php .pl .pm .proto .py .pyi .r .rb .rs .scala
    .scm .sh .sql .swift .tcl .tex .toml .ts .tsx .v .vb .vhd .yaml .yml .zig .css .scss .cmake
    .dockerfile
"""
CODE_ENDINGS = frozenset(_CODE_ENDINGS.split())
"""Endings that are read, as code, when the user's pattern names them."""


def read_file(path: Path, place: str, reading: Reading) -> Iterator[Item]:
    """Records and faults of one file, by the ending of its name; `place` is what the records call the file."""
    try:
        with path.open("rb", buffering=1 << 17) as stream:
            yield from read_stream(stream, place, reading)
    except OSError as error:
        yield Fault(place, "unreadable file", _size(path), detail=error.strerror or str(error))


def read_stream(stream: IO[bytes], place: str, reading: Reading, *, nested: bool = False) -> Iterator[Item]:
    """The same of a buffered stream at its beginning, which need not be seekable. Raises OSError.

    `nested`: it is a member of an archive, and archives within archives are refused.
    """
    reader = reader_for(place, reading)
    if reader is None:
        detail = f"known endings: {', '.join(READERS)}, also with {', '.join(COMPRESSIONS)}"
        yield Fault(place, "unknown format", size_of(stream), detail=detail)
        return
    if nested and reader in ARCHIVES:
        yield Fault(place, "archive within an archive", size_of(stream), detail="unpack the outer one first")
        return
    content = decompressed(stream, place, reading.expansion)
    try:
        yield from reader(content, place, reading)
    except Bomb as error:
        if nested and error.source is not getattr(content, "raw", None):
            raise  # the archive around it is what expands
        yield expands_too_far(place, stream, error)
    except DAMAGED as error:
        yield damaged(place, "damaged compression", stream, error)


def reader_for(name: str, reading: Reading) -> Reader | None:
    """The reader of a file name, by its longest known ending or by what the user says."""
    bare = bare_name(name)
    ending = next((ending for ending in READERS if bare.endswith(ending)), None)
    found = READERS[ending] if ending else None
    if reading.format is not None and found not in ARCHIVES:
        return FORMATS[reading.format]
    suffix = PurePosixPath(bare).suffix
    if found is None and suffix in CODE_ENDINGS and _names(reading, suffix):
        return read_code
    return found


def _names(reading: Reading, suffix: str) -> bool:
    return any(pattern.lower().endswith(suffix) for pattern in (reading.pattern, reading.members))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
