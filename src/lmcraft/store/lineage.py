"""Lineage: from an artifact down to its sources, and why two artifacts differ, down to the first cause."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lmcraft.recipe.stage import count, duration
from lmcraft.store.identity import differences, short
from lmcraft.store.store import Artifact


def lineage(artifact: Artifact) -> dict[str, Any]:
    """The tree above an artifact as JSON values: each node with its inputs by name and its external sources.

    Needs nothing but the artifact's own manifest, which carries the records of all its ancestors.
    """
    return _node(artifact.manifest, artifact.manifest["ancestors"])


def _node(manifest: dict[str, Any], ancestors: dict[str, Any]) -> dict[str, Any]:
    inputs = []
    for name, given in manifest["inputs"].items():
        for each in [given] if isinstance(given, dict) else given:
            inputs.append({"input": name, **_node(ancestors[each["key"]], ancestors)})
    return {
        "stage": manifest["stage"],
        "step": manifest["step"],
        "kind": manifest["kind"],
        "version": manifest["version"],
        "key": manifest["key"],
        "digest": manifest["digest"],
        "config": manifest["config"],
        "files": {name: entry["sha256"] for name, entry in manifest["files"].items()},
        "sources": manifest["sources"],
        "seconds": manifest["provenance"]["seconds"],
        "finished": manifest["provenance"]["finished"],
        "git": manifest["provenance"]["git"],
        "inputs": inputs,
    }


def print_lineage(tree: dict[str, Any]) -> str:
    """The tree as text; what stands in it a second time is only named."""
    lines: list[str] = []
    seen: set[str] = set()

    def walk(node: dict[str, Any], label: str, lead: str, branch: str) -> None:
        again = node["key"] in seen
        seen.add(node["key"])
        took = f"{duration(node['seconds'])}"
        detail = "(above)" if again else f"{node['kind']} {node['digest'][:12]} · key {node['key'][:12]} · {took}"
        lines.append(f"{lead}{branch}{label}{node['step']}  {detail}")
        if again:
            return
        lead += {"": "", "├─ ": "│  ", "└─ ": "   "}[branch]
        below = [*node["inputs"], *_grouped(node["sources"])]
        for i, child in enumerate(below):
            last = "└─ " if i == len(below) - 1 else "├─ "
            if isinstance(child, str):
                lines.append(f"{lead}{last}source {child}")
            else:
                walk(child, f"{child['input']}: ", lead, last)

    walk(tree, "", "", "")
    return "\n".join(lines)


def _grouped(sources: list[dict[str, str]], shown: int = 5) -> list[str]:
    lines = [f"{source['name']}  sha256 {source['sha256'][:12]}" for source in sources[:shown]]
    if len(sources) > shown:
        lines.append(f"and {count(len(sources) - shown)} more files")
    return lines


def why(a: Artifact, b: Artifact) -> list[str]:
    """Sentences that say in which fields two artifacts differ; where an input differs, why that one does."""
    if a.key == b.key:
        return [f"{a.name} and {b.name} are the same artifact (key {a.key[:12]})"]
    records = {artifact.key: artifact.manifest for artifact in (a, b)}
    records |= a.manifest["ancestors"] | b.manifest["ancestors"]
    lines: list[str] = []
    done: set[tuple[str, str]] = set()

    def explain(left: dict[str, Any], right: dict[str, Any], path: str) -> None:
        if (left["key"], right["key"]) in done:
            return
        done.add((left["key"], right["key"]))
        causes: list[tuple[str, dict[str, Any], dict[str, Any]]] = []
        for field, old, new in differences(_identity(left), _identity(right)):
            lines.append(f"{path}{field}: {short(old)} -> {short(new)}")
            if field.startswith("inputs."):
                pair = [_by_digest(side, value, records) for side, value in ((left, old), (right, new))]
                if pair[0] is not None and pair[1] is not None:
                    causes.append((f"{path}{pair[1]['step']}: ", pair[0], pair[1]))
        for label, old_record, new_record in causes:
            before = len(lines)
            explain(old_record, new_record, label)
            if len(lines) == before and old_record["key"] == new_record["key"]:
                lines.append(f"{label}same stage, settings and inputs gave other bytes: it is not deterministic")

    explain(a.manifest, b.manifest, "")
    if a.digest == b.digest:
        lines.append(f"all the same, both came out with the same content (digest {a.digest[:12]})")
    return lines


def _identity(record: dict[str, Any]) -> dict[str, Any]:
    return Artifact(Path(), record).identity


def _by_digest(record: dict[str, Any], digest: Any, records: dict[str, Any]) -> dict[str, Any] | None:
    for given in record["inputs"].values():
        for each in [given] if isinstance(given, dict) else given:
            if each["digest"] == digest:
                return records.get(each["key"])
    return None
