"""Closed forms against integration and BoTorch; the search for their maximum against a grid."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mlsysopt.core.search.acquisition import (
    Acquisition,
    log_expected_improvement,
    log_met,
    nearest_validity,
    propose,
)
from mlsysopt.core.search.model import Model
from mlsysopt.core.search.surrogate import GP, Hyper
from mlsysopt.core.space import Choice, Float, Int, Space

NUMERIC = np.zeros(2, bool)


def test_improvement_is_the_integral() -> None:
    rng = np.random.default_rng(0)
    drawn = 0.3 + 0.5 * rng.standard_normal(400_000)
    expected = np.log(np.maximum(drawn - 0.6, 0).mean())
    got = log_expected_improvement(np.array([0.3]), np.array([0.25]), 0.6)[0]
    assert got == pytest.approx(expected, abs=0.01)


def test_improvement_equals_botorch_far_into_the_tail() -> None:
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from botorch.acquisition.analytic import _log_ei_helper

    u = np.concatenate([-np.logspace(9, -3, 150), [0.0], np.logspace(-3, 2, 50)])
    got = log_expected_improvement(u, np.ones_like(u), 0.0)
    np.testing.assert_allclose(got, _log_ei_helper(torch.as_tensor(u)).numpy(), rtol=1e-9)
    assert (np.diff(got) > 0).all()


def test_a_guard_is_met_with_the_normal_probability() -> None:
    assert np.exp(log_met(np.array([0.0]), np.array([1.0])))[0] == pytest.approx(0.5)
    assert np.isfinite(log_met(np.array([1e4]), np.array([1e-4])))[0]


def test_validity_falls_where_trials_failed() -> None:
    x = np.array([[0.1, 0.1], [0.2, 0.1], [0.1, 0.2], [0.9, 0.9], [0.8, 0.9], [0.9, 0.8], [0.5, 0.1], [0.1, 0.5]])
    worked = np.array([True, True, True, False, False, False, True, True])
    estimate = nearest_validity(x, worked, NUMERIC)
    good, bad = estimate(np.array([[0.12, 0.12], [0.88, 0.88]]))
    assert good > 0.9 > 0.4 > bad > 0.0
    assert estimate(x[3:4])[0] < estimate(x[:1])[0]


def test_one_failure_weighs_most_where_it_happened() -> None:
    rng = np.random.default_rng(1)
    x = rng.random((12, 2))
    worked = np.ones(12, bool)
    worked[4] = False
    estimate = nearest_validity(x, worked, NUMERIC)
    assert estimate(x[4:5])[0] == estimate(x).min()
    assert estimate(x[4:5])[0] < 0.6


def test_without_failures_everything_is_valid() -> None:
    estimate = nearest_validity(np.random.default_rng(2).random((6, 2)), np.ones(6, bool), NUMERIC)
    np.testing.assert_array_equal(estimate(np.array([[0.3, 0.3]])), [1.0])


def _acquisition(guarded: bool = False) -> Acquisition:
    rng = np.random.default_rng(3)
    x = rng.random((14, 2))
    noise = np.full(14, 1e-4)
    gain = -8 * (x[:, 0] - 0.31) ** 2 - 5 * (x[:, 1] - 0.62) ** 2
    settings: Any = {"columns": [0, 1], "categorical": NUMERIC}
    guards = {"g": GP.fit(x, x[:, 1] - 0.4, noise, **settings)} if guarded else {}
    rest = GP.fit(x, gain, noise, **settings)
    model = Model((), (), None, rest, guards, None, best=float(gain.max()))
    return Acquisition(model, lambda at: np.ones(len(at)))


@pytest.mark.parametrize("guarded", [False, True])
def test_proposal_is_as_high_as_the_best_of_a_fine_grid(guarded: bool) -> None:
    space = Space([Float("a", 0.0, 1.0), Float("b", 0.0, 1.0)])
    acquisition = _acquisition(guarded)
    axis = np.linspace(0, 1, 120)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    found = propose(acquisition, space, [], categorical=NUMERIC, seen=frozenset(), seed=0)
    assert found is not None
    assert acquisition(space.encode(found)[None])[0] >= acquisition(grid).max() - 0.01
    if guarded:
        assert found["b"] < 0.5


def test_the_least_likely_guard_counts_however_many_there_are() -> None:
    acquisition = _acquisition(guarded=True)
    guard = acquisition.model.guards["g"]
    at = np.random.default_rng(5).random((50, 2))
    once = acquisition.smooth(at)
    easy = replace(guard, hyper=replace(guard.hyper, centre=guard.hyper.centre - 3.0))
    many = replace(acquisition, model=replace(acquisition.model, guards={"g": guard, "copy": guard, "easy": easy}))
    np.testing.assert_array_equal(many.smooth(at), once)
    alone = replace(acquisition, model=replace(acquisition.model, guards={}))
    np.testing.assert_allclose(once - alone.smooth(at), log_met(*guard.posterior(at)), atol=1e-9)


def test_a_sure_step_within_the_noise_is_worth_less_than_a_guess() -> None:
    """One model of two columns: near the best point a small gain is sure, far from it nothing is known."""
    x = np.array([[0.5, 0.5], [0.45, 0.5], [0.55, 0.5], [0.5, 0.45], [0.5, 0.55]])
    gain = np.array([0.0, -0.03, 0.02, -0.02, 0.01])
    rest = GP.of(Hyper((0.4, 0.4), floor=1e-4), x, gain, np.zeros(5), columns=[0, 1], categorical=NUMERIC)
    # The guard is thought to be met near the trials, and as likely broken as met far away.
    guard = GP.of(Hyper((0.3, 0.3), floor=1e-4), x, np.full(5, -1.0), np.zeros(5), columns=[0, 1], categorical=NUMERIC)
    near, far = np.array([[0.57, 0.53]]), np.array([[0.0, 1.0]])
    sharp = Model((), (), None, rest, {"g": guard, "h": guard}, None, best=0.02, noise=0.0)
    told = {noise: Acquisition(replace(sharp, noise=noise), lambda u: np.ones(len(u))) for noise in (0.0, 0.1)}
    preferred = {noise: float((it.smooth(near) - it.smooth(far))[0]) for noise, it in told.items()}
    assert preferred[0.1] < 0.0
    assert preferred[0.1] < preferred[0.0]


def test_proposal_meets_constraints_and_is_new() -> None:
    space = Space([Int("a", 1, 3, default=1), Int("b", 1, 3)], constraints=["a + b <= 4"])
    acquisition = _acquisition()
    seen: set[str] = set()
    for seed in range(6):
        found = propose(acquisition, space, [], categorical=NUMERIC, seen=frozenset(seen), seed=seed)
        assert found is not None
        assert space.violations(found) == []
        assert space.canonical(found) not in seen
        seen.add(space.canonical(found))
    assert propose(acquisition, space, [], categorical=NUMERIC, seen=frozenset(seen), seed=9) is None


def test_categories_are_searched_without_gradients() -> None:
    space = Space([Float("a", 0.0, 1.0), Choice("c", ("x", "y", "z"))])
    kinds = np.array([False, True])
    at = np.asarray(space.encode_many([{"a": a, "c": c} for a in (0.1, 0.5, 0.9) for c in "xyz"]))
    gain = np.where(at[:, 1] > 0.6, 1.0, 0.0) - (at[:, 0] - 0.7) ** 2
    hyper = Hyper((0.5, 0.7), floor=1e-4)
    rest = GP.of(hyper, at, gain, np.zeros(9), columns=[0, 1], categorical=kinds)
    acquisition = Acquisition(Model((), (), None, rest, {}, None, best=0.9), lambda u: np.ones(len(u)))
    found = propose(acquisition, space, [at[8]], categorical=kinds, seen=frozenset(), seed=0)
    assert found is not None and found["c"] == "z"
    assert found["a"] == pytest.approx(0.7, abs=0.15)
