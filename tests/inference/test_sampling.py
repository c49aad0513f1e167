import numpy as np
import pytest
import torch

from lmcraft.inference.sampling import CANDIDATES, Sampling, Uniforms, choose
from lmcraft.recipe.stage import UserError


def _expected(logits: torch.Tensor, sampling: Sampling) -> np.ndarray:
    """The distribution by brute force, one token after the other."""
    weights = np.exp(logits.double().numpy() / sampling.temperature)
    probabilities = weights / weights.sum()
    order = np.argsort(-probabilities, kind="stable")
    if sampling.top_k:
        order = order[: sampling.top_k]
    kept, reached, total = [], 0.0, probabilities[order].sum()
    for token in order:
        kept.append(token)
        reached += probabilities[token] / total
        if reached >= sampling.top_p:
            break
    result = np.zeros(len(weights))
    result[kept] = probabilities[kept] / probabilities[kept].sum()
    return result


@pytest.mark.parametrize("vocabulary", [11, 3 * CANDIDATES])
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0),
        Sampling(temperature=0.5),
        Sampling(temperature=1.3, top_k=4),
        Sampling(temperature=1.0, top_p=0.6),
        Sampling(temperature=3.0, top_p=0.99),
        Sampling(temperature=1.0, top_k=6, top_p=0.7),
        Sampling(temperature=1.0, top_k=0, top_p=1e-9),
        Sampling(temperature=1.0, top_k=10**6),
    ],
)
def test_the_distribution_is_that_of_brute_force(vocabulary: int, sampling: Sampling) -> None:
    """Inversion on an even grid of draws gives every token its probability, to within one grid step."""
    logits = torch.randn(vocabulary, generator=torch.Generator().manual_seed(1)) * 2
    n = 4000
    draws = (np.arange(n) + 0.5) / n
    tokens = choose(logits.expand(n, -1), [sampling] * n, draws.tolist())
    frequency = np.bincount(tokens, minlength=vocabulary) / n
    expected = _expected(logits, sampling)
    assert np.abs(frequency - expected).max() < 1.01 / n
    assert set(np.flatnonzero(frequency)) <= set(np.flatnonzero(expected))


def test_rows_with_different_settings_do_not_touch_each_other() -> None:
    logits = torch.randn(6, 700, generator=torch.Generator().manual_seed(2))
    samplings = [
        Sampling(temperature=0),
        Sampling(),
        Sampling(top_k=3),
        Sampling(top_p=0.5),
        Sampling(top_p=0.9999, temperature=4),
        Sampling(top_k=1),
    ]
    draws = [0.1, 0.5, 0.9, 0.3, 0.999, 0.7]
    together = choose(logits, samplings, draws)
    alone = [choose(logits[i : i + 1], samplings[i : i + 1], draws[i : i + 1])[0] for i in range(6)]
    assert together == alone
    assert together[0] == int(logits[0].argmax()) and together[5] == int(logits[5].argmax())


@pytest.mark.parametrize("draw", [0.0, 1 - 2**-53])
@pytest.mark.parametrize("sampling", [Sampling(temperature=1), Sampling(temperature=1, top_k=2)])
def test_a_token_of_no_probability_is_never_drawn(draw: float, sampling: Sampling) -> None:
    logits = torch.tensor([[-torch.inf, 1.0, 2.0, -torch.inf]])
    assert choose(logits, [sampling], [draw])[0] in (1, 2)


def test_uniforms_depend_on_the_seed_alone() -> None:
    first, second = Uniforms(7), Uniforms(7)
    numbers = [first.draw() for _ in range(200)]
    assert numbers == [second.draw() for _ in range(200)]
    assert all(0 <= number < 1 for number in numbers) and len(set(numbers)) == 200
    assert Uniforms(-1).draw() != Uniforms(1).draw()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"stop": ("a", "")}, "a stop string is empty"),
    ],
)
def test_values_out_of_range_are_refused(setting: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Sampling(**setting)
