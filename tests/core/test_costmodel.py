"""Declared terms: planted laws are recovered, brute force agrees, and nothing is negative."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsysopt.core.costmodel import CostModel, DeclaredTerms, Prediction, fit_near, fit_nonnegative, score_of
from mlsysopt.core.errors import ArtefactError, ExpressionError, UsageError
from mlsysopt.testing.costmodels import CostModelContract


class TestDeclaredTerms(CostModelContract):
    def make_model(self) -> CostModel:
        return DeclaredTerms(["1", "R*f", "U"])


class TestDeclaredTermsWithTooMany(CostModelContract):
    """Terms that the law does not have are harmless."""

    error = 0.2

    def make_model(self) -> CostModel:
        return DeclaredTerms(["1", "R*f", "R", "U", "U*f"])


def loss(phi: np.ndarray, y: np.ndarray, c: np.ndarray) -> float:
    w = np.sqrt(y / y.mean())
    told = phi @ c
    return float(np.sum(w * np.log(told / y) ** 2)) if np.all(told > 0) else float("inf")


def test_planted_coefficients_come_back_exactly_without_noise() -> None:
    rng = np.random.default_rng(0)
    phi = np.column_stack([np.ones(8), 10 ** rng.uniform(2, 6, 8), 10 ** rng.uniform(4, 9, 8)])
    planted = np.array([0.05, 2e-6, 3e-9])
    assert np.allclose(fit_nonnegative(phi, phi @ planted), planted, rtol=1e-6)


def test_no_grid_point_is_better() -> None:
    rng = np.random.default_rng(1)
    phi = np.column_stack([np.ones(12), rng.uniform(1, 100, 12)])
    y = phi @ np.array([3.0, 0.4]) * np.exp(0.3 * rng.standard_normal(12))
    found = fit_nonnegative(phi, y)
    grid = itertools.product(np.linspace(0, 10, 101), np.linspace(0, 1, 101))
    best = min(loss(phi, y, np.array(point)) for point in grid)
    assert loss(phi, y, found) <= best + 1e-4


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 12))
def test_never_negative_and_scale_free(seed: int, terms: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    phi = 10 ** rng.uniform(-3, 9, (rows, terms))
    y = 10 ** rng.uniform(-3, 2, rows)
    found = fit_nonnegative(phi, y)
    assert np.all(found >= 0) and np.all(np.isfinite(found))
    assert np.all(phi @ found > 0)
    # Seconds or milliseconds: the same fit.
    assert np.allclose(phi @ fit_nonnegative(phi, 1e3 * y), 1e3 * (phi @ found), rtol=1e-5)


def test_a_wrong_sign_ends_at_zero() -> None:
    n = np.arange(1.0, 11.0)
    found = fit_nonnegative(np.column_stack([np.ones(10), n]), 20 - n)
    assert found[1] == 0 and 10 < found[0] < 20


def test_known_proportions_tell_terms_apart_that_the_cases_cannot() -> None:
    # Both terms double together in the cases and part afterwards.
    phi = np.array([[1.0, 1.0], [2.0, 2.0], [4.0, 4.0]])
    truth, expected = np.array([6.0, 2.0]), np.array([3.0, 1.0])
    assert np.allclose(fit_near(phi, phi @ truth, expected), truth, rtol=1e-6)
    assert not np.allclose(fit_nonnegative(phi, phi @ truth), truth, rtol=0.1)


def test_cases_that_contradict_the_proportions_win_in_number() -> None:
    rng = np.random.default_rng(2)
    truth, expected = np.array([2.0, 3.0]), np.array([8.0, 1.0])
    phi = rng.uniform(0.1, 10, (400, 2))
    few, many = (fit_near(phi[:n], phi[:n] @ truth, expected) for n in (3, 400))
    assert np.abs(np.log(many / truth)).max() < 0.05 < np.abs(np.log(few / truth)).max()


def test_an_outlier_loses_its_weight_and_nothing_else_does() -> None:
    phi = np.column_stack([np.ones(9), np.arange(1.0, 10.0)])
    truth = np.array([2.0, 3.0])
    y = phi @ truth
    y[4] *= 5.0
    held, robust = (fit_near(phi, y, truth, outlier=outlier) for outlier in (None, 0.2))
    assert 3 * np.abs(robust / truth - 1).max() < np.abs(held / truth - 1).max()


def test_a_coefficient_expected_to_be_nothing_is_free() -> None:
    phi = np.column_stack([np.ones(6), np.arange(1.0, 7.0)])
    truth = np.array([1.0, 50.0])
    found = fit_near(phi, phi @ truth, [1.0, 0.0], strength=0.01)
    assert found[1] == pytest.approx(50.0, rel=0.1)


def test_what_cannot_be_held_near_is_refused() -> None:
    with pytest.raises(UsageError, match="one per term"):
        fit_near([[1.0, 2.0]], [1.0], [1.0])
    with pytest.raises(UsageError, match="expected to cost nothing: row 1"):
        fit_near([[1.0, 2.0], [0.0, 3.0]], [1.0, 2.0], [1.0, 0.0])


def test_a_limit_holds_and_the_rest_makes_up_for_it() -> None:
    n = np.arange(1.0, 11.0)
    phi = np.column_stack([n, n, np.ones(10)])
    found = fit_nonnegative(phi, 5 * n, most=[2.0, np.inf, np.inf])
    assert found[0] <= 2.0 and np.allclose(phi @ found, 5 * n, rtol=1e-6)
    tight = fit_nonnegative(phi[:, [0, 2]], 5 * n, most=[2.0, np.inf])
    assert tight[0] == pytest.approx(2.0) and tight[1] > 0
    free = fit_nonnegative(phi, 5 * n, most=[np.inf] * 3)
    assert np.allclose(phi @ free, phi @ fit_nonnegative(phi, 5 * n))


def test_weights_decide_between_two_laws() -> None:
    phi, y = np.ones((4, 1)), np.array([1.0, 1.0, 4.0, 4.0])
    assert fit_nonnegative(phi, y, weights=[1, 1, 0, 0])[0] == pytest.approx(1.0)
    assert fit_nonnegative(phi, y, weights=[0, 0, 1, 1])[0] == pytest.approx(4.0)
    # Equal weights in logarithms: the geometric mean.
    assert fit_nonnegative(phi, y, weights=[1, 1, 1, 1])[0] == pytest.approx(2.0, rel=1e-3)


def test_large_cases_count_more_by_default() -> None:
    phi, y = np.ones((2, 1)), np.array([1.0, 16.0])
    # Weights 1 : 4, so ln c = (0 + 4 ln 16) / 5.
    assert fit_nonnegative(phi, y)[0] == pytest.approx(16 ** (4 / 5), rel=1e-3)


@pytest.mark.parametrize(
    ("phi", "y", "says"),
    [
        ([[1.0, -1.0]], [1.0], "at least 0"),
        ([[1.0, np.nan]], [1.0], "finite"),
        ([[1.0]], [0.0], "above 0"),
        ([[0.0]], [1.0], "every term is 0"),
        ([[1.0], [2.0]], [1.0], r"\(2, 1\) and \(1,\)"),
    ],
)
def test_what_cannot_be_fitted_is_refused(phi: list[list[float]], y: list[float], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        fit_nonnegative(phi, y)


def test_interval_is_the_conformal_quantile_of_cases_left_out() -> None:
    X, y = CostModelContract.table(11, rows=25)
    terms = ["1", "R*f", "U"]
    model = DeclaredTerms(terms, coverage=0.8).fit(X, y)
    misses = []
    for j in range(25):
        rest = {name: np.delete(values, j) for name, values in X.items()}
        alone = DeclaredTerms(terms).fit(rest, np.delete(y, j))
        misses.append(abs(np.log(y[j] / alone.predict({name: values[[j]] for name, values in X.items()}).mean[0])))
    told = model.predict(X)
    # ceil(26 * 0.8) = 21
    assert np.allclose(np.log(told.high / told.mean), sorted(misses)[20])
    assert np.allclose(np.log(told.mean / told.low), sorted(misses)[20])


def test_json_round_trip_is_exact() -> None:
    X, y = CostModelContract.table(12)
    model = DeclaredTerms(["1", "R*f", "U"]).fit(X, y)
    again = DeclaredTerms.from_json(model.to_json())
    assert again.predict(X).high.tolist() == model.predict(X).high.tolist()
    assert again.score() == model.score() and again.fingerprint == model.fingerprint
    with pytest.raises(ArtefactError):
        DeclaredTerms.from_json("{}")


def test_a_transfer_by_one_case_moves_only_the_common_factor() -> None:
    X, y = CostModelContract.table(13)
    model = DeclaredTerms(["1", "R*f", "U"]).fit(X, y)
    one = {"R": [20_000.0], "f": [8.0], "U": [500.0]}
    moved = model.transfer(one, 3.0 * model.predict(one).mean)
    assert np.allclose(moved.coefficients, 3.0 * model.coefficients, rtol=1e-6)


def test_terms_are_checked() -> None:
    with pytest.raises(UsageError, match="each of them once"):
        DeclaredTerms(["R", "R"])
    with pytest.raises(ExpressionError, match="attribute access"):
        DeclaredTerms(["R.real"])
    with pytest.raises(ExpressionError, match=r"term 'R - 10' is -5 in row 1"):
        DeclaredTerms(["R - 10"]).fit({"R": [20, 5]}, [1, 1])
    with pytest.raises(UsageError, match="flat and of one length"):
        DeclaredTerms(["R*U"]).fit({"R": [20, 5], "U": [1]}, [1, 1])
    with pytest.raises(UsageError, match="groups must be one per case"):
        DeclaredTerms(["R"]).fit({"R": [20, 5]}, [1, 1], groups=[1])


def test_score_counts_by_hand() -> None:
    told = Prediction(np.array([1.0, 3.0, 2.0]), np.array([0.5, 2.5, 1.9]), np.array([1.5, 3.5, 2.1]))
    score = score_of([1.0, 2.0, 4.0], told, groups=["a", "a", "a"])
    assert score.median_relative_error == 0.5
    assert score.rank_correlation == pytest.approx(0.5)
    assert score.coverage == pytest.approx(1 / 3)
    assert np.isnan(score_of([1.0, 2.0], Prediction(*[np.array([1.0, 2.0])] * 3)).rank_correlation)
