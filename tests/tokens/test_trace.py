"""From any token back to the bytes it came from; from a document to all that was made of it; and out, for good."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from small_pipeline import Said, lmcraft
from small_texts import write_texts

from lmcraft.corpus.removals import Removal, Removals, add_removals, read_removals
from lmcraft.recipe.stage import UserError
from lmcraft.tokens.tokenizer import Tokenizer

RECIPE = """
name: letters
runtime: {workers: 1, compile: "off"}
steps:
  collect:
    stage: collect
    sources:
      - {kind: folder, path: my-texts}
  others:
    stage: collect
    sources:
      - {kind: folder, path: other-texts}
  curate:
    stage: curate
    documents: [collect, others]
    steps: [{repair: {}}, {length: {min_characters: 40}}, {exact: {}}]
  index: {stage: index, documents: [curate]}
  tokenizer: {stage: tokenizer, documents: curate, vocab_size: 600}
  tokens: {stage: tokens, documents: curate, tokenizer: tokenizer, shard_tokens: 9000}
  pretrain:
    stage: pretrain
    tokens: tokens
    tokenizer: tokenizer
    depth: 1
    hidden_size: 64
    context: 64
    train_tokens: 4096
    batch_tokens: 1024
    evaluations: 1
    heldout_tokens: 500
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trace")
    write_texts(folder / "my-texts", documents=150)
    (folder / "other-texts").mkdir()
    (folder / "other-texts" / "one.txt").write_text("A note that somebody else has written, and that stays. " * 5)
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    assert say(folder, "run", "recipe.yaml").code == 0
    return folder


def say(folder: Path, *arguments: str) -> Said:
    said = lmcraft(folder, arguments)
    assert said.code in (0, 2), said.err
    return said


def told(folder: Path, *arguments: str) -> Any:
    said = say(folder, *arguments, "--json")
    assert said.code == 0, said.err
    return json.loads(said.out)


def artifact(folder: Path, step: str) -> Path:
    return folder / say(folder, "show", f"letters/{step}", "--path").out.strip()


def documents(folder: Path, step: str, kind: str = "documents") -> list[dict[str, Any]]:
    return [
        row
        for path in sorted(artifact(folder, step).glob(f"{kind}-*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]


def test_every_token_leads_to_its_bytes(built: Path) -> None:
    place = artifact(built, "tokens")
    tokenizer = Tokenizer.load(artifact(built, "tokenizer"))
    texts = {row["id"]: row for row in documents(built, "curate")}
    first = np.load(place / "train-00000.npy")
    second = np.load(place / "train-00001.npy")
    for position in (0, 1, 700, 5000, len(first) - 1, len(first), len(first) + 777):
        found = told(built, "trace-token", "tokens", "--position", str(position))
        shard, within = (0, position) if position < len(first) else (1, position - len(first))
        token = int((first, second)[shard][within])
        assert (found["shard"], found["offset"], found["token"]["id"]) == (shard, within, token)
        assert found["checked"]
        assert found["token"]["boundary"] == (token in (tokenizer.bos_id, tokenizer.eos_id))
        row = texts[found["trace"]["document"]["id"]]
        if found["in_text"] is not None and not found["token"]["boundary"]:
            begin, end = found["in_text"]
            assert row["text"].encode()[begin:end] == tokenizer.token_bytes(token)
        again = told(built, "trace-token", "pretrain", "--position", f"{shard}:{within}")
        assert again == found


def test_the_original_bytes_are_shown_and_checked(built: Path, tmp_path: Path) -> None:
    row = next(row for row in documents(built, "curate") if row["path"] == "articles.jsonl:30")
    lines = (built / "my-texts" / "articles.jsonl").read_bytes().splitlines(keepends=True)
    found = told(built, "trace-document", row["id"], "--original", "my-texts")
    assert found["original"]["unchanged"]
    assert found["original"]["offset"] == sum(len(line) for line in lines[:29])
    assert found["original"]["bytes"].encode() == b"".join(lines[29:])[:400]
    assert found["origin"]["file"] == "my-texts/articles.jsonl"
    shutil.copytree(built / "my-texts", tmp_path / "changed")
    with (tmp_path / "changed" / "articles.jsonl").open("a") as file:
        file.write("\n")
    assert not told(built, "trace-document", row["id"], "--original", str(tmp_path / "changed"))["original"][
        "unchanged"
    ]
    assert "holds no file 'articles.jsonl'" in say(built, "trace-document", row["id"], "--original", "store").err


def test_a_document_leads_to_its_steps_tokens_and_models(built: Path) -> None:
    train = next(row for row in documents(built, "curate") if row["split"] == "train" and row["title"])
    found = told(built, "trace-document", train["id"][:12])
    assert [(step["step"], step["state"]) for step in found["steps"]] == [("collect", "kept"), ("curate", "kept")]
    assert found["steps"][1]["steps"] == ["repair", "length", "exact"]
    assert found["document"]["licence"] == train["licence"]
    (place,) = found["tokens"]
    tokens = np.load(artifact(built, "tokens") / f"train-{place['shard']:05d}.npy")[place["begin"] : place["end"]]
    text = Tokenizer.load(artifact(built, "tokenizer")).decode(tokens.tolist())
    assert train["text"] in text
    used = {use["step"]: use["how"] for use in found["used"]}
    assert used["pretrain"] == "trained on tokens that hold it"
    assert set(used) == {"index", "tokenizer", "pretrain"}
    heldout = next(row for row in documents(built, "curate") if row["split"] == "heldout")
    used = {use["step"]: use["how"] for use in told(built, "trace-document", heldout["id"])["used"]}
    assert used["pretrain"].startswith("held out")


def test_a_removed_document_says_by_which_rule_and_for_whom(built: Path) -> None:
    removed = documents(built, "curate", "removed")
    double = next(row for row in removed if row["reason"] == "exact duplicate")
    found = told(built, "trace-document", double["id"])
    assert found["steps"][1]["state"] == "removed"
    assert found["steps"][1]["kept_id"] == double["kept_id"]
    assert found["tokens"] == found["used"] == []
    text = say(built, "trace-document", double["id"]).out
    assert f"removed: exact duplicate (1, limit 1), for the sake of {double['kept_id']}" in text or (
        f"removed: exact duplicate, for the sake of {double['kept_id']}" in text
    )


def test_a_text_is_found_in_what_a_model_was_trained_on(built: Path) -> None:
    row = next(row for row in documents(built, "curate") if row["path"] == "articles.jsonl:31")
    found = told(built, "overlap", "pretrain", row["text"].upper())
    assert found["verbatim"] == 1.0
    assert row["id"] in [match["document"]["id"] for match in found["matches"]]
    assert "longest common run" in say(built, "overlap", "index", row["text"]).out
    assert "no index of the documents" in say(built, "overlap", "collect", row["text"]).err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trace-document", "00000000"], "no document in the store"),
        (["trace-document", "--source", "my-texts"], "documents fit"),
        (["trace-document"], "say which document"),
        (["trace-token", "tokens", "--position", "99999999"], "so there is no token 99999999"),
        (["trace-token", "tokens", "--position", "9:0"], "has no token 0 in train shard 9"),
        (["trace-token", "tokens", "--position", "x"], "neither a number nor SHARD:PLACE"),
        (["trace-token", "curate", "--position", "1"], "stands on 0 artifacts of tokens"),
        (["remove"], "say what to remove"),
        (["remove", "--path", "x"], "give its name with --source"),
        (["remove", "--document", "00000000"], "no document '00000000' in the store"),
        (["remove", "--file", "recipe.yaml"], "'name: letters' is no rule"),
        (["overlap", "index"], "give one of"),
        (["overlap", "index", "two words"], "has 2 words"),
    ],
)
def test_mistakes_are_sentences(built: Path, arguments: list[str], message: str) -> None:
    said = say(built, *arguments)
    assert said.code == 2
    assert message in said.err
    assert not (built / "store" / "removals.jsonl").exists()


def test_a_removed_document_leaves_everything_at_the_next_run(built: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(built, tmp_path / "copy"))
    copies = documents(folder, "curate", "removed")
    twin = next(row for row in copies if row["reason"] == "exact duplicate")
    victim = next(row for row in documents(folder, "curate") if row["id"] == twin["kept_id"])
    old = {step: artifact(folder, step).name for step in ("collect", "curate", "tokens", "pretrain")}

    noted = told(folder, "remove", "--document", victim["id"], "--reason", "the author asked")
    assert set(noted["hold"]) == {old["collect"], old["curate"]}
    assert {old["tokens"], old["pretrain"]} < {each["artifact"] for each in noted["stand_on"]}
    assert noted["recipes"] == ["letters"]
    assert [each["id"] for each in noted["duplicates"]] == [twin["id"]]  # it would take the place
    assert told(folder, "remove", "--document", victim["id"], "--duplicates")["known"] == 1

    plan = {row["step"]: row for row in told(folder, "plan", "recipe.yaml")}
    assert plan["collect"]["state"] == "run"
    assert "stale because sources.removals (absent) ->" in plan["collect"]["reason"]
    assert plan["others"]["state"] == "done"  # its sources have nothing to do with it
    assert plan["pretrain"]["state"] == "wait"

    assert say(folder, "run", "recipe.yaml").code == 0
    for step in ("collect", "curate"):
        assert not {victim["id"], twin["id"]} & {row["id"] for row in documents(folder, step)}
        every = [*documents(folder, step), *documents(folder, step, "removed")]
        assert not any(victim["text"].casefold() in row["text"].casefold() for row in every)
    asked = [row for row in documents(folder, "collect", "removed") if row["reason"] == "removal requested"]
    assert {row["id"] for row in asked} == {victim["id"], twin["id"]}
    held = pq.read_table(artifact(folder, "tokens") / "documents.parquet")["id"].to_pylist()
    assert victim["id"] not in held
    assert all(artifact(folder, step).name != name for step, name in old.items())

    left = told(folder, "remove", "--list")
    assert len(left["removals"]) == 2
    assert set(left["hold"]) == {old["collect"], old["curate"]}  # until they are deleted
    assert left["recipes"] == []
    assert "gc --apply" in say(folder, "remove", "--list").out
    assert say(folder, "gc", "--apply").code == 0
    assert told(folder, "remove", "--list")["hold"] == {}
    assert all(row["state"] == "done" for row in told(folder, "plan", "recipe.yaml"))


def test_a_document_is_known_again_when_its_file_has_changed(built: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(built, tmp_path / "copy"))
    victim = next(row for row in documents(folder, "collect") if row["path"] == "articles.jsonl:40")
    say(folder, "remove", "--document", victim["id"])
    file = folder / "my-texts" / "articles.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join(lines[5:]), encoding="utf-8")  # so that every record has another place
    assert say(folder, "run", "recipe.yaml", "--until", "collect").code == 0
    rows = documents(folder, "collect")
    assert victim["text"] not in {row["text"] for row in rows}
    moved = [row for row in documents(folder, "collect", "removed") if row["reason"] == "removal requested"]
    assert [row["path"] for row in moved] == ["articles.jsonl:35"]
    assert moved[0]["text"] == ""


def test_a_file_and_a_list_are_removed(built: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(built, tmp_path / "copy"))
    (folder / "out.txt").write_text("# asked by mail\npath: story-fr.txt\ndomain: example.org\n\n")
    noted = told(folder, "remove", "--file", "out.txt", "--reason", "opt-out")
    assert [item["rule"] for item in noted["added"]] == ["domain: example.org", "path: story-fr.txt"]
    assert list(noted["hold"].values()) == [1, 1]
    assert say(folder, "run", "recipe.yaml", "--until", "collect").code == 0
    assert "story-fr.txt" not in {row["path"] for row in documents(folder, "collect")}
    assert say(folder, "remove", "--source", "my-texts").code == 0
    said = say(folder, "run", "recipe.yaml", "--until", "collect")
    assert "gave no document" in said.err
    assert "x removal requested" in said.err


def test_the_list_is_never_read_in_part(tmp_path: Path) -> None:
    path = tmp_path / "removals.jsonl"
    one = Removal("2026-01-01T00:00:00+00:00", "asked", source="s", document="d", text_sha256="t")
    assert add_removals(path, [one, one]) == [one]
    assert add_removals(path, [one]) == []
    assert read_removals(path).items == (one,)
    # When and why do not decide what is built.
    assert (
        Removals((one,)).sources()
        == Removals((Removal("later", "other", source="s", document="d", text_sha256="t"),)).sources()
    )
    assert Removals().sources() == []
    path.write_text(path.read_text() + '{"time": "x", "rea')
    with pytest.raises(UserError, match=r"line 2 is no removal"):
        read_removals(path)
    with pytest.raises(UserError, match="must name"):
        add_removals(tmp_path / "other.jsonl", [Removal("now", "why")])
