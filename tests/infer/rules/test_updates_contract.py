"""The contract of updates itself: it passes what is right, and notices the mistakes that would be silent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
from scipy import stats

from mlsysopt.infer.analysis.blanket import Analysis
from mlsysopt.infer.emit.module import Module, Tuned
from mlsysopt.infer.emit.writer import Writer
from mlsysopt.infer.ir import Const
from mlsysopt.infer.language import Binomial, Gamma, Normal, Poisson, observe
from mlsysopt.infer.rules.conjugate import Conjugate
from mlsysopt.infer.rules.protocol import Refusal, Update
from mlsysopt.testing.updates import Exact, Isolated, RefusedCase, UpdateCase, UpdateContract

Y = np.array([0.3, -1.2, 2.1, 0.8, -0.4])


def mean(y):
    m = Normal(1.0, 2.0)
    for i in range(len(y)):
        observe(y[i], Normal(m, 1.0))


def rate(y):
    v = Gamma(3.0, 2.0)
    for i in range(len(y)):
        observe(y[i], Poisson(v))


def hidden(y, n: int):
    k = Binomial(n, 0.4)
    for i in range(len(y)):
        observe(y[i], Normal(k, 1.0))


CASE = UpdateCase("mean", mean, {"y": Y}, "m", grid=(-3.0, 4.0), start=0.0, empty={"y": np.zeros(0)}, simulates=True)


class Written:
    """A rule made of the lines that its update shall have."""

    name: ClassVar[str] = "written"

    def __init__(self, lines: Callable[[Writer], None], *, exact: bool = False, tuned: bool = False) -> None:
        self.lines, self.exact, self.tuned = lines, exact, tuned

    def propose(self, variable: str, analysis: Analysis) -> Update | Refusal:
        def write(module: Module, name: str) -> None:
            with module.function(name, ("rng", "warm") if self.tuned else ("rng",)) as f:
                if self.tuned:
                    module.tune(Tuned("t_width", like=variable), f)
                self.lines(f)
                f.line("return 0")

        return Update(self.name, (variable,), "as written", Const(1), write, exact=self.exact, tuned=self.tuned)


def contract(lines: Callable[[Writer], None], *, exact: bool = False, tuned: bool = False) -> UpdateContract:
    class Found(UpdateContract):
        def rule(self) -> Written:
            return Written(lines, exact=exact, tuned=tuned)

        def cases(self) -> Sequence[UpdateCase]:
            return [CASE]

    return Found()


def posterior(f: Writer, precision: str = "5.25", total: str = "") -> None:
    total = total or f"{Y.sum() + 0.25!r}"
    f.line(f"{f.array('v_m')}[0] = {total} / {precision} + rng.standard_normal() / math.sqrt({precision})")


def test_what_is_right_passes() -> None:
    found = contract(posterior, exact=True)
    found.test_leaves_the_exact_conditional_as_it_is()
    found.test_an_exact_update_forgets_where_it_was()
    found.test_moves_every_cell()
    found.test_adaptation_stops_after_warming_up()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda f: posterior(f, "5.5", f"{Y.sum() + 0.5!r}"),  # The prior twice.
        lambda f: posterior(f, "0.25", "0.25"),  # The prior only.
        lambda f: posterior(f, "1.25"),  # A fifth of the data's weight.
    ],
    ids=["prior twice", "prior only", "weight lost"],
)
def test_a_wrong_conditional_fails(wrong: Callable[[Writer], None]) -> None:
    found = contract(wrong, exact=True)
    found.repeats = 4000
    with pytest.raises(AssertionError, match="mean: p ="):
        found.test_leaves_the_exact_conditional_as_it_is()
    with pytest.raises(AssertionError, match="mean: p ="):
        found.test_an_exact_update_forgets_where_it_was()


def test_an_update_that_knows_one_data_set_only_fails() -> None:
    with pytest.raises(AssertionError, match="mean: p ="):
        contract(posterior).test_leaves_prior_and_data_as_they_are()
    with pytest.raises(AssertionError, match="mean: p ="):
        contract(posterior).test_without_data_draws_from_the_prior()


def test_standing_still_fails() -> None:
    with pytest.raises(AssertionError, match=r"m never moves at \[0\]"):
        contract(lambda f: None).test_moves_every_cell()


def test_adapting_after_warming_up_fails() -> None:
    with pytest.raises(AssertionError, match="went on after warming up"):
        contract(lambda f: f.line("t_width[0] += 1.0"), tuned=True).test_adaptation_stops_after_warming_up()
    with pytest.raises(AssertionError, match="is never adapted"):
        contract(posterior, tuned=True).test_adaptation_stops_after_warming_up()


def test_accepting_what_has_to_be_refused_fails() -> None:
    class Lenient(UpdateContract):
        def rule(self) -> Written:
            return Written(posterior)

        def refusals(self) -> Sequence[RefusedCase]:
            return [RefusedCase(mean, {"y": Y}, "m", "never")]

    with pytest.raises(AssertionError, match="mean: m was accepted"):
        Lenient().test_refuses_what_breaks_a_precondition()


def test_a_refusal_at_another_line_fails() -> None:
    class Elsewhere(UpdateContract):
        def rule(self) -> Conjugate:
            return Conjugate()

        def refusals(self) -> Sequence[RefusedCase]:
            return [RefusedCase(hidden, {"y": Y, "n": 3}, "k", "no conjugate prior", "observe")]

    with pytest.raises(AssertionError, match="hidden: Binomial is no conjugate prior"):
        Elsewhere().test_refuses_what_breaks_a_precondition()


def test_the_tabulated_conditional_is_the_posterior() -> None:
    exact = Exact(Isolated(CASE, Conjugate()))
    closed = stats.norm((Y.sum() + 0.25) / 5.25, 1 / np.sqrt(5.25))
    rng = np.random.default_rng(3)
    draws = np.array([exact.draw(rng) for _ in range(4000)])
    assert stats.kstest(draws, closed.cdf).pvalue > 1e-3
    assert exact.p_value(closed.rvs(4000, random_state=4)) > 1e-3
    assert exact.p_value(closed.rvs(4000, random_state=4) + 0.1) < 1e-6


def test_whole_numbers_are_compared_by_their_counts() -> None:
    case = UpdateCase("hidden", hidden, {"y": Y[:1] + 2.0, "n": 6}, "k", grid=(0, 6), start=1)
    exact = Exact(Isolated(case, Written(lambda f: None)))
    logs = stats.binom(6, 0.4).logpmf(np.arange(7)) + stats.norm(np.arange(7)).logpdf(2.3)
    p = np.exp(logs) / np.exp(logs).sum()
    assert exact.p == pytest.approx(p)
    draws = np.random.default_rng(5).choice(7, 3000, p=p)
    assert exact.p_value(draws) > 1e-3
    assert exact.p_value(np.minimum(draws + (draws == 2), 6)) < 1e-6
    assert exact.p_value(np.append(draws, 9)) == 0.0


def test_a_grid_that_is_too_short_is_refused() -> None:
    case = UpdateCase("mean", mean, {"y": Y}, "m", grid=(-1.0, 0.5), start=0.0)
    with pytest.raises(AssertionError, match="cuts off mass"):
        Exact(Isolated(case, Conjugate()))


def test_conjugate_rates_pass_as_they_are() -> None:
    class Rates(UpdateContract):
        def rule(self) -> Conjugate:
            return Conjugate()

        def cases(self) -> Sequence[UpdateCase]:
            empty: dict[str, Any] = {"y": np.zeros(0, np.int64)}
            return [UpdateCase("rate", rate, {"y": np.array([2, 0, 3])}, "v", grid=(0.0, 8.0), empty=empty)]

    found = Rates()
    found.test_leaves_the_exact_conditional_as_it_is()
    found.test_without_data_draws_from_the_prior()
