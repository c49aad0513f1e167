"""Files from elsewhere into the cache, under the digest of what they hold; a download that breaks off goes on later."""

from __future__ import annotations

import asyncio
import concurrent.futures
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import urlsplit

from lmcraft.corpus.sources.crawl_urls import normalise
from lmcraft.corpus.sources.web import Web, WebFault, joined
from lmcraft.recipe.stage import UserError

T = TypeVar("T")

MAX_REDIRECTS = 10
"""Hubs and mirrors redirect to where the bytes are, some more than once."""


@dataclass(frozen=True)
class Remote:
    """A file to fetch. `place` is what documents call it; `version` changes when the file does (etag, size, time).

    `headers` are sent to the host of `url` only, not to where it redirects.
    """

    place: str
    url: str
    size: int | None = None
    version: str | None = None
    sha256: str | None = None
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Fetched:
    """A file of the cache, and where it came from."""

    place: str
    url: str
    sha256: str
    bytes: int


def content_path(cache: Path, sha256: str) -> Path:
    """Where the cache keeps a content."""
    return cache / "remote" / "content" / sha256


class Partial:
    """The beginning of a file, kept with what tells whether the file is still the same one."""

    def __init__(self, cache: Path, remote: Remote) -> None:
        name = hashlib.sha256(remote.url.encode()).hexdigest()[:32]
        self.cache = cache
        self.path = cache / "remote" / "partial" / name
        self.note = self.path.with_suffix(".json")
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def start(self, version: str | None) -> int:
        """How many bytes are there already of this version; what is of another is thrown away."""
        try:
            known = json.loads(self.note.read_text(encoding="utf-8"))["version"]
        except (OSError, ValueError, KeyError):
            known = None
        if version is None or known != version or not self.path.exists():
            self.path.unlink(missing_ok=True)
            self.note.write_text(json.dumps({"version": version}), encoding="utf-8")
            return 0
        return self.path.stat().st_size

    def version(self) -> str | None:
        """The version of what is there."""
        try:
            return json.loads(self.note.read_text(encoding="utf-8"))["version"] if self.path.exists() else None
        except (OSError, ValueError, KeyError):
            return None

    def keep(self, remote: Remote) -> Fetched:
        """The whole file, moved to its place. Raises UserError when it has another digest than the recipe says."""
        with self.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        size = self.path.stat().st_size
        if remote.sha256 is not None and digest != remote.sha256:
            self.discard()
            raise UserError(
                f"{remote.url} has sha256 {digest} but the recipe says {remote.sha256}; if you trust the new file, "
                "write its digest into the recipe"
            )
        target = content_path(self.cache, digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        self.path.replace(target)
        self.note.unlink(missing_ok=True)
        return Fetched(remote.place, remote.url, digest, size)

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


async def download(
    web: Web,
    remote: Remote,
    cache: Path,
    *,
    max_bytes: int,
    timeout_s: float,
    retries: int,
    got: Callable[[int], None] = lambda count: None,
) -> Fetched:
    """Fetch a file over HTTP. Raises UserError when that cannot be done.

    `timeout_s` without a byte breaks an exchange off; the next try asks only for what is missing, if the server says
    (by a strong etag or a time of change) that the file is still the same. Tries that brought bytes do not count.
    """
    partial = Partial(cache, remote)
    failures = 0
    while True:
        before = partial.path.stat().st_size if partial.path.exists() else 0
        try:
            await _once(web, remote, partial, max_bytes, timeout_s, got)
            return partial.keep(remote)
        except WebFault as error:
            after = partial.path.stat().st_size if partial.path.exists() else 0
            failures = 1 if after > before else failures + 1
            if not error.again or failures > retries:
                raise UserError(f"{remote.url} could not be fetched: {error}; correct `urls`, or try again") from None
            await asyncio.sleep(min(60.0, 0.5 * 2**failures))


async def _once(
    web: Web, remote: Remote, partial: Partial, max_bytes: int, timeout_s: float, got: Callable[[int], None]
) -> None:
    url = remote.url
    for _ in range(MAX_REDIRECTS + 1):
        version = partial.version()
        have = partial.path.stat().st_size if version is not None else 0
        own = urlsplit(url).netloc == urlsplit(remote.url).netloc
        headers = [("accept-encoding", "identity"), *(remote.headers if own else ())]
        if have:
            headers += [("range", f"bytes={have}-"), ("if-range", version or "")]
        async with web.open(url, timeout_s=timeout_s, headers=headers) as (status, reason, received, chunks, _address):
            if status in (301, 302, 303, 307, 308):
                target = normalise(joined(received, "location") or "", url)
                if target is None or (urlsplit(url).scheme, urlsplit(target).scheme) == ("https", "http"):
                    raise WebFault("redirected to an address that is not fetched", str(joined(received, "location")))
                url = target
                continue
            if status == 416 and have:  # the file has become shorter than what is there
                partial.discard()
                raise WebFault("the file changed", "while it was fetched", again=True)
            if status not in (200, 206):
                again = status in (408, 425, 429, 500, 502, 503, 504)
                raise WebFault(f"HTTP status {status}", reason, float(status), again=again)
            await _store(remote, partial, status, received, chunks, max_bytes, got)
            return
    raise WebFault("too many redirects", f"from {remote.url}", float(MAX_REDIRECTS + 1), float(MAX_REDIRECTS))


async def _store(
    remote: Remote,
    partial: Partial,
    status: int,
    received: tuple[tuple[str, str], ...],
    chunks: AsyncIterator[bytes],
    max_bytes: int,
    got: Callable[[int], None],
) -> None:
    encoding = (joined(received, "content-encoding") or "identity").lower()
    if encoding != "identity" and not remote.place.lower().endswith((".gz", ".tgz", ".zst")):
        raise WebFault("unknown content encoding", f"{encoding}, though none was asked for")
    version = _strong_validator(received)
    have = 0
    whole: int | None = None
    if status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", (joined(received, "content-range") or "").strip())
        have = partial.start(version)
        if match is None or int(match[1]) != have:
            partial.discard()
            raise WebFault("the file changed", "while it was fetched", again=True)
        whole = int(match[2]) if match[2] != "*" else None
    else:
        partial.discard()
        partial.start(version)
        declared = joined(received, "content-length") or ""
        whole = int(declared) if declared.isdigit() else None
    if whole is not None and whole > max_bytes:
        raise WebFault("too large", f"{whole} bytes; max_file_bytes is {max_bytes}", float(whole), float(max_bytes))
    with partial.path.open("ab") as file:
        async for chunk in chunks:
            have += len(chunk)
            if have > max_bytes:
                raise WebFault("too large", f"more than max_file_bytes, {max_bytes}", float(have), float(max_bytes))
            file.write(chunk)
            got(len(chunk))
    if whole is not None and have != whole:
        raise WebFault("connection broken", f"{have} of {whole} bytes came", again=True)


def copy(
    open_file: Callable[[int], IO[bytes]],
    remote: Remote,
    cache: Path,
    *,
    max_bytes: int,
    got: Callable[[int], None] = lambda count: None,
) -> Fetched:
    """Fetch a file that a store opens at an offset; goes on with one of the same version. Raises OSError, UserError."""
    if remote.size is not None and remote.size > max_bytes:
        raise UserError(f"{remote.url} has {remote.size} bytes, more than max_file_bytes, {max_bytes}")
    partial = Partial(cache, remote)
    have = partial.start(remote.version)
    with open_file(have) as source, partial.path.open("ab") as target:
        piece = b"\0"
        while piece:
            piece = source.read(1 << 20)
            got(len(piece))  # before anything is done with it: it raises when this copy was given up
            target.write(piece)
    if remote.size is not None and partial.path.stat().st_size != remote.size:
        size = partial.path.stat().st_size
        partial.discard()
        raise UserError(f"{remote.url} gave {size} of {remote.size} bytes; it changed while it was read, try again")
    return partial.keep(remote)


async def watched(work: Callable[[Callable[[int], None]], T], got: Callable[[int], None], timeout_s: float) -> T:
    """`work(got)` in a thread of its own. Raises TimeoutError when it reports no byte for `timeout_s`.

    The libraries of stores wait for minutes and cannot be interrupted, so the thread is then left behind; the next
    byte that it reports ends it.
    """
    last = time.monotonic()
    given_up = False

    def alive(count: int) -> None:
        nonlocal last
        if given_up:
            raise TimeoutError
        last = time.monotonic()
        got(count)

    running = asyncio.ensure_future(aside(lambda: work(alive)))
    try:
        while (left := last + timeout_s - time.monotonic()) > 0:
            done, _ = await asyncio.wait([running], timeout=left)
            if done:
                return running.result()
        raise TimeoutError
    finally:
        given_up = True
        running.cancel()


async def aside(work: Callable[[], T]) -> T:
    """The result of a call that blocks. Unlike a thread of asyncio's, this one does not hold up who no longer waits."""
    result: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        result.set_running_or_notify_cancel()
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return await asyncio.wrap_future(result)


async def all_of(tasks: list[Callable[[], Awaitable[Fetched]]], at_once: int) -> list[Any]:
    """Run downloads side by side, results in order; the first failure ends the others."""
    slots = asyncio.Semaphore(at_once)

    async def one(task: Callable[[], Awaitable[Fetched]]) -> Fetched:
        async with slots:
            return await task()

    running = [asyncio.ensure_future(one(task)) for task in tasks]
    try:
        return list(await asyncio.gather(*running))
    except BaseException:
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        raise


def _strong_validator(headers: tuple[tuple[str, str], ...]) -> str | None:
    """RFC 9110, 13.1.5: a range may be added to earlier bytes only by a strong etag, or a date that is exact."""
    etag = joined(headers, "etag")
    if etag is not None and not etag.startswith("W/"):
        return etag
    return joined(headers, "last-modified") if etag is None else None
