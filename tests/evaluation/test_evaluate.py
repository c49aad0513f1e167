"""The evaluation says what the model did: known models get known scores, and every number follows from the items."""

import json
import math
import shutil

import numpy as np
import pytest

from lmcraft.evaluation import rederive
from lmcraft.evaluation.material import BEST_CONSTANT, IN_HELDOUT, IN_TRAINING
from lmcraft.evaluation.self_test import SelfTestFailed, examine_evaluator
from lmcraft.evaluation.stage import STAGE, EvaluateConfig, draw, examine, write_results
from lmcraft.evaluation.subjects import Answer, name
from lmcraft.recipe.stage import Runtime, UserError

CONFIG = EvaluateConfig(max_documents=9, max_questions=40, answer_tokens=8, resamples=100, ngram_order=3, samples=2)
RUNTIME = Runtime(device="cpu")


class Scripted:
    """Answers from a function of the question, and gives the same log-probability to every token."""

    def __init__(self, answer, log_p=-1.0):
        self.answer, self.log_p = answer, log_p

    def answers(self, questions):
        return [Answer(self.answer(question)) for question in questions]

    def log_likelihood(self, sequences):
        return [np.full(len(sequence) - 1, self.log_p) for sequence in sequences]


def evaluate(subject, engine, documents, conversations, out):
    material = draw(CONFIG, engine, documents, conversations)
    described = {"parameters": 1, "vocab_size": 512, "context": engine.context, "digest": None}
    self_test, items = examine(CONFIG, subject, engine, material)
    write_results(out, CONFIG, described, material, self_test=self_test, items=items)
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    return {(m["task"], m["language"], m["metric"]): m for m in results["metrics"]}, results


@pytest.fixture(scope="module")
def real(model, documents, conversations, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluation")
    inputs = {"model": model, "documents": documents, "conversations": conversations}
    summary = STAGE.run(CONFIG, inputs, out, RUNTIME)
    return out, summary, inputs


def test_an_untrained_model_is_no_better_than_its_baselines(real):
    out, summary, _ = real
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert {m["verdict"] for m in results["metrics"]} <= {"no better than baseline", "worse than baseline"}
    bits = next(m for m in results["metrics"] if m["metric"] == "bits per byte" and m["language"] is None)
    # Output projections start at zero and embeddings are small, so the model is nearly uniform over its vocabulary.
    assert bits["value"] == pytest.approx(
        bits["tokens"] * math.log2(results["model"]["vocab_size"]) / bits["bytes"], rel=0.02
    )
    assert bits["baseline"]["name"] == "byte 3-gram"
    assert all(row["passed"] for row in results["self_test"]) and len(results["self_test"]) == 4 * 2 + 3
    assert summary["self_test"] == "11 of 11 known scores"


def test_every_number_follows_from_the_items_and_a_changed_one_shows(real, tmp_path):
    out, _, _ = real
    rows = rederive(out)
    assert len(rows) > 50 and all(row.stored == row.recomputed for row in rows)
    changed = shutil.copytree(out, tmp_path / "changed")
    results = json.loads((changed / "results.json").read_text(encoding="utf-8"))
    results["metrics"][0]["value"] -= 0.5
    (changed / "results.json").write_text(json.dumps(results), encoding="utf-8")
    assert [row.metric for row in rederive(changed) if row.stored != row.recomputed] == [
        "held-out text/bits per byte: value"
    ]
    (changed / "items.jsonl").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="not a whole evaluation"):
        rederive(changed)


def test_the_same_inputs_give_the_same_bytes(real, tmp_path):
    out, _, inputs = real
    STAGE.run(CONFIG, inputs, tmp_path, RUNTIME)
    for file in ("results.json", "items.jsonl", "samples.json"):
        assert (tmp_path / file).read_bytes() == (out / file).read_bytes()


def test_nothing_is_passed_over_in_silence(real):
    counts = json.loads((real[0] / "results.json").read_text(encoding="utf-8"))["counts"]
    assert counts["held-out text"] == {"offered": 30, "skipped: empty": 2, "not drawn": 10, "scored": 18}
    counting = counts["counting"]
    assert (counting["offered"], counting["skipped: asked twice"], counting["scored"]) == (22, 1, 20)
    assert counting["skipped: longer than the context"] == 1
    for task in counts.values():
        gone = sum(n for reason, n in task.items() if reason.startswith("skipped"))
        assert task["offered"] == gone + task["not drawn"] + task["scored"]


def test_an_oracle_beats_its_baselines_and_a_constant_equals_them(engine, documents, conversations, tmp_path):
    lines = [json.loads(line) for line in (conversations / "heldout.jsonl").read_text(encoding="utf-8").splitlines()]
    key = {name(line["messages"][:-1]): line["answer"] for line in lines}
    (tmp_path / "oracle").mkdir()
    (tmp_path / "constant").mkdir()
    oracle, _ = evaluate(Scripted(lambda q: key[name(q)]), engine, documents, conversations, tmp_path / "oracle")
    topic = oracle["topic", None, "exact match"]
    assert (topic["value"], topic["n"], topic["verdict"]) == (1.0, 30, "better than baseline")
    assert (topic["baseline"]["name"], topic["baseline"]["value"]) == (IN_TRAINING, 0.666667)

    subject = Scripted(lambda q: "geography.")
    constant, results = evaluate(subject, engine, documents, conversations, tmp_path / "constant")
    # Fifteen right answers of fifteen are not yet apart from two in three.
    assert oracle["topic", "en", "exact match"]["verdict"] == "no better than baseline"
    topic = constant["topic", None, "exact match"]
    assert topic["value"] == topic["baseline"]["value"] and topic["verdict"] == "no better than baseline"
    assert {b["name"] for b in topic["baselines"]} == {IN_TRAINING, IN_HELDOUT, BEST_CONSTANT}
    assert constant["counting", None, "exact match"]["value"] == 0.0
    bits = constant["held-out text", "fr", "bits per byte"]
    assert bits["value"] == pytest.approx(bits["tokens"] / bits["bytes"] / math.log(2), rel=1e-4)
    assert all(row["passed"] for row in results["self_test"])


def test_the_draw_depends_on_the_seed_alone(engine, documents, conversations, tmp_path):
    reversed_order = tmp_path / "reversed"
    shutil.copytree(conversations, reversed_order)
    lines = (conversations / "heldout.jsonl").read_text(encoding="utf-8").splitlines()
    (reversed_order / "heldout.jsonl").write_text("\n".join(lines[::-1]) + "\n", encoding="utf-8")
    few = CONFIG.model_copy(update={"max_questions": 5})
    first, again = (draw(few, engine, documents, place).questions for place in (conversations, reversed_order))
    other = draw(few.model_copy(update={"seed": 1}), engine, documents, conversations).questions
    assert first == again != other
    assert len(first) == 15


def test_text_alone_and_questions_alone_are_evaluations_but_nothing_is_not(model, documents, conversations, tmp_path):
    for name_, inputs in (("text", {"documents": documents}), ("questions", {"conversations": conversations})):
        (tmp_path / name_).mkdir()
        summary = STAGE.run(CONFIG, {"model": model, **inputs}, tmp_path / name_, RUNTIME)
        assert summary["metrics"]
        assert all(row.stored == row.recomputed for row in rederive(tmp_path / name_))
    with pytest.raises(UserError, match="nothing to ask"):
        STAGE.run(CONFIG, {"model": model}, tmp_path, RUNTIME)


def test_the_model_must_have_seen_documents_written_the_same_way(model, documents, tmp_path):
    copy = shutil.copytree(model, tmp_path / "model")
    trained = {"stage": "tokens", "config": {"template": "{text}"}}
    (copy / "manifest.json").write_text(json.dumps({"ancestors": {"k": trained}}), encoding="utf-8")
    with pytest.raises(UserError, match=r"the model saw '\{text\}'"):
        STAGE.run(CONFIG, {"model": copy, "documents": documents}, tmp_path, RUNTIME)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "heldout.jsonl:1 is not a conversation"),
        ('{"messages": [], "task": "t", "answer": "a"}', "heldout.jsonl:1"),
        ('{"messages": [{"role": "user", "content": "q"}], "task": "t", "answer": "a"}', "not the assistant's"),
    ],
)
def test_damaged_conversations_are_named_with_their_line(model, tmp_path, line, message):
    (tmp_path / "heldout.jsonl").write_text(line + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=message):
        STAGE.run(CONFIG, {"model": model, "conversations": tmp_path}, tmp_path, RUNTIME)


def test_an_evaluator_that_counts_a_wrong_answer_as_right_examines_no_model(engine, conversations, documents):
    material = draw(CONFIG, engine, documents, conversations)

    def lenient(questions, answers):
        return [
            {"task": q.task, "language": q.language, "answer": q.answer, "prediction": q.answer, "baselines": {}}
            | {"baselines": {"none": None}}
            for q in questions
        ]

    with pytest.raises(SelfTestFailed, match=r"'constant answer' 1\.0 on counting"):
        examine_evaluator(material.questions, lenient, [], [], vocab_size=512, context=64, overlap=32)
