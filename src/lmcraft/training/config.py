"""Settings of a training run and what is derived from the one dial."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from pydantic import Field, model_validator

from lmcraft.model import ModelConfig
from lmcraft.model.planted import can_plant
from lmcraft.model.rotary import RopeScaling
from lmcraft.recipe.stage import StageConfig, UserError, count
from lmcraft.training.ngram_labels import MOST_TOKENS


class TrainingConfig(StageConfig):
    """What every training run has: optimizer, schedule, precision, evaluation."""

    optimizer: Literal["muon", "adamw"] = Field("muon", description="muon: matrices by Muon, the rest by AdamW")
    learning_rate: float = Field(0.02, gt=0, description="peak rate of the matrices")
    embedding_learning_rate: float | None = Field(
        None, gt=0, description="peak rate of AdamW for embeddings; default: 0.2, or 0.03 where they are the head too"
    )
    head_learning_rate: float | None = Field(
        None, gt=0, description="of the head where it is not tied; default: a twentieth of embedding_learning_rate"
    )
    norm_learning_rate: float = Field(0.005, gt=0, description="peak rate of AdamW for norm weights")
    weight_decay: float = Field(0.05, ge=0, description="decoupled weight decay of the matrices")
    warmup: float = Field(0.02, ge=0, le=1, description="share of the steps in which the rate rises linearly")
    decay: float = Field(0.6, ge=0, le=1, description="share of the steps, at the end, in which it falls linearly")
    final_rate: float = Field(0.02, ge=0, le=1, description="rate at the last step, as a share of the peak")
    clip_norm: float = Field(1.0, gt=0, description="largest norm of the gradient; larger ones are scaled down")
    spike_limit: float | None = Field(
        6.0,
        gt=0,
        description="a step is left out whose loss or gradient norm lies so many standard deviations above the mean "
        "of the last 128, a norm at least at twice the mean; null: only when it is not finite",
    )
    z_loss: float = Field(0.0, ge=0, description="weight of logsumexp² (keeps logits small)")
    batch_tokens: int | None = Field(None, gt=0, description="tokens of a step; default: derived")
    micro_batch_tokens: int | None = Field(None, gt=0, description="tokens of one forward pass; default: derived")
    precision: Literal["auto", "float32", "bfloat16", "float8"] = Field(
        "auto",
        description="of the matrix products; float8: those of the layers, the others bfloat16, on GPUs that have it "
        "(needs torchao)",
    )
    evaluations: int = Field(8, ge=0, description="how often held-out text is measured on the way")
    heldout_tokens: int = Field(40_000, gt=0, description="held-out tokens measured each time")
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _phases(self) -> TrainingConfig:
        if self.warmup + self.decay > 1:
            raise ValueError(
                f"warmup ({self.warmup:g}) and decay ({self.decay:g}) are shares of the run and come one after the "
                "other: lower one of them"
            )
        return self


class PretrainConfig(TrainingConfig):
    """Pretraining. Of a new network, `depth` (or `parameters`) is the dial; all else is derived and can be set. An
    input `model` brings its shape with it, and a setting of the shape that it does not have is an error."""

    depth: int | None = Field(None, gt=0, description="number of layers; the dial")
    parameters: int | None = Field(None, gt=0, description="wanted number of parameters, instead of depth")
    objective: Literal["next_token", "masked", "mixed"] = Field(
        "next_token",
        description="next_token: a causal LM; masked: a masked LM, which sees both sides of a mask; mixed: one network "
        "for both, by rows. The last two need a tokenizer with mask_token: true",
    )
    mask_share: float = Field(0.3, gt=0, le=0.8, description="share of a masked row's tokens that are hidden")
    masking: Literal["tokens", "spans"] = Field("tokens", description="hidden singly, or in runs of 3.8 on average")
    masked_rows: float = Field(0.5, gt=0, lt=1, description="share of the rows that are masked, where mixed")
    predict_ahead: int = Field(
        0,
        ge=0,
        le=8,
        description="next_token: tokens after the next one that layers beside the model learn to predict; they are not "
        "part of the model that is written",
    )
    predict_ahead_weight: float = Field(0.3, gt=0, description="weight of their mean loss beside the next token's")
    architecture: Literal["qwen3", "llama", "olmo3", "qwen3_moe"] | None = Field(
        None,
        description="default: qwen3; olmo3 has sliding windows, qwen3_moe mixtures of experts; masked is always "
        "eurobert, mixed always llama, which is eurobert's causal twin",
    )
    hidden_size: int | None = Field(None, gt=0, description="default: 64 a layer")
    intermediate_size: int | None = Field(None, gt=0, description="default: 8/3 hidden_size, to the next 64")
    head_dim: int | None = Field(None, gt=0, description="default: 64 up to 1024 hidden_size, then 128")
    heads: int | None = Field(None, gt=0, description="default: hidden_size / head_dim")
    kv_heads: int | None = Field(None, gt=0, description="default: heads")
    tie_embeddings: bool | None = Field(None, description="default: true, or as the input model has it")
    sliding_window: int | None = Field(
        None, gt=0, description="olmo3: positions that three layers of four see; default: half the context"
    )
    experts: int | None = Field(None, gt=1, description="qwen3_moe: experts of a layer; default: 8")
    experts_per_token: int | None = Field(None, gt=0, description="qwen3_moe: experts a token meets; default: 2")
    moe_intermediate_size: int | None = Field(
        None,
        gt=0,
        description="qwen3_moe: width of an expert; default: intermediate_size / experts_per_token, to the next 32, so "
        "that a token meets as many weights as in the dense network",
    )
    planted_heads: bool | None = Field(
        None,
        description="start with heads that look one and two tokens back and one that finds what followed a token the "
        "last time (qwen3 and qwen3_moe with tie_embeddings: false, of two layers and heads or more); default: for "
        "qwen3, where it was measured",
    )
    ngram_smoothing: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="next_token: share of each label, at first, that goes to what followed the same last tokens "
        "elsewhere in the training text; it falls to zero with the run. Default: 0.9 for a new network and a text of "
        "10 to 67 million tokens, where it was measured to pay, else 0",
    )
    router_aux_loss: float = Field(
        0.01, ge=0, description="qwen3_moe: weight of the load-balancing loss; nothing is ever dropped"
    )
    context: int = Field(
        512,
        gt=1,
        description="tokens of a row, and the model's context; longer than the input model's only with rope_scaling or "
        "rope_theta",
    )
    first_context: int | None = Field(
        None,
        gt=1,
        description="tokens that rows are cut to at first (a part of context; none: never); short rows are faster, and "
        "what a few hundred tokens can teach is learnt as well from them (sequence length warm-up)",
    )
    first_context_share: float = Field(0.8, gt=0, le=1, description="share of the run with rows of first_context")
    packing: Literal["best_fit", "concatenate"] = Field(
        "best_fit", description="rows of whole documents where they fit, or one stream cut wherever a row is full"
    )
    rope_theta: float | None = Field(None, gt=0, description="default: 10000, or that of the input model")
    rope_scaling: RopeScaling | None = Field(
        None, description="how the positions of the input model are stretched to a longer context"
    )
    new_vocabulary: bool = Field(
        False,
        description="give the input model the tokenizer of this run: rows of its embeddings for tokens that both write "
        "alike are kept, the others start at the mean",
    )
    train_tokens: int | None = Field(
        None, gt=0, description="default: tokens_per_parameter x parameters (of experts, those a token meets)"
    )
    tokens_per_parameter: float = Field(12.0, gt=0)
    train_minutes: float | None = Field(
        None,
        gt=0,
        description="instead of train_tokens: minutes by the clock, start-up included; rates then follow the clock, so "
        "that another machine, or a run that was killed, ends with another model",
    )
    max_epochs: float = Field(40.0, gt=0, description="refuse to see the corpus more often than this")

    @model_validator(mode="after")
    def _one_dial(self) -> PretrainConfig:
        if self.depth is not None and self.parameters is not None:
            raise ValueError("set depth or parameters, not both")
        return self

    @model_validator(mode="after")
    def _one_length(self) -> PretrainConfig:
        if self.train_minutes is not None and self.train_tokens is not None:
            raise ValueError("set train_tokens or train_minutes, not both")
        return self

    @model_validator(mode="after")
    def _divided_rows(self) -> PretrainConfig:
        if self.first_context is not None and self.context % self.first_context:
            raise ValueError(f"first_context ({self.first_context}) must divide context ({self.context})")
        if self.first_context is None and "first_context_share" in self.model_fields_set:
            raise ValueError("first_context_share says how long rows have first_context tokens: set that too")
        return self

    @model_validator(mode="after")
    def _of_the_family(self) -> PretrainConfig:
        for name in ("experts", "experts_per_token", "moe_intermediate_size"):
            if getattr(self, name) is not None and self.architecture != "qwen3_moe":
                raise ValueError(f"{name} belongs to architecture qwen3_moe")
        if self.sliding_window is not None and self.architecture != "olmo3":
            raise ValueError("sliding_window belongs to architecture olmo3")
        if (self.experts_per_token or 2) > (self.experts or 8):
            raise ValueError("experts_per_token must not exceed experts")
        return self

    @model_validator(mode="after")
    def _masked(self) -> PretrainConfig:
        if self.objective != "next_token" and self.architecture not in (None, "llama"):
            raise ValueError(
                f"objective {self.objective} trains no {self.architecture}: transformers reads a masked LM of it as "
                "eurobert, which has no such layers; leave architecture out"
            )
        if self.objective != "next_token" and self.predict_ahead:
            raise ValueError(
                f"predict_ahead looks past the next token; objective {self.objective} hides tokens on both sides: "
                "leave predict_ahead out, or take objective: next_token"
            )
        if self.objective != "next_token" and self.ngram_smoothing:
            raise ValueError(
                f"ngram_smoothing is for next tokens, and objective {self.objective} predicts what stands under a "
                "mask: leave ngram_smoothing out, or take objective: next_token"
            )
        return self

    @property
    def model_type(self) -> Literal["qwen3", "llama", "olmo3", "qwen3_moe", "eurobert"]:
        """What `transformers` is to read the trained network as."""
        if self.objective == "masked":
            return "eurobert"
        return self.architecture or ("qwen3" if self.objective == "next_token" else "llama")


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that was derived, in the order in which it is printed."""

    parameters: int
    active_parameters: int
    flops_per_token: float
    train_tokens: int
    corpus_tokens: int
    epochs: float
    row_tokens: int
    first_row_tokens: int | None
    rows: int
    micro_rows: int
    steps: int
    packing_fill: float

    def describe(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


def derive_shape(config: PretrainConfig, vocab_size: int, special: dict[str, int]) -> ModelConfig:
    """The network's shape from the dial: width 64 x depth (nanochat's ratio), SwiGLU width 8/3 (Shazeer 2020); of
    windows three layers in four, never the last (Olmo 3)."""
    if config.parameters is not None:
        shapes, refused = [], None
        for depth in range(1, 129):
            try:
                shapes.append(_shape(config, depth, vocab_size, special))
            except UserError as error:  # of one depth the heads divide, of another not
                refused = error
        if refused and not shapes:
            raise refused
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
    intermediate = config.intermediate_size or -(-hidden * 8 // (3 * 64)) * 64
    own: dict[str, Any] = {}
    if config.model_type == "olmo3":
        if heads * head_dim != hidden:
            raise UserError(f"olmo3 needs heads x head_dim ({heads} x {head_dim}) equal to hidden_size ({hidden})")
        full = [i % 4 == 0 or i == depth for i in range(1, depth + 1)]
        own["layer_types"] = tuple("full_attention" if each else "sliding_attention" for each in full)
        own["sliding_window"] = config.sliding_window or max(1, config.context // 2)
    if config.model_type == "qwen3_moe":
        chosen = config.experts_per_token or 2
        own["num_experts"], own["num_experts_per_tok"], own["norm_topk_prob"] = config.experts or 8, chosen, True
        own["moe_intermediate_size"] = config.moe_intermediate_size or -(-intermediate // (chosen * 32)) * 32
    return ModelConfig(
        model_type=config.model_type,
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        max_position_embeddings=config.context,
        rope_theta=config.rope_theta or 10_000.0,
        tie_word_embeddings=config.tie_embeddings is not False,
        **{**own, **special},
    )


def plants_heads(config: PretrainConfig, shape: ModelConfig) -> bool:
    """Whether a new network of this shape starts with planted heads. Raises UserError when they are asked for and it
    can not have them."""
    if config.planted_heads and not can_plant(shape):
        raise UserError(
            "planted_heads is true, but this network can not have them: it takes architecture qwen3 or qwen3_moe with "
            "tie_embeddings: false, two layers and two heads or more; leave planted_heads out"
        )
    return shape.model_type == "qwen3" and can_plant(shape) if config.planted_heads is None else config.planted_heads


def ngram_share(config: PretrainConfig, corpus_tokens: int, *, new: bool) -> float:
    """The share of labels that n-grams get at first. Raises UserError when they are asked for and the text is too long
    to be sorted in memory."""
    share = config.ngram_smoothing
    if share is None:
        pays = new and config.objective == "next_token" and FEWEST_TOKENS <= corpus_tokens <= MOST_TOKENS
        return NGRAM_SHARE if pays else 0.0
    if share and corpus_tokens > MOST_TOKENS:
        raise UserError(
            f"ngram_smoothing sorts the training text in memory, up to {count(MOST_TOKENS)} tokens, and this one has "
            f"{count(corpus_tokens)}: leave ngram_smoothing out"
        )
    return share


NGRAM_SHARE = 0.9

FEWEST_TOKENS = 10_000_000
"""Below so many tokens n-grams know little: with 36 million the share pays, with 4 million it did not (docs/log.md)."""

CLOCKED_BATCH_TOKENS = 2048
"""Tokens of a step where the clock sets the length, and with it nobody knows the number of steps."""


def choose_micro_rows(config: TrainingConfig, rows: int, row_tokens: int, device: torch.device) -> int:
    """Rows of one forward pass: the most that fit `micro_batch_tokens` (8192 on a CPU, 32768 on a GPU) and divide the
    step's rows, so that every pass has the same shape and nothing is compiled twice."""
    limit = (config.micro_batch_tokens or (32_768 if device.type == "cuda" else 8192)) // row_tokens
    return max(n for n in range(1, max(1, min(rows, limit)) + 1) if rows % n == 0)


def default_batch_tokens(train_tokens: int, row_tokens: int) -> int:
    """Tokens of a step: about 1/2000 of the run, between 8 rows and half a million tokens, whole rows.

    nanochat's B = 2^19 (D/D_d12)^0.383 was fitted to runs of 10^9 tokens and more, where this meets it; in short ones
    a thousand steps and more matter more than a large batch (docs/log.md).
    """
    tokens = min(max(train_tokens // 2000, 8 * row_tokens), 2**19)
    return max(1, tokens // row_tokens) * row_tokens
