"""The model card: README.md of an exported model, in Hugging Face's format, written from manifests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from lmcraft.model import ModelConfig
from lmcraft.recipe.stage import count
from lmcraft.reporting.artifacts import Artifact, Record, lineage
from lmcraft.reporting.facts import FAMILIES, special_shape
from lmcraft.reporting.page import energies, percent, size
from lmcraft.reporting.verdicts import label, verdict_sentences

METRIC_TYPES = {"bits per byte": "bits_per_byte", "exact match": "exact_match", "token F1": "f1"}
UNKNOWN = ("(none)", "(other)", "unknown")


def model_card(
    name: str,
    description: str | None,
    licence: str | None,
    model: Artifact,
    evaluation: Artifact | None,
    documents: Sequence[Artifact] = (),
    masked: bool = False,
) -> str:
    """The text of README.md. `documents` (what the model was trained on) give exact counts by source and licence;
    without them the manifests above the model say what they know. `masked`: a mixed model exported as a masked LM."""
    records = lineage([a for a in (model, evaluation, *documents) if a is not None])
    statistics = [s for artifact in documents if (s := artifact.json("statistics.json"))]
    results = (evaluation.json("results.json") if evaluation else None) or {"metrics": []}
    sources = _sources(records, statistics)
    licences = sorted({source["licence"] for source in sources if source["licence"]})
    whole = len(licences) == 1 and all(source["licence"] for source in sources)
    chosen = licence or (licences[0] if whole else None)
    languages = _languages(results["metrics"], statistics, records)
    config = ModelConfig.read(model.path)
    config = config.model_copy(update={"model_type": "eurobert"}) if masked else config
    scratch = [] if any(record.stage == "import" for record in records.values()) else ["trained-from-scratch"]
    metadata = {
        "language": languages or None,
        "license": chosen.lower() if chosen else "unknown",
        "library_name": "transformers",
        "pipeline_tag": "text-generation" if config.causal else "fill-mask",
        "tags": ["lmcraft", config.model_type, *scratch],
        "model-index": [{"name": name, "results": _index(results["metrics"])}] if results["metrics"] else None,
    }
    metadata = {key: value for key, value in metadata.items() if value is not None}
    environment = Environment(
        loader=PackageLoader("lmcraft.reporting", "templates"),
        autoescape=False,  # Markdown; what comes from data passes through the `cell` filter
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": count, "size": size, "percent": percent, "cell": cell}
    stages = {record.stage for record in records.values()}
    body = environment.get_template("model_card.md.jinja").render(
        name=name,
        description=description,
        config=config,
        family=FAMILIES[config.model_type],
        special_shape=special_shape(config),
        chat="sft" in stages or not records,
        metadata=yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True, width=120).strip(),
        licence=chosen,
        licence_follows=licence is None and chosen is not None,
        languages=languages,
        sources=sources,
        curated=[_curated(record) for record in records.values() if record.stage == "curate"],
        trainings=[_training(record) for record in records.values() if record.stage in ("pretrain", "sft")],
        rows=[_row(metric) for metric in results["metrics"]],
        sentences=verdict_sentences({"metrics": results["metrics"]}) if results["metrics"] else [],
        notes=results.get("notes", {}),
        self_test=results.get("self_test", []),
        records=list(records.values()),
        energy=bool(energies(records)),
        digest=model.manifest.get("digest"),
    )
    return body.rstrip() + "\n"


def _sources(records: Mapping[str, Record], statistics: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Name, where it came from, licence and, when the documents are at hand, what was kept of it."""
    kept: dict[str, Mapping[str, int]] = {}
    for each in statistics:
        kept |= each.get("by", {}).get("source", {})
    found: dict[str, dict[str, Any]] = {}
    for record in records.values():
        if record.stage != "collect":
            continue
        for source in record.config.get("sources", []):
            name = source.get("name") or source.get("package") or "folder"
            origin = f"Python package {source['package']} {source['version']}" if "package" in source else "files"
            found[name] = {"name": name, "origin": origin, "licence": source.get("licence"), "kept": kept.get(name)}
    for name, counts in kept.items():
        if name not in found and name not in UNKNOWN:
            found[name] = {"name": name, "origin": "not recorded", "licence": None, "kept": counts}
    # A source without a licence of its own may hold documents that each say theirs.
    licences = sorted({k for each in statistics for k in each.get("by", {}).get("licence", {}) if k not in UNKNOWN})
    if len(licences) == 1 and not any("(none)" in each.get("by", {}).get("licence", {}) for each in statistics):
        for source in found.values():
            source["licence"] = source["licence"] or licences[0]
    for record in records.values():
        if record.stage == "import":  # its licence binds as that of text does
            name = record.sources[0]["name"].rpartition("/")[0]
            origin = "a model made elsewhere, trained on text that is not recorded here"
            found[name] = {"name": name, "origin": origin, "licence": record.summary.get("licence"), "kept": None}
    return list(found.values())


def _languages(
    metrics: Sequence[Mapping[str, Any]], statistics: Sequence[Mapping[str, Any]], records: Mapping[str, Record]
) -> list[str]:
    found = {metric["language"] for metric in metrics if metric["language"]}
    for each in statistics:
        found |= set(each.get("by", {}).get("language", {}))
    for record in records.values():
        for source in record.config.get("sources", []) if record.stage == "collect" else []:
            found.add(source.get("language"))
            found |= {file.get("language") for file in (source.get("files") or {}).values()}
    return sorted(language for language in found - {None} if language not in UNKNOWN)


def _curated(record: Record) -> dict[str, Any]:
    summary = record.summary
    return {"in": summary.get("in"), "documents": summary.get("documents"), "removed": summary.get("removed", {})}


def _training(record: Record) -> dict[str, Any]:
    names = ("steps", "tokens", "loss", "heldout_bits_per_byte", "heldout_masked_nats")
    settings = ("optimizer", "learning_rate", "weight_decay", "warmup", "decay", "clip_norm", "epochs", "seed")
    return {
        "step": record.step,
        "stage": record.stage,
        **{name: record.summary.get(name) for name in names},
        "settings": {name: record.config[name] for name in settings if record.config.get(name) is not None},
    }


def _index(metrics: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Results as the hub reads them; interval and baseline ride along as arguments of the metric."""
    index = []
    for metric in metrics:
        dataset = {"name": label(metric), "type": metric["task"].replace(" ", "-"), "split": "heldout"}
        if metric["language"]:
            dataset["config"] = metric["language"]
        base = metric["baseline"]
        index.append(
            {
                "task": {"type": "text-generation", "name": "Text generation"},
                "dataset": dataset,
                "metrics": [
                    {
                        "type": METRIC_TYPES.get(metric["metric"], metric["metric"].replace(" ", "_")),
                        "name": metric["metric"],
                        "value": metric["value"],
                        "args": {
                            "n": metric["n"],
                            "low_95": metric["low"],
                            "high_95": metric["high"],
                            "baseline": base["value"],
                            "baseline_name": base["name"],
                        },
                    }
                ],
            }
        )
    return index


def _row(metric: Mapping[str, Any]) -> dict[str, Any]:
    shares = metric["better"] == "higher"

    def show(number: float) -> str:
        return percent(number) if shares else f"{number:.3f}"

    base = metric["baseline"]
    return {
        "task": label(metric),
        "metric": metric["metric"],
        "value": show(metric["value"]),
        "interval": f"{show(metric['low'])} to {show(metric['high'])}",
        "n": metric["n"],
        "baseline": f"{show(base['value'])} ({base['name']})",
        "verdict": metric["verdict"],
    }


def cell(value: Any) -> str:
    """Text for one cell or line of Markdown: no line breaks, no markup."""
    text = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{c}" if c in "\\`*_[]|~" else c for c in text)
