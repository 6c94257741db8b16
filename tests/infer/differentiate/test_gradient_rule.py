"""What the gradient rule takes, what it refuses and at which line, and when it is the automatic choice."""

# The words of the language carry nothing outside of a model.
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportArgumentType=false, reportUnusedVariable=false

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mlsysopt.infer.analysis.blanket import Analysis
from mlsysopt.infer.emit.module import Module
from mlsysopt.infer.ir import Const
from mlsysopt.infer.language import (
    Bernoulli,
    BernoulliLogit,
    Categorical,
    Dirichlet,
    Gamma,
    HalfNormal,
    MultivariateNormal,
    Normal,
    Poisson,
    Uniform,
    array,
    observe,
    reduce,
)
from mlsysopt.infer.planning import Choice, Plan
from mlsysopt.infer.rules import Refusal, Update
from mlsysopt.infer.rules.gradient import Gradient, WholeModel, wanted
from tests.infer.differentiate.difference import engine_of, proposed
from tests.infer.differentiate.smooth_models import CASES

Y = np.array([0.2, 0.4, 1.5])


def labels(y):
    z = array(int, len(y))
    mean = Normal(0.0, 1.0)
    for i in range(len(y)):
        z[i] = Bernoulli(0.5)  # here
        observe(y[i], Normal(mean * z[i], 1.0))


def count(y):
    n = Poisson(3.0)  # here
    for i in range(len(y)):
        observe(y[i], Normal(n, 1.0))


def jump(y):
    cut = Normal(0.0, 1.0)
    for i in range(len(y)):
        observe(y[i], Normal(1.0 if y[i] < cut else 2.0, 1.0))  # here


def gate(y):
    x = Normal(0.0, 1.0)
    for i in range(len(y)):
        if x > y[i]:  # here
            observe(y[i], Normal(0.0, 1.0))


def product(y):
    x = Normal(0.0, 1.0).rows(3)
    for i in range(len(y)):
        observe(y[i], Normal(reduce("mul", x), 1.0))  # here


def remainder(y):
    x = Normal(0.0, 1.0)
    for i in range(len(y)):
        observe(y[i], Normal(x % 2.0, 1.0))  # here


def late(y):
    x = array(float, 4)
    x[0] = Uniform(0.0, 1.0)
    for i in range(1, 4):
        x[i] = Uniform(x[i - 1], 2.0)  # here
    for i in range(len(y)):
        observe(y[i], Normal(x[i], 1.0))


def packed(y):
    x = Uniform(0.0, 2.0).rows(3).ordered()  # here
    for i in range(len(y)):
        observe(y[i], Normal(x[i], 1.0))


def stretched(y, mean, covariance):
    scale = HalfNormal(1.0)
    matrix = array(float, 2, 2)
    for i in range(2):
        for j in range(2):
            matrix[i, j] = covariance[i, j] * scale
    for i in range(len(y)):
        observe(y[i], MultivariateNormal(mean, matrix))  # here


def unobserved():
    x = Normal(0.0, 1.0)
    y = Normal(x, 1.0)  # noqa: F841


PAIR = {"y": np.zeros((2, 2)), "mean": np.zeros(2), "covariance": np.eye(2)}


@pytest.mark.parametrize(
    ("function", "given", "reason"),
    [
        (labels, {"y": Y}, "z has finite variables; marginalisation is not part of this version"),
        (count, {"y": Y}, "n has finite variables; marginalisation is not part of this version"),
        (jump, {"y": Y}, "a choice depends on cut, and the density may jump there"),
        (gate, {"y": Y}, "whether a line counts depends on x, and the density jumps there"),
        (product, {"y": Y}, "reduce(mul, ...) of x has no derivative; write a product as exp of a sum of logarithms"),
        (remainder, {"y": Y}, "`%` of x has no derivative"),
        (late, {"y": Y}, "a bound of x reads x, which is not drawn before it as a whole"),
        (packed, {"y": Y}, "ordered cells with an upper bound, or with bounds of their own, have no transform yet"),
        (stretched, PAIR, "the covariance of a MultivariateNormal depends on what is drawn"),
    ],
)
def test_refusals_name_reason_and_line(function: Callable[..., None], given: dict[str, Any], reason: str) -> None:
    lines, first = inspect.getsourcelines(function)
    line = first + next(i for i, text in enumerate(lines) if "# here" in text)
    assert proposed(function, given) == Refusal(reason, line)


def test_nothing_observed_is_refused_without_a_line() -> None:
    assert proposed(unobserved, {}) == Refusal("nothing observed depends on anything that is drawn")


def test_finite_variables_that_nothing_observed_reads_do_not_matter() -> None:
    found = proposed(aside, {"y": Y})
    assert isinstance(found, WholeModel)
    assert found.variables == ("mean",)


def aside(y):
    mean = Normal(0.0, 1.0)
    for i in range(len(y)):
        observe(y[i], Normal(mean, 1.0))
    coin = BernoulliLogit(mean)  # noqa: F841
    label = Categorical.uniform(4)  # noqa: F841


@pytest.mark.parametrize("name", CASES)
def test_smooth_models_are_accepted_and_written(name: str) -> None:
    engine = engine_of(*CASES[name])
    found = Gradient().propose_model(Analysis(engine.program))
    assert isinstance(found, WholeModel)
    assert found.variables == tuple(one.name for one in engine.program.latents)
    module = Module(engine.program)
    found.write(module)
    assert "log_density_and_gradient" in module.written
    # The text holds no size of the data.
    function, given = CASES[name]
    longer = {k: np.concatenate([v, v]) if isinstance(v, np.ndarray) and k != "K" else v for k, v in given.items()}
    if name in ("regression", "schools", "walk"):
        again = Module(engine_of(function, longer).program)
        Gradient().propose_model(Analysis(again.program)).write(again)  # type: ignore[union-attr]
        assert again.text() == module.text()


def weights(y, K: int):
    rate = Gamma(2.0, 1.0)
    p = Dirichlet(1.0, K)
    x = Normal(0.0, 1.0).rows(K)
    for i in range(len(y)):
        observe(y[i], Normal(x[0] * p[0] + x[1] * rate, 1.0))


@pytest.mark.parametrize(
    ("rules", "choice"),
    [
        ({"rate": "slice", "p": "conjugate", "x": "gaussian"}, False),
        ({"rate": "slice", "p": "metropolis", "x": "gaussian"}, True),
        ({"rate": "conjugate", "p": "conjugate", "x": "slice"}, False),
        ({"rate": "slice", "p": "conjugate", "x": "slice"}, True),
    ],
)
def test_three_numbers_left_to_slice_sampling_make_it_the_choice(rules: dict[str, str], choice: bool) -> None:
    size = 2 + choice * (rules["x"] == "gaussian")
    engine = engine_of(weights, {"y": Y, "K": size})
    choices = tuple(
        Choice(Update(rule, (name,), "", Const(1), lambda module, name: None)) for name, rule in rules.items()
    )
    assert wanted(Plan(engine.program, choices), engine.bound) == choice
