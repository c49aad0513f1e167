"""The transformer: Qwen3 dense, and Llama by config. It knows nothing of devices, precision, compilation or training.

Shape letters: B rows, T positions, S positions attended to, D hidden_size, H query heads, K key/value heads,
A head_dim, F intermediate_size, V vocab_size.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmcraft.model.config import ModelConfig


class KVCache:
    """Keys and values of past positions, one slot a row, filled from the left.

    `keys` and `values` are [layers, B, K, S, A] with S = `capacity`. Rows may have different lengths: `positions` of a
    call say where each new token goes. Padding stands to the right of a row's tokens, at the positions that come
    next: what it stores is written over before it is read.
    """

    def __init__(self, config: ModelConfig, rows: int, capacity: int, device: torch.device | str, dtype: torch.dtype):
        shape = (config.num_hidden_layers, rows, config.num_key_value_heads, capacity, config.head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.capacity = capacity
        cos, sin = rotary(torch.arange(capacity, device=device)[None], config.head_dim, config.rope_theta)
        self.cos_SA, self.sin_SA = cos[0, 0], sin[0, 0]
        self.reach: int | None = None
        self.prefill = False

    def rows(self, start: int, stop: int, reach: int | None = None, prefill: bool = False) -> KVCache:
        """The rows [start, stop) as a cache over the same memory, with what the caller knows about its next call:
        `reach`, the largest position in it plus one (saves asking the device), and `prefill`, a promise that the
        tokens of every row stand at 0..T-1 (they then need no mask)."""
        part = copy.copy(self)
        part.keys, part.values = self.keys[:, start:stop], self.values[:, start:stop]
        part.reach, part.prefill = reach, prefill
        return part

    def mask(self, positions_BT: Tensor) -> Tensor | None:
        """What each token of a call may see, [B, 1, T, S]; None for all (one token) or for plain causality (prefill).
        Fixes `reach`, the S of this call."""
        if self.prefill:
            self.reach = positions_BT.shape[1]
            return None
        if self.reach is None:
            self.reach = int(positions_BT.max()) + 1
        if positions_BT.numel() == 1:
            return None
        seen = torch.arange(self.reach, device=positions_BT.device)
        return seen[None, None, None, :] <= positions_BT[:, None, :, None]

    def update(self, layer: int, positions_BT: Tensor, k_BKTA: Tensor, v_BKTA: Tensor) -> tuple[Tensor, Tensor]:
        """Store the keys and values of a call; returns those it attends to, [B, K, S, A]."""
        reach = self.reach
        assert reach is not None and reach <= self.capacity
        keys, values = self.keys[layer], self.values[layer]
        if self.prefill or positions_BT.numel() == 1:
            first = 0 if self.prefill else reach - 1
            keys[:, :, first:reach] = k_BKTA
            values[:, :, first:reach] = v_BKTA
        else:
            rows = torch.arange(positions_BT.shape[0], device=positions_BT.device)[:, None]
            keys[rows, :, positions_BT] = k_BKTA.transpose(1, 2).to(keys.dtype)
            values[rows, :, positions_BT] = v_BKTA.transpose(1, 2).to(values.dtype)
        return keys[:, :, :reach], values[:, :, :reach]


class RMSNorm(nn.Module):
    """Root-mean-square normalisation in float32 (Zhang and Sennrich 2019), as Llama and Qwen3 apply it."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float32 and not torch.is_grad_enabled():
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)  # the same sums in one call
        x32 = x.float()
        normed = x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + self.eps)
        return (self.weight * normed.to(x.dtype)).to(x.dtype)


def rotary(positions_BT: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary position embeddings (Su et al. 2021), each [B, 1, T, A], in float32."""
    exponent = torch.arange(0, head_dim, 2, device=positions_BT.device, dtype=torch.float32) / head_dim
    angles = positions_BT[:, None, :, None].float() * (theta**-exponent)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x_BHTA: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x_BHTA.shape[-1] // 2
    turned = torch.cat((-x_BHTA[..., half:], x_BHTA[..., :half]), dim=-1)
    return x_BHTA * cos + turned * sin


class Attention(nn.Module):
    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        d = config.hidden_size
        self.q_proj = nn.Linear(d, self.heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(d, self.kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(d, self.kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.head_dim, d, bias=False)
        if config.qk_norm:
            self.q_norm: nn.Module = RMSNorm(self.head_dim, config.rms_norm_eps)
            self.k_norm: nn.Module = RMSNorm(self.head_dim, config.rms_norm_eps)
        else:
            self.q_norm = self.k_norm = nn.Identity()

    def forward(
        self,
        x_BTD: Tensor,
        cos: Tensor,
        sin: Tensor,
        positions_BT: Tensor | None,
        mask_B1TS: Tensor | None,
        cache: KVCache | None,
    ) -> Tensor:
        B, T, _ = x_BTD.shape
        q = self.q_norm(self.q_proj(x_BTD).view(B, T, self.heads, self.head_dim)).transpose(1, 2)
        k = self.k_norm(self.k_proj(x_BTD).view(B, T, self.kv_heads, self.head_dim)).transpose(1, 2)
        v = self.v_proj(x_BTD).view(B, T, self.kv_heads, self.head_dim).transpose(1, 2)
        q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
        if cache is not None:
            assert positions_BT is not None
            k, v = cache.update(self.layer, positions_BT, k, v)
        causal = mask_B1TS is None and T > 1  # a single token sees all that there is
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask_B1TS, is_causal=causal, enable_gqa=self.heads != self.kv_heads
        )
        return self.o_proj(out.transpose(1, 2).reshape(B, T, self.heads * self.head_dim))


class MLP(nn.Module):
    """SwiGLU (Shazeer 2020)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        x_BTD: Tensor,
        cos: Tensor,
        sin: Tensor,
        positions_BT: Tensor | None,
        mask_B1TS: Tensor | None,
        cache: KVCache | None,
    ) -> Tensor:
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), cos, sin, positions_BT, mask_B1TS, cache)
        return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))


class Decoder(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Transformer(nn.Module):
    """A causal language model whose state dict has Hugging Face's parameter names.

    `forward(tokens_BT, ...)` gives logits [B, T, V]; `hidden(...)` the normalised last states [B, T, D], for losses
    that never hold all logits at once. With `documents_BT` (an integer a position, equal within a document), packed
    documents cannot see each other; `positions_BT` then restarts at 0 in each. With `cache`, `positions_BT` says where
    each token of each row stands.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def hidden(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        T = tokens_BT.shape[1]
        if positions_BT is None:
            assert cache is None, "a cached call says where its tokens stand"
            positions_BT = torch.arange(T, device=tokens_BT.device)[None, :]
        mask: Tensor | None = None
        if cache is not None:
            mask = cache.mask(positions_BT)
        elif documents_BT is not None:
            causal = torch.ones(T, T, dtype=torch.bool, device=tokens_BT.device).tril()
            mask = (documents_BT[:, None, :, None] == documents_BT[:, None, None, :]) & causal
        x = self.model.embed_tokens(tokens_BT)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        if cache is not None:
            cos, sin = cache.cos_SA[positions_BT][:, None], cache.sin_SA[positions_BT][:, None]
        else:
            cos, sin = rotary(positions_BT, self.config.head_dim, self.config.rope_theta)
        cos, sin = cos.to(x.dtype), sin.to(x.dtype)
        for layer in self.model.layers:
            x = layer(x, cos, sin, positions_BT, mask, cache)
        return self.model.norm(x)

    def forward(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        return self.lm_head(self.hidden(tokens_BT, positions_BT, documents_BT, cache))

    def initialise(self, seed: int) -> None:
        """Weights from `seed` alone: embeddings N(0, 0.02), matrices N(0, 1/fan_in)·0.5 truncated at 3 sd, output
        projections zero (so that every layer starts as the identity), norms one."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in sorted(self.named_parameters()):
                if parameter.ndim == 1:
                    parameter.fill_(1.0)
                elif name.endswith(("o_proj.weight", "down_proj.weight")):
                    parameter.zero_()
                else:
                    table = name.endswith(("embed_tokens.weight", "lm_head.weight"))
                    std = 0.02 if table else 0.5 * parameter.shape[1] ** -0.5
                    fresh = torch.empty(parameter.shape, dtype=torch.float32)
                    nn.init.trunc_normal_(fresh, std=std, a=-3 * std, b=3 * std, generator=generator)
                    parameter.copy_(fresh)
