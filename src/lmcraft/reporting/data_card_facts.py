"""What a data card says, as plain values: all of it read from artifacts, the same for the same artifacts.

Pages, Markdown, Croissant and disclosures are written from `data_facts` and count nothing themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lmcraft.corpus import removals
from lmcraft.corpus.documents import DIMENSIONS, NONE, OTHER, SAMPLES, read_documents
from lmcraft.corpus.sources import crawl_rules, opt_out
from lmcraft.corpus.sources.source import PASSED_OVER
from lmcraft.corpus.steps import personal_data
from lmcraft.corpus.steps.decontaminate import Decontaminate, by_set
from lmcraft.corpus.steps.demographics import PREFIX, mentions
from lmcraft.recipe.stage import UserError
from lmcraft.reporting.artifacts import Artifact, Record
from lmcraft.reporting.data_card_flow import SIZES, above, chain, flow
from lmcraft.reporting.facts import flat

SMALL_SHARE = 0.01
"""A language with less of the bytes is a gap."""

OPTED_OUT = (opt_out.REASON, crawl_rules.OPTED_OUT, crawl_rules.FORBIDDEN, crawl_rules.NOINDEX)
OPT_OUT_LIST = "opt-out list"
"""The name under which a manifest has the digest of such a list."""

SAMPLE_CHARACTERS = 200
LENGTHS = [0, *(10**n * m for n in range(1, 8) for m in (1, 3))]
"""Characters at which the bars of lengths begin."""

SCORE_BARS = 20


def data_facts(
    artifacts: Sequence[Artifact],
    records: Mapping[str, Record],
    evaluation_sets: Sequence[Path] = (),
    tokens: Artifact | None = None,
) -> dict[str, Any]:
    """Everything that is known of the last of these documents and of how they came about.

    `artifacts`: documents, one of them made of the others (that one is described). Values that nobody measured are
    None. Raises UserError when it is not clear which artifact is meant.
    """
    try:
        line = chain(artifacts, records)
    except KeyError as error:
        raise UserError(
            f"data-card: {error.args[0]} are not made of one another; give one final set of documents and, before it, "
            "those that it was made of"
        ) from None
    last = line[-1]
    statistics = last.json("statistics.json") or {}
    steps = _flows(line, records)
    configured = _configured(line)
    texts = _texts(last.path)
    facts: dict[str, Any] = {
        "described": last.step,
        "digest": last.manifest.get("digest"),
        "documents": statistics.get("documents"),
        "bytes": statistics.get("bytes"),
        "characters": texts["characters"],
        "seen": texts["seen"],
        "tokens": _tokens(tokens),
        "collected": _total([entry["in"] for entry in steps if entry["step"] == "collect"]),
        "sources": _sources(line, records, statistics),
        "composition": _composition(line),
        "balance": _reports(line, "balance"),
        "topics_found": _reports(line, "topics"),
        "flow": steps,
        "removed": _removed(line),
        "bad_records": _reasons(line, lambda reason: reason not in {*OPTED_OUT, *PASSED_OVER, removals.REASON}, True),
        "passed_over": _reasons(line, lambda reason: reason in PASSED_OVER, True),
        "errors": _reasons(line, lambda reason: reason.startswith("error in "), False),
        "opted_out": _reasons(line, lambda reason: reason in OPTED_OUT, None),
        "on_request": _reasons(line, lambda reason: reason == removals.REASON, None),
        "opt_out_lists": [
            source["sha256"]
            for record in records.values()
            for source in record.sources
            if source["name"] == OPT_OUT_LIST
        ],
        "duplicates": _reports(line, "near"),
        "exact": "exact" in configured,
        "passages": _passages(line) if "passages" in configured else None,
        "decontamination": _decontamination(line, evaluation_sets, configured),
        "personal_data": _personal(line, configured, texts),
        "mentions": mentions(last.path) if "demographics" in configured else None,
        "lengths": texts["lengths"],
        "scores": _scores(last.path),
        "collected_at": texts["collected_at"],
        "changes": dict(sorted(_total([a.json("statistics.json").get("changes", {}) for a in line]).items())),
        "steps": {name: flat(settings) for name, settings in configured.items()},
        "lineage": [
            {
                **{name: getattr(record, name) for name in ("step", "stage", "kind", "key", "digest")},
                "sources": [{"name": source["name"], "sha256": source["sha256"]} for source in record.sources],
                "settings": flat(record.config),
            }
            for record in records.values()
            if record.kind == "documents"
        ],
    }
    return facts | {"gaps": _gaps(facts)}


def _total(tallies: Sequence[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for tally in tallies:
        total.update(tally)
    return dict(total)


def _flows(line: Sequence[Artifact], records: Mapping[str, Record]) -> list[dict[str, Any]]:
    """The steps of all artifacts in order; several `collect` that go into one set of documents count as one step."""
    made = {artifact.key: artifact for artifact in line}
    parents = {
        artifact.key: [key for name, key in records[artifact.key].parents if name == "documents"]
        for artifact in line
        if artifact.key
    }
    first = [step for artifact in line if not parents.get(artifact.key or "") for step in flow(artifact, None)]
    whole = all(step["step"] == step["artifact"] for step in first)
    steps = [_merged(first)] if len(first) > 1 and whole else first
    for artifact in line:
        if made_of := parents.get(artifact.key or ""):
            # What an artifact that was not given left is known from its manifest.
            before = [
                made[key].json("statistics.json") if key in made else records[key].summary
                for key in made_of
                if key in records
            ]
            steps += flow(artifact, _total([{size: tally[size] for size in SIZES} for tally in before]))
    for step in steps:
        if step["artifact"] in {a.step for a in line if a.manifest.get("stage") == "collect"}:
            step["step"] = "collect"
    return steps


def _merged(steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    removed: dict[str, list[Mapping[str, int]]] = {}
    for step in steps:
        for entry in step["removed"]:
            removed.setdefault(entry["reason"], []).append({size: entry[size] for size in SIZES})
    return {
        "artifact": steps[0]["artifact"],
        "step": steps[0]["step"],
        "in": _total([step["in"] for step in steps]),
        "removed": [{"reason": reason, **_total(tallies)} for reason, tallies in sorted(removed.items())],
        "added": sum(step["added"] for step in steps),
        "rewritten": sum(step["rewritten"] for step in steps),
        "out": _total([step["out"] for step in steps]),
    }


def _configured(line: Sequence[Artifact]) -> dict[str, dict[str, Any]]:
    """Name -> settings of every curation step that ran; of one that ran twice, those of the last."""
    found: dict[str, dict[str, Any]] = {}
    for artifact in line:
        for entry in artifact.manifest.get("config", {}).get("steps", []):
            found |= {name: settings or {} for name, settings in entry.items()}
    return found


def _reports(line: Sequence[Artifact], name: str) -> list[dict[str, Any]]:
    """What the steps of this name say of themselves, as stored in the statistics."""
    return [
        {"step": f"{artifact.step}: {label}", **report}
        for artifact in line
        for label, report in ((artifact.json("statistics.json") or {}).get("steps") or {}).items()
        if label.split(" ")[0] == name
    ]


def _source_settings(records: Mapping[str, Record], line: Sequence[Artifact]) -> list[dict[str, Any]]:
    """Settings of every source that the documents come from, in the order of the recipe."""
    last = line[-1].key or ""
    return [
        source
        for key in records
        if (key == last or key in above(last, records)) and records[key].stage == "collect"
        for source in records[key].config.get("sources", [])
    ]


def _sources(
    line: Sequence[Artifact], records: Mapping[str, Record], statistics: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Each source: kind, licence declared, files read, what was collected of it and what was kept."""
    collected = _total_groups([a for a in line if a.manifest.get("stage") == "collect"], "source")
    kept = statistics.get("by", {}).get("source", {})
    names = [name for name in dict.fromkeys([*collected, *kept]) if name != OTHER]
    last = line[-1].key or ""
    files = [file["name"] for key in records if key in {last, *above(last, records)} for file in records[key].sources]
    settings = _named(_source_settings(records, line), names, files)
    return [
        {
            "name": name,
            "kind": own.get("kind"),
            "licence": own.get("licence"),
            "address": own.get("url") or next(iter(own.get("urls") or own.get("start") or []), None),
            "package": " ".join(filter(None, [own.get("package"), own.get("version")])) or None,
            "files": sum(file.startswith(name + "/") for file in files) or None,
            "collected": collected.get(name),
            "kept": kept.get(name, {"documents": 0, "bytes": 0}),
        }
        for name in names
        for own in [settings.get(name, {})]
    ]


def _named(settings: Sequence[dict[str, Any]], names: Sequence[str], files: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Name of a source -> its settings.

    A source that the recipe gives no name is called after its place, which manifests do not tell. The names of its
    files begin with it, in the order of the recipe; where that leaves a doubt, the settings are not used.
    """
    found: dict[str, dict[str, Any]] = {}
    bare = []
    for own in settings:
        name = own.get("name") or own.get("package")
        if name is None:
            bare.append(own)
        elif name in names:
            found[name] = own
    left = [name for name in names if name not in found]
    place = {
        name: next((i for i, file in enumerate(files) if file.startswith(name + "/")), len(files)) for name in left
    }
    if len(left) == len(bare):
        found |= dict(zip(sorted(left, key=lambda name: place[name]), bare, strict=True))
    return found


def _total_groups(artifacts: Sequence[Artifact], dimension: str) -> dict[str, dict[str, int]]:
    found: dict[str, list[dict[str, int]]] = {}
    for artifact in artifacts:
        for value, tally in (artifact.json("statistics.json") or {}).get("by", {}).get(dimension, {}).items():
            found.setdefault(value, []).append(tally)
    return {value: _total(tallies) for value, tallies in found.items()}


def _composition(line: Sequence[Artifact]) -> dict[str, list[dict[str, Any]]]:
    """Dimension -> its values, largest first: documents and bytes collected (None: not stated then) and kept."""
    first = [artifact for artifact in line if artifact.manifest.get("stage") == "collect"]
    composition = {}
    for name in DIMENSIONS:
        kept = _total_groups(line[-1:], name)
        collected = _total_groups(first, name) if len(line) > len(first) else {}
        stated = any(value not in (NONE, OTHER) for value in collected)
        if not any(value != NONE for value in (*kept, *collected)):
            continue
        values = dict.fromkeys([*kept, *(collected if stated else ())])
        rows = [
            {
                "value": value,
                "kept": kept.get(value, {"documents": 0, "bytes": 0}),
                "collected": collected.get(value, {"documents": 0, "bytes": 0}) if stated else None,
            }
            for value in values
        ]
        composition[name] = sorted(rows, key=lambda row: (-row["kept"]["bytes"], row["value"]))
    return composition


def _removed(line: Sequence[Artifact]) -> list[dict[str, Any]]:
    """By artifact and reason: counts, samples with personal data masked, and documents by source."""
    rows = []
    for artifact in line:
        statistics = artifact.json("statistics.json") or {}
        sources = _by_source(artifact.path)
        for reason, entry in statistics.get("removed", {}).items():
            rows.append(
                {
                    "artifact": artifact.step,
                    "reason": reason,
                    "documents": entry["documents"],
                    "bytes": entry["bytes"],
                    "sources": dict(sources.get(reason, {})),
                    "samples": [_sample(sample) for sample in entry.get("samples", [])[:SAMPLES]],
                }
            )
    return rows


def _by_source(directory: Path) -> dict[str, Counter[str]]:
    """Reason -> source -> documents, of the rows put aside; of each file only two columns, in batches."""
    found: dict[str, Counter[str]] = {}
    for path in sorted(directory.glob("removed-*.parquet")):
        with _parquet(path) as file:
            for batch in file.iter_batches(columns=["reason", "source"]):
                groups = pa.Table.from_batches([batch]).group_by(["reason", "source"])
                for row in groups.aggregate([([], "count_all")]).to_pylist():
                    found.setdefault(row["reason"], Counter())[row["source"]] += row["count_all"]
    return found


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read as Parquet ({error}); build its step again") from error


def _sample(row: Mapping[str, Any]) -> dict[str, Any]:
    """A removed document as the card may show it: it was perhaps removed before personal data was masked."""
    shown = {name: row.get(name) for name in ("id", "source", "value", "threshold", "kept_id")}
    return shown | {
        name: without_personal_data(row.get(name) or "")[:SAMPLE_CHARACTERS] for name in ("title", "path", "text")
    }


def without_personal_data(text: str) -> str:
    """The text with a placeholder for what the rules of `mask` find, of every kind that needs no model."""
    return personal_data.replaced(
        text, personal_data.find(text, personal_data.KINDS), lambda span: f"<{span.kind.upper()}>"
    )


def _reasons(
    line: Sequence[Artifact], wanted: Callable[[str], bool], collect: bool | None
) -> dict[str, dict[str, int]]:
    """Counts of the reasons that `wanted` is true of; `collect`: of that stage, of the others, or (None) of all."""
    found: dict[str, list[dict[str, int]]] = {}
    for artifact in line:
        if collect is not None and (artifact.manifest.get("stage") == "collect") != collect:
            continue
        for reason, entry in (artifact.json("statistics.json") or {}).get("removed", {}).items():
            if wanted(reason):
                found.setdefault(reason, []).append({size: entry[size] for size in SIZES})
    ordered = sorted(((reason, _total(t)) for reason, t in found.items()), key=lambda e: (-e[1]["documents"], e[0]))
    return dict(ordered)


def _texts(directory: Path) -> dict[str, Any]:
    """One pass over the kept texts, in batches: lengths, placeholders, repetitions, dates of collection."""
    bins = np.zeros(len(LENGTHS), np.int64)
    characters = documents = dated = 0
    seen = {"documents": 0, "bytes": 0}
    placeholders: Counter[str] = Counter()
    first = last = None
    for batch in read_documents(directory, ["text", "repeats", "collected_at"]):
        length = pc.utf8_length(batch["text"]).to_numpy(zero_copy_only=False).astype(np.int64)
        sizes = pc.binary_length(batch["text"]).to_numpy(zero_copy_only=False).astype(np.int64)
        repeats = pc.fill_null(batch["repeats"], 1).to_numpy(zero_copy_only=False).astype(np.int64)
        bins += np.bincount(np.searchsorted(LENGTHS, length, "right") - 1, minlength=len(LENGTHS))
        characters += int(length.sum())
        documents += batch.num_rows
        seen["documents"] += int(repeats.sum())
        seen["bytes"] += int((repeats * sizes).sum())
        marked = pc.match_substring(batch["text"], "<")
        for kind in personal_data.KINDS if pc.any(marked).as_py() else ():
            pattern = f"<{kind.upper()}(_[0-9]+)?>"
            placeholders[kind] += pc.sum(pc.count_substring_regex(batch["text"], pattern)).as_py() or 0
        dated += batch.num_rows - batch["collected_at"].null_count
        ends = pc.min_max(batch["collected_at"]).as_py()
        if ends["min"] is not None:
            first = ends["min"] if first is None else min(first, ends["min"])
            last = ends["max"] if last is None else max(last, ends["max"])
    used = int(np.flatnonzero(bins)[-1]) + 1 if bins.any() else 0
    return {
        "characters": characters,
        "seen": seen,
        "placeholders": {kind: number for kind, number in placeholders.items() if number},
        "lengths": [{"from": LENGTHS[i], "documents": int(bins[i])} for i in range(used)],
        "collected_at": {
            "documents": dated,
            "of": documents,
            "first": first.isoformat() if first else None,
            "last": last.isoformat() if last else None,
        },
    }


def _scores(directory: Path) -> list[dict[str, Any]]:
    """For each score of the documents: how many have it, mean, least, greatest, and a histogram of equal widths."""
    found: dict[str, dict[str, Any]] = {}
    for names, values in _score_values(directory):
        for name in np.unique(names).tolist():
            some = values[names == name].astype(np.float64)
            own = found.setdefault(name, {"n": 0, "sum": 0.0, "low": np.inf, "high": -np.inf})
            own["n"] += len(some)
            own["sum"] += float(some.sum())
            own["low"], own["high"] = min(own["low"], float(some.min())), max(own["high"], float(some.max()))
    bars = {name: np.zeros(SCORE_BARS, np.int64) for name in found}
    for names, values in _score_values(directory):
        for name in np.unique(names).tolist():
            span = (found[name]["low"], found[name]["high"])
            bars[name] += np.histogram(values[names == name].astype(np.float64), SCORE_BARS, span)[0]
    return [
        {
            "name": name,
            "documents": own["n"],
            "mean": own["sum"] / own["n"],
            "low": own["low"],
            "high": own["high"],
            "bars": bars[name].tolist(),
        }
        for name, own in sorted(found.items())
    ]


def _score_values(directory: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for batch in read_documents(directory, ["scores"]):
        flat_scores = pa.concat_arrays([batch["scores"]]).drop_null()
        names = flat_scores.keys.to_numpy(zero_copy_only=False).astype(str) if len(flat_scores) else np.array([], str)
        values = flat_scores.items.to_numpy(zero_copy_only=False) if len(flat_scores) else np.array([])
        wanted = np.isfinite(values) & ~np.char.startswith(names, PREFIX) if len(names) else np.array([], bool)
        if wanted.any():
            yield names[wanted], values[wanted]


def _tokens(tokens: Artifact | None) -> dict[str, Any] | None:
    if tokens is None:
        return None
    meta = tokens.json("tokens.json") or {}
    return {"step": tokens.step, "digest": tokens.manifest.get("digest"), "splits": meta.get("tokens") or {}}


def _passages(line: Sequence[Artifact]) -> dict[str, int]:
    passages = words = size = 0
    for artifact in line:
        for path in sorted(artifact.path.glob("passages-*.parquet")):
            with _parquet(path) as file:
                for batch in file.iter_batches(columns=["begin", "end", "words"]):
                    passages += batch.num_rows
                    words += pc.sum(batch["words"]).as_py() or 0
                    size += pc.sum(pc.subtract(batch["end"], batch["begin"])).as_py() or 0
    return {"passages": passages, "words": words, "bytes": size}


def _decontamination(
    line: Sequence[Artifact], evaluation_sets: Sequence[Path], configured: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any] | None:
    """Settings, and for each set its items and those found; without the sets at hand, None for those."""
    if "decontaminate" not in configured:
        return None
    settings = dict(configured["decontaminate"])
    found = [a for a in line if any("decontaminate" in entry for entry in a.manifest["config"].get("steps", []))][-1]
    sets = by_set(found.path, list(evaluation_sets), Decontaminate(**settings)) if evaluation_sets else None
    return {"step": found.step, "settings": flat(settings), "sets": sets}


def _personal(
    line: Sequence[Artifact], configured: Mapping[str, Mapping[str, Any]], texts: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Kinds looked for, documents changed by kind, placeholders in the kept text; no value that was masked."""
    if "mask" not in configured:
        return None
    changes = _total([(a.json("statistics.json") or {}).get("changes", {}) for a in line])
    kinds = list(configured["mask"].get("kinds", []))
    return {
        "kinds": {
            kind: {"documents": changes.get(f"masked {kind}", 0), "placeholders": texts["placeholders"].get(kind, 0)}
            for kind in kinds
        },
        "not_looked_for": [kind for kind in personal_data.KINDS if kind not in kinds],
        "reversible": bool(configured["mask"].get("reversible")),
        "model": configured["mask"].get("model"),
    }


def _gaps(facts: Mapping[str, Any]) -> list[str]:
    """What is missing or lopsided, by arithmetic alone."""
    gaps = []
    total = facts["bytes"] or 0
    composition, steps = facts["composition"], facts["steps"]

    def share(dimension: str, value: str) -> float:
        return sum(row["kept"]["bytes"] for row in composition.get(dimension, ()) if row["value"] == value) / (
            total or 1
        )

    languages = [row for row in composition.get("language", ()) if row["value"] not in (NONE, OTHER)]
    small = [row["value"] for row in languages if 0 < row["kept"]["bytes"] < SMALL_SHARE * total]
    gone = [row["value"] for row in languages if not row["kept"]["documents"]]
    if not languages:
        gaps.append("The language of no document is known.")
    elif (unknown := share("language", NONE)) > 0:
        gaps.append(f"The language of {_percent(unknown)} of the text is not known.")
    if small:
        gaps.append(f"Languages with less than 1% of the text each: {', '.join(sorted(small))}.")
    if gone:
        gaps.append(f"Languages collected of which nothing was kept: {', '.join(sorted(gone))}.")
    unlicensed = share("licence", NONE) if "licence" in composition else 1.0
    if unlicensed > 0:
        gaps.append(f"{_percent(unlicensed)} of the text has no stated licence.")
    if bare := [row["name"] for row in facts["sources"] if not row["licence"]]:
        gaps.append(f"Sources without a declared licence of their own: {', '.join(sorted(bare))}.")
    for row in composition.get("source", ())[:1]:
        if len(composition["source"]) > 1 and row["kept"]["bytes"] > total / 2:
            gaps.append(f"{_percent(row['kept']['bytes'] / total)} of the text is from one source, {row['value']}.")
    if empty := [row["name"] for row in facts["sources"] if not row["kept"]["documents"]]:
        gaps.append(f"Sources of which nothing was kept: {', '.join(sorted(empty))}.")
    if not any(row["value"] == "heldout" and row["kept"]["documents"] for row in composition.get("split", ())):
        gaps.append("No documents are held out from training.")
    dated = facts["collected_at"]
    if dated["documents"] < dated["of"]:
        undated = dated["of"] - dated["documents"]
        gaps.append(f"The source states no date of collection for {undated:,} of {dated['of']:,} documents.")
    if facts["errors"]:
        number = sum(entry["documents"] for entry in facts["errors"].values())
        gaps.append(f"A step failed on {number:,} documents, which were set aside.")
    for names, what in NOT_MEASURED:
        if not any(name in steps for name in names):
            gaps.append(f"Not measured: {what}.")
    if "decontaminate" in steps and not facts["decontamination"]["sets"]:
        gaps.append("Overlap with each evaluation set: not measured for this card (none was given to it).")
    if "mask" in steps and (missed := facts["personal_data"]["not_looked_for"]):
        gaps.append(f"Kinds of personal data not looked for: {', '.join(missed)}.")
    if not facts["tokens"]:
        gaps.append("Number of tokens: not measured (no token shards were given to this card).")
    return gaps


NOT_MEASURED: tuple[tuple[tuple[str, ...], str], ...] = (
    (("language",), "whether the declared languages are right"),
    (("exact",), "exact duplicates"),
    (("near",), "near duplicates"),
    (("passages",), "passages that several documents share"),
    (("mask",), "personal data; nothing was masked"),
    (("screens",), "toxic language and sexual content"),
    (("quality", "perplexity"), "quality, by a classifier or a language model"),
    (("decontaminate",), "overlap with evaluation sets"),
    (("demographics",), "mentions of groups of people"),
)
"""Steps of which one must have run, and what is unknown otherwise."""


def _percent(share: float) -> str:
    from lmcraft.reporting.page import percent

    return percent(share)
