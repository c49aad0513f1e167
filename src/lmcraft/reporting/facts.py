"""The numbers of a run, gathered from artifacts: the same for the same artifacts, no times, no speeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lmcraft.model import ModelConfig
from lmcraft.reporting.artifacts import Artifact, Record

MOST_GROUPS = 12
SAMPLES_A_REASON = 5
FAMILIES = {
    "qwen3": "Qwen3 dense",
    "llama": "Llama",
    "olmo3": "Olmo3",
    "qwen3_moe": "Qwen3-MoE",
    "eurobert": "EuroBERT",
}


def gather(artifacts: Sequence[Artifact], records: Mapping[str, Record]) -> dict[str, Any]:
    """What the report says, section by section, in the order of the work; a section without artifacts is empty."""
    order = {key: place for place, key in enumerate(records)}
    ordered = sorted(artifacts, key=lambda artifact: order.get(artifact.key or "", -1))

    def of(kind: str) -> list[Artifact]:
        return [artifact for artifact in ordered if artifact.kind == kind]

    return {
        "documents": [_documents(artifact) for artifact in of("documents")],
        "tokenizers": [_tokenizer(artifact) for artifact in of("tokenizer")],
        "tokens": [_tokens(artifact) for artifact in of("tokens")],
        "conversations": [_conversations(artifact) for artifact in of("conversations")],
        "models": [_model(artifact) for artifact in of("model")],
        "evaluations": [_evaluation(artifact, records) for artifact in of("evaluation")],
        "lineage": [
            {
                "step": record.step,
                "stage": record.stage,
                "kind": record.kind,
                "key": record.key,
                "digest": record.digest,
                "from": [{"input": name, "key": key} for name, key in record.parents],
                "sources": [{"name": source["name"], "sha256": source["sha256"]} for source in record.sources],
                "settings": flat(record.config),
            }
            for record in records.values()
        ],
    }


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested settings as `a.b` -> value; lists of plain values stay whole."""
    if isinstance(value, dict):
        return {k: v for key, inner in value.items() for k, v in flat(inner, f"{name}.{key}" if name else key).items()}
    if isinstance(value, list) and any(isinstance(inner, (dict, list)) for inner in value):
        return {k: v for i, inner in enumerate(value) for k, v in flat(inner, f"{name}.{i}").items()}
    return {name: value}


def _documents(artifact: Artifact) -> dict[str, Any]:
    statistics = artifact.json("statistics.json") or {}
    removed = statistics.get("removed", {})
    return {
        "step": artifact.step,
        "in": statistics.get("in"),
        "documents": statistics.get("documents"),
        "bytes": statistics.get("bytes"),
        "removed": [
            {
                "reason": reason,
                "documents": entry["documents"],
                "bytes": entry["bytes"],
                "samples": [_sample(row) for row in entry.get("samples", [])[:SAMPLES_A_REASON]],
            }
            for reason, entry in sorted(removed.items(), key=lambda item: (-item[1]["documents"], item[0]))
        ],
        "by": {name: _largest(groups) for name, groups in statistics.get("by", {}).items()},
        "changes": statistics.get("changes", {}),
    }


def _sample(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row.get(name) for name in ("title", "source", "path", "text", "value", "threshold", "kept_id")}


def _largest(groups: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    """The largest groups first; the rest added up, so that the parts are the whole."""
    ordered = sorted(groups.items(), key=lambda item: (-item[1]["bytes"], item[0]))
    listed = [{"value": value, "documents": g["documents"], "bytes": g["bytes"]} for value, g in ordered[:MOST_GROUPS]]
    if rest := ordered[MOST_GROUPS:]:
        total = {name: sum(group[name] for _, group in rest) for name in ("documents", "bytes")}
        listed.append({"value": f"{len(rest)} more", **total})
    return listed


def _tokenizer(artifact: Artifact) -> dict[str, Any]:
    statistics = artifact.json("statistics.json") or {}
    names = ("vocab_size", "bytes_per_token", "bytes_per_token_heldout", "trained_on", "samples")
    return {"step": artifact.step, **{name: statistics.get(name) for name in names}}


def _tokens(artifact: Artifact) -> dict[str, Any]:
    meta = artifact.json("tokens.json") or {}
    return {"step": artifact.step, "documents": meta.get("documents"), "tokens": meta.get("tokens")}


def _conversations(artifact: Artifact) -> dict[str, Any]:
    tasks: dict[str, dict[str, int]] = {}
    for split in ("train", "heldout"):
        for row in artifact.rows(f"{split}.jsonl"):
            counts = tasks.setdefault(row["task"], {"train": 0, "heldout": 0})
            counts[split] += 1
    return {"step": artifact.step, "tasks": dict(sorted(tasks.items()))}


def _model(artifact: Artifact) -> dict[str, Any]:
    config = ModelConfig.read(artifact.path)
    return {
        "step": artifact.step,
        "stage": artifact.manifest.get("stage"),
        "parameters": config.parameters(),
        "parts": _parts(config),
        "shape": {
            "architecture": FAMILIES[config.model_type],
            "layers": config.num_hidden_layers,
            "width": config.hidden_size,
            "query heads": config.num_attention_heads,
            "key/value heads": config.num_key_value_heads,
            "head size": config.head_dim,
            "feed-forward width": config.intermediate_size,
            "vocabulary": config.vocab_size,
            "positions": config.max_position_embeddings,
            "RoPE base": config.rope_theta,
            "embeddings": "tied" if config.tie_word_embeddings else "untied",
            **special_shape(config),
        },
        "training": flat(artifact.json("training.json") or {}),
        "curves": _curves(artifact.rows("metrics.jsonl")),
        "monitors": _monitors(artifact.rows("monitors.jsonl")),
        "check": artifact.json("export.json"),
    }


def special_shape(config: ModelConfig) -> dict[str, Any]:
    """What only some families have."""
    shape: dict[str, Any] = {}
    if config.sliding_window is not None:
        windows = config.kinds.count("sliding_attention")
        shape["window"] = f"{config.sliding_window} positions in {windows} of {config.num_hidden_layers} layers"
    if config.num_experts is not None:
        shape["experts"] = f"{config.num_experts} of width {config.moe_intermediate_size}"
        shape["experts a token meets"] = config.num_experts_per_tok
        shape["parameters a token meets"] = config.parameters(active=True)
    if config.rope_scaling is not None:
        shape["RoPE scaling"] = f"{config.rope_scaling.rope_type}, {config.rope_scaling.factor:g} times"
    return shape


def _parts(config: ModelConfig) -> dict[str, int]:
    """Parameters by what they do; they add up to `parameters`."""
    d, a = config.hidden_size, config.head_dim
    attention = config.num_hidden_layers * 2 * d * a * (config.num_attention_heads + config.num_key_value_heads)
    feed_forward = sum(config.feed_forward(layer) for layer in range(config.num_hidden_layers))
    tables = config.vocab_size * d * (1 if config.tie_word_embeddings else 2)
    rest = config.parameters() - attention - feed_forward - tables
    return {"embeddings": tables, "attention": attention, "feed-forward": feed_forward, "norms": rest}


def _curves(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[list[float]]]:
    """Points (tokens, value) of each curve; where a row says no tokens, they follow from its step."""
    known = [(row["step"], row["tokens"]) for row in rows if "tokens" in row]
    steps, tokens = zip(*known, strict=True) if known else ((), ())

    def place(row: Mapping[str, Any]) -> float:
        if "tokens" in row:
            return float(row["tokens"])
        # Before the first step no tokens have been seen.
        return float(np.interp(row["step"], [0, *steps], [0, *tokens])) if known else float(row["step"])

    curves: dict[str, list[list[float]]] = {}
    for name, keys in (
        ("loss", ("loss",)),
        ("heldout_bits_per_byte", ("heldout_bits_per_byte",)),
        ("heldout_masked_nats", ("heldout_masked_nats",)),
        ("learning_rate", ("lr", "rate")),
        ("grad_norm", ("grad_norm",)),
    ):
        key = next((key for key in keys if any(key in row for row in rows)), None)
        if key is not None:
            points = [[place(row), float(row[key])] for row in rows if row.get(key) is not None]
            curves[name] = [point for point in points if math.isfinite(point[1])]
    return curves


BY_SOURCE = ("heldout_bits_per_byte", "heldout_masked_nats")
BY_LAYER = ("grad_norm", "update_to_weight", "attention_logit", "dead_units")


def _monitors(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """By layer as it was at the last measured step, by source as at the first and the last; None without monitors."""
    if not rows:
        return None
    layers = [row for row in rows if isinstance(row.get("layer"), int)]
    last = max((row["step"] for row in layers), default=None)
    of_last = sorted((row for row in layers if row["step"] == last), key=lambda row: row["layer"])
    named = [row for row in rows if "source" in row]
    unit = next((name for name in BY_SOURCE if any(name in row for row in named)), BY_SOURCE[0])
    sources: dict[str, dict[str, Any]] = {}
    for row in named:  # in the order of the steps: what is said last of a source stands
        known = sources.setdefault(row["source"], {"source": row["source"], "first": _finite(row[unit])})
        known |= {"last": _finite(row[unit]), "documents": row.get("documents"), "bytes": row.get("bytes")}
    return {
        "step": last,
        "layers": [{"layer": row["layer"], **{name: _finite(row.get(name)) for name in BY_LAYER}} for row in of_last],
        "sources": list(sources.values()),
        "of_sources": unit,
        "units": rows[0].get("units", {}),
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _evaluation(artifact: Artifact, records: Mapping[str, Record]) -> dict[str, Any]:
    results = artifact.json("results.json") or {}
    model = artifact.manifest.get("inputs", {}).get("model", {})
    samples: list[dict[str, Any]] = artifact.json("samples.json") or []
    return {
        "step": artifact.step,
        "model": model.get("step") or (records[model["key"]].step if model.get("key") in records else None),
        "metrics": results.get("metrics", []),
        "counts": results.get("counts", {}),
        "notes": results.get("notes", {}),
        "self_test": results.get("self_test", []),
        "samples": samples,
    }
