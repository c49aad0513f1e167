"""The recipes by domain: each can be planned, and does on a tiny input of the same form what it is for.

A mapping that misses the text, or a rule that removes good text for its form, is found here.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow.parquet as pq
import pytest
import yaml
from recipe_inputs import LAYOUTS, paragraphs, write

from lmcraft.corpus import documents
from lmcraft.corpus.collect import CollectConfig
from lmcraft.corpus.collect import run as collect
from lmcraft.corpus.curate import CurateConfig
from lmcraft.corpus.curate import run as curate
from lmcraft.recipe.plan import make_plan
from lmcraft.recipe.reference import recipe_schema
from lmcraft.recipe.schema import load_recipe
from lmcraft.recipe.stage import Runtime
from lmcraft.stages import STAGES
from lmcraft.store.store import Store

RECIPES = Path(__file__).parents[2] / "recipes"
DOMAINS = ("books", "law", "medicine", "code", "multilingual", "web")


@pytest.mark.parametrize("name", DOMAINS)
def test_a_recipe_fits_the_schema_and_can_be_planned(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jsonschema.validate(yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8")), recipe_schema(STAGES))
    LAYOUTS[name](tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(RECIPES / f"{name}.yaml", STAGES, settings_for(name))
    assert recipe.name == name
    assert "data-card" in recipe.steps
    runtime = Runtime(cache=tmp_path / "cache")
    planned = make_plan(recipe, Store(tmp_path / "store"), runtime, list(recipe.steps.values()))
    assert [each.step.name for each in planned] == list(recipe.steps)


def settings_for(name: str) -> list[str]:
    """`code` reads the library of this Python, which is too large for a test."""
    return ["collect.sources.0.path=data/code", "collect.sources.0.name=mine"] if name == "code" else []


def curated(name: str, folder: Path) -> tuple[list[dict[str, Any]], Counter[str], list[dict[str, Any]]]:
    """The documents that a recipe's own `collect` and `curate` keep, reasons of removal, and the removed ones."""
    steps = load_recipe(RECIPES / f"{name}.yaml", STAGES, settings_for(name)).steps
    config, chosen = steps["collect"].config, steps["curate"].config
    assert isinstance(config, CollectConfig)
    assert isinstance(chosen, CurateConfig)
    runtime = Runtime(workers=1, cache=folder / "cache", scratch=folder / "scratch")
    collect(config, {}, folder / "collected", runtime)
    curate(chosen, {"documents": [folder / "collected"]}, folder / "curated", runtime)
    kept = [row for batch in documents.read_documents(folder / "curated") for row in batch.to_pylist()]
    gone = [row for stage in ("collected", "curated") for path in sorted((folder / stage).glob("removed-*.parquet"))
            for row in pq.read_table(path).to_pylist()]  # fmt: skip
    return kept, Counter(row["reason"] for row in gone), gone


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(name: str) -> tuple[list[dict[str, Any]], Counter[str], list[dict[str, Any]]]:
        LAYOUTS[name](tmp_path / "data")
        monkeypatch.chdir(tmp_path)
        return curated(name, tmp_path)

    return run


def test_law_keeps_the_rules_and_drops_what_is_not_law(run: Any) -> None:
    kept, reasons, _ = run("law")
    assert reasons == {"no text": 1, "no records in XML": 1}
    texts = {row["path"].rpartition("/")[2]: row for row in kept}
    assert len(texts) == 31
    first = texts["1-0.xml"]
    assert first["title"] == "Of boards 0."
    assert first["licence"] == "public-domain"
    one, two = paragraphs("en", 20, 1)[0], paragraphs("en", 21, 1)[0]
    assert first["text"] == f"1-0\n\n(a) {one}\n\n(b) {two}"
    assert "The fee for a stall" in texts["1-90.xml"]["text"], "a section of one short sentence is law as well"


def test_medicine_keeps_questions_with_answers(run: Any) -> None:
    kept, reasons, _ = run("medicine")
    assert reasons == {"no answer": 30, "a list of links": 30}
    assert Counter(row["topic"] for row in kept) == {"information": 30, "inheritance": 30}
    row = next(row for row in kept if row["title"] == "Disease 7" and row["topic"] == "information")
    assert row["text"] == f"What is (are) Disease 7 ?\n\n{paragraphs('en', 30, 8)[7]}"
    assert row["url"] == "https://example.org/7"
    assert row["licence"] == "CC-BY-4.0"


def test_books_keep_verse_and_drama_and_balance_languages(run: Any) -> None:
    kept, reasons, gone = run("books")
    assert set(reasons) <= {"balance: en", "balance: fr", "balance: de", "unknown format"}
    seen = {Path(row["path"].partition("#")[0]).name for row in [*kept, *gone]}
    assert {"Verse.md", "Play.md", "FRA00_Nom.txt", "DEU00.xml"} <= seen
    assert not {"SOURCE.txt", "README.txt", "README.md"} & {Path(row["path"].partition("#")[0]).name for row in kept}
    german = next(row for row in kept if row["language"] == "de")
    assert german["title"].startswith("Buch ")
    assert "ELTeC" not in german["title"] + german["text"]
    assert "Fußnote" not in "".join(row["text"] for row in kept)
    size = Counter[str]()
    for row in kept:
        size[row["language"]] += len(row["text"].encode())
    total = sum(size.values())
    assert size["en"] / total == pytest.approx(0.5, abs=0.15)
    families: dict[str, set[str]] = {}
    for row in kept:
        families.setdefault(row["path"].partition("#")[0], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in families.values()), "a book is held out whole or not at all"


def test_multilingual_keeps_stories_of_every_script(run: Any) -> None:
    kept, reasons, _ = run("multilingual")
    stories = [row for row in kept if row["source"] == "pratham-stories"]
    assert Counter(row["language"] for row in stories)["hi"] == 12
    assert not [reason for reason in reasons if reason.startswith(("gopher", "language"))]
    assert all("* Text: A Writer" in row["text"] for row in stories), "CC BY asks for the names"
    assert max(row["repeats"] or 1 for row in stories) > 1, "small languages are seen more often"


def test_code_keeps_programs_with_their_licence(run: Any) -> None:
    kept, reasons, _ = run("code")
    assert {row["licence"] for row in kept} == {"Apache-2.0"}
    assert len(kept) >= 25
    assert reasons["a table of numbers"] == 1
    assert not [row for row in kept if not row["path"].endswith(".py")]
    assert "of <EMAIL>." in kept[0]["text"]
    assert "    def get(self):\n        return" in kept[0]["text"], "white space is part of the program"


def test_web_keeps_main_content_with_its_address(run: Any) -> None:
    kept, reasons, _ = run("web")
    assert len(kept) == 8, reasons
    assert {row["url"] for row in kept} == {f"https://example.org/{number}" for number in range(8)}
    for row in kept:
        assert paragraphs("en", 80 + int(row["url"][-1]), 5)[4] in row["text"]
        assert "About" not in row["text"]
        assert row["collected_at"] is not None


def test_packed_and_unpacked_texts_are_the_same_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `.tar.xz` of the files in place of the files."""
    found = []
    for form in ("files", "archive"):
        data = tmp_path / form / "data"
        LAYOUTS["law"](data)
        if form == "archive":
            with tarfile.open(data / "dc-code.tar.xz", "w:xz") as archive:
                archive.add(data / "dc-code/us", "us")
            shutil.rmtree(data / "dc-code")
            (data / "dc-code").mkdir()
            (data / "dc-code.tar.xz").rename(data / "dc-code/dc-code.tar.xz")
            write(data / "dc-code/SOURCE.txt", "where it is from")
        monkeypatch.chdir(tmp_path / form)
        kept, reasons, _ = curated("law", tmp_path / form)
        found.append((sorted(json.dumps([row["title"], row["text"]]) for row in kept), reasons))
    assert found[0] == found[1]
