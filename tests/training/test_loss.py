"""The chunked cross-entropy is the plain one, gradients included."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from lmcraft.training import loss as loss_module
from lmcraft.training.loss import IGNORE, compiled_loss, linear_cross_entropy


@pytest.mark.parametrize("share", [0.0, 0.7])
@pytest.mark.parametrize("z_loss", [0.0, 0.01])
@pytest.mark.parametrize("chunk", [64, 1 << 20])
def test_it_equals_the_plain_loss_and_its_gradients(
    monkeypatch: pytest.MonkeyPatch, z_loss: float, chunk: int, share: float
) -> None:
    monkeypatch.setattr(loss_module, "CHUNK_ELEMENTS", chunk)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(37, 16, generator=generator, dtype=torch.float64)
    weight = torch.randn(29, 16, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 29, (37,), generator=generator)
    labels[::5] = IGNORE
    others = torch.randint(0, 4, (37, 6), generator=generator)  # many of them the same
    wanted = (1 - share) * F.one_hot(labels.clamp(min=0), 29) + share * F.one_hot(others, 29).double().mean(1)
    results = []
    for plain in (True, False):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        if plain:
            logits = h @ w.t()
            used = labels != IGNORE
            z = z_loss * logits.logsumexp(1).square()[used].sum()
            total = F.cross_entropy(logits[used], wanted[used], reduction="sum") + z
        else:
            given: dict[str, Any] = {"other_labels_NM": others, "other_share": share} if share else {}
            total = linear_cross_entropy(h, w, labels, dtype=torch.float64, z_loss=z_loss, **given)
        (total * 0.5).backward()
        results.append((total.double(), h.grad, w.grad))
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=2e-5, atol=2e-5)


def test_nothing_labelled_gives_zero_and_no_nan() -> None:
    h = torch.randn(4, 8, requires_grad=True)
    w = torch.randn(5, 8, requires_grad=True)
    total = linear_cross_entropy(h, w, torch.full((4,), IGNORE), dtype=torch.float32)
    total.backward()
    assert total == 0
    assert h.grad is not None
    assert not h.grad.any()


def test_the_compiled_kernel_gives_the_same_for_any_number_of_positions() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(50, 16, generator=generator)
    for positions, share in ((40, 0.0), (7, 0.5), (9, 0.4)):
        hidden = torch.randn(positions, 16, generator=generator)
        labels = torch.randint(0, 50, (positions,), generator=generator)
        labels[::3] = IGNORE
        others = torch.randint(0, 50, (positions, 4), generator=generator)
        results = []
        for compiled in (False, True):
            h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
            with compiled_loss(compiled):
                total = linear_cross_entropy(
                    h, w, labels, dtype=torch.float32, z_loss=0.01, other_labels_NM=others, other_share=share
                )
            total.backward()
            results.append((total.detach(), h.grad, w.grad))
        for a, b in zip(*results, strict=True):
            assert torch.allclose(a, b, rtol=1e-5, atol=1e-5)


def test_no_positions_at_all_give_zero() -> None:
    h, w = torch.zeros(0, 8, requires_grad=True), torch.randn(5, 8, requires_grad=True)
    linear_cross_entropy(h, w, torch.zeros(0, dtype=torch.int64), dtype=torch.float32).backward()
    assert w.grad is not None
    assert not w.grad.any()
