"""Every step that needs no other input, in one recipe: how text is cut into batches and shards must not show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from corpora import batch_of, rows, sentence, statistics

from lmcraft.corpus import curate, documents
from lmcraft.corpus.steps.registry import STEPS
from lmcraft.recipe.stage import Runtime

NEEDS_INPUTS = {"quality", "topic", "perplexity", "decontaminate"}
TOO_SMALL = {"topics"}  # wants more text than there is here
SETTINGS: dict[str, dict[str, Any]] = {
    "segment": {"max_characters": 300},
    "boilerplate": {"min_documents": 5},
    "filter": {"rules": ["gopher-repetition"], "drop": {"shouting": "uppercase / letters > 0.5"}},
    "counterfactual": {"share": 0.5},
    "balance": {"by": ["source"], "method": "temperature"},
    "mask": {"reversible": True},
}
PAGE = (
    "<html lang='en'><head><title>{0}</title></head><body><nav>Home About</nav>"
    "<article><h1>{0}</h1><p>{1}</p></article></body></html>"
)


def corpus() -> list[dict[str, Any]]:
    """Prose, pages, code, duplicates, personal data, pronouns, other scripts, and texts that say nothing."""
    made: list[dict[str, Any]] = [{"text": sentence(n, 60), "source": "prose"} for n in range(40)]
    made += [{"text": sentence(n, 60) + " More.", "source": "copies"} for n in range(0, 40, 4)]
    made += [
        {
            "text": f"{sentence(200 + n, 40)}\nThis line stands on every page of the site.\n",
            "source": "site",
            "url": f"https://example.org/{n}",
        }
        for n in range(12)
    ]
    made += [
        {
            "text": PAGE.format(f"Page {n}", " ".join(sentence(300 + n + m) for m in range(5))),
            "format": "html",
            "source": "web",
        }
        for n in range(4)
    ]
    made += [
        {
            "text": f"He said that he saw his brother near the {n} boats. Write to a{n}@example.org now.",
            "source": "prose",
        }
        for n in range(6)
    ]
    made += [
        {"text": "这是一个关于河流的故事。河水流过山谷，流向大海。", "source": "other"},
        {"text": "WHY SHOUT AT ALL " * 8, "source": "other"},
    ]
    made += [
        {"text": " ", "source": "other"},
        {"text": "def f(x):\n    return {x: [1, 2, (3)]};\n" * 12, "source": "other"},
    ]
    return [
        row | {"id": f"{number:032x}", "path": f"{number}", "licence": "CC0-1.0"} for number, row in enumerate(made)
    ]


def stored(folder: Path, rows: list[dict[str, Any]], shards: int) -> Path:
    folder.mkdir()
    size = -(-len(rows) // shards)
    for index in range(shards):
        part = rows[index * size : (index + 1) * size]
        columns = {
            name: [row.get(name) for row in part] for name in ("id", "source", "path", "url", "format", "licence")
        }
        batch = batch_of([row["text"] for row in part], **columns)
        documents.write_parquet(folder / f"documents-{index:05d}.parquet", pa.Table.from_batches([batch]))
    return folder


def outcome(folder: Path) -> list[Any]:
    def plain(kind: str) -> list[str]:
        return sorted(repr(sorted(row.items(), key=str)) for row in rows(folder, kind))

    return [plain(kind) for kind in ("documents", "removed", "boilerplate", "personal-data", "errors")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    config = curate.CurateConfig.model_validate({"steps": everything()})
    curate.run(config, {"documents": stored(root / "in", corpus(), 3)}, root / "out", Runtime(workers=1))
    return root / "out"


def everything() -> list[dict[str, Any]]:
    """All steps in the order of the registry, those that cut and copy before those that compare."""
    return [{name: SETTINGS.get(name, {})} for name in STEPS if name not in NEEDS_INPUTS | TOO_SMALL]


def test_no_step_fails_and_every_document_is_accounted_for(whole: Path) -> None:
    stats = statistics(whole)
    assert not rows(whole, "errors")
    assert stats["in"]["documents"] == len(corpus())
    before = stats["in"]["documents"]
    for label, flow in stats["flow"].items():
        gone = sum(item["documents"] for item in flow["removed"].values())
        if label not in ("segment", "counterfactual"):
            assert before == flow["documents"] + gone, label
        before = flow["documents"]
    assert {row["step"] for row in rows(whole, "removed")} >= {"exact", "near", "filter"}
    assert rows(whole, "boilerplate") and rows(whole, "personal-data")


def test_batches_do_not_show(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "BATCH_BYTES", 700)
    config = curate.CurateConfig.model_validate({"steps": everything()})
    curate.run(config, {"documents": stored(tmp_path / "in", corpus(), 3)}, tmp_path / "out", Runtime(workers=1))
    assert outcome(tmp_path / "out") == outcome(whole)


def test_shards_do_not_show(whole: Path, tmp_path: Path) -> None:
    config = curate.CurateConfig.model_validate({"steps": everything()})
    curate.run(config, {"documents": stored(tmp_path / "in", corpus(), 7)}, tmp_path / "out", Runtime(workers=1))
    assert outcome(tmp_path / "out") == outcome(whole)


@pytest.mark.parametrize("order", [["segment", "counterfactual"], ["counterfactual", "segment"]])
def test_what_was_made_of_one_document_is_held_out_together(tmp_path: Path, order: list[str]) -> None:
    texts = [
        {
            "id": f"{n:032x}",
            "path": str(n),
            "source": "p",
            "text": f"He went to river {n}. She saw him and his dog there. " * 12,
        }
        for n in range(80)
    ]
    config = curate.CurateConfig.model_validate({"steps": [{name: SETTINGS[name]} for name in order], "heldout": 0.3})
    curate.run(config, {"documents": stored(tmp_path / "in", texts, 2)}, tmp_path / "out", Runtime(workers=1))
    sides: dict[str, set[str]] = {}
    for row in rows(tmp_path / "out"):
        sides.setdefault(row["parent"] or row["id"], set()).add(row["split"])
    assert set(sides) == {row["id"] for row in texts}
    assert all(len(side) == 1 for side in sides.values())
