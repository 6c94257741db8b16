"""Random walks: the contract for rows, vectors and numbers, and what the correction is for."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from mlsysopt.infer.language import (
    Bernoulli,
    Categorical,
    Dirichlet,
    Gamma,
    Laplace,
    MultivariateNormal,
    Normal,
    Poisson,
    StudentT,
    array,
    dot,
    observe,
)
from mlsysopt.infer.rules.metropolis import Metropolis
from mlsysopt.infer.runtime import walking
from mlsysopt.testing.updates import Isolated, RefusedCase, UpdateCase, UpdateContract, prior_p

NONE = np.zeros(0)
Y = np.array([0.3, -1.2, 2.1, 0.8, -0.4])
CONTENT = np.array([[1.0, -1.0, 0.5], [0.2, 2.0, -0.7], [1.5, 0.3, 0.1], [-0.4, 0.9, 1.2]])
G = np.array([0, 1, 1, 0, 1])


def blend(y, content):
    parts = Dirichlet(1.2, content.shape[1])
    for i in range(len(y)):
        observe(y[i], Normal(dot(content[i], parts), 0.5))


def two_blends(y, g, alpha):
    parts = array(float, alpha.shape[0], alpha.shape[1])
    for k in range(alpha.shape[0]):
        parts[k] = Dirichlet(alpha[k])
    for i in range(len(y)):
        observe(y[i], Normal(3.0 * parts[g[i], 0] * parts[g[i], 1], 0.5))


def small_shapes(y):
    parts = Dirichlet(0.3, 3)
    for i in range(len(y)):
        observe(y[i], Bernoulli(parts[0] + 0.5 * parts[1]))


def pair(y, mean, covariance):
    v = MultivariateNormal(mean, covariance)
    for i in range(len(y)):
        observe(y[i], StudentT(4.0, v[0] * v[1], 1.0))


class TestRows(UpdateContract):
    updates = 4
    compiled = ("two blends",)

    def rule(self) -> Metropolis:
        return Metropolis()

    def cases(self) -> Sequence[UpdateCase]:
        alpha = np.array([[1.0, 2.0, 0.7], [3.0, 1.0, 1.0]])
        normal = {"mean": np.array([0.5, 0.0]), "covariance": np.array([[1.0, 0.4], [0.4, 2.0]])}
        return [
            UpdateCase("blend", blend, {"y": Y[:4], "content": CONTENT}, "parts", empty={"y": NONE}, simulates=True),
            UpdateCase("two blends", two_blends, {"y": Y, "g": G, "alpha": alpha}, "parts",
                       empty={"y": NONE, "g": np.zeros(0, np.int64)}, simulates=True),
            UpdateCase("small shapes", small_shapes, {"y": np.array([1, 0, 1])}, "parts", simulates=True),
            UpdateCase("pair", pair, {"y": Y, **normal}, "v", empty={"y": NONE}, simulates=True),
        ]  # fmt: skip

    def refusals(self) -> Sequence[RefusedCase]:
        return [
            RefusedCase(number, {"y": Y}, "a", "which a slice moves better", "a = Laplace"),
            RefusedCase(count, {"y": Y}, "n", "draws whole numbers", "n = Poisson"),
        ]


def number(y):
    a = Laplace(0.0, 1.0)
    for i in range(len(y)):
        observe(y[i], Normal(a, 1.0))


def count(y):
    n = Poisson(2.0)
    for i in range(len(y)):
        observe(y[i], Normal(n, 1.0))


def far_out(y):
    a = Normal(5.0, 3.0)
    for i in range(len(y)):
        observe(y[i], Laplace(a, 1.0))


def waiting_time(y):
    a = Gamma(3.0, 0.5)
    for i in range(len(y)):
        observe(y[i], Laplace(a, 1.0))


def ladder(y):
    a = Normal(0.0, 2.0).rows(3).ordered()
    for i in range(len(y)):
        observe(y[i], Laplace(a[i], 1.0))


class TestNumbers(UpdateContract):
    updates = 20

    def rule(self) -> Metropolis:
        return Metropolis(scalars=True)

    def cases(self) -> Sequence[UpdateCase]:
        return [
            UpdateCase("far out", far_out, {"y": Y + 5.0}, "a", grid=(-5.0, 15.0), empty={"y": NONE}, simulates=True),
            UpdateCase("waiting time", waiting_time, {"y": Y + 5.0}, "a", grid=(0.0, 20.0), empty={"y": NONE}),
            UpdateCase("ladder", ladder, {"y": Y[:3]}, "a", simulates=True),
        ]

    def refusals(self) -> Sequence[RefusedCase]:
        return [RefusedCase(count, {"y": Y}, "n", "draws whole numbers", "n = Poisson")]


@pytest.mark.parametrize("model", [far_out, waiting_time])
def test_without_the_correction_the_prior_is_lost(model) -> None:
    def wrong(text: str) -> str:
        found = re.sub(r"\n.*lp_ \+= proposal_log_ratio.*", "", text)
        assert found != text
        return found

    case = UpdateCase(model.__name__, model, {"y": NONE}, "a")
    assert prior_p(Isolated(case, Metropolis(scalars=True), edit=wrong), 300, 100) < 1e-6


def test_without_the_jacobian_the_prior_is_lost() -> None:
    def wrong(text: str) -> str:
        found = re.sub(r"\n.*lp_ \+= simplex_log_volume.*", "", text)
        assert found != text
        return found

    case = UpdateCase("blend", blend, {"y": NONE, "content": CONTENT}, "parts")
    assert prior_p(Isolated(case, Metropolis(), edit=wrong), 300, 25) < 1e-6


def test_a_long_walk_has_the_mean_of_the_posterior() -> None:
    case = UpdateCase("far out", far_out, {"y": NONE}, "a", start=5.0)
    found = Isolated(case, Metropolis(scalars=True)).draws(4000, every=2)[:, 0]
    assert abs(found.mean() - 5.0) < 1.5
    ratio = walking.proposal_log_ratio(4.0, 5.0)
    there, back = stats.norm(4.0, 0.4).logpdf(5.0), stats.norm(5.0, 0.5).logpdf(4.0)
    assert ratio == pytest.approx(back - there)


def test_half_of_a_row_may_have_underflowed() -> None:
    (case,) = (one for one in TestRows().cases() if one.name == "small shapes")
    one = Isolated(case, Metropolis())
    one.flat[:] = [0.0, 1.0, 0.0]
    assert one.update(50, warm=True) == 0
    assert one.flat.sum() == pytest.approx(1.0) and (one.flat > 0.0).all()


def test_a_row_without_density_is_named() -> None:
    (case,) = (one for one in TestRows().cases() if one.name == "two blends")
    one = Isolated(case, Metropolis())
    one.arrays["v_alpha"][1, 0] = -1.0
    assert one.update() == 4


def test_steps_find_their_size() -> None:
    (case,) = (one for one in TestRows().cases() if one.name == "blend")
    one = Isolated(case, Metropolis())
    one.update(400, warm=True)
    found = one.draws(300)
    moved = (np.diff(found, axis=0) != 0.0).any(axis=1).mean()
    # Three steps of a row a sweep, three in ten accepted.
    assert 0.4 < moved < 0.85


def labelled(y, K: int):
    p = Dirichlet(1.0, K)
    for i in range(len(y)):
        observe(y[i], Categorical(p))


def test_conjugate_rows_are_left_to_their_own_rule_first() -> None:
    from mlsysopt.infer.binding import bind
    from mlsysopt.infer.frontend.source import read
    from mlsysopt.infer.planning import plan
    from mlsysopt.infer.rules.conjugate import Conjugate

    program = bind(read(labelled), {"y": np.array([0, 1, 2]), "K": 3}).program
    assert plan(program, (Conjugate(), Metropolis())).rule_of("p") == "conjugate"
    assert plan(program, (Metropolis(),)).rule_of("p") == "metropolis"
