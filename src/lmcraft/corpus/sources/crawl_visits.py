"""The crawl itself: sites side by side, each visited by one request at a time with a pause in between."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from lmcraft.corpus.readers.files import Fault
from lmcraft.corpus.sources.crawl_ledger import Entry, Ledger, Settled
from lmcraft.corpus.sources.crawl_pages import facts_of
from lmcraft.corpus.sources.crawl_rules import (
    FORBIDDEN,
    NOINDEX,
    OPTED_OUT,
    ROBOTS_BYTES,
    UNKNOWN,
    Directives,
    Reservations,
    Robots,
    unreachable,
)
from lmcraft.corpus.sources.crawl_sitemaps import MAX_SITEMAP_BYTES, read_sitemap
from lmcraft.corpus.sources.crawl_urls import Scope, normalise, origin
from lmcraft.corpus.sources.crawl_warc import page_records, warcinfo
from lmcraft.corpus.sources.web import Response, Web, WebFault
from lmcraft.recipe.stage import Task, UserError

MAX_REDIRECTS = 5
"""As many as RFC 9309 (2.3.1.2) asks for; a longer chain is a mistake of the site."""

ROBOTS_SECONDS = 24 * 3600
"""RFC 9309, 2.4: a robots.txt should not be used longer than a day."""

SITEMAP_SECONDS = 120.0
MAX_SITEMAPS = 1000
GIVE_UP_AFTER = 5
"""Requests in a row without an answer after which a site is left alone."""

MAX_WAITING = 1_000_000
VISITS_PER_PAGE = 20
"""A crawl also ends after so many visits for each page that it may keep: a site may refuse every page for ever."""

_BUSY = frozenset({429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Manners:
    """How a crawl behaves; seconds and bytes."""

    user_agent: str
    contact: str
    scope: Scope
    max_pages: int
    max_depth: int
    delay: float
    max_crawl_delay: float
    timeout_s: float
    max_page_bytes: int
    retries: int
    concurrency: int
    content_types: frozenset[str]
    follow_sitemaps: bool
    private: bool


@dataclass
class _Site:
    """One scheme, host and port: what it asked for, and what waits to be visited there."""

    origin: str
    waiting: deque[Entry] = field(default_factory=deque)
    robots: Robots | None = None
    reservations: Reservations = field(default_factory=Reservations)
    met: float = 0.0  # seconds since the epoch
    delay: float = 0.0
    next_request: float = 0.0  # time.monotonic
    silent: int = 0
    active: bool = False


class Crawl:
    """One crawl, until nothing waits or enough pages are kept. All state that must last is in the ledger."""

    def __init__(self, manners: Manners, ledger: Ledger, start: Sequence[Entry], task: Task) -> None:
        self.manners, self.ledger, self.task = manners, ledger, task
        self.sites: dict[str, _Site] = {}
        self.under_way = 0
        self.sitemaps = 0
        self.changed = asyncio.Condition()
        self.slots = asyncio.Semaphore(manners.concurrency)
        for entry in start:
            ledger.queue(entry)

    async def run(self) -> None:
        """Raises OSError when the disk refuses; everything that a site does wrong becomes a fault in the ledger."""
        manners = self.manners
        async with Web(manners.user_agent, lambda host: manners.private, manners.concurrency) as web:
            self.web = web
            async with asyncio.TaskGroup() as group:
                self.group = group
                for entry in list(self.ledger.waiting.values()):
                    self._assign(entry)

    def _assign(self, entry: Entry) -> None:
        where = origin(entry.url)
        site = self.sites.get(where)
        if site is None:
            site = self.sites[where] = _Site(where, delay=self.manners.delay)
            self._remember(site)
        site.waiting.appendleft(entry) if entry.sitemap else site.waiting.append(entry)
        if not site.active:
            site.active = True
            self.group.create_task(self._visit_site(site))

    async def _visit_site(self, site: _Site) -> None:
        while site.waiting and await self._may_go_on():
            entry = site.waiting.popleft()
            self.under_way += 1
            try:
                settled, records = await self._settle(site, entry)
                started = warcinfo(self.manners.user_agent, self.manners.contact, _utc(), self.ledger.warc_name)
                settled.new = [each for each in settled.new if each.url not in self.ledger.seen]
                self.ledger.settle(settled, records, started)
                if settled.outcome == "page":
                    self.task.advance(1, site.origin)
                for each in settled.new:
                    self._assign(each)
            finally:
                self.under_way -= 1
                async with self.changed:
                    self.changed.notify_all()
        site.active = False

    async def _may_go_on(self) -> bool:
        """Wait while visits under way may already bring the last pages; False when there are enough."""
        async with self.changed:
            most = self.manners.max_pages
            await self.changed.wait_for(lambda: self.ledger.pages >= most or self.ledger.pages + self.under_way < most)
            return self.ledger.pages < most and self.ledger.asked < most * VISITS_PER_PAGE

    async def _settle(self, site: _Site, entry: Entry) -> tuple[Settled, bytes | None]:
        try:
            if fault := await self._refusal(site, entry):
                return Settled(entry.url, "refused", False, fault), None
            return await (self._sitemap(site, entry) if entry.sitemap else self._page(site, entry))
        except WebFault as error:
            fault = Fault(entry.url, error.reason, 0, "", error.value, error.threshold, error.detail)
            return Settled(entry.url, "refused", fault=fault), None

    async def _refusal(self, site: _Site, entry: Entry) -> Fault | None:
        """Why this URL must not be asked for, if so; what the site wants is fetched first."""
        if site.robots is None or time.time() - site.met > ROBOTS_SECONDS:
            await self._meet(site)
        assert site.robots is not None
        url = entry.url
        if site.robots.unreachable:
            status = site.robots.status
            detail = f"it was answered with status {status}" if status else "no answer"
            return Fault(url, "robots.txt not available", value=status, detail=f"{detail}: RFC 9309 forbids all then")
        if site.delay > self.manners.max_crawl_delay:
            detail = f"{site.origin} asks for {site.delay:g} s between requests"
            return Fault(url, "crawl delay too long", 0, "", site.delay, self.manners.max_crawl_delay, detail)
        if site.silent >= GIVE_UP_AFTER:
            return Fault(url, "site does not answer", detail=f"after {site.silent} requests without an answer")
        if entry.sitemap:
            return None
        if not site.robots.allows(url):
            return Fault(url, FORBIDDEN)
        if line := site.robots.opted_out(url):
            return Fault(url, OPTED_OUT, detail=f"robots.txt: {line}")
        if site.reservations.unknown:
            return Fault(url, UNKNOWN, detail=f"{site.reservations.unknown}; taken for a reservation")
        if site.reservations.reserves(url):
            return Fault(url, OPTED_OUT, detail="/.well-known/tdmrep.json")
        return None

    async def _meet(self, site: _Site) -> None:
        robots = await self._small_file(site, "/robots.txt", ROBOTS_BYTES)
        site.delay = max(self.manners.delay, Robots(*robots).delay() or 0.0)
        site.next_request = max(site.next_request, time.monotonic() + min(site.delay, self.manners.max_crawl_delay))
        facts: dict[str, Any] = {"robots": robots}
        if not unreachable(robots[0]):
            facts["tdm"] = await self._small_file(site, "/.well-known/tdmrep.json", ROBOTS_BYTES)
        named = Robots(*robots).sitemaps() if self.manners.follow_sitemaps else []
        found = [address for each in named if (address := normalise(each, site.origin)) is not None]
        ours = [each for each in dict.fromkeys(found) if self.manners.scope.holds(each) or origin(each) == site.origin]
        new = [Entry(each, sitemap=True) for each in ours if each not in self.ledger.seen]
        self.ledger.meet(site.origin, facts, new)
        self._remember(site)
        for each in new:
            self._assign(each)

    def _remember(self, site: _Site) -> None:
        facts = self.ledger.sites.get(site.origin)
        if facts is None:
            return
        site.robots = Robots(*facts["robots"])
        site.reservations = Reservations.of(*facts["tdm"]) if "tdm" in facts else Reservations()
        site.delay = max(self.manners.delay, site.robots.delay() or 0.0)
        site.met = datetime.fromisoformat(facts["at"]).timestamp()

    async def _small_file(self, site: _Site, path: str, max_bytes: int) -> tuple[int | None, str]:
        """Status and text; status None when there is no answer. Redirects are followed, also to other sites."""
        url = site.origin + path
        try:
            for _ in range(MAX_REDIRECTS + 1):
                response = await self._request(site, url, self.manners.timeout_s, max_bytes, truncate=True)
                if response.status not in (301, 302, 303, 307, 308):
                    return response.status, response.body.decode("utf-8-sig", "replace")
                target = normalise(response.header("location") or "", url)
                if target is None:
                    break
                url = target
        except WebFault:
            return None, ""
        return 404, ""  # RFC 9309: more redirects than that count as a file that is not there

    async def _sitemap(self, site: _Site, entry: Entry) -> tuple[Settled, bytes | None]:
        response = await self._request(site, entry.url, SITEMAP_SECONDS, MAX_SITEMAP_BYTES)
        if response.status != 200:
            raise WebFault(f"HTTP status {response.status}", "a sitemap", response.status)
        sitemap = await asyncio.to_thread(read_sitemap, response.body, entry.url)  # it may take seconds
        settled = Settled(entry.url, "sitemap")
        scope = self.manners.scope
        pages = [page for page in dict.fromkeys(sitemap.pages) if scope.holds(page)]
        self._leave(settled, "outside the crawl", len(sitemap.pages) - len(pages))
        self._leave(settled, "not a valid address", sitemap.invalid)
        further = [each for each in sitemap.sitemaps if origin(each) == site.origin or scope.holds(each)]
        if further and entry.depth >= 2:
            self._leave(settled, "sitemaps nested too deep", len(further))
            further = []
        self.sitemaps += len(further)
        if self.sitemaps > MAX_SITEMAPS:
            self._leave(settled, "too many sitemaps", len(further))
            further = []
        settled.new = [Entry(each, entry.depth + 1, entry.url, sitemap=True) for each in further]
        settled.new += self._room(settled, [Entry(page, 0, entry.url) for page in pages])
        return settled, None

    async def _page(self, site: _Site, entry: Entry) -> tuple[Settled, bytes | None]:
        manners = self.manners
        response = await self._request(site, entry.url, manners.timeout_s, manners.max_page_bytes)
        if response.status in (301, 302, 303, 307, 308):
            return self._redirect(entry, response), None
        if not 200 <= response.status < 300:
            raise WebFault(f"HTTP status {response.status}", response.reason, response.status)
        kind, _, parameters = (response.header("content-type") or "").partition(";")
        kind = kind.strip().lower()
        if kind not in manners.content_types:
            raise WebFault("content type not wanted", kind or "none stated")
        settled = Settled(entry.url, "page")
        metas: list[tuple[str, str]] = []
        if "html" in kind:
            facts = facts_of(response.body, entry.url, _charset(parameters))
            metas = facts.metas
        directives = Directives.of(response.headers, metas)
        if "html" in kind and not directives.nofollow:
            self._follow(settled, entry, facts.links)
            self._leave(settled, "more links than are followed", facts.more_links)
        if directives.reserved or directives.noai:
            settled.outcome, why = "refused", directives.noai or "tdm-reservation: 1"
            settled.fault = Fault(entry.url, OPTED_OUT, len(response.body), detail=why)
        elif directives.noindex:
            settled.outcome = "refused"
            settled.fault = Fault(entry.url, NOINDEX, len(response.body))
        if settled.outcome != "page":
            return settled, None
        return settled, page_records(response, manners.user_agent, _utc(), entry.via)

    def _redirect(self, entry: Entry, response: Response) -> Settled:
        target = normalise(response.header("location") or "", entry.url)
        chain = (*entry.chain, entry.url)
        if target is None:
            raise WebFault("not a valid address", f"redirected to {response.header('location')!r}")
        if target in chain:
            raise WebFault("redirect loop", f"back to {target}")
        if len(chain) > MAX_REDIRECTS:
            raise WebFault("too many redirects", f"from {chain[0]}", float(len(chain)), float(MAX_REDIRECTS))
        if not self.manners.scope.holds(target):
            raise WebFault("outside the crawl", f"redirected to {target}")
        return Settled(entry.url, "redirect", new=[Entry(target, entry.depth, entry.via, chain)])

    def _follow(self, settled: Settled, entry: Entry, links: list[str]) -> None:
        inside = [link for link in links if self.manners.scope.holds(link)]
        self._leave(settled, "outside the crawl", len(links) - len(inside))
        fresh = [link for link in inside if link not in self.ledger.seen]
        if entry.depth >= self.manners.max_depth:
            self._leave(settled, "deeper than max_depth", len(fresh))
            return
        settled.new = self._room(settled, [Entry(link, entry.depth + 1, entry.url) for link in fresh])

    def _room(self, settled: Settled, entries: list[Entry]) -> list[Entry]:
        room = max(0, MAX_WAITING - len(self.ledger.waiting))
        self._leave(settled, "more addresses than are remembered", len(entries) - room)
        return entries[:room]

    @staticmethod
    def _leave(settled: Settled, reason: str, count: int) -> None:
        if count > 0:
            settled.left[reason] = settled.left.get(reason, 0) + count

    async def _request(
        self, site: _Site, url: str, timeout_s: float, max_bytes: int, truncate: bool = False
    ) -> Response:
        """Ask when it is the site's turn; again after a pause when it is busy or the exchange broke."""
        for attempt in range(self.manners.retries + 1):
            last = attempt == self.manners.retries
            await asyncio.sleep(max(0.0, site.next_request - time.monotonic()))
            pause = site.delay * 2**attempt
            try:
                async with self.slots:
                    response = await self.web.get(url, timeout_s=timeout_s, max_bytes=max_bytes, truncate=truncate)
                site.silent = 0
                if response.status not in _BUSY or last:
                    return response
                pause = max(pause, _retry_after(response))
                if pause > self.manners.max_crawl_delay:
                    return response
            except WebFault as error:
                site.silent += error.reason in ("timed out", "not reachable")
                if not error.again or last:
                    raise
            finally:
                site.next_request = time.monotonic() + pause
        raise AssertionError("the last attempt returns or raises")


def left_over(ledger: Ledger, manners: Manners) -> list[Fault]:
    """What a finished crawl did not visit, as one fault a reason: there may be a million such addresses."""
    faults = []
    if ledger.waiting:
        detail = f"{len(ledger.waiting)} known addresses were not visited, such as {next(iter(ledger.waiting))}"
        reason = "page limit reached" if ledger.pages >= manners.max_pages else "visit limit reached"
        faults.append(Fault("(not visited)", reason, 0, "", len(ledger.waiting), manners.max_pages, detail))
    for reason, count in sorted(ledger.left.items()):
        if reason != "outside the crawl":
            faults.append(Fault(f"(links {reason})", "links not followed", value=count, detail=f"{count} {reason}"))
    return faults


def no_page(ledger: Ledger, folder: Path) -> UserError:
    reasons: dict[str, int] = {}
    for fault in ledger.faults:
        reasons[fault.reason] = reasons.get(fault.reason, 0) + 1
    counted = ", ".join(f"{count} x {reason}" for reason, count in sorted(reasons.items())) or "nothing to visit"
    first = f"; first: {ledger.faults[0]}" if ledger.faults else ""
    return UserError(f"the crawl gave no page ({counted}{first}); correct `start` or `allow`, or what keeps it out")


def _charset(parameters: str) -> str | None:
    for part in parameters.split(";"):
        name, _, value = part.partition("=")
        if name.strip().lower() == "charset":
            return value.strip().strip("\"'") or None
    return None


def _retry_after(response: Response) -> float:
    value = response.header("retry-after") or ""
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - _utc()).total_seconds())
    except (TypeError, ValueError):
        return 0.0


def _utc() -> datetime:
    return datetime.now(UTC)
