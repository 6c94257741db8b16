"""Models run as ordinary Python: their log joint against hand-written sums, and what they draw."""

# What a model draws is read by nobody in it.
# ruff: noqa: F841

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from mlsysopt.infer.interpret import interpret
from mlsysopt.infer.language import Dirichlet, Multinomial, MultivariateNormal
from tests.infer.models import Case, cases
from tests.infer.models_by_hand import BY_HAND
from tests.infer.written import run_text

CASES = {case.name: case for case in cases()}


def test_there_are_twelve_small_cases() -> None:
    assert [name[0] for name in CASES] == list("abcdefghijkl")
    assert all(0 < sum(case.sizes.values()) <= 60 for case in CASES.values())


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_log_joint_is_the_sum_of_its_densities(case: Case, seed: int) -> None:
    run = interpret(case.function, case.inputs, seed=seed)
    prior, likelihood = BY_HAND[case.name](run.values, run.observed, case.inputs)
    assert run.log_likelihood == pytest.approx(likelihood, rel=1e-11)
    assert run.log_joint == pytest.approx(prior + likelihood, rel=1e-11)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_given_its_own_values_and_data_a_run_repeats(case: Case) -> None:
    run = interpret(case.function, case.inputs, seed=5)
    sizes = {name: sum(map(len, data)) if isinstance(data, list) else data.size for name, data in run.observed.items()}
    assert sizes == case.sizes
    again = interpret(case.function, {**case.inputs, **run.observed}, values=run.values, seed=6)
    assert (again.log_joint, again.log_likelihood) == (run.log_joint, run.log_likelihood)
    assert str(again.values) == str(run.values)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_same_seed_same_values(case: Case) -> None:
    runs = [interpret(case.function, case.inputs, seed=seed) for seed in (1, 1, 2)]
    assert str(runs[0]) == str(runs[1])
    assert str(runs[0].values) != str(runs[2].values)


def test_values_are_arrays_of_two_types_and_numbers() -> None:
    run = interpret(CASES["h-markov"].function, CASES["h-markov"].inputs)
    assert {name: value.dtype.name for name, value in run.values.items()} == {
        "move": "float64",
        "emit": "float64",
        "z": "int64",
    }
    assert run.observed["y"].dtype == np.int64
    numbers = interpret(CASES["l-stubborn"].function, CASES["l-stubborn"].inputs).values
    assert type(numbers["animals"]) is int
    assert type(numbers["scale"]) is float
    assert [row.dtype.name for row in interpret(CASES["j-topics"].function, CASES["j-topics"].inputs).values["z"]] == [
        "int64"
    ] * 4


# Every distribution: its text in a model, the same in SciPy, and a value.
DISTRIBUTIONS = [
    ("Bernoulli(0.3)", stats.bernoulli(0.3)),
    ("BernoulliLogit(-0.4)", stats.bernoulli(1 / (1 + math.exp(0.4)))),
    ("Beta(2.0, 0.7)", stats.beta(2.0, 0.7)),
    ("Binomial(9, 0.2)", stats.binom(9, 0.2)),
    ("Categorical([0.2, 0.5, 0.3])", stats.rv_discrete(values=([0, 1, 2], [0.2, 0.5, 0.3]))),
    ("Categorical.uniform(5)", stats.randint(0, 5)),
    ("Cauchy(1.0, 2.0)", stats.cauchy(1.0, 2.0)),
    ("Exponential(4.0)", stats.expon(scale=0.25)),
    ("Gamma(2.5, 3.0)", stats.gamma(2.5, scale=1 / 3)),
    ("Geometric(0.3)", stats.geom(0.3, loc=-1)),
    ("HalfCauchy(2.0)", stats.halfcauchy(scale=2.0)),
    ("HalfNormal(2.0)", stats.halfnorm(scale=2.0)),
    ("InverseGamma(6.0, 3.0)", stats.invgamma(6.0, scale=3.0)),
    ("Laplace(1.0, 2.0)", stats.laplace(1.0, 2.0)),
    ("LogNormal(0.5, 0.4)", stats.lognorm(0.4, scale=math.exp(0.5))),
    ("NegativeBinomial(2.5, 0.4)", stats.nbinom(2.5, 0.4)),
    ("Normal(1.0, 2.0)", stats.norm(1.0, 2.0)),
    ("Normal(1.0, sd=2.0)", stats.norm(1.0, 2.0)),
    ("Normal(1.0, var=4.0)", stats.norm(1.0, 2.0)),
    ("Normal(1.0, precision=0.25)", stats.norm(1.0, 2.0)),
    ("Poisson(3.5)", stats.poisson(3.5)),
    ("StudentT(5.0, 1.0, 2.0)", stats.t(5.0, 1.0, 2.0)),
    ("TruncatedNormal(1.0, 2.0, 0.0, 1.5)", stats.truncnorm(-0.5, 0.25, 1.0, 2.0)),
    ("TruncatedNormal(1.0, 2.0, high=-3.0)", stats.truncnorm(-np.inf, -2.0, 1.0, 2.0)),
    ("TruncatedNormal(1.0, 2.0)", stats.norm(1.0, 2.0)),
    ("Uniform(-1.0, 3.0)", stats.uniform(-1.0, 4.0)),
]


@pytest.mark.parametrize(("text", "known"), DISTRIBUTIONS, ids=[text for text, _ in DISTRIBUTIONS])
def test_draws_and_densities_of_a_distribution(text: str, known) -> None:
    n = 3000
    run = run_text(f"x = {text}.rows({n})", seed=12)
    x = run.values["x"]
    discrete = hasattr(known, "pmf")
    assert x.shape == (n,)
    assert x.dtype == (np.int64 if discrete else np.float64)
    logs = known.logpmf(x) if discrete else known.logpdf(x)
    assert run.log_joint == pytest.approx(logs.sum(), rel=1e-10)
    one = run_text(f"x = {text}", values={"x": x[0]})
    assert one.log_joint == pytest.approx(logs[0], rel=1e-10)
    if discrete:
        assert abs(x.mean() - known.mean()) < 4.5 * known.std() / n**0.5
        share = (x == x[0]).mean()
        assert abs(share - known.pmf(x[0])) < 4.5 * (known.pmf(x[0]) / n) ** 0.5
    else:
        assert stats.kstest(x, known.cdf).pvalue > 1e-4


@pytest.mark.parametrize(
    ("text", "outside"),
    [
        ("Beta(2.0, 2.0)", 1.5),
        ("Poisson(2.0)", -1),
        ("Categorical([0.5, 0.5])", 2),
        ("Categorical([0.5, 0.5])", -1),
        ("Categorical([0.0, 1.0])", 0),
        ("BernoulliLogit(0.0)", 2),
        ("Gamma(2.0, 2.0)", -1.0),
        ("LogNormal(0.0, 1.0)", -1.0),
        ("HalfFlat()", -1.0),
        ("Uniform(0.0, 1.0)", 2.0),
        ("TruncatedNormal(0.0, 1.0, low=0.0)", -0.1),
        ("Dirichlet(1.0, 2)", [0.7, 0.7]),
        ("Multinomial(3, [0.5, 0.5])", [1, 1]),
    ],
)
def test_no_density_outside_of_the_support(text: str, outside) -> None:
    assert run_text(f"x = {text}", values={"x": outside}).log_joint == -math.inf


def vectors(alpha, K: int):
    even = Dirichlet(0.05, K)
    each = Dirichlet(alpha).rows(2)
    votes = Multinomial(40, each[1])
    many = Multinomial(7, even).rows(3)
    x = MultivariateNormal([1.0, -1.0], [[2.0, 0.5], [0.5, 1.0]]).rows(4)


def test_vectors() -> None:
    alpha = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    run = interpret(vectors, {"alpha": alpha, "K": 3}, seed=2)
    v = run.values
    assert {name: value.shape for name, value in v.items()} == {
        "even": (3,),
        "each": (2, 3),
        "votes": (3,),
        "many": (3, 3),
        "x": (4, 2),
    }
    by_hand = (
        stats.dirichlet([0.05] * 3).logpdf(v["even"])
        + stats.dirichlet(alpha[0]).logpdf(v["each"][0])
        + stats.dirichlet(alpha[1]).logpdf(v["each"][1])
        + stats.multinomial(40, v["each"][1]).logpmf(v["votes"])
        + sum(stats.multinomial(7, v["even"]).logpmf(row) for row in v["many"])
        + stats.multivariate_normal([1.0, -1.0], [[2.0, 0.5], [0.5, 1.0]]).logpdf(v["x"]).sum()
    )
    assert run.log_joint == pytest.approx(by_hand, rel=1e-9)


def test_moments_of_vector_draws() -> None:
    row = run_text("x = Dirichlet([0.3, 1.0, 0.7]).rows(4000)", seed=4).values["x"]
    known = stats.dirichlet([0.3, 1.0, 0.7])
    assert np.abs(row.mean(axis=0) - known.mean()).max() < 4.5 * known.var().max() ** 0.5 / 4000**0.5
    assert np.abs(row.var(axis=0) - known.var()).max() < 0.006
    assert (row > 0).all()
    x = run_text("x = MultivariateNormal(m, S).rows(800)", {"m": [1.0, -1.0], "S": [[2.0, 0.5], [0.5, 1.0]]}, seed=4)
    assert np.cov(x.values["x"].T) == pytest.approx(np.array([[2.0, 0.5], [0.5, 1.0]]), abs=0.4)


def test_forward_runs_have_the_moments_of_the_joint() -> None:
    case = CASES["a-chance"]
    runs = [interpret(case.function, case.inputs, seed=seed) for seed in range(120)]
    p = np.array([run.values["p"] for run in runs])
    assert abs(p.mean() - 0.4) < 4.5 * (0.04 / 120) ** 0.5
    won = np.array([run.observed["won"] for run in runs])
    shares = won.mean(axis=0) / (0.4 * case.inputs["trials"])
    assert np.abs(shares - 1).max() < 0.5
    assert np.corrcoef(p, won.sum(axis=1))[0, 1] > 0.7


def test_small_shapes_are_never_zero() -> None:
    run = run_text("x = Gamma(0.001, 1.0).rows(50)\ny = Dirichlet(0.002, 4).rows(50)\nz = Beta(0.001, 0.001).rows(50)")
    assert all((value > 0).all() for value in run.values.values())
    assert (run.values["z"] < 1).all()
    assert math.isfinite(run.log_joint)
