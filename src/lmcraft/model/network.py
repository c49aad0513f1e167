"""The transformer: Qwen3, and by config Llama, Olmo3, Qwen3-MoE and EuroBERT. It knows nothing of devices, precision,
compilation or training.

Shape letters: B rows, T positions, S positions attended to, D hidden_size, H query heads, K key/value heads,
A head_dim, F intermediate_size, V vocab_size.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmcraft.model.attention import Tile, block_attention, make_block_mask, make_tiles, tiled_attention
from lmcraft.model.config import Kind, ModelConfig
from lmcraft.model.feed_forward import MLP, Experts
from lmcraft.model.rotary import rotary, rotate

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

Visible: TypeAlias = "Tensor | list[Tile] | BlockMask | None"
"""What positions may see: a mask [B or 1, 1, T, S], tiles (training on a CPU), blocks (training on a GPU), or None for
plain causality."""


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
        positions = torch.arange(capacity, device=device)[None]
        self.turns: dict[Kind, tuple[Tensor, Tensor]] = {}
        for kind in sorted(set(config.kinds)):
            cos, sin = rotary(positions, config.head_dim, config.rope_theta, config.scaling(kind))
            self.turns[kind] = cos[0, 0], sin[0, 0]
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

    def mask(self, positions_BT: Tensor, window: int | None = None) -> Tensor | None:
        """What each token of a call may see, [B, 1, T, S] (or [1, 1, T, S]): the last `window` positions up to its
        own, or all; None for all (one token) or for plain causality (prefill). Fixes `reach`, the S of this call.

        Keys that fell out of every window stay in their slot: it is simple, and costs memory, not results.
        """
        if self.prefill:
            self.reach = positions_BT.shape[1]
        elif self.reach is None:
            self.reach = int(positions_BT.max()) + 1
        window = min(window or self.reach, self.reach)
        wide = window == self.reach
        if wide and (self.prefill or positions_BT.numel() == 1):
            return None
        own = positions_BT[:1] if self.prefill else positions_BT
        own, seen = own[:, None, :, None], torch.arange(self.reach, device=positions_BT.device)
        return seen <= own if wide else (seen <= own) & (seen > own - window)

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
    """Root-mean-square normalisation (Zhang and Sennrich 2019), in float32 at least, as Llama and Qwen3 apply it."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float32 and not torch.is_grad_enabled():
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)  # the same sums in one call
        x32 = x.to(torch.promote_types(x.dtype, torch.float32))
        normed = x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + self.eps)
        return (self.weight * normed.to(x.dtype)).to(x.dtype)


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
        self.norms_all_heads = config.model_type == "olmo3"
        if not config.qk_norm:
            self.q_norm: nn.Module = nn.Identity()
            self.k_norm: nn.Module = nn.Identity()
        else:
            heads, kv_heads = (self.heads, self.kv_heads) if self.norms_all_heads else (1, 1)
            self.q_norm = RMSNorm(heads * self.head_dim, config.rms_norm_eps)
            self.k_norm = RMSNorm(kv_heads * self.head_dim, config.rms_norm_eps)

    def forward(
        self,
        x_BTD: Tensor,
        cos: Tensor,
        sin: Tensor,
        positions_BT: Tensor | None,
        mask_B1TS: Visible,
        cache: KVCache | None,
    ) -> Tensor:
        B, T, _ = x_BTD.shape
        q, k = self.q_proj(x_BTD), self.k_proj(x_BTD)
        if self.norms_all_heads:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = q.view(B, T, self.heads, self.head_dim), k.view(B, T, self.kv_heads, self.head_dim)
        if not self.norms_all_heads:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = q.transpose(1, 2), k.transpose(1, 2)
        v = self.v_proj(x_BTD).view(B, T, self.kv_heads, self.head_dim).transpose(1, 2)
        q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
        if cache is not None:
            assert positions_BT is not None
            k, v = cache.update(self.layer, positions_BT, k, v)
        if mask_B1TS is None or isinstance(mask_B1TS, Tensor):
            causal = mask_B1TS is None and T > 1  # a single token sees all that there is
            out = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask_B1TS, is_causal=causal, enable_gqa=self.heads != self.kv_heads
            )
        elif isinstance(mask_B1TS, list):
            out = tiled_attention(q.contiguous(), k.contiguous(), v.contiguous(), mask_B1TS)
        else:
            out = block_attention(q, k, v, mask_B1TS)
        return self.o_proj(out.transpose(1, 2).reshape(B, T, self.heads * self.head_dim))


class Layer(nn.Module):
    """Attention and feed-forward, each added to the residual stream: of its norm (pre-norm), or normed (Olmo3)."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp: nn.Module = (
            Experts(config) if config.sparse(layer) else MLP(config.hidden_size, config.intermediate_size)
        )
        self.post_norm = config.model_type == "olmo3"
        if self.post_norm:
            self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
            self.post_feedforward_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        else:
            self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
            self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        x_BTD: Tensor,
        cos: Tensor,
        sin: Tensor,
        positions_BT: Tensor | None,
        mask_B1TS: Visible,
        cache: KVCache | None,
    ) -> Tensor:
        if self.post_norm:
            attended = self.self_attn(x_BTD, cos, sin, positions_BT, mask_B1TS, cache)
            x_BTD = x_BTD + self.post_attention_layernorm(attended)
            return x_BTD + self.post_feedforward_layernorm(self.mlp(x_BTD))
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), cos, sin, positions_BT, mask_B1TS, cache)
        return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))


class Decoder(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Transformer(nn.Module):
    """A language model, causal or (EuroBERT) bidirectional, whose state dict has Hugging Face's parameter names.

    `forward(tokens_BT, ...)` gives logits [B, T, V]; `hidden(...)` the normalised last states [B, T, D], for losses
    that never hold all logits at once. With `documents_BT` (an integer a position, equal within a document), packed
    documents cannot see each other; `positions_BT` then restarts at 0 in each. With `cache`, `positions_BT` says where
    each token of each row stands. `bidirectional_B` says which rows see what follows as well; without it the config
    does, for all.
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
        bidirectional_B: Tensor | None = None,
    ) -> Tensor:
        T = tokens_BT.shape[1]
        if positions_BT is None:
            assert cache is None, "a cached call says where its tokens stand"
            positions_BT = torch.arange(T, device=tokens_BT.device)[None, :]
        if bidirectional_B is None and not self.config.causal:
            bidirectional_B = torch.ones(tokens_BT.shape[0], dtype=torch.bool, device=tokens_BT.device)
        if cache is not None:
            assert bidirectional_B is None, "what follows changes what went before: nothing can be kept"
        x = self.model.embed_tokens(tokens_BT)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        config = self.config
        training = cache is None and torch.is_grad_enabled()
        seen: dict[Kind, tuple[Tensor, Tensor, Visible]] = {}
        for kind in sorted(set(config.kinds)):
            window = config.window(kind)
            if cache is not None:
                visible: Visible = cache.mask(positions_BT, window)
                cos, sin = (table[positions_BT][:, None] for table in cache.turns[kind])
            else:
                visible = self._visible(tokens_BT, window, documents_BT, bidirectional_B, x.dtype, training)
                cos, sin = rotary(positions_BT, config.head_dim, config.rope_theta, config.scaling(kind))
            seen[kind] = cos.to(x.dtype), sin.to(x.dtype), visible
        for layer, kind in zip(self.model.layers, config.kinds, strict=True):
            cos, sin, visible = seen[kind]
            x = layer(x, cos, sin, positions_BT, visible, cache)
        return self.model.norm(x)

    def _visible(
        self,
        tokens_BT: Tensor,
        window: int | None,
        documents_BT: Tensor | None,
        bidirectional_B: Tensor | None,
        dtype: torch.dtype,
        training: bool,
    ) -> Visible:
        """What each position of whole rows may see, as its device computes it fastest."""
        B, T = tokens_BT.shape
        window = window if window is not None and window < T else None
        if documents_BT is None and bidirectional_B is None and window is None:
            return None
        if training and tokens_BT.device.type == "cuda":
            return make_block_mask((B, T), window, documents_BT, bidirectional_B, tokens_BT.device)
        mask = _mask(T, window, documents_BT, bidirectional_B, tokens_BT.device)
        if training and tokens_BT.device.type == "cpu":
            return make_tiles(mask, self.config.num_attention_heads, B, dtype)
        return mask

    def forward(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        cache: KVCache | None = None,
        bidirectional_B: Tensor | None = None,
    ) -> Tensor:
        return self.lm_head(self.hidden(tokens_BT, positions_BT, documents_BT, cache, bidirectional_B))

    @contextmanager
    def routing(self) -> Iterator[list[Tensor]]:
        """Within it, the list fills with the router's logits [B, T, E] of every mixture layer that is called, in
        order and with their gradients: what a load-balancing loss is computed from. Empty for a dense network."""
        mixtures = [layer.mlp for layer in self.model.layers if isinstance(layer.mlp, Experts)]
        seen: list[Tensor] = []
        for mixture in mixtures:
            mixture.routing = seen
        try:
            yield seen
        finally:
            for mixture in mixtures:
                mixture.routing = None

    def initialise(self, seed: int) -> None:
        """Weights from `seed` alone: embeddings N(0, 0.02) where they are the head too, else N(0, 0.3) and the head
        N(0, 0.001); matrices N(0, 1/fan_in)·0.5 truncated at 3 sd, output projections zero (so that every layer starts
        as the identity), norms one. Where outputs are normed (Olmo3), zeros would blow up to unit size in the first
        step: there the output projections are as other matrices."""
        normed = self.config.model_type == "olmo3"
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in sorted(self.named_parameters()):
                if parameter.ndim == 1:
                    parameter.fill_(1.0)
                elif name.endswith(("o_proj.weight", "down_proj.weight")) and not normed:
                    parameter.zero_()
                else:
                    std = 0.5 * parameter.shape[1] ** -0.5
                    if name.endswith("embed_tokens.weight"):
                        std = 0.02 if self.config.tie_word_embeddings else 0.3
                    elif name.endswith("lm_head.weight"):
                        std = 0.001
                    fresh = torch.empty(parameter.shape, dtype=torch.float32)
                    nn.init.trunc_normal_(fresh, std=std, a=-3 * std, b=3 * std, generator=generator)
                    parameter.copy_(fresh)


def _mask(
    T: int, window: int | None, documents_BT: Tensor | None, bidirectional_B: Tensor | None, device: torch.device
) -> Tensor:
    """What each position of whole rows may see, [B or 1, 1, T, T]. Within a document, distances in the row are
    distances in the document, so one window serves packed rows too."""
    mask = torch.ones(T, T, dtype=torch.bool, device=device).tril()[None, None]
    if bidirectional_B is not None:
        mask = mask | bidirectional_B[:, None, None, None]
    if window is not None:
        mask = mask & torch.ones(T, T, dtype=torch.bool, device=device).triu(1 - window)
    if documents_BT is not None:
        mask = (documents_BT[:, None, :, None] == documents_BT[:, None, None, :]) & mask
    return mask
