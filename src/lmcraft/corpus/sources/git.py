"""The files of a Git repository at one commit as a source."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

from filelock import FileLock
from pydantic import Field, field_validator

from lmcraft.corpus.documents import write_json
from lmcraft.corpus.readers.records import Fault, Item, Reading
from lmcraft.corpus.sources import git_objects
from lmcraft.corpus.sources.code_files import CodeFiles
from lmcraft.corpus.sources.code_licences import Licences
from lmcraft.corpus.sources.code_options import CodeOptions
from lmcraft.corpus.sources.folder_listing import glob_regex
from lmcraft.corpus.sources.planning import not_yet_fetched, only_planned
from lmcraft.corpus.sources.source import Listing, Part
from lmcraft.recipe.stage import LOCATION, Runtime, Source, UserError

FILES_A_PART = 2000

_FORGES = {
    "github.com": "/blob/{commit}/",
    "gitlab.com": "/-/blob/{commit}/",
    "codeberg.org": "/src/commit/{commit}/",
    "bitbucket.org": "/src/{commit}/",
    "git.sr.ht": "/tree/{commit}/item/",
}
"""Forges by host, and how the page of a file at a commit is called there."""


class GitSource(CodeOptions):
    """Code and prose of a Git repository at one commit, with the licence of each file."""

    kind: Literal["git"]
    name: str | None = Field(None, description="Name of the source in documents; default: the repository's.")
    repository: str = Field(
        json_schema_extra=LOCATION, description="A local clone or a URL (https://, file://); fetched without history."
    )
    revision: str = Field("HEAD", description="Branch, tag or commit; a full commit pins the source.")
    as_of: str = Field("", description="Any text, such as a date; another one makes a branch be looked up anew.")

    @field_validator("repository")
    @classmethod
    def _can_be_read(cls, repository: str) -> str:
        if "://" not in repository:
            if repository.startswith("-") or re.match(r"[\w.-]+@[\w.-]+:", repository):
                raise ValueError(f"{repository!r} is neither a folder nor a URL of https:// or file://")
            return repository
        parts = urlsplit(repository)
        if parts.scheme not in ("https", "file") and not (parts.scheme == "http" and parts.hostname == "127.0.0.1"):
            raise ValueError(f"a repository is read over https:// or file://, not {parts.scheme}://")
        if parts.username or parts.password:
            raise ValueError("take the user name out of `repository`: recipes are kept with what they make")
        return repository

    @property
    def source_name(self) -> str:
        path = urlsplit(self.repository).path if "://" in self.repository else self.repository
        last = (Path(path).expanduser().resolve() if "://" not in self.repository else Path(path)).name
        return self.name or last.removesuffix(".git") or "git"

    def digests(self, runtime: Runtime) -> list[Source]:
        """The commit, whose name is a digest of all its files."""
        if self._is_remote() and only_planned(runtime) and self._known(runtime) is None:
            return [not_yet_fetched(f"git:{self.source_name}")]
        commit = self._commit(runtime)
        return [Source(f"git:{self.source_name}@{commit}", sha256(f"git commit {commit}".encode()).hexdigest())]

    def listing(self, runtime: Runtime) -> Listing:
        """The tree in pieces of `FILES_A_PART` files."""
        repository, commit = self._fetched(runtime)
        entries = self._entries(repository, commit)
        if not entries:
            raise UserError(f"no file of {self.repository!r} at {commit[:12]} matches {self.pattern!r}")
        parts = []
        for start in range(0, len(entries), FILES_A_PART):
            piece = entries[start : start + FILES_A_PART]
            parts.append(Part(f"{start // FILES_A_PART:05d}", sum(entry.size for entry in piece)))
        return Listing(parts)

    def read(self, part: Part, max_record_bytes: int, runtime: Runtime) -> Iterator[Item]:
        repository, commit = self._fetched(runtime)
        everything = git_objects.tree(repository, commit)
        start = int(part.name) * FILES_A_PART
        with git_objects.blobs(repository) as blobs:
            objects = {entry.path: entry.object for entry in everything if entry.mode.startswith("100")}
            files = CodeFiles(
                Licences(list(objects), lambda path: blobs.read(objects[path])),
                max_file_bytes=min(self.max_file_bytes, max_record_bytes),
                generated=self.generated,
                vendored=self.vendored,
                prose=self.prose,
                url=web_address(self.repository, commit),
                collected_at=git_objects.commit_time(repository, commit),
                reading=Reading(max_record_bytes=max_record_bytes, note=runtime.progress.note),
            )
            for entry in self._entries(repository, commit)[start : start + FILES_A_PART]:
                if entry.mode == "160000":
                    yield Fault(entry.path, "submodule not followed", detail=f"at commit {entry.object[:12]}")
                elif entry.mode == "120000":
                    yield Fault(entry.path, "link not followed", entry.size)
                elif fault := files.refused(entry.path, entry.size):
                    yield fault
                else:
                    yield files.document(entry.path, blobs.read(entry.object))

    def _entries(self, repository: Path, commit: str) -> list[git_objects.Entry]:
        matches = re.compile(glob_regex(self.pattern)).fullmatch
        return [entry for entry in git_objects.tree(repository, commit) if matches(entry.path)]

    def _is_remote(self) -> bool:
        return "://" in self.repository

    def _commit(self, runtime: Runtime) -> str:
        if not self._is_remote():
            return git_objects.resolve(Path(self.repository).expanduser(), self.revision)
        if (known := self._known(runtime)) is not None:
            return known
        commit = git_objects.resolve_remote(self.repository, self.revision)
        note = self._note(runtime)
        note.parent.mkdir(parents=True, exist_ok=True)
        write_json(note, {"repository": self.repository, "revision": self.revision, "commit": commit})
        return commit

    def _known(self, runtime: Runtime) -> str | None:
        """The commit as far as it is known without asking anyone: pinned, or looked up before."""
        if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", self.revision):
            return self.revision
        try:
            return str(json.loads(self._note(runtime).read_text(encoding="utf-8"))["commit"])
        except (OSError, ValueError, KeyError):
            return None

    def _note(self, runtime: Runtime) -> Path:
        key = sha256("\0".join((self.repository, self.revision, self.as_of)).encode()).hexdigest()
        return runtime.cache / "git" / f"{key[:32]}.json"

    def _fetched(self, runtime: Runtime) -> tuple[Path, str]:
        commit = self._commit(runtime)
        if not self._is_remote():
            return Path(self.repository).expanduser(), commit
        key = sha256(self.repository.encode()).hexdigest()[:16]
        folder = runtime.cache / "git" / f"{key}-{commit}.git"
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not folder.exists():
                runtime.progress.note(f"  fetching {self.repository} at {commit[:12]}")
            git_objects.fetch(self.repository, commit, folder)
        return folder, commit


def web_address(repository: str, commit: str) -> str | None:
    """The address at which a known forge shows the files of a commit, to which a path is added."""
    parts = urlsplit(repository)
    if parts.scheme != "https" or parts.hostname not in _FORGES:
        return None
    path = parts.path.rstrip("/").removesuffix(".git")
    return urlunsplit((parts.scheme, parts.netloc, path + _FORGES[parts.hostname].format(commit=commit), "", ""))
