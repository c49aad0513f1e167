"""A small run as the store leaves it: documents, tokenizer, model and evaluation, with manifests."""

import json
from functools import partial
from pathlib import Path

import pytest

from lmcraft.model import ModelConfig, Transformer, save_model
from lmcraft.tokens.tokenizer import Tokenizer, default_chat_template
from lmcraft.tokens.train import TokenizerConfig, train_bpe

XSS = "<script>alert(1)</script><img src=x onerror=alert(2)>"
TEXT = ["The river flows past the city into the sea. ", "Où est la ville ? Elle est là, près du fleuve. "]


def write(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def manifest(step, stage, kind, parents=(), sources=(), config=None, summary=None):
    """A manifest like the runner's; `parents` are (input name, manifest)."""
    key = f"{step:0<64}".encode().hex()[:64]
    ancestors = {}
    for _, parent in parents:
        ancestors |= parent["ancestors"] | {parent["key"]: {k: v for k, v in parent.items() if k != "ancestors"}}
    return {
        "format": 1,
        "kind": kind,
        "stage": stage,
        "version": 1,
        "key": key,
        "step": step,
        "digest": key[::-1],
        "config": config or {},
        "inputs": {
            name: {field: p[field] for field in ("digest", "key", "stage", "step", "kind")} for name, p in parents
        },
        "sources": list(sources),
        "files": {},
        "summary": summary or {},
        "provenance": {
            "started": "2026-01-01T00:00:00+00:00",
            "finished": "2026-01-01T00:01:00+00:00",
            "seconds": 60.0,
            "resumed": 0,
            "machine": {
                "system": "Linux x86_64",
                "python": "3.11",
                "processor": "a processor",
                "cores": 2,
                "memory_bytes": 8_000_000_000,
            },
            "packages": {"lmcraft": "0.1.0"},
            "git": None,
            "device": "cpu",
        },
        "ancestors": ancestors,
    }


def counts(documents, **by):
    groups = {name: {v: {"documents": n, "bytes": 100 * n} for v, n in values.items()} for name, values in by.items()}
    return {"documents": documents, "bytes": 100 * documents, "by": groups, "changes": {}, "removed": {}}


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer(train_bpe(iter(TEXT * 20), TokenizerConfig(vocab_size=512)), default_chat_template())


def save_untrained(directory: Path, tokenizer: Tokenizer, **changes) -> None:
    """A model whose every weight is random, so that a swapped one shows."""
    import torch

    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        **(
            {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
            | {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128}
            | {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
            | changes
        ),
    )
    network = Transformer(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (0.2 if parameter.ndim > 1 else 1))
    save_model(network, directory, stop_tokens=list(tokenizer.stop_ids))
    tokenizer.save(directory)


@pytest.fixture(scope="session")
def save_random(tokenizer):
    """A function that saves a small model with random weights; its keywords change the config."""
    return partial(save_untrained, tokenizer=tokenizer)


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory, tokenizer) -> dict[str, Path]:
    """Step -> directory. Titles, texts, answers and names hold markup."""
    root = tmp_path_factory.mktemp("artifacts")
    places = {step: root / step for step in ("collect", "curate", "tokenizer", "pretrain", "sft", "evaluate")}
    source = {"kind": "folder", "name": f"mine {XSS}", "licence": "CC-BY-SA-4.0", "language": "en"}
    files = [{"name": f"mine/{XSS}.txt", "sha256": "a" * 64}, {"name": "mine/b.txt", "sha256": "b" * 64}]
    collect = manifest("collect", "collect", "documents", sources=files, config={"sources": [source]})
    curate = manifest(
        "curate",
        "curate",
        "documents",
        [("documents", collect)],
        summary={"in": 50, "documents": 40, "removed": {"too short": 10}},
    )
    made = manifest("tokenizer", "tokenizer", "tokenizer", [("documents", curate)])
    settings = {"optimizer": "muon", "learning_rate": 0.02, "seed": 0}
    done = {"steps": 40, "tokens": 4000, "loss": 2.5, "heldout_bits_per_byte": 1.9}
    pretrain = manifest("pretrain", "pretrain", "model", [("tokenizer", made)], config=settings, summary=done)
    sft = manifest("sft", "sft", "model", [("model", pretrain)], config=settings, summary={"steps": 5, "tokens": 99})
    evaluate = manifest("evaluate", "evaluate", "evaluation", [("model", sft), ("documents", curate)])
    manifests = (collect, curate, made, pretrain, sft, evaluate)
    for each in manifests:
        write(places[each["step"]] / "manifest.json", each)

    total = {"in": {"documents": 52, "bytes": 5200}}
    write(places["collect"] / "statistics.json", counts(50, source={f"mine {XSS}": 50}) | total)
    sample = {"id": "0", "title": XSS, "source": "mine", "path": XSS, "text": XSS, "value": 3.0, "threshold": 20.0}
    removed = {"too short": {"documents": 10, "bytes": 1000, "samples": [sample, {"id": "1", "text": "no title"}]}}
    kept = counts(
        40,
        source={f"mine {XSS}": 40},
        language={"en": 25, "fr": 15},
        topic={XSS: 30, "(none)": 10},
        licence={"CC-BY-SA-4.0": 40},
        split={"train": 36, "heldout": 4},
    )
    total = {"in": {"documents": 50, "bytes": 5000}, "removed": removed, "changes": {"repaired": 3}}
    write(places["curate"] / "statistics.json", kept | total)

    tokenizer.save(places["tokenizer"])
    rates = {"bytes_per_token": {"en": 3.1, "fr": 2.9}, "bytes_per_token_heldout": {"en": 3.0}}
    pieces = [{"text": XSS, "tokens": ["<script>", "\n", "alert"]}]
    write(places["tokenizer"] / "statistics.json", {"vocab_size": tokenizer.vocab_size, "samples": pieces, **rates})

    for step in ("pretrain", "sft"):
        save_untrained(places[step], tokenizer)
        rows = [
            {"step": s, "tokens": 100 * s, "loss": 5 - s / 20, "rate": 1 / s, "grad_norm": 1.0} for s in range(1, 41)
        ]
        rows += [{"step": s, "heldout_bits_per_byte": 4 - s / 20} for s in (0, 20, 40)]
        rows.append({"step": 41, "tokens": 4100, "loss": float("nan"), "rate": 0.1, "grad_norm": 1.0})
        write(places[step] / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        write(places[step] / "training.json", {"plan": {"steps": 40, "rows": [1, 2]}})
        write(
            places[step] / "telemetry.jsonl", '{"step": 1, "seconds": 1, "tokens_per_second": 5, "matmul_share": 0.5}\n'
        )

    write(places["evaluate"] / "results.json", results())
    question = [{"role": "user", "content": XSS}]
    answered = {"task": "topic", "language": None, "question": question, "answer": XSS, "prediction": XSS}
    write(places["evaluate"] / "samples.json", [answered | {"correct": False, "finish": "length", "document": None}])
    return places


def metric(task, name, value, base, verdict, language=None):
    lower = name == "bits per byte"
    baseline = {"name": f"some {XSS}", "value": base, "low": base * 0.9, "high": base * 1.1}
    return {
        "task": task,
        "language": language,
        "metric": name,
        "unit": "bits per byte" if lower else "share of questions",
        "better": "lower" if lower else "higher",
        "value": value,
        "low": value * 0.9,
        "high": value * 1.1,
        "n": 100,
        "of": "documents" if lower else "questions",
        "baseline": baseline,
        "baselines": [baseline],
        "verdict": verdict,
    }


def results():
    return {
        "format": 1,
        "metrics": [
            metric("held-out text", "bits per byte", 2.0, 4.0, "better than baseline"),
            metric("held-out text", "bits per byte", 3.9, 4.0, "no better than baseline", "fr"),
            metric("topic", "exact match", 0.3, 0.31, "no better than baseline"),
            metric(f"count {XSS}", "exact match", 0.1, 0.5, "worse than baseline", "en"),
        ],
        "counts": {"topic": {"offered": 101, "skipped: longer than the context": 1, "scored": 100}},
        "notes": {"exact match": "as said", "n-gram baselines": ["one", "two"]},
        "self_test": [
            {"subject": "oracle", "task": "topic", "metric": "exact match", "expected": 1.0, "got": 1.0, "passed": True}
        ],
    }
