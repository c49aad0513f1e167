"""Settings of a training run and what is derived from the one dial."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from pydantic import Field, model_validator

from lmcraft.model import ModelConfig
from lmcraft.recipe.stage import StageConfig, UserError


class TrainingConfig(StageConfig):
    """What every training run has: optimizer, schedule, precision, evaluation."""

    optimizer: Literal["muon", "adamw"] = Field("muon", description="muon: matrices by Muon, the rest by AdamW")
    learning_rate: float = Field(0.01, gt=0, description="peak rate of the matrices")
    embedding_learning_rate: float = Field(0.03, gt=0, description="peak rate of AdamW for embeddings and head")
    norm_learning_rate: float = Field(0.005, gt=0, description="peak rate of AdamW for norm weights")
    weight_decay: float = Field(0.05, ge=0, description="decoupled weight decay of the matrices")
    warmup: float = Field(0.02, ge=0, le=1, description="share of the steps in which the rate rises linearly")
    decay: float = Field(0.6, ge=0, le=1, description="share of the steps, at the end, in which it falls linearly")
    final_rate: float = Field(0.02, ge=0, le=1, description="rate at the last step, as a share of the peak")
    clip_norm: float = Field(1.0, gt=0, description="largest norm of the gradient; larger ones are scaled down")
    z_loss: float = Field(0.0, ge=0, description="weight of logsumexp² (keeps logits small)")
    batch_tokens: int | None = Field(None, gt=0, description="tokens of a step; default: derived")
    micro_batch_tokens: int | None = Field(None, gt=0, description="tokens of one forward pass; default: derived")
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="of the matrix products")
    evaluations: int = Field(8, ge=0, description="how often held-out bits per byte are measured on the way")
    heldout_tokens: int = Field(40_000, gt=0, description="held-out tokens measured each time")
    seed: int = Field(0, ge=0)


class PretrainConfig(TrainingConfig):
    """Pretraining of a new network. `depth` (or `parameters`) is the dial; all else is derived and can be set."""

    depth: int | None = Field(None, gt=0, description="number of layers; the dial")
    parameters: int | None = Field(None, gt=0, description="wanted number of parameters, instead of depth")
    architecture: Literal["qwen3", "llama"] = "qwen3"
    hidden_size: int | None = Field(None, gt=0, description="default: 64 a layer")
    intermediate_size: int | None = Field(None, gt=0, description="default: 8/3 hidden_size, to the next 64")
    head_dim: int | None = Field(None, gt=0, description="default: 64 up to 1024 hidden_size, then 128")
    heads: int | None = Field(None, gt=0, description="default: hidden_size / head_dim")
    kv_heads: int | None = Field(None, gt=0, description="default: heads")
    tie_embeddings: bool = True
    context: int = Field(512, gt=1, description="tokens of a row, and the model's context")
    packing: Literal["best_fit", "concatenate"] = Field(
        "best_fit", description="rows of whole documents where they fit, or one stream cut wherever a row is full"
    )
    rope_theta: float = Field(10_000.0, gt=0)
    train_tokens: int | None = Field(None, gt=0, description="default: tokens_per_parameter x parameters")
    tokens_per_parameter: float = Field(12.0, gt=0)
    max_epochs: float = Field(40.0, gt=0, description="refuse to see the corpus more often than this")

    @model_validator(mode="after")
    def _one_dial(self) -> PretrainConfig:
        if self.depth is not None and self.parameters is not None:
            raise ValueError("set depth or parameters, not both")
        return self


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that was derived, in the order in which it is printed."""

    parameters: int
    flops_per_token: float
    train_tokens: int
    corpus_tokens: int
    epochs: float
    row_tokens: int
    rows: int
    micro_rows: int
    steps: int
    packing_fill: float

    def describe(self) -> dict[str, Any]:
        return asdict(self)


def derive_shape(config: PretrainConfig, vocab_size: int, special: dict[str, int]) -> ModelConfig:
    """The network's shape from the dial: width 64 x depth (nanochat's ratio), SwiGLU width 8/3 (Shazeer 2020)."""
    if config.parameters is not None:
        shapes = [_shape(config, depth, vocab_size, special) for depth in range(1, 129)]
        return min(shapes, key=lambda shape: abs(shape.parameters() - (config.parameters or 0)))
    return _shape(config, config.depth or 4, vocab_size, special)


def _shape(config: PretrainConfig, depth: int, vocab_size: int, special: dict[str, int]) -> ModelConfig:
    hidden = config.hidden_size or 64 * depth
    head_dim = config.head_dim or (64 if hidden <= 1024 else 128)
    heads = config.heads or max(1, hidden // head_dim)
    kv_heads = config.kv_heads or heads
    if heads % kv_heads:
        raise UserError(f"heads ({heads}) must be a multiple of kv_heads ({kv_heads})")
    if head_dim % 2:
        raise UserError(f"head_dim ({head_dim}) must be even: rotary embeddings turn pairs")
    return ModelConfig(
        model_type=config.architecture,
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=config.intermediate_size or -(-hidden * 8 // (3 * 64)) * 64,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        max_position_embeddings=config.context,
        rope_theta=config.rope_theta,
        tie_word_embeddings=config.tie_embeddings,
        **special,
    )


def choose_micro_rows(config: TrainingConfig, rows: int, row_tokens: int, device: torch.device) -> int:
    """Rows of one forward pass: the most that fit `micro_batch_tokens` (8192 on a CPU, 32768 on a GPU) and divide the
    step's rows, so that every pass has the same shape and nothing is compiled twice."""
    limit = (config.micro_batch_tokens or (32_768 if device.type == "cuda" else 8192)) // row_tokens
    return max(n for n in range(1, max(1, min(rows, limit)) + 1) if rows % n == 0)


def default_batch_tokens(train_tokens: int, row_tokens: int) -> int:
    """Tokens of a step: about 1/400 of the run, between 8 rows and half a million tokens, whole rows.

    nanochat's B = 2^19 (D/D_d12)^0.383 was fitted to runs of 10^9 tokens and more; for shorter ones several hundred
    steps matter more than a large batch.
    """
    tokens = min(max(train_tokens // 400, 8 * row_tokens), 2**19)
    return max(1, tokens // row_tokens) * row_tokens
