"""What is no first-order chain is refused at the line that shows it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mlsysopt.infer.analysis.blanket import Analysis
from mlsysopt.infer.binding import bind
from mlsysopt.infer.frontend.source import read
from mlsysopt.infer.language import Bernoulli, Beta, Binomial, Normal, Poisson, array, dot, factor, observe
from mlsysopt.infer.rules import Refusal
from mlsysopt.infer.rules.chain import Chain
from tests.infer.rules.truth import line_of, proposed

UP = np.array([0.25, 0.7])


def far(y, up):
    z = array(int, len(y))
    z[0] = Bernoulli(0.5)
    z[1] = Bernoulli(0.5)
    for t in range(2, len(y)):
        z[t] = Bernoulli(up[z[t - 2]])  # here
        observe(y[t], Bernoulli(up[z[t]]))


def both(y, up):
    z = array(int, len(y))
    z[0] = Bernoulli(0.5)
    z[1] = Bernoulli(0.5)
    for t in range(2, len(y)):
        z[t] = Bernoulli(up[z[t - 1]] * up[z[t - 2]])  # here
        observe(y[t], Bernoulli(up[z[t]]))


def backward(y, up):
    z = array(int, len(y))
    z[len(y) - 1] = Bernoulli(0.5)
    for t in range(len(y) - 1, 0, -1):
        z[t - 1] = Bernoulli(up[z[t]])  # here
    for t in range(len(y)):
        observe(y[t], Bernoulli(up[z[t]]))


def weighed(y, up):
    z = array(int, len(y))
    z[0] = Bernoulli(0.5)
    for t in range(1, len(y)):
        z[t] = Bernoulli(up[z[t - 1]])
    for t in range(len(y)):
        factor(y[t] * up[z[t]])  # here


def summed(y, up):
    z = array(int, len(y))
    z[0] = Bernoulli(0.5)
    for t in range(1, len(y)):
        z[t] = Bernoulli(up[z[t - 1]])
    observe(y[0], Normal(dot(y, z), 1.0))  # here


def apart(y, up):
    z = array(int, len(y))
    z[0] = Bernoulli(0.5)
    for t in range(1, len(y)):
        z[t] = Bernoulli(up[z[t - 1]])
    for t in range(2, len(y)):
        observe(y[t], Normal(z[t] - z[t - 2], 1.0))  # here


def partly_together(y, up):
    z = array(int, len(y))
    z[0] = Bernoulli(0.5)
    for t in range(1, len(y)):
        z[t] = Bernoulli(up[z[t - 1]])
    for t in range(2, len(y)):
        observe(y[t], Normal(z[t] - z[t - 1], 1.0))  # here


def endless(y, up):
    z = array(int, len(y))
    z[0] = Poisson(2.0)  # here
    for t in range(1, len(y)):
        z[t] = Poisson(1.0 + z[t - 1])
        observe(y[t], Normal(z[t], 1.0))


def apart_in_space(y, up):
    z = array(int, len(y))
    for t in range(len(y)):
        z[t] = Bernoulli(0.4)  # here
        observe(y[t], Bernoulli(up[z[t]]))


def elsewhere(y, up):
    z = array(int, len(y))
    z[0] = Bernoulli(0.5)  # here
    z[1] = Bernoulli(0.4)
    for t in range(2, len(y)):
        z[t] = Bernoulli(up[z[t - 1]])
    for t in range(len(y)):
        observe(y[t], Bernoulli(up[z[t]]))


def holes(y, up):
    z = array(int, len(y))
    z[0] = Bernoulli(0.5)
    for t in range(1, len(y)):
        if y[t] == 1:
            z[t] = Bernoulli(up[z[t - 1]])  # here
        observe(y[t], Bernoulli(up[z[0]]))


def strides(y, up):
    z = array(int, len(y))
    z[0] = Bernoulli(0.5)
    for t in range(1, len(y), 2):
        z[t] = Bernoulli(up[z[t - 1]])  # here
        observe(y[t], Bernoulli(up[z[t]]))


def branching(y, up):
    z = array(int, len(y))
    z[0] = Binomial(5, 0.5)
    for t in range(1, len(y)):
        z[t] = Binomial(z[t - 1], 0.7)  # here
        observe(y[t], Bernoulli(up[0] / (1 + z[t])))


REFUSED = {
    far: "z[t] depends on z[t - 2], at distance 2",
    both: "2 of its cells are read in the prior of another one",
    backward: "z[t - 1] depends on z[t], at distance -1",
    weighed: "it is read by factor(...)",
    summed: "several of its cells are read in one sum there",
    apart: "z[t] and z[t - 2] are read together there, and are not always neighbours",
    partly_together: "z[t] and z[t - 1] are read together there, and are not always neighbours",
    endless: "Poisson has values without end",
    apart_in_space: "no cell of it depends on the one before",
    elsewhere: "it draws neither a cell of the loop at line {loop} nor the one in front of it",
    holes: "a condition leaves out some of its cells",
    strides: "the loop over t in 1..len(y) by 2 does not go from cell to cell",
    branching: "the number of its values is not the same for all cells",
}


@pytest.mark.parametrize("function", REFUSED, ids=lambda one: one.__name__)
def test_what_is_no_chain_is_refused_at_its_line(function: Callable[..., None]) -> None:
    reason = REFUSED[function]
    if "{loop}" in reason:
        reason = reason.format(loop=line_of(function, "for t in range(2"))
    found = proposed(function, {"y": [0, 1, 0], "up": UP}, Chain(), "z")
    assert found == Refusal(reason, line_of(function))


def continuous(y, up):
    p = Beta(1.0, 2.0)  # here
    for t in range(len(y)):
        observe(y[t], Bernoulli(p))


def test_what_is_continuous_is_refused() -> None:
    found = proposed(continuous, {"y": [0, 1, 0], "up": UP}, Chain(), "p")
    assert found == Refusal("Beta has no separate values", line_of(continuous))


def test_missing_cells_of_an_input_are_no_chain() -> None:
    def seen(y, up):
        for t in range(1, len(y)):
            observe(y[t], Bernoulli(up[y[t - 1]]))

    given = {"y": np.array([0.0, 1.0, np.nan, 0.0]), "up": UP}
    found = Chain().propose("y", Analysis(bind(read(seen), given, missing="latent").program))
    assert isinstance(found, Refusal)
