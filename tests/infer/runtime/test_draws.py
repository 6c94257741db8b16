"""Draws where the usual ways fail: far tails, tiny shapes, certain outcomes, forbidden parameters, and bare weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import special, stats

from mlsysopt.infer.distributions import ALL
from mlsysopt.infer.runtime import draws
from mlsysopt.testing.distributions import compiled

LEAST_P = 1e-4


def drawn(function: Callable[..., Any], *parameters: Any, count: int = 4000, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.array([function(rng, *parameters) for _ in range(count)])


def rows(function: Callable[..., Any], *parameters: Any, size: int, count: int = 2000, seed: int = 1) -> np.ndarray:
    rng, found = np.random.default_rng(seed), np.zeros((count, size))
    for row in found:
        function(rng, row, *parameters)
    return found


@pytest.mark.parametrize(
    ("mean", "sd", "low", "high", "like"),
    [
        # Steps from an end a standard deviations out: a times them is exponential.
        (-1e8, 1.0, 0.0, math.inf, stats.expon(scale=1e-8)),
        (1e8, 1.0, -math.inf, 0.0, stats.uniform(0, 0)),
        (0.0, 1.0, 40.0, 40.001, stats.truncexpon(0.04, 40.0, 1 / 40.0)),
        (0.0, 1.0, 30.0, math.inf, stats.truncnorm(30.0, math.inf)),
        (0.0, 1.0, -0.3, 0.5, stats.truncnorm(-0.3, 0.5)),
        (0.0, 1.0, 0.0, 1.2, stats.truncnorm(0.0, 1.2)),
        (5.0, 1e9, 0.0, 2.0, stats.uniform(0.0, 2.0)),
        (0.1, 1e-9, -1.0, 1.0, stats.norm(0.1, 1e-9)),
    ],
)
def test_truncated_normal_wherever_its_ends_are(mean: float, sd: float, low: float, high: float, like: Any) -> None:
    found = drawn(draws.truncated_normal_draw, mean, sd, low, high)
    assert (found >= low).all() and (found <= high).all()
    if high == 0.0:
        found, like = -found, stats.expon(scale=1e-8)
    assert stats.kstest(found, like.cdf).pvalue > LEAST_P


def test_truncated_normal_between_ends_that_meet() -> None:
    for mean, sd, end in ((0.0, 1.0, 3.0), (1.0, 2.0, 1.0), (9.0, 1.0, -4.0), (-1e300, 1e-300, 5.0)):
        assert set(drawn(draws.truncated_normal_draw, mean, sd, end, end, count=5)) == {end}
    nothing = [(0.0, 1.0, 2.0, 1.0), (math.nan, 1.0, 0.0, 1.0), (0.0, 0.0, 0.0, 1.0), (0.0, 1.0, math.nan, 1.0)]
    for wrong in (*nothing, (0.0, 1.0, math.inf, math.inf), (0.0, 1.0, -math.inf, -math.inf)):
        assert math.isnan(draws.truncated_normal_draw(np.random.default_rng(1), *wrong)), wrong


def test_logarithms_of_tiny_gammas() -> None:
    shape = 0.001
    found = drawn(draws.gamma_log_draw, shape)
    # P(log G < c) is nearly exp(shape c) / Gamma(shape + 1) where exp(c) is tiny.
    for c in (-3000.0, -1000.0, -300.0, -20.0):
        expected = math.exp(shape * c - special.gammaln(shape + 1.0))
        assert abs((found < c).mean() - expected) < 4.0 * math.sqrt(expected * (1.0 - expected) / len(found))


@pytest.mark.parametrize("shape", [0.03, 0.1, 0.4, 0.8, 0.999])
def test_gammas_of_shapes_below_one(shape: float) -> None:
    found = drawn(draws.gamma_unit_draw, shape, count=8000)
    assert stats.kstest(found, stats.gamma(shape).cdf).pvalue > LEAST_P
    # What lies above 1 is proposed apart from the rest.
    above, mass = found[found > 1.0], stats.gamma(shape).sf(1.0)
    assert abs(len(above) / 8000 - mass) < 4.0 * math.sqrt(mass / 8000)


def test_tiny_shapes_stay_inside() -> None:
    for shape in (1e-4, 0.001, 0.05, 0.7):
        gammas = drawn(draws.gamma_draw, shape, 1.0, count=1000)
        inverses = drawn(draws.inverse_gamma_draw, shape, 1.0, count=1000)
        assert (gammas > 0.0).all() and np.isfinite(inverses).all() and (inverses > 0.0).all()
        betas = drawn(draws.beta_draw, shape, shape)
        assert (betas > 0.0).all() and (betas < 1.0).all()
        assert abs((betas > 0.5).mean() - 0.5) < 0.04
        simplex = rows(draws.dirichlet_draw, np.full(4, shape), size=4)
        assert (simplex > 0.0).all()
        np.testing.assert_allclose(simplex.sum(axis=1), 1.0, rtol=1e-12)
        np.testing.assert_allclose(simplex.mean(axis=0), 0.25, atol=0.05)
    assert np.isfinite(drawn(draws.student_t_draw, 0.01, 0.0, 1.0, count=1000)).all()


def test_a_row_of_small_and_large_shapes() -> None:
    for alpha in ([0.02, 0.5, 3.0], [0.2, 0.5, 30.0]):
        found = rows(draws.dirichlet_draw, np.array(alpha), size=3)
        for k, a in enumerate(alpha):
            marginal = stats.beta(a, sum(alpha) - a)
            assert stats.kstest(found[:, k], marginal.cdf).pvalue > LEAST_P


def test_a_long_row_is_drawn_cell_by_cell() -> None:
    alpha = np.tile([0.05, 1.0, 0.3, 7.0], 16)
    found = rows(draws.dirichlet_draw, alpha, size=64, count=400)
    for first, shape in enumerate(alpha[:4]):
        marginal = stats.beta(shape, alpha.sum() - shape)
        assert stats.kstest(found[:, first::4].ravel(), marginal.cdf).pvalue > LEAST_P
    # Neighbours share nothing but the sum.
    ratio = found[:, 0::4] / (found[:, 0::4] + found[:, 2::4])
    assert stats.kstest(ratio.ravel(), stats.beta(0.05, 0.3).cdf).pvalue > LEAST_P


def test_a_row_that_underflows_as_a_whole_still_adds_up() -> None:
    class Unlucky:
        def random(self) -> float:
            return 0.5

        def standard_exponential(self) -> float:
            return 45.0

    for size in (1, 3):
        out = np.empty(size)
        draws.dirichlet_draw(Unlucky(), out, np.full(size, 0.04))  # pyright: ignore[reportArgumentType]
        assert (out > 0.0).all() and out.sum() == 1.0


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.inf, math.nan])
def test_a_row_with_a_shape_that_is_none_is_nan(wrong: float) -> None:
    for alpha in ([wrong, 1.0], [0.01, wrong], [2.0, 3.0, wrong]):
        out = np.zeros(len(alpha))
        draws.dirichlet_draw(np.random.default_rng(1), out, np.array(alpha))
        assert np.isnan(out).all()


def test_rows_are_the_same_bits_compiled() -> None:
    pytest.importorskip("numba")
    native = compiled(draws.dirichlet_draw)
    for alpha in (np.array([0.5, 0.05, 3.0]), np.array([0.001, 2.0]), np.tile([0.04, 0.6, 1.0], 11)):
        plain = rows(draws.dirichlet_draw, alpha, size=len(alpha), count=100)
        assert np.array_equal(plain, rows(native, alpha, size=len(alpha), count=100))


def test_certain_outcomes_are_drawn() -> None:
    assert set(drawn(draws.bernoulli_draw, 0.0, count=100)) == {0} and set(
        drawn(draws.bernoulli_draw, 1, count=100)
    ) == {1}
    assert set(drawn(draws.binomial_draw, 7, 1.0, count=20)) == {7} and set(
        drawn(draws.binomial_draw, 7, 0, count=20)
    ) == {0}
    assert set(drawn(draws.binomial_draw, 0, 0.5, count=20)) == {0}
    assert set(drawn(draws.poisson_draw, 0, count=20)) == {0} == set(drawn(draws.geometric_draw, 1, count=20))
    assert set(drawn(draws.negative_binomial_draw, 2, 1, count=20)) == {0}
    assert set(drawn(draws.bernoulli_logit_draw, 1e300, count=20)) == {1}
    assert set(drawn(draws.bernoulli_logit_draw, -1e300, count=20)) == {0}


def test_rare_events_and_large_counts_come_to_an_end() -> None:
    rng = np.random.default_rng(1)
    assert draws.geometric_draw(rng, 1e-300) == 2**53
    assert draws.negative_binomial_draw(rng, 1.0, 1e-300) == 2**53
    assert draws.poisson_draw(rng, 1e12) == pytest.approx(1e12, rel=1e-5)
    assert draws.binomial_draw(rng, 10**15, 0.5) == pytest.approx(5e14, rel=1e-6)
    assert draws.poisson_draw(rng, 1e300) == -1
    assert draws.negative_binomial_draw(rng, 1e-300, 0.5) == 0


@pytest.mark.parametrize("name", [name for name, one in ALL.items() if one.draw is not None and not one.event])
def test_extreme_parameters_neither_raise_nor_warn(name: str) -> None:
    one, rng = ALL[name], np.random.default_rng(1)
    assert one.draw is not None
    if any(p.rank for p in one.parameters):
        return
    extremes = np.array([-1e300, -1e-300, 0.0, 1e-310, 1e-300, 1e-9, 1.0, 1e9, 1e300, math.inf, -math.inf, math.nan])
    for parameters in rng.choice(extremes, (600, len(one.parameters))):
        value = one.draw(rng, *parameters)
        assert type(value) in ((int,) if one.discrete else (float, np.float64)), f"{name}{tuple(parameters)}: {value!r}"


def test_weights_need_not_add_up_to_one() -> None:
    weights = np.array([0.0, 2.0, 0.0, 5.0, 3.0, 0.0])
    for function, argument in (
        (draws.draw_weights, weights),
        (draws.draw_weights, weights * 1e-300),
        (draws.draw_weights, np.stack([weights, 1.0 + weights], axis=1)[:, 0]),
        (draws.draw_log_weights, np.log(weights, where=weights > 0.0, out=np.full(6, -np.inf)) - 5000.0),
        (draws.categorical_draw, weights / 10.0),
    ):
        counts = np.bincount(drawn(function, argument), minlength=6)
        assert counts[weights == 0.0].sum() == 0
        assert stats.chisquare(counts[[1, 3, 4]], np.array([0.2, 0.5, 0.3]) * 4000).pvalue > LEAST_P
    before = (logs := np.array([-1.0, -2.0])).copy()
    draws.draw_log_weights(np.random.default_rng(1), logs)
    assert np.array_equal(logs, before)


def test_rows_without_mass_give_minus_one() -> None:
    rng, nan, inf = np.random.default_rng(1), math.nan, math.inf
    for weights in ([], [0.0, 0.0], [nan, 1.0], [1.0, nan], [-1.0, 2.0], [inf, 1.0]):
        assert draws.draw_weights(rng, np.array(weights)) == -1, weights
        assert draws.categorical_draw(rng, np.array(weights)) == -1, weights
    for logs in ([], [-inf, -inf], [nan, 0.0], [0.0, nan], [inf, 0.0]):
        assert draws.draw_log_weights(rng, np.array(logs)) == -1, logs
    assert draws.draw_log_weights(rng, np.array([-inf, -1e4, -inf])) == 1


def test_impossible_states_of_a_multinomial_stay_empty() -> None:
    p = np.array([0.1, 0.0, 0.2, 0.7, 0.0])
    out = np.zeros((500, 5), np.int64)
    rng = np.random.default_rng(1)
    for row in out:
        draws.multinomial_draw(rng, row, 1000, p)
    assert (out.sum(axis=1) == 1000).all() and (out[:, p == 0.0] == 0).all()
    np.testing.assert_allclose(out.mean(axis=0), 1000 * p, atol=4.0)


def test_compiled_weights_are_the_same_bits() -> None:
    pytest.importorskip("numba")
    weights = np.random.default_rng(1).random((7, 2))[:, 0]
    for function, argument in ((draws.draw_weights, weights), (draws.draw_log_weights, np.log(weights))):
        assert np.array_equal(drawn(function, argument, count=500), drawn(compiled(function), argument, count=500))
