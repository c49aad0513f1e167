from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmcraft.posttraining import conversations
from lmcraft.posttraining.conversations import ConversationsConfig, Counts, most_frequent, read_conversations
from lmcraft.posttraining.phrasing import first_sentence, shorten
from lmcraft.recipe.stage import Runtime, UserError

COLUMNS = ["id", "text", "title", "description", "language", "topic", "source", "path", "licence", "split"]
TOPICS = {"en": ("Rivers", "Birds"), "fr": ("Rivières", "Oiseaux"), "es": ("Ríos", "Aves"), None: ("Rivers", "Birds")}
SMALL = {"topic": 30, "describe": 30, "define": 30, "continue_text": 10}
CONFIG = ConversationsConfig(
    train=Counts(**SMALL, arithmetic=40, spelling=40, sorting=40, counting=40),
    heldout=Counts(topic=8, describe=8, define=8, continue_text=4, arithmetic=9, spelling=9, sorting=9, counting=9),
    min_topic_documents=2,
)


def make_rows(count: int = 120) -> list[dict[str, Any]]:
    rows = []
    for number in range(count):
        language = ("en", "fr", "es", None)[number % 4]
        topic = TOPICS[language][number // 4 % 2]
        rows.append(
            {
                "id": f"{number:032x}",
                "title": f"Name {number} {{text}}",
                "text": f"Name {number} (b. 1850. Or so) is a thing of St. John. It has been seen {number} times.",
                "description": f"thing  number {number}",
                "topic": topic,
                "language": language,
                "split": "heldout" if number % 7 == 0 else "train",
            }
        )
    return rows


def write(directory: Path, rows: list[dict[str, Any]]) -> Path:
    directory.mkdir(parents=True)
    schema = pa.schema([(name, pa.string()) for name in COLUMNS] + [("changes", pa.list_(pa.string()))])
    filled = [dict.fromkeys(COLUMNS) | {"source": "made", "path": "made", "changes": []} | row for row in rows]
    pq.write_table(pa.Table.from_pylist(filled, schema=schema), directory / "documents-00000.parquet")
    return directory


Made = tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Made]:
    def build(rows: list[dict[str, Any]], config: ConversationsConfig = CONFIG, name: str = "a") -> Made:
        out = tmp_path / name / "out"
        conversations.run(config, {"documents": write(tmp_path / name / "documents", rows)}, out, Runtime())
        statistics = json.loads((out / "statistics.json").read_text(encoding="utf-8"))
        return read_conversations(out / "train.jsonl"), read_conversations(out / "heldout.jsonl"), statistics

    return build


def test_questions_are_about_documents_of_their_own_split_and_answered_from_them(build: Callable[..., Made]) -> None:
    rows = make_rows()
    by_id = {row["id"]: row for row in rows}
    for split, made in zip(("train", "heldout"), build(rows)[:2], strict=True):
        seen = set()
        for row in made:
            question, answer = row["messages"]
            assert (question["role"], answer["role"]) == ("user", "assistant")
            assert answer["content"] == row["answer"]
            if row["document"] is None:
                continue
            document = by_id[row["document"]]
            assert document["split"] == split
            assert row["language"] == (document["language"] or "unknown")
            assert document["title"] in question["content"]
            assert row["answer"] == {
                "topic": document["topic"],
                "describe": f"thing number {int(document['id'], 16)}",
                "define": first_sentence(document["text"]),
            }.get(row["task"])
            assert (row["task"], row["document"]) not in seen
            seen.add((row["task"], row["document"]))
        assert {row["task"] for row in made} == {
            *("topic", "describe", "define"),
            *("arithmetic", "spelling", "sorting", "counting"),
        }


def test_a_question_is_put_in_the_language_of_its_document(build: Callable[..., Made]) -> None:
    train, _, _ = build(make_rows())
    asked = {language: [] for language in ("en", "fr", "es", "unknown")}
    for row in train:
        if row["task"] == "define":
            asked[row["language"]].append(row["messages"][0]["content"].split()[0])
    assert set(asked["fr"]) <= {"Que", "Parle-moi", "Définis"}
    assert set(asked["es"]) <= {"¿Qué", "Háblame", "Define"}
    assert set(asked["en"] + asked["unknown"]) <= {"What", "Tell", "Define"}
    assert all(asked.values())


def test_statistics_are_those_of_the_files(build: Callable[..., Made]) -> None:
    train, heldout, statistics = build(make_rows())
    for task, item in statistics["tasks"].items():
        assert item["train"] == sum(row["task"] == task for row in train)
        rows = [row for row in heldout if row["task"] == task]
        assert item["heldout"] == len(rows)
        baseline = item["baseline"]
        right = sum(row["answer"] == baseline["answers"][row["language"]] for row in rows)
        assert (baseline["right"], baseline["n"]) == (right, len(rows))
        assert baseline["share"] == round(right / len(rows), 4)


def test_the_same_bytes_come_again_and_another_seed_asks_otherwise(build: Callable[..., Made], tmp_path: Path) -> None:
    build(make_rows(), name="a")
    build(list(reversed(make_rows())), name="b")
    build(make_rows(), CONFIG.model_copy(update={"seed": 1}), name="c")
    for file in ("train.jsonl", "heldout.jsonl", "statistics.json"):
        first, again, other = ((tmp_path / name / "out" / file).read_bytes() for name in "abc")
        assert first == again != other


def test_plain_text_gives_exercises_and_what_comes_next(build: Callable[..., Made]) -> None:
    plain = [{key: row[key] for key in ("id", "text", "split")} for row in make_rows()]
    train, heldout, _ = build(plain)
    for made, documents in ((train, 10), (heldout, 4)):
        rows = [row for row in made if row["document"]]
        assert len(rows) == documents
        for row in rows:
            assert row["task"] == "continue"
            assert row["answer"].startswith("It has been seen")
            assert "is a thing of St. John." in row["messages"][0]["content"]


def test_rare_ignored_and_only_topics_are_not_asked_for(build: Callable[..., Made]) -> None:
    rows = make_rows()
    for row in rows:
        if row["language"] == "fr":
            row["topic"] = "Seul"
    rows[4] |= {"language": "en", "topic": "Rare"}
    config = CONFIG.model_copy(update={"ignore_topics": ("Aves",), "train": Counts(topic=500)})
    train, _, _ = build(rows, config)
    topics = {(row["language"], row["answer"]) for row in train if row["task"] == "topic"}
    assert topics == {(language, topic) for language in ("en", "unknown") for topic in ("Rivers", "Birds")}


def test_characters_that_look_like_ends_of_lines_stay_inside_their_line(
    build: Callable[..., Made], tmp_path: Path
) -> None:
    rows = [row | {"title": f"A\u2028B\x85C\u2029D {row['title']}"} for row in make_rows()]
    train, _, _ = build(rows)
    assert any("A\u2028B\x85C\u2029D" in row["messages"][0]["content"] for row in train)
    assert len((tmp_path / "a" / "out" / "train.jsonl").read_text(encoding="utf-8").splitlines()) == len(train)


def test_nothing_to_ask_is_a_sentence(build: Callable[..., Made]) -> None:
    none = dict.fromkeys(Counts.model_fields, 0)
    with pytest.raises(UserError, match=r"conversations\.train asks for no question"):
        build(make_rows(), CONFIG.model_copy(update={"train": Counts(**none)}))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "holds no conversation"),
        ("{", "line 1 is not a conversation"),
        ('{"messages": [{"role": "user"}]}', "line 1 is not a conversation"),
        ('{"messages": [{"role": "user", "content": 5}]}', "line 1 needs messages"),
        ('{"messages": []}', "line 1 needs messages"),
        ("[]", "line 1 is not a conversation"),
    ],
)
def test_a_damaged_file_is_a_sentence(tmp_path: Path, content: str, says: str) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=says):
        read_conversations(file)
    with pytest.raises(UserError, match="cannot be read"):
        read_conversations(tmp_path / "none.jsonl")


def test_the_baseline_is_the_best_constant_answer_of_each_language() -> None:
    rows = [("en", "a"), ("en", "b"), ("en", "b"), ("fr", "c"), ("fr", "d")]
    assert most_frequent(rows) == ({"en": "b", "fr": "c"}, 3, 5)
    assert most_frequent([]) == ({}, 0, 0)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("The Dardanelles is a strait. It is narrow.", "The Dardanelles is a strait."),
        (
            "J. R. R. Tolkien was a writer (b. Jan. 3. In Africa). He died.",
            "J. R. R. Tolkien was a writer (b. Jan. 3. In Africa).",
        ),
        (
            "Nissan Motor Co., Ltd. es un fabricante de coches. Grande.",
            "Nissan Motor Co., Ltd. es un fabricante de coches.",
        ),
        ("La Symphonie no 9, op. 125, est en ré mineur. Oui.", "La Symphonie no 9, op. 125, est en ré mineur."),
        ("Saná es la capital de Yemen. ¿Y qué más?", "Saná es la capital de Yemen."),
        ("A line that\nis broken (so\nto say) in three. End.", "A line that is broken (so to say) in three."),
        ("A heading of some length\n\nThe text itself. Then more.", "A heading of some length"),
        ("It costs 3.50 dollars in the U.S. Army today. Yes.", "It costs 3.50 dollars in the U.S. Army today."),
        ("No end in sight here", "No end in sight here"),
        ("", ""),
    ],
)
def test_where_the_first_sentence_ends(text: str, sentence: str) -> None:
    assert first_sentence(text) == sentence


def test_shortening_keeps_whole_words() -> None:
    assert shorten("one two, three", 8) == "one two"
    assert shorten("one two", 7) == "one two"
    assert shorten("abcdefgh", 3) == "abc"
