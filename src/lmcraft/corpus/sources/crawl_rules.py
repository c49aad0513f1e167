"""What a site asks of a crawler: robots.txt (RFC 9309), text-and-data-mining reservations, directives for robots.

A wish not to be mined is honoured in each form in which it is written down today: TDMRep (W3C Community Group report,
2024) as file, header and meta element; `noai` for robots; `Content-Usage: train-ai=n` (IETF aipref drafts) and
`Content-Signal: ai-train=no` in robots.txt and headers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from lmcraft.corpus.sources.crawl_urls import matches, path_of

AGENT = "lmcraft"
"""The name by which robots.txt and directives address this crawler."""

ROBOTS_BYTES = 512_000
"""RFC 9309, 2.5: at least 500 kibibytes of a robots.txt are read; what follows is not."""

FORBIDDEN = "forbidden by robots.txt"
OPTED_OUT = "opted out of text and data mining"
NOINDEX = "not to be indexed"


UNKNOWN = "text and data mining rules not known"

TOO_MANY_REQUESTS = 429

_OUR_NAME = re.compile(rf"(?:\A|(?<=[\r\n]))([ \t]*user-agent[ \t]*:[ \t]*){AGENT}(?![a-z_-])[^#\r\n]*", re.IGNORECASE)


def unreachable(status: int | None) -> bool:
    """Whether a file of a site could not be had for now, which says nothing of what stands in it. None: no answer."""
    return status is None or status >= 500 or status == TOO_MANY_REQUESTS


class Robots:
    """A site's robots.txt. RFC 9309, 2.3.1: absent (4xx) allows all; unreachable (5xx, no answer) forbids all.

    A site that answers 429 (too many requests) is not without rules: that also forbids all.
    """

    def __init__(self, status: int | None, text: str) -> None:
        from protego import Protego

        self.status = status
        there = status is not None and 200 <= status < 300
        # A group is for the product token alone (RFC 9309, 2.2.1): `LMCraft/1.0` is we.
        text = _OUR_NAME.sub(rf"\g<1>{AGENT}", text.removeprefix("\ufeff")) if there else ""
        self.rules = Protego.parse(text)
        self.usage = _usage_rules(text)

    @property
    def unreachable(self) -> bool:
        return unreachable(self.status)

    def allows(self, url: str) -> bool:
        return bool(self.rules.can_fetch(url, AGENT))

    def opted_out(self, url: str) -> str | None:
        """The line by which the site keeps this URL out of training; the longest path decides, then the strictest."""
        path = path_of(url)
        fitting = [(len(pattern), out, line) for pattern, out, line in self.usage if _prefix_matches(pattern, path)]
        _, out, line = max(fitting, default=(0, False, ""))
        return line if out else None

    def delay(self) -> float | None:
        """Seconds that the site wants between two requests."""
        delay = self.rules.crawl_delay(AGENT)
        rate = self.rules.request_rate(AGENT)
        wanted = [float(delay)] if delay is not None else []
        if rate is not None and rate.requests:
            wanted.append(rate.seconds / rate.requests)
        return max(wanted, default=None)

    def sitemaps(self) -> list[str]:
        return list(self.rules.sitemaps)


@dataclass(frozen=True)
class Reservations:
    """The rules of a `/.well-known/tdmrep.json`: (path pattern, reserved).

    `unknown`: why the rules could not be read; then all is reserved, as with robots.txt.
    """

    rules: tuple[tuple[str, bool], ...] = ()
    unknown: str = ""

    @staticmethod
    def of(status: int | None, text: str) -> Reservations:
        """Out of what a site answered. Not there (4xx, or a page where the file should be) reserves nothing."""
        if unreachable(status):
            return Reservations(unknown=f"tdmrep.json: status {status}" if status else "tdmrep.json: no answer")
        return Reservations.parse(text) if status is not None and status < 300 else Reservations()

    @staticmethod
    def parse(text: str) -> Reservations:
        """What is no rule is passed over. Broken JSON may have said no; a page of HTML is how some sites say 404."""
        text = text.removeprefix("\ufeff").strip()
        if not text or text.startswith("<"):
            return Reservations()
        try:
            stored = json.loads(text)
        except (ValueError, RecursionError):
            return Reservations(unknown="tdmrep.json: not JSON")
        rules = []
        for item in stored if isinstance(stored, list) else [stored]:
            if isinstance(item, dict) and isinstance(location := item.get("location"), str):
                rules.append((location, _flag(item.get("tdm-reservation"))))
        return Reservations(tuple(rules))

    def reserves(self, url: str) -> bool:
        """The longest matching pattern decides; of two of the same length the one that reserves."""
        if self.unknown:
            return True
        path = path_of(url)
        return max(
            ((len(where), out) for where, out in self.rules if _prefix_matches(where, path)), default=(0, False)
        )[1]


@dataclass
class Directives:
    """What the headers and meta elements of one page say to robots. `reserved`: None when they do not say."""

    noindex: bool = False
    nofollow: bool = False
    noai: str | None = None
    reserved: bool | None = None
    words: set[str] = field(default_factory=set)

    @staticmethod
    def of(headers: Iterable[tuple[str, str]], metas: Iterable[tuple[str, str]]) -> Directives:
        """`headers` and `metas` are (name in lower case, content); a meta element goes before a header (TDMRep)."""
        found = Directives()
        for name, value in headers:
            if name == "x-robots-tag":
                found._robots(_addressed(value))
            elif name == "tdm-reservation":
                found.reserved = _flag(value.strip())
            elif name in ("content-usage", "content-signal") and _refuses_training(value):
                found.noai = found.noai or f"{name}: {value.strip()}"
        for name, value in metas:
            if name in ("robots", AGENT):
                found._robots(value)
            elif name == "tdm-reservation":
                found.reserved = _flag(value.strip())
        return found

    def _robots(self, value: str) -> None:
        words = {word.strip().lower() for word in value.split(",")}
        self.noindex |= bool(words & {"noindex", "none"})
        self.nofollow |= bool(words & {"nofollow", "none"})
        if "noai" in words:
            self.noai = self.noai or "noai"


def _addressed(value: str) -> str:
    """`otherbot: noindex, lmcraft: noai, nofollow` -> the words for us: a name holds until the next name."""
    words, ours = [], True
    for part in value.split(","):
        name, colon, rest = part.partition(":")
        if colon and re.fullmatch(r"\s*[A-Za-z][\w-]*\s*", name) and name.strip().lower() not in _WITH_VALUES:
            ours = name.strip().lower() == AGENT
            words.extend([rest] if ours else [])
        elif ours:
            words.append(part)
    return ",".join(words)


_WITH_VALUES = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})


def _usage_rules(text: str) -> list[tuple[str, bool, str]]:
    """(path pattern, kept out of training, line) of the usage lines in the groups for this crawler, else for all."""
    groups: dict[str, list[tuple[str, bool, str]]] = {}
    agents: list[str] = []
    in_rules = False
    for raw in text.splitlines():
        key, colon, value = raw.partition("#")[0].partition(":")
        key, value = key.strip().lower(), value.strip()
        if not colon:
            continue
        if key == "user-agent":
            agents = [*([] if in_rules else agents), value.lower()]
            in_rules = False
            groups.setdefault(value.lower(), [])
            continue
        in_rules = key != "sitemap" or in_rules
        if key not in ("content-usage", "content-signal"):
            continue
        where, _, signal = value.partition(" ") if value.startswith("/") else ("/", "", value)
        if _says_of_training(signal):
            rule = (where, _refuses_training(signal), f"{key}: {value}")
            for agent in agents or ["*"]:
                groups.setdefault(agent, []).append(rule)
    return groups[AGENT] if AGENT in groups else groups.get("*", [])


def _says_of_training(signal: str) -> bool:
    return re.search(r"\b(train-ai|train-genai|ai-train|bots)\s*=", signal.lower()) is not None


def _refuses_training(signal: str) -> bool:
    values = dict(re.findall(r"\b(train-ai|train-genai|ai-train|bots)\s*=\s*\"?(\w+)", signal.lower()))
    if any(values.get(name) in ("n", "no") for name in ("train-ai", "train-genai", "ai-train")):
        return True
    return values.get("bots") in ("n", "no") and not any(name != "bots" for name in values)


def _prefix_matches(pattern: str, path: str) -> bool:
    """Patterns as in robots.txt: a beginning of the path, `*` for anything, `$` for the end."""
    return matches(pattern[:-1] if pattern.endswith("$") else pattern + "*", path)


def _flag(value: Any) -> bool:
    return value in (1, "1", True)
