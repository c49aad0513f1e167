"""A small network of every causal family, and the same as `transformers` makes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lmcraft.model import ModelConfig, Transformer

CONTEXT = 32
BASE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": CONTEXT,
    "tie_word_embeddings": False,
}
MIXTURE = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "norm_topk_prob": True}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": CONTEXT}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 16, "low_freq_factor": 1.0}
LINEAR = {"rope_type": "linear", "factor": 4.0}

FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3": {"model_type": "qwen3"},
    "qwen3 tied": {"model_type": "qwen3", "tie_word_embeddings": True},
    "qwen3 without groups": {"model_type": "qwen3", "num_key_value_heads": 4},
    "llama": {"model_type": "llama"},
    "llama tied, one key head": {"model_type": "llama", "tie_word_embeddings": True, "num_key_value_heads": 1},
    "olmo3": {"model_type": "olmo3", "sliding_window": 7},
    "olmo3 tied": {"model_type": "olmo3", "sliding_window": 7, "tie_word_embeddings": True},
    "qwen3_moe": {"model_type": "qwen3_moe", **MIXTURE},
    "qwen3_moe tied, shares as they are": {
        "model_type": "qwen3_moe",
        **MIXTURE,
        "norm_topk_prob": False,
        "tie_word_embeddings": True,
    },
    "qwen3_moe with dense layers": {
        "model_type": "qwen3_moe",
        **MIXTURE,
        "decoder_sparse_step": 2,
        "mlp_only_layers": (3,),
    },
}
SCALED: dict[str, dict[str, Any]] = {
    f"{family}, {scaling['rope_type']}": {**FAMILIES[family], "rope_scaling": scaling}
    for family in ("qwen3", "llama", "olmo3", "qwen3_moe")
    for scaling in (LINEAR, YARN, {**LLAMA3, "high_freq_factor": 4.0})
} | {
    "yarn with every setting": {
        **FAMILIES["qwen3"],
        "rope_scaling": {**YARN, "attention_factor": 1.3, "beta_fast": 8.0, "beta_slow": 0.5},
    }
}


def shape(changes: dict[str, Any]) -> ModelConfig:
    return ModelConfig(**{**BASE, **changes})


def random_model(config: ModelConfig, seed: int = 0) -> Transformer:
    """Random everywhere: a fresh network's layers are the identity and its norms one."""
    model = Transformer(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.3 if parameter.ndim > 1 else 0.2
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale + (parameter.ndim == 1))
    return model.eval()


def tokens(rows: int, length: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, BASE["vocab_size"], (rows, length), generator=torch.Generator().manual_seed(seed))


def load_theirs(directory: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, local_files_only=True, dtype=torch.float32).eval()


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference of two logits, as a share of the largest logit (as the export check has it)."""
    return float((ours - theirs).abs().max() / theirs.abs().max())
