"""URLs of a crawl: one spelling for each address, and which addresses belong to the crawl."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit, urlunsplit

MAX_URL_CHARACTERS = 2000
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_DEFAULT_PORTS = {"http": 80, "https": 443}


def normalise(url: str, base: str | None = None) -> str | None:
    """The address in one spelling (RFC 3986, 6.2.2 and 6.2.3), without its fragment; None when it cannot be fetched.

    Scheme and host in lower case, the host in its ASCII form, no default port, no dot segments, percent-encoding only
    where it is needed and in capitals. The order of a query's parts may mean something and stays.
    """
    try:
        url = re.sub(r"[\t\r\n]", "", url.strip())
        parts = urlsplit(urljoin(base, url) if base else url)
        port = parts.port
        host = (parts.hostname or "").rstrip(".")
        if parts.scheme not in _DEFAULT_PORTS or not host or parts.username is not None:
            return None
        if ":" in host:
            host = f"[{host}]"
        elif not host.isascii():
            host = host.encode("idna").decode("ascii")
        elif not re.fullmatch(r"[a-z0-9._-]+", host):
            return None
    except (ValueError, UnicodeError):
        return None
    netloc = host if port in (None, _DEFAULT_PORTS[parts.scheme]) else f"{host}:{port}"
    path = without_dots(encoded(parts.path, "/:@!$&'()*+,;=")) or "/"
    query = encoded(parts.query, "/:@!$&'()*+,;=?[]")
    whole = urlunsplit((parts.scheme, netloc, path, query, ""))
    return whole if len(whole) <= MAX_URL_CHARACTERS else None


def origin(url: str) -> str:
    """Scheme, host and port of a normalised URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def path_of(url: str) -> str:
    """Path and query of a normalised URL."""
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


@dataclass(frozen=True)
class Scope:
    """Which URLs a crawl takes. A pattern is a whole URL in which `*` stands for anything; `deny` goes before `allow`.

    Without `allow` these are the hosts that the crawl starts from.
    """

    hosts: frozenset[str]
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()

    @staticmethod
    def of(start: Iterable[str], allow: Iterable[str], deny: Iterable[str]) -> Scope:
        return Scope(frozenset(urlsplit(url).netloc for url in start), tuple(allow), tuple(deny))

    def holds(self, url: str) -> bool:
        if any(matches(pattern, url) for pattern in self.deny):
            return False
        if self.allow:
            return any(matches(pattern, url) for pattern in self.allow)
        return urlsplit(url).netloc in self.hosts


def matches(pattern: str, text: str) -> bool:
    """Whether the whole text is as the pattern, in which `*` stands for anything.

    In linear time, unlike a regular expression: patterns also come from the sites that are visited.
    """
    first, *rest = pattern.split("*")
    if not rest:
        return text == pattern
    *middle, last = rest
    if not text.startswith(first):
        return False
    at = len(first)
    for piece in middle:
        found = text.find(piece, at)
        if found < 0:
            return False
        at = found + len(piece)
    return len(text) - len(last) >= at and text.endswith(last)


def encoded(text: str, allowed: str) -> str:
    """Percent-encoding where it is needed, in capitals; `allowed`: signs beyond the unreserved that stay."""

    def one(match: re.Match[str]) -> str:
        code = match[0]
        if match[1]:
            character = chr(int(match[1], 16))
            return character if character in _UNRESERVED else code.upper()
        return "".join(f"%{byte:02X}" for byte in code.encode("utf-8", "surrogatepass"))

    return re.sub(rf"%([0-9A-Fa-f]{{2}})|[^A-Za-z0-9\-._~{re.escape(allowed)}]", one, text)


def without_dots(path: str) -> str:
    """A path without the segments `.` and `..` (RFC 3986, 5.2.4)."""
    out: list[str] = []
    segments = path.split("/")
    for segment in segments[1:] if path.startswith("/") else segments:
        if segment == "..":
            if out:
                out.pop()
        elif segment != ".":
            out.append(segment)
    if segments[-1] in (".", ".."):
        out.append("")
    return "/" + "/".join(out)
