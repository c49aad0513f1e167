"""Attention over packed rows in training: what lies outside the documents is never computed.

On a GPU that is FlexAttention (Dong et al. 2024), whose kernel has no backward pass on a CPU. There, PyTorch's fused
kernel computes every pair of a row where there is a mask, and forgoes most of a processor's bfloat16 rate. Batched
products over tiles of queries, each against no more keys than one of its queries may see, run at that rate as long as
a tile stays in the second-level cache.

Shape letters as in `network`; Q queries and S keys of a tile, R rows of a tile, G query heads a key head.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

QUERIES = 128
"""Queries of a tile. Where documents are short, 256 were a tenth slower (docs/log.md)."""

TILE_SCORES = 1 << 20
"""Scores of a tile: 2 MiB in bfloat16, the second-level caches of two cores."""

KEY_STEP = 32
"""A tile's first and last key are rounded outwards to this: products of odd sizes are slower."""


class Tile:
    """Rows [first, last), queries [start, stop), keys [low, high), and what to add to their scores [R, 1, Q, S]."""

    __slots__ = ("bias_R1QS", "keys", "queries", "rows")

    def __init__(self, rows: slice, queries: slice, keys: slice, bias_R1QS: Tensor):
        self.rows, self.queries, self.keys, self.bias_R1QS = rows, queries, keys, bias_R1QS


def make_tiles(mask_B1TT: Tensor, heads: int, rows: int, dtype: torch.dtype) -> list[Tile]:
    """Cut what positions may see (bool, [B or 1, 1, T, T]) into tiles for `rows` rows."""
    global _apply  # noqa: PLW0603
    _apply = _apply or torch.compiler.disable(_TiledAttention.apply)
    mask_BTT = mask_B1TT[:, 0].expand(rows, -1, -1)
    T = mask_BTT.shape[1]
    queries = min(QUERIES, T)
    together = max(1, TILE_SCORES // (heads * queries * T))
    tiles = []
    for row in range(0, rows, together):
        for start in range(0, T, queries):
            part_RQT = mask_BTT[row : row + together, start : start + queries]
            seen = part_RQT.flatten(0, 1).any(0).nonzero()
            low, high = int(seen[0]), int(seen[-1]) + 1
            low, high = low // KEY_STEP * KEY_STEP, min(T, -(-high // KEY_STEP) * KEY_STEP)
            bias = torch.zeros(part_RQT.shape[0], 1, part_RQT.shape[1], high - low, dtype=dtype)
            bias.masked_fill_(~part_RQT[:, None, :, low:high], float("-inf"))
            tiles.append(Tile(slice(row, row + together), slice(start, start + queries), slice(low, high), bias))
    return tiles


def make_block_mask(
    shape_BT: tuple[int, int],
    window: int | None,
    documents_BT: Tensor | None,
    bidirectional_B: Tensor | None,
    device: torch.device,
) -> BlockMask:
    """FlexAttention's blocks of what the positions of whole rows may see: themselves and what is before them, or all
    in rows that are bidirectional, no further than `window` back, and of one document."""

    def visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = key <= query
        if bidirectional_B is not None:
            seen = seen | bidirectional_B[row]
        if window is not None:
            seen = seen & (query - key < window)
        if documents_BT is not None:
            seen = seen & (documents_BT[row, query] == documents_BT[row, key])
        return seen

    from torch.nn.attention.flex_attention import create_block_mask

    make = _compiled(create_block_mask) if device.type == "cuda" else create_block_mask
    rows, T = shape_BT
    return make(visible, rows, None, T, T, device=device)


def block_attention(q_BHTA: Tensor, k_BKTA: Tensor, v_BKTA: Tensor, blocks: BlockMask) -> Tensor:
    """softmax(q kᵀ / sqrt(A)) v over the pairs in `blocks`, [B, H, T, A]; keys and values of a head serve H / K query
    heads. Without compilation the kernel is not fused, so on a GPU it is compiled even where the layer is not."""
    from torch.nn.attention.flex_attention import flex_attention

    attend = _compiled(flex_attention) if q_BHTA.device.type == "cuda" else flex_attention
    out: Tensor = attend(q_BHTA, k_BKTA, v_BKTA, block_mask=blocks, enable_gqa=q_BHTA.shape[1] != k_BKTA.shape[1])
    return out


@functools.cache
def _compiled(function: Any) -> Any:
    return torch.compile(function, dynamic=False)


_apply: Callable[..., Tensor] | None = None
"""What no compiled layer may look into. Set with the first tiles: marking it imports the compiler, which takes more
than a second that only training should pay."""


def tiled_attention(q_BHTA: Tensor, k_BKTA: Tensor, v_BKTA: Tensor, tiles: Sequence[Tile]) -> Tensor:
    """softmax(q kᵀ / sqrt(A) + bias) v, [B, H, T, A]; keys and values of a head serve H / K query heads."""
    assert _apply is not None
    return _apply(q_BHTA, k_BKTA, v_BKTA, tiles)


class _TiledAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_BHTA: Tensor, k_BKTA: Tensor, v_BKTA: Tensor, tiles: Sequence[Tile]) -> Tensor:
        ctx.tiles = tiles
        out_BHTA = torch.empty_like(q_BHTA, memory_format=torch.contiguous_format)
        weights: list[Tensor] = []
        with torch.autocast("cpu", enabled=False):
            for tile in tiles:
                q, k, v = _parts(tile, q_BHTA, k_BKTA, v_BKTA)
                scores_RHQS = _times(q, k.mT, k.shape[1]).add_(tile.bias_R1QS)
                weights_RHQS = torch.softmax(scores_RHQS, -1)
                out_BHTA[tile.rows, :, tile.queries] = _times(weights_RHQS, v, v.shape[1])
                weights.append(weights_RHQS)
        ctx.save_for_backward(q_BHTA, k_BKTA, v_BKTA, *weights)
        return out_BHTA

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        (grad_BHTA,) = grads
        q_BHTA, k_BKTA, v_BKTA, *weights = ctx.saved_tensors
        scale = q_BHTA.shape[-1] ** -0.5
        dq_BHTA = torch.empty_like(q_BHTA, memory_format=torch.contiguous_format)
        dk_BKTA = torch.zeros_like(k_BKTA, memory_format=torch.contiguous_format)
        dv_BKTA = torch.zeros_like(v_BKTA, memory_format=torch.contiguous_format)
        for tile, weights_RHQS in zip(ctx.tiles, weights, strict=True):
            q, k, v = _parts(tile, q_BHTA, k_BKTA, v_BKTA)
            grad = grad_BHTA[tile.rows, :, tile.queries]
            dv_BKTA[tile.rows, :, tile.keys] += _summed(weights_RHQS.mT @ grad, k.shape[1])
            dw_RHQS = _times(grad, v.mT, v.shape[1])
            ds_RHQS = torch._softmax_backward_data(dw_RHQS, weights_RHQS, -1, weights_RHQS.dtype)
            dq_BHTA[tile.rows, :, tile.queries] = _times(ds_RHQS, k, k.shape[1]).mul_(scale)
            dk_BKTA[tile.rows, :, tile.keys] += _summed(ds_RHQS.mT @ q, k.shape[1])  # q holds the scale
        return dq_BHTA, dk_BKTA, dv_BKTA, None


def _parts(tile: Tile, q_BHTA: Tensor, k_BKTA: Tensor, v_BKTA: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A tile's queries, scaled, and its keys and values."""
    q = q_BHTA[tile.rows, :, tile.queries] * q_BHTA.shape[-1] ** -0.5
    return q, k_BKTA[tile.rows, :, tile.keys], v_BKTA[tile.rows, :, tile.keys]


def _times(left_RHQX: Tensor, right_RKXY: Tensor, kv_heads: int) -> Tensor:
    """left @ right, where each of the K right factors serves H / K left ones."""
    R, H, Q, X = left_RHQX.shape
    if kv_heads == H:
        return left_RHQX @ right_RKXY
    return (left_RHQX.reshape(R, kv_heads, H // kv_heads * Q, X) @ right_RKXY).view(R, H, Q, -1)


def _summed(grad_RHSA: Tensor, kv_heads: int) -> Tensor:
    """Gradients of query heads, added up over those that share a key head."""
    R, H, S, A = grad_RHSA.shape
    return grad_RHSA if kv_heads == H else grad_RHSA.view(R, kv_heads, H // kv_heads, S, A).sum(2)
