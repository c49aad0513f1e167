"""Removals: what must not be used any more, in a list of the store that `collect` honours.

The list is JSON, a line a removal, only ever added to. What of it concerns the sources of a `collect` step enters that
step's identity by digest, so a removal makes exactly the steps stale that read such a source. A document is known by
its id and by the digest of its text, so that it is found again after other records of its file came or went.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path

from filelock import FileLock

from lmcraft.corpus.sources.opt_out import OptOut
from lmcraft.recipe.stage import Source, UserError

REASON = "removal requested"
IDENTIFIES = ("source", "document", "path", "rule")


@dataclass(frozen=True)
class Removal:
    """One thing to leave out; of the fields that are set all must agree (of `document` and `text_sha256`, one).

    `path` is a file of the source with all its records, or one record. `rule` is a line of an opt-out list.
    """

    time: str
    reason: str
    source: str | None = None
    document: str | None = None
    text_sha256: str | None = None
    path: str | None = None
    rule: str | None = None

    def same(self) -> tuple[str | None, ...]:
        """What is meant, without when and why."""
        return (self.source, self.document, self.text_sha256, self.path, self.rule)

    def fits(self, source: str, document: str, text_digest: str | None, path: str) -> bool:
        """Whether a document is meant by something else than the rule."""
        if self.rule is not None:
            return False
        if self.source is not None and self.source != source:
            return False
        if self.document is not None and self.document != document and self.text_sha256 != text_digest:
            return False
        return self.path is None or path == self.path or path.startswith((f"{self.path}:", f"{self.path}!"))


@dataclass(frozen=True)
class Removals:
    """The list, or the part of it that concerns some sources."""

    items: tuple[Removal, ...] = ()
    _by_text: bool = field(init=False, default=False)
    _rules: OptOut = field(init=False, default=OptOut())

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_text", any(item.text_sha256 is not None for item in self.items))
        rules = [item.rule for item in self.items if item.rule is not None]
        object.__setattr__(self, "_rules", OptOut.parse(rules, "the store's list of removals"))

    def of(self, sources: Iterable[str]) -> Removals:
        """The removals that can concern documents of these sources."""
        names = set(sources)
        return Removals(tuple(item for item in self.items if item.source is None or item.source in names))

    def wants(self, source: str, document: str, text: str, path: str, url: str | None) -> bool:
        """Whether a document is to be left out."""
        if not self.items:
            return False
        digest = text_digest(text) if self._by_text else None
        if any(item.fits(source, document, digest, path) for item in self.items):
            return True
        return self._rules.rule(source, path, url, document) is not None

    def sources(self) -> list[Source]:
        """For a step's identity: nothing when the list is empty, so that it does not change what was built before."""
        if not self.items:
            return []
        meant = sorted(json.dumps(item.same()) for item in self.items)
        return [Source("removals", sha256("\n".join(dict.fromkeys(meant)).encode()).hexdigest())]


def text_digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def read_removals(path: Path | None) -> Removals:
    """The list of a store; empty when there is none. Raises UserError when a line is damaged: none may be lost."""
    if path is None or not path.exists():
        return Removals()
    items = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            items.append(Removal(**json.loads(line)))
        except (ValueError, TypeError):
            raise UserError(
                f"{path}, line {number} is no removal ({line[:60]!r}); mend or delete that line: a run that cannot "
                "read the list does not start"
            ) from None
    return Removals(tuple(items))


def add_removals(path: Path, new: Sequence[Removal]) -> list[Removal]:
    """Add to the list what is not in it yet, under a lock, whole or not at all; returns what was added."""
    for item in new:
        if not any(getattr(item, name) for name in IDENTIFIES):
            raise UserError("a removal must name a document, a source, a path or a rule")
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(path.name + ".lock")):
        known = read_removals(path)
        have = {item.same() for item in known.items}
        added = []
        for item in new:
            if item.same() not in have:
                have.add(item.same())
                added.append(item)
        lines = [json.dumps(_stored(item), ensure_ascii=False) + "\n" for item in (*known.items, *added)]
        partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    return added


def _stored(item: Removal) -> dict[str, str]:
    return {name: value for name, value in asdict(item).items() if value is not None and not name.startswith("_")}
