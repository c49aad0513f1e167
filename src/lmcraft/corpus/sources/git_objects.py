"""Git's objects read through the git command: never a work tree, no hook, no filter, no prompt, no other network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from lmcraft.recipe.stage import UserError

FETCH_SECONDS = 3600


@dataclass(frozen=True)
class Entry:
    """A file of a tree. `mode` as git writes it: 100644, 100755, 120000 (link), 160000 (submodule)."""

    mode: str
    object: str
    size: int
    path: str


def resolve(repository: Path, revision: str) -> str:
    """The commit that a revision names in a local repository. Raises UserError."""
    check_revision(revision)
    result = _git(
        ["-C", str(repository), "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"]
    )
    if result.returncode:
        why = _last_line(result.stderr) or f"it knows no commit {revision!r}"
        raise UserError(
            f"{str(repository)!r} cannot be used as a Git repository: {why}; correct `repository` or `revision`"
        )
    return result.stdout.decode().strip()


def resolve_remote(url: str, revision: str) -> str:
    """The commit that a branch, a tag or HEAD names at a URL. Raises UserError."""
    check_revision(revision)
    result = _git(["ls-remote", "--quiet", "--", url], network=True, timeout=120)
    if result.returncode:
        raise UserError(f"{url} cannot be read by git: {_last_line(result.stderr)}; correct `repository`")
    lines = result.stdout.decode("utf-8", "replace").splitlines()
    names = {name: commit for commit, _, name in (line.partition("\t") for line in lines)}
    for name in (f"refs/tags/{revision}^{{}}", f"refs/tags/{revision}", f"refs/heads/{revision}", revision):
        if name in names:
            return names[name]
    known = ", ".join(sorted(name.removeprefix("refs/heads/") for name in names if name.startswith("refs/heads/"))[:10])
    raise UserError(f"{url} has no branch or tag {revision!r} (branches: {known or 'none'}); correct `revision`")


def fetch(url: str, commit: str, folder: Path) -> None:
    """Bring one commit, without its history, into a bare repository at `folder`. Raises UserError."""
    if folder.exists():
        return
    partial = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    made = _git(["init", "--quiet", "--bare", "--template=", str(partial)])
    if made.returncode:
        raise UserError(f"git cannot make a repository: {_last_line(made.stderr)}")
    words = ["fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head"]
    got = _git(["-C", str(partial), *words, "--", url, commit], network=True, timeout=FETCH_SECONDS)
    if got.returncode or _git(["-C", str(partial), "cat-file", "-e", f"{commit}^{{commit}}"]).returncode:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(f"commit {commit[:12]} of {url} could not be fetched: {_last_line(got.stderr)}")
    partial.replace(folder)


def tree(repository: Path, commit: str) -> list[Entry]:
    """All files of a commit in git's order. Names that are not UTF-8 are shown with replacement characters."""
    words = ["-C", str(repository), "ls-tree", "-r", "-z", "-l", "--full-tree", commit]
    result = _git(words)
    if result.returncode:
        raise UserError(f"the tree of {commit[:12]} cannot be read: {_last_line(result.stderr)}")
    entries = []
    for line in result.stdout.split(b"\0")[:-1]:
        facts, _, path = line.partition(b"\t")
        mode, _, name, size = facts.decode("ascii").split()
        entries.append(Entry(mode, name, int(size) if size.isdigit() else 0, path.decode("utf-8", "replace")))
    return entries


def commit_time(repository: Path, commit: str) -> datetime | None:
    """When the commit was made (committer's date, UTC)."""
    result = _git(["-C", str(repository), "show", "--no-patch", "--no-show-signature", "--format=%ct", commit])
    text = result.stdout.decode().strip()
    return datetime.fromtimestamp(int(text), UTC) if re.fullmatch(r"\d{1,11}", text) else None


class Blobs:
    """Contents of files by object name, through one `git cat-file` that stays open."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None and process.stdout is not None
        self.ask: IO[bytes] = process.stdin
        self.answer: IO[bytes] = process.stdout

    def read(self, name: str) -> bytes:
        """Raises UserError when the repository lacks the object (a partial or damaged clone)."""
        self.ask.write(name.encode("ascii") + b"\n")
        self.ask.flush()
        words = self.answer.readline().split()
        if len(words) != 3:
            raise UserError(f"the repository lacks the object {name[:12]}; it is damaged or a partial clone")
        content = self.answer.read(int(words[2]))
        self.answer.read(1)
        return content


@contextmanager
def blobs(repository: Path) -> Iterator[Blobs]:
    """Open a reader of file contents."""
    command = _command(["-C", str(repository), "cat-file", "--batch"], network=False)
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_environment()
    ) as process:
        try:
            yield Blobs(process)
        finally:
            process.kill()


def check_revision(revision: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_./\-@{}^~]*", revision) or ".." in revision:
        raise UserError(f"{revision!r} is not the name of a branch, a tag or a commit; correct `revision`")


def _git(words: list[str], network: bool = False, timeout: float = 600) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            _command(words, network), capture_output=True, check=False, timeout=timeout, env=_environment()
        )
    except FileNotFoundError:
        raise UserError("the command git is not installed; a source of kind git needs it") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"git {words[0]} did not end within {timeout:g} s; try again, or clone it by hand") from None


def _command(words: list[str], network: bool) -> list[str]:
    settings = {
        "core.hooksPath": os.devnull,
        "core.fsmonitor": "false",
        "credential.helper": "",
        "protocol.allow": "never",
        "submodule.recurse": "false",
        "fetch.fsckObjects": "true",
        "gc.auto": "0",
        "maintenance.auto": "false",
    }
    if network:
        settings |= {"protocol.https.allow": "always", "protocol.http.allow": "always", "protocol.file.allow": "always"}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    return ["git", *options, *words]


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return kept | {
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "true",
        "SSH_ASKPASS": "true",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_LFS_SKIP_SMUDGE": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "LC_ALL": "C",
    }


def _last_line(output: bytes) -> str:
    lines = [line for line in output.decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("fatal: ") if lines else ""
