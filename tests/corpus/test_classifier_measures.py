"""The measures agree with their definitions worked out the slow way."""

from __future__ import annotations

import numpy as np
import pytest

from lmcraft.corpus.classifier_measures import auc, calibration, confusion, share, thresholds


def test_auc_is_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 6, 60).astype(float), rng.random(60) < 0.4
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in scores[positive] for b in scores[~positive]]
    assert auc(scores, positive)["value"] == pytest.approx(np.mean(pairs), abs=1e-5)


def test_delongs_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    truth = 0.7602499389065233  # normal scores one standard deviation apart: Phi(1 / sqrt 2)
    covered = 0
    for _ in range(400):
        positive = np.arange(160) < 80
        found = auc(rng.normal(size=160) + positive, positive)
        covered += found["low"] <= truth <= found["high"]
    assert 0.92 <= covered / 400 <= 0.98


def test_a_perfect_order_still_has_an_interval() -> None:
    found = auc(np.arange(40.0), np.arange(40) >= 20)
    assert (found["value"], found["low"], found["high"]) == (1, 0.85, 1)


def test_calibration_of_a_true_forecast_is_small_and_of_an_overconfident_one_is_not() -> None:
    rng = np.random.default_rng(2)
    p = rng.random(20_000)
    came = rng.random(20_000) < p
    weights = np.ones(20_000)
    assert calibration(p, came, weights)["expected_calibration_error"] < 0.01
    over = np.clip(p * 2 - 0.5, 0, 1)
    assert calibration(over, came, weights)["expected_calibration_error"] == pytest.approx(0.125, abs=0.02)


def test_weights_make_classes_count_alike() -> None:
    probability = np.array([0.9] * 10 + [0.9] * 90)
    positive = np.arange(100) < 10
    weights = np.where(positive, 5.0, 5 / 9)
    rows = {row["threshold"]: row for row in thresholds(probability, positive, weights)}
    assert rows[0.5] == {"threshold": 0.5, "precision": 0.5, "recall": 1, "false_positives": 1, "kept": 1}
    assert rows[0.95]["precision"] is None


def test_share_stays_inside_and_says_when_there_was_nothing() -> None:
    assert share(0, 10)["low"] == 0
    assert share(10, 10)["high"] == 1
    assert share(5, 10)["low"] == pytest.approx(0.2366, abs=1e-4)
    assert share(0, 0)["value"] is None


def test_confusion_has_true_classes_in_rows() -> None:
    assert confusion(np.array([1, 1, 0]), np.array([0, 1, 0]), 2).tolist() == [[1, 1], [0, 1]]
