"""The evaluator examined first: models with known answers must get their known scores, on the same items."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lmcraft.evaluation.likelihood import document_nats
from lmcraft.evaluation.material import Question
from lmcraft.evaluation.metrics import TEXT_TASK, accuracy
from lmcraft.evaluation.scoring import normalise
from lmcraft.evaluation.subjects import Answer, Answerer, Constant, Key, Messages, TokenTable, name

Grade = Callable[[Sequence[Question], Sequence[Answer]], list[dict[str, Any]]]


class SelfTestFailed(RuntimeError):
    """The evaluator gave a known-answer model another score than its known one; no model is examined with it."""


def examine_evaluator(
    questions: Sequence[Question],
    grade: Grade,
    documents: Sequence[Sequence[int]],
    sizes: Sequence[int],
    *,
    vocab_size: int,
    context: int,
    overlap: int,
) -> list[dict[str, Any]]:
    """Rows {subject, task, metric, expected, got, passed}. Raises SelfTestFailed, naming the first that failed.

    `documents` are token ids with the boundary token first, `sizes` their bytes.
    """
    rows: list[dict[str, Any]] = []
    for task in sorted({question.task for question in questions}):
        rows += _questions(task, [question for question in questions if question.task == task], grade)
    if documents:
        rows += _text(documents, sizes, vocab_size, context, overlap)
    for row in rows:
        if not row["passed"]:
            raise SelfTestFailed(
                f"the evaluator gave {row['subject']!r} {row['got']} on {row['task']} ({row['metric']}) where "
                f"{row['expected']} is known; its scores cannot be trusted, please report this"
            )
    return rows


def _questions(task: str, questions: Sequence[Question], grade: Grade) -> list[dict[str, Any]]:
    key = {name(question.messages): question.answer for question in questions}
    forms = Counter(normalise(question.answer) for question in questions)
    common = min(forms, key=lambda form: (-forms[form], form))
    subjects: list[tuple[str, Answerer, float]] = [
        ("constant answer", Constant(common), forms[common] / len(questions)),
        ("oracle", Key(key), 1.0),
        ("oracle with other spacing and case", Key(key, prefix="  ", suffix=" .\n", upper=True), 1.0),
        ("wrong oracle", Key(key, prefix="not "), 0.0),
    ]
    rows = []
    for subject, model, expected in subjects:
        got = accuracy(grade(questions, model.answers(_asked(questions))))["value"]
        rows.append(_row(subject, task, "exact match", expected, got))
    return rows


def _text(
    documents: Sequence[Sequence[int]], sizes: Sequence[int], vocab_size: int, context: int, overlap: int
) -> list[dict[str, Any]]:
    """Expected values come from token counts alone, without windows: a token that a window drops, scores twice or
    takes for its neighbour shows."""
    counts = np.bincount(np.concatenate([np.asarray(ids[1:], np.int64) for ids in documents]), minlength=vocab_size)
    tokens, size = int(counts.sum()), sum(sizes)
    log_p = np.log((counts + 1) / (tokens + vocab_size))
    subjects = [
        ("uniform over the vocabulary", TokenTable(vocab_size), tokens * math.log2(vocab_size) / size),
        ("token frequencies", TokenTable(vocab_size, log_p), float(-(counts * log_p).sum()) / math.log(2) / size),
        ("certain of every token", TokenTable(vocab_size, np.zeros(vocab_size)), 0.0),
    ]
    rows = []
    for subject, model, expected in subjects:
        nats = document_nats(model, documents, context, overlap)
        rows.append(_row(subject, TEXT_TASK, "bits per byte", expected, sum(nats) / math.log(2) / size))
    return rows


def _asked(questions: Sequence[Question]) -> list[Messages]:
    return [question.messages for question in questions]


def _row(subject: str, task: str, metric: str, expected: float, got: float) -> dict[str, Any]:
    shown = {"expected": float(f"{expected:.6g}"), "got": float(f"{got:.6g}")}
    # Metrics are rounded to six decimals; one item more or less changes a share by far more.
    passed = math.isclose(expected, got, rel_tol=2e-6, abs_tol=1e-6)
    return {"subject": subject, "task": task, "metric": metric, **shown, "passed": passed}
