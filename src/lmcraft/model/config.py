"""The shape of a network, in the words of a Hugging Face `config.json`: Qwen3, Llama, Olmo3, Qwen3-MoE, EuroBERT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lmcraft.model.rotary import RopeScaling
from lmcraft.recipe.stage import UserError

ARCHITECTURES = {
    "qwen3": "Qwen3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "olmo3": "Olmo3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "eurobert": "EuroBertForMaskedLM",
}
"""The families: their `model_type`, and the class that loads them in `transformers` and vLLM."""

Kind = Literal["full_attention", "sliding_attention"]

_UNLESS_SAID: dict[str, dict[str, Any]] = {
    "qwen3": {"head_dim": 128, "max_position_embeddings": 32768},
    "llama": {"max_position_embeddings": 2048},
    "olmo3": {"rms_norm_eps": 1e-5, "rope_theta": 500_000.0, "max_position_embeddings": 2048, "sliding_window": 4096},
    "qwen3_moe": {"max_position_embeddings": 32768},
    "eurobert": {"rms_norm_eps": 1e-5, "max_position_embeddings": 8192},
}
"""What `transformers` takes for a key that a config.json leaves out, where it is not our own default."""

_SPARSE = ("num_experts", "num_experts_per_tok", "moe_intermediate_size")
_ONLY_OF = {
    "olmo3": ("sliding_window", "layer_types"),
    "qwen3_moe": (*_SPARSE, "norm_topk_prob", "decoder_sparse_step", "mlp_only_layers"),
}


class ModelConfig(BaseModel):
    """Shape of a transformer; field names are those of `transformers`' configs.

    `model_type` decides what is no number: qwen3 has pre-norms and a norm of each head's queries and keys; llama has
    no such norm; olmo3 norms what a layer adds instead of what it reads, and all queries and keys of a position
    together, and some of its layers see a window of `sliding_window` positions (the own one included); qwen3_moe is
    qwen3 with mixtures of experts in place of feed-forward layers; eurobert is llama that sees what follows, too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model_type: Literal["qwen3", "llama", "olmo3", "qwen3_moe", "eurobert"] = "qwen3"
    vocab_size: int = Field(gt=0)
    hidden_size: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    num_hidden_layers: int = Field(gt=0)
    num_attention_heads: int = Field(gt=0)
    num_key_value_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0, multiple_of=2)
    max_position_embeddings: int = Field(gt=0)
    rope_theta: float = Field(gt=0, default=10_000.0)
    rope_scaling: RopeScaling | None = None
    rms_norm_eps: float = Field(gt=0, default=1e-6)
    tie_word_embeddings: bool = True
    sliding_window: int | None = Field(None, gt=0)
    layer_types: tuple[Kind, ...] | None = None
    num_experts: int | None = Field(None, gt=0)
    num_experts_per_tok: int | None = Field(None, gt=0)
    moe_intermediate_size: int | None = Field(None, gt=0)
    norm_topk_prob: bool | None = None
    decoder_sparse_step: int | None = Field(None, gt=0)
    mlp_only_layers: tuple[int, ...] | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    mask_token_id: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Write out what follows from the family, so that no reader of the config has to know it."""
        values = dict(values)
        if values.get("model_type") == "olmo3" and values.get("layer_types") is None:
            layers = range(1, int(values.get("num_hidden_layers") or 0) + 1)
            values["layer_types"] = tuple("full_attention" if i % 4 == 0 else "sliding_attention" for i in layers)
        if values.get("model_type") == "qwen3_moe":
            for name, value in (("norm_topk_prob", False), ("decoder_sparse_step", 1), ("mlp_only_layers", ())):
                values[name] = value if values.get(name) is None else values[name]
        scaling = values.get("rope_scaling")
        scaling = scaling.model_dump() if isinstance(scaling, RopeScaling) else scaling
        if scaling and scaling.get("rope_type") != "linear" and not scaling.get("original_max_position_embeddings"):
            original = values.get("max_position_embeddings")
            values["rope_scaling"] = {**scaling, "original_max_position_embeddings": original}
        return values

    @model_validator(mode="after")
    def _fits(self) -> ModelConfig:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError("num_attention_heads must be a multiple of num_key_value_heads")
        for family, names in _ONLY_OF.items():
            if self.model_type != family and (set_ := [n for n in names if getattr(self, n) is not None]):
                raise ValueError(f"{set_[0]} belongs to {family}, not to {self.model_type}")
        if self.model_type == "olmo3":
            if self.sliding_window is None or len(self.layer_types or ()) != self.num_hidden_layers:
                raise ValueError("olmo3 needs sliding_window, and layer_types with one entry a layer")
            if self.head_dim * self.num_attention_heads != self.hidden_size:
                raise ValueError("olmo3 has no head_dim of its own: it is hidden_size / num_attention_heads")
        if self.model_type == "qwen3_moe":
            if missing := [name for name in _SPARSE if getattr(self, name) is None]:
                raise ValueError(f"qwen3_moe needs {missing[0]}")
            if (self.num_experts_per_tok or 0) > (self.num_experts or 0):
                raise ValueError("num_experts_per_tok must not exceed num_experts")
        return self

    @property
    def causal(self) -> bool:
        """Whether a position sees only what stands before it."""
        return self.model_type != "eurobert"

    @property
    def qk_norm(self) -> bool:
        return self.model_type not in ("llama", "eurobert")

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What each layer sees."""
        every: tuple[Kind, ...] = ("full_attention",)
        return self.layer_types or every * self.num_hidden_layers

    def window(self, kind: Kind) -> int | None:
        """Positions that a layer of this kind sees, the own one included; None for all."""
        return self.sliding_window if kind == "sliding_attention" else None

    def scaling(self, kind: Kind) -> RopeScaling | None:
        """Windows need no scaling: within them no distance is new (Olmo 3 extends its full layers alone)."""
        return self.rope_scaling if kind == "full_attention" else None

    @property
    def has_experts(self) -> bool:
        """Whether any layer is a mixture: an imported qwen3_moe may have none."""
        return any(self.sparse(layer) for layer in range(self.num_hidden_layers))

    def sparse(self, layer: int) -> bool:
        """Whether this layer is a mixture of experts."""
        if self.num_experts is None:
            return False
        return layer not in (self.mlp_only_layers or ()) and (layer + 1) % (self.decoder_sparse_step or 1) == 0

    def feed_forward(self, layer: int, active: bool = False) -> int:
        """Weights of a layer's feed-forward part; `active`: of those that one token meets."""
        if not self.sparse(layer):
            return 3 * self.hidden_size * self.intermediate_size
        assert self.num_experts and self.num_experts_per_tok and self.moe_intermediate_size
        experts = self.num_experts_per_tok if active else self.num_experts
        return self.hidden_size * self.num_experts + experts * 3 * self.hidden_size * self.moe_intermediate_size

    def parameters(self, active: bool = False) -> int:
        """Number of parameters, embeddings counted once when tied; `active`: of those that one token meets (all but
        the experts that it is not sent to)."""
        d, h, kv, a = self.hidden_size, self.num_attention_heads, self.num_key_value_heads, self.head_dim
        norms = 2 * d + ((h + kv if self.model_type == "olmo3" else 2) * a if self.qk_norm else 0)
        layers = self.num_hidden_layers * (d * a * (2 * h + 2 * kv) + norms)
        layers += sum(self.feed_forward(layer, active) for layer in range(self.num_hidden_layers))
        return layers + d + self.vocab_size * d * (1 if self.tie_word_embeddings else 2)

    def flops_per_token(self, context: int) -> float:
        """Matmul operations to train on one token: 6 a weight of every matrix that it meets (the input embedding is a
        look-up; of the experts those it is sent to) and 12 · heads · head_dim a layer for every position that it
        attends to, on average over `context` positions (Kaplan et al. 2020, PaLM appendix B, here with causality
        counted: half of the scores, fewer where a window is narrower)."""
        attention = self.hidden_size * self.head_dim * 2 * (self.num_attention_heads + self.num_key_value_heads)
        matrices = self.num_hidden_layers * attention + self.vocab_size * self.hidden_size
        matrices += sum(self.feed_forward(layer, active=True) for layer in range(self.num_hidden_layers))
        seen = 0.0
        for kind in self.kinds if context else ():
            widest = min(context, self.window(kind) or context)
            seen += widest - widest**2 / (2 * context)
        return 6.0 * matrices + 12 * self.num_attention_heads * self.head_dim * seen

    def to_huggingface(self, dtype: str) -> dict[str, Any]:
        """The `config.json` that `transformers`, vLLM and llama.cpp's converter read."""
        later = ("rope_theta", "rope_scaling", *(name for names in _ONLY_OF.values() for name in names))
        later += ("mask_token_id",) if self.mask_token_id is None else ()
        scaling = self.rope_scaling.describe() if self.rope_scaling else None
        rope: dict[str, Any] = {**(scaling or {"rope_type": "default"}), "rope_theta": self.rope_theta}
        if self.model_type == "olmo3":
            plain = {"rope_type": "default", "rope_theta": self.rope_theta}
            rope = {"full_attention": rope, "sliding_attention": plain}
        own = {name: getattr(self, name) for name in _ONLY_OF.get(self.model_type, ())}
        return {
            "architectures": [ARCHITECTURES[self.model_type]],
            **self.model_dump(exclude=set(later)),
            "attention_bias": False,
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "mlp_bias": False,
            "rope_theta": self.rope_theta,
            "rope_parameters": rope,
            "rope_scaling": scaling,
            "sliding_window": None,
            "use_sliding_window": False,
            "use_cache": True,
            "dtype": dtype,
            "torch_dtype": dtype,
            **own,
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
        family = raw.get("model_type")
        if family not in ARCHITECTURES:
            raise UserError(
                f"{path}: model_type is {family!r}; lmcraft loads the families {', '.join(sorted(ARCHITECTURES))}"
            )
        for flag in ("use_sliding_window", "attention_bias", "mlp_bias", "quantization_config"):
            if raw.get(flag):
                raise UserError(f"{path}: {flag} is not supported; use a {family} checkpoint without it")
        if raw.get("hidden_act", "silu") != "silu":
            raise UserError(f"{path}: hidden_act is {raw['hidden_act']!r}; lmcraft's layers know silu only")
        theta, scaling = _read_rope(path, raw)
        known: dict[str, Any] = {"tie_word_embeddings": False, **_UNLESS_SAID[family]}
        known |= {name: raw[name] for name in cls.model_fields if raw.get(name) is not None}
        if family == "qwen3_moe":  # transformers 5 writes the first name, everyone before it the second
            known["num_experts"] = raw.get("num_local_experts", raw.get("num_experts"))
        known |= {"rope_scaling": scaling} | ({"rope_theta": theta} if theta else {})
        for other, names in _ONLY_OF.items():
            if other != family:  # transformers writes such keys for families that do not use them
                known = {name: value for name, value in known.items() if name not in names}
        known.setdefault("num_key_value_heads", raw.get("num_attention_heads"))
        try:
            known.setdefault("head_dim", raw["hidden_size"] // raw["num_attention_heads"])
            return cls(**known)
        except (KeyError, TypeError, ZeroDivisionError) as error:
            raise UserError(f"{path}: no usable value for {error}; restore it from its source") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "config"
            raise UserError(
                f"{path}: {where}: {first['msg']}; lmcraft loads the families {', '.join(sorted(ARCHITECTURES))}"
            ) from None


def _read_rope(path: Path, raw: dict[str, Any]) -> tuple[float | None, RopeScaling | None]:
    """RoPE's base and scaling, from `rope_parameters` (transformers 5; nested by kind of layer where kinds differ) or
    from `rope_theta` and `rope_scaling` (before)."""
    rope = raw.get("rope_parameters") or {}
    windows = rope.get("sliding_attention") or {}
    rope = dict(rope.get("full_attention") or rope or raw.get("rope_scaling") or {})
    kind = rope.pop("rope_type", rope.pop("type", "default"))
    theta = rope.pop("rope_theta", raw.get("rope_theta"))
    if windows and (windows.get("rope_type", "default") != "default" or windows.get("rope_theta", theta) != theta):
        raise UserError(f"{path}: RoPE of the sliding layers must be unscaled, with the rope_theta of the full layers")
    if rope.pop("partial_rotary_factor", 1.0) != 1.0 or raw.get("partial_rotary_factor", 1.0) != 1.0:
        raise UserError(f"{path}: partial_rotary_factor is not supported; use a checkpoint that turns whole heads")
    if kind == "default":
        return theta, None
    try:
        return theta, RopeScaling(rope_type=kind, **{name: value for name, value in rope.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"{path}: RoPE scaling {kind!r}: {first['loc'][0] if first['loc'] else ''} {first['msg']}; lmcraft knows "
            "linear, yarn and llama3"
        ) from None
