"""From the facts of a data card to what its page shows: tiles, the flow as bands, bars and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from lmcraft.corpus.documents import NONE
from lmcraft.reporting.artifacts import Record
from lmcraft.reporting.charts import Line, Node, graph, line_chart
from lmcraft.reporting.data_card_text import NOT_DISCLOSED, NOT_MEASURED, licences, rai, summary
from lmcraft.reporting.page import percent, size

MOST_REASONS = 10
"""So many reasons of a step are drawn as bands of their own."""

UNSTATED = {"format": "plain text", "language": "not known", "licence": "not stated", "topic": "not known"}
"""What no value of a dimension means."""

MOST_VALUES = 12
MOST_COLUMNS = 6
MOST_FILES = 200
TRUNK = 74.0
"""Share of the drawing that the widest place of the flow takes; the rest is for the bands that leave it."""


def card_page(naming: Any, facts: Mapping[str, Any], records: Mapping[str, Record]) -> dict[str, Any]:
    """Everything that the template needs, as plain values and finished pictures."""
    times = sorted(
        t for r in records.values() for t in (r.provenance.get("started"), r.provenance.get("finished")) if t
    )
    return {
        "naming": naming,
        "facts": facts,
        "summary": summary(facts),
        "built": (times[0][:16], times[-1][:16]) if times else None,
        "tiles": _tiles(facts),
        "flow": flow_rows(facts["flow"]),
        "composition": [_breakdown(name, rows, facts) for name, rows in facts["composition"].items()],
        "balances": [_balance(report) for report in facts["balance"]],
        "removed": [_matrix(step, facts["removed"]) for step in dict.fromkeys(r["artifact"] for r in facts["removed"])],
        "lengths": _lengths(facts["lengths"]),
        "scores": [score | {"picture": _score_bars(score)} for score in facts["scores"]],
        "duplicates": [_near(report) for report in facts["duplicates"]],
        "licences": licences(facts),
        "said": rai(facts),
        "lineage": _lineage(records),
        "files": [
            {
                "step": entry["step"],
                "shown": entry["sources"][:MOST_FILES],
                "more": max(0, len(entry["sources"]) - MOST_FILES),
            }
            for entry in facts["lineage"]
            if entry["sources"]
        ],
        "versions": _versions(records),
        "not_measured": NOT_MEASURED,
        "not_disclosed": NOT_DISCLOSED,
    }


def _tiles(facts: Mapping[str, Any]) -> list[dict[str, str]]:
    tiles = []
    collected = facts["collected"]
    note = f"of {collected['documents']:,} records collected" if collected else ""
    tiles.append({"value": f"{facts['documents']:,}", "name": "documents kept", "note": note})
    note = f"of {size(collected['bytes'])} collected" if collected else ""
    if facts["seen"]["bytes"] != facts["bytes"]:
        note += f"; {size(facts['seen']['bytes'])} with repetitions"
    tiles.append({"value": size(facts["bytes"]), "name": "of text", "note": note.strip("; ")})
    if facts["tokens"]:
        total = sum(facts["tokens"]["splits"].values())
        note = ", ".join(f"{n:,} {split}" for split, n in facts["tokens"]["splits"].items())
        tiles.append({"value": f"{total:,}", "name": "tokens", "note": note})
    else:
        tiles.append({"value": NOT_MEASURED, "name": "tokens", "note": "no token shards were given"})
    for name, plural in (("language", "languages"), ("licence", "licences")):
        rows = [row for row in facts["composition"].get(name, ()) if row["kept"]["documents"]]
        known = [row for row in rows if not row["value"].startswith("(")]
        unknown = sum(row["kept"]["bytes"] for row in rows if row["value"] == "(none)") / (facts["bytes"] or 1)
        largest = ", ".join(row["value"] for row in known[:3]) + (", …" if len(known) > 3 else "")
        note = "; ".join(filter(None, [largest, f"{percent(unknown)} of the text without" if unknown else ""]))
        tiles.append({"value": f"{len(known)}", "name": plural if len(known) != 1 else name, "note": note})
    return tiles


def flow_rows(steps: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row a band: what came in, each removal where it leaves, and what each step left; widths in percent.

    A removal's `from` and `to` are the widths of the trunk above and below it.
    """
    widest = max((step[side]["bytes"] for step in steps for side in ("in", "out")), default=0) or 1

    def width(nbytes: float) -> float:
        return TRUNK * max(0.0, nbytes) / widest

    rows: list[dict[str, Any]] = []
    if steps:
        rows.append({"style": "in", "name": "collected", **steps[0]["in"], "above": width(steps[0]["in"]["bytes"])})
        rows[0] |= {"below": rows[0]["above"], "note": ""}
    for step in steps:
        left = step["in"]["bytes"]
        for entry in _largest(step["removed"]):
            above, left = width(left), left - entry["bytes"]
            row = {"style": "removed", "name": entry["reason"], "step": step["step"], "above": above}
            row |= {"below": width(left), "documents": entry["documents"], "bytes": entry["bytes"]}
            row["share"] = percent(entry["documents"] / (step["in"]["documents"] or 1))
            rows.append(row)
        notes = []
        if step["added"]:
            notes.append(f"{step['added']:+,} documents by splitting or copying")
        if step["rewritten"]:
            notes.append(f"{'+' if step['rewritten'] > 0 else '−'}{size(abs(step['rewritten']))} by rewriting")
        row = {"style": "step", "name": step["step"], **step["out"], "above": width(left)}
        rows.append(row | {"below": width(step["out"]["bytes"]), "note": ", ".join(notes), "removed": step["removed"]})
    if rows:
        rows[-1]["style"] = "kept"
    return [row | {"picture": _band(row)} for row in rows]


def _largest(removed: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    ordered = [dict(entry) for entry in removed]
    if len(ordered) <= MOST_REASONS + 1:
        return ordered
    rest = ordered[MOST_REASONS:]
    more: dict[str, Any] = {"reason": f"{len(rest)} more reasons"}
    more |= {name: sum(entry[name] for entry in rest) for name in ("documents", "bytes")}
    return [*ordered[:MOST_REASONS], more]


def _band(row: Mapping[str, Any]) -> Markup:
    """The drawing of one row, stretched to whatever size the row has."""
    above, below = max(row["above"], 0.6), max(row["below"], 0.6)
    parts = ['<svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">']
    if row["style"] == "removed":
        begin, end = min(below, above - 0.5), above
        middle = begin + (100 - begin) * 0.3
        thick = 8 + 50 * (end - begin) / TRUNK
        parts.append(f'<path class="trunk" d="M0,0H{below:.2f}V100H0Z"/>')
        parts.append(
            f'<path class="gone" d="M{begin:.2f},0H{end:.2f}C{end:.2f},30 {max(middle, end):.2f},36 100,36'
            f'V{36 + thick:.2f}C{middle:.2f},{36 + thick:.2f} {begin:.2f},{42 + thick / 2:.2f} {begin:.2f},0Z"/>'
        )
    else:
        parts.append(f'<path class="trunk" d="M0,0H{above:.2f}C{above:.2f},60 {below:.2f},40 {below:.2f},100H0Z"/>')
    return Markup("".join([*parts, "</svg>"]))


def _breakdown(name: str, rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Shares of one dimension before and after, largest first; the rest added up."""
    shown = [dict(row) for row in rows[:MOST_VALUES]]
    if rest := rows[MOST_VALUES:]:
        more: dict[str, Any] = {"value": f"{len(rest)} more"}
        for side in ("kept", "collected"):
            known = all(row[side] is not None for row in rest)
            more[side] = {k: sum(r[side][k] for r in rest) for k in ("documents", "bytes")} if known else None
        shown.append(more)
    kept, before = facts["bytes"] or 1, sum(row["collected"]["bytes"] for row in rows if row["collected"]) or 1
    bars = []
    for row in shown:
        after = row["kept"]["bytes"] / kept
        was = row["collected"]["bytes"] / before if row["collected"] else None
        label = UNSTATED.get(name, row["value"]) if row["value"] == NONE else row["value"]
        bars.append(
            row | {"label": label, "after": after, "was": was, "width": 100 * after, "was_width": 100 * (was or 0)}
        )
    return {"name": name, "rows": bars, "stated": any(row["collected"] for row in rows)}


def _balance(report: Mapping[str, Any]) -> dict[str, Any]:
    groups = report["groups"][:MOST_VALUES]
    rest = len(report["groups"]) - len(groups) + report.get("groups_not_listed", 0)
    return {**report, "shown": groups, "rest": rest}


def _matrix(step: str, removed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Reasons by sources: the largest sources have a column each."""
    own = [entry for entry in removed if entry["artifact"] == step]
    totals: dict[str, int] = {}
    for entry in own:
        for source, number in entry["sources"].items():
            totals[source] = totals.get(source, 0) + number
    ordered = sorted(totals, key=lambda source: (-totals[source], source))
    columns, others = ordered[:MOST_COLUMNS], set(ordered[MOST_COLUMNS:])
    rows = [
        {
            **entry,
            "cells": [entry["sources"].get(source, 0) for source in columns],
            "others": sum(number for source, number in entry["sources"].items() if source in others),
        }
        for entry in own
    ]
    total = {name: sum(entry[name] for entry in own) for name in ("documents", "bytes")}
    return {"step": step, "columns": columns, "others": len(others), "rows": rows, "total": total}


def _lengths(lengths: Sequence[Mapping[str, int]]) -> list[dict[str, Any]]:
    first = next((i for i, row in enumerate(lengths) if row["documents"]), 0)
    widest = max((row["documents"] for row in lengths), default=0) or 1
    ends = [f"to {row['from']:,}" for row in lengths[1:]] + ["and more"]
    return [
        {"name": f"{row['from']:,} {end}", "documents": row["documents"], "width": 100 * row["documents"] / widest}
        for row, end in list(zip(lengths, ends, strict=True))[first:]
    ]


def _score_bars(score: Mapping[str, Any]) -> Markup:
    """A histogram as bars of equal width."""
    top = max(score["bars"]) or 1
    wide = 100 / len(score["bars"])
    parts = [
        '<svg class="histogram" viewBox="0 0 100 40" preserveAspectRatio="none" role="img" aria-label="histogram">'
    ]
    for place, number in enumerate(score["bars"]):
        high = 39 * number / top if number else 0
        parts.append(
            f'<rect x="{place * wide + 0.3:.2f}" y="{40 - high:.2f}" width="{wide - 0.6:.2f}" height="{high:.2f}"/>'
        )
    return Markup("".join([*parts, "</svg>"]))


CURVE = "probability of comparing two documents by their Jaccard similarity"


def _near(report: Mapping[str, Any]) -> dict[str, Any]:
    points = [(0.0, 0.0), *((float(x), float(y)) for x, y in report.get(CURVE, {}).items()), (1.0, 1.0)]
    title = "Probability that two documents are compared, by their Jaccard similarity"
    picture = line_chart([Line(title, points)], title=title, x_label="Jaccard similarity", y_from_zero=True)
    rest = {name: value for name, value in report.items() if name not in (CURVE, "step")}
    return {"step": report["step"], "settings": rest, "picture": picture if report.get(CURVE) else Markup("")}


def _lineage(records: Mapping[str, Record]) -> Markup:
    nodes: dict[str, Node] = {}
    for record in records.values():
        parents = [key for _, key in record.parents]
        if record.sources:
            name = record.sources[0]["name"] if len(record.sources) == 1 else f"{len(record.sources):,} files"
            nodes[f"sources of {record.key}"] = Node(name, f"sha256 {record.sources[0]['sha256'][:8]}…", "source", ())
            parents.append(f"sources of {record.key}")
        nodes[record.key] = Node(record.step, f"{record.kind} {record.digest[:8]}", record.kind, parents)
    return graph(nodes)


def _versions(records: Mapping[str, Record]) -> dict[str, str]:
    found: dict[str, set[str]] = {}
    for record in records.values():
        for name, version in (record.provenance.get("packages") or {}).items():
            found.setdefault(name, set()).add(str(version))
    return {name: ", ".join(sorted(versions)) for name, versions in sorted(found.items())}
