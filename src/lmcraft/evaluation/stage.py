"""Stage `evaluate`: a model's bits per byte and exact answers, with intervals and baselines, by a tested evaluator."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from lmcraft.evaluation.likelihood import document_nats
from lmcraft.evaluation.material import Material, Question, draw_questions, draw_texts
from lmcraft.evaluation.metrics import TEXT_TASK, metrics, rederive
from lmcraft.evaluation.scoring import exact_match
from lmcraft.evaluation.self_test import examine_evaluator
from lmcraft.evaluation.subjects import Answer, EngineSubject, Messages, Subject
from lmcraft.inference import Engine
from lmcraft.inference.devices import use_workers
from lmcraft.recipe.stage import Input, Inputs, Runtime, Stage, StageConfig, UserError
from lmcraft.tokens.files import write_json, write_text
from lmcraft.tokens.pack import TokensConfig, render_document


class EvaluateConfig(StageConfig):
    """Settings of an evaluation."""

    max_documents: int = Field(200, ge=1, description="Most held-out documents a language that are scored.")
    max_questions: int = Field(200, ge=1, description="Most held-out questions a task and language that are asked.")
    answer_tokens: int = Field(48, ge=1, description="An answer is cut off here; its questions must leave this room.")
    overlap: int | None = Field(
        None, ge=1, description="Tokens that a later window of a long document shows again; half the context if null."
    )
    template: str = Field(
        TokensConfig.model_fields["template"].default,
        description="How a document with a title is written; the same as in stage tokens.",
    )
    token_f1: list[str] = Field(
        ["describe"],
        description="Tasks where word overlap is scored besides exact match; where right answers are "
        "longer than eight words on average it is scored alone.",
    )
    ngram_order: int = Field(5, ge=1, le=7, description="Length of the byte n-grams that the model must beat.")
    ngram_bytes: int = Field(2_000_000, ge=1, description="Training text a language that the n-grams are fitted on.")
    resamples: int = Field(2000, ge=100, description="Bootstrap resamples behind an interval.")
    samples: int = Field(4, ge=0, description="Questions a task and language kept in samples.json.")
    precision: Literal["float32", "bfloat16", "auto"] = Field("float32", description="Precision of the arithmetic.")
    seed: int = Field(0, ge=0, description="Decides which documents and questions are drawn, and the resamples.")


def run(config: EvaluateConfig, inputs: Inputs, out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write `results.json`, `items.jsonl` (a row an item, from which every metric follows) and `samples.json`.

    Raises UserError when there is nothing to score, SelfTestFailed when the evaluator misjudges a known-answer model.
    """
    documents, conversations = inputs.get("documents"), inputs.get("conversations")
    if documents is None and conversations is None:
        raise UserError("evaluate has nothing to ask: give it documents (bits per byte), conversations, or both")
    manifest = _manifest(inputs["model"])
    _check_template(config, manifest)
    use_workers(runtime.workers)
    engine = Engine.load(inputs["model"], device=runtime.device, dtype=config.precision)
    material = draw(config, engine, documents, conversations)
    subject = EngineSubject(engine, config.answer_tokens, runtime.progress)
    self_test, items = examine(config, subject, engine, material)
    model = {
        "parameters": engine.model.config.parameters(),
        "vocab_size": engine.tokenizer.vocab_size,
        "context": engine.context,
        "digest": manifest.get("digest"),
    }
    return write_results(out, config, model, material, self_test=self_test, items=items)


def draw(config: EvaluateConfig, engine: Engine, documents: Path | None, conversations: Path | None) -> Material:
    """The held-out documents and questions that this config asks of models with this tokenizer and context."""

    def fits(question: Messages) -> bool:
        return len(engine.tokenizer.encode_prompt(question)) + config.answer_tokens <= engine.context

    def render(title: str | None, text: str) -> str:
        return render_document(config.template, title, text)

    material = Material()
    if documents is not None:
        draw_texts(
            material,
            documents,
            render,
            limit=config.max_documents,
            ngram_order=config.ngram_order,
            ngram_bytes=config.ngram_bytes,
            seed=config.seed,
        )
    if conversations is not None:
        draw_questions(material, conversations, documents, fits, limit=config.max_questions, seed=config.seed)
    return material


def examine(
    config: EvaluateConfig, subject: Subject, engine: Engine, material: Material
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """First the evaluator on models with known answers, then the subject: (self-test rows, items)."""
    tokenizer, context = engine.tokenizer, engine.context
    overlap = config.overlap or context // 2
    if overlap >= context:
        raise UserError(f"overlap is {overlap}, but the model's context is {context}: set overlap below it")
    texts = material.texts
    rendered = [text.text for text in texts]
    ids = [[tokenizer.bos_id, *row] for row in tokenizer.encode_batch(rendered)] if texts else []
    sizes = [len(text.encode("utf-8")) for text in rendered]

    def grade(questions: Sequence[Question], answers: Sequence[Answer]) -> list[dict[str, Any]]:
        pairs = zip(questions, answers, strict=True)
        return [_question_item(question, answer, material) for question, answer in pairs]

    self_test = examine_evaluator(
        material.questions,
        grade,
        ids,
        sizes,
        vocab_size=engine.model.config.vocab_size,
        context=context,
        overlap=overlap,
    )
    items = [
        {
            "task": TEXT_TASK,
            "language": text.language,
            "document": text.id,
            "bytes": size,
            "tokens": len(row) - 1,
            "nats": round(nats, 4),
            "baseline_nats": {m.name: round(m.nats(text.text), 4) for m in material.ngrams.get(text.language, [])},
        }
        for text, size, row, nats in zip(texts, sizes, ids, document_nats(subject, ids, context, overlap), strict=True)
    ]
    if material.questions:
        items += grade(material.questions, subject.answers([question.messages for question in material.questions]))
    return self_test, items


def write_results(
    out: Path,
    config: EvaluateConfig,
    model: dict[str, Any],
    material: Material,
    *,
    self_test: list[dict[str, Any]],
    items: list[dict[str, Any]],
) -> dict[str, Any]:
    found = metrics(items, config.resamples, config.seed, config.token_f1)
    counts = {task: dict(counts) for task, counts in sorted(material.counts.items())}
    for task, task_counts in counts.items():
        task_counts["scored"] = sum(item["task"] == task for item in items)
        if task != TEXT_TASK:
            task_counts["answers cut off"] = sum(i["task"] == task and i["finish"] == "length" for i in items)
    overlap = config.overlap or model["context"] // 2
    notes = {
        "intervals": "95%; Wilson's for shares, percentile bootstrap over documents or questions otherwise",
        "verdict": "against the hardest baseline; better or worse only where the two intervals lie apart",
        "bits per byte": "each document by itself, after its boundary token; boundary tokens count no bytes and no "
        f"bits; documents longer than {model['context']} tokens in windows that show {overlap} scored tokens again",
        "exact match": "greedy answer equal to the right one but for case, spacing and closing punctuation",
        "token F1": "over words, punctuation and case aside; alone where right answers are long",
        "n-gram baselines": [
            f"{ngram.name}, Witten-Bell, fitted on {ngram.bytes} bytes of training text"
            + (f" ({language})" if language else "")
            for language, ngrams in sorted(material.ngrams.items(), key=lambda entry: str(entry[0]))
            for ngram in ngrams
        ],
    }
    settings = config.identity()
    results = {
        "format": 1,
        "model": model,
        "settings": settings,
        "notes": notes,
        "counts": counts,
        "metrics": found,
        "self_test": self_test,
    }
    write_text(out / "items.jsonl", "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items))
    write_json(out / "samples.json", _samples(items, config.samples))
    write_json(out / "results.json", results)
    short = ("task", "language", "metric", "value", "low", "high", "n", "verdict")
    return {
        "metrics": [
            {field: entry[field] for field in short} | {"baseline": entry["baseline"]["value"]} for entry in found
        ],
        "self_test": f"{len(self_test)} of {len(self_test)} known scores",
    }


def _question_item(question: Question, answer: Answer, material: Material) -> dict[str, Any]:
    return {
        "task": question.task,
        "language": question.language,
        "document": question.document,
        "question": question.messages,
        "answer": question.answer,
        "prediction": answer.text,
        "finish": answer.finish,
        "correct": exact_match(answer.text, question.answer),
        "baselines": material.constants[question.task, question.language],
    }


def _samples(items: list[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """The first items of each task and language: drawn by hash, so neither the best nor the worst."""
    taken: dict[tuple[str, str | None], int] = {}
    samples = []
    for item in items:
        group = (item["task"], item["language"])
        if item["task"] == TEXT_TASK or taken.get(group, 0) >= limit:
            continue
        taken[group] = taken.get(group, 0) + 1
        samples.append({name: value for name, value in item.items() if name != "baselines"})
    return samples


def _manifest(directory: Path) -> dict[str, Any]:
    """The model's manifest; empty for a directory that no recipe made."""
    try:
        manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"{directory / 'manifest.json'} is damaged ({error}); rebuild the model") from None
    return manifest if isinstance(manifest, dict) else {}


def _check_template(config: EvaluateConfig, manifest: dict[str, Any]) -> None:
    for ancestor in manifest.get("ancestors", {}).values():
        if ancestor.get("stage") != "tokens":
            continue
        settings = ancestor.get("config", {})
        if (trained := settings.get("template", config.template)) != config.template:
            raise UserError(f"evaluate's template is {config.template!r}, but the model saw {trained!r}: set it so")


STAGE = Stage(
    name="evaluate",
    version=1,
    config=EvaluateConfig,
    inputs={
        "model": Input(kinds=("model",)),
        "documents": Input(kinds=("documents",), required=False),
        "conversations": Input(kinds=("conversations",), required=False),
    },
    output="evaluation",
    run=run,
    help="Measure a model on held-out text and questions, with intervals and baselines.",
    rederive=rederive,
)
