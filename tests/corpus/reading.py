"""Helpers for tests of readers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lmcraft.corpus.readers.files import Fault, Item, Reading, Record, read_file


def read(path: Path, **settings: Any) -> list[Item]:
    return list(read_file(path, path.name, Reading(**settings)))


def file(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def one_fault(items: list[Item]) -> Fault:
    (found,) = [item for item in items if isinstance(item, Fault)]
    return found


def records(items: list[Item]) -> list[Record]:
    return [item for item in items if isinstance(item, Record)]


def brief(items: list[Item]) -> list[tuple[str, str]]:
    """Place and text of records, place and reason of faults."""
    return [(item.place, item.text if isinstance(item, Record) else item.reason) for item in items]
