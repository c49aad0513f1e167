"""Intervals are right where the right answer is known, and cover the truth as often as they say."""

import numpy as np
import pytest

from lmcraft.evaluation.statistics import compare, mean, ratio
from lmcraft.intervals import proportion


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    # Newcombe 1998, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_agrees_with_published_values(hits, n, low, high):
    estimate = proportion(hits, n)
    assert estimate.value == hits / n
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=5e-5)


def test_wilson_stays_inside_the_unit_interval_and_refuses_nothing():
    assert proportion(0, 3).low == 0.0 and proportion(3, 3).high == 1.0
    for hits, n in ((0, 0), (2, 1)):
        with pytest.raises(ValueError, match="not a proportion"):
            proportion(hits, n)


def test_bootstrap_is_the_same_for_the_same_seed_and_holds_the_value():
    rng = np.random.default_rng(0)
    sizes = rng.integers(50, 900, 200)
    bits = sizes * rng.normal(2.0, 0.3, 200)
    first, again, other = (ratio(bits, sizes, 500, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert first.value == pytest.approx(bits.sum() / sizes.sum())
    assert first.low < first.value < first.high and first.n == 200


def test_bootstrap_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    inside = 0
    for seed in range(200):
        estimate = mean(rng.exponential(1.0, 80), 300, seed)
        inside += estimate.low <= 1.0 <= estimate.high
    assert 0.87 <= inside / 200 <= 0.99


def test_a_ratio_of_nothing_is_refused():
    for top, bottom in (([], []), ([1.0], [0.0]), ([1.0], [1.0, 2.0])):
        with pytest.raises(ValueError, match="ratio"):
            ratio(top, bottom, 10, 0)


def test_paired_comparison_counts_only_items_where_the_two_differ():
    first = [True] * 12 + [False] * 2 + [True] * 50
    second = [False] * 12 + [True] * 2 + [True] * 50
    difference, error, p = compare(first, second)
    assert difference == pytest.approx(10 / 64)
    assert p == pytest.approx(2 * sum([1, 14, 91]) / 2**14)  # binomial(14, 1/2) at most 2, both tails
    assert error == pytest.approx((14 - 100 / 64) ** 0.5 / 64)
    assert compare([True, False], [True, False]) == (0.0, 0.0, 1.0)
