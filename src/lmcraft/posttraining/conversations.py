"""Stage `conversations`: documents -> questions with answers, from the documents and from exercises made by rule."""

from __future__ import annotations

import hashlib
import heapq
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from lmcraft.corpus.documents import read_documents
from lmcraft.posttraining.exercises import TASKS as EXERCISES
from lmcraft.posttraining.exercises import Difficulty, choose_words, make_exercises
from lmcraft.posttraining.phrasing import DOCUMENT_TASKS, DocumentTask, first_sentence, phrasings, shorten
from lmcraft.recipe.stage import Input, Inputs, Runtime, Stage, StageConfig, UserError
from lmcraft.tokens.files import write_json, write_text

SPLITS = ("train", "heldout")
LONGEST_SENTENCE = 300
"""Characters of an answer taken from the text; longer sentences give no question."""
SENTENCE_ENDS = (".", "!", "?", "。", "”", "»", '"')


class Counts(StageConfig):
    """Questions of each task. `continue_text` is asked only of documents that give no other question."""

    topic: int = Field(default=4000, ge=0)
    describe: int = Field(default=4000, ge=0)
    define: int = Field(default=2000, ge=0)
    continue_text: int = Field(default=2000, ge=0)
    arithmetic: int = Field(default=6000, ge=0)
    spelling: int = Field(default=6000, ge=0)
    sorting: int = Field(default=4000, ge=0)
    counting: int = Field(default=4000, ge=0)

    def of(self, task: str) -> int:
        """Questions asked for of a task."""
        return int(getattr(self, "continue_text" if task == "continue" else task))


class ConversationsConfig(StageConfig):
    """Settings of the questions."""

    train: Counts = Counts()
    heldout: Counts = Counts(
        topic=500, describe=500, define=200, continue_text=200, arithmetic=500, spelling=500, sorting=500, counting=500
    )
    exercises: Difficulty = Difficulty()
    exercise_heldout_share: float = Field(
        default=0.1, gt=0, lt=1, description="Share of all problems that is held out."
    )
    prompt_characters: int = Field(
        default=160, ge=20, description="Most of a document's text that is put into a question."
    )
    ignore_topics: tuple[str, ...] = Field(
        (), strict=False, description="Topics that say nothing, such as a catch-all."
    )
    min_topic_documents: int = Field(
        default=20, ge=1, description="A topic of fewer training documents is not asked for."
    )
    seed: int = 0


@dataclass(frozen=True)
class Question:
    """A question with its answer. `document` is the id of the document it is about."""

    task: str
    language: str
    question: str
    answer: str
    document: str | None = None

    def to_json(self) -> dict[str, Any]:
        """One line of `train.jsonl` or `heldout.jsonl`."""
        messages = [{"role": "user", "content": self.question}, {"role": "assistant", "content": self.answer}]
        return {
            "messages": messages,
            "task": self.task,
            "language": self.language,
            "answer": self.answer,
            "document": self.document,
        }


def run(config: ConversationsConfig, inputs: Inputs, out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write `train.jsonl`, `heldout.jsonl` and `statistics.json`.

    Held-out documents are asked about in `heldout.jsonl` only. Raises UserError when no question can be made.
    """
    documents: Path = inputs["documents"]
    words = choose_words(_word_counts(documents))
    topics = _topics(documents, config)
    questions: dict[str, list[Question]] = {}
    for split in SPLITS:
        asked = config.train if split == "train" else config.heldout
        made = list(_about_documents(documents, split, asked, topics, config))
        for task in EXERCISES:
            made += (
                Question(task, "en", exercise.question, exercise.answer)
                for exercise in make_exercises(
                    task,
                    asked.of(task),
                    split == "heldout",
                    seed=config.seed,
                    words=words,
                    difficulty=config.exercises,
                    share=config.exercise_heldout_share,
                )
            )
        if not made:
            raise UserError(
                f"conversations.{split} asks for no question that {documents} can give: raise a count there"
            )
        questions[split] = sorted(made, key=lambda q: _rank(config.seed, q.task, q.question))
    statistics = _statistics(questions, config)
    for split in SPLITS:
        write_text(out / f"{split}.jsonl", "".join(_line(question.to_json()) for question in questions[split]))
    write_json(out / "statistics.json", statistics)
    return {
        "questions": {split: len(questions[split]) for split in SPLITS},
        "tasks": {task: {split: item[split] for split in SPLITS} for task, item in statistics["tasks"].items()},
    }


def read_conversations(file: Path) -> list[dict[str, Any]]:
    """Rows of a `messages` JSONL file. Raises UserError naming the first line that is no conversation."""
    rows = []
    try:
        lines = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read ({error}): give the directory of a conversations step") from None
    if lines == [""]:
        raise UserError(f"{file} holds no conversation")
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            messages = [(message["role"], message["content"]) for message in row["messages"]]
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{file}, line {number} is not a conversation ({error!r})") from None
        if not messages or not all(isinstance(part, str) for message in messages for part in message):
            raise UserError(f"{file}, line {number} needs messages, each with a role and a content, both text")
        rows.append(row)
    return rows


def _line(row: dict[str, Any]) -> str:
    # Some readers take these three characters for ends of lines; JSON allows them unescaped.
    text = json.dumps(row, ensure_ascii=False)
    return re.sub("[\x85\u2028\u2029]", lambda match: f"\\u{ord(match[0]):04x}", text) + "\n"


def most_frequent(rows: Iterable[tuple[str, str]]) -> tuple[dict[str, str], int, int]:
    """The baseline of always giving the answer most frequent in its language, chosen with the answers in sight.

    Takes (language, answer); returns answer by language, right answers, questions.
    """
    counts: dict[str, Counter[str]] = {}
    for language, answer in rows:
        counts.setdefault(language, Counter())[answer] += 1
    best = {language: min(c.items(), key=lambda item: (-item[1], item[0])) for language, c in sorted(counts.items())}
    right = sum(count for _, count in best.values())
    return {language: answer for language, (answer, _) in best.items()}, right, sum(c.total() for c in counts.values())


def _about_documents(
    documents: Path, split: str, asked: Counts, topics: set[tuple[str, str]], config: ConversationsConfig
) -> Iterator[Question]:
    """The documents with the smallest digests for each task: a random draw that repeats and needs little memory."""
    drawn: dict[DocumentTask, list[tuple[int, str, Question]]] = {task: [] for task in DOCUMENT_TASKS}
    for batch in read_documents(documents, ["id", "title", "text", "description", "language", "topic"], split):
        for row in batch.to_pylist():
            for task, parts in _parts(row, topics, config):
                rank = _rank(config.seed, task, row["id"])
                forms = phrasings(row["language"], task)
                question = Question(
                    task,
                    row["language"] or "unknown",
                    forms[rank % len(forms)].format(title=row["title"], text=parts[0]),
                    parts[1],
                    row["id"],
                )
                heapq.heappush(drawn[task], (-rank, row["id"], question))
                if len(drawn[task]) > asked.of(task):
                    heapq.heappop(drawn[task])
    for task in DOCUMENT_TASKS:
        yield from (question for _, _, question in drawn[task])


def _parts(
    row: dict[str, Any], topics: set[tuple[str, str]], config: ConversationsConfig
) -> list[tuple[DocumentTask, tuple[str, str]]]:
    """What a document can be asked: task -> (text in the question, answer)."""
    sentence = first_sentence(row["text"])
    snippet = shorten(sentence, config.prompt_characters)
    found: list[tuple[DocumentTask, tuple[str, str]]] = []
    if row["title"]:
        if (row["language"] or "unknown", row["topic"] or "") in topics:
            found.append(("topic", (snippet, row["topic"].strip())))
        if row["description"] and row["description"].strip():
            found.append(("describe", (snippet, " ".join(row["description"].split()))))
        if len(sentence) <= LONGEST_SENTENCE and sentence.endswith(SENTENCE_ENDS):
            found.append(("define", ("", sentence)))
    if found:
        return found
    rest = first_sentence(" ".join(row["text"].split())[len(sentence) :])
    if sentence and 20 <= len(rest) <= LONGEST_SENTENCE:
        found.append(("continue", (shorten(sentence, config.prompt_characters), rest)))
    return found


def _topics(documents: Path, config: ConversationsConfig) -> set[tuple[str, str]]:
    """(language, topic) worth asking for: met often enough, and not the only one of its language."""
    counts: Counter[tuple[str, str]] = Counter()
    for batch in read_documents(documents, ["language", "topic"], "train"):
        counts.update((r["language"] or "unknown", r["topic"]) for r in batch.to_pylist() if (r["topic"] or "").strip())
    kept = {k for k, n in counts.items() if n >= config.min_topic_documents and k[1] not in config.ignore_topics}
    choices = Counter(language for language, _ in kept)
    return {(language, topic) for language, topic in kept if choices[language] > 1}


def _word_counts(documents: Path) -> Counter[str]:
    """Lower-case words of the English training documents, and of those whose language is not known."""
    word = re.compile(r"(?<![^\W_])[a-z]{3,8}(?![^\W_])")
    counts: Counter[str] = Counter()
    for batch in read_documents(documents, ["language", "text"], "train"):
        for row in batch.to_pylist():
            if (row["language"] or "en").startswith("en"):
                counts.update(word.findall(row["text"]))
    return counts


def _statistics(questions: dict[str, list[Question]], config: ConversationsConfig) -> dict[str, Any]:
    tasks = {}
    for task in (*DOCUMENT_TASKS, *EXERCISES):
        train, heldout = ([q for q in questions[split] if q.task == task] for split in SPLITS)
        if not train and not heldout:
            continue
        answers, right, count = most_frequent((q.language, q.answer) for q in heldout)
        tasks[task] = {
            "train": len(train),
            "heldout": len(heldout),
            "asked": {"train": config.train.of(task), "heldout": config.heldout.of(task)},
            "languages": {
                split: dict(sorted(Counter(q.language for q in chosen).items()))
                for split, chosen in (("train", train), ("heldout", heldout))
            },
            "distinct_answers": len({q.answer for q in heldout}),
            "baseline": {
                "answers": answers,
                "right": right,
                "n": count,
                "share": round(right / count, 4) if count else 0,
            },
            "samples": [{"question": q.question, "answer": q.answer} for q in (heldout or train)[:3]],
        }
    return {"tasks": tasks, "questions": {split: len(questions[split]) for split in SPLITS}}


def _rank(*parts: object) -> int:
    digest = hashlib.sha256("\0".join(map(str, parts)).encode("utf-8")).digest()
    return int.from_bytes(digest[:8])


STAGE = Stage(
    name="conversations",
    version=1,
    config=ConversationsConfig,
    inputs={"documents": Input(kinds=("documents",))},
    output="conversations",
    run=run,
    help="Make questions with answers from the documents, and exercises with exact answers.",
)
