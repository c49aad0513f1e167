"""What a crawler needs from a page: its links and what its meta elements say. The text is left to `extract`."""

from __future__ import annotations

from dataclasses import dataclass, field

from lmcraft.corpus.sources.crawl_urls import normalise

MAX_LINKS = 5000
"""Links of one page beyond this are not followed: a page of so many is a trap, or a list that a sitemap has better."""


@dataclass
class PageFacts:
    """Normalised links in their order, each once; meta elements as (name in lower case, content)."""

    links: list[str] = field(default_factory=list)
    metas: list[tuple[str, str]] = field(default_factory=list)
    more_links: int = 0


def facts_of(body: bytes, url: str, charset: str | None) -> PageFacts:
    """Read a page of HTML found at `url`. Links marked nofollow are left out; broken HTML gives what it has."""
    from resiliparse.parse.encoding import detect_encoding
    from resiliparse.parse.html import HTMLTree

    tree = HTMLTree.parse_from_bytes(body, charset or detect_encoding(body) or "utf-8")
    facts = PageFacts()
    if tree.document is None:
        return facts
    base = url
    if (element := tree.document.query_selector("base[href]")) is not None:
        base = normalise(element.getattr("href") or "", url) or url
    for element in tree.document.query_selector_all("meta[name][content]"):
        facts.metas.append(((element.getattr("name") or "").strip().lower(), element.getattr("content") or ""))
    seen: dict[str, None] = {}
    for element in tree.document.query_selector_all("a[href], area[href]"):
        if "nofollow" in (element.getattr("rel") or "").lower().split():
            continue
        link = normalise(element.getattr("href") or "", base)
        if link is None or link in seen:
            continue
        if len(seen) >= MAX_LINKS:
            facts.more_links += 1
            continue
        seen[link] = None
    facts.links = list(seen)
    return facts
