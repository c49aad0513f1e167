"""Stage `report`: artifacts -> one page that tells the run, and its numbers as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from pydantic import Field

from lmcraft.recipe.stage import Input, Inputs, Runtime, Stage, StageConfig, count
from lmcraft.reporting.artifacts import Artifact, lineage, read_artifact
from lmcraft.reporting.facts import gather
from lmcraft.reporting.page import page, percent, size
from lmcraft.tokens.files import write_json, write_text


class ReportConfig(StageConfig):
    """Settings of the page."""

    title: str = Field("Run report", min_length=1, description="Heading of the page.")
    watts_per_core: float | None = Field(
        None,
        gt=0,
        description="Assumed power of a core, for energy of steps that do not look; null: not estimated.",
    )


def run(config: ReportConfig, inputs: Inputs, out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write `report.html` (one self-contained file) and `report.json` (the same numbers, without times).

    Any artifacts will do; a section without its artifact is left out or says "not measured".
    """
    artifacts = [read_artifact(directory) for directory in inputs["of"]]
    records = lineage(artifacts)
    facts = gather(artifacts, records)
    html = render(config, artifacts, runtime.grid_intensity)
    write_json(out / "report.json", {"format": 1, "title": config.title, **_without_curves(facts)})
    write_text(out / "report.html", html)
    return {"page": "report.html", "artifacts": len(artifacts), "lineage": len(records)}


def render(config: ReportConfig, artifacts: list[Artifact], grid: float) -> str:
    """The page. Everything in it that came from a text, a model or a user is escaped; it holds no script."""
    records = lineage(artifacts)
    context = page(config.title, gather(artifacts, records), artifacts, records, config.watts_per_core, grid)
    environment = Environment(
        loader=PackageLoader("lmcraft.reporting", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "size": size,
        "count": count,
        "percent": percent,
        "tojson_plain": lambda value: json.dumps(value, ensure_ascii=False),
    }
    assert environment.loader is not None
    css = Markup(environment.loader.get_source(environment, "report.css")[0])
    return environment.get_template("report.html.jinja").render(css=css, **context)


def _without_curves(facts: dict[str, Any]) -> dict[str, Any]:
    """Curves stay in `metrics.jsonl`; here their ends are enough."""
    models = []
    for model in facts["models"]:
        ends = {
            name: {"points": len(points), "first": points[0][1], "last": points[-1][1]}
            for name, points in model["curves"].items()
            if points
        }
        models.append({**model, "curves": ends})
    return {**facts, "models": models}


STAGE = Stage(
    name="report",
    version=2,
    config=ReportConfig,
    inputs={"of": Input(many=True)},
    output="report",
    run=run,
    help="Write one page about a run: text, tokenizer, network, training, results, cost, lineage.",
    volatile=("report.html",),
)
