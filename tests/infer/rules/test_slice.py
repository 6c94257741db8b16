"""Slice sampling: the contract on every scale and every way to its readers, mutants, and that it stands still."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pytest

from mlsysopt.infer.analysis.blanket import Analysis
from mlsysopt.infer.binding import bind
from mlsysopt.infer.frontend.source import read
from mlsysopt.infer.language import (
    Bernoulli,
    BernoulliLogit,
    Beta,
    Binomial,
    Cauchy,
    Dirichlet,
    Flat,
    Gamma,
    Geometric,
    HalfCauchy,
    HalfFlat,
    HalfNormal,
    Laplace,
    Normal,
    Poisson,
    StudentT,
    TruncatedNormal,
    Uniform,
    array,
    dot,
    factor,
    observe,
)
from mlsysopt.infer.rules.conditional import Conditional, conditional
from mlsysopt.infer.rules.slice import Slice
from mlsysopt.infer.runtime import slicing
from mlsysopt.testing.updates import Isolated, RefusedCase, UpdateCase, UpdateContract, conditional_p

NONE = np.zeros(0)
NO_COUNTS = np.zeros(0, np.int64)
Y = np.array([0.3, -1.2, 2.1, 0.8, -0.4])


def deviation(y, c):
    sd = HalfNormal(2.0)
    for i in range(len(y)):
        observe(y[i], Normal(0.5, c[i] * sd))


def tails(y):
    scale = HalfCauchy(1.0)
    for i in range(len(y)):
        observe(y[i], StudentT(4.0, 0.0, scale))


def robust_prior(y, x):
    slope = StudentT(3.0, 0.0, 1.0)
    for i in range(len(y)):
        observe(y[i], Normal(1.0 - x[i] * slope, var=0.7))


def robust_data(y):
    centre = Normal(0.0, 2.0)
    for i in range(len(y)):
        observe(y[i], Cauchy(centre, 1.0))


def squared_chance(y):
    p = Beta(2.0, 2.0)
    for i in range(len(y)):
        observe(y[i], Bernoulli(p * p))


def bounded_chance(y, n: int):
    p = Uniform(0.2, 0.9)
    for i in range(len(y)):
        observe(y[i], Binomial(n, p))


def between(y):
    a = TruncatedNormal(0.0, 1.0, -1.0, 2.0)
    for i in range(len(y)):
        observe(y[i], Laplace(a, 1.0))


def above(y):
    a = TruncatedNormal(0.0, 1.0, low=0.5)
    for i in range(len(y)):
        observe(y[i], Laplace(a * a, 1.0))


def below(y):
    a = TruncatedNormal(0.0, 1.0, high=-0.5)
    for i in range(len(y)):
        observe(y[i], Laplace(a, 1.0))


def groups(y, g, J: int):
    scale = Gamma(3.0, 2.0).rows(J)
    for i in range(len(y)):
        observe(y[i], StudentT(5.0, 0.0, scale[g[i]]))


def group_deviations(y, g, J: int):
    sd = HalfCauchy(1.0).rows(J)
    for i in range(len(y)):
        observe(y[i], Normal(0.0, sd[g[i]]))


def steps(y, g):
    level = Normal(0.0, 2.0).rows(3).ordered()
    for i in range(len(y)):
        observe(y[i], StudentT(4.0, level[g[i]], 1.0))


def volatility(y):
    h = array(float, len(y))
    h[0] = Normal(0.0, 1.0)
    for t in range(1, len(y)):
        h[t] = Normal(0.9 * h[t - 1], 0.5)
        observe(y[t], Normal(0.0, exp(0.5 * h[t])))  # noqa: F821


def weights(y, x):
    beta = Normal(0.0, 1.0).rows(x.shape[1])
    for i in range(len(y)):
        observe(y[i], BernoulliLogit(dot(x[i], beta)))


def contest(won, J: int):
    skill = Normal(0.0, 1.0).rows(J)
    for i in range(J):
        for j in range(J):
            observe(won[i, j], BernoulliLogit(skill[i] - 0.5 * skill[j] + 0.2 * skill[i] * skill[j]))


def sums(y):
    a = array(float, len(y))
    a[0] = StudentT(4.0, 0.0, 1.0)
    for t in range(1, len(y)):
        a[t] = StudentT(4.0, reduce(add, a[0:t]) / t, 1.0)  # noqa: F821
    for t in range(len(y)):
        observe(y[t], Laplace(a[t], 1.0))


def animals(caught):
    n = Poisson(8.0)
    for j in range(len(caught)):
        observe(caught[j], Binomial(n, 0.4))


def herds(caught, g, J: int):
    n = Poisson(8.0).rows(J)
    for i in range(len(caught)):
        observe(caught[i], Binomial(n[g[i]], 0.4))


def waiting(y):
    n = Geometric(0.2)
    for i in range(len(y)):
        observe(y[i], Normal(0.5 * n, 1.0))


def flat(y):
    m = Flat()
    for i in range(len(y)):
        observe(y[i], StudentT(4.0, m, 1.0))


def half_flat(y):
    s = HalfFlat()
    for i in range(len(y)):
        observe(y[i], Normal(0.0, s))


def ragged(w):
    a = array(float, like=w)
    for d in range(len(w)):
        for i in range(len(w[d])):
            a[d, i] = Normal(0.0, 1.0)
            observe(w[d, i], Cauchy(a[d, i], 0.5))


def table(y):
    m = array(float, y.shape[0], y.shape[1])
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            m[i, j] = Normal(0.0, 1.0)
            observe(y[i, j], Laplace(m[i, j], 0.5))


def series(y):
    for t in range(1, len(y)):
        observe(y[t], StudentT(4.0, 0.8 * y[t - 1], 1.0))


def branch(y):
    a = Normal(0.0, 1.0)
    for i in range(len(y)):
        if a > 0.5:
            observe(y[i], Normal(1.0, 1.0))
        else:
            observe(y[i], Normal(a, 2.0))


def weighed(y):
    a = Normal(0.0, 1.0)
    factor(-a * a * a * a)
    for i in range(len(y)):
        observe(y[i], Normal(a, 1.0))


def mean_and_deviation(y):
    a = Gamma(2.0, 1.0)
    for i in range(len(y)):
        observe(y[i], Normal(a, a))


def reference_level(y, g, J: int):
    effect = Laplace(0.0, 1.0).rows(J)
    for i in range(len(y)):
        observe(y[i], Normal(effect[g[i] - 1] if g[i] > 0 else 0.0, 1.0))


G = np.array([0, 1, 2, 1, 2])
TABLE = np.array([[0.5, -1.0, 0.2], [1.5, 0.1, -0.6]])
GAPS = np.array([0.1, 0.4, np.nan, 1.9, 1.2])


class TestSlice(UpdateContract):
    compiled = ("herds",)

    def rule(self) -> Slice:
        return Slice()

    def cases(self) -> Sequence[UpdateCase]:
        empty = {"y": NONE}
        return [
            UpdateCase("deviation", deviation, {"y": Y, "c": np.array([1.0, 2.0, 0.5, 1.0, 3.0])}, "sd",
                       grid=(1e-3, 9.0), empty=empty, simulates=True),
            UpdateCase("tails", tails, {"y": Y}, "scale", grid=(1e-3, 20.0), empty=empty, simulates=True),
            UpdateCase("robust prior", robust_prior, {"y": Y, "x": np.array([1.0, -2.0, 0.5, 1.5, 0.0])}, "slope",
                       grid=(-4.0, 4.0), empty={"y": NONE}, simulates=True),
            UpdateCase("robust data", robust_data, {"y": Y}, "centre", grid=(-8.0, 8.0), empty=empty),
            UpdateCase("squared chance", squared_chance, {"y": np.array([1, 0, 1, 1])}, "p", grid=(0.0, 1.0),
                       empty={"y": NO_COUNTS}),
            UpdateCase("bounded chance", bounded_chance, {"y": np.array([3, 4]), "n": 5}, "p", grid=(0.2, 0.9),
                       empty={"y": NO_COUNTS}),
            UpdateCase("between", between, {"y": Y}, "a", grid=(-1.0, 2.0), empty=empty),
            UpdateCase("above", above, {"y": Y}, "a", grid=(0.5, 5.0), empty=empty),
            UpdateCase("below", below, {"y": Y}, "a", grid=(-6.0, -0.5), empty=empty),
            UpdateCase("groups", groups, {"y": Y, "g": G, "J": 4}, "scale", grid=(1e-3, 9.0), cell=2,
                       empty={"y": NONE, "g": NO_COUNTS}, simulates=True),
            UpdateCase("group deviations", group_deviations, {"y": Y, "g": G, "J": 3}, "sd", grid=(1e-3, 60.0), cell=1),
            UpdateCase("steps", steps, {"y": Y, "g": G}, "level", empty={"y": NONE, "g": NO_COUNTS}, simulates=True),
            UpdateCase("volatility", volatility, {"y": Y}, "h", simulates=True),
            UpdateCase("weights", weights, {"y": np.array([1, 0, 1]), "x": TABLE.T}, "beta", simulates=True),
            UpdateCase("contest", contest, {"won": np.zeros((3, 3), np.int64), "J": 3}, "skill", simulates=True),
            UpdateCase("sums", sums, {"y": Y[:4]}, "a", simulates=True),
            UpdateCase("animals", animals, {"caught": np.array([3, 5, 2])}, "n", grid=(0, 60),
                       empty={"caught": NO_COUNTS}, simulates=True),
            UpdateCase("herds", herds, {"caught": np.array([3, 5, 2]), "g": np.array([0, 1, 1]), "J": 3}, "n",
                       grid=(0, 60), cell=1, start=1),
            UpdateCase("waiting", waiting, {"y": Y + 2.0}, "n", grid=(0, 60), empty=empty),
            UpdateCase("flat", flat, {"y": Y}, "m", grid=(-8.0, 8.0), start=0.0),
            UpdateCase("half flat", half_flat, {"y": Y}, "s", grid=(1e-3, 30.0), start=1.0),
            UpdateCase("ragged", ragged, {"w": [Y[:2], Y[2:]]}, "a", grid=(-5.0, 5.0), cell=3, simulates=True),
            UpdateCase("table", table, {"y": TABLE}, "m", grid=(-5.0, 5.0), cell=3, simulates=True),
            UpdateCase("series", series, {"y": GAPS}, "y", grid=(-12.0, 12.0), cell=2, missing="latent"),
            UpdateCase("branch", branch, {"y": Y}, "a", grid=(-6.0, 6.0), empty=empty),
            UpdateCase("weighed", weighed, {"y": Y}, "a", grid=(-4.0, 4.0)),
            UpdateCase("mean and deviation", mean_and_deviation, {"y": Y}, "a", grid=(1e-3, 9.0), empty=empty),
            UpdateCase("reference level", reference_level, {"y": Y, "g": G, "J": 2}, "effect", grid=(-8.0, 8.0), cell=1,
                       simulates=True),
        ]  # fmt: skip

    def refusals(self) -> Sequence[RefusedCase]:
        return [
            RefusedCase(row, {"y": TABLE[:, :1]}, "p", "a whole row", "p = Dirichlet"),
            RefusedCase(coin, {"y": Y}, "z", "a few values only", "z = Bernoulli"),
            RefusedCase(looked_up, {"y": Y, "known": Y}, "n", "read in an index", "observe(y[i], Normal(known[n]"),
            RefusedCase(unseen, {}, "a", "improper and nothing observed", "a = Flat()"),
        ]


def row(y):
    p = Dirichlet(1.0, 2)
    for i in range(len(y)):
        observe(y[i, 0], Normal(p[0], 1.0))


def coin(y):
    z = Bernoulli(0.5)
    for i in range(len(y)):
        observe(y[i], Normal(z, 1.0))


def looked_up(y, known):
    n = Poisson(1.0)
    for i in range(len(y)):
        observe(y[i], Normal(known[n], 1.0))


def unseen():
    a = Flat()
    b = Normal(a, 1.0)  # noqa: F841


def looked_at(function, inputs, variable) -> Conditional:
    found = conditional(Analysis(bind(read(function), inputs).program).blanket(variable))
    assert isinstance(found, Conditional)
    return found


def test_readers_are_reached_the_cheapest_way() -> None:
    inputs = {"y": Y, "g": G, "J": 4}
    assert looked_at(deviation, {"y": Y, "c": Y}, "sd").how() == "from sums over its readers"
    assert looked_at(group_deviations, inputs, "sd").how() == "from sums over its readers"
    assert looked_at(groups, inputs, "scale").how() == "all cells in one pass"
    assert looked_at(volatility, {"y": Y}, "h").how() == "its neighbours' readers for each cell"
    found = looked_at(weights, {"y": G % 2, "x": np.ones((5, 2))}, "beta")
    assert found.how() == "its readers' loops once for each cell"
    assert looked_at(tails, {"y": Y}, "scale").how() == ""


def test_explain_has_words_and_cost() -> None:
    program = bind(read(weights), {"y": G % 2, "x": np.ones((5, 2))}).program
    found = Slice().propose("beta", Analysis(program))
    assert str(found.about) == "slice, its readers' loops once for each cell"  # pyright: ignore
    assert "beta" not in str(found.cost) and "len(y)" in str(found.cost)  # pyright: ignore


@pytest.mark.parametrize(
    ("name", "pattern", "instead"),
    [
        ("tails", r" \+ line_jacobian\([^)]*\)", ""),
        ("bounded chance", r" \+ line_jacobian\([^)]*\)", ""),
        ("deviation", r"0\.5 \* \(total / v\) / v", "0.5 * total / v"),
        ("robust prior", r"0\.5 \* w \* step", "0.1 * w * step"),
        ("animals", r"lp_ \+= \w+\(.*", "pass"),
    ],
)
def test_a_mistake_is_noticed(name: str, pattern: str, instead: str) -> None:
    (case,) = (one for one in TestSlice().cases() if one.name == name)

    def wrong(text: str) -> str:
        found = re.sub(pattern, instead, text)
        assert found != text
        return found

    one = Isolated(case, Slice(), edit=wrong)
    one.update(40, warm=True)
    assert conditional_p(one, 400, 6) < 1e-6


def test_a_cell_without_density_is_named() -> None:
    (case,) = (one for one in TestSlice().cases() if one.name == "groups")
    one = Isolated(case, Slice())
    one.flat[2] = -1.0
    assert one.update() == 3
    (case,) = (one for one in TestSlice().cases() if one.name == "deviation")
    one = Isolated(case, Slice())
    one.arrays["v_c"][1] = -1.0
    assert one.update() == 1


def test_numbers_that_underflowed_move_again() -> None:
    (case,) = (one for one in TestSlice().cases() if one.name == "groups")
    one = Isolated(case, Slice())
    one.flat[3] = 0.0
    assert one.update(200, warm=True) == 0
    assert one.flat[3] > 1e-3


def test_a_count_that_cannot_be_grows_while_warming_up() -> None:
    case = UpdateCase("animals", animals, {"caught": np.array([30, 5, 25])}, "n", start=2)
    one = Isolated(case, Slice())
    assert one.update() == 1 and one.flat[0] == 2
    assert one.update(100, warm=True) == 0
    assert 30 <= one.flat[0] < 80


@pytest.mark.parametrize("scale", [1e-4, 1e5])
def test_widths_find_the_scale(scale: float) -> None:
    case = UpdateCase("deviation", flat, {"y": Y * scale}, "m", start=0.0)
    one = Isolated(case, Slice())
    one.arrays["v_y"] *= 1.0
    one.update(500, warm=True)
    (width,) = one.engine.tuned
    spread = one.draws(300).std()
    assert 1.0 < one.arrays[width][0] / spread < 20.0


def test_places_on_the_line_come_back() -> None:
    for low, high in ((0.0, np.inf), (-np.inf, 3.0), (-2.0, 5.0), (0.0, 1.0), (-np.inf, np.inf)):
        for x in (0.001, 0.3, 0.999):
            u = slicing.to_line(x, low, high)
            assert slicing.from_line(u, low, high) == pytest.approx(x, rel=1e-9)
            step = 1e-6
            slope = (slicing.from_line(u + step, low, high) - slicing.from_line(u - step, low, high)) / (2 * step)
            lost = 0.0 if np.isinf(low) or np.isinf(high) else np.log(high - low)
            assert slicing.line_jacobian(u, low, high) + lost == pytest.approx(np.log(slope), abs=1e-5)
    assert np.isnan(slicing.to_line(-1.0, 0.0, 1.0)) and np.isnan(slicing.to_line(np.nan, 0.0, 1.0))
