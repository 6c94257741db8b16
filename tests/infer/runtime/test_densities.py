"""Densities at the ends of their supports, far out, and for large parameters, where formulas lose digits."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import special, stats

from mlsysopt.infer.distributions import ALL
from mlsysopt.infer.runtime import densities

NUMBERS = [one for one in ALL.values() if not one.event and all(not p.rank for p in one.parameters)]


@pytest.mark.parametrize(
    ("x", "density", "expected"),
    [
        (0.0, lambda x: densities.gamma_log_density(x, 1.0, 3.0), math.log(3.0)),
        (0.0, lambda x: densities.gamma_log_density(x, 2.0, 3.0), -math.inf),
        (0.0, lambda x: densities.gamma_log_density(x, 0.5, 3.0), -math.inf),
        (0.0, lambda x: densities.inverse_gamma_log_density(x, 2.0, 3.0), -math.inf),
        (0.0, lambda x: densities.log_normal_log_density(x, 0.0, 1.0), -math.inf),
        (0.0, lambda x: densities.exponential_log_density(x, 3.0), math.log(3.0)),
        (0.0, lambda x: densities.half_normal_log_density(x, 1.0), stats.halfnorm.logpdf(0.0)),
        (0.0, lambda x: densities.half_cauchy_log_density(x, 1.0), stats.halfcauchy.logpdf(0.0)),
        (0.0, lambda x: densities.beta_log_density(x, 1.0, 3.0), math.log(3.0)),
        (1.0, lambda x: densities.beta_log_density(x, 3.0, 1.0), math.log(3.0)),
        (0.0, lambda x: densities.beta_log_density(x, 2.0, 3.0), -math.inf),
        (1.0, lambda x: densities.beta_log_density(x, 2.0, 0.5), -math.inf),
        (2.0, lambda x: densities.uniform_log_density(x, 0.0, 2.0), -math.log(2.0)),
        (1.0, lambda x: densities.truncated_normal_log_density(x, 0.0, 1.0, 1.0, 2.0), stats.truncnorm.logpdf(1, 1, 2)),
        (0.0, densities.half_flat_log_density, -math.inf),
    ],
)  # fmt: skip
def test_ends_of_a_support(x: float, density: Callable[[float], float], expected: float) -> None:
    assert density(x) == pytest.approx(float(expected), rel=1e-12)


def test_certain_outcomes() -> None:
    assert densities.bernoulli_log_density(1, 1.0) == densities.bernoulli_log_density(0, 0.0) == 0.0
    assert densities.bernoulli_log_density(0, 1.0) == densities.bernoulli_log_density(1, 0.0) == -math.inf
    assert densities.binomial_log_density(0, 0, 0.3) == pytest.approx(0.0, abs=1e-15)
    assert densities.binomial_log_density(4, 4, 1.0) == pytest.approx(0.0, abs=1e-14)
    assert densities.binomial_log_density(3, 4, 1.0) == densities.binomial_log_density(1, 4, 0.0) == -math.inf
    assert densities.poisson_log_density(0, 0.0) == 0.0 and densities.poisson_log_density(1, 0.0) == -math.inf
    assert densities.geometric_log_density(0, 1.0) == 0.0 and densities.geometric_log_density(1, 1.0) == -math.inf
    p = np.array([0.0, 1.0, 0.0])
    assert densities.categorical_log_density(1, p) == 0.0 and densities.categorical_log_density(2, p) == -math.inf
    assert densities.multinomial_log_density(np.array([0, 3, 0]), 3, p) == pytest.approx(0.0, abs=1e-15)
    assert densities.multinomial_log_density(np.array([1, 2, 0]), 3, p) == -math.inf


def test_gradients_at_certain_outcomes() -> None:
    assert densities.bernoulli_gradient(1, 1.0) == (0.0, 1.0)
    assert densities.binomial_gradient(0, 4, 0.0) == (0.0, 0.0, -4.0)
    assert densities.binomial_gradient(4, 4, 1.0) == (0.0, 0.0, 4.0)
    assert densities.poisson_gradient(0, 0.0) == (0.0, -1.0)
    assert densities.geometric_gradient(0, 1.0) == (0.0, 1.0)
    for impossible in (
        densities.bernoulli_gradient(0, 1.0),
        densities.binomial_gradient(1, 4, 0.0),
        densities.poisson_gradient(2, 0.0),
        densities.geometric_gradient(1, 1.0),
        densities.negative_binomial_gradient(1, 2.0, 1.0),
    ):
        assert all(map(math.isnan, impossible))


def test_a_row_on_the_edge_of_the_simplex() -> None:
    edge = np.array([0.0, 0.4, 0.6])
    assert densities.dirichlet_log_density(edge, np.array([1.0, 2.0, 3.0])) == pytest.approx(
        float(special.gammaln(6.0) - special.gammaln(2.0) - special.gammaln(3.0) + math.log(0.4) + 2.0 * math.log(0.6))
    )
    for first in (2.0, 0.5):
        assert densities.dirichlet_log_density(edge, np.array([first, 2.0, 3.0])) == -math.inf


def test_a_row_of_equal_and_other_shapes() -> None:
    x = np.array([0.1, 0.2, 0.05, 0.15, 0.4, 0.1])
    for alpha in ([0.5] * 6, [0.5, 0.5, 2.0, 2.0, 0.5, 7.0], [1.0, 2.0, 1.0, 2.0, 1.0, 2.0]):
        expected = float(stats.dirichlet(alpha).logpdf(x))
        assert densities.dirichlet_log_density(x, np.array(alpha)) == pytest.approx(expected, rel=1e-12)


def test_limits_of_large_parameters() -> None:
    # Values to 20 digits by mpmath.
    assert densities.student_t_log_density(2.0, 1e10, 0.0, 1.0) == pytest.approx(-2.9189385330296727, rel=1e-14)
    assert densities.binomial_log_density(400_000_000, 10**9, 0.4) == pytest.approx(-10.567013274121694, rel=1e-7)
    many = densities.negative_binomial_log_density(3, 1e12, 1e12 / (1e12 + 2.0))
    assert many == pytest.approx(densities.poisson_log_density(3, 2.0), rel=1e-3)
    assert densities.beta_log_density(0.5, 1e9, 1e9) == pytest.approx(
        -math.log(math.sqrt(2.0 * math.pi) / math.sqrt(8e9)), rel=1e-6
    )


def test_truncated_normal_far_from_its_mean() -> None:
    assert densities.truncated_normal_log_density(1e-8, -1e8, 1.0, 0.0, math.inf) == pytest.approx(
        17.420680743952365, rel=1e-12
    )
    assert densities.truncated_normal_log_density(-1e-8, 1e8, 1.0, -math.inf, 0.0) == pytest.approx(
        17.420680743952365, rel=1e-12
    )
    # A slice so wide in the standard's units that it is flat.
    assert densities.truncated_normal_log_density(0.3, 5.0, 1e9, 0.0, 2.0) == pytest.approx(-math.log(2.0), rel=1e-9)
    found = densities.truncated_normal_gradient(1.0, 0.0, 1.0, -math.inf, math.inf)
    assert found == pytest.approx((-1.0, 1.0, 0.0, 0.0, 0.0))


def test_a_value_that_is_no_number_has_no_density() -> None:
    for one in NUMBERS:
        parameters = [0.5 if p.constraint != "count" else 3 for p in one.parameters]
        if one.bounds is not None:
            parameters[-1] = 0.75
        assert not one.log_density(math.nan, *parameters) > -math.inf, one.name


def test_extreme_numbers_neither_raise_nor_warn() -> None:
    """Warnings are errors here, and the scalars of NumPy warn of each overflow and division by 0."""
    extremes = np.array([-1e300, -1e-300, 0.0, 1e-310, 1e-300, 1e-9, 1.0, 1e9, 1e300, math.inf, -math.inf, math.nan])
    rng = np.random.default_rng(1)
    for one in NUMBERS:
        for at in rng.choice(extremes, (1500, 1 + len(one.parameters))):
            if one.discrete:
                at = (int(at[0]) if abs(at[0]) < 2**62 else -1, *at[1:])
            value = one.log_density(*at)
            assert math.isnan(value) or value < math.inf, f"{one.name}{tuple(at)}"
            if one.gradient is not None:
                assert len(one.gradient(*at)) == len(at)
