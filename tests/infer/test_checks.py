"""Inputs that a model cannot have: the first cell that is wrong, what is allowed, and the line."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from mlsysopt.infer.language import Shape
from tests.infer.frontend.bodies import bound, refused

EACH = "for i in range(len(y)):\n    observe(y[i], {})"


@pytest.mark.parametrize(
    ("distribution", "y", "words"),
    [
        ("Normal(0, 1)", [0.5, np.inf], "y[1] = inf cannot come from Normal, which gives finite numbers"),
        ("Normal(0, var=1)", [-np.inf], "y[0] = -inf cannot come from Normal,"),
        ("Exponential(1)", [0.5, -1.0], "y[1] = -1 cannot come from Exponential, which gives numbers above 0"),
        ("LogNormal(0, 1)", [1.0, 0.0], "y[1] = 0 cannot come from LogNormal"),
        ("Gamma(a, 1)", [1.0, -2.0], "y[1] = -2 cannot come from Gamma"),
        ("Beta(1, 2)", [0.5, 1.5], "y[1] = 1.5 cannot come from Beta, which gives numbers between 0 and 1"),
        ("Bernoulli(0.5)", [0, 1, 2], "y[2] = 2 cannot come from Bernoulli, which gives 0 or 1"),
        ("BernoulliLogit(a)", [0, -1], "y[1] = -1 cannot come from BernoulliLogit, which gives 0 or 1"),
        ("Poisson(a)", [1, 0, -1], "y[2] = -1 cannot come from Poisson, which gives whole numbers from 0"),
        ("Geometric(0.5)", [-3], "y[0] = -3 cannot come from Geometric"),
        ("NegativeBinomial(2.0, 0.5)", [1, -3], "y[1] = -3 cannot come from NegativeBinomial"),
        ("Binomial(3, 0.5)", [3, 4], "y[1] = 4 cannot come from Binomial, which gives 0 ... 3"),
        ("Categorical.uniform(3)", [0, 2, 3], "y[2] = 3 cannot come from Categorical, which gives 0 ... 2"),
        (
            "Uniform(-1, 1)",
            [0.0, 1.0, 1.5],
            "y[2] = 1.5 cannot come from Uniform, which gives numbers between -1 and 1",
        ),
        (
            "TruncatedNormal(a, 1, 0)",
            [0.5, -0.5],
            "y[1] = -0.5 cannot come from TruncatedNormal, which gives numbers between 0 and inf",
        ),
        ("HalfNormal(a)", [-0.5], "y[0] = -0.5 cannot come from HalfNormal"),
    ],
)
def test_values_outside_of_the_support(distribution: str, y: list[float], words: str) -> None:
    refused("a = Gamma(1, 1)\n" + EACH.format(distribution), 3, words, "correct the data, or the model", y=y)


@pytest.mark.parametrize(
    ("distribution", "y"),
    [
        ("Exponential(1)", [0.0, 1.0]),
        ("Beta(1, 1)", [0.25, 0.75]),
        ("Uniform(-1, 1)", [-1.0, 1.0]),
        ("Binomial(3, 0.5)", [0, 3]),
        ("Categorical.uniform(3)", [0, 2]),
        ("Bernoulli(0.5)", [True, False]),
        ("StudentT(3, 0, 1)", [-1e9, 1e9]),
        ("TruncatedNormal(a, 1, 0, 1)", [0.0, 1.0]),
    ],
)
def test_values_at_the_edge(distribution: str, y: list[float]) -> None:
    bound("a = Gamma(1, 1)\n" + EACH.format(distribution), {"y": y})


def test_trials_of_each_cell() -> None:
    refused(
        EACH.format("Binomial(n[i], 0.5)"),
        2,
        "y[1] = 3 cannot come from Binomial, which gives 0 ... 2",
        y=[2, 3, 1],
        n=[2, 2, 9],
    )


def test_ends_of_each_cell() -> None:
    refused(
        EACH.format("Uniform(0, n[i])"),
        2,
        "y[1] = 3 cannot come from Uniform",
        "between 0 and 2",
        y=[2, 3],
        n=[2.0, 2.0],
    )


def test_ragged_labels() -> None:
    body = (
        "p = Dirichlet(1.0, 2)\n"
        "for d in range(len(w)):\n    for i in range(len(w[d])):\n        observe(w[d, i], Categorical(p))"
    )
    refused(body, 4, "w[1, 2] = 2 cannot come from Categorical, which gives 0 ... 1", w=([0], [1, 1, 2]))


def test_cells_behind_a_guard_of_the_inputs_are_left_out() -> None:
    body = "for i in range(len(y)):\n    if g[i] == 1:\n        observe(y[i], Exponential(1))"
    bound(body, {"y": [1.0, -1.0], "g": [1, 0]})
    refused(body, 3, "y[1] = -1", y=[1.0, -1.0], g=[0, 1])


def test_cells_behind_a_guard_of_a_latent_may_be_impossible() -> None:
    bound(
        "z = Bernoulli(0.5)\nif z == 1:\n    observe(y, Exponential(1))\nelse:\n    observe(y, Normal(0, 1))",
        {"y": -1.0},
    )


def test_missing_cells_are_left_out() -> None:
    bound(EACH.format("Exponential(1)"), {"y": [1.0, np.nan]}, missing="latent")


def test_what_does_not_exist_yet_is_not_checked() -> None:
    bound(EACH.format("Exponential(1)"), {"y": Shape(3)})


@pytest.mark.parametrize(
    ("body", "words", "inputs"),
    [
        (
            "observe(v, Dirichlet(1.0, 3))",
            "v = [0.5, 0.4, 0.2] cannot come from Dirichlet, which gives probabilities that add up to 1",
            {"v": [0.5, 0.4, 0.2]},
        ),
        (
            "observe(v, Multinomial(4, p))",
            "v = [1, 4] cannot come from Multinomial, which gives counts that add up to 4",
            {"v": [1, 4], "p": [0.5, 0.5]},
        ),
        (
            "observe(v, Multinomial(3, p))",
            "v = [-1,  4] cannot come from Multinomial, which gives whole numbers from 0",
            {"v": [-1, 4], "p": [0.5, 0.5]},
        ),
        (
            "observe(v, MultivariateNormal(p, s))",
            "v = [ 1., inf] cannot come from MultivariateNormal",
            {"v": [1.0, np.inf], "p": [0.5, 0.5], "s": np.eye(2)},
        ),
    ],
)
def test_rows_outside_of_the_support(body: str, words: str, inputs: dict[str, Any]) -> None:
    refused(body, 1, words, **inputs)


def test_the_row_is_named() -> None:
    refused(
        "for i in range(2):\n    observe(v[i], Multinomial(n[i], p))",
        2,
        "v[1] = [2, 0]",
        "add up to 3",
        v=[[1, 0], [2, 0]],
        n=[1, 3],
        p=[0.5, 0.5],
    )


@pytest.mark.parametrize(
    ("draw", "words", "inputs"),
    [
        ("Normal(0, -1)", "Normal: sd has to be above 0, got -1", {}),
        ("Normal(0, v)", "Normal: sd has to be above 0, got v = 0", {"v": 0.0}),
        ("Normal(v, 1)", "Normal: mean has to be a finite number, got v = inf", {"v": np.inf}),
        ("Normal(0, var=v - 1)", "NormalVariance", {"v": 0.5}),
        ("Gamma(1, v)", "Gamma: rate has to be above 0, got v = -2", {"v": -2}),
        ("Poisson(-1.0)", "Poisson: rate has to be", {}),
        ("Bernoulli(1.5)", "Bernoulli: p has to be between 0 and 1, got 1.5", {}),
        ("Binomial(-1, 0.5)", "Binomial: n has to be a whole number from 0, got -1", {}),
        ("Dirichlet(-1.0, 3)", "Dirichlet: alpha has to be all above 0", {}),
        ("Dirichlet(v)", "Dirichlet: alpha has to be all above 0, got v = [1., 0.]", {"v": [1.0, 0.0]}),
        (
            "Categorical(v)",
            "Categorical: p has to be probabilities that add up to 1, got v = [0.5, 0.4]",
            {"v": [0.5, 0.4]},
        ),
        (
            "MultivariateNormal(v, s)",
            "covariance has to be symmetric and positive definite, and s is not",
            {"v": [0.0, 0.0], "s": [[1.0, 2.0], [2.0, 1.0]]},
        ),
        ("Uniform(2, 1)", "Uniform: low has to be below high, got 2 and 1", {}),
        ("TruncatedNormal(0, 1, 3, 3)", "TruncatedNormal: low has to be below high", {}),
        ("Categorical.uniform(0)", "Categorical's p has no numbers", {}),
    ],
)
def test_arguments_that_are_not_allowed(draw: str, words: str, inputs: dict[str, Any]) -> None:
    refused(f"x = {draw}", 1, words, **inputs)


def test_the_first_argument_that_is_not_allowed_is_named() -> None:
    refused(
        EACH.format("Normal(0, s[i])"),
        2,
        "Normal: sd has to be above 0, got s[2] = -0.5",
        y=[1.0, 2.0, 3.0],
        s=[1, 1, -0.5],
    )
    refused(EACH.format("Normal(0, i - 1.0)"), 2, "got i - 1.0 = -1 at i = 0", y=[1.0, 2.0, 3.0])
    refused(
        "for k in range(2):\n    observe(y[k], Categorical(p[g[k]]))",
        2,
        "got p[1] = [0.5, 0.6]",
        y=[0, 1],
        g=[0, 1],
        p=[[0.5, 0.5], [0.5, 0.6]],
    )


def test_rows_that_are_not_used_are_not_checked() -> None:
    bound(
        "for k in range(2):\n    observe(y[k], Categorical(p[g[k]]))",
        {"y": [0, 1], "g": [0, 0], "p": [[0.5, 0.5], [0.5, 0.6]]},
    )


@pytest.mark.parametrize(
    ("body", "line", "words", "inputs"),
    [
        (
            "m = array(float, 2, k)\nfor i in range(2):\n    m[i] = Dirichlet(a[i])",
            3,
            ("alpha has 3 numbers", "a row of m 2", "same length"),
            {"a": np.ones((2, 3)), "k": 2},
        ),
        (
            "p = Dirichlet(1.0, 3)\nobserve(v, Multinomial(2, p))",
            2,
            ("Multinomial's p has 3 numbers", "v 2"),
            {"v": [1, 1]},
        ),
        ("x = MultivariateNormal(a, s)", 1, ("mean has 2 numbers", "covariance 3"), {"a": [0.0, 0.0], "s": np.eye(3)}),
        (
            "x = MultivariateNormal(a, s)",
            1,
            ("mean has 2 numbers", "a row of MultivariateNormal's covariance 3"),
            {"a": [0.0, 0.0], "s": np.ones((2, 3))},
        ),
    ],
)
def test_lengths_that_differ(body: str, line: int, words: tuple[str, ...], inputs: dict[str, Any]) -> None:
    refused(body, line, *words, **inputs)


Y = [0.5, 1.5, 2.5]


@pytest.mark.parametrize(
    ("body", "line", "words"),
    [
        (
            "for i in range(4):\n    observe(y[i], Normal(0, 1))",
            2,
            ("y[i]: i is 3", "y has 3 there (0 ... 2)", "bounds of the loop"),
        ),
        (
            "for t in range(3):\n    observe(y[t], Normal(y[t - 1], 1))",
            2,
            ("y[t - 1]: t - 1 is -1 at t = 0", "y has 3"),
        ),
        ("for t in range(3):\n    observe(y[t], Normal(y[t + 1], 1))", 2, ("t + 1 is 3 at t = 2",)),
        ("for t in range(n):\n    observe(y[t], Normal(0, 1))", 2, ("t is 3",)),
        ("for t in range(n - 5, 1):\n    observe(y[t], Normal(0, 1))", 2, ("t is -1",)),
        (
            "m = Normal(0, 1).rows(2)\nfor t in range(3):\n    observe(y[t], Normal(m[g[t]], 1))",
            3,
            ("g[1] = 2 is no index of m, which has 2 (0 ... 1)",),
        ),
        (
            "for d in range(2):\n    for i in range(lo[d], lo[d + 1]):\n        observe(y[i], Normal(0, 1))",
            3,
            ("y[i]: i is 3",),
        ),
        (
            "for d in range(3):\n    for i in range(lo[d], lo[d + 1]):\n        observe(y[i], Normal(0, 1))",
            3,
            ("lo[d + 1]: d + 1 is 3 at d = 2", "lo has 3"),
        ),
        ("b = array(float, 3)\nfor t in range(4):\n    b[t] = Normal(0, 1)", 3, ("b[t]: t is 3", "b has 3")),
        (
            "z = Categorical.uniform(3)\nm = Normal(0, 1).rows(2)\nobserve(y[0], Normal(m[z], 1))",
            3,
            ("m[z]: z can be 2, and m has 2 (0 ... 1)", "as many as there are values"),
        ),
        ("z = Bernoulli(0.5)\nm = Normal(0, 1).rows(2)\nobserve(y[0], Normal(m[z + 1], 1))", 3, ("z + 1 can be 2",)),
        ("z = Bernoulli(0.5)\nm = Normal(0, 1).rows(2)\nobserve(y[0], Normal(m[z - 1], 1))", 3, ("z - 1 can be -1",)),
        ("observe(y[0], Normal(dot(y, x), 1))", 1, ("x[k]: k is 2",)),
    ],
)
def test_indices_out_of_range(body: str, line: int, words: tuple[str, ...]) -> None:
    inputs: dict[str, Any] = {"y": Y, "n": 4, "g": [0, 2, 1], "lo": [0, 2, 4], "x": [1.0, 2.0]}
    refused(body, line, *words, **{name: value for name, value in inputs.items() if name in body})


@pytest.mark.parametrize(
    "body",
    [
        "for t in range(3):\n    observe(y[t], Normal(y[t - 1] if t > 0 else 0.0, 1))",
        "for t in range(3):\n    observe(y[t], Normal(1.0 if t > 0 and y[t - 1] > 1 else 0.0, 1))",
        "for t in range(3):\n    if t > 0:\n        observe(y[t], Normal(y[t - 1], 1))",
        "z = Bernoulli(0.5)\nfor t in range(3):\n    observe(y[t], Normal(y[t - z] if t > 0 else 0.0, 1))",
        "for t in range(5, 2):\n    observe(y[t], Normal(0, 1))",
        "for t in range(2, -1, -1):\n    observe(y[t], Normal(0, 1))",
        "z = Bernoulli(0.5)\nif z > 0:\n    observe(y[0], Normal(y[z - 1], 1))",
    ],
)
def test_indices_that_are_protected(body: str) -> None:
    bound(body, {"y": Y})


@pytest.mark.parametrize(
    ("body", "line", "words"),
    [
        (
            "b = array(float, 3)\nb[0] = Normal(0, 1)\nfor t in range(3):\n    b[t] = Normal(1, 1)",
            4,
            ("b[0] is assigned twice (first at line 3)", "once"),
        ),
        (
            "b = array(float, 4)\n"
            "for t in range(3):\n"
            "    b[t] = Normal(0, 1)\n"
            "for t in range(2, 4):\n"
            "    b[t] = Normal(1, 1)",
            5,
            ("b[2] is assigned twice (first at line 4)",),
        ),
        (
            "b = array(float, 4)\nfor t in range(4):\n    b[t // 2] = Normal(0, 1)",
            3,
            ("b[0] is assigned twice (first at line 4)",),
        ),
        (
            "b = array(float, 2, 2)\nfor i in range(2):\n    for j in range(2):\n        b[i, j * 0] = Normal(0, 1)",
            4,
            ("b[i, 0] is assigned once for every j",),
        ),
        (
            "b = array(float, 3)\n"
            "for t in range(1, 3):\n"
            "    b[t] = Normal(0, 1)\n"
            "for t in range(3):\n"
            "    observe(y[t], Normal(b[t], 1))",
            5,
            ("b[0] is read and never assigned",),
        ),
        (
            "b = array(float, 3)\n"
            "for t in range(1, 3):\n"
            "    b[t] = Normal(0, 1)\n"
            "for t in range(3):\n"
            "    observe(y[t], Normal(b[g[t]], 1))",
            5,
            ("b[0] is read and never assigned",),
        ),
        (
            "z = Categorical.uniform(3)\n"
            "b = array(float, 3)\n"
            "for t in range(2):\n"
            "    b[t] = Normal(0, 1)\n"
            "observe(y[0], Normal(b[z], 1))",
            5,
            ("b[z] may read b[2], which is never assigned",),
        ),
        (
            "b = array(float, 3)\nb[2] = Normal(0, 1)\nfor t in range(2):\n    b[t] = Normal(b[t + 1], 1)",
            4,
            ("b[1] is read before it is assigned (line 5)",),
        ),
        (
            "b = array(float, 3)\n"
            "b[0] = Normal(0, 1)\n"
            "observe(y[0], Normal(b[1], 1))\n"
            "for t in range(1, 3):\n"
            "    b[t] = Normal(b[t - 1], 1)",
            3,
            ("b[1] is read before it is assigned (line 6)",),
        ),
        (
            "a = array(float, 3)\n"
            "b = array(float, 3)\n"
            "for t in range(3):\n"
            "    a[t] = Normal(0, 1)\n"
            "    if t > 0:\n"
            "        observe(y[t], Normal(a[t - 1] + b[t], 1))\n"
            "    b[t] = Normal(a[t], 1)",
            6,
            ("b is used before",),
        ),
        (
            "a = array(float, 3)\n"
            "a[0] = Normal(0, 1)\n"
            "for t in range(1, 3):\n"
            "    observe(y[t], Normal(a[t], 1))\n"
            "    a[t] = Normal(a[t - 1], 1)",
            4,
            ("a[1] is read before it is assigned (line 6)",),
        ),
    ],
)
def test_cells_assigned_twice_never_or_late(body: str, line: int, words: tuple[str, ...]) -> None:
    inputs: dict[str, Any] = {"y": Y, "g": [1, 2, 0]}
    refused(body, line, *words, **{name: value for name, value in inputs.items() if name in body})


@pytest.mark.parametrize(
    "body",
    [
        "b = array(float, 3)\nb[0] = Normal(0, 1)\nfor t in range(1, 3):\n    b[t] = Normal(b[t - 1], 1)",
        "b = array(float, 3)\nb[2] = Normal(0, 1)\nfor t in range(1, -1, -1):\n    b[t] = Normal(b[t + 1], 1)",
        "b = array(float, 3)\nfor t in range(3):\n    b[t] = Normal(b[t - 1] if t > 0 else 0.0, 1)",
        "b = array(float, 4)\n"
        "for t in range(0, 4, 2):\n"
        "    b[t] = Normal(0, 1)\n"
        "for t in range(1, 4, 2):\n"
        "    b[t] = Normal(b[t - 1], 1)",
        "b = array(float, 3)\n"
        "for t in range(3):\n"
        "    if y[t] > 1:\n"
        "        b[t] = Normal(0, 1)\n"
        "    else:\n"
        "        b[t] = Normal(1, 1)\n"
        "    observe(y[t], Normal(b[t], 1))",
        "b = array(float, 3)\n"
        "for t in range(3):\n"
        "    if y[t] > 1:\n"
        "        b[t] = Normal(0, 1)\n"
        "        observe(y[t], Normal(b[t], 1))",
        "b = array(float, 3, 3)\n"
        "for i in range(3):\n"
        "    for j in range(i, 3):\n"
        "        b[i, j] = Normal(0, 1)\n"
        "        observe(y[j], Normal(b[i, j], 1))",
        "a = array(float, 3)\n"
        "b = array(float, 3)\n"
        "for t in range(3):\n"
        "    a[t] = Normal(0.0, 1)\n"
        "    b[t] = Normal(a[t], 1)",
    ],
)
def test_cells_assigned_once(body: str) -> None:
    bound(body, {"y": Y})


def test_a_recurrence_is_no_expression() -> None:
    body = (
        "b = array(float, 3)\nb[0] = 1.0\n"
        "for t in range(1, 3):\n    b[t] = 0.5 * b[t - 1] + y[t]\nobserve(y[0], Normal(b[2], 1))"
    )
    refused(body, 4, "b[t] is computed from b[t - 1], a recurrence", "reduce", y=Y)


@pytest.mark.parametrize(
    ("body", "line", "words"),
    [
        ("m[0] = 1.0\nfor t in range(3):\n    observe(y[t], Normal(m[t], 1))", 4, "m[1] is read and never assigned"),
        (
            "m[0] = 1.0\nfor t in range(3):\n    m[t] = y[t]\nx = Normal(m[1], 1)",
            4,
            "m[0] is assigned twice (first at line 3)",
        ),
        ("for t in range(4):\n    m[t] = 1.0\nx = Normal(m[1], 1)", 3, "m[t]: t is 3, and m has 3"),
        ("m[0] = 1.0\nx = Normal(m[0], 1)\nz = Normal(m[2], 1)", 4, "m[2] is read and never assigned"),
    ],
)
def test_computed_cells(body: str, line: int, words: str) -> None:
    refused("m = array(float, 3)\n" + body, line, words, **({"y": Y} if "y" in body else {}))


@pytest.mark.parametrize(
    "body",
    [
        "for t in range(3):\n    m[t] = y[t]\n    observe(y[t], Normal(m[t], 1))",
        "for t in range(1, 3):\n"
        "    m[t] = 0.5\n"
        "for t in range(3):\n"
        "    observe(y[t], Normal(m[t] if t > 0 else 0.0, 1))",
        "for t in range(1, 3):\n"
        "    m[t] = 0.5\n"
        "for t in range(3):\n"
        "    observe(y[t], Normal(1 if t > 0 and m[t] > 0 else 0, 1))",
        "z = Bernoulli(0.5)\nif z == 1:\n    m[0] = 0.5\nelse:\n    m[0] = 1.5\nobserve(y[0], Normal(m[0], 1))",
        "for t in range(3):\n"
        "    if y[t] > 1:\n"
        "        m[t] = 0.5\n"
        "    else:\n"
        "        m[t] = 1.5\n"
        "observe(y[0], Normal(m[0], 1))",
    ],
)
def test_computed_cells_that_are_assigned(body: str) -> None:
    bound("m = array(float, 3)\n" + body, {"y": Y})


def test_sizes() -> None:
    refused("b = array(float, k)\nb[0] = Normal(0, 1)", 1, "b has the shape (-1)", k=-1)


def test_a_million_cells_take_a_moment() -> None:
    body = (
        "p = Dirichlet(1.0, 3).rows(3)\nz = array(int, len(y))\nz[0] = Categorical.uniform(3)\n"
        "for t in range(1, len(y)):\n    z[t] = Categorical(p[z[t - 1]])\n"
        "for t in range(len(y)):\n    observe(y[t], Categorical(p[z[t]]))"
    )
    y = np.random.default_rng(0).integers(3, size=1_000_000)
    began = time.process_time()
    bound(body, {"y": y})
    y[999_999] = 3
    refused(body, 7, "y[999999] = 3 cannot come from Categorical", y=y)
    assert time.process_time() - began < 20.0
