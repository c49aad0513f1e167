"""From facts and provenance to what the page shows: sentences, bar lengths, charts."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from lmcraft.recipe.stage import GRID_INTENSITY, GRID_SOURCE, count, duration
from lmcraft.reporting.artifacts import Artifact, Record
from lmcraft.reporting.charts import Line, Node, graph, line_chart
from lmcraft.reporting.verdicts import headline, label, verdict_sentences

NOT_MEASURED = "not measured"
SOURCE_UNITS = {"heldout_bits_per_byte": "bits a byte", "heldout_masked_nats": "nats a masked token"}
BREAKDOWNS = ("source", "language", "licence", "topic")


def page(
    title: str,
    facts: Mapping[str, Any],
    artifacts: Sequence[Artifact],
    records: Mapping[str, Record],
    watts_per_core: float | None,
    grid: float = GRID_INTENSITY,
) -> dict[str, Any]:
    """Everything that the template needs, as plain values and finished pictures."""
    cost = _cost(records, watts_per_core, grid)
    return {
        "title": title,
        "tiles": _tiles(facts, cost),
        "verdicts": [
            {"step": evaluation["step"], "model": evaluation["model"], "sentences": verdict_sentences(evaluation)}
            for evaluation in facts["evaluations"]
        ],
        "flows": _flows(facts["documents"], artifacts, records),
        "tokenizers": [_tokenizer(tokenizer) for tokenizer in facts["tokenizers"]],
        "tokens": facts["tokens"],
        "conversations": [
            {**made, "widest": max((sum(counts.values()) for counts in made["tasks"].values()), default=0)}
            for made in facts["conversations"]
        ],
        "networks": _networks(facts["models"]),
        "trainings": [_training(model, artifacts) for model in facts["models"] if model["curves"]],
        "checks": [model for model in facts["models"] if model["check"]],
        "evaluations": [_evaluation(evaluation) for evaluation in facts["evaluations"]],
        "cost": cost,
        "lineage": _lineage(records),
        "records": list(records.values()),
        "settings_of": {entry["key"]: entry["settings"] for entry in facts["lineage"]},
        "environments": _environments(records),
    }


def size(number: float | None) -> str:
    """Bytes for people: 1234567 -> '1.23 MB'."""
    if number is None:
        return NOT_MEASURED
    text = count(number)
    return f"{text[:-1]} {text[-1]}B" if text[-1].isalpha() else f"{text} bytes"


def percent(number: float) -> str:
    """A share for people; nothing that is not all or none reads as all or none."""
    if 0 < number < 0.0005:
        return "<0.1%"
    if 0.9995 < number < 1:
        return ">99.9%"
    return f"{100 * number:.1f}%" if 0 < number < 0.0995 or 0.995 <= number < 1 else f"{100 * number:.0f}%"


def _tiles(facts: Mapping[str, Any], cost: Mapping[str, Any]) -> list[dict[str, str]]:
    tiles: list[dict[str, str]] = []

    def add(value: str, name: str, note: str = "") -> None:
        tiles.append({"value": value, "name": name, "note": note})

    if facts["documents"]:
        last = facts["documents"][-1]
        note = f"of {last['in']['documents']:,} that came in" if last["in"] else ""
        add(f"{last['documents']:,}", "documents kept", note)
        add(size(last["bytes"]), "of text")
    if facts["models"]:
        last = facts["models"][-1]
        add(
            count(last["parameters"]),
            "parameters",
            f"{last['shape']['layers']} layers, {last['shape']['architecture']}",
        )
    read = sum(curve[-1][0] for model in facts["models"] if (curve := model["curves"].get("loss")))
    if read:
        add(count(read), "tokens trained on", "padding included, all stages")
    if facts["evaluations"]:
        evaluation = facts["evaluations"][-1]
        metrics, model = headline(evaluation["metrics"]), evaluation["model"] or "the model"
        for metric in [m for m in metrics if m["metric"] == "bits per byte"][:1]:
            span = f"{metric['low']:.3f} to {metric['high']:.3f}"
            add(f"{metric['value']:.3f}", f"bits per byte of {model}, held out", f"{span}; {metric['n']:,} documents")
        better = sum(metric["verdict"] == "better than baseline" for metric in metrics)
        add(f"{better} of {len(metrics)}", f"measurements of {model} beat their baseline", "95% intervals apart")
    if cost["seconds"] is not None:
        add(duration(cost["seconds"]), "from source to here", "all steps added up")
    return tiles


def _flows(
    documents: Sequence[Mapping[str, Any]], artifacts: Sequence[Artifact], records: Mapping[str, Record]
) -> list[dict[str, Any]]:
    """One flow a final set of documents: what each step before it removed, and what the set consists of."""
    by_key = {artifact.key: artifact for artifact in artifacts if artifact.kind == "documents" and artifact.key}
    parent = {key: next((p for _, p in records[key].parents if p in by_key), None) for key in by_key if key in records}
    inner = set(parent.values())
    found = {entry["step"]: entry for entry in documents}
    flows = []
    for artifact in (a for a in artifacts if a.kind == "documents" and (a.key is None or a.key not in inner)):
        chain = [artifact]
        while (above := parent.get(chain[0].key or "")) is not None:
            chain.insert(0, by_key[above])
        entries = [found[each.step] for each in chain]
        breakdowns = [
            {"name": name, "rows": _bars(entries[-1]["by"][name])}
            for name in BREAKDOWNS
            if any(row["value"] != "(none)" for row in entries[-1]["by"].get(name, []))
        ]
        flows.append(
            {
                "step": artifact.step,
                "steps": entries,
                "rows": _waterfall(entries),
                "short": [breakdown for breakdown in breakdowns if len(breakdown["rows"]) <= 6],
                "long": [breakdown for breakdown in breakdowns if len(breakdown["rows"]) > 6],
                "changes": {change: n for entry in entries for change, n in sorted(entry["changes"].items())},
            }
        )
    return flows


def _waterfall(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    first = entries[0]["in"]
    if not first or not first["documents"]:
        return []
    whole, left = first["documents"], first["documents"]

    def row(name: str, style: str, start: int, documents: int, nbytes: int | None) -> dict[str, Any]:
        share = documents / whole
        return {
            "name": name,
            "style": style,
            "left": 100 * start / whole,
            "width": 100 * share,
            "documents": documents,
            "bytes": nbytes,
            "share": percent(share),
        }

    rows = [row("came in", "in", 0, whole, first["bytes"])]
    for entry in entries:
        for removed in entry["removed"]:
            left -= removed["documents"]
            name = f"{entry['step']}: {removed['reason']}"
            rows.append(row(name, "removed", left, removed["documents"], removed["bytes"]))
        left = entry["documents"]
    rows.append(row("kept", "kept", 0, entries[-1]["documents"], entries[-1]["bytes"]))
    start = 0
    for part in sorted(entries[-1]["by"].get("split", []), key=lambda part: part["value"] != "train"):
        if part["value"] in ("train", "heldout"):
            name = {"train": "for training", "heldout": "held out"}[part["value"]]
            rows.append(row(name, part["value"], start, part["documents"], part["bytes"]))
            start += part["documents"]
    return rows


def _bars(groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    total = sum(group["bytes"] for group in groups) or 1
    widest = max((group["bytes"] for group in groups), default=0) or 1
    return [
        {**group, "width": 100 * group["bytes"] / widest, "share": percent(group["bytes"] / total)} for group in groups
    ]


def _tokenizer(tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    samples = []
    for sample in tokenizer["samples"] or []:
        pieces = [piece.replace("\n", "⏎").replace("\t", "⇥") for piece in sample.get("tokens", [])]
        samples.append({"language": sample.get("language"), "pieces": pieces})
    rates = tokenizer["bytes_per_token"] or {}
    heldout = tokenizer["bytes_per_token_heldout"] or {}
    if not isinstance(rates, dict):
        rates, heldout = {"all": rates}, {"all": heldout or None}
    rows = [{"language": language, "train": rate, "heldout": heldout.get(language)} for language, rate in rates.items()]
    return {**tokenizer, "samples": samples, "rates": rows}


def _networks(models: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Models of one shape are one network."""
    networks: dict[str, dict[str, Any]] = {}
    for model in models:
        network = networks.setdefault(
            repr(model["shape"]), {"steps": [], **{name: model[name] for name in ("shape", "parts", "parameters")}}
        )
        network["steps"].append(model["step"])
    for network in networks.values():
        network["bars"] = [
            {"value": name, "count": number, "width": 100 * number / network["parameters"]}
            for name, number in network["parts"].items()
        ]
    return list(networks.values())


def _training(model: Mapping[str, Any], artifacts: Sequence[Artifact]) -> dict[str, Any]:
    curves = model["curves"]
    charts = []
    relative = max((y for _, y in curves.get("learning_rate", ())), default=0) > 0.5
    for name, title, y_format in (
        ("loss", "Loss on the training text, nats a token", "{:.3g}".format),
        ("heldout_bits_per_byte", "Held-out text, bits a byte", "{:.3g}".format),
        ("heldout_masked_nats", "Held-out text, nats a masked token", "{:.3g}".format),
        ("learning_rate", "Learning rate" + (", share of its peak" if relative else ""), "{:.2g}".format),
        ("grad_norm", "Norm of the gradient", "{:.2g}".format),
    ):
        if curves.get(name):
            picture = line_chart(
                [Line(title, [(x, y) for x, y in curves[name]])],
                title=title,
                x_label="tokens",
                x_format=count,
                y_format=y_format,
                y_from_zero=name in ("learning_rate", "grad_norm"),
            )
            charts.append({"title": title, "picture": picture, "last": curves[name][-1][1]})
    monitors = model["monitors"]
    telemetry = next((artifact.rows("telemetry.jsonl") for artifact in artifacts if artifact.step == model["step"]), [])
    return {
        "step": model["step"],
        "charts": charts,
        "layers": _layers(monitors["layers"]) if monitors else [],
        "sources": monitors["sources"] if monitors else [],
        "of_sources": SOURCE_UNITS.get(monitors["of_sources"]) if monitors else None,
        "settings": model["training"],
        "heldout": bool(curves.get("heldout_bits_per_byte") or curves.get("heldout_masked_nats")),
        "speed": _median(telemetry, "tokens_per_second"),
        "matmul_share": _median(telemetry, "matmul_share"),
    }


def _layers(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A small chart each of what the monitors saw by layer, with its largest value."""
    charts = []
    for name, title in (
        ("grad_norm", "Norm of the gradient"),
        ("update_to_weight", "Update over weights"),
        ("attention_logit", "Largest attention logit"),
        ("dead_units", "Share of dead units"),
    ):
        points = [(float(row["layer"]), float(row[name])) for row in rows if row[name] is not None]
        if points:
            picture = line_chart(
                [Line(title, points)],
                title=f"{title} by layer",
                x_label="layer",
                y_format="{:.2g}".format,
                y_from_zero=True,
                size=(260, 150),
            )
            charts.append({"title": title, "picture": picture, "most": max(y for _, y in points)})
    return charts


def _median(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = [row[name] for row in rows if row.get(name) is not None]
    return statistics.median(values) if values else None


def _evaluation(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for metric in evaluation["metrics"]:
        groups.setdefault(metric["metric"], []).append(metric)
    tasks: dict[str, list[Mapping[str, Any]]] = {}
    for sample in evaluation["samples"]:
        tasks.setdefault(sample["task"], []).append(sample)
    exact = {metric["task"] for metric in groups.get("exact match", ())}
    return {
        **evaluation,
        "groups": [_interval_group(name, metrics) for name, metrics in groups.items()],
        "passed": sum(row["passed"] for row in evaluation["self_test"]),
        "tasks": {task: _alternate(group) for task, group in tasks.items()},
        "free": set(tasks) - exact,
    }


def _alternate(samples: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """One of each language in turn."""
    met: dict[str | None, int] = {}
    places = []
    for sample in samples:
        met[sample["language"]] = met.get(sample["language"], 0) + 1
        places.append(met[sample["language"]])
    return [sample for _, sample in sorted(zip(places, samples, strict=True), key=lambda pair: pair[0])]


def _interval_group(name: str, metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows of intervals over one axis; the verdict decides their colour, the words beside them say it again."""
    shares = metrics[0]["better"] == "higher"
    top = 1.0 if shares else 1.15 * max(max(m["high"], m["baseline"]["high"]) for m in metrics)

    def show(number: float) -> str:
        return percent(number) if shares else f"{number:.3f}"

    def at(number: float) -> float:
        return 100 * min(1.0, max(0.0, number / top))

    whole = headline(metrics)
    rows = []
    for metric in metrics:
        base = metric["baseline"]
        rows.append(
            {
                "part": metric not in whole,
                "label": metric["language"] if metric not in whole else label(metric),
                "value": show(metric["value"]),
                "span": f"{show(metric['low'])} to {show(metric['high'])}",
                "n": f"{metric['n']:,} {metric['of']}",
                "base": show(base["value"]),
                "base_name": base["name"],
                "short": metric["verdict"].removesuffix(" than baseline"),
                "others": [f"{other['name']}: {show(other['value'])}" for other in metric["baselines"]],
                "verdict": metric["verdict"],
                "style": metric["verdict"].split()[0],
                "left": at(metric["low"]),
                "width": max(0.4, at(metric["high"]) - at(metric["low"])),
                "dot": at(metric["value"]),
                "base_left": at(base["low"]),
                "base_width": max(0.4, at(base["high"]) - at(base["low"])),
                "base_dot": at(base["value"]),
            }
        )
    ends = ("0%", "50%", "100%") if shares else ("0", f"{top / 2:.2g}", f"{top:.2g}")
    return {"name": name, "better": metrics[0]["better"], "unit": metrics[0]["unit"], "rows": rows, "ends": ends}


def _cost(records: Mapping[str, Record], watts_per_core: float | None, grid: float) -> dict[str, Any]:
    """Times of all steps; energy as each step found it, and by assumption for those that did not look."""
    timed = [(r, r.provenance["seconds"]) for r in records.values() if r.provenance.get("seconds") is not None]
    timed.sort(key=lambda entry: entry[0].provenance.get("started") or "")
    longest = max((seconds for _, seconds in timed), default=0) or 1
    rows = [
        {
            "step": record.step,
            "stage": record.stage,
            "seconds": seconds,
            "shown": duration(seconds),
            "width": 100 * seconds / longest,
            "resumed": record.provenance.get("resumed") or 0,
        }
        for record, seconds in timed
    ]
    found = energies(records)
    others = [(r, seconds) for r, seconds in timed if not r.summary.get("energy")]
    core_seconds = sum(seconds * (r.provenance.get("machine", {}).get("cores") or 0) for r, seconds in others)
    known = bool(others) and all(r.provenance.get("machine", {}).get("cores") for r, _ in others)
    joules = core_seconds * watts_per_core if watts_per_core is not None and known else None
    estimated = joules / 3600 if joules is not None else None
    return {
        "rows": rows,
        "seconds": sum(seconds for _, seconds in timed) if timed else None,
        "found": found,
        "others": bool(others),
        "watt_hours": estimated,
        "gco2e": estimated * grid / 1000 if estimated is not None else None,
        "grid": grid,
        "grid_source": GRID_SOURCE if grid == GRID_INTENSITY else "runtime.grid_intensity of this run",
        "watts_per_core": watts_per_core,
        "core_hours": core_seconds / 3600,
    }


def energies(records: Mapping[str, Record]) -> list[dict[str, Any]]:
    """What the steps that looked say of their energy."""
    found = []
    for record in records.values():
        if energy := record.summary.get("energy"):
            found.append({"step": record.step, "stage": record.stage, **energy})
    return found


def _lineage(records: Mapping[str, Record]) -> Markup:
    nodes: dict[str, Node] = {}
    for record in records.values():
        parents = [key for _, key in record.parents]
        if record.sources:
            name = record.sources[0]["name"] if len(record.sources) == 1 else f"{len(record.sources):,} sources"
            sources = f"sources of {record.key}"
            nodes[sources] = Node(name, f"sha256 {record.sources[0]['sha256'][:8]}…", "source", ())
            parents.append(sources)
        nodes[record.key] = Node(record.step, f"{record.kind} {record.digest[:8]}", record.kind, parents)
    return graph(nodes)


def _environments(records: Mapping[str, Record]) -> list[dict[str, Any]]:
    """Machines and package versions, each with the steps that ran so; one entry when all ran alike."""
    found: dict[str, dict[str, Any]] = {}
    for record in records.values():
        given = record.provenance
        if not given:
            continue
        environment = {name: given.get(name) for name in ("machine", "packages", "git", "device")}
        found.setdefault(repr(environment), {**environment, "steps": []})["steps"].append(record.step)
    return list(found.values())
