"""Log probabilities against the forward algorithm, enumeration and closed forms."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special, stats

from mlsysopt.core.errors import UsageError
from mlsysopt.infer import probability as module
from mlsysopt.infer.compiled import Compiled, Model
from mlsysopt.infer.language import Shape
from mlsysopt.infer.probability import LogProbability
from tests.infer.models import cases
from tests.infer.written import written

Array = NDArray[Any]


def compiled(body: str, *, missing: str = "error", **inputs: Any) -> Compiled:
    """Return the model of a body with its inputs."""
    return Model(*written(body, *inputs))(missing=missing, **inputs)


def forward(start: Array, move: Array, likelihood: Array) -> float:
    """Return the log likelihood of a hidden Markov chain; `likelihood` has a row for each time."""
    total, alpha = 0.0, start * likelihood[0]
    for one in likelihood[1:]:
        total += math.log(alpha.sum())
        alpha = (alpha / alpha.sum()) @ move * one
    return total + math.log(alpha.sum())


HMM = """move = Dirichlet(0.5, K).rows(K)
emit = Dirichlet(0.5, M).rows(K)
z = array(int, len(y))
z[0] = Categorical.uniform(K)
for t in range(1, len(y)):
    z[t] = Categorical(move[z[t - 1]])
for t in range(len(y)):
    observe(y[t], Categorical(emit[z[t]]))"""


def tables(states: int, labels: int, seed: int = 0) -> tuple[Array, Array]:
    """Return random rows of moves and of emissions."""
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(states), states), rng.dirichlet(np.ones(labels), states)


def markov(y: Array, seed: int = 0, states: int = 4, labels: int = 8) -> tuple[Compiled, float]:
    """Return a chain with fixed rows, and what its probability is."""
    move, emit = tables(states, labels, seed)
    model = compiled(HMM, y=y, K=states, M=labels)
    model.move.fix(move)
    model.emit.fix(emit)
    return model, forward(np.full(states, 1 / states), move, emit[:, y].T)


@pytest.mark.parametrize("length", [1, 2, 200])
def test_a_chain_is_the_forward_algorithm(length: int) -> None:
    model, truth = markov(np.random.default_rng(1).integers(8, size=length))
    found = model.probability()
    assert found.log_value == pytest.approx(truth, abs=1e-9)
    assert (found.se, found.draws, found.exact, found.ok, found.normalised) == (0.0, 1, True, True, True)
    assert str(found) == f"log probability {truth:.6f}, exact"


def test_a_new_series_of_another_length() -> None:
    model, _ = markov(np.zeros(5, int))
    y = np.random.default_rng(2).integers(8, size=90)
    _, truth = markov(y)
    assert model.probability(y=y).log_value == pytest.approx(truth, abs=1e-9)
    assert model.bound.arrays["y"].size == 5


def test_native_code_has_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = markov(np.random.default_rng(3).integers(8, size=60))
    plain = model.probability()
    monkeypatch.setattr(module, "SMALL", 0)
    assert model.probability() == plain


def test_a_long_chain_does_not_underflow() -> None:
    model, truth = markov(np.random.default_rng(4).integers(2, size=3000), states=2, labels=2)
    assert truth < -1000
    assert model.probability().log_value == pytest.approx(truth, abs=1e-8)


def test_an_impossible_series() -> None:
    model, _ = markov(np.array([0, 1, 0]), states=2, labels=2)
    model.emit.fix([[1.0, 0.0], [1.0, 0.0]])
    found = model.probability()
    assert found.log_value == -math.inf
    assert found.exact


def test_chains_of_ragged_series() -> None:
    move, emit = tables(2, 3)
    body = """move = Dirichlet(1.0, 2).rows(2)
emit = Dirichlet(1.0, 3).rows(2)
z = array(int, like=y)
for s in range(len(y)):
    z[s, 0] = Bernoulli(0.25)
    for t in range(1, len(y[s])):
        z[s, t] = Categorical(move[z[s, t - 1]])
    for t in range(len(y[s])):
        observe(y[s, t], Categorical(emit[z[s, t]]))"""
    series = tuple(np.random.default_rng(5).integers(3, size=n) for n in (4, 1, 7))
    model = compiled(body, y=series)
    model.move.fix(move)
    model.emit.fix(emit)
    truth = sum(forward(np.array([0.75, 0.25]), move, emit[:, one].T) for one in series)
    found = model.probability()
    assert found.exact
    assert found.log_value == pytest.approx(truth, abs=1e-10)


def test_a_chain_with_normal_emissions_and_a_gap() -> None:
    body = """z = array(int, len(y))
z[0] = Categorical(start)
for t in range(1, len(y)):
    z[t] = Categorical(move[z[t - 1]])
for t in range(len(y)):
    observe(y[t], Normal(level[z[t]], 0.5))"""
    move, _ = tables(3, 2)
    y, level, start = np.random.default_rng(6).normal(size=12), np.array([-1.0, 0.0, 2.0]), np.array([0.2, 0.5, 0.3])
    y[[0, 5, 11]] = np.nan
    found = compiled(body, missing="latent", y=y, start=start, move=move, level=level).probability()
    density = np.where(np.isnan(y)[:, None], 1.0, stats.norm.pdf(np.nan_to_num(y)[:, None], level, 0.5))
    assert found.exact
    assert found.log_value == pytest.approx(forward(start, move, density), abs=1e-10)


def test_independent_cells_are_summed() -> None:
    model = compiled(
        """w = Dirichlet(1.0, 3)
z = array(int, len(y))
for i in range(len(y)):
    z[i] = Categorical(w)
for i in range(len(y)):
    observe(y[i], Normal(m[z[i]], s[z[i]]))""",
        y=[0.5, -1.0, 4.0], m=[0.0, 1.0, 3.0], s=[1.0, 0.5, 2.0],
    )  # fmt: skip
    model.w.fix([0.2, 0.3, 0.5])
    y = np.array([0.5, -1.0, 4.0])[:, None]
    truth = np.log((np.array([0.2, 0.3, 0.5]) * stats.norm.pdf(y, [0.0, 1.0, 3.0], [1.0, 0.5, 2.0])).sum(axis=1)).sum()
    found = model.probability()
    assert found.exact
    assert found.log_value == pytest.approx(truth, abs=1e-12)


def test_a_label_read_by_many_and_in_a_guard() -> None:
    model = compiled(
        """z = Bernoulli(0.3)
for i in range(len(y)):
    if z == 1:
        observe(y[i], Normal(1.0, 1.0))
    else:
        observe(y[i], Normal(-1.0, 2.0))
n = Binomial(4, 0.5)
observe(k, Poisson(1.0 + n))""",
        y=[0.5, 1.5], k=3,
    )  # fmt: skip
    y = np.array([0.5, 1.5])
    label = 0.3 * stats.norm.pdf(y, 1.0, 1.0).prod() + 0.7 * stats.norm.pdf(y, -1.0, 2.0).prod()
    count = sum(stats.binom.pmf(n, 4, 0.5) * stats.poisson.pmf(3, 1 + n) for n in range(5))
    found = model.probability()
    assert found.exact
    assert found.log_value == pytest.approx(math.log(label) + math.log(count), abs=1e-12)


def test_the_prior_is_averaged_over() -> None:
    model = compiled("p = Beta(2, 3)\nobserve(k, Binomial(n, p))", k=7, n=10)
    truth = math.log(special.comb(10, 7)) + special.betaln(9, 6) - special.betaln(2, 3)
    found = model.probability(tol=0.03)
    assert not found.exact
    assert found.ok
    assert found.se < 0.03
    assert abs(found.log_value - truth) < 4 * found.se
    assert model.probability(tol=0.03) == found
    assert model.probability(tol=0.03, seed=1) != found


def test_a_normal_mean_has_a_closed_form() -> None:
    y = np.array([0.3, 1.1, 0.7])
    found = compiled("m = Normal(0, 2)\nfor i in range(3):\n    observe(y[i], Normal(m, 1))", y=y).probability(tol=0.02)
    truth = stats.multivariate_normal.logpdf(y, np.zeros(3), np.eye(3) + 4.0)
    assert abs(found.log_value - truth) < 4 * found.se


def test_the_error_is_what_it_says() -> None:
    model = compiled("p = Beta(2, 3)\nobserve(k, Binomial(n, p))", k=7, n=10)
    truth = math.log(special.comb(10, 7)) + special.betaln(9, 6) - special.betaln(2, 3)
    z = [(one.log_value - truth) / one.se for one in (model.probability(tol=0.1, seed=seed) for seed in range(40))]
    assert abs(np.mean(z)) < 4 / math.sqrt(40)
    assert 0.5 < np.std(z) < 1.6


def network(seed: int) -> tuple[Compiled, float]:
    """Return a binary network of six nodes, the last two of which are observed, and its log evidence."""
    rng = np.random.default_rng(seed)
    parents: list[list[int]] = [
        sorted(rng.choice(i, size=min(i, int(rng.integers(1, 3))), replace=False)) for i in range(1, 6)
    ]
    parents = [[], *parents]
    chances = [rng.uniform(0.1, 0.9, 2 ** len(one)) for one in parents]
    lines, inputs = [], {}
    for i in range(6):
        index = " + ".join(f"{'e' if j > 3 else 'x'}{j} * {2**n}" for n, j in enumerate(parents[i])) or "0"
        inputs[f"p{i}"] = chances[i]
        lines.append(f"x{i} = Bernoulli(p{i}[{index}])" if i < 4 else f"observe(e{i}, Bernoulli(p{i}[{index}]))")
    evidence = {"e4": int(rng.integers(2)), "e5": int(rng.integers(2))}
    total = 0.0
    for state in itertools.product((0, 1), repeat=4):
        whole, weight = [*state, evidence["e4"], evidence["e5"]], 1.0
        for i in range(6):
            chance = chances[i][sum(whole[j] * 2**n for n, j in enumerate(parents[i]))]
            weight *= chance if whole[i] else 1 - chance
        total += weight
    return compiled("\n".join(lines), **inputs, **evidence), math.log(total)


@pytest.mark.parametrize("seed", range(6))
def test_binary_networks_against_enumeration(seed: int) -> None:
    model, truth = network(seed)
    found = model.probability(tol=0.01)
    assert found.ok
    assert abs(found.log_value - truth) < max(4 * found.se, 1e-9)


def test_after_a_fit_it_is_predictive() -> None:
    model = compiled("p = Beta(2, 3)\nfor i in range(len(k)):\n    observe(k[i], Binomial(10, p))", k=[7, 8])
    fit = model.infer(2000, warmup=100, chains=2, backend="python")
    assert model.fitted is fit
    found = model.probability(k=[6], tol=0.0)
    a, b = 2 + 15, 3 + 5
    truth = math.log(special.comb(10, 6)) + special.betaln(a + 6, b + 4) - special.betaln(a, b)
    assert found.draws == 4000
    assert abs(found.log_value - truth) < 4 * found.se
    # Nothing named: the evidence, from the prior.
    assert model.probability(tol=0.1).log_value < truth


def test_after_a_fit_of_a_chain_the_labels_of_the_new_series_are_summed() -> None:
    y, new = np.random.default_rng(7).integers(3, size=12), np.array([0, 2, 1, 1])
    model = compiled(HMM, y=y, K=2, M=3)
    fit = model.infer(60, warmup=20, chains=2, backend="python")
    found = model.probability(y=new, tol=0.0)
    assert found.draws == 120
    logs = [
        forward(np.full(2, 0.5), move, emit[:, new].T)
        for move, emit in zip(fit["move"].reshape(-1, 2, 2), fit["emit"].reshape(-1, 2, 3), strict=True)
    ]
    assert found.log_value == pytest.approx(special.logsumexp(logs) - math.log(120), abs=1e-10)
    # The same length: the labels are still summed, not taken from the fit.
    assert math.isfinite(model.probability(y=y[::-1].copy(), tol=0.0).log_value)


def test_new_cells_of_a_hierarchy_are_drawn() -> None:
    body = (
        "m = Normal(0, 1)\na = Normal(m, 1).rows(len(y))\nfor i in range(len(y)):\n    observe(y[i], Normal(a[i], 1))"
    )
    model = compiled(body, y=[0.5, 1.5, 1.0])
    model.infer(400, warmup=50, chains=2, backend="python")
    found = model.probability(y=[1.0], tol=0.03)
    # m | y is Normal(3/5, 1/(1 + 3/2)): y ~ Normal(m, 2) three times.
    precision = 1 + 3 / 2
    truth = stats.norm.logpdf(1.0, 3.0 / 2 / precision, math.sqrt(1 / precision + 2))
    assert abs(found.log_value - truth) < 4 * found.se


@pytest.mark.parametrize("case", [one for one in cases() if one.name[0] not in "l"], ids=lambda one: one.name)
def test_holding_everything_is_the_log_joint(case: Any) -> None:
    model = Model(case.function)(**case.inputs)
    values = model.interpret(seed=3)
    data = {name: values.observed[name] for name in case.sizes}
    held = dict(values.values)
    found = model.probability(**held, **data)
    assert found.exact
    assert found.log_value == pytest.approx(values.log_joint, rel=1e-9)
    assert found.normalised == (case.name != "g-mixture")


def test_holding_one_leaves_the_others_integrated_out() -> None:
    model = compiled(
        "p = Beta(2, 3)\nq = Beta(1, 1)\nobserve(k, Binomial(10, p))\nobserve(m, Binomial(10, q))", k=7, m=4
    )
    found = model.probability(p=0.6, tol=0.02)
    truth = stats.beta.logpdf(0.6, 2, 3) + stats.binom.logpmf(7, 10, 0.6) - math.log(11)
    assert abs(found.log_value - truth) < 4 * found.se
    model.q.fix(0.5)
    exact = stats.beta.logpdf(0.6, 2, 3) + stats.binom.logpmf(7, 10, 0.6) + stats.binom.logpmf(4, 10, 0.5)
    assert model.probability(p=0.6).log_value == pytest.approx(exact)


def test_a_chain_that_is_held_is_not_summed() -> None:
    y = np.array([0, 1, 1])
    model, _ = markov(y, states=2, labels=2)
    move, emit = tables(2, 2)
    z = np.array([1, 0, 0])
    truth = math.log(0.5) + math.log(move[1, 0] * move[0, 0]) + np.log(emit[z, y]).sum()
    assert model.probability(z=z).log_value == pytest.approx(truth, abs=1e-12)


def test_a_factor_is_not_normalised() -> None:
    found = compiled("x = Bernoulli(0.5)\nfactor(2.0 * x)\nobserve(k, Bernoulli(0.5))", k=1).probability()
    assert found.log_value == pytest.approx(math.log(0.5 * (0.5 + 0.5 * math.exp(2.0))))
    assert not found.normalised
    assert str(found).endswith(", unnormalised")


def test_a_held_flat_variable_is_not_normalised() -> None:
    model = compiled("m = Flat()\nobserve(k, Normal(m, 1))", k=1.0)
    found = model.probability(m=0.5)
    assert found.log_value == pytest.approx(stats.norm.logpdf(0.5))
    assert not found.normalised
    with pytest.raises(UsageError, match=r":2.*|m has the improper prior Flat \(line 2\)"):
        model.probability()


def test_too_few_effective_draws_are_not_proven() -> None:
    model = compiled("m = Normal(0, 100)\nfor i in range(20):\n    observe(y[i], Normal(m, 0.01))", y=np.full(20, 30.0))
    found = model.probability(draws=500)
    assert not found.ok
    assert found.draws == 500
    assert "not proven" in str(found)


def test_what_cannot_be_asked_for() -> None:
    model, _ = markov(np.array([0, 1]), states=2, labels=2)
    for values, words in [
        ({"yy": [1]}, "one has no 'yy'; did you mean y"),
        ({"z": [0, 1, 1]}, "z has the shape (2,), got (3,)"),
        ({"z": [0.5, 1]}, "z holds whole numbers"),
        ({"y": [0, 2]}, "y[1] = 2 cannot come from Categorical"),
        ({"K": 3}, "move is fixed with the shape (2, 2), and has (3, 3) with these values"),
    ]:
        with pytest.raises(UsageError) as error:
            model.probability(**values)
        assert words in str(error.value)
    with pytest.raises(UsageError, match="none of the inputs is observed"):
        compiled("x = Normal(0, 1)\nobserve(y, Normal(x, 1))", y=Shape()).probability()
    assert compiled("x = Normal(0, 1)\nobserve(y, Normal(x, 1))", y=Shape()).probability(x=0.5).exact
    with pytest.raises(UsageError, match="x is a Shape and is read at line 3"):
        compiled(
            "x0 = Normal(0, 1)\nobserve(y, Normal(x0 * x, 1))\nobserve(x, Normal(0, 1))", y=1.0, x=Shape()
        ).probability()


def test_variables_that_do_not_matter_are_not_drawn() -> None:
    found = compiled("x = Normal(0, 1)\ny = Normal(x, 1)\nobserve(k, Poisson(2.0))", k=1).probability()
    assert found.exact
    assert found.log_value == pytest.approx(stats.poisson.logpmf(1, 2.0))


def test_the_record() -> None:
    one = LogProbability(-1.5, 0.25, 100, 60.0)
    assert one.ok
    assert str(one) == "log probability -1.500000 +- 0.25 (100 draws, 60 effective)"
    assert not LogProbability(-1.5, 0.25, 100, 49.0).ok
