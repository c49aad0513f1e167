"""Multi-token prediction (DeepSeek-V3, 2024): layers that learn to predict the tokens after the next one.

They are there while the model trains, for what they make its hidden states hold, and left out of the model afterwards.
Each predicts one token further than the one before it, from that one's states and from the token in between, so that
the order in which tokens cause each other is kept.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from lmcraft.model import ModelConfig, Transformer
from lmcraft.model.network import Layer, RMSNorm
from lmcraft.model.rotary import rotary
from lmcraft.training.loss import IGNORE, linear_cross_entropy
from lmcraft.training.objectives import Batch, Objective


class Ahead(nn.Module):
    """`count` modules of one layer each. Embeddings and head are the model's own."""

    def __init__(self, config: ModelConfig, count: int):
        super().__init__()
        self.steps = nn.ModuleList(_Step(config) for _ in range(count))

    def initialise(self, seed: int) -> None:
        """As the model's own layers: each starts as a projection of what it is given."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in sorted(self.named_parameters()):
                if parameter.ndim == 1:
                    parameter.fill_(1.0)
                elif name.endswith(("o_proj.weight", "down_proj.weight")):
                    parameter.zero_()
                else:
                    fresh = torch.empty(parameter.shape, dtype=torch.float32)
                    std = 0.5 * parameter.shape[-1] ** -0.5
                    parameter.copy_(nn.init.trunc_normal_(fresh, std=std, a=-3 * std, b=3 * std, generator=generator))


class _Step(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        d = config.hidden_size
        self.hidden_norm, self.token_norm = RMSNorm(d, config.rms_norm_eps), RMSNorm(d, config.rms_norm_eps)
        self.projection = nn.Linear(2 * d, d, bias=False)
        # A dense Qwen3 layer, whatever the model's are: it starts as the identity and needs no balance.
        plain = config.model_copy(update={"model_type": "qwen3", "num_experts": None, "layer_types": None})
        self.layer = Layer(plain, 0)
        self.norm = RMSNorm(d, config.rms_norm_eps)

    def forward(
        self, hidden_BTD: Tensor, tokens_BTD: Tensor, cos: Tensor, sin: Tensor, mask_B1TT: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The states that the next step goes on from, and the same normalised, for the head."""
        both = torch.cat((self.hidden_norm(hidden_BTD), self.token_norm(tokens_BTD.to(hidden_BTD.dtype))), dim=-1)
        hidden_BTD = self.layer(self.projection(both), cos, sin, None, mask_B1TT, None)
        return hidden_BTD, self.norm(hidden_BTD)


def next_tokens(weight: float, z_loss: float = 0.0) -> Objective:
    """`next_token`, plus `weight` times the mean over the modules of the same loss of what each predicts. They are the
    model's `ahead`.

    The sum is divided by the number of next tokens, like the loss it is added to; the modules predict a few fewer, as
    a document's last tokens have nothing so far ahead. The loss that is reported holds both parts.
    """

    def objective(model: Transformer, batch: Batch, dtype: torch.dtype) -> tuple[Tensor, int]:
        config, T = model.config, batch.tokens.shape[1]
        ahead = cast(Ahead, model.ahead)
        hidden_BTD = model.hidden(batch.tokens, batch.positions, batch.documents)
        loss = linear_cross_entropy(
            hidden_BTD.flatten(0, 1),
            model.lm_head.weight,
            batch.labels.flatten(),
            dtype=dtype,
            z_loss=z_loss,
            **batch.others_flat(),
        )
        turns = rotary(batch.positions, config.head_dim, config.rope_theta, config.scaling("full_attention"))
        cos, sin = (each.to(hidden_BTD.dtype) for each in turns)
        causal = torch.ones(T, T, dtype=torch.bool, device=batch.tokens.device).tril()
        mask = (batch.documents[:, None, :, None] == batch.documents[:, None, None, :]) & causal
        total = torch.zeros_like(loss)
        for distance, step in enumerate(ahead.steps, 1):
            # Past a document's end stand another's tokens; they are read only there, where nothing is predicted.
            tokens_BTD = model.model.embed_tokens(batch.tokens.roll(-distance, dims=1))
            hidden_BTD, states_BTD = step(hidden_BTD, tokens_BTD, cos, sin, mask)
            states_ND, labels_N = states_BTD.flatten(0, 1), labels_ahead(batch, distance).flatten()
            total = total + linear_cross_entropy(states_ND, model.lm_head.weight, labels_N, dtype=dtype, z_loss=z_loss)
        return loss + weight / len(ahead.steps) * total, batch.predicted

    return objective


def labels_ahead(batch: Batch, distance: int) -> Tensor:
    """[R, T]: the token that stands `distance` behind the next one in the same document, or IGNORE."""
    labels = torch.full_like(batch.labels, IGNORE)
    same = batch.documents[:, distance:] == batch.documents[:, :-distance]
    labels[:, :-distance] = batch.labels[:, distance:].where(same, torch.tensor(IGNORE, device=labels.device))
    return labels
