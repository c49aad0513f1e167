"""What a crawl has done so far, on disk: pages in WARC files, and a ledger line for each URL that is settled.

A page is appended to the WARC file first and its ledger line after it, each made durable before the next. A kill at
any moment therefore leaves at most bytes that no line speaks of; they are cut off when the crawl is opened again, and
that URL is fetched once more. What is still to be visited follows from the lines.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from lmcraft.corpus.readers.files import Fault
from lmcraft.corpus.sources.wheel_files import sha256_of
from lmcraft.recipe.stage import UserError

WARC_BYTES = 1_000_000_000
"""A new WARC file is begun when the last one has this size, as the standard advises (annex C)."""


@dataclass(frozen=True)
class Entry:
    """A URL to visit. `chain`: the URLs that redirected here; `via`: the page that named it."""

    url: str
    depth: int = 0
    via: str | None = None
    chain: tuple[str, ...] = ()
    sitemap: bool = False

    def to_json(self) -> list[Any]:
        return [self.url, self.depth, list(self.chain), self.sitemap]

    @staticmethod
    def from_json(stored: list[Any], via: str | None) -> Entry:
        return Entry(stored[0], stored[1], via, tuple(stored[2]), stored[3])


@dataclass
class Settled:
    """What became of one URL. `new`: entries that it brought; `left`: links not followed, by the reason."""

    url: str
    outcome: str  # page, refused, redirect, sitemap
    asked: bool = True  # whether the site was asked for it
    fault: Fault | None = None
    new: list[Entry] = field(default_factory=list)
    left: dict[str, int] = field(default_factory=dict)


@dataclass
class Ledger:
    """The state of a crawl in `folder`; opened by one process at a time."""

    folder: Path
    seen: set[str] = field(default_factory=set)
    waiting: dict[str, Entry] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    left: dict[str, int] = field(default_factory=dict)
    sites: dict[str, dict[str, Any]] = field(default_factory=dict)
    pages: int = 0
    asked: int = 0
    warc: int = 0
    warc_bytes: int = 0
    _lines: IO[bytes] | None = None
    _pages: IO[bytes] | None = None

    @staticmethod
    def opened(folder: Path) -> Ledger:
        """Read what was settled and cut off what was half written."""
        folder.mkdir(parents=True, exist_ok=True)
        ledger = Ledger(folder)
        ends: dict[int, int] = {}
        whole = 0
        path = folder / "ledger.jsonl"
        if path.exists():
            with path.open("rb") as file:
                for line in file:
                    value = _parse(line)
                    if value is None:
                        break
                    whole += len(line)
                    ledger._replay(value)
                    if "warc" in value:
                        ends[value["warc"][0]] = value["warc"][1]
            os.truncate(path, whole)
        for number, warc in ((int(path.name[6:11]), path) for path in folder.glob("pages-*.warc.gz")):
            if number in ends:
                os.truncate(warc, ends[number])
            else:
                warc.unlink()
        ledger.warc = max(ends, default=0)
        ledger.warc_bytes = ends.get(ledger.warc, 0)
        return ledger

    def queue(self, entry: Entry) -> bool:
        """Add a URL that was not seen before; says whether it was new."""
        if entry.url in self.seen:
            return False
        self.seen.add(entry.url)
        self.waiting[entry.url] = entry
        return True

    def settle(self, settled: Settled, records: bytes | None = None, warcinfo: bytes = b"") -> None:
        """Make an outcome durable; `records` are a page's, `warcinfo` begins a new file when one is needed."""
        line: dict[str, Any] = {"url": settled.url, "outcome": settled.outcome, "asked": settled.asked}
        if records is not None:
            line["warc"] = self._append_page(records, warcinfo)
        if settled.fault is not None:
            line["fault"] = _fault_to_json(settled.fault)
        if settled.new:
            line["new"] = [entry.to_json() for entry in settled.new]
        if settled.left:
            line["left"] = settled.left
        self._append_line(line)
        self._replay(line)

    def meet(self, site: str, facts: dict[str, Any], new: list[Entry]) -> None:
        """Note what a site's robots.txt and reservations said, and the sitemaps that it names."""
        line: dict[str, Any] = {"site": site, "facts": facts, "at": _now(), "new": [entry.to_json() for entry in new]}
        self._append_line(line)
        self._replay(line)

    def finish(self, extra: list[Fault]) -> dict[str, Any]:
        """Write the list of refusals and the digests of all that was gathered; from then on the crawl is read only."""
        self.close()
        faults = sorted([*self.faults, *extra], key=lambda fault: fault.place)
        partial = self.folder / "refused.jsonl.tmp"
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            for fault in faults:
                file.write(json.dumps(_fault_to_json(fault), ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.folder / "refused.jsonl")
        names = [*sorted(path.name for path in self.folder.glob("pages-*.warc.gz")), "refused.jsonl"]
        files = {
            name: {"sha256": sha256_of(self.folder / name), "bytes": (self.folder / name).stat().st_size}
            for name in names
        }
        finished = {"finished": _now(), "pages": self.pages, "refused": len(faults), "left": self.left, "files": files}
        partial = self.folder / "finished.json.tmp"
        with partial.open("w", encoding="utf-8") as file:
            json.dump(finished, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.folder / "finished.json")
        return finished

    def close(self) -> None:
        for file in (self._lines, self._pages):
            if file is not None:
                file.close()
        self._lines = self._pages = None

    def _replay(self, line: Mapping[str, Any]) -> None:
        via = line.get("url")
        if "site" in line:
            self.sites[line["site"]] = {**line["facts"], "at": line["at"]}
        else:
            self.seen.add(line["url"])
            self.waiting.pop(line["url"], None)
            self.pages += line["outcome"] == "page"
            self.asked += line["asked"]
            if "fault" in line:
                self.faults.append(Fault(**line["fault"]))
            for reason, count in line.get("left", {}).items():
                self.left[reason] = self.left.get(reason, 0) + count
        for stored in line.get("new", ()):
            self.queue(Entry.from_json(stored, via))

    def _append_page(self, records: bytes, warcinfo: bytes) -> list[int]:
        if self.warc_bytes >= WARC_BYTES:
            self.warc, self.warc_bytes = self.warc + 1, 0
            if self._pages is not None:
                self._pages.close()
                self._pages = None
        if self._pages is None:
            self._pages = (self.folder / self.warc_name).open("ab")
        whole = records if self.warc_bytes else warcinfo + records
        self._pages.write(whole)
        _durable(self._pages)
        self.warc_bytes += len(whole)
        return [self.warc, self.warc_bytes]

    @property
    def warc_name(self) -> str:
        return f"pages-{self.warc:05d}.warc.gz"

    def _append_line(self, line: Mapping[str, Any]) -> None:
        if self._lines is None:
            self._lines = (self.folder / "ledger.jsonl").open("ab")
        self._lines.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
        _durable(self._lines)


def finished_crawl(folder: Path) -> dict[str, Any] | None:
    """What a finished crawl gathered: file -> digest and bytes; None when it is not finished."""
    path = folder / "finished.json"
    if not path.exists():
        return None
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); delete {folder} to crawl again") from error


def read_refused(path: Path) -> Iterator[Fault]:
    """The refusals of a finished crawl."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield Fault(**json.loads(line))


def _fault_to_json(fault: Fault) -> dict[str, Any]:
    stored = {"place": fault.place, "reason": fault.reason, "detail": fault.detail, "size": fault.size}
    stored |= {"value": fault.value, "threshold": fault.threshold, "excerpt": fault.excerpt}
    return {name: value for name, value in stored.items() if value not in (None, "", 0) or name in ("place", "reason")}


def _parse(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _durable(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
