"""Conjugate updates that are refused: a near miss for each precondition, with the line that is to blame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlsysopt.infer.language import (
    Beta,
    Dirichlet,
    Gamma,
    Geometric,
    InverseGamma,
    Normal,
    Poisson,
    StudentT,
    TruncatedNormal,
    array,
    dot,
    factor,
    observe,
)
from mlsysopt.infer.rules.conjugate import Conjugate
from mlsysopt.testing.updates import RefusedCase, UpdateCase, UpdateContract

Y = np.array([0.3, -1.2, 2.1, 0.8, -0.4])
COUNTS = np.array([2, 0, 1, 4, 3])


class TestRefused(UpdateContract):
    def rule(self) -> Conjugate:
        return Conjugate()

    def cases(self) -> Sequence[UpdateCase]:
        return []

    def refusals(self) -> Sequence[RefusedCase]:
        y, given = {"y": Y}, {"y": Y, "x": np.ones((5, 2))}
        return [
            RefusedCase(unread, y, "b", "nothing observed depends on it"),
            RefusedCase(no_family, y, "m", "StudentT is no conjugate prior", "m = StudentT"),
            RefusedCase(mixed, y, "m", "different priors: Normal, StudentT", "m[1] = StudentT"),
            RefusedCase(ordered_shapes, y, "v", "ordered cells are conjugate for normals only", "v = Gamma"),
            RefusedCase(twice, y, "m", "read twice", "observe(y[i], Normal(m, exp(m)))"),
            RefusedCase(twice_in_the_mean, y, "m", "read twice", "observe(y[i], Normal(m + 0.5 * m, 1.0))"),
            RefusedCase(through_a_name, y, "m", "read twice", "observe(y[i], Normal(a + m, 1.0))"),
            RefusedCase(two_cells, y, "m", "read 2 times", "observe(y[i], Normal(m[0] + m[1], 1.0))"),
            RefusedCase(in_a_guard, y, "m", "read in a guard", "observe(y[i], Normal(1.0, 1.0))"),
            RefusedCase(in_an_index, {"y": Y, "k": Y}, "n", "no conjugate prior", "n = Poisson"),
            RefusedCase(weighed, y, "m", "factor(...)", "factor(m * m)"),
            RefusedCase(in_a_sum, given, "m", "several of its cells", "observe(y[i], Normal(dot(x[i], m), 1.0))"),
            RefusedCase(own_prior, y, "m", "in the prior of another cell", "m[t] = Normal(m[t - 1], 1.0)"),
            RefusedCase(not_linear, y, "m", "not linear", "Normal(exp(m), 1.0)"),
            RefusedCase(a_deviation, y, "v", "a Gamma is conjugate only where", "observe(y[i], Normal(0.0, v))"),
            RefusedCase(a_shifted_rate, {"y": COUNTS}, "v", "read by Poisson", "observe(y[i], Poisson(v + 1.0))"),
            RefusedCase(a_chance_squared, {"y": COUNTS}, "p", "read by Geometric", "observe(y[i], Geometric(0.5 * p))"),
            RefusedCase(a_component, y, "p", "read by Normal", "observe(y[i], Normal(p[0], 1.0))"),
            RefusedCase(a_variance, y, "v", "a InverseGamma is conjugate", "Normal(0.0, var=v + 1.0)"),
            RefusedCase(heavy_tails, y, "m", "read by StudentT", "observe(y[i], StudentT(3.0, m, 1.0))"),
            RefusedCase(truncated_reader, y, "m", "read by TruncatedNormal", "TruncatedNormal(m, 1.0, -9.0"),
        ]  # fmt: skip


def unread(y):
    a = Normal(0.0, 1.0)
    b = Normal(a, 1.0)  # noqa: F841
    for i in range(len(y)):
        observe(y[i], Normal(a, 1.0))


def no_family(y):
    m = StudentT(3.0, 0.0, 1.0)
    for i in range(len(y)):
        observe(y[i], Normal(m, 1.0))


def mixed(y):
    m = array(float, 2)
    m[0] = Normal(0.0, 1.0)
    m[1] = StudentT(3.0, 0.0, 1.0)
    for i in range(len(y)):
        observe(y[i], Normal(m[0], 1.0))


def ordered_shapes(y):
    v = Gamma(1.0, 1.0).rows(2).ordered()
    for i in range(len(y)):
        observe(y[i], Normal(0.0, precision=v[0]))


def twice(y):
    m = Normal(0.0, 1.0)
    for i in range(len(y)):
        observe(y[i], Normal(m, exp(m)))  # noqa: F821


def twice_in_the_mean(y):
    m = Normal(0.0, 1.0)
    for i in range(len(y)):
        observe(y[i], Normal(m + 0.5 * m, 1.0))


def through_a_name(y):
    m = Normal(0.0, 1.0)
    a = 2.0 * m
    for i in range(len(y)):
        observe(y[i], Normal(a + m, 1.0))


def two_cells(y):
    m = Normal(0.0, 1.0).rows(2)
    for i in range(len(y)):
        observe(y[i], Normal(m[0] + m[1], 1.0))


def in_a_guard(y):
    m = Normal(0.0, 1.0)
    for i in range(len(y)):
        if m > 0.0:
            observe(y[i], Normal(1.0, 1.0))


def in_an_index(y, k):
    n = Poisson(1.0)
    for i in range(len(y)):
        observe(y[i], Normal(k[n], 1.0))


def weighed(y):
    m = Normal(0.0, 1.0)
    factor(m * m)
    for i in range(len(y)):
        observe(y[i], Normal(m, 1.0))


def in_a_sum(y, x):
    m = Normal(0.0, 1.0).rows(x.shape[1])
    for i in range(len(y)):
        observe(y[i], Normal(dot(x[i], m), 1.0))


def own_prior(y):
    m = array(float, len(y))
    m[0] = Normal(0.0, 1.0)
    for t in range(1, len(y)):
        m[t] = Normal(m[t - 1], 1.0)
    for t in range(len(y)):
        observe(y[t], Normal(m[t], 1.0))


def not_linear(y):
    m = Normal(0.0, 1.0)
    for i in range(len(y)):
        observe(y[i], Normal(exp(m), 1.0))  # noqa: F821


def a_deviation(y):
    v = Gamma(1.0, 1.0)
    for i in range(len(y)):
        observe(y[i], Normal(0.0, v))


def a_shifted_rate(y):
    v = Gamma(1.0, 1.0)
    for i in range(len(y)):
        observe(y[i], Poisson(v + 1.0))


def a_chance_squared(y):
    p = Beta(1.0, 1.0)
    for i in range(len(y)):
        observe(y[i], Geometric(0.5 * p))


def a_component(y):
    p = Dirichlet(1.0, 3)
    for i in range(len(y)):
        observe(y[i], Normal(p[0], 1.0))


def a_variance(y):
    v = InverseGamma(1.0, 1.0)
    for i in range(len(y)):
        observe(y[i], Normal(0.0, var=v + 1.0))


def heavy_tails(y):
    m = Normal(0.0, 1.0)
    for i in range(len(y)):
        observe(y[i], StudentT(3.0, m, 1.0))


def truncated_reader(y):
    m = Normal(0.0, 1.0)
    for i in range(len(y)):
        observe(y[i], TruncatedNormal(m, 1.0, -9.0, 9.0))
