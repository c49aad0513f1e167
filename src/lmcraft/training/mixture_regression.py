"""From a few trained mixtures to the best one: regressions of loss on weights, judged by leaving each run out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

FLOOR = 0.01
"""Added to a weight before its logarithm: the first hundredth of a group does not teach infinitely much."""


@dataclass(frozen=True)
class Fit:
    """A regression of [runs, outcomes] on [runs, groups]; `left_out` predicts each run from all others."""

    name: str
    predict: Callable[[np.ndarray], np.ndarray]  # [n, groups] -> [n, outcomes]
    left_out: np.ndarray

    def error(self, outcomes: np.ndarray, importance: np.ndarray) -> float:
        """Root mean square error, left out, of the weighted outcomes."""
        return float(np.sqrt(np.mean(((self.left_out - outcomes) @ importance) ** 2)))

    def r2(self, outcomes: np.ndarray, importance: np.ndarray) -> float:
        """Share of the variance explained of runs left out; below 0 it is worse than their mean."""
        spread = float(np.var(outcomes @ importance))
        return 1 - self.error(outcomes, importance) ** 2 / spread if spread > 0 else float("nan")


def fit_all(weights: np.ndarray, outcomes: np.ndarray, importance: np.ndarray) -> list[Fit]:
    """`linear` in the weights (the simplest of RegMix, Liu et al. 2024), `log` in their logarithms, and a Gaussian
    process on their square roots (Hellinger distance); the one that errs least on runs left out comes first."""
    fits = [
        _ridge("linear", weights, outcomes, importance, lambda w: w),
        _ridge("log", weights, outcomes, importance, lambda w: np.log(w + FLOOR)),
        _gaussian_process(weights, outcomes, importance),
    ]
    return sorted(fits, key=lambda fit: fit.error(outcomes, importance))


def draw_mixtures(natural: np.ndarray, number: int, limits: np.ndarray, seed: int) -> np.ndarray:
    """[number, groups] weights, none above its limit: Dirichlet draws around the natural shares and around even ones,
    from narrow to wide."""
    draw = np.random.Generator(np.random.PCG64(seed))
    groups = len(natural)
    even = np.full(groups, 1 / groups)
    found = []
    for turn in range(number):
        middle = np.maximum((natural, even, (natural + even) / 2)[turn % 3], 0.02 / groups)
        strength = groups * np.exp(draw.uniform(np.log(0.5), np.log(10)))
        found.append(within(draw.dirichlet(middle / middle.sum() * strength), limits))
    return np.array(found)


def best_mixture(fit: Fit, importance: np.ndarray, candidates: np.ndarray, averaged: int = 64) -> np.ndarray:
    """Mean of the candidates that are predicted best: the single best is mostly the luckiest (RegMix does so too)."""
    value = fit.predict(candidates) @ importance
    best = candidates[np.argsort(value, kind="stable")[:averaged]].mean(axis=0)
    return np.asarray(best / best.sum())


def within(weights: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Weights that add up to 1: what is above a limit goes to the others in proportion."""
    for _ in range(len(weights)):
        over = weights >= limits
        if not (weights > limits).any():
            break
        free = ~over
        fixed = float(limits[over].sum())
        weights = np.where(over, limits, weights)
        if weights[free].sum() <= 0:
            break
        weights[free] *= (1 - fixed) / weights[free].sum()
    return weights / weights.sum()


def _ridge(
    name: str,
    weights: np.ndarray,
    outcomes: np.ndarray,
    importance: np.ndarray,
    features: Callable[[np.ndarray], np.ndarray],
) -> Fit:
    mean, spread = features(weights).mean(axis=0), features(weights).std(axis=0) + 1e-12

    def design(given: np.ndarray) -> np.ndarray:
        return np.column_stack([np.ones(len(given)), (features(given) - mean) / spread])

    known = design(weights)
    penalty = np.diag([0.0, *np.ones(known.shape[1] - 1)])
    best: Fit | None = None
    for strength in np.geomspace(1e-4, 100, 13):
        solve = np.linalg.solve(known.T @ known + strength * penalty, known.T)
        hat = known @ solve
        left_out = outcomes - (outcomes - hat @ outcomes) / (1 - np.diag(hat))[:, None]
        coefficients = solve @ outcomes
        fit = Fit(name, lambda given, c=coefficients: design(given) @ c, left_out)  # type: ignore[misc]
        if best is None or fit.error(outcomes, importance) < best.error(outcomes, importance):
            best = fit
    assert best is not None
    return best


def _gaussian_process(weights: np.ndarray, outcomes: np.ndarray, importance: np.ndarray) -> Fit:
    known = np.sqrt(weights)
    mean, spread = outcomes.mean(axis=0), outcomes.std(axis=0) + 1e-12
    scaled = (outcomes - mean) / spread
    best: Fit | None = None
    for length in (0.2, 0.4, 0.8, 1.6):
        for noise in (1e-4, 1e-3, 1e-2, 0.1, 0.5):
            kernel = _kernel(known, known, length) + noise * np.eye(len(known))
            inverse = np.linalg.inv(kernel)
            weighted = inverse @ scaled
            left_out = scaled - weighted / np.diag(inverse)[:, None]  # Rasmussen and Williams 2006, 5.12

            def predict(given: np.ndarray, length: float = length, weighted: np.ndarray = weighted) -> np.ndarray:
                return mean + spread * (_kernel(np.sqrt(given), known, length) @ weighted)

            fit = Fit("gaussian process", predict, mean + spread * left_out)
            if best is None or fit.error(outcomes, importance) < best.error(outcomes, importance):
                best = fit
    assert best is not None
    return best


def _kernel(first: np.ndarray, second: np.ndarray, length: float) -> np.ndarray:
    distance = np.square(first[:, None, :] - second[None, :, :]).sum(axis=2)
    return np.asarray(np.exp(-distance / (2 * length**2)) + 0.5 * first @ second.T + 0.5)
