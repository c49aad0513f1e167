"""What the pages are written from: directories of artifacts, their files, and the manifests of all that lies above."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmcraft.recipe.stage import UserError

KIND_BY_FILE = (
    ("model", "config.json"),
    ("evaluation", "results.json"),
    ("conversations", "heldout.jsonl"),
    ("tokens", "tokens.json"),
    ("tokenizer", "tokenizer.json"),
    ("documents", "statistics.json"),
)


@dataclass(frozen=True)
class Artifact:
    """A directory that a step left. Without a manifest (a library call) its kind is told from its files."""

    path: Path
    manifest: Mapping[str, Any]
    kind: str
    step: str

    @property
    def key(self) -> str | None:
        return self.manifest.get("key")

    def json(self, name: str) -> Any:
        """A JSON file of the artifact, or None when it has none. Raises UserError when it is damaged."""
        path = self.path / name
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error}); build its step again") from None

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The rows of a JSONL file, none when it is absent. Raises UserError when one is damaged."""
        path = self.path / name
        if not path.is_file():
            return []
        try:
            return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error}); build its step again") from None


@dataclass(frozen=True)
class Record:
    """One artifact of the lineage as its manifest describes it; its files may not be at hand."""

    key: str
    step: str
    stage: str
    kind: str
    digest: str
    config: dict[str, Any]
    parents: tuple[tuple[str, str], ...]
    """(name of the input, key of the artifact)"""
    sources: tuple[dict[str, Any], ...]
    summary: dict[str, Any]
    provenance: dict[str, Any]


def read_artifact(directory: Path) -> Artifact:
    """Raises UserError when the directory is missing, its manifest is damaged or nothing says what it is."""
    if not directory.is_dir():
        raise UserError(f"{directory} is no directory; give the directory of an artifact")
    bare = Artifact(directory, {}, "", directory.name)
    manifest = bare.json("manifest.json") or {}
    if not isinstance(manifest, dict):
        raise UserError(f"{directory / 'manifest.json'} must hold one JSON object; build its step again")
    kind = manifest.get("kind") or next((kind for kind, file in KIND_BY_FILE if (directory / file).is_file()), None)
    if kind is None:
        raise UserError(f"{directory} holds neither a manifest.json nor files of a known kind of artifact")
    return Artifact(directory, manifest, kind, manifest.get("step") or directory.name)


def lineage(artifacts: Sequence[Artifact]) -> dict[str, Record]:
    """Every artifact at hand and above, by key, parents before children."""
    manifests: dict[str, Mapping[str, Any]] = {}
    for artifact in artifacts:
        manifests |= artifact.manifest.get("ancestors", {})
        if artifact.key:
            manifests[artifact.key] = artifact.manifest
    records = {key: _record(key, manifest) for key, manifest in manifests.items()}
    ordered: dict[str, Record] = {}

    def add(key: str) -> None:
        if key in records and key not in ordered:
            for _, parent in records[key].parents:
                add(parent)
            ordered[key] = records[key]

    given = [artifact.key for artifact in artifacts if artifact.key]
    for key in [*given, *sorted(records, key=lambda key: (records[key].step, key))]:
        add(key)
    return ordered


def _record(key: str, manifest: Mapping[str, Any]) -> Record:
    parents = []
    for name, given in manifest.get("inputs", {}).items():
        for each in [given] if isinstance(given, dict) else given:
            parents.append((name, each["key"]))
    return Record(
        key=key,
        step=manifest.get("step", "?"),
        stage=manifest.get("stage", "?"),
        kind=manifest.get("kind", "?"),
        digest=manifest.get("digest", ""),
        config=dict(manifest.get("config", {})),
        parents=tuple(parents),
        sources=tuple(manifest.get("sources", ())),
        summary=dict(manifest.get("summary") or {}),
        provenance=dict(manifest.get("provenance", {})),
    )
