"""The contract notices distributions that are wrong."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from mlsysopt.infer.distributions import ALL, Distribution
from mlsysopt.infer.runtime import densities, draws
from mlsysopt.testing.distributions import DistributionCase, DistributionContract, chi_square


def unnormalised(x: float, mean: float, sd: float) -> float:
    return densities.normal_log_density(x, mean, sd) + 1e-4


def two_sided(x: float, sd: float) -> float:
    return densities.normal_log_density(x, 0.0, sd) + math.log(2.0)


def forgets_sd(x: float, mean: float, sd: float) -> tuple[float, float, float]:
    by_x, by_mean, _ = densities.normal_gradient(x, mean, sd)
    return by_x, by_mean, 0.0


def allows_all(x: float, mean: float, sd: float) -> float:
    return densities.normal_log_density(x, mean, abs(sd) + 1e-300)


def shifted_poisson(rng: Any, rate: float) -> int:
    return draws.poisson_draw(rng, rate) + 1


NORMAL, POISSON = ALL["Normal"], ALL["Poisson"]
WRONG = {
    "variance taken for sd": (
        replace(NORMAL, draw=draws.normal_variance_draw),
        "test_mass_is_one_and_draws_fall_where_it_is",
    ),
    "off by one": (replace(POISSON, draw=shifted_poisson), "test_mass_is_one_and_draws_fall_where_it_is"),
    "a constant too much": (replace(NORMAL, log_density=unnormalised), "test_mass_is_one_and_draws_fall_where_it_is"),
    "not SciPy's": (replace(NORMAL, log_density=unnormalised), "test_log_density_is_that_of_scipy"),
    "a derivative forgotten": (replace(NORMAL, gradient=forgets_sd), "test_gradient_is_that_of_differences"),
    "density on the other side": (
        replace(ALL["HalfNormal"], log_density=two_sided),
        "test_there_is_nothing_outside_of_the_support",
    ),
    "a negative sd": (replace(NORMAL, log_density=allows_all), "test_parameters_that_are_not_allowed_give_nan"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_distribution_fails(name: str) -> None:
    wrong, test = WRONG[name]
    parameters: dict[str, tuple[Any, ...]] = {"Normal": (0.0, 2.0), "HalfNormal": (2.0,), "Poisson": (2.0,)}

    class Wrong(DistributionContract):
        distribution: Distribution = wrong  # pyright: ignore[reportIncompatibleVariableOverride]
        cases = (DistributionCase(parameters[wrong.name], stats.norm(0.0, 2.0)),)

    with pytest.raises(AssertionError):
        getattr(Wrong(), test)()


def test_rare_cells_are_taken_together() -> None:
    expected = np.array([500.0, 490.0, 6.0, 3.0, 1.0])
    assert chi_square(expected, expected) == pytest.approx(1.0)
    assert chi_square(np.array([500, 490, 6, 0, 4]), expected) > 0.5
    assert chi_square(np.array([400, 490, 6, 52, 52]), expected) < 1e-10
    assert chi_square(np.array([100]), np.array([100.0])) == 1.0
