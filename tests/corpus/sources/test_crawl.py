"""A crawl asks only for what it may, at the pace it may, and every page that it does not keep has its reason."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from loopback import Handler, Site, broken_off, drip, endless, hang, links, serving
from pydantic import ValidationError

from lmcraft.corpus.readers.records import Fault, Record
from lmcraft.corpus.sources.crawl import CrawlSource
from lmcraft.corpus.sources.crawl_rules import Reservations, Robots
from lmcraft.recipe.stage import Runtime, UserError

HERE = Path(__file__).parent


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as running:
        yield running


def source(site: Site, **settings: Any) -> CrawlSource:
    defaults: dict[str, Any] = {"start": [f"{site.url}/"], "contact": "crawl@example.org", "delay": 0.0}
    defaults |= {"timeout_s": 2.0, "retries": 0, "private_addresses": True}
    return CrawlSource.model_validate({"kind": "crawl"} | defaults | settings)


def crawled(source: CrawlSource, runtime: Runtime) -> tuple[list[Record], dict[str, Fault]]:
    """The pages, and the refusals by path."""
    items = [item for part in source.listing(runtime).parts for item in source.read(part, 10**6, runtime)]
    faults = [item for item in items if isinstance(item, Fault)]
    return [item for item in items if isinstance(item, Record)], {
        fault.place.replace(source.start[0].rstrip("/") if source.start else "", ""): fault for fault in faults
    }


def paths(records: list[Record], site: Site) -> list[str]:
    return sorted((record.url or "").removeprefix(site.url) for record in records)


def robots(text: str) -> Any:
    return (200, {"Content-Type": "text/plain"}, text.encode())


def test_links_are_followed_and_each_page_is_kept_once(site: Site, runtime: Runtime) -> None:
    site.pages = {
        "/": links("/a", "b", "/a#part", "/./x/../a", "https://example.org/elsewhere", "mailto:me@example.org"),
        "/a": links("/", "/b"),
        "/b": links("/c?q=1"),
        "/c?q=1": links(text="Grüße".encode("latin-1").decode("latin-1")),
    }
    records, faults = crawled(source(site), runtime)
    assert paths(records, site) == ["/", "/a", "/b", "/c?q=1"]
    assert faults == {}
    assert sorted(site.paths()) == ["/", "/a", "/b", "/c?q=1"]
    first = records[0]
    assert (first.format, first.url) == ("html", f"{site.url}/")
    assert first.collected_at is not None
    assert first.offset is not None


def test_it_says_who_it_is(site: Site, runtime: Runtime) -> None:
    site.pages = {"/": links()}
    crawled(source(site), runtime)
    agent = site.asked[-1].headers["user-agent"]
    assert agent.startswith("lmcraft/")
    assert agent.endswith("(+crawl@example.org)")
    with pytest.raises(ValidationError, match="contact"):
        source(site, contact="nobody")


@pytest.mark.parametrize(
    ("page", "reason", "value"),
    [
        ((200, {"Content-Type": "text/html"}, b" " * 30_000), "too large", 30_000.0),
        (hang, "timed out", None),
        (drip, "timed out", None),
        (endless, "too large", None),
        (broken_off, "connection broken", None),
        ((302, {"Location": "/bad"}, b""), "redirect loop", None),
        ((302, {"Location": "https://example.org/"}, b""), "outside the crawl", None),
        ((302, {"Location": "ftp://example.org/"}, b""), "not a valid address", None),
        ((302, {}, b""), "redirect loop", None),
        ((404, {}, b""), "HTTP status 404", 404.0),
        ((500, {}, b""), "HTTP status 500", 500.0),
        ((200, {"Content-Type": "image/png"}, b"x"), "content type not wanted", None),
        ((200, {}, b"x"), "content type not wanted", None),
        ((200, {"Content-Type": "text/html", "Content-Encoding": "br"}, b"x"), "unknown content encoding", None),
        ((200, {"Content-Type": "text/html", "Content-Encoding": "gzip"}, b"no"), "damaged compression", None),
        (
            (200, {"Content-Type": "text/html", "Content-Encoding": "gzip"}, gzip.compress(bytes(15_000_000))),
            "too large",
            None,
        ),
        (
            (200, {"Content-Type": "text/html", "Content-Encoding": "gzip"}, gzip.compress(b"<p>" * 4000)[:-20]),
            "damaged compression",
            None,
        ),
    ],
)
def test_a_page_that_misbehaves_is_refused_and_the_others_are_kept(
    site: Site, runtime: Runtime, page: Any, reason: str, value: float | None
) -> None:
    site.pages = {"/": links("/bad", "/good"), "/bad": page, "/good": links()}
    started = time.monotonic()
    records, faults = crawled(source(site, timeout_s=0.5, max_page_bytes=20_000), runtime)
    assert time.monotonic() - started < 10
    assert paths(records, site) == ["/", "/good"]
    assert faults["/bad"].reason == reason
    if value is not None:
        assert faults["/bad"].value == pytest.approx(value)


def test_a_redirect_leads_to_the_page_and_a_long_chain_does_not(site: Site, runtime: Runtime) -> None:
    site.pages = {"/": links("/old", "/far0"), "/old": (301, {"Location": "new"}, b""), "/new": links("/more")}
    site.pages["/more"] = links()
    site.pages |= {f"/far{number}": (302, {"Location": f"/far{number + 1}"}, b"") for number in range(9)}
    records, faults = crawled(source(site), runtime)
    assert paths(records, site) == ["/", "/more", "/new"]
    assert {place: fault.reason for place, fault in faults.items()} == {"/far5": "too many redirects"}


def test_robots_txt_is_obeyed(site: Site, runtime: Runtime) -> None:
    site.pages = {
        "/": links("/private/a", "/private/open", "/ours", "/b*"),
        "/robots.txt": robots(
            "User-agent: *\nAllow: /\n\nUser-agent: lmcraft\nDisallow: /private/\nAllow: /private/open$\nDisallow: /ours\n"  # noqa: E501
        ),
        "/private/open": links(),
        "/b*": links(),
    }
    records, faults = crawled(source(site), runtime)
    assert paths(records, site) == ["/", "/b*", "/private/open"]
    assert {place: fault.reason for place, fault in faults.items()} == {
        "/private/a": "forbidden by robots.txt",
        "/ours": "forbidden by robots.txt",
    }
    assert [path for path in site.paths() if path in ("/private/a", "/ours")] == []
    assert [each.path for each in site.asked].count("/robots.txt") == 1


@pytest.mark.parametrize("answer", [(500, {}, b""), (503, {}, b""), (429, {}, b""), hang, broken_off])
def test_without_an_answer_about_robots_nothing_is_asked_for(site: Site, runtime: Runtime, answer: Any) -> None:
    site.pages = {"/": links(), "/robots.txt": answer}
    with pytest.raises(UserError, match=r"1 x robots\.txt not available"):
        crawled(source(site, timeout_s=0.6), runtime)
    assert site.paths() == []


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_robots_txt_that_is_not_there_forbids_nothing(site: Site, runtime: Runtime, status: int) -> None:
    site.pages = {"/": links(), "/robots.txt": (status, {}, b"User-agent: *\nDisallow: /")}
    assert len(crawled(source(site), runtime)[0]) == 1


def test_a_robots_txt_is_read_behind_a_redirect_and_only_as_far_as_the_limit(site: Site, runtime: Runtime) -> None:
    padding = "# padding\n" * 60_000
    site.pages = {
        "/": links("/x", "/y"),
        "/y": links(),
        "/robots.txt": (301, {"Location": "/r"}, b""),
        "/r": robots(f"User-agent: *\nDisallow: /x\n{padding}Disallow: /y\n"),
    }
    records, faults = crawled(source(site), runtime)
    assert paths(records, site) == ["/", "/y"]
    assert list(faults) == ["/x"]


@pytest.mark.parametrize(
    ("page", "detail"),
    [
        (links(head='<meta name="robots" content="noai">'), "noai"),
        (links(head='<meta name="tdm-reservation" content="1">'), "tdm-reservation: 1"),
        ((200, {"Content-Type": "text/html", "tdm-reservation": "1"}, b"<p>x"), "tdm-reservation: 1"),
        ((200, {"Content-Type": "text/html", "X-Robots-Tag": "noai, noimageai"}, b"<p>x"), "noai"),
        ((200, {"Content-Type": "text/html", "X-Robots-Tag": "lmcraft: noai"}, b"<p>x"), "noai"),
        ((200, {"Content-Type": "text/html", "Content-Usage": "train-ai=n"}, b"<p>x"), "content-usage: train-ai=n"),
    ],
)
def test_a_page_that_opts_out_is_not_kept(site: Site, runtime: Runtime, page: Any, detail: str) -> None:
    site.pages = {"/": links("/page"), "/page": page}
    records, faults = crawled(source(site), runtime)
    assert paths(records, site) == ["/"]
    assert (faults["/page"].reason, faults["/page"].detail) == ("opted out of text and data mining", detail)


@pytest.mark.parametrize(
    "page",
    [
        (200, {"Content-Type": "text/html", "X-Robots-Tag": "otherbot: noai, noindex"}, b"<p>x"),
        (200, {"Content-Type": "text/html", "tdm-reservation": "0"}, b"<p>x"),
        (
            200,
            {"Content-Type": "text/html", "tdm-reservation": "1"},
            b'<meta name="tdm-reservation" content="0"><p>x',
        ),
        (200, {"Content-Type": "text/html", "X-Robots-Tag": "unavailable_after: 25 Jun 2010, max-snippet: 5"}, b"x"),
    ],
)
def test_what_is_not_said_to_us_does_not_keep_a_page_out(site: Site, runtime: Runtime, page: Any) -> None:
    site.pages = {"/": links("/page"), "/page": page}
    assert paths(crawled(source(site), runtime)[0], site) == ["/", "/page"]


@pytest.mark.parametrize(
    "file",
    [
        "User-agent: *\nContent-Signal: search=yes, ai-train=no\nAllow: /",
        "User-agent: *\nContent-Usage: train-ai=n\nContent-Usage: /open train-ai=y\n",
        "User-agent: lmcraft\nContent-Usage: train-ai=n\nContent-Usage: /open train-ai=y\nContent-Usage: / bots=y",
    ],
)
def test_a_site_that_opts_out_in_robots_txt_is_left_alone(site: Site, runtime: Runtime, file: str) -> None:
    site.pages = {"/": links("/open/page"), "/open/page": links(), "/robots.txt": robots(file)}
    start = [f"{site.url}/", f"{site.url}/open/page"]
    if "/open" in file:
        records, faults = crawled(source(site, start=start), runtime)
        assert paths(records, site) == ["/open/page"]
        assert faults["/"].reason == "opted out of text and data mining"
    else:
        with pytest.raises(UserError, match="2 x opted out of text and data mining"):
            crawled(source(site, start=start), runtime)
        assert site.paths() == []


def test_reservations_of_a_site_hold_for_the_paths_that_they_name(site: Site, runtime: Runtime) -> None:
    rules = [
        {"location": "/poems", "tdm-reservation": 1, "tdm-policy": "https://example.org/policy"},
        {"location": "/poems/free", "tdm-reservation": 0},
        {"location": "*.pdf$", "tdm-reservation": 1},
        "nonsense",
    ]
    site.pages = {
        "/": links("/poems/1", "/poems/free/2", "/a.pdf", "/a.pdf?x=1"),
        "/.well-known/tdmrep.json": (200, {"Content-Type": "application/json"}, json.dumps(rules).encode()),
        "/poems/free/2": links(),
        "/a.pdf?x=1": links(),
    }
    records, faults = crawled(source(site), runtime)
    assert paths(records, site) == ["/", "/a.pdf?x=1", "/poems/free/2"]
    assert {place: fault.reason for place, fault in faults.items()} == {
        "/poems/1": "opted out of text and data mining",
        "/a.pdf": "opted out of text and data mining",
    }
    assert "/poems/1" not in site.paths()


@pytest.mark.parametrize("answer", [(500, {}, b""), (429, {}, b""), hang, (200, {}, b'[{"location": "/"},]')])
def test_reservations_that_cannot_be_read_keep_everything_out(site: Site, runtime: Runtime, answer: Any) -> None:
    site.pages = {"/": links(), "/.well-known/tdmrep.json": answer}
    with pytest.raises(UserError, match="1 x text and data mining rules not known"):
        crawled(source(site, timeout_s=0.6), runtime)
    assert "/" not in site.paths()


@pytest.mark.parametrize("answer", [(404, {}, b""), (200, {"Content-Type": "text/html"}, b"<!DOCTYPE html>Not found")])
def test_a_site_without_reservations_is_read(site: Site, runtime: Runtime, answer: Any) -> None:
    site.pages = {"/": links(), "/.well-known/tdmrep.json": answer}
    assert paths(crawled(source(site), runtime)[0], site) == ["/"]


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffUser-agent: *\nDisallow: /a\n",
        "User-agent: LMCraft/1.0\nDisallow: /a\nContent-Signal: ai-train=no\n\nUser-agent: *\nDisallow:\n",
        "User-agent: *\nDisallow:\n\n  user-agent : lmcraft (a crawler) # us\nDisallow: /a\n",
    ],
)
def test_a_byte_order_mark_or_a_version_hides_no_rule(text: str) -> None:
    rules = Robots(200, text)
    assert not rules.allows("https://example.org/a")
    assert ("ai-train" in text) == (rules.opted_out("https://example.org/b") is not None)


def test_other_crawlers_of_like_names_are_others() -> None:
    assert Robots(200, "User-agent: lmcraft-images\nDisallow: /\n").allows("https://example.org/a")


def test_reservations_after_a_byte_order_mark_hold() -> None:
    found = Reservations.parse('\ufeff[{"location": "/", "tdm-reservation": 1}]')
    assert (found.reserves("https://example.org/a"), found.unknown) == (True, "")


def test_noindex_and_nofollow(site: Site, runtime: Runtime) -> None:
    site.pages = {
        "/": links("/list", "/end", "/none"),
        "/list": links("/from-list", head='<meta name="ROBOTS" content="NOINDEX">'),
        "/end": links("/from-end", head='<meta name="robots" content="nofollow">')
        + '<a rel="nofollow" href="/also-not">x</a>',
        "/none": (200, {"Content-Type": "text/html", "X-Robots-Tag": "none"}, b'<a href="/from-none">x</a>'),
        "/from-list": links() + '<a rel="ugc nofollow" href="/single">x</a>',
    }
    records, faults = crawled(source(site), runtime)
    assert paths(records, site) == ["/", "/end", "/from-list"]
    assert {place: fault.reason for place, fault in faults.items()} == {
        "/list": "not to be indexed",
        "/none": "not to be indexed",
    }


def test_requests_to_a_site_keep_their_distance(site: Site, runtime: Runtime) -> None:
    site.pages = {"/": links("/a", "/b"), "/a": links(), "/b": links()}
    crawled(source(site, delay=0.15, concurrency=8), runtime)
    times = [each.at for each in site.asked]
    assert len(times) == 5  # with robots.txt and tdmrep.json
    assert min(later - earlier for earlier, later in pairwise(times)) >= 0.15


def test_a_crawl_delay_is_honoured_unless_it_is_too_long(site: Site, runtime: Runtime) -> None:
    site.pages = {"/": links("/a"), "/a": links(), "/robots.txt": robots("User-agent: *\nCrawl-delay: 0.3\n")}
    crawled(source(site), runtime)
    times = [each.at for each in site.asked if each.path != "/robots.txt"]
    assert min(later - earlier for earlier, later in pairwise(times)) >= 0.3
    with pytest.raises(UserError, match="crawl delay too long"):
        crawled(source(site, max_crawl_delay=0.1), runtime)


def test_a_busy_server_is_asked_again_after_the_pause_it_names(site: Site, runtime: Runtime) -> None:
    def busy_once(handler: Handler) -> None:
        if handler.site.paths().count("/") == 1:
            handler.answer(503, {"Retry-After": "1"}, b"")
        else:
            handler.answer(200, {"Content-Type": "text/html"}, links().encode())

    site.pages = {"/": busy_once}
    records, _ = crawled(source(site, retries=1), runtime)
    assert len(records) == 1
    times = [each.at for each in site.asked if each.path == "/"]
    assert times[1] - times[0] >= 1.0


def test_a_site_that_never_answers_is_given_up(site: Site, runtime: Runtime) -> None:
    site.pages = {"/": links(*(f"/{number}" for number in range(12)))}
    site.pages |= {f"/{number}": hang for number in range(12)}
    _, faults = crawled(source(site, timeout_s=0.8), runtime)
    reasons = [fault.reason for fault in faults.values()]
    assert (reasons.count("timed out"), reasons.count("site does not answer")) == (5, 7)


def test_sites_are_visited_side_by_side(runtime: Runtime) -> None:
    with serving() as one, serving() as two:
        for each in (one, two):
            each.pages = {"/": links("/a", "/b"), "/a": links(), "/b": links()}
        started = time.monotonic()
        both = source(one, start=[f"{one.url}/", f"{two.url}/"], delay=0.25)
        assert len(crawled(both, runtime)[0]) == 6
        assert time.monotonic() - started < 2 * 4 * 0.25  # one after the other would take this long or longer


def test_private_addresses_are_not_asked(site: Site, runtime: Runtime) -> None:
    site.pages = {"/": links()}
    with pytest.raises(UserError, match=r"private address|robots.txt not available"):
        crawled(source(site, private_addresses=False), runtime)
    assert site.asked == []


def test_page_and_depth_limits_are_kept_and_counted(site: Site, runtime: Runtime) -> None:
    site.pages = {f"/{number}": links(f"/{number + 1}", f"/x{number}") for number in range(20)}
    site.pages |= {f"/x{number}": links() for number in range(20)} | {"/": links("/0")}
    records, faults = crawled(source(site, max_pages=5, concurrency=4), runtime)
    assert len(records) == 5
    assert len(site.paths()) == 5
    assert faults["(not visited)"].reason == "page limit reached"
    records, faults = crawled(source(site, max_depth=2), runtime)
    assert paths(records, site) == ["/", "/0", "/1", "/x0"]
    assert faults["(links deeper than max_depth)"].value == 2


def test_an_endless_site_that_refuses_every_page_ends(site: Site, runtime: Runtime) -> None:
    def page(handler: Handler) -> None:
        number = int(handler.path.strip("/") or 0)
        head = "" if number == 0 else '<meta name="robots" content="noindex">'
        handler.answer(200, {"Content-Type": "text/html"}, links(f"/{number + 1}", head=head).encode())

    site.fallback = page
    site.pages = {"/robots.txt": (404, {}, b""), "/.well-known/tdmrep.json": (404, {}, b"")}
    records, faults = crawled(source(site, max_pages=3, max_depth=10**6), runtime)
    assert len(records) == 1
    assert len(site.paths()) == 60
    assert faults["(not visited)"].reason == "visit limit reached"


def test_allow_and_deny(site: Site, runtime: Runtime) -> None:
    site.pages = {"/": links("/docs/a", "/docs/b.html?print=1", "/blog/c"), "/docs/a": links(), "/blog/c": links()}
    chosen = source(site, allow=[f"{site.url}/", f"{site.url}/docs/*"], deny=["*print=1"])
    records, faults = crawled(chosen, runtime)
    assert paths(records, site) == ["/", "/docs/a"]
    assert faults == {}


def test_sitemaps_plain_and_packed_and_lists_of_them(site: Site, runtime: Runtime) -> None:
    def listed(*urls: str) -> bytes:
        locations = "".join(f"<url><loc>{url}</loc></url>" for url in urls)
        return f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{locations}</urlset>'.encode()

    index = "".join(f"<sitemap><loc>{site.url}{path}</loc></sitemap>" for path in ("/one.xml.gz", "/two.txt", "/bad"))
    site.pages = {
        "/robots.txt": robots(f"User-agent: *\nDisallow: /no\nSitemap: {site.url}/index.xml\n"),
        "/index.xml": f"<?xml version='1.0'?><sitemapindex>{index}</sitemapindex>".encode(),
        "/one.xml.gz": gzip.compress(listed(f"{site.url}/a", f"{site.url}/no", "https://example.org/")),
        "/two.txt": f"{site.url}/b\n".encode(),
        "/bad": b"<urlset><url><loc>unclosed",
        "/": links(),
        "/a": links(),
        "/b": links(),
    }
    records, faults = crawled(source(site), runtime)
    assert paths(records, site) == ["/", "/a", "/b"]
    assert {place: fault.reason for place, fault in faults.items()} == {
        "/no": "forbidden by robots.txt",
        "/bad": "malformed sitemap",
    }
    alone = source(site, start=[], sitemaps=[f"{site.url}/two.txt"], follow_sitemaps=False, max_depth=0)
    assert paths(crawled(alone, runtime)[0], site) == ["/b"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (gzip.compress(b"<urlset>" + b" " * 80_000_000), "sitemap too large"),
        (b"<urlset>" + b"<url><loc>http://127.0.0.1/x</loc></url>" * 60_000, "sitemap too large"),
        (b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><urlset>&b;</urlset>', "malformed sitemap"),
        (gzip.compress(b"<urlset>" + os.urandom(50).hex().encode() + b"</urlset>")[:-12], "damaged compression"),
        (b"<a>" * 100_000, "malformed sitemap"),
    ],
    ids=["bomb", "too many", "entities", "cut", "nested"],
)
def test_a_hostile_sitemap_is_refused(site: Site, runtime: Runtime, body: bytes, reason: str) -> None:
    site.pages = {"/": links(), "/map": body}
    records, faults = crawled(source(site, sitemaps=[f"{site.url}/map"]), runtime)
    assert len(records) == 1
    assert faults["/map"].reason == reason


def test_deeply_nested_and_broken_html_do_no_harm(site: Site, runtime: Runtime) -> None:
    site.pages = {
        "/": "<div>" * 10_000 + '<a href="/a">a</a>',
        "/a": (200, {"Content-Type": "text/html; charset=no-such"}, b'\xff\xfe\x00<a href="/b"><a href="http://[">'),
    }
    records, _ = crawled(source(site), runtime)
    assert paths(records, site)[:1] == ["/"]
    assert "/a" in site.paths()


def test_what_was_crawled_stays_until_as_of_changes(site: Site, runtime: Runtime) -> None:
    site.pages = {"/": links(text="before")}
    before = source(site).digests(runtime)
    site.pages["/"] = links(text="after")
    asked = len(site.asked)
    assert source(site, name="other", licence="CC0-1.0").folder(runtime) == source(site).folder(runtime)
    assert source(site).digests(runtime) == before
    assert len(site.asked) == asked
    assert source(site, as_of="tomorrow").digests(runtime) != before


def test_a_plan_does_not_crawl(site: Site, runtime: Runtime) -> None:
    site.pages = {"/": links()}
    runtime.planning = True  # type: ignore[attr-defined]
    (planned,) = source(site).digests(runtime)
    assert "not fetched yet" in planned.name
    assert site.asked == []


def test_a_crawl_that_found_nothing_is_not_kept(site: Site, runtime: Runtime) -> None:
    with pytest.raises(UserError, match=r"no page \(1 x HTTP status 404"):
        crawled(source(site), runtime)
    site.pages = {"/": links()}
    assert len(crawled(source(site), runtime)[0]) == 1


def test_a_damaged_crawl_is_noticed(site: Site, runtime: Runtime) -> None:
    site.pages = {"/": links()}
    chosen = source(site)
    chosen.digests(runtime)
    path = chosen.folder(runtime) / "pages-00000.warc.gz"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="is not what the crawl gathered"):
        chosen.digests(runtime)


def test_the_warc_file_is_valid(site: Site, runtime: Runtime) -> None:
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    site.pages = {"/": links("/a"), "/a": (200, {"Content-Type": "text/html", "Content-Encoding": "gzip"}, b"")}
    site.pages["/a"] = (
        200,
        {"Content-Type": "text/html", "Content-Encoding": "gzip"},
        gzip.compress("Grüße".encode()),
    )
    chosen = source(site)
    chosen.digests(runtime)
    kinds, bodies = [], {}
    with (chosen.folder(runtime) / "pages-00000.warc.gz").open("rb") as file:
        for record in ArchiveIterator(file, parse_http=False):
            assert record.verify_block_digest(), record.headers
            kinds.append(record.record_type)
    with (chosen.folder(runtime) / "pages-00000.warc.gz").open("rb") as file:
        for record in ArchiveIterator(file, record_types=WarcRecordType.response):
            assert record.verify_payload_digest()
            bodies[record.headers["WARC-Target-URI"].removeprefix(site.url)] = record.reader.read()
    info, request = WarcRecordType.warcinfo, WarcRecordType.request
    response, metadata = WarcRecordType.response, WarcRecordType.metadata
    assert kinds == [info, request, response, request, response, metadata]
    assert bodies["/a"] == "Grüße".encode()


CRAWL = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from lmcraft.corpus.sources.crawl import CrawlSource
from lmcraft.recipe.stage import Runtime
settings = dict(kind="crawl", contact="me@example.org", start=[sys.argv[1] + "/"])
settings |= dict(delay=0.0, max_depth=99, private_addresses=True)
CrawlSource.model_validate(settings).digests(Runtime(cache=Path(sys.argv[2])))
"""


def test_killed_at_any_moment_it_goes_on_and_every_page_is_there_once(site: Site, tmp_path: Path) -> None:
    count = 60
    site.pages = {f"/{number}": links(f"/{number + 1}", f"/{number + 2}") for number in range(count)}
    site.pages |= {"/": links("/0", "/0")}
    command = [sys.executable, "-c", CRAWL, site.url, str(tmp_path), str(HERE)]
    kills = 0
    for wanted in (3, 9, 17, 30, 44):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(set(site.paths())) < wanted:
            time.sleep(0.001)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills >= 4
    chosen = CrawlSource.model_validate(
        {"kind": "crawl", "contact": "me@example.org", "start": [f"{site.url}/"], "delay": 0.0}
        | {"private_addresses": True, "max_depth": 99}
    )
    runtime = Runtime(cache=tmp_path)
    records, faults = crawled(chosen, runtime)
    with serving(site.pages) as other:
        expected, _ = crawled(source(other, max_depth=99), Runtime(cache=tmp_path / "other"))
        assert paths(records, site) == paths(expected, other)
        assert len(set(paths(records, site))) == len(records) == count + 1
    assert not [fault for fault in faults.values() if "WARC" in fault.reason]


@pytest.mark.parametrize("cut", range(0, 400, 43))
def test_bytes_that_were_not_settled_are_cut_off(site: Site, runtime: Runtime, cut: int) -> None:
    """A kill between the page and its line, or within either: the page is fetched again and is there once."""
    site.pages = {"/": links("/a", "/b"), "/a": links(), "/b": links()}
    chosen = source(site)
    chosen.digests(runtime)
    folder = chosen.folder(runtime)
    (folder / "finished.json").unlink()
    (folder / "refused.jsonl").unlink()
    ledger = folder / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes()[: -cut or None])
    records, _ = crawled(chosen, runtime)
    assert paths(records, site) == ["/", "/a", "/b"]
