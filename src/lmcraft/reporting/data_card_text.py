"""The sentences of a data card, for Markdown and Croissant: facts in words, nothing that the facts do not hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from lmcraft.corpus.documents import NONE, OTHER
from lmcraft.recipe.stage import count
from lmcraft.reporting.card import cell
from lmcraft.reporting.croissant import Naming, languages
from lmcraft.reporting.page import percent, size

NOT_DISCLOSED = "not disclosed"
NOT_MEASURED = "not measured"
SIZES = (
    (1_000, "n<1K"),
    *(
        (10**n, f"{_low}<n<{_high}")
        for n, _low, _high in (
            (4, "1K", "10K"),
            (5, "10K", "100K"),
            (6, "100K", "1M"),
            (7, "1M", "10M"),
            (8, "10M", "100M"),
            (9, "100M", "1B"),
            (10, "1B", "10B"),
            (11, "10B", "100B"),
            (12, "100B", "1T"),
        )
    ),
)
"""The hub's classes of size, by the number of documents below which they end."""


def licences(facts: Mapping[str, Any]) -> list[str]:
    """Licences of kept documents, by size; those of documents without one are not among them."""
    rows = facts["composition"].get("licence", [])
    return [row["value"] for row in rows if row["kept"]["documents"] and row["value"] not in (NONE, OTHER)]


def summary(facts: Mapping[str, Any]) -> str:
    """What the documents are, in two sentences."""
    sources = [row for row in facts["sources"] if row["kept"]["documents"]]
    text = f"{facts['documents']:,} documents, {size(facts['bytes'])} of text from {len(sources)} source"
    text += "s" * (len(sources) != 1) + "."
    if facts["collected"]:
        text += f" Kept of {facts['collected']['documents']:,} records that were collected."
    return text


def rai(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Texts of Croissant's RAI properties, by name; what nobody recorded says so."""
    sources = "; ".join(
        f"{row['name']} ({row['kind'] or 'kind not recorded'}, licence {row['licence'] or 'not declared'})"
        for row in facts["sources"]
    )
    dated = facts["collected_at"]
    kinds = sorted({row["kind"] for row in facts["sources"] if row["kind"]})
    return {
        "dataCollection": f"Collected from: {sources}.",
        "dataCollectionType": [_collection(kind) for kind in kinds],
        "dataCollectionMissingData": quarantine(facts),
        "dataCollectionTimeframe": [dated["first"], dated["last"]] if dated["first"] else None,
        "dataPreprocessingProtocol": protocol(facts),
        "dataBiases": biases(facts),
        "dataLimitations": list(facts["gaps"]),
        "dataUseCases": ["Training of language models; other uses: not assessed."],
        "dataSocialImpact": "Not assessed.",
        "personalSensitiveInformation": personal(facts),
        "dataReleaseMaintenancePlan": maintenance(facts),
    }


def protocol(facts: Mapping[str, Any]) -> list[str]:
    """A sentence for each step of the flow."""
    said = []
    for step in facts["flow"]:
        text = f"{step['step']}: {step['in']['documents']:,} documents in, {step['out']['documents']:,} out"
        if step["added"]:
            text += f", {step['added']:,} made by splitting or copying"
        if step["removed"]:
            reasons = ", ".join(f"{entry['documents']:,} as {entry['reason']}" for entry in step["removed"])
            text += f"; removed {reasons}"
        said.append(text + ".")
    return said


def quarantine(facts: Mapping[str, Any]) -> str:
    """Records that could not be read."""
    bad = facts["bad_records"]
    if not bad:
        return "No record was set aside as unreadable."
    return "Set aside as unreadable: " + ", ".join(f"{e['documents']:,} {reason}" for reason, e in bad.items()) + "."


def personal(facts: Mapping[str, Any]) -> list[str]:
    """How personal data was treated, and what that does not cover."""
    found = facts["personal_data"]
    if found is None:
        return ["No personal data was looked for or masked; what the sources hold of it is in the texts."]
    looked = ", ".join(f"{kind} ({entry['documents']:,} kept documents)" for kind, entry in found["kinds"].items())
    said = [f"Masked by typed placeholders: {looked}."]
    said.append(
        "The masking is reversible: what was masked is kept in files personal-data-*.parquet beside the documents."
        if found["reversible"]
        else "What was masked is written nowhere."
    )
    said.append(INCOMPLETE)
    if found["not_looked_for"]:
        said.append(f"Not looked for: {', '.join(found['not_looked_for'])}.")
    return said


INCOMPLETE = (
    "Masking is not complete: its recall was measured on synthetic sentences only (benchmarks/personal_data.py); on "
    "these documents it was not measured."
)


def biases(facts: Mapping[str, Any]) -> list[str]:
    """Shares by language and source, and mentions of groups where they were counted."""
    said = []
    total = facts["bytes"] or 1
    for name in ("language", "source"):
        rows = [row for row in facts["composition"].get(name, []) if row["kept"]["bytes"]][:5]
        if rows:
            shares = ", ".join(f"{row['value']} {percent(row['kept']['bytes'] / total)}" for row in rows)
            said.append(f"Shares of the text by {name}, the largest: {shares}.")
    for kind, found in (facts["mentions"] or {}).items():
        groups = ", ".join(f"{name} {percent(group['share'])}" for name, group in list(found["groups"].items())[:6])
        said.append(f"Mentions of groups by {kind} (word lists; words, not people): {groups}.")
    if facts["mentions"] is None:
        said.append("Mentions of groups of people: not measured.")
    return said


def maintenance(facts: Mapping[str, Any]) -> str:
    """Removals that were honoured, and how to ask for one."""
    asked = sum(entry["documents"] for entry in facts["on_request"].values())
    return (
        f"{asked:,} documents were left out on request. A removal is entered in the list of the store and takes effect "
        "with the next build. A schedule of updates: not disclosed."
    )


def _collection(kind: str) -> str:
    return {"crawl": "Web Scraping", "folder": "Existing Datasets"}.get(kind, "Existing Datasets")


def data_card(naming: Naming, facts: Mapping[str, Any]) -> str:
    """The text of `data-card.md`: the hub's front matter, then the sections of Datasheets for Datasets (Gebru 2021)."""
    known = licences(facts)
    documents = facts["documents"] or 0
    metadata = {
        "pretty_name": naming.name,
        "language": languages(facts) or None,
        "license": known[0].lower() if len(known) == 1 and not _unlicensed(facts) else "other" if known else "unknown",
        "license_name": " AND ".join(known) if len(known) > 1 or (known and _unlicensed(facts)) else None,
        "size_categories": [next((name for limit, name in SIZES if documents < limit), "n>1T")],
        "task_categories": ["text-generation"],
        "tags": ["lmcraft", "text"],
        "annotations_creators": ["no-annotation"],
        "multilinguality": ["multilingual" if len(languages(facts)) > 1 else "monolingual"],
        "configs": [{"config_name": "default", "data_files": "documents-*.parquet"}],
    }
    environment = Environment(
        loader=PackageLoader("lmcraft.reporting", "templates"),
        autoescape=False,  # Markdown; what comes from data passes through the `cell` filter
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": count, "size": size, "percent": percent, "cell": cell}
    body = environment.get_template("data_card.md.jinja").render(
        metadata=yaml.safe_dump(
            {key: value for key, value in metadata.items() if value is not None},
            sort_keys=False,
            allow_unicode=True,
            width=120,
        ).strip(),
        naming=naming,
        facts=facts,
        total=facts["bytes"] or 1,
        licences=known,
        summary=summary(facts),
        rai=rai(facts),
        removed=_by_reason(facts["removed"]),
    )
    return body.rstrip() + "\n"


def _unlicensed(facts: Mapping[str, Any]) -> bool:
    return any(r["value"] == NONE and r["kept"]["documents"] for r in facts["composition"].get("licence", []))


def _by_reason(removed: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(removed, key=lambda entry: (-entry["documents"], entry["artifact"], entry["reason"]))
