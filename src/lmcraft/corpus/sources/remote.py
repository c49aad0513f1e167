"""Files from elsewhere as a source: fetched once into the cache, then read like the files of a folder.

What was fetched stays: the same settings use the same files until `as_of` changes. `plan` fetches nothing. A source
of which every file is pinned by `sha256` is known without asking anyone.
"""

from __future__ import annotations

import errno
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal
from urllib.parse import unquote, urlsplit

from filelock import FileLock
from pydantic import Field, StringConstraints, field_validator

from lmcraft.corpus.documents import write_json
from lmcraft.corpus.readers.files import read_file
from lmcraft.corpus.readers.records import Item, Record
from lmcraft.corpus.sources.crawl_urls import normalise
from lmcraft.corpus.sources.downloads import Fetched, Remote, all_of, aside, content_path, copy, download, watched
from lmcraft.corpus.sources.file_options import FileOptions
from lmcraft.corpus.sources.planning import not_yet_fetched, only_planned
from lmcraft.corpus.sources.remote_stores import Bucket, hub_files, why
from lmcraft.corpus.sources.source import Listing, Part
from lmcraft.corpus.sources.web import Web, run_async
from lmcraft.corpus.sources.wheel_files import sha256_of
from lmcraft.recipe.stage import Runtime, Source, UserError

Digest = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


class RemoteSource(FileOptions):
    """Files of https://, s3://, gs:// and hf://datasets/ addresses."""

    kind: Literal["remote"]
    name: str | None = Field(None, description="Name of the source in documents; default: host, bucket or data set.")
    urls: list[str] = Field(
        min_length=1,
        description="Addresses of files; in s3://, gs:// and hf://datasets/ also `prefix/` and patterns with `*`.",
    )
    sha256: dict[str, Digest] = Field({}, description="Address of a file -> digest that it must have.")
    file_names: dict[str, str] = Field(
        {}, description="Address -> name of the file, where the address does not end in one (`?download=1`)."
    )
    as_of: str = Field("", description="Any text, such as a date; another one makes the files be fetched anew.")
    anonymous: bool = Field(False, description="Read s3:// and gs:// without credentials.")
    http: bool = Field(False, description="Allow http:// to other machines, which anyone on the way can change.")
    max_file_bytes: int = Field(20_000_000_000, ge=1, description="A larger file is refused.")
    timeout_s: float = Field(60.0, gt=0, description="Seconds without a byte after which an exchange is broken off.")
    retries: int = Field(5, ge=0, le=100, description="Further tries that bring nothing, with growing pauses.")
    concurrency: int = Field(4, ge=1, le=64, description="Most files fetched at the same time.")

    @field_validator("urls")
    @classmethod
    def _schemes(cls, urls: list[str]) -> list[str]:
        for url in urls:
            if not re.match(r"(https?|s3|gs)://[^/]+|hf://datasets/[^/]+/[^/]+", url):
                raise ValueError(f"{url!r} does not begin with https://, s3://, gs:// or hf://datasets/…/…")
            if url.startswith("http") and normalise(url) is None:
                raise ValueError(f"{url!r} is not an address that can be fetched (a host, no user name)")
        return urls

    @property
    def source_name(self) -> str:
        if self.name:
            return self.name
        parts = urlsplit(self.urls[0])
        return "/".join(parts.path.split("/")[1:3]).partition("@")[0] if parts.scheme == "hf" else parts.netloc

    def digests(self, runtime: Runtime) -> list[Source]:
        """Every file with its sha256. Fetches what is missing, unless the run is only planned."""
        if self._all_pinned():
            places = _places(self._plain_files())
            return [Source(f"{self.source_name}/{places[url]}", self.sha256[url]) for url in self.urls]
        fetched = self._known(runtime)
        if fetched is None:
            if only_planned(runtime):
                return [not_yet_fetched(f"remote:{self.source_name}")]
            fetched = self._fetch(runtime)
        for each in fetched:
            path = content_path(runtime.cache, each.sha256)
            if sha256_of(path) != each.sha256:
                path.unlink()
                raise UserError(f"{each.url} was damaged in the cache and is thrown away; run again to fetch it anew")
        return [Source(f"{self.source_name}/{each.place}", each.sha256, each.bytes) for each in fetched]

    def listing(self, runtime: Runtime) -> Listing:
        """One part a file, or several of a large one, fetched when the cache lacks it."""
        fetched = self._known(runtime) or self._fetch(runtime)
        paths = [(content_path(runtime.cache, each.sha256), each.place) for each in fetched]
        return Listing([part for path, place in paths for part in self.parts_of(path, place, runtime)])

    def read(self, part: Part, max_record_bytes: int, runtime: Runtime) -> Iterator[Item]:
        fetched = {each.place: each for each in self._known(runtime) or self._fetch(runtime)}
        path = part.path or content_path(runtime.cache, fetched[part.name].sha256)
        for item in read_file(path, part.name, self.reading(max_record_bytes, runtime, part.cut)):
            if isinstance(item, Record):
                item.url = item.url or fetched[part.name].url
                item.language = item.language or self.language
            yield item

    def _all_pinned(self) -> bool:
        return all(url.startswith("http") and url in self.sha256 for url in self.urls)

    def _plain_files(self) -> list[Remote]:
        plain = [url for url in self.urls if url.startswith("http")]
        return [Remote(self._file_name(url), url, sha256=self.sha256.get(url)) for url in plain]

    def _file_name(self, url: str) -> str:
        return self.file_names.get(url) or unquote(PurePosixPath(urlsplit(url).path).name) or "index.html"

    def _index(self, runtime: Runtime) -> Path:
        what = [self.urls, self.sha256, self.file_names, self.as_of, self.anonymous]
        return runtime.cache / "remote" / "index" / f"{sha256(json.dumps(what).encode()).hexdigest()[:32]}.json"

    def _known(self, runtime: Runtime) -> list[Fetched] | None:
        """What an earlier run fetched for these settings, if the cache still has all of it."""
        try:
            stored = json.loads(self._index(runtime).read_text(encoding="utf-8"))
            fetched = [Fetched(**each) for each in stored["files"]]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return fetched if all(content_path(runtime.cache, each.sha256).exists() for each in fetched) else None

    def _fetch(self, runtime: Runtime) -> list[Fetched]:
        index = self._index(runtime)
        index.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(index.with_suffix(".lock")):
            if (known := self._known(runtime)) is not None:  # by another run, while this one waited
                return known
            fetched = run_async(self._fetch_all(runtime))
            places = _places([Remote(each.place, each.url) for each in fetched])
            fetched = [Fetched(places[each.url], each.url, each.sha256, each.bytes) for each in fetched]
            write_json(index, {"files": [asdict(each) for each in fetched]})
            return fetched

    async def _fetch_all(self, runtime: Runtime) -> list[Fetched]:
        jobs = await self._jobs()
        sizes = [remote.size for remote, _ in jobs]
        total = sum(size for size in sizes if size) if all(size is not None for size in sizes) else None
        named = {urlsplit(remote.url).hostname for remote, _ in jobs}  # the user's own choice: they may be anywhere
        with runtime.progress.task(f"fetch {self.source_name}", total, "bytes") as task:
            async with Web("lmcraft", lambda host: host in named, self.concurrency) as web:

                async def one(remote: Remote, bucket: Bucket | None) -> Fetched:
                    if (there := _already(remote, runtime.cache)) is not None:
                        return there
                    if bucket is not None:
                        copying = partial(_from_store, bucket, remote, runtime.cache, self.max_file_bytes)
                        try:
                            return await watched(copying, task.advance, self.timeout_s)
                        except TimeoutError:
                            raise UserError(
                                f"{remote.url} could not be fetched: no byte in {self.timeout_s:g} s (`timeout_s`); "
                                "try again"
                            ) from None
                    return await download(
                        web,
                        remote,
                        runtime.cache,
                        max_bytes=self.max_file_bytes,
                        timeout_s=self.timeout_s,
                        retries=self.retries,
                        got=task.advance,
                    )

                return await all_of([partial(one, *job) for job in jobs], self.concurrency)

    async def _jobs(self) -> list[tuple[Remote, Bucket | None]]:
        """Every file that the addresses mean, each once."""
        jobs: list[tuple[Remote, Bucket | None]] = [(remote, None) for remote in self._plain_files()]
        for url in self.urls:
            if url.startswith("hf://"):
                jobs += [(self._pinned(each), None) for each in await aside(partial(hub_files, url))]
            elif not url.startswith("http"):
                bucket = Bucket(url, self.anonymous)
                jobs += [(self._pinned(each), bucket) for each in await aside(bucket.files)]
        for remote, _ in jobs:
            if remote.url.startswith("http://") and not self.http:
                host = urlsplit(remote.url).hostname or ""
                if host not in ("localhost", "127.0.0.1", "::1"):
                    raise UserError(f"{remote.url} is not encrypted; use https://, or allow it with `http: true`")
        return list({remote.url: (remote, found) for remote, found in jobs}.values())

    def _pinned(self, remote: Remote) -> Remote:
        digest = self.sha256.get(remote.url) or remote.sha256
        return Remote(remote.place, remote.url, remote.size, remote.version, digest, remote.headers)


def _already(remote: Remote, cache: Path) -> Fetched | None:
    """A file whose digest is known beforehand and that the cache holds under it."""
    if remote.sha256 is None:
        return None
    path = content_path(cache, remote.sha256)
    if not path.exists() or sha256_of(path) != remote.sha256:
        return None
    return Fetched(remote.place, remote.url, remote.sha256, path.stat().st_size)


def _from_store(bucket: Bucket, remote: Remote, cache: Path, limit: int, got: Callable[[int], None]) -> Fetched:
    try:
        return copy(partial(bucket.open, remote), remote, cache, max_bytes=limit, got=got)
    except OSError as error:
        if error.filename is not None or error.errno == errno.ENOSPC:  # this machine's disk, not the store
            raise
        raise UserError(f"{remote.url} could not be fetched: {why(error)}") from None


def _places(files: list[Remote]) -> dict[str, str]:
    """Address -> place; files of the same name get the path of their address before it."""
    count = Counter(each.place for each in files)
    places = {}
    for each in files:
        parts = urlsplit(each.url)
        folder = (parts.netloc + PurePosixPath(parts.path).parent.as_posix()).rstrip("/")
        places[each.url] = each.place if count[each.place] == 1 else f"{folder}/{PurePosixPath(each.place).name}"
    return places
