"""Who is examined: the engine with a model in it, and models whose scores are known beforehand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from lmcraft.evaluation.likelihood import Scorer
from lmcraft.inference import Engine, Sampling
from lmcraft.recipe.stage import Progress

Messages = list[dict[str, str]]
BATCH = 64


class Answer(NamedTuple):
    """What a subject said, and whether it stopped by itself (`stop`) or was cut off (`length`)."""

    text: str
    finish: str = "stop"


class Answerer(Protocol):
    def answers(self, questions: Sequence[Messages]) -> list[Answer]:
        """One answer a question, in the order of the questions."""
        ...


class Subject(Answerer, Scorer, Protocol):
    """Something that answers questions and gives probabilities to text."""


class EngineSubject:
    """A trained model, answering greedily."""

    def __init__(self, engine: Engine, answer_tokens: int, progress: Progress):
        self.engine, self.answer_tokens, self.progress = engine, answer_tokens, progress

    def answers(self, questions: Sequence[Messages]) -> list[Answer]:
        prompts = [self.engine.tokenizer.encode_prompt(question) for question in questions]
        # Alike lengths go together, so that little of a batch is padding; an answer does not depend on its batch.
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        said: dict[int, Answer] = {}
        sampling = Sampling(max_tokens=self.answer_tokens, temperature=0.0)
        with self.progress.task("answering questions", len(prompts), "questions") as task:
            for start in range(0, len(order), BATCH):
                rows = order[start : start + BATCH]
                for row, made in zip(rows, self.engine.generate([prompts[i] for i in rows], sampling), strict=True):
                    said[row] = Answer(made.text, made.finish)
                task.advance(len(rows))
        return [said[i] for i in range(len(prompts))]

    def log_likelihood(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        found: list[np.ndarray] = []
        with self.progress.task("scoring held-out text", sum(map(len, sequences)), "tokens") as task:
            for start in range(0, len(sequences), BATCH):
                part = sequences[start : start + BATCH]
                found += self.engine.log_likelihood(part)
                task.advance(sum(map(len, part)))
        return found


class Constant:
    """Says the same thing whatever it is asked."""

    def __init__(self, answer: str):
        self.answer = answer

    def answers(self, questions: Sequence[Messages]) -> list[Answer]:
        return [Answer(self.answer) for _ in questions]


class Key:
    """Reads the answers from the key, then says them through `change`'s prefix and suffix."""

    def __init__(self, key: Mapping[str, str], prefix: str = "", suffix: str = "", upper: bool = False):
        self.key, self.prefix, self.suffix, self.upper = key, prefix, suffix, upper

    def answers(self, questions: Sequence[Messages]) -> list[Answer]:
        return [Answer(f"{self.prefix}{self._spell(self.key[name(q)])}{self.suffix}") for q in questions]

    def _spell(self, answer: str) -> str:
        # ASCII only: upper and folded case of other letters do not always meet again (the dotless i, for one).
        return "".join(c.upper() if c.isascii() else c for c in answer) if self.upper else answer


class TokenTable:
    """Gives every token a fixed probability, whatever stands before it; uniform over the vocabulary by default."""

    def __init__(self, vocab_size: int, log_p: np.ndarray | None = None):
        self.log_p = np.full(vocab_size, -math.log(vocab_size)) if log_p is None else log_p

    def log_likelihood(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        return [self.log_p[np.asarray(sequence[1:], np.int64)] for sequence in sequences]


def name(question: Messages) -> str:
    """A question as a key of a dictionary."""
    return "\x1e".join(f"{message['role']}\x1f{message['content']}" for message in question)
