"""What was fetched is what the digests say, whatever the network does meanwhile; nothing is fetched twice."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loopback import Handler, Site, hang, serving
from pydantic import ValidationError
from stores import gcs, s3

from lmcraft.corpus.readers.records import Item, Record
from lmcraft.corpus.sources.remote import RemoteSource
from lmcraft.corpus.sources.web import Web, WebFault, is_public, run_async
from lmcraft.recipe.stage import Runtime, UserError

LINES = b"".join(json.dumps({"text": f"line {number}"}).encode() + b"\n" for number in range(3))


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as running:
        yield running


def source(*urls: str, **settings: Any) -> RemoteSource:
    return RemoteSource.model_validate({"kind": "remote", "urls": list(urls), "retries": 0} | settings)


def read(source: RemoteSource, runtime: Runtime) -> list[Item]:
    return [item for part in source.listing(runtime).parts for item in source.read(part, 10**6, runtime)]


def texts(items: list[Item]) -> list[str]:
    return [item.text for item in items if isinstance(item, Record)]


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_files_are_fetched_once_and_read_by_their_ending(site: Site, runtime: Runtime) -> None:
    packed = gzip.compress(LINES)
    site.pages = {"/a.jsonl.gz": packed, "/dir/b.txt": b"plain text", "/get?id=1": b"asked for"}
    urls = [f"{site.url}{path}" for path in site.pages]
    chosen = source(*urls, file_names={urls[2]: "c.md"}, name="mine")
    assert [(each.name, each.sha256, each.bytes) for each in chosen.digests(runtime)] == [
        ("mine/a.jsonl.gz", digest(packed), len(packed)),
        ("mine/b.txt", digest(b"plain text"), 10),
        ("mine/c.md", digest(b"asked for"), 9),
    ]
    items = read(chosen, runtime)
    assert texts(items) == ["line 0", "line 1", "line 2", "plain text", "asked for"]
    assert isinstance(items[3], Record)
    assert (items[3].place, items[3].url) == ("b.txt", urls[1])
    chosen.digests(runtime)
    assert len(site.asked) == 3


def test_files_of_the_same_name_are_told_apart(site: Site, runtime: Runtime) -> None:
    site.pages = {"/x/a.txt": b"one", "/y/a.txt": b"two"}
    items = read(source(f"{site.url}/x/a.txt", f"{site.url}/y/a.txt"), runtime)
    host = site.url.removeprefix("http://")
    assert [item.place for item in items] == [f"{host}/x/a.txt", f"{host}/y/a.txt"]


def test_a_broken_download_goes_on_where_it_stopped(site: Site, runtime: Runtime) -> None:
    content = bytes(range(256)) * 4000

    def breaking(handler: Handler) -> None:
        asked = handler.headers.get("Range")
        first = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if asked:
            assert handler.headers["If-Range"] == '"v1"'
        handler.send_response(206 if asked else 200)
        handler.send_header("ETag", '"v1"')
        handler.send_header("Content-Length", str(len(content) - first))
        if asked:
            handler.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        handler.end_headers()
        handler.wfile.write(content[first : first + 300_000])
        handler.close_connection = True

    site.pages = {"/big.bin": breaking}
    (found,) = source(f"{site.url}/big.bin", retries=1).digests(runtime)
    assert (found.sha256, found.bytes) == (digest(content), len(content))
    ranges = [each.headers.get("range") for each in site.asked]
    assert ranges == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]


def test_a_file_that_changes_meanwhile_is_fetched_from_its_beginning(site: Site, runtime: Runtime) -> None:
    def changing(handler: Handler) -> None:
        first = len(handler.site.asked) == 1
        content = b"old " * 1000 if first else b"new " * 1000
        handler.send_response(200)
        handler.send_header("ETag", '"1"' if first else '"2"')
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[:1500] if first else content)
        handler.close_connection = first

    site.pages = {"/a.txt": changing}
    (found,) = source(f"{site.url}/a.txt", retries=2).digests(runtime)
    assert found.sha256 == digest(b"new " * 1000)


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ((404, {}, b""), "HTTP status 404"),
        ((302, {"Location": "/a.txt"}, b""), "too many redirects"),
        ((302, {"Location": "file:///etc/passwd"}, b""), "redirected to an address that is not fetched"),
        (hang, "timed out"),
        (b"x" * 2000, "more than max_file_bytes|too large"),
        ((200, {"Content-Encoding": "br"}, b"x"), "unknown content encoding"),
    ],
)
def test_what_cannot_be_fetched_is_a_sentence(site: Site, runtime: Runtime, page: Any, message: str) -> None:
    site.pages = {"/a.txt": page}
    with pytest.raises(UserError, match=message):
        source(f"{site.url}/a.txt", timeout_s=0.5, max_file_bytes=1000).digests(runtime)
    assert not list(runtime.cache.rglob("content/*"))


def test_a_pinned_file_is_known_without_asking_and_checked_when_fetched(site: Site, runtime: Runtime) -> None:
    url = f"{site.url}/a.txt"
    site.pages = {"/a.txt": b"as it was"}
    pinned = source(url, sha256={url: digest(b"as it was")})
    assert [each.sha256 for each in pinned.digests(runtime)] == [digest(b"as it was")]
    assert site.asked == []
    site.pages["/a.txt"] = b"changed"
    with pytest.raises(UserError, match=rf"{digest(b'changed')}.*{digest(b'as it was')}"):
        read(pinned, runtime)
    site.pages["/a.txt"] = b"as it was"
    assert texts(read(pinned, runtime)) == ["as it was"]
    other = source(url, sha256={url: digest(b"as it was")}, as_of="later")
    asked = len(site.asked)
    assert texts(read(other, runtime)) == ["as it was"]
    assert len(site.asked) == asked


def test_a_change_is_seen_only_when_it_is_asked_for(site: Site, runtime: Runtime) -> None:
    site.pages = {"/a.txt": b"before"}
    before = source(f"{site.url}/a.txt").digests(runtime)
    site.pages["/a.txt"] = b"after"
    assert source(f"{site.url}/a.txt").digests(runtime) == before
    assert source(f"{site.url}/a.txt", as_of="2").digests(runtime)[0].sha256 == digest(b"after")


def test_a_plan_fetches_nothing(site: Site, runtime: Runtime) -> None:
    runtime.planning = True
    (planned,) = source(f"{site.url}/a.txt").digests(runtime)
    assert "not fetched yet" in planned.name
    assert site.asked == []


def test_a_damaged_cache_is_noticed_and_mended(site: Site, runtime: Runtime) -> None:
    site.pages = {"/a.txt": b"whole"}
    chosen = source(f"{site.url}/a.txt")
    chosen.digests(runtime)
    (content,) = runtime.cache.rglob("content/*")
    content.write_bytes(b"broken")
    with pytest.raises(UserError, match="damaged in the cache"):
        chosen.digests(runtime)
    assert texts(read(chosen, runtime)) == ["whole"]


@pytest.mark.parametrize("url", ["ftp://x/y", "/etc/passwd", "https://me:pw@example.org/x", "hf://models/x", "s3:///x"])
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        source(url)


def test_unencrypted_addresses_need_leave(runtime: Runtime) -> None:
    with pytest.raises(UserError, match="not encrypted"):
        source("http://example.invalid/a.txt").digests(runtime)


def test_a_redirect_does_not_lead_into_the_own_network() -> None:
    with serving() as inside, serving() as outside:
        inside.pages = {"/secret": b"token"}
        other = inside.url.replace("127.0.0.1", "localhost")
        outside.pages = {"/a": (302, {"Location": f"{other}/secret"}, b"")}

        async def fetch() -> None:
            async with Web("test", lambda host: host == "127.0.0.1") as web:
                await web.get(f"{outside.url}/a", timeout_s=5, max_bytes=100)
                await web.get(f"{other}/secret", timeout_s=5, max_bytes=100)

        with pytest.raises(WebFault, match="private address"):
            run_async(fetch())
        assert inside.asked == []


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("::ffff:127.0.0.1", False),
        ("64:ff9b::a00:1", False),
        ("2002:7f00:1::", False),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
    ],
)
def test_addresses_that_are_not_of_the_internet(address: str, public: bool) -> None:
    assert is_public(address) == public


OBJECTS = {
    "books/a.jsonl": LINES,
    "books/b c.txt": b"text of b",
    "books/deep/d.txt": b"text of d",
    "other.txt": b"other",
    "books/big.txt": b"0123456789" * 700_000,
}


@pytest.fixture(params=["s3", "gs"])
def bucket(request: pytest.FixtureRequest, site: Site, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket `texts` on loopback; the value is its scheme."""
    if request.param == "s3":
        site.fallback = s3("texts", OBJECTS)
        for name, value in {"AWS_ENDPOINT_URL": site.url, "AWS_REGION": "us-east-1"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    else:
        site.fallback = gcs("texts", OBJECTS)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", site.url)
    return str(request.param)


@pytest.mark.parametrize(
    ("path", "places"),
    [
        ("texts/books/a.jsonl", ["books/a.jsonl"]),
        ("texts/books/*.txt", ["books/b c.txt", "books/big.txt"]),
        ("texts/books/b*", ["books/b c.txt", "books/big.txt"]),
        ("texts/books/", ["books/a.jsonl", "books/b c.txt", "books/big.txt", "books/deep/d.txt"]),
        ("texts/**/*.txt", ["books/b c.txt", "books/big.txt", "books/deep/d.txt", "other.txt"]),
    ],
)
def test_objects_of_a_bucket(bucket: str, runtime: Runtime, path: str, places: list[str]) -> None:
    chosen = source(f"{bucket}://{path}", name="mine")
    assert [(each.name, each.sha256) for each in chosen.digests(runtime)] == [
        (f"mine/{place}", digest(OBJECTS[place])) for place in places
    ]
    items = read(chosen, runtime)
    assert {item.place.partition(":")[0] for item in items} == set(places)


@pytest.mark.parametrize("path", ["texts/none*", "texts/none.txt"])
def test_objects_that_are_not_there(bucket: str, runtime: Runtime, path: str) -> None:
    with pytest.raises(UserError, match=r"no file"):
        source(f"{bucket}://{path}").digests(runtime)


COMMIT = "c0ffee" * 6 + "c0ff"


def test_a_data_set_of_the_hub_at_the_commit_of_its_revision(
    site: Site, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_ENDPOINT", site.url)
    monkeypatch.setenv("HF_TOKEN", "secret")
    siblings = [
        {"rfilename": "README.md", "size": 3},
        {
            "rfilename": "data/train.jsonl",
            "size": len(LINES),
            "lfs": {"sha256": digest(LINES), "size": len(LINES), "pointerSize": 130},
        },
    ]
    facts = json.dumps({"id": "org/name", "sha": COMMIT, "siblings": siblings}).encode()
    with serving() as storage:
        storage.pages = {"/blob": LINES}
        elsewhere = storage.url.replace("127.0.0.1", "localhost")

        def api(handler: Handler) -> None:
            if handler.path.startswith("/api/datasets/org/name"):
                handler.answer(200, {"Content-Type": "application/json"}, facts)
            elif handler.path == f"/datasets/org/name/resolve/{COMMIT}/data/train.jsonl":
                handler.answer(302, {"Location": f"{storage.url}/blob"}, b"")
            else:
                handler.answer(404, {}, b"")

        site.fallback = api
        chosen = source("hf://datasets/org/name@main/data/*.jsonl")
        assert chosen.source_name == "org/name"
        assert [(each.name, each.sha256) for each in chosen.digests(runtime)] == [
            ("org/name/data/train.jsonl", digest(LINES))
        ]
        items = read(chosen, runtime)
        assert texts(items) == ["line 0", "line 1", "line 2"]
        assert isinstance(items[0], Record)
        assert items[0].url == f"{site.url}/datasets/org/name/resolve/{COMMIT}/data/train.jsonl"
        assert site.asked[-1].headers["authorization"] == "Bearer secret"
        assert "authorization" not in storage.asked[0].headers
        assert elsewhere
        with pytest.raises(UserError, match="no file of org/name"):
            source("hf://datasets/org/name/*.csv").digests(runtime)


def test_nothing_is_left_of_a_download_but_its_content(site: Site, runtime: Runtime) -> None:
    site.pages = {"/a.txt": b"content"}
    source(f"{site.url}/a.txt").digests(runtime)
    left = [path.relative_to(runtime.cache / "remote").parts[0] for path in runtime.cache.rglob("*") if path.is_file()]
    assert sorted(name for name in left if name != "index") == ["content"]
    assert Path(runtime.cache).exists()
