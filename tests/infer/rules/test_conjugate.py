"""Conjugate updates: every row of the table against the posterior in closed form, and every refusal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats

from mlsysopt.infer.analysis.blanket import Analysis
from mlsysopt.infer.binding import bind
from mlsysopt.infer.frontend.source import read
from mlsysopt.infer.language import (
    Bernoulli,
    Beta,
    Binomial,
    Categorical,
    Dirichlet,
    Exponential,
    Flat,
    Gamma,
    Geometric,
    HalfFlat,
    HalfNormal,
    InverseGamma,
    LogNormal,
    Multinomial,
    NegativeBinomial,
    Normal,
    Poisson,
    TruncatedNormal,
    Uniform,
    array,
    observe,
)
from mlsysopt.infer.planning import plan
from mlsysopt.infer.rules import Refusal
from mlsysopt.infer.rules.conjugate import Conjugate
from mlsysopt.infer.rules.forward import Forward
from mlsysopt.testing.updates import Isolated, RefusedCase, UpdateCase, UpdateContract

NONE = np.zeros(0)
NO_COUNTS = np.zeros(0, np.int64)
Y = np.array([0.3, -1.2, 2.1, 0.8, -0.4])
C = np.array([1.0, 0.5, 2.0, 1.5, 3.0])
COUNTS = np.array([2, 0, 1, 4, 3])
G = np.array([0, 1, 2, 1, 2])


def coins(y):
    p = Beta(2.0, 3.0)
    for i in range(len(y)):
        observe(y[i], Bernoulli(p))


def trials(y, n):
    p = Beta(2.0, 3.0)
    for i in range(len(y)):
        observe(y[i], Binomial(n[i], p))


def waits(y):
    p = Beta(2.0, 3.0)
    for i in range(len(y)):
        observe(y[i], Geometric(p))


def failures(y, r: float):
    p = Beta(2.0, 3.0)
    for i in range(len(y)):
        observe(y[i], NegativeBinomial(r, p))


def counts(y, c):
    v = Gamma(3.0, 2.0)
    for i in range(len(y)):
        observe(y[i], Poisson(c[i] * v))


def times(y, c):
    v = Gamma(3.0, 2.0)
    for i in range(len(y)):
        observe(y[i], Exponential(v * c[i] / 2.0))


def sizes(y, c):
    v = Gamma(3.0, 2.0)
    for i in range(len(y)):
        observe(y[i], Gamma(1.5, c[i] * v))


def precisions(y, c):
    v = Gamma(3.0, 2.0)
    for i in range(len(y)):
        observe(y[i], Normal(0.5, precision=c[i] * v))


def variances(y, c):
    v = InverseGamma(4.0, 3.0)
    for i in range(len(y)):
        observe(y[i], Normal(0.5, var=c[i] * v))


def rooted(y, c):
    v = InverseGamma(4.0, 3.0)
    for i in range(len(y)):
        observe(y[i], Normal(0.5, sqrt(c[i] * v)))  # noqa: F821


def unequal(y, c):
    m = Normal(1.0, 2.0)
    for i in range(len(y)):
        observe(y[i], Normal(0.5 - c[i] * m, c[i]))


def unequal_variances(y, c):
    m = Normal(1.0, var=2.0)
    for i in range(len(y)):
        observe(y[i], Normal(m, var=c[i]))


def unequal_precisions(y, c):
    m = Normal(1.0, precision=0.3)
    for i in range(len(y)):
        observe(y[i], Normal((m - c[i]) / 2.0, precision=c[i]))


def logarithms(y, c):
    m = Normal(1.0, 2.0)
    for i in range(len(y)):
        observe(y[i], LogNormal(c[i] + m, c[i]))


def cut_off(y, c):
    m = TruncatedNormal(1.0, 2.0, -0.5, 0.6)
    for i in range(len(y)):
        observe(y[i], Normal(m, c[i]))


def half(y, c):
    m = HalfNormal(2.0)
    for i in range(len(y)):
        observe(y[i], Normal(m, c[i]))


def no_prior(y, c):
    m = Flat()
    for i in range(len(y)):
        observe(y[i], Normal(m, c[i]))


def half_a_prior(y, c):
    m = HalfFlat()
    for i in range(len(y)):
        observe(y[i], Normal(m, c[i]))


def _normal(data, slope, var, mean: float, prior: float) -> tuple[float, float]:
    """Return mean and standard deviation of a normal posterior; `prior` is a precision."""
    weights = slope * np.ones_like(data) / var
    total = prior + np.sum(weights * slope)
    return (prior * mean + np.sum(weights * data)) / total, 1.0 / np.sqrt(total)


def _cut(mean: float, sd: float, low: float, high: float) -> Any:
    return stats.truncnorm((low - mean) / sd, (high - mean) / sd, mean, sd)


P = np.exp(Y)
ROWS: list[tuple[Callable[..., None], dict[str, Any], str, Any]] = [
    (coins, {"y": np.array([1, 0, 1, 1])}, "p", stats.beta(5, 4)),
    (trials, {"y": COUNTS, "n": COUNTS + 2}, "p", stats.beta(2 + 10, 3 + 10)),
    (waits, {"y": COUNTS}, "p", stats.beta(2 + 5, 3 + 10)),
    (failures, {"y": COUNTS, "r": 1.5}, "p", stats.beta(2 + 7.5, 3 + 10)),
    (counts, {"y": COUNTS, "c": C}, "v", stats.gamma(3 + 10, scale=1 / (2 + 8))),
    (times, {"y": P, "c": C}, "v", stats.gamma(3 + 5, scale=1 / (2 + np.sum(C * P) / 2))),
    (sizes, {"y": P, "c": C}, "v", stats.gamma(3 + 7.5, scale=1 / (2 + np.sum(C * P)))),
    (precisions, {"y": Y, "c": C}, "v", stats.gamma(3 + 2.5, scale=1 / (2 + np.sum(C * (Y - 0.5) ** 2) / 2))),
    (variances, {"y": Y, "c": C}, "v", stats.invgamma(4 + 2.5, scale=3 + np.sum((Y - 0.5) ** 2 / C) / 2)),
    (rooted, {"y": Y, "c": C}, "v", stats.invgamma(4 + 2.5, scale=3 + np.sum((Y - 0.5) ** 2 / C) / 2)),
    (unequal, {"y": Y, "c": C}, "m", stats.norm(*_normal(Y - 0.5, -C, C * C, 1.0, 0.25))),
    (unequal_variances, {"y": Y, "c": C}, "m", stats.norm(*_normal(Y, 1.0, C, 1.0, 0.5))),
    (unequal_precisions, {"y": Y, "c": C}, "m", stats.norm(*_normal(Y + C / 2, 0.5, 1 / C, 1.0, 0.3))),
    (logarithms, {"y": P, "c": C}, "m", stats.norm(*_normal(Y - C, 1.0, C * C, 1.0, 0.25))),
    (cut_off, {"y": Y, "c": C}, "m", _cut(*_normal(Y, 1.0, C * C, 1.0, 0.25), -0.5, 0.6)),
    (half, {"y": Y, "c": C}, "m", _cut(*_normal(Y, 1.0, C * C, 0.0, 0.25), 0.0, np.inf)),
    (no_prior, {"y": Y, "c": C}, "m", stats.norm(*_normal(Y, 1.0, C * C, 0.0, 0.0))),
    (half_a_prior, {"y": Y, "c": C}, "m", _cut(*_normal(Y, 1.0, C * C, 0.0, 0.0), 0.0, np.inf)),
]


@pytest.mark.parametrize(("function", "inputs", "variable", "exact"), ROWS, ids=[one[0].__name__ for one in ROWS])
def test_a_row_of_the_table(function: Callable[..., None], inputs: dict[str, Any], variable: str, exact: Any) -> None:
    case = UpdateCase(function.__name__, function, inputs, variable, start=0.2)
    found = Isolated(case, Conjugate()).draws(1500)[:, 0]
    assert stats.kstest(found, exact.cdf).pvalue > 1e-3
    # And the wrong answer, data left out, is far away.
    assert stats.kstest(found, stats.norm(exact.mean() + exact.std(), exact.std()).cdf).pvalue < 1e-6


def tables(label, votes, group, ballots, K: int):
    p = Dirichlet(1.5, K).rows(len(ballots))
    for i in range(len(label)):
        observe(label[i], Categorical(p[group[i]]))
    for j in range(len(ballots)):
        observe(votes[j], Multinomial(ballots[j], p[j]))


def test_rows_of_probabilities_add_up_their_counts() -> None:
    votes = np.array([[2, 3, 0], [1, 1, 6]])
    inputs = {
        "label": np.array([0, 0, 1, 2, 2]), "group": np.array([0, 0, 0, 1, 1]), "votes": votes,
        "ballots": votes.sum(axis=1), "K": 3,
    }  # fmt: skip
    found = Isolated(UpdateCase("tables", tables, inputs, "p"), Conjugate()).draws(1500).reshape(-1, 2, 3)
    alpha = 1.5 + votes + np.array([[2, 1, 0], [0, 0, 2]])
    for k in range(2):
        for j in range(3):
            exact = stats.beta(alpha[k, j], alpha[k].sum() - alpha[k, j])
            assert stats.kstest(found[:, k, j], exact.cdf).pvalue > 1e-3
    assert np.allclose(found.sum(axis=2), 1.0)
    assert abs(np.corrcoef(found[:, 0, 0], found[:, 1, 0])[0, 1]) < 0.1


def groups(y, g, J: int):
    v = InverseGamma(4.0, 3.0).rows(J)
    for i in range(len(y)):
        observe(y[i], Normal(0.0, var=v[g[i]]))


def two_sites(y, treated, J: int):
    m = array(float, J)
    for j in range(J):
        m[j] = Normal(1.0 * j, 1.0)
    for i in range(len(y)):
        if treated[i] == 1:
            observe(y[i], Normal(m[0], 1.0))
        else:
            observe(y[i], Normal(2.0 * m[1], 0.5))


def steps(y, g):
    m = Normal(0.0, 2.0).rows(3).ordered()
    for i in range(len(y)):
        observe(y[i], Normal(m[g[i]], 1.0))


def gaps(y):
    m = Normal(0.0, 1.0)
    for i in range(len(y)):
        observe(y[i], Normal(m, 1.0))


def reference_level(y, g, J: int):
    effect = Normal(0.0, 1.0).rows(J)
    for i in range(len(y)):
        observe(y[i], Normal(effect[g[i] - 1] if g[i] > 0 else 0.0, 1.0))


def latent_reader(y, c):
    centre = Normal(0.0, 1.0)
    level = array(float, len(y))
    for i in range(len(y)):
        level[i] = Normal(c[i] * centre, 0.7)
        observe(y[i], Normal(level[i], 1.0))


class TestConjugate(UpdateContract):
    updates = 1
    compiled = ("steps",)

    def rule(self) -> Conjugate:
        return Conjugate()

    def cases(self) -> Sequence[UpdateCase]:
        votes = np.array([[2, 3, 0], [1, 1, 6]])
        ballots = {"label": np.array([0, 2]), "group": np.array([0, 1]), "votes": votes, "ballots": votes.sum(axis=1)}
        return [
            UpdateCase("groups", groups, {"y": Y, "g": G, "J": 4}, "v", grid=(1e-3, 15.0), cell=1,
                       empty={"y": NONE, "g": NO_COUNTS}, simulates=True),
            UpdateCase("two sites", two_sites, {"y": Y, "treated": np.array([1, 0, 0, 1, 0]), "J": 3}, "m",
                       grid=(-6.0, 8.0), cell=1, simulates=True),
            UpdateCase("steps", steps, {"y": Y, "g": G}, "m", empty={"y": NONE, "g": NO_COUNTS}, simulates=True),
            UpdateCase("cut off", cut_off, {"y": Y, "c": C}, "m", grid=(-0.5, 0.6), empty={"y": NONE}),
            UpdateCase("tables", tables, {**ballots, "K": 3}, "p", simulates=True),
            UpdateCase("gaps", gaps, {"y": np.array([0.5, np.nan, 2.0, np.nan])}, "m", {"y": [0.5, 4.0, 2.0, 3.0]},
                       grid=(-4.0, 6.0), missing="latent"),
            UpdateCase("reference level", reference_level, {"y": Y, "g": G, "J": 2}, "effect", grid=(-5.0, 5.0), cell=1,
                       simulates=True),
            UpdateCase("reader", latent_reader, {"y": Y, "c": C}, "centre", {"level": Y}, grid=(-5.0, 5.0)),
            UpdateCase("readers", latent_reader, {"y": Y, "c": C}, "level", {"centre": 0.4}, grid=(-5.0, 5.0), cell=2,
                       simulates=True),
        ]  # fmt: skip

    def refusals(self) -> Sequence[RefusedCase]:
        return []


def test_a_posterior_that_does_not_exist_is_named() -> None:
    one = Isolated(UpdateCase("no prior", no_prior, {"y": NONE, "c": C}, "m", start=0.0), Conjugate())
    assert one.update() == 1
    one = Isolated(UpdateCase("times", times, {"y": P, "c": -C}, "v", start=1.0), Conjugate())
    assert one.update() == 1


def hierarchy(y, x):
    a = Normal(0.0, 1.0)
    b = Uniform(0.0, 1.0)
    new = Normal(a, b)  # noqa: F841
    for i in range(len(y)):
        observe(y[i], Normal(x[i] * a, b))


def test_what_nothing_observed_reads_is_drawn_forward_and_pruned() -> None:
    program = bind(read(hierarchy), {"y": Y, "x": C}).program
    analysis = Analysis(program)
    assert not isinstance(Forward().propose("new", analysis), Refusal)
    refused = Forward().propose("a", analysis)
    assert isinstance(refused, Refusal) and refused.reason == "something observed depends on it"
    assert "new" in program.lines[refused.line] or "observe" in program.lines[refused.line]
    # The reader that is drawn forward is no reader: otherwise `a` would be pulled towards its old draw.
    found = plan(program, (Forward(), Conjugate(), _Nothing()))
    assert found.rule_of("a") == "conjugate" and found.forward == ("new",)
    assert "Normal with Normal" in found.choices[0].update.about


def test_missing_cells_that_nothing_reads_are_drawn_forward() -> None:
    program = bind(read(gaps), {"y": np.array([0.5, np.nan, 2.0, np.nan])}, missing="latent").program
    found = plan(program, (Forward(), Conjugate()))
    assert found.rule_of("m") == "conjugate" and found.forward == ("y",)
    # Their old draws do not count as readers: three cells would pull the mean otherwise.
    case = UpdateCase("gaps", gaps, {"y": np.array([0.5, np.nan, 2.0, np.nan])}, "m", start=0.0, missing="latent")
    one = Isolated(case, _ForwardThen(Conjugate()))
    assert stats.kstest(one.draws(1500)[:, 0], stats.norm(2.5 / 3, 1 / np.sqrt(3)).cdf).pvalue > 1e-3


class _ForwardThen:
    """Rules 1 and another one as one."""

    name = "both"

    def __init__(self, rule: Any) -> None:
        self.rule = rule

    def propose(self, variable: str, analysis: Analysis) -> Any:
        found = Forward().propose(variable, analysis)
        return self.rule.propose(variable, analysis) if isinstance(found, Refusal) else found


class _Nothing:
    """Takes whatever is left."""

    name = "nothing"

    def propose(self, variable: str, analysis: Analysis) -> Any:
        from mlsysopt.infer.ir import Const
        from mlsysopt.infer.rules import Update

        return Update(self.name, (variable,), "left", Const(0), lambda module, name: None)


def unseen_flat():
    a = Flat()
    b = Normal(a, 1.0)  # noqa: F841


def test_an_improper_prior_is_not_drawn_forward() -> None:
    program = bind(read(unseen_flat), {}).program
    refused = Forward().propose("a", Analysis(program))
    assert isinstance(refused, Refusal) and "cannot be drawn from" in refused.reason
    assert "Flat()" in program.lines[refused.line]
