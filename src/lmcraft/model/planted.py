"""Attention heads that work before the first step: two that look at the tokens just before, and one that looks for what
followed the last time (an induction head, Olsson et al. 2022). Training would find them, late; a start near a trained
network's weights saves that time (Trockman and Kolter 2023, Mimetic Initialization of Self-Attention Layers). Only
weights are set: the network's shape, its export and its training are those of any other.

The head that looks `n` tokens back scores a key by its distance alone: all embeddings begin with one feature in common,
from which queries and keys take the same vectors, the queries' turned back by n positions. It copies the token that it
finds, in a few features, to a part of the residual stream that is set aside. The induction head of the second layer
compares its own token with that part: it scores highest where the token before was the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lmcraft.model.config import ModelConfig
from lmcraft.model.network import Attention, Layer, RMSNorm, Transformer
from lmcraft.model.rotary import frequencies

OFFSETS = (1, 2)
"""How far back the first layer's heads look."""

PAIRS = 3
"""Pairs of features, those that turn fastest, by which distances are told: with fewer, keys far off score as high."""

SHARPNESS = 1.5
"""Weights of the norms of the first layer's queries and keys: scores reach about SHARPNESS² sqrt(head_dim)."""

COMMON = 10 / 3
"""The common feature of all embeddings, in standard deviations of the others."""

CONTENT = 0.3
"""What is left of the planted heads' other weights, relative to those of other heads."""

EMBEDDING_STD = 1.5
"""Embeddings begin about as large as a few hundred steps make them: smaller ones grow over what the heads compare
within ten steps."""

LASTING = 4.0
"""How much larger the planted queries' and keys' weights are than others. Their norms take that out again, but a step
of the optimizer turns them less: at 1 they are gone when the rate has risen."""

COPY = 2.0
"""Size of a copied feature over that of the embeddings among which it must be found."""

SHARE = 0.5
"""Norm of the vector from the common feature over sqrt(head_dim), before the norm: that of a query at the start."""


def can_plant(config: ModelConfig) -> bool:
    """Whether the network is causal, norms what a layer reads and each head's queries and keys, has a head of its own
    (which embeddings of another size would upset) and the room."""
    return (
        config.model_type in ("qwen3", "qwen3_moe")
        and config.num_hidden_layers > 1
        and config.num_attention_heads > 1
        and config.head_dim >= 2 * PAIRS
        and config.hidden_size > config.head_dim
        and not config.tie_word_embeddings
    )


@torch.no_grad()
def plant_heads(network: Transformer, seed: int) -> None:
    """Overwrite weights of the first two layers of a network that was just initialised, and a feature of its
    embeddings."""
    config = network.config
    generator = torch.Generator().manual_seed(seed + 1_000_003)  # not what `initialise` drew from
    assert can_plant(config), config
    size, heads = config.head_dim, config.num_attention_heads
    group = heads // config.num_key_value_heads
    first, second = _attention_of(network, 0), _attention_of(network, 1)
    embeddings = network.model.embed_tokens.weight
    embeddings *= EMBEDDING_STD / embeddings.std()
    embeddings[:, 0] = COMMON * EMBEDDING_STD
    common = float(embeddings[0, 0] / embeddings.square().mean().sqrt())  # as the first layer reads it, normed

    angles = frequencies(size, config.rope_theta, config.rope_scaling)[0][:PAIRS]
    strength = SHARE * (size / PAIRS) ** 0.5 / common
    for head, offset in enumerate(OFFSETS[: (heads + 1) // 2]):
        query = _rows_of(head, first.q_proj.weight, size)
        query.mul_(CONTENT)[:, 0] = 0
        query[:PAIRS, 0] = strength * torch.cos(-angles * offset)
        query[size // 2 : size // 2 + PAIRS, 0] = strength * torch.sin(-angles * offset)
        query *= LASTING
        if head % group == 0:
            key = _rows_of(head // group, first.k_proj.weight, size)
            key.mul_(CONTENT)[:, 0] = 0
            key[:PAIRS, 0] = strength
            key *= LASTING
    for norm in (first.q_norm, first.k_norm):
        assert isinstance(norm, RMSNorm)
        norm.weight.fill_(SHARPNESS)

    rank = min(size, (config.hidden_size - 1) // 2)
    basis_DR = torch.linalg.qr(torch.randn(config.hidden_size - 1, 2 * rank, generator=generator))[0]
    basis_DR = torch.nn.functional.pad(basis_DR, (0, 0, 1, 0))  # it does not touch the common feature
    token_DR, before_DR = basis_DR.chunk(2, dim=1)  # where a token stands in the residual stream, and the one before
    first.v_proj.weight[:rank] = token_DR.T
    first.o_proj.weight[:, :rank] = COPY * EMBEDDING_STD * before_DR
    slow = [*range(size // 4, size // 2), *range(size // 4 + size // 2, size)]  # positions hardly turn these
    slow = slow[:rank]
    mixed_SR = torch.linalg.qr(torch.randn(rank, len(slow), generator=generator))[0].T
    query, key = _rows_of(0, second.q_proj.weight, size), _rows_of(0, second.k_proj.weight, size)
    query.zero_()[slow] = LASTING * mixed_SR @ token_DR.T
    key.zero_()[slow] = LASTING * mixed_SR @ before_DR.T


def _attention_of(network: Transformer, number: int) -> Attention:
    layer = network.model.layers[number]
    assert isinstance(layer, Layer)
    return layer.self_attn


def _rows_of(head: int, weight: Tensor, size: int) -> Tensor:
    return weight[head * size : (head + 1) * size]
