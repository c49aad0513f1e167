"""A recipe is checked whole before anything runs; each mistake is one sentence with file, line and the nearest word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from lmcraft.recipe.reference import markdown, recipe_schema
from lmcraft.recipe.stage import UserError


def test_steps_come_in_an_order_in_which_they_can_run(house: Any, recipe_text: str) -> None:
    lines = recipe_text.splitlines()
    backwards = "\n".join([*lines[:4], lines[-1], *lines[8:11], lines[4], *lines[5:8]])
    recipe = house.recipe(backwards)
    order = list(recipe.steps)
    assert sorted(order) == ["a", "b", "both", "words"]
    assert order.index("both") > max(order.index("a"), order.index("b"))
    assert [step.name for step in recipe.until("both")] == [name for name in order if name != "words"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("texts: [a, b]", "textz: [a, b]", "recipe.yaml:11: both.textz: unknown setting; did you mean 'texts'?"),
        ("texts: [a, b]", "separator: x", "recipe.yaml:9: both: stage join needs `texts:`"),
        ("path: b.txt", "path: b.txt\n    kepe: 3", "recipe.yaml:9: b.kepe: unknown setting; did you mean 'keep'?"),
        (
            "path: b.txt",
            "path: b.txt\n    keep: many",
            'recipe.yaml:9: b.keep: input should be a valid integer, not "many"',
        ),
        ("path: b.txt", "path: 7", "recipe.yaml:8: b.path: input should be a valid string, not 7"),
        ("[a, b]", "[a, bb]", "recipe.yaml:11: both.texts: refers to 'bb', which is no step; did you mean 'b'?"),
        ("text: both", "text: words", "words.text: takes text, but step 'words' gives number"),
        ("stage: join", "stage: jion", "recipe.yaml:10: both.stage: no stage 'jion'; did you mean 'join'?"),
        ("  workers: 1", "  worker: 1", "recipe.yaml:3: runtime.worker: unknown setting; did you mean 'workers'?"),
        ("name: small", "nam: small", "recipe.yaml:1: nam: unknown key; did you mean 'name'?"),
        ("name: small", "name: small\n5: x", "recipe.yaml:2: keys must be plain words"),
        ("name: small", "name: !!binary aGVq", "recipe.yaml:1: the YAML tag"),
        ("name: small", "name: a/b", "recipe.yaml:1: name: a recipe's name is letters"),
        ("    path: b.txt", "    path: b.txt\n    path: c.txt", "recipe.yaml:9: 'path' stands twice"),
        ("    stage: read", "    stage: read: x", "recipe.yaml:7: not valid YAML"),
        ("path: b.txt", "path: b\0.txt", "recipe.yaml:8: the character U+0000 has no place in YAML"),
        ("path: b.txt", "path: " + "[" * 20_000, "recipe.yaml: nested too deeply for a recipe"),
        ("path: b.txt", "path: " + "7" * 5_000, "recipe.yaml:8: not valid YAML: a number of 5,000 digits is too long"),
    ],
)
def test_a_mistake_is_named_with_its_line(house: Any, recipe_text: str, old: str, new: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        house.recipe(recipe_text.replace(old, new, 1))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_circle_of_steps_is_refused(house: Any) -> None:
    text = "steps:\n  x: {stage: join, texts: [z]}\n  y: {stage: join, texts: [x]}\n  z: {stage: join, texts: [y]}\n"
    with pytest.raises(UserError, match="circle: x -> z -> y -> x"):
        house.recipe(text)


def test_overrides_change_settings_and_are_named_in_errors(house: Any, recipe_text: str) -> None:
    recipe = house.recipe(recipe_text, "a.keep=3", "both.texts=[b]", "runtime.device=cuda")
    assert recipe.steps["a"].config.keep == 3
    assert recipe.steps["both"].inputs == {"texts": ["b"]}
    assert recipe.runtime.device == "cuda"
    for override, message in (
        ("a.kep=3", "--set a.kep=3: unknown setting; did you mean 'keep'?"),
        ("aa.keep=3", "--set aa.keep=3: no step 'aa'; did you mean 'a'?"),
        ("keep", "write it as step.key=value"),
        ("a.keep=[", "not a YAML value"),
        ("a.keep=" + "[" * 20_000, "nested too deeply"),
        ("a.keep=" + "7" * 5_000, "a number of 5,000 digits is too long"),
        ("a.keep.x=3", "--set a.keep.x=3"),
    ):
        with pytest.raises(UserError) as error:
            house.recipe(recipe_text, override)
        assert message in str(error.value)


def test_words_and_numbers_are_those_of_yaml_1_2(house: Any, recipe_text: str) -> None:
    recipe = house.recipe(recipe_text.replace("texts: [a, b]", "texts: [a, b]\n    separator: no"))
    assert recipe.steps["both"].config.separator == "no"
    from lmcraft.recipe.yaml import parse_value

    assert parse_value("1e-3") == 0.001
    assert parse_value("[on, 1.5, true, ~, 2026-01-01]") == ["on", 1.5, True, None, "2026-01-01"]


def test_the_schema_of_the_real_stages_accepts_the_quickstart_and_refuses_misspellings() -> None:
    from lmcraft.stages import STAGES

    schema = recipe_schema(STAGES)
    jsonschema.Draft202012Validator.check_schema(schema)
    document = yaml.safe_load((Path(__file__).parents[2] / "recipes" / "quickstart.yaml").read_text())
    jsonschema.validate(document, schema)
    document["steps"]["pretrain"]["dpeth"] = 3
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, schema)
    json.dumps(schema)


def test_the_generated_schema_and_reference_are_up_to_date() -> None:
    from lmcraft.stages import STAGES

    root = Path(__file__).parents[2]
    schema = (root / "recipes" / "recipe.schema.json").read_text()
    assert schema == json.dumps(recipe_schema(STAGES), indent=2) + "\n", "lmcraft schema > recipes/recipe.schema.json"
    page = (root / "docs" / "recipe-reference.md").read_text()
    assert page == markdown(STAGES) + "\n", "lmcraft schema --markdown > docs/recipe-reference.md"
