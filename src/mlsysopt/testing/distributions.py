"""The contract of every distribution: inherit `DistributionContract`, name parameters, run pytest.

The density is what all else is compared with, and it is compared with SciPy's where SciPy has it. Its mass over some
twenty cells has to add up to 1 and to be what draws fall into, its differences are the gradient, and its compiled copy
gives the same bits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import integrate, stats

from mlsysopt.infer.distributions.spec import Distribution
from mlsysopt.infer.emit.functions import Functions

__all__ = ["DistributionCase", "DistributionContract", "compiled"]

Array = NDArray[Any]
Cell = Callable[[Array], Array]

CELLS = 20
QUADRATURE = 12
"""Nodes per dimension and cell of a plane, where a density is smooth."""
LEAST_EXPECTED = 5.0
"""Draws that a cell of a chi-square test has to expect."""
FAR = 7.0
"""Standard deviations beyond which a density over vectors is taken to have no mass."""


@dataclass(frozen=True)
class DistributionCase:
    """One choice of parameters.

    Attributes:
        parameters: In the order of the distribution's functions.
        like: The same distribution of SciPy, frozen.
        smooth: Whether the density can be integrated: it is bounded, or nearly.
    """

    parameters: tuple[Any, ...]
    like: Any = None
    smooth: bool = True


class DistributionContract:
    """What models rely on.

    A subclass names `distribution` and `cases`. Vectors have two free numbers: a simplex of three, a vector of two.
    The first case is compiled, so whole numbers belong there where models write them.
    """

    distribution: ClassVar[Distribution]
    cases: ClassVar[Sequence[DistributionCase]]
    forbidden: ClassVar[Sequence[tuple[Any, ...]]] = ()
    """Parameters that are not allowed though each alone would be."""
    draws: ClassVar[int] = 4000
    least_p: ClassVar[float] = 1e-4

    def drawn(self, case: DistributionCase, count: int, seed: int) -> Array:
        """Return draws, shape (count,) or (count, size); values along the support for what cannot be drawn from."""
        one = self.distribution
        if one.draw is None:
            values = np.random.default_rng(seed).standard_cauchy(count)
            return values if one.support == "real" else abs(values)
        return sampled(one.draw, one, case.parameters, count, seed)

    def test_log_density_is_that_of_scipy(self) -> None:
        for case in self.cases:
            if case.like is None:
                continue
            reference = case.like.logpmf if hasattr(case.like, "logpmf") else case.like.logpdf
            # Numbers as they come out of an array, which warn where those of Python do not.
            parameters = [one if isinstance(one, np.ndarray) else np.array([one])[0] for one in case.parameters]
            values = self.drawn(case, 200, seed=1)
            told = [reference(x) for x in values] if self.distribution.event else reference(values)
            for x, expected in zip(values, told, strict=True):
                value = self.distribution.log_density(x, *parameters)
                assert type(value) in (float, np.float64), f"{self._said(case)} at {x}: {value!r}"
                assert value == pytest.approx(float(expected), rel=1e-9, abs=1e-9), f"{self._said(case)} at {x}"

    def test_mass_is_one_and_draws_fall_where_it_is(self) -> None:
        for case in self.cases:
            if self.distribution.improper or not case.smooth:
                continue
            cells, draws = self._cells(case), self.drawn(case, self.draws, seed=2)
            mass = np.array([one for one, _ in cells])
            near = 1e-3 if self.distribution.event and not self.distribution.discrete else 1e-6
            assert mass.sum() == pytest.approx(1.0, abs=near), self._said(case)
            found = np.array([np.count_nonzero(inside(draws)) for _, inside in cells])
            assert found.sum() == self.draws, f"{self._said(case)}: draws outside of the support"
            p = chi_square(found, mass * self.draws)
            assert p > self.least_p, f"{self._said(case)}: p = {p:.1e}"

    def test_gradient_is_that_of_differences(self) -> None:
        one = self.distribution
        if one.gradient is None:
            return
        smooth = (not one.discrete, *(parameter.constraint not in ("count", "size") for parameter in one.parameters))
        for case in self.cases:
            for x in self.drawn(case, 40, seed=3):
                at = (x, *case.parameters)
                found = one.gradient(*at)
                assert len(found) == len(at)
                for i, slope in enumerate(found):
                    expected = _difference(one.log_density, at, i) if smooth[i] else 0.0
                    if math.isfinite(expected):
                        assert slope == pytest.approx(expected, rel=1e-6, abs=1e-7), f"{self._said(case)}: {i} at {x}"

    def test_there_is_nothing_outside_of_the_support(self) -> None:
        for case in self.cases:
            for x in _outside(self.distribution, case.parameters, self.drawn(case, 1, seed=4)[0]):
                found = self.distribution.log_density(x, *case.parameters)
                assert found == -math.inf, f"{self._said(case)} at {x}: {found}"
                if self.distribution.gradient is not None and math.isfinite(x):
                    assert all(map(math.isnan, self.distribution.gradient(x, *case.parameters)[1:])), f"at {x}"

    def test_parameters_that_are_not_allowed_give_nan(self) -> None:
        one = self.distribution
        x = self.drawn(self.cases[0], 1, seed=5)[0]
        for wrong in (*_forbidden(one, self.cases[0].parameters), *self.forbidden):
            assert math.isnan(one.log_density(x, *wrong)), f"{one.name}{wrong}"
            if one.gradient is not None:
                assert all(map(math.isnan, one.gradient(x, *wrong)[1:])), f"{one.name}{wrong}"
            if one.draw is not None:
                draw = sampled(one.draw, one, wrong, 1, seed=6)
                assert (draw == -1).all() if one.discrete else np.isnan(draw).all(), f"{one.name}{wrong}: {draw}"

    def test_compiled_and_plain_code_give_the_same_bits(self) -> None:
        pytest.importorskip("numba")
        one, case = self.distribution, self.cases[0]
        values = self.drawn(case, 500, seed=7)
        # Columns of a wider table: a model passes such views.
        views = tuple(np.stack([p, p], axis=-1)[..., 0] if isinstance(p, np.ndarray) else p for p in case.parameters)
        if one.draw is not None:
            again = sampled(compiled(one.draw), one, views, 500, seed=7)
            assert again.dtype == values.dtype and np.array_equal(values, again), f"{self._said(case)}: draws differ"
        functions = [one.log_density] if one.gradient is None else [one.log_density, one.gradient]
        for function in functions:
            native = compiled(function)
            for x in values:
                plain, other = function(x, *case.parameters), native(x, *views)
                assert plain == other, f"{function.__name__}: {plain!r} and compiled {other!r} at {x}"

    def _said(self, case: DistributionCase) -> str:
        return f"{self.distribution.name}{case.parameters}"

    def _cells(self, case: DistributionCase) -> list[tuple[float, Cell]]:
        """Return cells that cover the support: the mass of each, and which draws are in it."""
        one = self.distribution

        def density(x: Any) -> float:
            return math.exp(one.log_density(x, *case.parameters))

        if one.discrete:
            return list(_outcomes(one, case.parameters, density))
        first = self.drawn(case, self.draws, seed=8)
        return list(_planes(one, first, density) if one.event else _intervals(one, case.parameters, first, density))


def sampled(draw: Callable[..., Any], one: Distribution, parameters: Sequence[Any], count: int, seed: int) -> Array:
    """Return draws of a distribution by one of its functions, shape (count,) or (count, size)."""
    rng = np.random.default_rng(seed)
    kind = np.int64 if one.discrete else np.float64
    if not one.event:
        return np.array([draw(rng, *parameters) for _ in range(count)], kind)
    size = next(len(p) for p in parameters if isinstance(p, np.ndarray))
    found = np.zeros((count, size), kind)
    for row in found:
        draw(rng, row, *parameters)
    return found


def chi_square(found: Array, expected: Array) -> float:
    """Return the p-value of counts; cells that expect too few are taken together."""
    many = expected >= LEAST_EXPECTED
    few = expected[~many].sum()
    if few > 0.0 and few < LEAST_EXPECTED and many.any():
        # What is left expects too few even together: it joins the smallest of the others.
        smallest = int(np.flatnonzero(many)[expected[many].argmin()])
        many[smallest] = False
        few += expected[smallest]
    f, e = found[many], expected[many]
    if few > 0.0:
        f, e = np.append(f, found[~many].sum()), np.append(e, few)
    if len(e) < 2:
        return 1.0
    return float(stats.chi2.sf(((f - e) ** 2 / e).sum(), len(e) - 1))


@cache
def _shared() -> dict[str, Any]:
    import numba  # pyright: ignore[reportMissingTypeStubs]

    native: dict[str, Any] = {}

    def once(function: Callable[..., Any]) -> Any:
        return native.setdefault(function.__name__, numba.njit(no_cfunc_wrapper=True)(function))  # pyright: ignore[reportUnknownMemberType]

    return {"math": math, "np": np, "once": once, "native": native}


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a runtime function as generated files have it: its text, with all that it calls, compiled."""
    functions = Functions()
    name = functions.use(function)
    space = _shared()
    exec(functions.text("@once"), space)
    return space["native"][name]


# Cells.


def _intervals(
    one: Distribution, parameters: Sequence[Any], draws: Array, density: Callable[[Any], float]
) -> Iterator[tuple[float, Cell]]:
    ends = {"real": (-math.inf, math.inf), "positive": (0.0, math.inf), "unit": (0.0, 1.0)}
    low, high = one.bounds(*parameters) if one.bounds is not None else ends[one.support]
    edges = [low, *np.quantile(draws, np.arange(1, CELLS) / CELLS), high]
    for a, b in itertools.pairwise(edges):
        mass, _ = integrate.quad(density, a, b, epsabs=1e-9, limit=200)
        yield float(mass), lambda x, a=a, b=b: (x >= a) & (x < b) | (x == high) & (b == high)


def _outcomes(
    one: Distribution, parameters: Sequence[Any], density: Callable[[Any], float]
) -> Iterator[tuple[float, Cell]]:
    if one.event:
        n, size = int(parameters[0]), len(parameters[1])
        for row in itertools.product(range(n + 1), repeat=size):
            if sum(row) == n:
                x = np.array(row, np.int64)
                yield density(x), lambda draws, x=x: (draws == x).all(axis=1)
        return
    states = None if one.states is None else one.states(*parameters)
    total = 0.0
    for k in itertools.count() if states is None else range(states):
        mass = density(k)
        total += mass
        yield mass, lambda draws, k=k: draws == k
        if states is None and total > 1.0 - 1e-9:
            yield 0.0, lambda draws, k=k: draws > k
            return


def _planes(one: Distribution, draws: Array, density: Callable[[Any], float]) -> Iterator[tuple[float, Cell]]:
    """Cells of two numbers that determine the vector: of a simplex the first, and the second's share in the rest."""
    simplex = one.support == "simplex"

    def flat(x: Array) -> Array:
        return np.stack([x[:, 0], x[:, 1] / (1.0 - x[:, 0])], axis=1) if simplex else x

    def at(u: float, v: float) -> float:
        if simplex:
            return density(np.array([u, (1.0 - u) * v, (1.0 - u) * (1.0 - v)])) * (1.0 - u)
        return density(np.array([u, v]))

    first = flat(draws)
    inner = np.quantile(first, (0.25, 0.5, 0.75), axis=0)
    away = FAR * first.std(axis=0)
    low, high = (np.zeros(2), np.ones(2)) if simplex else (first.mean(axis=0) - away, first.mean(axis=0) + away)
    edges = np.vstack([low, inner, high])
    nodes, weights = np.polynomial.legendre.leggauss(QUADRATURE)
    for (a, b), (c, d) in itertools.product(itertools.pairwise(edges[:, 0]), itertools.pairwise(edges[:, 1])):
        us, vs = 0.5 * ((b - a) * nodes + a + b), 0.5 * ((d - c) * nodes + c + d)
        values = np.array([[at(u, v) for v in vs] for u in us])
        mass = 0.25 * (b - a) * (d - c) * float(weights @ values @ weights)

        def inside(x: Array, a: float = a, b: float = b, c: float = c, d: float = d) -> Array:
            y = flat(x)
            return (y[:, 0] >= a) & (y[:, 0] < b) & (y[:, 1] >= c) & (y[:, 1] < d)

        yield mass, inside


# Arguments.


def _difference(function: Callable[..., float], at: tuple[Any, ...], i: int) -> float:
    """Return a derivative by central differences, Richardson's of two steps; nan at the very end of what is allowed."""

    def moved(by: float) -> float:
        return function(*at[:i], float(at[i]) + by, *at[i + 1 :])

    size = max(abs(float(at[i])), 1e-2)
    room = size
    while not (math.isfinite(moved(room)) and math.isfinite(moved(-room))):
        room *= 0.5
        # Nearer to an end the spacing of doubles is more than a ten-millionth of a step.
        if not room > 1e-5 * size:
            return math.nan
    step = 1e-4 * room
    wide, narrow = ((moved(h) - moved(-h)) / (2.0 * h) for h in (2.0 * step, step))
    return (4.0 * narrow - wide) / 3.0


def _outside(one: Distribution, parameters: Sequence[Any], x: Any) -> list[Any]:
    match one.support:
        case "real":
            return [-math.inf, math.inf]
        case "positive":
            return [-1e-300, -1.0, -math.inf]
        case "unit":
            return [-0.1, 1.1]
        case "interval":
            assert one.bounds is not None
            low, high = one.bounds(*parameters)
            return [low - 1.0, high + 1.0] if math.isfinite(low + high) else [low if low == -math.inf else low - 1.0]
        case "binary" | "states" | "count":
            beyond = [] if one.states is None else [one.states(*parameters)]
            return [-1, 0.5, math.nan, math.inf, *beyond]
        case "simplex":
            return [1.1 * x, x + np.array([0.5, -x[1] - 0.5, x[1]]), np.append(x, 0.0)]
        case "counts":
            return [x + np.array([1, 0, 0]), x + np.array([-x[0] - 1, x[0] + 1, 0]), np.append(x, 0)]
        case "vector":
            return [x + math.inf, x[:1]]


def _forbidden(one: Distribution, parameters: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    numbers: dict[str, tuple[Any, ...]] = {
        "real": (math.nan,),
        "positive": (0.0, -1.0, math.nan, math.inf),
        "nonnegative": (-1.0, math.nan, math.inf),
        "unit": (-0.1, 1.1, math.nan),
        "count": (-1, 0.5),
        "size": (0, 0.5),
    }
    for i, parameter in enumerate(one.parameters):
        allowed = parameters[i]
        match parameter.constraint:
            case "positives":
                wrong = [_with(allowed, value) for value in (0.0, -1.0, math.nan, math.inf)]
            case "simplex":
                wrong = [2.0 * allowed, _with(allowed, -1.0), _with(allowed, math.nan), 0.0 * allowed]
            case "reals":
                wrong = [_with(allowed, math.nan)]
            case "matrix":
                wrong = [-allowed, 0.0 * allowed, _with(allowed, math.nan), np.tril(allowed)]
            case constraint:
                wrong = numbers[constraint]
        for value in wrong:
            yield (*parameters[:i], value, *parameters[i + 1 :])


def _with(array: Array, value: float) -> Array:
    changed = array.copy()
    changed.flat[0] = value
    return changed
