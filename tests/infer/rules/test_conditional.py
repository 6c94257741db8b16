"""The log density of a cell given the rest, however its readers are reached: steps of it are those of the log joint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest

from mlsysopt.infer.analysis.blanket import Analysis
from mlsysopt.infer.emit.module import Module, Tuned
from mlsysopt.infer.emit.writer import Writer
from mlsysopt.infer.ir import Const
from mlsysopt.infer.language import (
    Beta,
    Binomial,
    Exponential,
    Gamma,
    HalfNormal,
    Laplace,
    LogNormal,
    NegativeBinomial,
    Normal,
    Poisson,
    StudentT,
    array,
    dot,
    observe,
)
from mlsysopt.infer.rules.conditional import Conditional, conditional
from mlsysopt.infer.rules.protocol import Refusal, Update
from mlsysopt.infer.rules.statistics import flat_index
from mlsysopt.testing.updates import Isolated, UpdateCase

Y = np.array([0.3, -1.2, 2.1, 0.8, -0.4, 1.7])
P = np.exp(Y)
C = np.array([1.0, 0.5, 2.0, 1.5, 3.0, 0.7])
COUNTS = np.array([2, 0, 1, 4, 3, 0])
G = np.array([0, 1, 2, 1, 2, 0])


class Stepped:
    """Writes what a cell's log density is before and after a step, instead of an update.

    Args:
        together: Whether readers are walked once for all cells; each of them is stepped then.
    """

    name: ClassVar[str] = "stepped"

    def __init__(self, together: bool, step: str = "0.125") -> None:
        self.together, self.step = together, step

    def propose(self, variable: str, analysis: Analysis) -> Update | Refusal:
        found = conditional(analysis.blanket(variable))
        if isinstance(found, Refusal):
            return found
        if self.together and not found.together:
            return Refusal("its cells share readers")
        return Update(
            self.name, (variable,), "stepped", Const(1), lambda module, name: self._write(module, name, found)
        )

    def _write(self, module: Module, name: str, found: Conditional) -> None:
        with module.function(name, ("rng",)) as f:
            for one in ("t_now", "t_then"):
                module.tune(Tuned(one, like=found.name), f)
                f.line(f"{one}_ = {one}.reshape(-1)")
                f.line(f"{one}_[:] = 0.0")
            f.line(f"x_ = {f.array(f'v_{found.name}')}.reshape(-1)")
            found.write_sums(f)
            f.line("old_ = x_.copy()")
            with f.block("for when_ in range(2):"):
                f.line("out_ = t_now_ if when_ == 0 else t_then_")
                if self.together:
                    f.line(f"x_[:] = old_ + when_ * {self.step}")
                self._density(f, found)
            f.line("x_[:] = old_")
            f.line("return 0")

    def _density(self, f: Writer, found: Conditional) -> None:
        for site in found.blanket.own:
            with f.site(site):
                at = [f.let(f.value(one), "i") for one in site.at]
                cell = f.let(flat_index(f, found.name, site.at), "c")
                f.line(f"x_[{cell}] = old_[{cell}] + when_ * {self.step}")
                f.line(f"out_[{cell}] = {f.log_density(site)}")
                found.write_forms(f, cell, f"x_[{cell}]", f"old_[{cell}]", f"out_[{cell}]")
                if not self.together:
                    found.write_readers(f, at, f"out_[{cell}]")
                    f.line(f"x_[{cell}] = old_[{cell}]")
        if self.together:
            found.write_readers_together(f, lambda cell: "True", "out_")


def agree(function: Callable[..., None], inputs: dict[str, Any], variable: str, together: bool, whole: bool) -> None:
    missing = "latent" if np.isnan(inputs["y"]).any() else "error"
    step = 1 if whole else 0.125
    one = Isolated(
        UpdateCase(function.__name__, function, inputs, variable, missing=missing), _Rest(together, variable, step)
    )
    drawn = one.flat.copy()
    assert one.update() == 0
    assert np.array_equal(one.flat, drawn)
    found = (one.arrays["t_then"] - one.arrays["t_now"]).reshape(-1)
    before = one.log_joint()
    for cell in range(one.flat.size):
        if one.arrays["t_now"].reshape(-1)[cell] == 0.0:
            continue
        one.flat[cell] += step
        assert found[cell] == pytest.approx(one.log_joint() - before, rel=1e-9, abs=1e-9), f"cell {cell}"
        one.flat[cell] = drawn[cell]


class _Rest:
    """Steps one variable and leaves the others as they are."""

    name: ClassVar[str] = "rest"

    def __init__(self, together: bool, variable: str, step: float) -> None:
        self.together, self.variable, self.step = together, variable, step

    def propose(self, variable: str, analysis: Analysis) -> Update | Refusal:
        if variable == self.variable:
            return Stepped(self.together, repr(self.step)).propose(variable, analysis)

        def nothing(module: Module, name: str) -> None:
            with module.function(name, ("rng",)) as f:
                f.line("return 0")

        return Update(self.name, (variable,), "left", Const(1), nothing)


def sums(y, c, n):
    v = Gamma(2.0, 1.0)
    p = Beta(2.0, 2.0)
    for i in range(len(y)):
        observe(0.1 + y[i], Normal(0.5, c[i] * v))
        observe(0.2 + y[i], Normal(0.5, var=v / c[i]))
        observe(0.3 + y[i], Normal(0.5, precision=v))
        observe(0.4 + y[i], Normal(c[i] - 2.0 * v, 0.7))
        observe(0.5 + y[i], Laplace(0.1, v))
        observe(0.6 + y[i], StudentT(4.0, v, v))
        observe(7 + n[i], Poisson(c[i] * v))
        observe(8 + n[i], NegativeBinomial(1.5, p))


def positive_sums(y, c, n):
    v = Gamma(2.0, 1.0).rows(3)
    for i in range(len(y)):
        observe(0.1 + y[i], HalfNormal(v[n[i]]))
        observe(0.2 + y[i], LogNormal(0.2, c[i] * v[n[i]]))
        observe(0.3 + y[i], LogNormal(v[n[i]] - c[i], 0.6))
        observe(0.4 + y[i], Exponential(v[n[i]]))
        observe(0.5 + y[i], Gamma(1.5, 2.0 * v[n[i]]))
        observe(0.6 + y[i], Normal(0.0, sqrt(c[i] * v[n[i]])))  # noqa: F821


def chances(y, c, n):
    p = Beta(2.0, 2.0)
    for i in range(len(y)):
        observe(1 + n[i], NegativeBinomial(c[i], p))
        observe(2 + n[i], Binomial(9, p))
        observe(3 + n[i], Binomial(9, 0.5 * p))


def two_lags(y):
    for t in range(2, len(y)):
        observe(y[t], StudentT(4.0, 0.5 * y[t - 1] - 0.2 * y[t - 2], 1.0))


def backwards(y, c):
    h = array(float, len(y))
    h[len(y) - 1] = Normal(0.0, 1.0)
    for t in range(len(y) - 2, -1, -1):
        h[t] = Normal(0.9 * h[t + 1], exp(0.1 * h[t + 1]))  # noqa: F821
    for s in range(0, len(y) - 1, 2):
        observe(y[s], Laplace(h[s] * h[s + 1], c[s]))
    for s in range(len(y) - 1, 0, -3):
        observe(y[s], Laplace(h[s], 1.0))


def grid(y):
    m = array(float, y.shape[0], y.shape[1])
    for i in range(y.shape[0]):
        m[i, 0] = Normal(0.0, 1.0)
        for j in range(1, y.shape[1]):
            m[i, j] = Normal(m[i, j - 1], 0.5)
    for i in range(1, y.shape[0]):
        for j in range(y.shape[1]):
            observe(y[i, j], Laplace(m[i, j] - m[i - 1, j] + 0.1 * m[0, 0] * m[i, 0], 1.0))


def by_table(y, g):
    m = Normal(0.0, 1.0).rows(4)
    for i in range(1, len(y)):
        observe(y[i], StudentT(4.0, m[g[i]] - 0.5 * m[g[i - 1]] + m[3], 1.0))


def chosen_by_guard(y, g):
    m = Normal(0.0, 1.0).rows(4)
    for i in range(len(y)):
        if g[i] > 0 and m[g[i]] > 0.1:
            observe(y[i], StudentT(4.0, m[g[i] - 1] if i > 0 else 0.0, 1.0))
        else:
            observe(y[i], StudentT(4.0, 1.0, 2.0))


def in_sums(y, x):
    b = Normal(0.0, 1.0).rows(x.shape[1])
    for i in range(len(y)):
        observe(y[i], StudentT(4.0, dot(x[i], b) + b[0], 1.0))


def running(y):
    a = array(float, len(y))
    a[0] = Normal(0.0, 1.0)
    for t in range(1, len(y)):
        a[t] = Normal(reduce(add, a[0:t]), 1.0)  # noqa: F821
    for t in range(len(y)):
        observe(y[t], Laplace(reduce(max, a[0 : t + 1]), 1.0))  # noqa: F821


def counted(y, g):
    n = Poisson(3.0).rows(3)
    for i in range(len(y)):
        observe(0.1 + y[i], Normal(0.5 * n[g[i]], 1.0))
        observe(0.2 + y[i], StudentT(4.0, 0.1 * n[g[i]], 1.0))


X = np.array([[1.0, 0.2], [-0.5, 1.0], [0.3, 0.3], [2.0, -1.0], [0.1, 0.9], [1.0, 1.0]])
MODELS: list[tuple[Callable[..., None], dict[str, Any], str, bool, bool]] = [
    (sums, {"y": Y, "c": C, "n": COUNTS}, "v", False, False),
    (positive_sums, {"y": P, "c": C, "n": G}, "v", False, False),
    (chances, {"y": Y, "c": C, "n": COUNTS}, "p", False, False),
    (two_lags, {"y": np.array([0.3, np.nan, np.nan, 1.0, np.nan, 0.5])}, "y", False, False),
    (backwards, {"y": Y, "c": C}, "h", False, False),
    (grid, {"y": Y.reshape(2, 3)}, "m", False, False),
    (by_table, {"y": Y, "g": G}, "m", False, False),
    (chosen_by_guard, {"y": Y, "g": np.array([0, 1, 2, 1, 2, 1])}, "m", False, False),
    (in_sums, {"y": Y, "x": X}, "b", False, False),
    (running, {"y": Y}, "a", False, False),
    (counted, {"y": Y, "g": G}, "n", False, True),
    (counted, {"y": Y, "g": G}, "n", True, True),
]


@pytest.mark.parametrize(("function", "inputs", "variable", "together", "whole"), MODELS)
def test_steps_of_a_cell_are_those_of_the_log_joint(
    function: Callable[..., None], inputs: dict[str, Any], variable: str, together: bool, whole: bool
) -> None:
    agree(function, inputs, variable, together, whole)
