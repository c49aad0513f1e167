"""Muon: orthogonal updates, whatever matrices stand together, and what was added to it."""

from __future__ import annotations

import copy

import torch

from lmcraft.training.muon import NARROW, Muon, orthogonalise, row_scales


def matrices(*shapes: tuple[int, int]) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator) * 0.1) for shape in shapes]


def steps_of(parameters: list[torch.nn.Parameter], count: int, **settings: object) -> Muon:
    optimizer = Muon(parameters, 0.02, precision=torch.float32, **settings)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return optimizer


def test_singular_values_come_close_to_one() -> None:
    """Where they were at least a hundredth of the norm, or, of wide matrices, a thousandth."""
    for shape, smallest, within in (
        ((3, 48, 48), 0.01, 0.27),
        ((2, 64, 24), 0.01, 0.27),
        ((2, 24, 64), 0.01, 0.27),
        ((2, NARROW, 300), 0.01, 0.27),
        ((1, NARROW + 1, NARROW + 40), 0.001, 0.13),
    ):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        found = torch.linalg.svdvals(x) / x.norm(dim=(1, 2))[:, None]
        for precision, rounding in ((torch.float32, 0.01), (torch.bfloat16, 0.05)):
            values = torch.linalg.svdvals(orthogonalise(x.to(precision)).float())
            assert values.max() < 1 + within + rounding
            assert (values[found > 1.1 * smallest] > 1 - within - rounding).all(), (shape, precision)


def test_a_matrix_is_treated_alike_alone_and_among_others() -> None:
    together = matrices((16, 8), (16, 8), (8, 24))
    alone = [torch.nn.Parameter(each.detach().clone()) for each in together]
    steps_of(together, 3, weight_decay=0.1)
    generator = torch.Generator().manual_seed(1)
    optimizers = [Muon([each], 0.02, precision=torch.float32, weight_decay=0.1) for each in alone]
    for _ in range(3):
        for each, optimizer in zip(alone, optimizers, strict=True):
            each.grad = torch.randn(each.shape, generator=generator)
            optimizer.step()
    for one, other in zip(together, alone, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_rows_are_evened_out_and_the_norm_is_kept() -> None:
    updates = torch.randn(2, 6, 10, generator=torch.Generator().manual_seed(0))
    updates[:, 0] *= 30
    evened = updates * row_scales(updates, [torch.zeros(6, 1), torch.zeros(6, 1)], 0.95)
    assert torch.allclose(evened.norm(dim=(1, 2)), updates.norm(dim=(1, 2)))
    rows = evened.norm(dim=2)
    assert torch.allclose(rows, rows.mean(1, keepdim=True).expand_as(rows), rtol=1e-4)


def test_cautious_decay_shrinks_only_what_the_update_shrinks() -> None:
    (plain,), (decayed,) = matrices((12, 12)), matrices((12, 12))
    start = plain.detach().clone()
    steps_of([plain], 1)
    steps_of([decayed], 1, weight_decay=0.5)
    shrinking = (start - plain).detach() * start > 0
    assert torch.equal(decayed[~shrinking], plain[~shrinking])
    difference = (plain - decayed).detach()[shrinking]
    assert torch.allclose(difference, 0.02 * 0.5 * start[shrinking], atol=1e-6)


def test_state_comes_back_as_it_was() -> None:
    one, other = matrices((8, 8)), matrices((8, 8))
    first = steps_of(one, 2)
    second = Muon(other, 0.02, precision=torch.float32)
    with torch.no_grad():
        other[0].copy_(one[0])
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for parameters, optimizer in ((one, first), (other, second)):
        parameters[0].grad = torch.ones(8, 8)
        optimizer.step()
    assert torch.equal(one[0], other[0])
