"""NUTS on emitted gradients against quadrature, and what makes its draws reproducible."""

# The words of the language carry nothing outside of a model.
# pyright: reportIndexIssue=false

from __future__ import annotations

import builtins
import math
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlsysopt.core.errors import MissingExtra, UsageError
from mlsysopt.infer.differentiate import nuts
from mlsysopt.infer.language import BernoulliLogit, Exponential, Flat, HalfNormal, Normal, Uniform, array, dot, observe
from tests.infer.differentiate.difference import engine_of

Floats = NDArray[np.float64]

pytest.importorskip("nutpie")


def logistic(y, x):
    slopes = Normal(0.0, 2.0).rows(x.shape[1])
    for i in range(len(y)):
        observe(y[i], BernoulliLogit(dot(x[i], slopes)))


def schools(y, sd):
    mean = Normal(0.0, 5.0)
    spread = HalfNormal(5.0)
    raw = Normal(0.0, 1.0).rows(len(y))
    for j in range(len(y)):
        observe(y[j], Normal(mean + spread * raw[j], sd[j]))


def flat(y):
    mean = Flat()
    copy = array(float, len(y))
    for i in range(len(y)):
        observe(y[i], Normal(mean, 1.0))
    for i in range(len(y)):
        copy[i] = Normal(mean, 1.0)


def narrow(y):
    rate = Exponential(1.0)
    for i in range(len(y)):
        observe(y[i], Uniform(0.0, rate))


def level(y):
    x = Flat()
    unfelt = Flat()
    for i in range(len(y)):
        observe(y[i], Normal(x if y[i] < 9.0 else unfelt, 1.0))


def collinear(rows: int) -> dict[str, Any]:
    rng = np.random.default_rng(8)
    first = rng.normal(size=rows)
    x = np.column_stack([first, 0.9 * first + 0.45 * rng.normal(size=rows)])
    return {"y": (rng.random(rows) < 1.0 / (1.0 + np.exp(-x @ [1.0, -0.5]))).astype(np.int64), "x": x}


SCHOOLS = {
    "y": np.array([28.0, 8, -3, 7, -1, 1, 18, 12]) / 3.0,
    "sd": np.array([15.0, 10, 16, 11, 9, 11, 10, 18]) / 3.0,
}


def moments(grids: list[Floats], log_density: Callable[..., Floats]) -> tuple[Floats, Floats]:
    """Return means and standard deviations by the sum over a grid."""
    axes = np.meshgrid(*grids, indexing="ij")
    weight = log_density(*axes)
    weight = np.exp(weight - weight.max())
    weight /= weight.sum()
    mean = np.array([(weight * one).sum() for one in axes])
    return mean, np.sqrt([(weight * (one - m) ** 2).sum() for one, m in zip(axes, mean, strict=True)])


def close(draws: Floats, mean: Floats, sd: Floats, effective: float) -> None:
    """Assert moments within four standard errors of that many independent draws."""
    assert np.abs(draws.mean(0) - mean) / sd == pytest.approx(0.0, abs=4.0 / np.sqrt(effective))
    assert draws.std(0) / sd == pytest.approx(1.0, abs=4.0 / np.sqrt(effective))


def test_correlated_logistic_regression_has_its_posterior_moments() -> None:
    given = collinear(25)

    def density(a: Floats, b: Floats) -> Floats:
        eta = a[..., None] * given["x"][:, 0] + b[..., None] * given["x"][:, 1]
        return (given["y"] * eta - np.logaddexp(0.0, eta)).sum(-1) - (a * a + b * b) / 8.0

    grid = np.linspace(-7.0, 7.0, 141)
    mean, sd = moments([grid, grid], density)
    one = nuts.sample(engine_of(logistic, given), draws=1200, warmup=300, seed=1, chain=0, backend="python")
    close(one.draws["slopes"], mean, sd, 400.0)
    assert one.divergences == 0
    assert one.gradients >= 1500
    assert one.joint.shape == (1200, 2)


def test_hierarchical_model_not_centred_has_its_posterior_moments() -> None:
    y, noise = SCHOOLS["y"], SCHOOLS["sd"]

    def density(mean: Floats, spread: Floats) -> Floats:
        variance = spread[..., None] ** 2 + noise**2
        each = -0.5 * (y - mean[..., None]) ** 2 / variance - 0.5 * np.log(variance)
        return each.sum(-1) - mean**2 / 50.0 - spread**2 / 50.0

    mean, sd = moments([np.linspace(-12.0, 16.0, 281), np.linspace(0.005, 25.0, 1250)], density)
    one = nuts.sample(engine_of(schools, SCHOOLS), draws=1500, warmup=400, seed=3, chain=0, backend="python")
    close(np.column_stack([one.draws["mean"][:, 0], one.draws["spread"][:, 0]]), mean, sd, 400.0)
    assert one.draws["raw"].shape == (1500, 8)


def test_draws_depend_on_seed_and_chain_only() -> None:
    engine = engine_of(logistic, collinear(12))

    def run(seed: int, chain: int, backend: Any) -> Floats:
        return nuts.sample(engine, draws=40, warmup=60, seed=seed, chain=chain, backend=backend).draws["slopes"]

    with ThreadPoolExecutor(3) as pool:
        threads = [pool.submit(run, 5, chain, "single") for chain in (0, 1, 2)]
        found = [one.result() for one in threads]
    for chain in (0, 1):
        assert np.array_equal(found[chain], run(5, chain, "python"))
    assert not np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], run(6, 0, "python"))


def test_an_engine_that_travelled_gives_the_same_draws() -> None:
    engine = engine_of(flat, {"y": np.array([0.5, 1.0])})
    here, there = (
        nuts.sample(one, draws=50, warmup=50, seed=9, chain=1, backend="python")
        for one in (engine, pickle.loads(pickle.dumps(engine)))
    )
    for name in ("mean", "copy"):
        assert np.array_equal(here.draws[name], there.draws[name])
    assert np.array_equal(here.joint, there.joint)


def test_where_arithmetic_fails_there_is_no_density() -> None:
    smooth = nuts.Smooth(engine_of(flat, {"y": np.zeros(2)}), "python")

    def far_out(*_: Any) -> float:
        return math.floor(math.nan)

    smooth.functions = {**smooth.functions, "log_density_and_gradient": far_out}
    value, gradient = smooth.log_density()(np.ones(1))
    assert (value, gradient.tolist()) == (-math.inf, [0.0])


def test_improper_priors_start_on_the_line_and_the_rest_is_drawn_forward() -> None:
    y = np.random.default_rng(1).normal(50.0, 1.0, size=20)
    one = nuts.sample(engine_of(flat, {"y": y}), draws=400, warmup=200, seed=2, chain=0, backend="python")
    close(one.draws["mean"], np.array([y.mean()]), np.array([20.0**-0.5]), 100.0)
    close((one.draws["copy"] - one.draws["mean"]).reshape(-1, 1), np.zeros(1), np.ones(1), 4000.0)
    inside = (-0.5 * (y - one.draws["mean"]) ** 2 - 0.5 * np.log(2 * np.pi)).sum(1)
    assert one.joint[:, 1] == pytest.approx(inside)


def test_a_start_without_density_names_the_line() -> None:
    engine = engine_of(narrow, {"y": np.array([0.5, 5000.0])})
    with pytest.raises(
        UsageError, match=r"test_nuts\.py:\d+: y has no finite density at any of 100 draws from the prior"
    ):
        nuts.sample(engine, draws=10, warmup=10, seed=0, chain=0, backend="python")


def test_a_direction_without_any_slope_cannot_be_started() -> None:
    engine = engine_of(level, {"y": np.array([0.5, 1.0])})
    with pytest.raises(UsageError, match=r"test_nuts\.py:\d+: the density is flat in some direction at each of 100"):
        nuts.sample(engine, draws=10, warmup=10, seed=0, chain=0, backend="python")


def test_a_chain_that_is_stopped_keeps_its_first_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(flat, {"y": np.array([0.5, 1.0])})
    whole = nuts.sample(engine, draws=300, warmup=50, seed=4, chain=0, backend="python")
    monkeypatch.setattr(nuts, "LOOK_S", 0.02)
    part = nuts.sample(engine, draws=10_000_000, warmup=50, seed=4, chain=0, backend="python", stop=lambda: True)
    count = len(part.joint)
    assert count < 10_000_000
    assert len(part.draws["mean"]) == count
    both = min(count, 300)
    assert np.array_equal(part.draws["mean"][:both], whole.draws["mean"][:both])


def test_without_nutpie_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "nutpie":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtra, match=r"NUTS needs the 'infer' extra: pip install 'mlsysopt\[infer\]'"):
        nuts.sample(engine_of(flat, {"y": np.zeros(2)}), draws=1, warmup=1, seed=0, chain=0, backend="python")
