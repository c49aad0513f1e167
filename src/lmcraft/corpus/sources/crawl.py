"""Pages of the web as a source: crawled politely once, kept as WARC files, read from there ever after.

The crawl is done when a run asks for the source's digests; `plan` never crawls. What was gathered lies in the cache
under a name that follows from the settings, so that the next run goes on with an interrupted crawl and uses a finished
one. Its identity are the digests of what was gathered: another `as_of` is another crawl.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from filelock import FileLock
from pydantic import Field, StringConstraints, field_validator, model_validator

from lmcraft.corpus.readers.files import Fault, Item, Reading, read_file
from lmcraft.corpus.sources.crawl_ledger import Entry, Ledger, finished_crawl, read_refused
from lmcraft.corpus.sources.crawl_urls import Scope, normalise
from lmcraft.corpus.sources.planning import not_yet_fetched, only_planned
from lmcraft.corpus.sources.source import Listing, Part, SourceConfig
from lmcraft.corpus.sources.web import run_async
from lmcraft.corpus.sources.wheel_files import sha256_of
from lmcraft.recipe.stage import Runtime, Source, UserError

Address = Annotated[str, StringConstraints(pattern=r"^https?://")]


class CrawlSource(SourceConfig):
    """Web pages, from `start` along links and sitemaps, as far as the sites allow it."""

    kind: Literal["crawl"]
    name: str | None = Field(None, description="Name of the source in documents and statistics; default: first host.")
    contact: str = Field(
        pattern=r"^(https?://\S+|mailto:\S+@\S+|[^\s@]+@\S+)$",
        description="Web page or e-mail address at which a site's operator can reach you; sent with every request.",
    )
    start: list[Address] = Field([], description="Pages to begin with.")
    sitemaps: list[Address] = Field([], description="Sitemaps to begin with (XML, gzip or one URL a line).")
    follow_sitemaps: bool = Field(True, description="Read the sitemaps that a site's robots.txt names.")
    allow: list[str] = Field([], description="Whole URLs with `*` that may be visited; empty: hosts of the beginning.")
    deny: list[str] = Field([], description="Whole URLs with `*` that are not visited; goes before `allow`.")
    max_pages: int = Field(1000, ge=1, description="Most pages kept.")
    max_depth: int = Field(5, ge=0, description="Most links between a page and the beginning.")
    delay: float = Field(1.0, ge=0, description="Least seconds between two requests to a site.")
    max_crawl_delay: float = Field(60.0, ge=0, description="A site that asks for longer pauses is left alone.")
    concurrency: int = Field(8, ge=1, le=256, description="Most sites asked at the same time.")
    timeout_s: float = Field(30.0, gt=0, description="Most seconds for one page, from connecting to its last byte.")
    max_page_bytes: int = Field(5_000_000, ge=1, description="A longer page is refused.")
    retries: int = Field(1, ge=0, le=10, description="Further tries when a site is busy or an exchange breaks.")
    content_types: list[str] = Field(
        ["text/html", "application/xhtml+xml", "text/plain"], min_length=1, description="Media types that are kept."
    )
    private_addresses: bool = Field(False, description="Allow addresses that are not of the public internet.")
    as_of: str = Field("", description="Any text, such as a date; another one makes the crawl be done anew.")

    @field_validator("start", "sitemaps")
    @classmethod
    def _can_be_fetched(cls, urls: list[str]) -> list[str]:
        for url in urls:
            if normalise(url) is None:
                raise ValueError(f"{url!r} is not an address that can be fetched (http or https, a host, no password)")
        return urls

    @model_validator(mode="after")
    def _has_a_beginning(self) -> CrawlSource:
        if not self.start and not self.sitemaps:
            raise ValueError("a crawl needs `start` or `sitemaps`")
        return self

    @property
    def source_name(self) -> str:
        return self.name or urlsplit((self.start or self.sitemaps)[0]).netloc

    def digests(self, runtime: Runtime) -> list[Source]:
        """The files that the crawl gathered. Crawls, or goes on with it, unless the run is only planned."""
        folder = self.folder(runtime)
        finished = finished_crawl(folder)
        if finished is None:
            if only_planned(runtime):
                return [not_yet_fetched(f"crawl:{self.source_name}")]
            finished = self._crawl(folder, runtime)
        found = []
        for name, stored in finished["files"].items():
            path = folder / name
            if not path.exists() or sha256_of(path) != stored["sha256"]:
                raise UserError(f"{path} is not what the crawl gathered; delete {folder} to crawl again")
            found.append(Source(f"{self.source_name}/{name}", stored["sha256"], stored["bytes"]))
        return found

    def listing(self, runtime: Runtime) -> Listing:
        """The refusals as one part, then the WARC files."""
        self.digests(runtime)
        folder = self.folder(runtime)
        finished = finished_crawl(folder)
        assert finished is not None
        names = ["refused.jsonl", *sorted(name for name in finished["files"] if name != "refused.jsonl")]
        return Listing([Part(name, finished["files"][name]["bytes"], folder / name) for name in names])

    def read(self, part: Part, max_record_bytes: int, runtime: Runtime) -> Iterator[Item]:
        path = part.path or self.folder(runtime) / part.name
        if part.name == "refused.jsonl":
            yield from read_refused(path)
        else:
            reading = Reading(max_record_bytes=max_record_bytes, note=runtime.progress.note)
            yield from read_file(path, part.name, reading)

    def stops_at(self, fault: Fault) -> bool:
        """Pages that a site refuses or that cannot be had are the way of the web."""
        return False

    def folder(self, runtime: Runtime) -> Path:
        """Where the crawl of these settings lies."""
        settings = self.identity()
        for name in ("name", "licence", "on_bad_record", "concurrency"):  # what these say does not change the crawl
            settings.pop(name, None)
        digest = sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        return runtime.cache / "crawls" / digest[:32]

    def user_agent(self) -> str:
        try:
            number = version("lmcraft")
        except PackageNotFoundError:
            number = "0"
        return f"lmcraft/{number} (+{self.contact.removeprefix('mailto:')})"

    def _crawl(self, folder: Path, runtime: Runtime) -> dict[str, Any]:
        from lmcraft.corpus.sources.crawl_visits import Crawl, Manners, left_over, no_page

        beginning = [url for each in (*self.start, *self.sitemaps) if (url := normalise(each)) is not None]
        start = [Entry(url, sitemap=number >= len(self.start)) for number, url in enumerate(beginning)]
        manners = Manners(
            user_agent=self.user_agent(),
            contact=self.contact,
            scope=Scope.of(beginning, self.allow, self.deny),
            max_pages=self.max_pages,
            max_depth=self.max_depth,
            delay=self.delay,
            max_crawl_delay=self.max_crawl_delay,
            timeout_s=self.timeout_s,
            max_page_bytes=self.max_page_bytes,
            retries=self.retries,
            concurrency=self.concurrency,
            content_types=frozenset(kind.lower() for kind in self.content_types),
            follow_sitemaps=self.follow_sitemaps,
            private=self.private_addresses,
        )
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if (finished := finished_crawl(folder)) is not None:  # by another run, while this one waited
                return finished
            ledger = Ledger.opened(folder)
            name = f"crawl {self.source_name}"
            try:
                with runtime.progress.task(name, self.max_pages, "pages", done=ledger.pages) as task:
                    run_async(_run(Crawl, manners, ledger, start, task))
                if not ledger.pages:  # not kept: the next run, when the site answers again, begins anew
                    error = no_page(ledger, folder)
                    ledger.close()
                    shutil.rmtree(folder)
                    raise error
                return ledger.finish(left_over(ledger, manners))
            finally:
                ledger.close()


async def _run(crawl: Any, *arguments: Any) -> None:
    try:
        await crawl(*arguments).run()
    except ExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        raise error from None
