"""Stage `data-card`: documents -> a page, a card for the hub, Croissant metadata, and the facts behind them as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from pydantic import Field

from lmcraft.recipe.stage import Input, Inputs, Runtime, Stage, StageConfig, count
from lmcraft.reporting.artifacts import lineage, read_artifact
from lmcraft.reporting.croissant import Naming, croissant
from lmcraft.reporting.data_card_facts import data_facts
from lmcraft.reporting.data_card_page import card_page
from lmcraft.reporting.data_card_text import data_card, licences, rai, summary
from lmcraft.reporting.page import percent, size
from lmcraft.tokens.files import write_json, write_text


class DataCardConfig(StageConfig):
    """What only a person can say of the documents."""

    title: str = Field("Documents", min_length=1, description="Name of the set of documents.")
    description: str | None = Field(None, description="What it is, in a sentence or two; null: counts alone.")
    creator: str | None = Field(None, description="Who brought it together; null: not disclosed.")
    version: str = Field("1.0.0", pattern=r"^\d+\.\d+\.\d+$", description="Version of the set, as in 1.0.0.")
    url: str | None = Field(
        None,
        pattern=r"^https://\S+$",
        description="Where the shards are published, for croissant.json; null: beside it in one folder.",
    )


def run(config: DataCardConfig, inputs: Inputs, out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write `data-card.html`, `data-card.md`, `croissant.json` and `data-card.json` (the facts, without times).

    Raises UserError when the documents given are not made of one another, or are damaged.
    """
    artifacts = [read_artifact(directory) for directory in inputs["of"]]
    tokens = read_artifact(inputs["tokens"]) if inputs.get("tokens") else None
    records = lineage(artifacts)
    facts = data_facts(artifacts, records, [Path(each) for each in inputs.get("evaluation_sets") or []], tokens)
    final = next(a for a in artifacts if a.step == facts["described"] and a.manifest.get("digest") == facts["digest"])
    naming = Naming(
        name=config.title,
        description=config.description or summary(facts),
        licences=licences(facts) or ["unknown"],
        url=config.url,
        published=(final.manifest.get("provenance", {}).get("finished") or "")[:10] or None,
        version=config.version,
        creator=config.creator,
    )
    write_json(out / "data-card.json", {"format": 1, "title": config.title, **facts})
    write_json(out / "croissant.json", croissant(naming, final, facts, rai(facts)))
    write_text(out / "data-card.md", data_card(naming, facts))
    write_text(out / "data-card.html", _render(card_page(naming, facts, records)))
    return {
        "page": "data-card.html",
        "documents": facts["documents"],
        "bytes": facts["bytes"],
        "gaps": len(facts["gaps"]),
    }


def _render(context: dict[str, Any]) -> str:
    """The page. Everything in it that came from a text or a user is escaped; it holds no script."""
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
        "commas": lambda number: f"{number:,}",
        "tojson_plain": lambda value: json.dumps(value, ensure_ascii=False),
    }
    assert environment.loader is not None
    css = "\n".join(environment.loader.get_source(environment, name)[0] for name in ("report.css", "data_card.css"))
    return environment.get_template("data_card.html.jinja").render(css=Markup(css), **context)


STAGE = Stage(
    name="data-card",
    version=1,
    config=DataCardConfig,
    inputs={
        "of": Input(kinds=("documents",), many=True),
        "evaluation_sets": Input(kinds=("documents",), many=True, required=False),
        "tokens": Input(kinds=("tokens",), required=False),
    },
    output="report",
    run=run,
    help="Write what documents are and how they came about: a page, a hub card and Croissant metadata.",
    volatile=("data-card.html", "croissant.json"),
)
