"""The shape of a network, in the words of a Hugging Face `config.json` (Qwen3 and Llama families)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lmcraft.recipe.stage import UserError


class ModelConfig(BaseModel):
    """Shape of a dense decoder-only transformer; field names are those of `transformers`' `Qwen3Config`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model_type: Literal["qwen3", "llama"] = "qwen3"
    vocab_size: int = Field(gt=0)
    hidden_size: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    num_hidden_layers: int = Field(gt=0)
    num_attention_heads: int = Field(gt=0)
    num_key_value_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0, multiple_of=2)
    max_position_embeddings: int = Field(gt=0)
    rope_theta: float = Field(gt=0, default=10_000.0)
    rms_norm_eps: float = Field(gt=0, default=1e-6)
    tie_word_embeddings: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    @model_validator(mode="after")
    def _heads_divide(self) -> ModelConfig:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError("num_attention_heads must be a multiple of num_key_value_heads")
        return self

    @property
    def qk_norm(self) -> bool:
        return self.model_type == "qwen3"

    def parameters(self) -> int:
        """Number of parameters, embeddings counted once when tied."""
        d, h, kv, a = self.hidden_size, self.num_attention_heads, self.num_key_value_heads, self.head_dim
        layer = d * a * (2 * h + 2 * kv) + 3 * d * self.intermediate_size + 2 * d + (2 * a if self.qk_norm else 0)
        tables = self.vocab_size * d * (1 if self.tie_word_embeddings else 2)
        return self.num_hidden_layers * layer + d + tables

    def flops_per_token(self, context: int) -> float:
        """Matmul operations to train on one token: 6 a weight of every matrix (the input embedding is a look-up) and
        12 · layers · heads · head_dim · context for attention over `context` positions (Kaplan et al. 2020, PaLM
        appendix B, here with causality counted: half of the scores)."""
        d, a = self.hidden_size, self.head_dim
        layer = d * a * 2 * (self.num_attention_heads + self.num_key_value_heads) + 3 * d * self.intermediate_size
        matrices = self.num_hidden_layers * layer + self.vocab_size * d
        attention = 12 * self.num_hidden_layers * self.num_attention_heads * a * context / 2
        return 6.0 * matrices + attention

    def to_huggingface(self, dtype: str) -> dict[str, Any]:
        """The `config.json` that `transformers`, vLLM and llama.cpp's converter read."""
        architecture = {"qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM"}[self.model_type]
        fields = self.model_dump(exclude={"rope_theta"})
        return {
            "architectures": [architecture],
            **fields,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "mlp_bias": False,
            "rope_theta": self.rope_theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "rope_scaling": None,
            "sliding_window": None,
            "use_sliding_window": False,
            "use_cache": True,
            "dtype": dtype,
            "torch_dtype": dtype,
        }

    @classmethod
    def read(cls, directory: Path) -> ModelConfig:
        """Read `config.json` of a checkpoint directory. Raises UserError on a missing, damaged or foreign file."""
        path = directory / "config.json"
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{directory} is not a model directory: it has no config.json") from None
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise UserError(f"{path} is not valid JSON ({error}); restore the directory from its source") from None
        if not isinstance(raw, dict):
            raise UserError(f"{path} must hold one JSON object")
        rope = raw.get("rope_parameters") or {}
        if rope.get("rope_type", "default") != "default" or raw.get("rope_scaling"):
            raise UserError(f"{path}: scaled RoPE is not supported; use a checkpoint with rope_type 'default'")
        for flag in ("use_sliding_window", "attention_bias", "mlp_bias"):
            if raw.get(flag):
                raise UserError(f"{path}: {flag} is not supported; use a dense Qwen3 or Llama checkpoint without it")
        known = {name: raw[name] for name in cls.model_fields if name in raw}
        known.setdefault("rope_theta", rope.get("rope_theta", 10_000.0))
        known.setdefault("num_key_value_heads", raw.get("num_attention_heads"))
        if "head_dim" not in known and raw.get("num_attention_heads"):
            known["head_dim"] = raw["hidden_size"] // raw["num_attention_heads"]
        try:
            return cls(**known)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "config"
            raise UserError(
                f"{path}: {where}: {first['msg']}; lmcraft loads dense Qwen3 and Llama checkpoints"
            ) from None
