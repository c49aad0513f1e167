"""What is asked: held-out documents and questions, drawn by hash so that the choice depends on nothing but the seed."""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from lmcraft.corpus.documents import read_documents
from lmcraft.evaluation.baselines import ByteNgram, best_constant, most_frequent
from lmcraft.evaluation.subjects import Messages, name
from lmcraft.recipe.stage import UserError

T = TypeVar("T")
IN_TRAINING, IN_HELDOUT = "most frequent training answer", "most frequent held-out answer"
BEST_CONSTANT = "best constant training answer"


@dataclass(frozen=True)
class Text:
    id: str
    language: str | None
    text: str


@dataclass(frozen=True)
class Question:
    task: str
    language: str | None
    messages: Messages
    answer: str
    document: str | None


@dataclass
class Material:
    """Held-out texts and questions with their baselines, and how many were offered, drawn and passed over."""

    texts: list[Text] = field(default_factory=list)
    ngrams: dict[str | None, list[ByteNgram]] = field(default_factory=dict)
    questions: list[Question] = field(default_factory=list)
    constants: dict[tuple[str, str | None], dict[str, str | None]] = field(default_factory=dict)
    counts: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(Counter))


class Draw(Generic[T]):
    """Keeps the items with the smallest hashes of (seed, key) up to a total weight, in bounded memory: a sample that
    does not depend on the order in which items come."""

    def __init__(self, seed: int, limit: int):
        self.seed, self.limit, self.weight = seed, limit, 0
        self._heap: list[tuple[int, str, int, T]] = []

    def add(self, key: str, item: T, weight: int = 1) -> None:
        rank = int.from_bytes(hashlib.sha256(f"{self.seed}:{key}".encode()).digest()[:8], "big")
        heapq.heappush(self._heap, (-rank, key, weight, item))
        self.weight += weight
        while self.weight > self.limit and len(self._heap) > 1:
            self.weight -= heapq.heappop(self._heap)[2]

    def items(self) -> list[T]:
        return [item for _, _, _, item in sorted(self._heap, key=lambda entry: (-entry[0], entry[1]))]


def draw_texts(
    material: Material,
    directory: Path,
    render: Callable[[str | None, str], str],
    *,
    limit: int,
    ngram_order: int,
    ngram_bytes: int,
    seed: int,
) -> None:
    """Up to `limit` held-out documents a language, and byte n-grams fitted on at most `ngram_bytes` of training text
    of the same language."""
    heldout: dict[str | None, Draw[Text]] = defaultdict(lambda: Draw(seed, limit))
    counts = material.counts["held-out text"]
    for row in _rows(directory, "heldout"):
        counts["offered"] += 1
        if row["text"].strip():
            heldout[row["language"]].add(row["id"], Text(row["id"], row["language"], render(row["title"], row["text"])))
        else:
            counts["skipped: empty"] += 1
    for language in sorted(heldout, key=str):
        material.texts += heldout[language].items()
    counts["not drawn"] = counts["offered"] - counts["skipped: empty"] - len(material.texts)
    if not material.texts:
        raise UserError(f"{directory} holds no held-out text: give curate a held-out share, or more documents")

    train: dict[str | None, Draw[str]] = defaultdict(lambda: Draw(seed, ngram_bytes))
    for row in _rows(directory, "train"):
        if row["language"] in heldout:
            text = render(row["title"], row["text"])
            train[row["language"]].add(row["id"], text, len(text.encode("utf-8")))
    for language, draw in train.items():
        orders = sorted({1, ngram_order})
        material.ngrams[language] = [ByteNgram(order, draw.items()) for order in orders]


def draw_questions(
    material: Material,
    directory: Path,
    documents: Path | None,
    fits: Callable[[Messages], bool],
    *,
    limit: int,
    seed: int,
) -> None:
    """Up to `limit` held-out questions a task and language, and the constant answers that a model must beat.

    The language of a question is its own, else its document's; it may have none. `fits` says whether a question and
    its answer go into the model's context.
    """
    languages = _languages(documents) if documents else {}
    drawn: dict[tuple[str, str | None], Draw[Question]] = defaultdict(lambda: Draw(seed, limit))
    asked: set[tuple[str, str]] = set()
    passed: Counter[str] = Counter()
    for question in _conversations(directory / "heldout.jsonl", languages):
        counts, key = material.counts[question.task], (question.task, name(question.messages))
        counts["offered"] += 1
        if key in asked:
            counts["skipped: asked twice"] += 1
        elif not fits(question.messages):
            counts["skipped: longer than the context"] += 1
        else:
            passed[question.task] += 1
            drawn[question.task, question.language].add(key[1], question)
        asked.add(key)
    for group in sorted(drawn, key=lambda group: (group[0], str(group[1]))):
        material.questions += drawn[group].items()
    taken = Counter(question.task for question in material.questions)
    for task, counts in material.counts.items():
        if task in passed:
            counts["not drawn"] = passed[task] - taken[task]
    if not material.questions:
        raise UserError(f"{directory / 'heldout.jsonl'} holds no question that fits into the model's context")

    training: dict[tuple[str, str | None], list[str]] = defaultdict(list)
    for question in _conversations(directory / "train.jsonl", languages):
        training[question.task, question.language].append(question.answer)
    for group, draw in drawn.items():
        material.constants[group] = {
            IN_TRAINING: most_frequent(training[group]),
            IN_HELDOUT: most_frequent([question.answer for question in draw.items()]),
            BEST_CONSTANT: best_constant(training[group]),
        }


def _rows(directory: Path, split: str) -> Iterator[dict[str, Any]]:
    for batch in read_documents(directory, columns=["id", "title", "text", "language"], split=split):
        yield from batch.to_pylist()


def _languages(directory: Path) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for batch in read_documents(directory, columns=["id", "language"]):
        found.update(zip(batch.column("id").to_pylist(), batch.column("language").to_pylist(), strict=True))
    return found


def _conversations(path: Path, languages: dict[str, str | None]) -> Iterator[Question]:
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    row = json.loads(line)
                    messages = list(row["messages"])
                    if messages.pop()["role"] != "assistant":
                        raise ValueError("the last message is not the assistant's")
                    document = row.get("document")
                    language = row.get("language") or languages.get(document)
                    yield Question(row["task"], language, messages, str(row["answer"]), document)
                except (ValueError, KeyError, TypeError, IndexError) as error:
                    raise UserError(f"{path}:{number} is not a conversation ({error!r}); mend or rebuild it") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give a directory of conversations") from None
