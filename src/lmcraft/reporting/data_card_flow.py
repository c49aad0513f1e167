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
    shares = _attribute(_settings(artifact), after, removed, came)
    for label, left in after.items():
        step = _step(artifact, label, came, left, shares[label])
        steps.append(step)
        came = dict(left)
    if unplaced := shares.get(None):
        steps.append(_step(artifact, None, came, came, unplaced))
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


def _settings(artifact: Artifact) -> dict[str, tuple[str, dict[str, Any]]]:
    """Label -> name and settings of each step, labelled as `curate` does."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    seen: dict[str, int] = {}
    for entry in artifact.manifest.get("config", {}).get("steps", []):
        for name, settings in entry.items():
            seen[name] = seen.get(name, 0) + 1
            found[name if seen[name] == 1 else f"{name} {seen[name]}"] = (name, settings or {})
    return found


def _attribute(
    settings: Mapping[str, tuple[str, dict[str, Any]]],
    after: Mapping[str, Mapping[str, int]],
    removed: Mapping[str, Mapping[str, int]],
    came: Mapping[str, int],
) -> dict[str | None, dict[str, Any]]:
    """Step -> what it removed, by reason; under None what no step accounts for.

    The statistics count reasons over all steps. Most reasons name their step. Where two steps may have removed for a
    reason, or none is known for it, those that lost documents for no other reason are given it; several such steps
    are given all such reasons together, each with what it lost by the counts before and after it.
    """
    shares: dict[str | None, dict[str, Any]] = {label: {} for label in after}
    lost, left = {}, came
    for label, tally in after.items():
        lost[label], left = {size: left[size] - tally[size] for size in SIZES}, tally

    def unexplained(label: str) -> dict[str, int]:
        return {size: lost[label][size] - sum(entry[size] for entry in shares[label].values()) for size in SIZES}

    claimed = {r: [label for label in after if _claims(label, *settings.get(label, (label, {})), r)] for r in removed}
    for reason, labels in claimed.items():
        if len(labels) == 1:
            shares[labels[0]][reason] = removed[reason]
    groups: list[tuple[set[str], list[str]]] = []
    for reason in sorted((reason for reason in removed if len(claimed[reason]) != 1), key=lambda r: not claimed[r]):
        able = {label for label in claimed[reason] or after if unexplained(label)["documents"] > 0}
        if len(able) < 2:
            shares.setdefault(next(iter(able), None), {})[reason] = removed[reason]
            continue
        reasons = [reason]
        for group in [group for group in groups if group[0] & able]:
            groups.remove(group)
            able, reasons = able | group[0], reasons + group[1]
        groups.append((able, reasons))
    for able, reasons in groups:
        for label in able:
            if (rest := unexplained(label))["documents"] > 0:
                shares[label][" or ".join(sorted(reasons))] = rest
    return shares


def _claims(label: str, name: str, settings: Mapping[str, Any], reason: str) -> bool:
    """Whether a step removes documents for this reason."""
    if reason.startswith("error in "):
        return reason == f"error in {label}"
    if name == "filter":
        return "/" in reason or reason in (settings.get("drop") or {})
    if name in ("quality", "topic"):
        return reason.endswith((" low", " high")) and not reason.startswith("perplexity")
    exact, begins = REASONS.get(name, ((), ()))
    return reason in exact or reason.startswith(begins)


REASONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "extract": (("no main content",), ("extraction ",)),
    "boilerplate": (("only boilerplate",), ()),
    "language": ((), ("language ",)),
    "length": (("too short", "too long"), ()),
    "licences": ((), ("licence ",)),
    "screens": (("toxic language", "sexual content"), ()),
    "perplexity": ((), ("perplexity ", "no score ")),
    "exact": (("exact duplicate",), ()),
    "near": (("near duplicate",), ()),
    "passages": (("repeated passages",), ()),
    "decontaminate": (("evaluation overlap", "left over from a cut"), ()),
    "balance": ((), ("balance: ",)),
}
"""Step -> its reasons, and what others begin with."""
