"""What a joint Gaussian block refuses, and at which line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlsysopt.infer.language import (
    Flat,
    Normal,
    Poisson,
    StudentT,
    TruncatedNormal,
    array,
    dot,
    factor,
    observe,
)
from mlsysopt.infer.rules import Refusal
from mlsysopt.infer.rules.gaussian import Gaussian
from tests.infer.rules.affine import line_of, proposed

RNG = np.random.default_rng(5)
X = RNG.normal(size=12).round(3)
Y = RNG.normal(size=12).round(3)


def in_variance(y):
    a = Normal(0.0, 1.0)
    b = Normal(0.0, 1.0)
    for n in range(len(y)):
        observe(y[n], Normal(a + b, a * a))


def in_guard(y):
    a = Normal(0.0, 1.0)
    for n in range(len(y)):
        if a > 0:
            observe(y[n], Normal(a, 1.0))


def in_factor(y):
    a = Normal(0.0, 1.0)
    factor(-a * a)
    for n in range(len(y)):
        observe(y[n], Normal(2.0 * a + a * n, 1.0))


def squared(y):
    a = Normal(0.0, 1.0)
    for n in range(len(y)):
        observe(y[n], Normal(a * a, 1.0))


def product(y):
    a = Normal(0.0, 1.0)
    b = Normal(0.0, 1.0)
    for n in range(len(y)):
        observe(y[n], Normal(a * b, 1.0))


def counts(y):
    a = Normal(0.0, 1.0)
    for n in range(len(y)):
        observe(y[n], Poisson(a + 3.0))


def heavy(y):
    a = StudentT(3.0, 0.0, 1.0)
    for n in range(len(y)):
        observe(y[n], Normal(a, 1.0))


def truncated(y):
    a = TruncatedNormal(0.0, 1.0, 0.0)
    b = Normal(0.0, 1.0)
    for n in range(len(y)):
        observe(y[n], Normal(a + b, 1.0))


def ascending(y, x):
    a = Normal(0.0, 1.0).rows(2).ordered()
    for n in range(len(y)):
        observe(y[n], Normal(a[0] + a[1] * x[n], 1.0))


def alone(y):
    a = Normal(0.0, 1.0)
    for n in range(len(y)):
        observe(y[n], Normal(a, 1.0))


def nothing(y):
    a = Flat()  # noqa: F841 a model's variable is what it is about
    for n in range(len(y)):
        observe(y[n], Normal(0.0, 1.0))


def large(y, xs):
    a = Normal(0.0, 1.0).rows(300)
    for n in range(len(y)):
        observe(y[n], Normal(dot(a, xs[n]), 1.0))


def walk(y):
    a = array(float, len(y))
    a[0] = Normal(0.0, 1.0)
    for t in range(1, len(y)):
        a[t] = Normal(a[t - 1], 1.0)
    for t in range(len(y)):
        observe(y[t], Normal(a[t], 1.0))


REFUSED: dict[str, tuple[Any, str, str]] = {
    "in_variance": (in_variance, "read in the sd", "a * a"),
    "in_guard": (in_guard, "guard", "observe("),
    "in_factor": (in_factor, "factor", "factor(-a"),
    "squared": (squared, "not linear", "a * a"),
    "product": (product, "not linear in a and b together", "a * b"),
    "counts": (counts, "Poisson, which is no Normal", "Poisson"),
    "heavy": (heavy, "StudentT is no Gaussian prior", "StudentT"),
    "truncated": (truncated, "TruncatedNormal is no Gaussian prior", "TruncatedNormal"),
    "ascending": (ascending, "ascend", "ordered"),
    "alone": (alone, "conjugate does it", "observe"),
    "nothing": (nothing, "Flat and nothing observed depends on it", "Flat"),
    "large": (large, "300 numbers", "rows(300)"),
    "walk": (walk, "read in the prior of another cell", "a[t - 1]"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name):
    function, reason, text = REFUSED[name]
    inputs = {"y": Y} | ({"xs": np.ones((12, 300))} if name == "large" else {"x": X} if name == "ascending" else {})
    found = proposed(Gaussian(), function, "a", {"y": np.arange(12)} if name == "counts" else inputs)
    assert isinstance(found, Refusal), found
    assert reason in found.reason
    assert found.line == line_of(function, text)
