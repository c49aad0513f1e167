"""Which files an address of a store means: s3://, gs:// and hf://datasets/, each with patterns.

Endpoints other than the clouds' own are taken from the environment: `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL`,
`STORAGE_EMULATOR_HOST`, `HF_ENDPOINT`. Credentials are those of each cloud's own tools; recipes hold none.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import IO, Any
from urllib.parse import urlsplit

from lmcraft.corpus.sources.downloads import Remote
from lmcraft.corpus.sources.folder_listing import glob_regex
from lmcraft.recipe.stage import UserError


@dataclass(frozen=True)
class Bucket:
    """Files of an S3 or Google Cloud Storage bucket, by pyarrow."""

    url: str
    anonymous: bool = False

    def files(self) -> list[Remote]:
        """What the address means, sorted: one object, all under `prefix/`, or what a pattern with `*` matches."""
        import pyarrow as pa
        from pyarrow import fs

        scheme, _, path = self.url.partition("://")
        bucket, _, rest = path.partition("/")
        if not bucket or any(mark in bucket for mark in "*?"):
            raise UserError(f"{self.url!r} names no bucket; write {scheme}://bucket/path")
        system = self.system()
        try:
            if not re.search(r"[*?]", rest) and not rest.endswith("/") and rest:
                found = [system.get_file_info(path)]
                if found[0].type != fs.FileType.File:
                    raise UserError(f"there is no file {self.url!r}; end a prefix with / or *")
            else:
                pattern = rest + "**/*" if not rest or rest.endswith("/") else rest
                base = re.split(r"[*?]", pattern, maxsplit=1)[0].rpartition("/")[0]
                deep = "/" in pattern[len(base) + 1 :] or "**" in pattern
                selector = fs.FileSelector(f"{bucket}/{base}".rstrip("/"), allow_not_found=True, recursive=deep)
                matches = re.compile(glob_regex(pattern)).fullmatch
                found = [
                    info
                    for info in system.get_file_info(selector)
                    if info.type == fs.FileType.File and matches(info.path.partition("/")[2])
                ]
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"{self.url!r} cannot be listed: {why(error)}") from None
        if not found:
            raise UserError(f"no file matches {self.url!r}")
        found.sort(key=lambda info: info.path)
        return [self._remote(scheme, info) for info in found]

    @staticmethod
    def _remote(scheme: str, info: Any) -> Remote:
        version = f"{info.size} {info.mtime_ns}"
        return Remote(info.path.partition("/")[2], f"{scheme}://{info.path}", info.size, version)

    def system(self) -> Any:
        from pyarrow import fs

        if self.url.startswith("s3://"):
            endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
            options: dict[str, Any] = {"connect_timeout": 10, "request_timeout": 60, "anonymous": self.anonymous}
            if endpoint:
                parts = urlsplit(endpoint)
                options |= {"endpoint_override": parts.netloc + parts.path.rstrip("/"), "scheme": parts.scheme}
            if region := os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
                options["region"] = region
            return fs.S3FileSystem(**options)
        options = {"anonymous": self.anonymous, "retry_time_limit": timedelta(seconds=60)}
        if emulator := os.environ.get("STORAGE_EMULATOR_HOST"):
            parts = urlsplit(emulator if "://" in emulator else f"http://{emulator}")
            options |= {"endpoint_override": parts.netloc, "scheme": parts.scheme, "anonymous": True}
        return fs.GcsFileSystem(**options)

    def open(self, remote: Remote, offset: int) -> IO[bytes]:
        """The object's bytes from `offset` on. Raises OSError."""
        import pyarrow as pa

        system, path = self.system(), remote.url.partition("://")[2]
        try:
            stream: IO[bytes] = system.open_input_stream(path, compression=None)
        except pa.ArrowInvalid as error:
            raise OSError(str(error)) from None
        if offset == 0:
            return stream
        # The file that can seek asks Google for its bytes only when it is first used, holds Python's lock meanwhile,
        # and calls itself closed when it is refused. So what can go wrong goes wrong in the stream before it.
        stream.close()
        file: IO[bytes] = system.open_input_file(path)
        try:
            file.seek(offset)
        except ValueError:
            raise OSError("the store broke off while the file was opened") from None
        return file


def why(error: Exception) -> str:
    """What a store's library says of a failure, in words for the user."""
    said = str(error)
    if "OAuth2 access token" in said:
        return (
            "no credentials of Google Cloud work; give them (docs/sources.md), or set `anonymous: true` if it is public"
        )
    if isinstance(error, PermissionError) or "ACCESS_DENIED" in said:
        return "access is denied; check the credentials (docs/sources.md), or set `anonymous: true` if it is public"
    if isinstance(error, FileNotFoundError):
        return "it is not there any more"
    if google := re.search(r"Status\((\w+): (?:[^{]*?last message of )?(.*?)(?: error_info=|$)", said, re.DOTALL):
        return f"{google[1]} ({google[2].splitlines()[0][:200]})"
    return _first_line(error)


def hub_files(url: str) -> list[Remote]:
    """Files of a data set of the Hugging Face hub: `hf://datasets/org/name[@revision]/path*`.

    The revision is resolved to a commit, which is in the addresses that are handed back.
    """
    try:
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError:
        raise UserError("hf:// needs the package huggingface_hub; install it with pip") from None
    match = re.fullmatch(r"hf://datasets/([\w.-]+/[\w.-]+|[\w.-]+)(?:@([\w.%/-]+?))?(?:/(.*))?", url)
    if "@" not in url:
        match = re.fullmatch(r"hf://datasets/([\w.-]+/[\w.-]+)()(?:/(.*))?", url)
    if match is None:
        raise UserError(f"{url!r} is not of the form hf://datasets/organisation/name[@revision]/path")
    name, revision, pattern = match[1], (match[2] or "").replace("%2F", "/") or None, match[3] or ""
    if not pattern or pattern.endswith("/"):
        pattern += "**/*"
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    token = huggingface_hub.get_token()
    try:
        info = huggingface_hub.HfApi(endpoint=endpoint, token=token).dataset_info(
            name, revision=revision, files_metadata=True, timeout=60
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise UserError(f"{url!r} cannot be looked up: {_first_line(error)}") from None
    except Exception as error:  # its HTTP library's, whichever that is
        if type(error).__module__.partition(".")[0] not in ("httpx", "httpcore", "requests", "httpx2"):
            raise
        raise UserError(f"{url!r} cannot be looked up: {_first_line(error)}") from None
    matches = re.compile(glob_regex(pattern)).fullmatch
    headers = (("authorization", f"Bearer {token}"),) if token else ()
    found = [
        Remote(
            each.rfilename,
            huggingface_hub.hf_hub_url(name, each.rfilename, repo_type="dataset", revision=info.sha, endpoint=endpoint),
            each.size,
            sha256=_lfs_digest(each.lfs),
            headers=headers,
        )
        for each in sorted(info.siblings or [], key=lambda each: each.rfilename)
        if matches(each.rfilename)
    ]
    if not found:
        raise UserError(f"no file of {name} at {info.sha} matches {pattern!r}")
    return found


def _lfs_digest(lfs: Any) -> str | None:
    if lfs is None:
        return None
    digest = lfs.get("sha256") if isinstance(lfs, dict) else getattr(lfs, "sha256", None)
    return str(digest) if digest else None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
