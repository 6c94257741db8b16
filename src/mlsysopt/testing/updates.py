"""The contract of every rule of inference: inherit `UpdateContract`, name small models, run pytest.

A case leaves one variable of a small model open and gives all others. Its exact conditional is not asked for: it is
the model's own log joint, tabulated on a grid, which shares no code with the update.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from mlsysopt.infer.analysis.blanket import Analysis, fixed
from mlsysopt.infer.binding import bind
from mlsysopt.infer.emit.entry import update_names
from mlsysopt.infer.engine import Engine
from mlsysopt.infer.frontend.source import read
from mlsysopt.infer.planning import plan
from mlsysopt.infer.rules.protocol import Refusal, Rule
from mlsysopt.infer.runtime.streams import stream

__all__ = ["Exact", "Isolated", "RefusedCase", "UpdateCase", "UpdateContract"]

Array = NDArray[Any]
Backend = Literal["python", "single"]


@dataclass(frozen=True)
class UpdateCase:
    """One variable of a small model, everything else given.

    Attributes:
        name: Of the case.
        function: The model.
        inputs: What it takes, with data.
        variable: What the update moves.
        fixed: A value for every other latent.
        grid: Ends between which the conditional of `cell` has its mass, for the comparison with the exact one; the
            other cells have to be independent of it. None where there is no such comparison.
        cell: Place of the compared cell among all numbers of the variable.
        start: Value of the variable before the first update; None draws it from the prior.
        empty: Inputs to replace, which leave no data: then the update has to draw from the prior. None where there are
            none.
        simulates: Whether prior and data together are to be left as they are, for conditionals of several cells.
        missing: As for `bind`.
    """

    name: str
    function: Callable[..., None]
    inputs: Mapping[str, Any]
    variable: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    grid: tuple[float, float] | None = None
    cell: int = 0
    start: Any = None
    empty: Mapping[str, Any] | None = None
    simulates: bool = False
    missing: str = "error"


@dataclass(frozen=True)
class RefusedCase:
    """A model that breaks one precondition of a rule.

    Attributes:
        function: The model.
        inputs: What it takes.
        variable: What the rule is asked for.
        says: Words of the refusal.
        line: Words of the source line that it names; "" where it names none.
        missing: As for `bind`.
    """

    function: Callable[..., None]
    inputs: Mapping[str, Any]
    variable: str
    says: str
    line: str = ""
    missing: str = "error"


class Isolated:
    """A case, ready to be updated: the arrays of one chain, in which only the variable moves.

    Args:
        case: Which.
        rule: What updates it.
        backend: "python" runs the generated file as it stands, "single" compiles it.
        seed: Of its random stream.
        edit: Changes the generated text before it runs, to see whether a check notices.
    """

    def __init__(
        self, case: UpdateCase, rule: Rule, *, backend: Backend = "python", seed: int = 0,
        edit: Callable[[str], str] | None = None,
    ) -> None:  # fmt: skip
        bound = bind(read(case.function), case.inputs, missing=case.missing)
        self.case, self.plan = case, plan(fixed(bound.program, case.fixed), (rule,))
        values = {name: np.atleast_1d(np.asarray(one)) for name, one in case.fixed.items()}
        self.engine = Engine(self.plan, bound, {}, values)
        if edit is not None:
            self.engine.text = edit(self.engine.text)  # pyright: ignore[reportAttributeAccessIssue]
        self.functions = self.engine.functions(backend)
        self.plain = self.engine.functions("python")
        updates = self.plan.updates
        self.updates = {name: bool(one.tuned) for name, one in zip(update_names(updates), updates, strict=True)}
        self.arrays = {name: one.copy() for name, one in self.engine.arrays().items()}
        self.rng = stream(seed, 0)
        if case.start is None:
            self.run("prior", self.rng)
        else:
            self.value[...] = case.start

    @property
    def value(self) -> Array:
        """The variable, as an array that can be written."""
        return self.arrays[f"v_{self.case.variable}"]

    @property
    def flat(self) -> Array:
        """Its numbers in one row, as a view."""
        return self.value.reshape(-1)

    def run(self, name: str, *arguments: Any) -> Any:
        """Call a function of the generated file; overflow and nan are as silent as in compiled code."""
        # Only the update itself is worth compiling; the rest is as good as it stands.
        functions = self.functions if name in self.updates else self.plain
        with np.errstate(all="ignore"):
            return self.engine.call(functions, name, self.arrays, *arguments)

    def update(self, count: int = 1, *, warm: bool = False) -> int:
        """Update the variable some times; return 0, or 1 + the cell that has no density."""
        for _ in range(count):
            for name, tuned in self.updates.items():
                status = self.run(name, self.rng, *((warm,) if tuned else ()))
                if status != 0:
                    return int(status)
        return 0

    def log_joint(self) -> float:
        """Return the log joint of the present state."""
        return float(self.run("log_joint")[0])

    def draws(self, count: int, *, every: int = 1) -> Array:
        """Return the variable after every few updates, shape (count, numbers)."""
        found = np.empty((count, self.flat.size))
        for i in range(count):
            assert self.update(every) == 0, f"{self.case.name}: no density"
            found[i] = self.flat
        return found


class Exact:
    """The conditional of one cell, tabulated from the log joint.

    Args:
        one: With everything else in place.
        points: Of the grid; whole numbers have one each.
    """

    def __init__(self, one: Isolated, points: int = 401) -> None:
        case = one.case
        assert case.grid is not None
        low, high = case.grid
        self.whole = one.value.dtype.kind == "i"
        self.values = np.arange(low, high + 1) if self.whole else np.linspace(low, high, points)
        cell, before = one.flat, one.flat[case.cell]
        step = self.values[1] - self.values[0]
        around = np.concatenate([[self.values[0] - step], self.values, [self.values[-1] + step]])
        logs = np.empty(len(around))
        for i, value in enumerate(around):
            cell[case.cell] = value
            logs[i] = one.log_joint()
        cell[case.cell] = before
        logs[np.isnan(logs)] = -np.inf
        weights = np.exp(logs - logs[1:-1].max())
        left_out, weights = max(weights[0], weights[-1]), weights[1:-1]
        assert left_out < 1e-3, f"{case.name}: the grid cuts off mass, {left_out:.1e} of the mode just beyond an end"
        if self.whole:
            self.p = weights / weights.sum()
            self._cdf = np.cumsum(self.p)
        else:
            steps = 0.5 * (weights[1:] + weights[:-1])
            self._cdf = np.concatenate([[0.0], np.cumsum(steps)]) / steps.sum()

    def draw(self, rng: np.random.Generator) -> float:
        """Return a draw."""
        u = rng.random()
        if self.whole:
            return float(self.values[min(int(np.searchsorted(self._cdf, u)), len(self.values) - 1)])
        return float(np.interp(u, self._cdf, self.values))

    def p_value(self, draws: Array) -> float:
        """Return how likely independent draws lie as far off: Kolmogorov-Smirnov, chi-square for whole numbers."""
        if not self.whole:
            return float(stats.kstest(draws, lambda x: np.interp(x, self.values, self._cdf)).pvalue)
        if not np.isin(draws, self.values).all():
            return 0.0
        expected = self.p * len(draws)
        counts = np.array([np.sum(draws == value) for value in self.values])
        bins = _pooled(expected)
        seen, wanted = np.array([counts[b].sum() for b in bins]), np.array([expected[b].sum() for b in bins])
        return float(stats.chisquare(seen, wanted * seen.sum() / wanted.sum()).pvalue)


def _pooled(expected: Array, least: float = 5.0) -> list[Array]:
    """Group neighbours until every group expects `least` at least."""
    found: list[list[int]] = [[]]
    for i in range(len(expected)):
        if found[-1] and expected[found[-1]].sum() >= least:
            found.append([])
        found[-1].append(i)
    if len(found) > 1 and expected[found[-1]].sum() < least:
        last = found.pop()
        found[-1] += last
    return [np.array(one) for one in found]


class UpdateContract:
    """What the compiler relies on.

    A subclass implements `rule`, `cases` and `refusals`. `compiled` names the cases whose compiled update is compared,
    which costs seconds each; none means the first.
    """

    repeats: int = 200
    updates: int = 4
    warming: int = 60
    least_p: float = 1e-3
    compiled: tuple[str, ...] = ()

    def rule(self) -> Rule:
        """Return the rule."""
        raise AssertionError("a subclass of UpdateContract defines rule")

    def cases(self) -> Sequence[UpdateCase]:
        """Return models whose variable the rule takes."""
        raise AssertionError("a subclass of UpdateContract defines cases")

    def refusals(self) -> Sequence[RefusedCase]:
        """Return a model for each precondition that can be broken."""
        raise AssertionError("a subclass of UpdateContract defines refusals")

    def isolated(self, case: UpdateCase, *, seed: int = 0, backend: Backend = "python") -> Isolated:
        """Return a case whose adaptation is over."""
        one = Isolated(case, self.rule(), backend=backend, seed=seed)
        assert one.update(self.warming, warm=True) == 0, f"{case.name}: no density"
        return one

    def test_leaves_the_exact_conditional_as_it_is(self) -> None:
        for case in self.cases():
            if case.grid is None:
                continue
            p = conditional_p(self.isolated(case), self.repeats, self.updates)
            assert p > self.least_p, f"{case.name}: p = {p:.1e}"

    def test_an_exact_update_forgets_where_it_was(self) -> None:
        for case in self.cases():
            one = Isolated(case, self.rule())
            if case.grid is None or not one.plan.updates[0].exact:
                continue
            p = Exact(one).p_value(one.draws(self.repeats)[:, case.cell])
            assert p > self.least_p, f"{case.name}: p = {p:.1e}"

    def test_moves_every_cell(self) -> None:
        for case in self.cases():
            found = self.isolated(case).draws(self.warming)
            cells = range(found.shape[1]) if case.missing == "error" else (case.cell,)
            still = [cell for cell in cells if np.ptp(found[:, cell]) == 0.0]
            assert not still, f"{case.name}: {case.variable} never moves at {still}"

    def test_leaves_prior_and_data_as_they_are(self) -> None:
        for case in self.cases():
            if case.simulates:
                p = simulated_p(self.isolated(case), self.repeats, self.updates)
                assert p > self.least_p, f"{case.name}: p = {p:.1e}"

    def test_without_data_draws_from_the_prior(self) -> None:
        for case in self.cases():
            if case.empty is None:
                continue
            alone = UpdateCase(case.name, case.function, {**case.inputs, **case.empty}, case.variable, case.fixed)
            p = prior_p(self.isolated(alone), self.repeats, self.updates)
            assert p > self.least_p, f"{case.name}: p = {p:.1e}"

    def test_refuses_what_breaks_a_precondition(self) -> None:
        for case in self.refusals():
            program = bind(read(case.function), case.inputs, missing=case.missing).program
            found = self.rule().propose(case.variable, Analysis(program))
            assert isinstance(found, Refusal), f"{case.function.__name__}: {case.variable} was accepted"
            assert case.says in found.reason, f"{case.function.__name__}: {found}"
            line = program.lines[found.line] if found.line else ""
            assert (case.line in line) if case.line else not line, f"{case.function.__name__}: {found}: {line}"

    def test_adaptation_stops_after_warming_up(self) -> None:
        for case in self.cases():
            one = Isolated(case, self.rule())
            names = list(one.engine.tuned)
            assert bool(names) == any(update.tuned for update in one.plan.updates), case.name
            at_first = {name: one.arrays[name].copy() for name in names}
            one.update(20, warm=True)
            warmed = {name: one.arrays[name].copy() for name in names}
            one.update(20)
            for name in names:
                assert not np.array_equal(warmed[name], at_first[name]), f"{case.name}: {name} is never adapted"
                assert np.array_equal(one.arrays[name], warmed[name]), f"{case.name}: {name} went on after warming up"

    def test_compiled_and_plain_code_draw_the_same_bits(self) -> None:
        cases = {case.name: case for case in self.cases()}
        for name in self.compiled or tuple(cases)[:1]:
            pytest.importorskip("numba")
            both: list[Array] = []
            for backend in ("python", "single"):
                one = Isolated(cases[name], self.rule(), backend=backend, seed=5)
                assert one.update(10, warm=True) == 0, f"{name}: no density"
                both.append(one.draws(20))
            plain, native = both
            assert np.array_equal(plain, native), f"{name}: first difference at {np.argwhere(plain != native)[0]}"


def conditional_p(one: Isolated, repeats: int, updates: int) -> float:
    """Return the p-value of a cell that starts with an exact draw and is then updated some times."""
    exact, rng = Exact(one), np.random.default_rng(11)
    others, found = one.flat.copy(), np.empty(repeats)
    for i in range(repeats):
        one.flat[:] = others
        one.flat[one.case.cell] = exact.draw(rng)
        assert one.update(updates) == 0, f"{one.case.name}: no density"
        found[i] = one.flat[one.case.cell]
    return exact.p_value(found)


def simulated_p(one: Isolated, repeats: int, updates: int) -> float:
    """Return the p-value of states drawn with their data from the model and then updated, against such states alone."""
    return _compared(one, "execute", repeats, updates)


def prior_p(one: Isolated, repeats: int, updates: int) -> float:
    """Return the p-value of prior draws that are then updated, against prior draws."""
    return _compared(one, "prior", repeats, updates)


def _compared(one: Isolated, source: str, repeats: int, updates: int) -> float:
    both: list[Array] = []
    for count in (0, updates):
        found: list[Array] = []
        for _ in range(repeats):
            assert one.run(source, one.rng) == 0, f"{one.case.name}: cannot be drawn"
            assert one.update(count) == 0, f"{one.case.name}: no density"
            found.append(np.append(one.flat, one.log_joint()))
        both.append(np.array(found))
    columns = range(both[0].shape[1])
    tests: list[Any] = [stats.ks_2samp(both[0][:, i], both[1][:, i]) for i in columns]
    return min(1.0, len(tests) * min(float(one.pvalue) for one in tests))
