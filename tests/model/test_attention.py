"""Tiles and blocks of attention give what the whole gives, gradients of tiles included."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import BlockMask

from lmcraft.model import ModelConfig, Transformer, attention
from lmcraft.model.attention import make_block_mask, make_tiles, tiled_attention


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
    assert computed == T * attention.QUERIES, "of documents of 128 tokens, each tile of 128 queries sees 128 keys"


@pytest.mark.parametrize("family", ["qwen3", "olmo3", "eurobert"])
def test_blocks_show_what_the_mask_shows(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU trains with, by FlexAttention's own reference on a CPU, which has no backward pass."""
    T = 160
    shape: dict[str, Any] = {"num_key_value_heads": 2 if family == "olmo3" else 1, "model_type": family}
    if family == "olmo3":
        shape |= {"sliding_window": 20, "layer_types": ("sliding_attention", "full_attention")}
    model = Transformer(
        ModelConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            head_dim=16,
            max_position_embeddings=T,
            **shape,
        )
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3, generator=generator)
    tokens = torch.randint(64, (3, T), generator=generator)
    documents = torch.sort(torch.randint(4, (3, T), generator=generator), -1).values
    documents[2, 100:] = -1
    bidirectional = torch.tensor([True, False, True]) if family != "olmo3" else None
    with torch.no_grad():
        masked = model.hidden(tokens, None, documents, bidirectional_B=bidirectional)

        def blocks(tokens_BT: torch.Tensor, window: int | None, *seen: Any) -> BlockMask:
            B, T = tokens_BT.shape
            return make_block_mask((B, T), window, seen[0], seen[1], tokens_BT.device)

        monkeypatch.setattr(model, "_visible", blocks)
        blocked = model.hidden(tokens, None, documents, bidirectional_B=bidirectional)
        plain = model.hidden(tokens, None, torch.zeros_like(documents), bidirectional_B=bidirectional)
    assert torch.allclose(masked, blocked, atol=1e-5)
    assert not torch.allclose(plain, blocked, atol=1e-2), "documents must matter for this to mean anything"
