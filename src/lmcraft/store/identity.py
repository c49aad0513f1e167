"""What makes an artifact the one it is: the identity of a step, its key, and how two identities differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lmcraft.recipe.stage import Source

MISSING = "(absent)"


def identity_of(
    stage: str, version: int, config: Mapping[str, Any], inputs: Mapping[str, Any], sources: list[Source]
) -> dict[str, Any]:
    """The record whose sha256 is the step's key: names and digests only, never a path, a device or a time."""
    return {
        "stage": stage,
        "version": version,
        "config": dict(config),
        "inputs": dict(inputs),
        "sources": [{"name": source.name, "sha256": source.sha256} for source in sources],
    }


def key_of(identity: Mapping[str, Any]) -> str:
    """sha256 (64 hex digits) of the identity in canonical JSON: sorted keys, no white space, UTF-8."""
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def digest_of(files: Mapping[str, Mapping[str, Any]]) -> str:
    """sha256 of an artifact's content: its files' names and digests, without those marked volatile."""
    lines = [f"{entry['sha256']}  {name}\n" for name, entry in sorted(files.items()) if not entry.get("volatile")]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differences(old: Any, new: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every (field, old value, new value) in which two identities differ, fields written with dots.

    Sources are compared by name, so that one changed file among thousands is one difference.
    """
    if where == "sources" and isinstance(old, list) and isinstance(new, list):
        old, new = ({source["name"]: source["sha256"] for source in side} for side in (old, new))
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in [*old, *(name for name in new if name not in old)]:
            inner = f"{where}.{name}" if where else str(name)
            yield from differences(old.get(name, MISSING), new.get(name, MISSING), inner)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (left, right) in enumerate(zip(old, new, strict=True)):
            yield from differences(left, right, f"{where}.{i}")
    elif old != new or type(old) is not type(new):
        yield where, old, new


def short(value: Any, width: int = 60) -> str:
    """A value on one line, digests cut to 12 digits."""
    if isinstance(value, str) and len(value) == 64 and all(c in "0123456789abcdef" for c in value):
        return value[:12]
    text = value if value == MISSING else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= width else text[: width - 1] + "…"
