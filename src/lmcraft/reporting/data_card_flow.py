"""From collected to kept: what came into each step, what it removed and why, what it left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lmcraft.reporting.artifacts import Artifact, Record

SIZES = ("documents", "bytes")


def chain(artifacts: Sequence[Artifact], records: Mapping[str, Record]) -> list[Artifact]:
    """The artifacts among those given that the last one was made of, parents first, the last one last.

    The last one is that of which no other was made. Raises KeyError when there are several such (ambiguous).
    """
    by_key = {artifact.key: artifact for artifact in artifacts if artifact.key}
    if not by_key:
        return list(artifacts[:1]) if len(artifacts) == 1 else _ambiguous(artifacts)
    inner = {parent for key in by_key for parent in above(key, records)}
    last = [artifact for artifact in artifacts if artifact.key not in inner]
    if len(last) != 1:
        return _ambiguous(last)
    wanted = {*above(last[0].key or "", records), last[0].key}
    return [by_key[key] for key in records if key in wanted and key in by_key]


def _ambiguous(artifacts: Sequence[Artifact]) -> list[Artifact]:
    raise KeyError(", ".join(artifact.step for artifact in artifacts))


def above(key: str, records: Mapping[str, Record]) -> set[str]:
    """Keys of all documents that an artifact's documents come from; not its evaluation sets or earlier corpora."""
    found: set[str] = set()
    waiting = [key]
    while waiting:
        record = records.get(waiting.pop())
        for name, parent in record.parents if record else ():
            if name == "documents" and parent not in found:
                found.add(parent)
                waiting.append(parent)
    return found


def flow(artifact: Artifact, before: Mapping[str, int] | None) -> list[dict[str, Any]]:
    """The steps of one artifact in order: `in`, `removed` by reason, `added`, `rewritten` and `out` of each.

    `before`: documents and bytes of the artifacts it was made of. In every step
    `in + added = out + removed` for documents and `in + rewritten = out + removed` for bytes; `added` is not 0 where a
    step makes several documents of one, `rewritten` where it changes texts.
    """
    statistics = artifact.json("statistics.json") or {}
    removed = {reason: {size: entry[size] for size in SIZES} for reason, entry in statistics.get("removed", {}).items()}
    kept = {size: statistics.get(size, 0) for size in SIZES}
    after = statistics.get("flow") or {}
    came = dict(before or statistics.get("in") or kept)
    if not after:
        return [_step(artifact, None, came, kept, removed)]
    steps = []
    for label, left in after.items():
        steps.append(_step(artifact, label, came, left, left["removed"]))
        came = {size: left[size] for size in SIZES}
    return steps


def _step(
    artifact: Artifact, label: str | None, came: Mapping[str, int], left: Mapping[str, int], removed: Mapping[str, Any]
) -> dict[str, Any]:
    gone = {size: sum(entry[size] for entry in removed.values()) for size in SIZES}
    return {
        "artifact": artifact.step,
        "step": label or artifact.step,
        "in": dict(came),
        "removed": [
            {"reason": reason, **entry}
            for reason, entry in sorted(removed.items(), key=lambda item: (-item[1]["bytes"], item[0]))
        ],
        "added": left["documents"] + gone["documents"] - came["documents"],
        "rewritten": left["bytes"] + gone["bytes"] - came["bytes"],
        "out": {size: left[size] for size in SIZES},
    }
