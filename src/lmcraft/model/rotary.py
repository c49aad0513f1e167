"""Rotary position embeddings (Su et al. 2021) and the scalings that carry them beyond the context of training."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor


class RopeScaling(BaseModel):
    """How the frequencies are changed for a longer context; field names are those of `rope_parameters`.

    `linear` divides all of them by `factor` (Chen et al. 2023); `yarn` divides those that turn less than `beta_slow`
    times in the original context, leaves those that turn more than `beta_fast` times, ramps between, and scales the
    attention's logits (Peng et al. 2023); `llama3` ramps by wavelength instead (Llama 3.1). `dynamic` is not offered:
    its frequencies depend on the length of the call, so keys in a cache would go stale.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    rope_type: Literal["linear", "yarn", "llama3"]
    factor: float = Field(gt=0, description="how many times longer the context becomes")
    original_max_position_embeddings: int | None = Field(
        None, gt=0, description="yarn, llama3: context before the extension; default: that of the model"
    )
    attention_factor: float | None = Field(None, gt=0, description="yarn: default 0.1 ln(factor) + 1")
    beta_fast: float | None = Field(None, gt=0, description="yarn: default 32 turns")
    beta_slow: float | None = Field(None, gt=0, description="yarn: default 1 turn")
    low_freq_factor: float | None = Field(None, gt=0, description="llama3: default 1")
    high_freq_factor: float | None = Field(None, gt=0, description="llama3: default 4")

    @model_validator(mode="after")
    def _known_to_the_type(self) -> RopeScaling:
        known = {
            "linear": {"original_max_position_embeddings"},
            "yarn": {"original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow"},
            "llama3": {"original_max_position_embeddings", "low_freq_factor", "high_freq_factor"},
        }[self.rope_type]
        given = {name for name, value in self if value is not None} - {"rope_type", "factor"}
        if strange := sorted(given - known):
            raise ValueError(f"{strange[0]} has no meaning for rope_type {self.rope_type!r}")
        return self

    def describe(self) -> dict[str, object]:
        """Every value that counts, defaults written out: `transformers` has none for llama3."""
        values = self.model_dump(exclude_none=True)
        if self.rope_type == "llama3":
            values = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, **values}
        return values


def frequencies(
    head_dim: int, theta: float, scaling: RopeScaling | None, device: torch.device | str | None = None
) -> tuple[Tensor, float]:
    """Angle per position of each pair of features, [A/2] in float32, and the factor on cosines and sines."""
    exponent = torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim
    plain = theta**-exponent
    if scaling is None:
        return plain, 1.0
    if scaling.rope_type == "linear":
        return plain / scaling.factor, 1.0
    original = scaling.original_max_position_embeddings
    assert original is not None, "ModelConfig fills it in"
    if scaling.rope_type == "llama3":
        low, high = scaling.low_freq_factor or 1.0, scaling.high_freq_factor or 4.0
        turns = original * plain / (2 * math.pi)
        kept = ((turns - low) / (high - low)).clamp(0, 1)
        return plain * (kept + (1 - kept) / scaling.factor), 1.0

    def pair_turning(times: float) -> float:
        """The (fractional) pair of features that turns so often in the original context."""
        return head_dim * math.log(original / (times * 2 * math.pi)) / (2 * math.log(theta))

    first = max(math.floor(pair_turning(scaling.beta_fast or 32)), 0)
    last = min(math.ceil(pair_turning(scaling.beta_slow or 1)), head_dim - 1)
    pairs = torch.arange(head_dim // 2, device=device, dtype=torch.float32)
    divided = ((pairs - first) / (last - first or 0.001)).clamp(0, 1)
    factor = scaling.attention_factor or (0.1 * math.log(scaling.factor) + 1.0 if scaling.factor > 1 else 1.0)
    return plain * (1 - divided) + plain / scaling.factor * divided, factor


def rotary(
    positions_BT: Tensor, head_dim: int, theta: float, scaling: RopeScaling | None = None
) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each [B, 1, T, A], in float32."""
    turns, factor = frequencies(head_dim, theta, scaling, positions_BT.device)
    angles = positions_BT[:, None, :, None].float() * turns
    angles = torch.cat((angles, angles), dim=-1)
    if factor == 1.0:
        return angles.cos(), angles.sin()
    return angles.cos() * factor, angles.sin() * factor


def rotate(x_BHTA: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x_BHTA.shape[-1] // 2
    turned = torch.cat((-x_BHTA[..., half:], x_BHTA[..., :half]), dim=-1)
    return x_BHTA * cos + turned * sin
