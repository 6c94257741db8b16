"""Both aggregators against sampling, and the choice between them."""

from __future__ import annotations

import numpy as np
import pytest

from mlsysopt.core.search.aggregate import Formula, Ridge, choose


def test_formula_agrees_with_sampling() -> None:
    rng = np.random.default_rng(0)
    shares, mean, deviation = np.array([0.7, 0.2]), np.array([-0.3, 0.2]), np.array([0.25, 0.4])
    rule = Formula(shares, 0.1, 0.05)
    drawn = rule.at(mean + deviation * rng.standard_normal((200_000, 2)))
    got_mean, got_variance = rule.combine(mean[None], deviation[None] ** 2)
    assert got_mean[0] == pytest.approx(drawn.mean(), abs=0.01)
    assert got_variance[0] == pytest.approx(drawn.var(), rel=0.06)


def test_ridge_agrees_with_sampling() -> None:
    rng = np.random.default_rng(1)
    z = rng.normal(size=(30, 3))
    y = 0.5 + z @ [1.0, -2.0, 0.0] + 0.1 * rng.standard_normal(30)
    rule, _ = Ridge.fit(z, y)
    mean, deviation = np.array([0.3, -0.1, 0.4]), np.array([0.1, 0.2, 0.3])
    weights = rng.multivariate_normal(np.concatenate([[rule.intercept], rule.coefficients]), rule.covariance, 200_000)
    drawn_z = mean + deviation * rng.standard_normal((200_000, 3))
    drawn = weights[:, 0] + np.einsum("ij,ij->i", weights[:, 1:], drawn_z)
    got_mean, got_variance = rule.combine(mean[None], deviation[None] ** 2)
    assert got_mean[0] == pytest.approx(drawn.mean(), abs=0.01)
    assert got_variance[0] == pytest.approx(drawn.var(), rel=0.05)


def test_ridge_residuals_are_those_of_leaving_one_out() -> None:
    """At the chosen lambda, on the same standardisation."""
    rng = np.random.default_rng(2)
    z = rng.normal(size=(12, 3))
    y = z @ [1.0, 0.5, -1.0] + 0.3 * rng.standard_normal(12)
    rule, residuals = Ridge.fit(z, y)
    centre, scale = z.mean(axis=0), z.std(axis=0)
    standard = (z - centre) / scale
    design = np.column_stack([np.ones(12), standard])
    beta = rule.coefficients * scale
    # The penalty that makes these coefficients the solution.
    right = standard.T @ (y - y.mean()) - standard.T @ standard @ beta
    strength = float(right @ beta / (beta @ beta))
    penalty = np.diag([0.0, strength, strength, strength])
    for i in range(12):
        rest = np.arange(12) != i
        gram = design[rest].T @ design[rest] + penalty
        fitted = np.linalg.solve(gram, design[rest].T @ y[rest])
        assert residuals[i] == pytest.approx(y[i] - design[i] @ fitted, rel=1e-6, abs=1e-9)


def test_in_sample_residuals_would_be_too_small() -> None:
    """With as many sub-goals as trials, ridge interpolates; left-out residuals still show the truth."""
    rng = np.random.default_rng(3)
    z, y = rng.normal(size=(10, 9)), rng.normal(size=10)
    choice = choose(z, y)
    assert choice.explained < 0.3
    assert np.std(choice.residuals) > 0.5 * np.std(y)


def test_a_sum_of_times_is_recognised() -> None:
    rng = np.random.default_rng(4)
    z = rng.normal(scale=0.8, size=(25, 3))
    y = -np.log(0.1 + 0.6 * np.exp(z[:, 0]) + 0.3 * np.exp(z[:, 1])) + 0.01 * rng.standard_normal(25)
    choice = choose(z, y, times=[0, 1])
    assert choice.rule.name == "formula"
    assert choice.densities["formula"] > choice.densities["ridge"]
    assert isinstance(choice.rule, Formula)
    np.testing.assert_allclose(choice.rule.shares, [0.6, 0.3, 0.0], atol=0.05)
    assert choice.rule.rest == pytest.approx(0.1, abs=0.05)
    assert choice.explained > 0.98


def test_known_shares_are_used_as_they_are() -> None:
    rng = np.random.default_rng(5)
    z = rng.normal(scale=0.5, size=(12, 2))
    y = -np.log(np.exp(z) @ [0.8, 0.2])
    choice = choose(z, y, times=[0, 1], shares=np.array([0.8, 0.2]))
    assert isinstance(choice.rule, Formula)
    np.testing.assert_array_equal(choice.rule.shares, [0.8, 0.2])
    assert np.abs(choice.residuals).max() < 1e-9


def test_a_linear_rule_beats_a_sum_that_is_none() -> None:
    rng = np.random.default_rng(6)
    z = rng.normal(size=(25, 2))
    y = 0.9 * z[:, 0] + 0.4 * z[:, 1] + 0.02 * rng.standard_normal(25)
    choice = choose(z, y, times=[0, 1])
    assert choice.rule.name == "ridge"
    np.testing.assert_allclose(choice.rule.weights(), [0.9, 0.4], atol=0.05)


def test_values_that_are_no_log_ratios_rule_the_sum_out() -> None:
    rng = np.random.default_rng(7)
    z = 100 * rng.normal(size=(10, 2))
    assert set(choose(z, z[:, 0], times=[0, 1]).densities) == {"ridge"}


def test_doubt_grows_away_from_the_data() -> None:
    rng = np.random.default_rng(8)
    z = rng.normal(size=(8, 2))
    rule, _ = Ridge.fit(z, z @ [1.0, 1.0] + 0.2 * rng.standard_normal(8))
    _, near = rule.combine(z.mean(axis=0)[None], np.zeros((1, 2)))
    _, far = rule.combine(np.array([[9.0, -9.0]]), np.zeros((1, 2)))
    assert far[0] > 10 * near[0] > 0
