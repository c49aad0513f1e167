"""The store: whole artifacts or none, digests that see every byte, lineage that needs nothing but a manifest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lmcraft.recipe.stage import UserError
from lmcraft.store.identity import differences, identity_of, key_of
from lmcraft.store.lineage import lineage, print_lineage, why
from lmcraft.store.store import is_name, read_artifact


def test_a_key_does_not_depend_on_the_order_of_settings_and_sees_every_value() -> None:
    base = identity_of("s", 1, {"a": 1, "b": [1, 2]}, {"x": "0" * 64}, [])
    assert key_of(base) == key_of(identity_of("s", 1, {"b": [1, 2], "a": 1}, {"x": "0" * 64}, []))
    others = [
        identity_of("s", 2, {"a": 1, "b": [1, 2]}, {"x": "0" * 64}, []),
        identity_of("s", 1, {"a": 1, "b": [2, 1]}, {"x": "0" * 64}, []),
        identity_of("s", 1, {"a": 1.0, "b": [1, 2]}, {"x": "0" * 64}, []),
        identity_of("s", 1, {"a": 1, "b": [1, 2]}, {"x": "1" * 64}, []),
    ]
    assert len({key_of(each) for each in [base, *others]}) == 5
    assert list(differences(base, others[1])) == [("config.b.0", 1, 2), ("config.b.1", 2, 1)]


def test_manifests_carry_lineage_provenance_and_digests(house: Any, recipe_text: str, tmp_path: Path) -> None:
    artifacts = house.run(house.recipe(recipe_text))
    moved = tmp_path / "moved"
    shutil.copytree(artifacts["words"].path, moved)
    tree = lineage(read_artifact(moved))
    assert tree["inputs"][0]["step"] == "both"
    assert {node["step"]: node["sources"][0]["name"] for node in tree["inputs"][0]["inputs"]} == {
        "a": "a.txt",
        "b": "b.txt",
    }
    text = print_lineage(tree)
    assert "└─ text: both" in text
    assert "source a.txt  sha256 " in text
    provenance = artifacts["words"].manifest["provenance"]
    assert provenance["machine"]["cores"] >= 1
    assert provenance["packages"]["lmcraft"]
    assert str(tmp_path) not in json.dumps(artifacts["words"].manifest), "a manifest holds no machine's paths"


def test_why_names_the_field_down_to_the_first_cause(house: Any, recipe_text: str) -> None:
    old = house.run(house.recipe(recipe_text))
    new = house.run(house.recipe(recipe_text, "a.keep=3"))
    lines = why(old["words"], new["words"])
    assert any(line.startswith("inputs.text: ") for line in lines)
    assert "both: a: config.keep: 100 -> 3" in lines
    assert why(old["a"], old["a"])[0].endswith(f"(key {old['a'].key[:12]})")


def test_volatile_files_are_verified_but_stay_out_of_the_digest(house: Any, recipe_text: str) -> None:
    first = house.run(house.recipe(recipe_text))["both"]
    assert (first.path / "run.log").read_text() == "call 3"
    house.store.set_aside(first)
    second = house.run(house.recipe(recipe_text))["both"]
    assert (second.path / "run.log").read_text() == "call 1", "the volatile file must differ for this to mean anything"
    assert first.digest == second.digest
    (second.path / "run.log").write_text("changed!")
    assert "run.log" in second.damage(rehash=True)[0]


def test_nothing_is_collected_while_a_run_uses_the_store(house: Any, recipe_text: str) -> None:
    house.run(house.recipe(recipe_text))
    refused = pytest.raises(UserError, match="a run is using the store")
    with house.store.in_use(), house.store.in_use(), refused, house.store.alone():
        pass
    with house.store.alone():
        assert list((house.store.root / "locks").glob("run-*.lock")) == []


def test_what_cannot_be_read_is_never_garbage(house: Any, recipe_text: str) -> None:
    words = house.run(house.recipe(recipe_text))["words"]
    (words.path / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        house.store.garbage()
    house.store.set_aside(words)
    ref = house.store.root / "refs" / "small" / "words.json"
    ref.write_text("{}")
    with pytest.raises(UserError, match=r"words\.json is damaged; delete it"):
        house.store.garbage()


def test_every_kind_of_damage_is_seen(house: Any, recipe_text: str) -> None:
    artifact = house.run(house.recipe(recipe_text))["a"]
    assert artifact.damage(rehash=True) == []
    file = artifact.path / "text.txt"
    file.write_text("one")
    assert "has 3 bytes" in artifact.damage(rehash=False)[0]
    file.unlink()
    assert "missing" in artifact.damage(rehash=False)[0]
    file.write_text("one two")
    (artifact.path / "extra").write_text("x")
    assert "not in the manifest" in artifact.damage(rehash=False)[0]
    (artifact.path / "extra").unlink()
    manifest = artifact.path / "manifest.json"
    tampered = json.loads(manifest.read_text())
    tampered["provenance"]["seconds"] = 1e-9
    manifest.write_text(json.dumps(tampered))
    assert read_artifact(artifact.path).damage(rehash=True) == ["manifest.json is not as it was written"]
    tampered["config"]["keep"] = 1
    manifest.write_text(json.dumps(tampered))
    assert "the key is not that" in read_artifact(artifact.path).damage(rehash=True)[0]
    manifest.write_text(manifest.read_text()[:50])
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        read_artifact(artifact.path)


def test_a_manifest_cannot_point_out_of_its_folder(house: Any, recipe_text: str) -> None:
    artifact = house.run(house.recipe(recipe_text))["a"]
    manifest = json.loads((artifact.path / "manifest.json").read_text())
    manifest["files"]["../../secret"] = {"sha256": "0" * 64, "bytes": 1}
    (artifact.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="outside its folder"):
        read_artifact(artifact.path)


def test_names_resolve_and_mistakes_get_a_hint(house: Any, recipe_text: str) -> None:
    artifacts = house.run(house.recipe(recipe_text))
    store = house.store
    for name in (
        "small/words",
        "words",
        artifacts["words"].key[:8],
        artifacts["words"].name,
        str(artifacts["words"].path),
    ):
        assert store.resolve(name).key == artifacts["words"].key
    with pytest.raises(UserError, match="did you mean 'small/words'"):
        store.resolve("small/wrods")
    with pytest.raises(UserError, match="fits 2 artifacts"):
        store.resolve("read-")


def test_garbage_is_what_no_latest_run_needs(house: Any, recipe_text: str) -> None:
    old = house.run(house.recipe(recipe_text))
    assert house.store.garbage() == []
    new = house.run(house.recipe(recipe_text, "both.separator=_"))
    garbage = house.store.garbage()
    assert {path.name for path in garbage} == {old["both"].name} | (
        {old["words"].name} if old["words"].key != new["words"].key else set()
    )
    for path in garbage:
        house.store.remove(path)
    assert house.store.garbage() == []
    assert all(artifact.path.exists() for artifact in new.values())


@pytest.mark.parametrize("name", ["a/b", "..", "a:", "", "nul", "Con.txt", "x" * 65])
def test_what_is_no_file_name_on_some_system_is_no_name(name: str) -> None:
    assert not is_name(name)
    assert is_name("a-b_c.1")
