"""The data card says what the artifacts hold: its numbers are those of the Parquet files, and every flow adds up."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from headless import chromium
from small_pipeline import lmcraft

from lmcraft.recipe.stage import Runtime, UserError
from lmcraft.reporting.artifacts import Artifact
from lmcraft.reporting.data_card import STAGE, DataCardConfig
from lmcraft.reporting.data_card_facts import without_personal_data
from lmcraft.reporting.data_card_flow import flow

XSS = "<script>alert(1)</script>"
SECRET = "anna.example@mail.org"
RECIPE = {
    "name": "card",
    "runtime": {"workers": 1},
    "steps": {
        "collect": {
            "stage": "collect",
            "sources": [
                {"kind": "folder", "name": "mine", "path": "mine", "licence": "CC-BY-4.0", "language": "en"},
                {"kind": "folder", "name": "theirs", "path": "theirs", "language": "fr"},
            ],
        },
        "items": {"stage": "collect", "sources": [{"kind": "folder", "name": "quiz", "path": "quiz"}]},
        "curate": {
            "stage": "curate",
            "documents": "collect",
            "evaluation_sets": ["items"],
            "steps": [
                {"length": {"min_characters": 5}},
                {"mask": {}},
                {"exact": {}},
                {"near": {}},
                {"decontaminate": {}},
                {"demographics": {}},
                {"length": {"min_characters": 60}},
                {"balance": {"by": ["language"], "method": "temperature", "temperature": 4}},
            ],
        },
        "again": {"stage": "curate", "documents": "curate", "steps": [{"length": {"min_characters": 75}}]},
        "card": {
            "stage": "data-card",
            "of": ["again", "collect", "curate"],
            "evaluation_sets": ["items"],
            "title": f"Card {XSS}",
        },
    },
}
QUESTION = "How many wooden boats cross the narrow river between seven and nine on a cold morning in the winter"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Step -> directory of its artifact."""
    folder = tmp_path_factory.mktemp("card")
    write(
        folder / "mine" / "a.jsonl", [*(english(n) for n in range(60)), english(3), "tiny", "no", XSS + " short text"]
    )
    with (folder / "mine" / "a.jsonl").open("a") as file:
        file.write('{broken\n{"text": ""}\n["a list"]\n{broken ' + SECRET + "\n")
    write(folder / "mine" / "b.jsonl", [f"{english(100)} {QUESTION}? Nobody knows.", english(5) + " And a tail."])
    write(folder / "theirs" / "c.jsonl", [french(n) for n in range(20)])
    write(folder / "quiz" / "q.jsonl", [QUESTION, f"Another question of {english(999)}"])
    (folder / "card.yaml").write_text(yaml.safe_dump(RECIPE))
    said = lmcraft(folder, ["run", "card.yaml"])
    assert said.code == 0, said.err
    found = {}
    for path in (folder / "store" / "artifacts").iterdir():
        found[json.loads((path / "manifest.json").read_text())["step"]] = path
    return found


@pytest.fixture(scope="module")
def facts(run: dict[str, Path]) -> dict[str, Any]:
    return json.loads((run["card"] / "data-card.json").read_text(encoding="utf-8"))


def english(seed: int) -> str:
    names = ("garden", "window", "letter", "captain", "engine", "forest", "island", "silver")
    woman = "She wrote to " + SECRET if seed % 3 == 0 else "He read it twice"
    words = " ".join(f"{names[(seed * 7 + n * n) % 8]}{seed * 31 + n}" for n in range(3 + seed % 9))
    return f"{woman} about the {words}{XSS if seed == 7 else ''}."


def french(seed: int) -> str:
    return (
        f"Le fleuve numéro {seed} coule vers la mer près de la ville {seed * 17}, et la nuit {seed + 3} il fait froid."
    )


def write(path: Path, texts: list[str]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")


def rows(directory: Path, kind: str) -> list[dict[str, Any]]:
    return [row for path in sorted(directory.glob(f"{kind}-*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_every_step_of_the_flow_adds_up(facts: dict[str, Any]) -> None:
    steps = facts["flow"]
    assert [step["step"] for step in steps][:3] == ["collect", "length", "mask"]
    assert [step["artifact"] for step in steps if step["step"] == "length"] == ["curate", "again"]
    for before, step in zip([None, *steps], steps, strict=False):
        for name, more in (("documents", "added"), ("bytes", "rewritten")):
            removed = sum(entry[name] for entry in step["removed"])
            assert step["in"][name] + step[more] == removed + step["out"][name], step
            assert before is None or before["out"][name] == step["in"][name]
        assert step["added"] == 0
        assert step["rewritten"] == 0 or step["step"] == "mask"
    assert steps[0]["in"] == facts["collected"]
    assert steps[-1]["out"] == {name: facts[name] for name in ("documents", "bytes")}


def test_reasons_are_charged_to_the_steps_that_removed_for_them(facts: dict[str, Any], run: dict[str, Path]) -> None:
    for step in ("collect", "curate", "again"):
        drawn: Counter[str] = Counter()
        for each in facts["flow"]:
            if each["artifact"] == step:
                drawn.update({entry["reason"]: entry["documents"] for entry in each["removed"]})
        assert drawn == Counter(row["reason"] for row in rows(run[step], "removed"))
    of = {(e["artifact"], e["step"]): {r["reason"] for r in e["removed"]} for e in facts["flow"]}
    assert of["curate", "exact"] == {"exact duplicate"}
    assert of["curate", "decontaminate"] == {"evaluation overlap"}
    # Both steps remove what is too short; the counts before and after each say how much.
    assert of["curate", "length"] == of["curate", "length 2"] == {"too short"}


def test_numbers_are_those_of_the_parquet_files(facts: dict[str, Any], run: dict[str, Path]) -> None:
    kept = rows(run["again"], "documents")
    assert facts["described"] == "again"
    assert facts["documents"] == len(kept)
    assert facts["bytes"] == sum(len(row["text"].encode()) for row in kept)
    assert facts["characters"] == sum(len(row["text"]) for row in kept)
    assert facts["seen"]["documents"] == sum(row["repeats"] or 1 for row in kept)
    assert sum(row["documents"] for row in facts["lengths"]) == len(kept)
    collected = rows(run["collect"], "documents")
    for name, listed in facts["composition"].items():
        for side, all_rows in (("kept", kept), ("collected", collected)):
            counted = Counter(row[name] or "(none)" for row in all_rows)
            for row in listed:
                assert row[side] is None or row[side]["documents"] == counted[row["value"]]
    for entry in facts["removed"]:
        gone = [row for row in rows(run[entry["artifact"]], "removed") if row["reason"] == entry["reason"]]
        assert entry["documents"] == len(gone)
        assert entry["sources"] == Counter(row["source"] for row in gone)
        assert len(entry["samples"]) == min(20, len(gone))
    email = facts["personal_data"]["kinds"]["email"]
    assert email["placeholders"] == sum(row["text"].count("<EMAIL>") for row in kept) > 0
    bad = {reason: entry["documents"] for reason, entry in facts["bad_records"].items()}
    assert bad == {"malformed JSON": 2, "empty text": 1, "not a JSON object": 1}
    sets = facts["decontamination"]["sets"]
    assert sets == {"quiz": {"items": 2, "checked": 2, "touched": 1, "found": 1, "documents": 1}}


def test_markdown_and_page_say_the_same_numbers(facts: dict[str, Any], run: dict[str, Path]) -> None:
    markdown = (run["card"] / "data-card.md").read_text(encoding="utf-8")
    page = Page((run["card"] / "data-card.html").read_text(encoding="utf-8"))
    assert f"| kept | {facts['documents']} | {facts['bytes']} |" in markdown
    for step in facts["flow"]:
        assert f"| {step['out']['documents']} | {step['out']['bytes']} |" in markdown
        assert f"{step['out']['documents']:,} documents" in page.text
    for entry in facts["removed"]:
        assert re.search(rf"\| {entry['documents']} \| {entry['bytes']} \|", markdown)
    for gap in facts["gaps"]:
        assert gap in page.text


def test_gaps_are_told(facts: dict[str, Any]) -> None:
    gaps = " ".join(facts["gaps"])
    assert "Sources without a declared licence of their own: theirs." in gaps
    assert "of the text has no stated licence" in gaps
    assert "Not measured: toxic language and sexual content." in gaps
    assert "Number of tokens: not measured" in gaps
    assert "near duplicates" not in gaps


def test_personal_data_is_nowhere_even_in_samples_removed_before_masking(run: dict[str, Path]) -> None:
    assert any(SECRET in row["text"] for row in rows(run["collect"], "removed"))
    for path in run["card"].iterdir():
        assert SECRET not in path.read_text(encoding="utf-8"), path.name
    assert without_personal_data(f"to {SECRET}.") == "to <EMAIL>."


class Page(HTMLParser):
    """Tags, links and the text as a reader sees it, in one line."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.handlers: list[str] = []
        self.text = ""
        self.feed(html)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "action")]
        self.ids |= {value or "" for name, value in attrs if name == "id"}
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_closed_and_text_never_becomes_markup(run: dict[str, Path]) -> None:
    html = (run["card"] / "data-card.html").read_text(encoding="utf-8")
    page = Page(html)
    assert not {"script", "img", "link", "iframe", "form"} & page.tags
    assert not page.handlers
    assert page.links and {link[1:] for link in page.links} <= page.ids
    assert html.count("&lt;script&gt;") >= 3
    assert "url(" not in html and "@import" not in html


def test_the_hub_reads_the_front_matter(run: dict[str, Path]) -> None:
    from huggingface_hub import DatasetCard

    card = DatasetCard.load(run["card"] / "data-card.md")
    assert card.data.language == ["en", "fr"]
    assert card.data.license == "other" and card.data.license_name == "CC-BY-4.0"
    assert card.data.size_categories == ["n<1K"]
    assert card.data.pretty_name == f"Card {XSS}"
    assert "<script" not in card.text


def test_the_same_artifacts_give_the_same_facts(run: dict[str, Path], tmp_path: Path) -> None:
    of = [run[step] for step in ("collect", "curate", "again")]
    config = DataCardConfig(title=f"Card {XSS}")
    STAGE.run(config, {"of": of, "evaluation_sets": [run["items"]]}, tmp_path, Runtime())
    assert (tmp_path / "data-card.json").read_bytes() == (run["card"] / "data-card.json").read_bytes()
    assert (tmp_path / "data-card.md").read_bytes() == (run["card"] / "data-card.md").read_bytes()


def test_what_was_not_given_is_said_and_not_guessed(run: dict[str, Path], tmp_path: Path) -> None:
    STAGE.run(DataCardConfig(), {"of": [run["again"]]}, tmp_path, Runtime())
    facts = json.loads((tmp_path / "data-card.json").read_text())
    assert facts["collected"] is None or facts["collected"] == {}
    assert facts["flow"][0]["in"] == {
        name: json.loads((run["curate"] / "statistics.json").read_text())[name] for name in ("documents", "bytes")
    }
    page = Page((tmp_path / "data-card.html").read_text())
    assert "Not measured." in page.text


def test_a_step_that_makes_documents_is_told_from_one_that_removes(tmp_path: Path) -> None:
    gone = {"exact duplicate": {"documents": 3, "bytes": 30}}
    stored = {
        "documents": 12,
        "bytes": 120,
        "in": {"documents": 10, "bytes": 100},
        "removed": {reason: {**tally, "samples": []} for reason, tally in gone.items()},
        "flow": {
            "counterfactual": {"documents": 15, "bytes": 150, "removed": {}},
            "exact": {"documents": 12, "bytes": 120, "removed": gone},
            "split": {"documents": 12, "bytes": 120, "removed": {}},
        },
    }
    (tmp_path / "statistics.json").write_text(json.dumps(stored))
    told = flow(Artifact(tmp_path, {"config": {}}, "documents", "curate"), {"documents": 10, "bytes": 100})
    assert [(step["step"], step["added"], step["out"]["documents"]) for step in told] == [
        ("counterfactual", 5, 15),
        ("exact", 0, 12),
        ("split", 0, 12),
    ]
    assert told[1]["removed"] == [{"reason": "exact duplicate", "documents": 3, "bytes": 30}]


def test_two_collections_are_one_stream_and_unnamed_sources_are_found(tmp_path: Path) -> None:
    for name in ("first", "second"):
        write(tmp_path / name / "a.jsonl", [english(n) + name for n in range(12)])
    recipe = {
        "name": "two",
        "runtime": {"workers": 1},
        "steps": {
            "one": {"stage": "collect", "sources": [{"kind": "folder", "path": "first", "licence": "MIT"}]},
            "two": {"stage": "collect", "sources": [{"kind": "folder", "path": "second", "licence": "CC0-1.0"}]},
            "curate": {"stage": "curate", "documents": ["one", "two"], "steps": [{"length": {}}]},
            "card": {"stage": "data-card", "of": ["one", "two", "curate"]},
        },
    }
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(recipe))
    said = lmcraft(tmp_path, ["run", "two.yaml"])
    assert said.code == 0, said.err
    card = next((tmp_path / "store" / "artifacts").glob("data-card-*"))
    facts = json.loads((card / "data-card.json").read_text())
    assert [step["step"] for step in facts["flow"]] == ["collect", "length", "split"]
    assert facts["flow"][0]["in"]["documents"] == facts["collected"]["documents"] == 24
    assert {row["name"]: (row["kind"], row["licence"]) for row in facts["sources"]} == {
        "first": ("folder", "MIT"),
        "second": ("folder", "CC0-1.0"),
    }
    assert {row["value"] for row in facts["composition"]["source"]} == {"first", "second"}


def test_documents_without_manifests_have_a_card_too(run: dict[str, Path], tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(run["curate"], bare)
    (bare / "manifest.json").unlink()
    out = tmp_path / "out"
    out.mkdir()
    STAGE.run(DataCardConfig(), {"of": [bare]}, out, Runtime())
    facts = json.loads((out / "data-card.json").read_text())
    assert facts["documents"] == len(rows(bare, "documents"))


def test_documents_that_are_not_of_one_line_are_refused(run: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not made of one another"):
        STAGE.run(DataCardConfig(), {"of": [run["again"], run["items"]]}, tmp_path, Runtime())


def test_a_damaged_shard_is_one_sentence(run: dict[str, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(run["curate"], broken)
    next(broken.glob("removed-*.parquet")).write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        STAGE.run(DataCardConfig(), {"of": [broken]}, tmp_path, Runtime())


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_the_card_fits_the_screen(run: dict[str, Path], tmp_path: Path, width: int) -> None:
    with chromium(tmp_path) as browser:
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.get((run["card"] / "data-card.html").as_uri())
        # With all samples open, so that no long word hides in a closed one.
        browser.execute_script("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
        bands = browser.find_elements("css selector", ".stream svg")
        labels = browser.find_elements("css selector", ".stream .label")
        assert len(bands) == len(labels) > 10
        for band, label in zip(bands, labels, strict=True):
            assert band.rect["width"] >= 80 and abs(band.rect["y"] - label.rect["y"]) <= 2
        assert not browser.get_log("browser")
