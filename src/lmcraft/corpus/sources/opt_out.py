"""Opt-out lists: whose texts are not to be used, honoured when documents are collected and afterwards.

A list is a text file, one rule a line; what follows a `#` at the beginning of a line or after a blank is a comment:

    domain: example.org                     # pages of this host and of those below it
    url: https://example.net/people/        # pages whose address begins like this
    source: forum-dump                      # a whole source, by its name in documents
    path: letters/box-7/                    # files (of any source) whose place begins like this
    id: 0f3c…                               # one document, by the 32 characters of its id

The order of rules means nothing; the digest of a list is that of its rules, without comments and doubles.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa

from lmcraft.corpus.documents import document_id
from lmcraft.corpus.readers.records import Fault, Record
from lmcraft.corpus.sources.crawl_urls import encoded, without_dots
from lmcraft.recipe.stage import Source, UserError

REASON = "opted out"
"""The reason under which documents are removed; the rule is the detail."""

KINDS = ("domain", "url", "source", "path", "id")


@dataclass(frozen=True)
class OptOut:
    """Rules by kind, in the form in which they are compared."""

    domains: frozenset[str] = frozenset()
    urls: tuple[str, ...] = ()
    sources: frozenset[str] = frozenset()
    paths: tuple[str, ...] = ()
    ids: frozenset[str] = frozenset()

    @staticmethod
    def load(setting: str | Sequence[str] | None) -> OptOut:
        """The list of a setting: a file's path, the rules themselves, or none. Raises UserError with file and line."""
        if setting is None:
            return OptOut()
        if isinstance(setting, str):
            try:
                lines = Path(setting).expanduser().read_text(encoding="utf-8-sig").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"the opt-out list {setting!r} cannot be read ({error}); correct `opt_out`") from None
            return OptOut.parse(lines, setting)
        return OptOut.parse(setting, "opt_out")

    @staticmethod
    def parse(lines: Iterable[str], origin: str) -> OptOut:
        """Rules out of lines; `origin` is what errors call them."""
        found: dict[str, list[str]] = {kind: [] for kind in KINDS}
        for number, line in enumerate(lines, 1):
            text = re.sub(r"(?:^|\s)#.*", "", line).strip()
            if not text:
                continue
            kind, colon, value = text.partition(":")
            kind, value = kind.strip().lower(), value.strip()
            if not colon or kind not in KINDS or not value:
                raise UserError(
                    f"{origin}, line {number}: {line.strip()!r} is no rule; write one of "
                    f"{', '.join(f'`{each}: …`' for each in KINDS)}"
                )
            found[kind].append(_checked(kind, value, f"{origin}, line {number}"))
        return OptOut(
            frozenset(found["domain"]),
            tuple(sorted(set(found["url"]))),
            frozenset(found["source"]),
            tuple(sorted(set(found["path"]))),
            frozenset(found["id"]),
        )

    def __bool__(self) -> bool:
        return bool(self.domains or self.urls or self.sources or self.paths or self.ids)

    def rules(self) -> list[str]:
        """The rules as lines, in a fixed order."""
        return [
            *(f"domain: {each}" for each in sorted(self.domains)),
            *(f"url: {each}" for each in self.urls),
            *(f"source: {each}" for each in sorted(self.sources)),
            *(f"path: {each}" for each in self.paths),
            *(f"id: {each}" for each in sorted(self.ids)),
        ]

    @property
    def digest(self) -> str:
        """sha256 of the rules."""
        return hashlib.sha256("\n".join(self.rules()).encode()).hexdigest()

    def identity(self) -> list[Source]:
        """What a stage adds to its external sources; nothing when there is no rule."""
        return [Source("opt-out list", self.digest)] if self else []

    def rule(self, source: str, path: str, url: str | None, document: str | None) -> str | None:
        """The first rule that speaks of a document, or None. `document`: its id."""
        if source in self.sources:
            return f"source: {source}"
        if document is not None and document in self.ids:
            return f"id: {document}"
        for prefix in self.paths:
            if path.startswith(prefix):
                return f"path: {prefix}"
        if url and (self.domains or self.urls):
            host, address = comparable(url)
            if domain := self._domain(host):
                return f"domain: {domain}"
            for prefix in self.urls:
                if address.startswith(prefix):
                    return f"url: {prefix}"
        return None

    def reason(self, record: Record, source: str) -> str | None:
        """The rule that speaks of a record of a source, as a collector meets it."""
        document = document_id(source, record.place, record.text) if self.ids else None
        return self.rule(source, record.place, record.url, document)

    def fault(self, record: Record, source: str) -> Fault | None:
        """The record as removed by its rule; None when no rule speaks of it. The text is not kept."""
        rule = self.reason(record, source)
        return Fault(record.place, REASON, len(record.text.encode()), detail=rule) if rule else None

    def judge(self, batch: pa.RecordBatch) -> list[str | None]:
        """For each document of a batch (columns id, source, path, url) the rule that speaks of it, or None."""
        columns = (batch[name].to_pylist() for name in ("source", "path", "url", "id"))
        return [self.rule(*row) for row in zip(*columns, strict=True)]

    def _domain(self, host: str) -> str | None:
        labels = host.split(".")
        endings = (".".join(labels[start:]) for start in range(len(labels)))
        return next((ending for ending in endings if ending in self.domains), None)


def _checked(kind: str, value: str, where: str) -> str:
    if kind == "domain":
        host, address = comparable(value.removeprefix("*."))
        if address != f"{host}/" or not _HOST.fullmatch(host) or re.search(r"[/\\:@?#]", value):
            raise UserError(f"{where}: {value!r} is not a host name; for a page write `url: …`")
        return host
    if kind == "url":
        host, address = comparable(value)
        if not _HOST.fullmatch(host) or not re.match(r"(?::\d+)?/", address.removeprefix(host)):
            raise UserError(f"{where}: {value!r} is not an address of a page")
        return address
    if kind == "id" and not re.fullmatch(r"[0-9a-f]{32}", value):
        raise UserError(f"{where}: {value!r} is not the id of a document (32 characters 0-9 a-f)")
    return value


_HOST = re.compile(r"\[[0-9a-f:.]+\]|[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
_BEGIN = re.compile(r"(?:[a-z][a-z0-9+.-]*:)?/{2,}|(?:https?|ftps?):/?", re.IGNORECASE)
_ANY_DEFAULT_PORT = re.compile(r":(?:0*(?:80|443|21))?$")
_LONGEST_PATH = 16384


def comparable(url: str) -> tuple[str, str]:
    """Host, and host with port, path and query, of whatever stands for an address, in one spelling; never refused.

    More forgiving than what a crawl may ask for, since the form of an address must not save a text from being left
    out: the scheme or the lack of one, a user's name, ports of http, https and ftp, a final dot, backslashes, doubled
    slashes, capitals in the host, its Unicode form (IDNA 2008) and how signs are encoded make no difference.
    """
    text = re.sub(r"[\t\r\n]", "", url).strip("".join(map(chr, range(33)))).replace("\\", "/")
    begin = _BEGIN.match(text)
    authority, rest = re.fullmatch(r"([^/?#]*)(.*)", text[begin.end() if begin else 0 :], re.DOTALL).groups()  # type: ignore[union-attr]
    authority = _ANY_DEFAULT_PORT.sub("", authority.rpartition("@")[2])
    name, port = re.fullmatch(r"(\[.*\]|[^:]*)(.*)", authority, re.DOTALL).groups()  # type: ignore[union-attr]
    host = _host(name)
    path, mark, query = rest.partition("#")[0][:_LONGEST_PATH].partition("?")
    path = re.sub("/{2,}", "/", without_dots(_spelling(path, "/:@!$&'()*+,;=")) or "/")
    return host, f"{host}{port}{path}{mark and '?'}{_spelling(query, '/:@!$&()*+,;=?[]')}"


def _host(name: str) -> str:
    host = unquote(name).strip(".。．｡").lower()
    if host.isascii():
        return host
    import idna

    try:
        return idna.encode(host, uts46=True).decode("ascii")
    except (idna.IDNAError, UnicodeError):
        return unicodedata.normalize("NFKC", host)


def _spelling(text: str, allowed: str) -> str:
    return encoded(unicodedata.normalize("NFC", unquote(text, errors="surrogateescape")), allowed)
