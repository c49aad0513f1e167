"""Tiles of attention give what the whole gives, gradients included."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lmcraft.model import attention
from lmcraft.model.attention import make_tiles, tiled_attention


def packed_mask(rows: int, T: int, window: int | None, bidirectional: bool) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    documents_BT = torch.randint(0, 4, (rows, T), generator=generator).sort(1).values
    mask_BTT = documents_BT[:, :, None] == documents_BT[:, None, :]
    if not bidirectional:
        mask_BTT = mask_BTT.tril()
    if window:
        mask_BTT = mask_BTT & torch.ones(T, T, dtype=torch.bool).triu(1 - window)
    return mask_BTT[:, None]


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize(("window", "bidirectional"), [(None, False), (9, False), (None, True)])
def test_tiles_equal_the_whole_and_its_gradients(
    monkeypatch: pytest.MonkeyPatch, kv_heads: int, window: int | None, bidirectional: bool
) -> None:
    monkeypatch.setattr(attention, "QUERIES", 32)
    monkeypatch.setattr(attention, "KEY_STEP", 8)
    monkeypatch.setattr(attention, "TILE_SCORES", 2 * 4 * 32 * 100)
    B, H, T, A = 3, 4, 100, 16
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(B, H, T, A, generator=generator, dtype=torch.float64)
    k, v = (torch.randn(B, kv_heads, T, A, generator=generator, dtype=torch.float64) for _ in range(2))
    grad = torch.randn(B, H, T, A, generator=generator, dtype=torch.float64)
    mask = packed_mask(B, T, window, bidirectional)
    results = []
    for tiled in (False, True):
        inputs = [each.clone().requires_grad_() for each in (q, k, v)]
        if tiled:
            out = tiled_attention(*inputs, make_tiles(mask, H, B, torch.float64))
        else:
            out = F.scaled_dot_product_attention(*inputs, attn_mask=mask, enable_gqa=kv_heads != H)
        results.append((out.detach(), *torch.autograd.grad(out, inputs, grad)))
    for whole, parts in zip(*results, strict=True):
        assert torch.allclose(whole, parts, rtol=1e-10, atol=1e-12)


def test_what_no_query_of_a_tile_may_see_is_not_computed() -> None:
    T = 1024
    documents_BT = (torch.arange(T) // 128)[None]
    mask = (documents_BT[:, None, :, None] == documents_BT[:, None, None, :]).tril()
    tiles = make_tiles(mask, 4, 1, torch.float32)
    computed = sum(tile.bias_R1QS.numel() for tile in tiles)
    assert computed == T * attention.QUERIES, "of documents of 128 tokens, each tile of 256 queries sees 256 keys"
