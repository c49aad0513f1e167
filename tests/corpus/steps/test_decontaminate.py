"""Items of evaluation sets are found however they are written, finds are accounted for, a cut takes just them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from corpora import sentence

from lmcraft.corpus import documents
from lmcraft.corpus.step import Judged, Known
from lmcraft.corpus.steps import decontaminate as step
from lmcraft.corpus.steps.decontaminate import DECONTAMINATE, Decontaminate
from lmcraft.recipe.stage import Runtime, UserError

QUESTION = "A farmer has seventeen sheep and all but nine of them run away; how many sheep does the farmer have left?"
SHORT = "Which planet of ours is nearest to the sun?"
TOO_SHORT = "Who wrote Faust?"


def batch_of(texts: list[str], source: str = "mine") -> pa.RecordBatch:
    rows = [
        {
            "id": documents.document_id(source, str(n), text),
            "text": text,
            "source": source,
            "path": str(n),
            "changes": [],
        }
        for n, text in enumerate(texts)
    ]
    return pa.RecordBatch.from_pylist(rows, schema=documents.SCHEMA)


@pytest.fixture
def evaluation_set(tmp_path: Path) -> Path:
    return artifact(tmp_path / "riddles", "riddles", [QUESTION, SHORT, TOO_SHORT])


def artifact(folder: Path, source: str, texts: list[str]) -> Path:
    folder.mkdir()
    documents.write_parquet(folder / "documents-00000.parquet", pa.Table.from_batches([batch_of(texts, source)]))
    return folder


def known_of(config: Decontaminate, *sets: Path) -> Known:
    inputs = {"evaluation_sets": list(sets)}
    assert DECONTAMINATE.prepare is not None
    return Known(DECONTAMINATE.prepare(config, inputs, Runtime()), inputs)


def judge(texts: list[str], *sets: Path, **settings: Any) -> Judged:
    config = Decontaminate(**settings)
    return DECONTAMINATE.judge(batch_of(texts), config, known_of(config, *sets))


def findings(judged: Judged) -> list[dict[str, Any]]:
    return judged.aside[step.ASIDE].to_pylist() if judged.aside else []


@pytest.mark.parametrize(
    "written",
    [
        QUESTION,
        QUESTION.upper(),
        QUESTION.replace(" ", "\n  "),
        QUESTION.replace(";", " -- ").replace("?", ""),
        "".join(chr(ord(c) + 0xFEE0) if "a" <= c <= "z" else c for c in QUESTION),  # full width
        f"{sentence(1)} Riddle no. 4: {QUESTION} (Nine.) {sentence(2)}",
        f"„{SHORT}“ {sentence(3)}",
    ],
)
def test_case_punctuation_and_spacing_hide_nothing(written: str, evaluation_set: Path) -> None:
    judged = judge([sentence(4), written, sentence(5)], evaluation_set)
    (drop,) = judged.drops
    assert drop.reason == "evaluation overlap"
    assert drop.rows.tolist() == [False, True, False]
    (found,) = findings(judged)
    assert (found["set"], found["share"], found["counts"]) == ("riddles", 1.0, True)
    assert found["document"] == judged.batch["id"][1].as_py()
    assert found["item"] in {documents.document_id("riddles", str(n), text) for n, text in enumerate((QUESTION, SHORT))}
    (begin,), (end,) = found["begin"], found["end"]
    said = re.findall(r"\w+", written.encode()[begin:end].decode())
    assert len(said) in (len(QUESTION.split()), len(SHORT.split()))


def test_a_part_counts_from_the_share_that_is_set(evaluation_set: Path) -> None:
    half = " ".join(QUESTION.split()[:15])  # 3 of its 9 13-grams
    for least, removed in ((0.0, True), (0.33, True), (0.34, False)):
        judged = judge([f"{sentence(1)} {half} {sentence(2)}"], evaluation_set, min_overlap=least)
        assert bool(judged.drops) is removed
        (found,) = findings(judged)
        assert (found["grams"], found["item_grams"], found["counts"]) == (3, 9, removed)


def test_other_words_and_too_short_items_are_not_found(evaluation_set: Path) -> None:
    words = QUESTION.split()
    words[9] = "eight"
    judged = judge([" ".join(words), f"{TOO_SHORT} {sentence(1)}", SHORT.replace("planet", "star")], evaluation_set)
    assert not judged.drops
    assert not judged.aside


def test_marking_writes_the_highest_share(evaluation_set: Path) -> None:
    judged = judge([sentence(1), f"{SHORT} {QUESTION}"], evaluation_set, action="mark")
    assert not judged.drops
    assert [dict(scores or []) for scores in judged.batch["scores"].to_pylist()] == [{}, {"contamination": 1.0}]
    assert len(findings(judged)) == 2


def test_a_cut_leaves_the_rest_as_documents_of_the_same_parent(evaluation_set: Path) -> None:
    before, after = (" ".join(sentence(n) for n in numbers) for numbers in (range(20), range(20, 40)))
    text = f"{before} {QUESTION} {after}"
    judged = judge([sentence(1), text, QUESTION], evaluation_set, action="cut")
    rows = judged.batch.to_pylist()
    assert [row["parent"] for row in rows] == [None, batch_of(["", text])["id"][1].as_py(), rows[1]["parent"], None]
    first, second = rows[1], rows[2]
    assert before.startswith(first["text"])
    assert after.endswith(second["text"])
    # 200 characters on each side, and no half word
    assert 200 <= len(before) - len(first["text"]) <= 200 + step.LONGEST_WORD
    assert text[len(first["text"])] == " "
    assert len({first["id"], second["id"], first["parent"]}) == 3
    assert first["path"] == f"{batch_of(['', text])['path'][1].as_py()}#char=0,{len(first['text'])}"
    begin, end = map(int, second["path"].partition("#char=")[2].split(","))
    assert text[begin:end] == second["text"]
    assert first["changes"] == ["cut evaluation overlap"]
    whole, small = judged.drops
    assert whole.rows.tolist() == [False, False, False, True]  # nothing is left of the last
    assert not small.rows.any()


def test_small_pieces_and_shattered_documents_go_with_their_reason(evaluation_set: Path) -> None:
    long = " ".join(sentence(n) for n in range(20))
    judged = judge([f"{QUESTION} {long} {QUESTION} {sentence(21, words=40)}"], evaluation_set, action="cut")
    assert [bool(drop.rows.any()) for drop in judged.drops] == [False, True]
    assert judged.drops[1].reason == "left over from a cut"
    assert judged.drops[1].threshold == 200
    judged = judge([f"{long} {QUESTION} " * 11], evaluation_set, action="cut", margin=5)
    assert judged.drops[0].rows.tolist() == [True]
    assert judged.batch.num_rows == 1


def test_phrases_of_many_items_are_no_evidence(tmp_path: Path) -> None:
    phrase = "Answer the following question with one of the letters that stand before the four choices:"
    items = artifact(tmp_path / "exam", "exam", [f"{phrase} {sentence(n)}" for n in range(30)])
    assert not judge([f"{phrase} {sentence(99)}"], items, min_overlap=0).aside
    assert findings(judge([f"{phrase} {sentence(7)}"], items))[0]["share"] == 1.0


def test_characters_are_the_words_of_scripts_without_spaces(tmp_path: Path) -> None:
    question = "下列哪一颗行星离太阳最近并且没有卫星"
    items = artifact(tmp_path / "zh", "zh", [question])
    (found,) = findings(judge([f"从前有一个人问道:“{question}?”没有人回答他。"], items))
    assert found["share"] == 1.0
    assert found["excerpt"] == question


def test_cutting_batches_otherwise_changes_nothing(evaluation_set: Path) -> None:
    texts = [f"{sentence(n)} {QUESTION if n % 3 == 0 else ''} {sentence(n + 100)}" for n in range(12)]
    config = Decontaminate(action="mark")
    known = known_of(config, evaluation_set)
    whole = DECONTAMINATE.judge(batch_of(texts), config, known)
    parts = [DECONTAMINATE.judge(batch_of(texts).slice(n, 1), config, known) for n in range(12)]
    assert pa.Table.from_batches([part.batch for part in parts]).equals(pa.Table.from_batches([whole.batch]))
    assert [row for part in parts for row in findings(part)] == findings(whole)


def test_sets_are_chosen_by_name(evaluation_set: Path, tmp_path: Path) -> None:
    other = artifact(tmp_path / "other", "other", [sentence(1)])
    judged = judge([QUESTION, sentence(1)], evaluation_set, other, sets=["other"])
    assert [row["set"] for row in findings(judged)] == ["other"]
    with pytest.raises(UserError, match=r"no evaluation set is called 'mmlu'; those given are other, riddles"):
        known_of(Decontaminate(sets=["mmlu"]), evaluation_set, other)
    with pytest.raises(UserError, match="needs the stage's input `evaluation_sets`"):
        known_of(Decontaminate())


def test_each_set_is_counted(evaluation_set: Path, tmp_path: Path) -> None:
    half = " ".join(QUESTION.split()[:13])
    config = Decontaminate.model_validate({"min_overlap": 0.25})
    judged = judge([half, SHORT, SHORT], evaluation_set, min_overlap=0.25)
    out = tmp_path / "out"
    out.mkdir()
    documents.write_parquet(out / f"{step.ASIDE}-00000.parquet", judged.aside[step.ASIDE])
    assert step.by_set(out, [evaluation_set], config) == {
        "riddles": {"items": 3, "checked": 2, "touched": 2, "found": 1, "documents": 2}
    }


def test_a_table_equals_what_plain_python_finds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vocabulary = [f"w{n}" for n in range(3)]  # so few that n-grams repeat by chance
    items = [" ".join(rng.choice(vocabulary, rng.integers(1, 9))) for _ in range(40)]
    texts = [" ".join(rng.choice(vocabulary, rng.integers(0, 200))) for _ in range(30)]
    judged = judge(texts, artifact(tmp_path / "i", "i", items), ngram=5, shortest=3, min_overlap=0, generic=1000)
    expected = set()
    for row, text in enumerate(texts):
        words = text.split()
        for item, source in enumerate(items):
            wanted = source.split()
            size = min(5, len(wanted))
            if size < 3:
                continue
            grams = [wanted[n : n + size] for n in range(len(wanted) - size + 1)]
            have = [words[n : n + size] for n in range(len(words) - size + 1)]
            held = sum(gram in have for gram in grams)
            if held:
                expected.add((str(row), documents.document_id("i", str(item), source), held / len(grams)))
    assert {(row["path"], row["item"], row["share"]) for row in findings(judged)} == expected
    assert len(expected) > 50
