"""What the one dial derives for each family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from lmcraft.recipe.stage import UserError
from lmcraft.training.config import FEWEST_TOKENS, NGRAM_SHARE, PretrainConfig, derive_shape, ngram_share
from lmcraft.training.hardware import matmul_seconds_per_token
from lmcraft.training.ngram_labels import MOST_TOKENS


def test_a_token_meets_as_many_weights_in_experts_as_in_the_dense_network() -> None:
    dense = derive_shape(PretrainConfig(depth=6), 1000, {})
    mixture = derive_shape(PretrainConfig(depth=6, architecture="qwen3_moe"), 1000, {})
    router = mixture.num_hidden_layers * mixture.hidden_size * 8
    assert mixture.parameters(active=True) - dense.parameters() == router
    assert 2.5 < mixture.parameters() / dense.parameters() < 4


@pytest.mark.parametrize("changes", [{"kv_heads": 2}, {"architecture": "olmo3"}])
def test_a_number_of_parameters_finds_a_depth_that_its_heads_divide(changes: dict[str, Any]) -> None:
    shape = derive_shape(PretrainConfig(parameters=10_000_000, **changes), 4096, {})
    assert 0.7 < shape.parameters() / 10_000_000 < 1.4
    with pytest.raises(UserError, match=r"head_dim \(3\) must be even"):
        derive_shape(PretrainConfig(parameters=10_000_000, head_dim=3), 4096, {})


def test_three_layers_in_four_have_windows_and_never_the_last() -> None:
    kinds = derive_shape(PretrainConfig(depth=6, architecture="olmo3"), 1000, {})
    assert [kind[:4] for kind in kinds.kinds] == ["slid", "slid", "slid", "full", "slid", "full"]
    assert kinds.sliding_window == PretrainConfig().context // 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"experts": 4}, "experts belongs to architecture qwen3_moe"),
        ({"sliding_window": 4}, "sliding_window belongs to architecture olmo3"),
        ({"architecture": "qwen3_moe", "experts": 2, "experts_per_token": 3}, "must not exceed experts"),
        ({"objective": "masked", "ngram_smoothing": 0.5}, "ngram_smoothing is for next tokens"),
        ({"warmup": 0.5, "decay": 0.8}, r"warmup \(0.5\) and decay \(0.8\) are shares of the run and come one after"),
    ],
)
def test_settings_of_another_family_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PretrainConfig(**changes)


def test_labels_are_smoothed_where_a_new_network_predicts_next_tokens_of_a_text_of_that_size() -> None:
    plain = PretrainConfig()
    assert ngram_share(plain, FEWEST_TOKENS, new=True) == NGRAM_SHARE
    assert ngram_share(plain, FEWEST_TOKENS - 1, new=True) == 0
    assert ngram_share(plain, FEWEST_TOKENS, new=False) == 0
    assert ngram_share(plain, MOST_TOKENS + 1, new=True) == 0
    assert ngram_share(PretrainConfig(objective="masked"), FEWEST_TOKENS, new=True) == 0
    assert ngram_share(PretrainConfig(ngram_smoothing=0.3), 1000, new=False) == 0.3
    with pytest.raises(UserError, match=r"up to 67\.1M tokens, and this one has 68M: leave ngram_smoothing out"):
        ngram_share(PretrainConfig(ngram_smoothing=0.3), 68_000_000, new=True)


def test_olmo3_has_no_head_size_of_its_own() -> None:
    with pytest.raises(UserError, match="olmo3 needs heads x head_dim"):
        derive_shape(PretrainConfig(architecture="olmo3", hidden_size=96, head_dim=64), 1000, {})


def test_the_floor_counts_the_experts_that_a_token_meets() -> None:
    """Eight times the experts is not eight times the time (the rows of each become fewer, which costs something)."""

    def seconds(experts: int) -> float:
        config = PretrainConfig(depth=2, architecture="qwen3_moe", experts=experts)
        return matmul_seconds_per_token(
            derive_shape(config, 256, {}), 4096, torch.float32, torch.device("cpu"), budget_s=0.5
        )

    assert 0 < seconds(32) < 4 * seconds(4)
