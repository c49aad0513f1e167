"""The store: a folder of artifacts that are published whole or not at all.

store/
  artifacts/<stage>-<16 digits of the key>/   files of the artifact and manifest.json
  work/<16 digits>/out, scratch               a step in the making; survives a kill, so that the step can go on
  locks/<16 digits>.lock                      held while a step is made
  refs/<recipe>/<step>.json                   which artifact a recipe's step last gave
  removals.jsonl                              what must not be used any more (corpus/removals.py)
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lmcraft.recipe.stage import Source, UserError
from lmcraft.store.identity import digest_of, hash_file, identity_of, key_of

FORMAT = 1
MANIFEST = "manifest.json"
REMOVALS = "removals.jsonl"
SHORT = 16


@dataclass(frozen=True)
class Artifact:
    """A published directory and what its manifest says."""

    path: Path
    manifest: dict[str, Any]

    @property
    def key(self) -> str:
        return self.manifest["key"]

    @property
    def digest(self) -> str:
        return self.manifest["digest"]

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def identity(self) -> dict[str, Any]:
        """What the key is the digest of, put together again from the manifest."""
        inputs = {
            name: given["digest"] if isinstance(given, dict) else [each["digest"] for each in given]
            for name, given in self.manifest["inputs"].items()
        }
        manifest = self.manifest
        sources = [Source(source["name"], source["sha256"]) for source in manifest["sources"]]
        return identity_of(manifest["stage"], manifest["version"], manifest["config"], inputs, sources)

    def bytes(self) -> int:
        return sum(entry["bytes"] for entry in self.manifest["files"].values())

    def damage(self, rehash: bool) -> list[str]:
        """What does not agree with the manifest, a sentence each; `rehash` reads every byte, else sizes only."""
        problems = []
        if self.key != key_of(self.identity):
            problems.append(f"{MANIFEST}: the key is not that of the stage, settings, inputs and sources")
        if self.manifest["sha256"] != _record_digest(self.manifest):
            problems.append(f"{MANIFEST} is not as it was written")
        if self.manifest["digest"] != digest_of(self.manifest["files"]):
            problems.append(f"{MANIFEST}: the digest is not that of the files listed")
        for name, entry in self.manifest["files"].items():
            path = self.path / name
            if not path.is_file():
                problems.append(f"{name} is missing")
            elif path.stat().st_size != entry["bytes"]:
                problems.append(f"{name} has {path.stat().st_size} bytes, the manifest says {entry['bytes']}")
            elif rehash and (found := hash_file(path)) != entry["sha256"]:
                problems.append(f"{name} has sha256 {found[:12]}…, the manifest says {entry['sha256'][:12]}…")
        listed = set(self.manifest["files"]) | {MANIFEST}
        extra = sorted(name for name in _files_in(self.path) if name not in listed)
        problems.extend(f"{name} is not in the manifest" for name in extra)
        return problems


class Store:
    def __init__(self, root: Path):
        """Raises UserError when `root` is, or lies in, something that is no folder."""
        nearest = next((path for path in (root, *root.parents) if path.exists()), Path())
        if not nearest.is_dir():
            raise UserError(f"the store {str(root)!r} cannot be made: {str(nearest)!r} is a file; name another folder")
        self.root = root
        self.artifacts_folder = root / "artifacts"

    # reading

    def artifact(self, stage: str, key: str) -> Artifact | None:
        """The artifact of this key, or None. Raises UserError when its manifest cannot be read."""
        path = self.artifacts_folder / f"{stage}-{key[:SHORT]}"
        if not path.is_dir():
            return None
        artifact = read_artifact(path)
        if artifact.key != key:
            raise UserError(
                f"{path} holds another step's artifact (key {artifact.key[:24]}…); move it away and run again"
            )
        return artifact

    def artifacts(self) -> list[Artifact]:
        """Every artifact with a readable manifest, oldest first."""
        found = []
        for path in sorted(self.artifacts_folder.glob("*-*")):
            with contextlib.suppress(UserError):
                found.append(read_artifact(path))
        return sorted(found, key=lambda artifact: (artifact.manifest["provenance"]["finished"], artifact.name))

    def path_of(self, name: str) -> Path:
        """The directory of an artifact by any of its names, even when its manifest cannot be read."""
        for path in (Path(name), self.artifacts_folder / name):
            if path.is_dir() and path.parent.name == self.artifacts_folder.name:
                return path
        ref = self.refs().get(name)
        if ref and (path := self.artifacts_folder / f"{ref['stage']}-{ref['key'][:SHORT]}").is_dir():
            return path
        return self.resolve(name).path

    def resolve(self, name: str) -> Artifact:
        """An artifact by directory, `recipe/step`, step name or the first digits of its key."""
        path = Path(name)
        if (path / MANIFEST).is_file():
            return read_artifact(path)
        refs = self.refs()
        if name in refs:
            return self._of_ref(name, refs[name])
        steps = [ref for ref in refs if ref.split("/")[1] == name]
        if len(steps) == 1:
            return self._of_ref(steps[0], refs[steps[0]])
        if len(steps) > 1:
            raise UserError(f"{name!r} is a step of several recipes; say one of {', '.join(sorted(steps))}")
        matches = [
            artifact
            for artifact in self.artifacts()
            if artifact.name.startswith(name) or (len(name) >= 4 and artifact.key.startswith(name))
        ]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise UserError(f"{name!r} fits {len(matches)} artifacts; give more digits ({matches[0].name}, …)")
        near = get_close_matches(name, [*refs, *(artifact.name for artifact in self.artifacts())], n=1)
        hint = f"did you mean {near[0]!r}?" if near else "`lmcraft ls` lists what there is"
        raise UserError(f"no artifact {name!r} in the store {str(self.root)!r}; {hint}")

    def refs(self) -> dict[str, dict[str, Any]]:
        """`recipe/step` -> {"stage", "key", "digest"} of what that step last gave."""
        found = {}
        for path in sorted((self.root / "refs").glob("*/*.json")):
            try:
                ref = json.loads(path.read_text(encoding="utf-8"))
                found[f"{path.parent.name}/{path.stem}"] = {name: ref[name] for name in ("stage", "key", "digest")}
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{path} is damaged; delete it, and the next run writes it again") from None
        return found

    def _of_ref(self, name: str, ref: dict[str, Any]) -> Artifact:
        artifact = self.artifact(ref["stage"], ref["key"])
        if artifact is None:
            raise UserError(f"the artifact of {name} is gone from the store; `lmcraft run` builds it again")
        return artifact

    # writing

    def work(self, key: str) -> Path:
        return self.root / "work" / key[:SHORT]

    def set_ref(self, recipe: str, step: str, artifact: Artifact) -> None:
        path = self.root / "refs" / recipe / f"{step}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        ref = {"stage": artifact.manifest["stage"], "key": artifact.key, "digest": artifact.digest}
        write_atomically(path, json.dumps(ref, indent=2) + "\n")

    def _locks(self) -> Path:
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextlib.contextmanager
    def lock(self, key: str, waiting: Any) -> Iterator[None]:
        """Hold the step's lock; calls `waiting()` once when another process has it. A killed holder frees it."""
        lock = FileLock(self._locks() / f"{key[:SHORT]}.lock")
        try:
            lock.acquire(timeout=0.1)
        except Timeout:
            waiting()
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Held while a run works with the store: nothing is collected as garbage meanwhile. Runs do not exclude
        each other; a killed one counts no longer."""
        run = FileLock(self._locks() / f"run-{uuid.uuid4().hex}.lock")
        with FileLock(self._locks() / "gc.lock"):
            run.acquire()
        try:
            yield
        finally:
            run.release()
            Path(run.lock_file).unlink(missing_ok=True)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Held while garbage is deleted. Raises UserError when a run is using the store; new runs wait."""
        with FileLock(self._locks() / "gc.lock"):
            for path in self._locks().glob("run-*.lock"):
                try:
                    with FileLock(path, timeout=0):
                        pass
                except Timeout:
                    raise UserError(f"a run is using the store {self.root}; let it end, then delete") from None
                path.unlink(missing_ok=True)
            yield

    def publish(self, out: Path, manifest: dict[str, Any], volatile: tuple[str, ...]) -> Artifact:
        """Turn a finished working folder into an artifact: hash, fsync, manifest last, rename.

        `manifest` brings key, stage, settings, inputs and provenance; files and digest are added here. Files that end
        in `.tmp` are what a kill left half-written: they are removed, not published.
        """
        (out / MANIFEST).unlink(missing_ok=True)  # of a publishing that was killed
        for leftover in out.rglob("*.tmp"):
            leftover.unlink()
        files: dict[str, dict[str, Any]] = {}
        for name in _files_in(out):
            path = out / name
            entry: dict[str, Any] = {"sha256": hash_file(path), "bytes": path.stat().st_size}
            if any(fnmatch.fnmatch(name, pattern) for pattern in volatile):
                entry["volatile"] = True
            files[name] = entry
            _fsync(path)
        manifest = {"format": FORMAT, **manifest, "digest": digest_of(files), "files": files}
        manifest["sha256"] = _record_digest(manifest)
        write_atomically(out / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
        for folder in {out / Path(name).parent for name in files} | {out}:
            _fsync(folder)
        target = self.artifacts_folder / f"{manifest['stage']}-{manifest['key'][:SHORT]}"
        self.artifacts_folder.mkdir(parents=True, exist_ok=True)
        out.rename(target)
        _fsync(self.artifacts_folder)
        return Artifact(target, manifest)

    def set_aside(self, artifact: Artifact) -> Path:
        """Move a damaged artifact out of the way, so that the next run builds it again; nothing is deleted."""
        target = self.root / "damaged" / artifact.name
        count = 1
        while target.exists():
            count += 1
            target = self.root / "damaged" / f"{artifact.name}.{count}"
        target.parent.mkdir(parents=True, exist_ok=True)
        artifact.path.rename(target)
        return target

    def garbage(self) -> list[Path]:
        """What no recipe's latest run needs: unreferenced artifacts (an artifact needs its ancestors), the work of
        steps that are not being made, damaged artifacts set aside."""
        needed: set[str] = set()
        for ref in self.refs().values():
            artifact = self.artifact(ref["stage"], ref["key"])
            if artifact is not None:
                needed |= {artifact.key[:SHORT]} | {key[:SHORT] for key in artifact.manifest["ancestors"]}
        artifacts = [path for path in self.artifacts_folder.glob("*-*") if path.name[-SHORT:] not in needed]
        work = [path for path in (self.root / "work").glob("*") if not self._is_locked(path.name)]
        return sorted(artifacts) + sorted(work) + sorted((self.root / "damaged").glob("*"))

    def remove(self, path: Path) -> None:
        """Delete one piece of garbage; first by a rename, so that a kill never leaves half an artifact."""
        doomed = self.root / "work" / f"removing-{path.name}"
        doomed.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(doomed, ignore_errors=True)
        path.rename(doomed)
        shutil.rmtree(doomed)

    def _is_locked(self, name: str) -> bool:
        path = self.root / "locks" / f"{name}.lock"
        if not path.exists():
            return False
        try:
            with FileLock(path, timeout=0):
                return False
        except Timeout:
            return True


def read_artifact(path: Path) -> Artifact:
    """Read a directory's manifest. Raises UserError when it is missing, damaged or of a newer format."""
    way_back = "`lmcraft verify --repair` sets it aside and the next run builds it again"
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} has no {MANIFEST}: it is not an artifact, or damaged; {way_back}") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path / MANIFEST} is damaged ({error}); {way_back}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(f"{path / MANIFEST} is not of format {FORMAT}; this lmcraft cannot read it")
    required = {
        "key",
        "digest",
        "files",
        "stage",
        "version",
        "config",
        "inputs",
        "sources",
        "kind",
        "step",
        "provenance",
    }
    required |= {"summary", "ancestors", "sha256"}
    if missing := sorted(required - set(manifest)):
        raise UserError(f"{path / MANIFEST} is damaged: it lacks {missing[0]!r}; {way_back}")
    unsafe = [name for name in manifest["files"] if Path(name).is_absolute() or ".." in Path(name).parts]
    if unsafe:
        raise UserError(f"{path / MANIFEST} names a file outside its folder ({unsafe[0]!r}); do not use this artifact")
    return Artifact(path, manifest)


def _record_digest(manifest: dict[str, Any]) -> str:
    """sha256 of the manifest itself, so that a changed time, summary or ancestor shows too."""
    return key_of({name: value for name, value in manifest.items() if name != "sha256"})


def write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def is_name(text: str) -> bool:
    """Whether a recipe or step may be called so: it becomes a file name on every system."""
    reserved = re.fullmatch(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", text, re.IGNORECASE)  # on Windows
    return bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", text)) and not text.endswith(".") and not reserved


DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_disk_full(error: BaseException) -> bool:
    """Whether the system refused to store more; libraries written in Rust say so only in words, as does numpy."""
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return True
    if isinstance(error, OSError) and error.errno is None and re.match(r"\d+ requested and \d+ written", str(error)):
        return True
    return "No space left on device" in str(error) or any(f"(os error {number})" in str(error) for number in DISK_FULL)


def _files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _fsync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # Windows syncs no read-only handle
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
