"""What has no finite number of values is refused at the line that draws it."""

# Models are read, not run: their words have no values.
# pyright: reportOperatorIssue=false

from __future__ import annotations

from collections.abc import Callable

import pytest

from mlsysopt.infer.language import Bernoulli, Categorical, Geometric, NegativeBinomial, Normal, Poisson, array, observe
from mlsysopt.infer.rules import Refusal
from mlsysopt.infer.rules.enumerate import Enumerate
from tests.infer.rules.truth import line_of, proposed


def poisson(y):
    v = Poisson(2.0)  # here
    observe(y, Poisson(1.0 + v))


def geometric(y):
    v = Geometric(0.4)  # here
    observe(y, Poisson(1.0 + v))


def negative_binomial(y):
    v = NegativeBinomial(2.0, 0.4)  # here
    observe(y, Poisson(1.0 + v))


def real(y):
    v = Normal(0.0, 1.0)  # here
    observe(y, Poisson(v * v))


def too_many(y):
    v = Categorical.uniform(2000)  # here
    observe(y, Poisson(1.0 + v))


def one_of_two(y):
    v = array(int, 2)
    v[0] = Bernoulli(0.4)
    v[1] = Poisson(3.0)  # here
    for i in range(2):
        observe(y, Poisson(1.0 + v[i]))


REFUSED = {
    poisson: "Poisson has values without end",
    geometric: "Geometric has values without end",
    negative_binomial: "NegativeBinomial has values without end",
    real: "Normal has no separate values",
    too_many: "it has 2000 values, more than 1024",
    one_of_two: "Poisson has values without end",
}


@pytest.mark.parametrize("function", REFUSED, ids=lambda one: one.__name__)
def test_what_is_not_finite_is_refused_at_its_line(function: Callable[..., None]) -> None:
    found = proposed(function, {"y": 3}, Enumerate(), "v")
    assert found == Refusal(REFUSED[function], line_of(function))
