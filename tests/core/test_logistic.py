"""The logistic fit against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from napari_hrdv2.core import logistic
from napari_hrdv2.core.logistic import fit_logistic


def problem(classes: int = 3, n: int = 600, d: int = 20, seed: int = 0) -> tuple:
    """Overlapping clouds of features with very different means and deviations."""
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
    centres = rng.normal(0, 1, (classes, d))
    x = (centres[y] + rng.normal(0, 1.5, (n, d))) * rng.uniform(0.01, 30, d) + rng.normal(0, 20, d)
    return x.astype(np.float32), y, rng.uniform(0.2, 3, n)


def reference(x, y, weights, C):  # noqa: N803
    scaler = StandardScaler()
    model = LogisticRegression(C=C, tol=1e-10, max_iter=10_000)
    model.fit(scaler.fit_transform(x.astype(np.float64)), y, sample_weight=weights)
    coef, bias = model.coef_ / scaler.scale_, model.intercept_
    bias = bias - coef @ scaler.mean_
    return np.concatenate([coef * 0, coef]) if len(coef) == 1 else coef, bias


def scores(x, coef, bias):
    found = x.astype(np.float64) @ coef.T + bias
    return found - found.mean(1, keepdims=True)


@pytest.mark.parametrize("classes", [2, 3, 6])
@pytest.mark.parametrize("C", [1e-4, 0.01, 1])
def test_equals_scikit_learn(classes, C):  # noqa: N803
    x, y, weights = problem(classes)
    coef, bias = fit_logistic(x, y, weights, C=C, tol=1e-10)
    expected_coef, expected_bias = reference(x, y, weights, C)
    if classes == 2:
        expected_bias = np.array([0, expected_bias[0]])
    expected = scores(x, expected_coef, expected_bias)
    np.testing.assert_allclose(scores(x, coef, bias), expected, atol=2e-3 * np.abs(expected).max())


def objective(x, y, weights, C, coef, bias):  # noqa: N803
    scale = x.astype(np.float64).std(0)
    s = scores(x, coef, bias)
    loss = np.log(np.exp(s).sum(1)) - s[np.arange(len(y)), y]
    centred = (coef - coef.mean(0)) * scale
    penalty = (2 if len(coef) == 2 else 1) / 2 * (centred**2).sum()
    return C * (weights * loss).sum() + penalty


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("C", [0.001, 0.1])
def test_stops_where_little_can_be_lost(classes, C):  # noqa: N803
    x, y, weights = problem(classes, seed=1)
    best = objective(x, y, weights, C, *fit_logistic(x, y, weights, C=C, tol=1e-10))
    found = objective(x, y, weights, C, *fit_logistic(x, y, weights, C=C))
    assert best <= found * (1 + 1e-7)
    assert found <= best * (1 + 1e-3)


def test_going_on_leads_to_the_same(monkeypatch):
    x, y, weights = problem(n=2000)
    first = fit_logistic(x[:1900], y[:1900], weights[:1900], C=0.01, tol=1e-6)
    steps = []
    value = logistic._Problem._probabilities
    monkeypatch.setattr(
        logistic._Problem,
        "_probabilities",
        lambda self, *args: steps.append(1) or value(self, *args),
    )
    cold = fit_logistic(x, y, weights, C=0.01, tol=1e-6)
    by_cold = len(steps)
    steps.clear()
    warm = fit_logistic(x, y, weights, C=0.01, start=first, tol=1e-6)
    assert len(steps) < by_cold / 2
    np.testing.assert_allclose(scores(x, *warm), scores(x, *cold), atol=0.02)
    # Where nothing is new nothing moves.
    again = fit_logistic(x, y, weights, C=0.01, start=warm, tol=1e-3)
    np.testing.assert_allclose(scores(x, *again), scores(x, *warm), atol=1e-5)


def test_scores_that_all_classes_share_do_not_matter():
    x, y, weights = problem()
    coef, bias = fit_logistic(x, y, weights, C=0.01)
    moved = fit_logistic(x, y, weights, C=0.01, start=(coef + 5, bias - 3))
    np.testing.assert_allclose(scores(x, *moved), scores(x, coef, bias), atol=0.02)


@pytest.mark.parametrize("value", [0.0, 1000.1])
def test_constant_features_count_nothing(value):
    x, y, weights = problem()
    x[:, 3] = value
    coef, bias = fit_logistic(x, y, weights, C=0.01)
    assert np.isfinite(coef).all()
    assert np.isfinite(bias).all()
    np.testing.assert_allclose(coef[:, 3], 0, atol=1e-3)


def test_separable_classes_and_few_rows_end():
    x = np.array([[0, 1], [1, 1]], np.float32)
    coef, bias = fit_logistic(x, np.array([0, 1]), np.ones(2), C=1e6)
    found = scores(x, coef, bias)
    assert (found.argmax(1) == [0, 1]).all()


def test_features_of_tiny_deviation_about_a_large_mean():
    """As a constant image gives: what rounding leaves of them is no curvature."""
    rng = np.random.default_rng(0)
    x = (50 + 1e-5 * rng.normal(size=(300, 90))).astype(np.float32)
    x[:, :5] = rng.normal(size=(300, 5))
    y = (x[:, 0] > 0).astype(int)
    coef, bias = fit_logistic(x, y, np.ones(300), C=1)
    assert np.isfinite(coef).all()
    assert (scores(x, coef, bias).argmax(1) == y).mean() > 0.9
