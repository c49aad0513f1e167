"""Curate: what goes in is what stays plus what was removed, with a reason; a killed run ends in the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from corpora import Killed, KillingProgress, contents, rows, sentence, statistics, write_lines
from pydantic import ValidationError

from lmcraft.corpus import curate
from lmcraft.corpus.documents import read_documents
from lmcraft.recipe.stage import Runtime, UserError

Make = Callable[..., Path]


@pytest.fixture
def documents(tmp_path: Path, collected: Make) -> Path:
    """300 documents in several shards, among them some for every reason of removal."""
    records: list[dict[str, object]] = [{"text": sentence(n), "language": "en"} for n in range(290)]
    records += [{"text": "Short."}, {"text": sentence(3).upper()}, {"text": sentence(4)[:-1] + " again!"}]
    records += [{"text": "Les rivières coulent vers la mer, et la mer n'est jamais pleine du tout.", "language": "en"}]
    records += [{"text": "Écrivez à jean@example.org ou appelez le 01 23 45 67 89 avant la fin de la semaine."}]
    records += [{"text": f"{sentence(400)} It was a cafÃ©\r\nof\x07 the old kind."}]
    write_lines(tmp_path / "texts" / "a.jsonl", records)
    return collected(tmp_path / "texts", stage={"shard_documents": 70})


def test_everything_is_kept_or_removed_for_a_reason(documents: Path, curated: Make) -> None:
    out = curated(documents)
    before = {row["id"]: row for row in rows(documents)}
    kept = {row["id"]: row for row in rows(out)}
    removed = {row["id"]: row for row in rows(out, "removed")}
    assert before.keys() == kept.keys() | removed.keys()
    assert not kept.keys() & removed.keys()
    stats = statistics(out)
    assert stats["in"]["documents"] == len(before)
    assert stats["documents"] == len(kept) == sum(batch.num_rows for batch in read_documents(out))
    assert {reason: item["documents"] for reason, item in stats["removed"].items()} == {
        "exact duplicate": 1,
        "language differs from the declared one": 1,
        "near duplicate": 1,
        "too short": 1,
    }
    assert stats["in"]["bytes"] == sum(len(row["text"].encode()) for row in before.values())
    assert stats["steps"]["near"]["signature"].startswith("lmcraft-minhash-2 ")
    for row in removed.values():
        assert row["value"] is not None
        assert row["reason"] == "exact duplicate" or row["threshold"] is not None
        if "duplicate" in row["reason"]:
            assert row["kept_id"] in kept
    assert stats["changes"] == {"language detected": 3, "masked email": 1, "masked phone": 1, "repaired": 1}
    (french,) = [row for row in kept.values() if row["language"] == "fr"]
    assert french["text"].startswith("Écrivez à <EMAIL> ou appelez le <PHONE> avant")
    (mended,) = [row for row in kept.values() if "repaired" in row["changes"]]
    assert mended["text"].endswith("It was a café\nof the old kind.")


def test_a_killed_run_continues_to_the_same_bytes(documents: Path, tmp_path: Path) -> None:
    config = curate.CurateConfig()
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    curate.run(config, {"documents": documents}, whole, Runtime(workers=1, scratch=tmp_path / "other"))
    kills = 0
    for reports in range(2, 40):
        try:
            progress = KillingProgress(reports)
            curate.run(
                config, {"documents": documents}, killed, Runtime(workers=1, scratch=tmp_path / "s", progress=progress)
            )
        except Killed:
            kills += 1
        else:
            break
    assert kills > 3
    assert contents(killed) == contents(whole)


def test_shards_do_not_decide_what_is_removed(documents: Path, collected: Make, curated: Make, tmp_path: Path) -> None:
    one = collected(tmp_path / "texts", name="one shard")
    texts = [
        [(row["id"], row["text"], row["split"]) for row in rows(curated(source, name=f"curated {number}"))]
        for number, source in enumerate((documents, one))
    ]
    assert texts[0] == texts[1]


def test_steps_run_in_the_order_of_the_recipe(documents: Path, curated: Make) -> None:
    steps = [{"exact": {}}, {"length": {"min_characters": 40, "max_characters": 10_000}}, {"exact": {}}, {"repair": {}}]
    stats = statistics(curated(documents, steps=steps))
    assert set(stats["removed"]) == {"exact duplicate", "too short"}
    assert "near" not in stats["steps"]
    assert statistics(curated(documents, name="none", steps=[]))["documents"] == len(rows(documents))


def test_nothing_left_says_which_rule_removed_how_many(documents: Path, curated: Make) -> None:
    with pytest.raises(UserError, match=r"every document \(296 as 'too short'\); relax"):
        curated(documents, steps=[{"length": {"min_characters": 10_000}}])


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"nearr": {}}, "did you mean 'near'"),
        ({"near": {}, "exact": {}}, "a step is one of"),
        ({"near": {"agre": 0.5}}, "agre"),
        ({"length": {"min_characters": 5, "max_characters": 1}}, "must not be less"),
        ({"mask": {"kinds": ["nickname"]}}, "email"),
    ],
)
def test_a_wrong_step_is_refused(step: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        curate.CurateConfig.model_validate({"steps": [step]})


def test_the_identity_names_each_step_alone() -> None:
    # A step that is added later must not change the identity of recipes that do not use it.
    config = curate.CurateConfig.model_validate({"steps": [{"exact": {}}]})
    (step,) = config.identity()["steps"]
    assert list(step) == ["exact"]
    assert curate.CurateConfig.model_json_schema()["properties"]["steps"]["type"] == "array"


@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_damaged_documents_are_named(documents: Path, curated: Make, damage: str) -> None:
    for path in documents.glob("documents-*.parquet"):
        path.write_bytes(path.read_bytes()[:200]) if damage == "cut" else path.unlink()
    with pytest.raises(UserError, match=r"cannot be read as Parquet|holds no documents"):
        curated(documents)


def test_held_out_documents_are_read_apart(documents: Path, curated: Make) -> None:
    out = curated(documents, heldout=0.2)
    heldout = [row for batch in read_documents(out, ["id"], split="heldout") for row in batch["id"].to_pylist()]
    train = [row for batch in read_documents(out, ["id"], split="train") for row in batch["id"].to_pylist()]
    assert 30 < len(heldout) < 90
    assert sorted(heldout + train) == sorted(row["id"] for row in rows(out))
