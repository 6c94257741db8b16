"""Linear-Gaussian chains draw from the conditional itself, and refuse what is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlsysopt.infer.binding import bind
from mlsysopt.infer.frontend.source import read
from mlsysopt.infer.language import Flat, HalfNormal, InverseGamma, Normal, Poisson, StudentT, array, observe, reduce
from mlsysopt.infer.planning import plan
from mlsysopt.infer.rules import Refusal
from mlsysopt.infer.rules.kalman import Kalman
from mlsysopt.testing.updates import RefusedCase, UpdateCase, UpdateContract
from tests.infer.rules.affine import Scripted, drawn, line_of, proposed, same

RNG = np.random.default_rng(6)
Y = RNG.normal(size=9).round(3)
C = RNG.uniform(0.3, 1.2, size=9).round(3)


def drifting(y, c):
    start = HalfNormal(1.0)
    step = InverseGamma(3.0, 2.0)
    noise = HalfNormal(1.0)
    level = array(float, len(y))
    level[0] = Normal(0.4, start)
    for t in range(1, len(y)):
        level[t] = Normal(c[t] * level[t - 1] + 0.1 * t, var=step)
    for t in range(len(y)):
        observe(y[t], Normal(0.2 + 2.0 * level[t], noise * c[t]))


def trend(y):
    level = array(float, len(y))
    slope = array(float, len(y))
    level[0] = Normal(0.0, 2.0)
    slope[0] = Normal(0.1, 1.0)
    for t in range(1, len(y)):
        level[t] = Normal(level[t - 1] + slope[t - 1], 0.6)
        slope[t] = Normal(0.9 * slope[t - 1], 0.3)
    for t in range(len(y)):
        observe(y[t], Normal(level[t], 0.7))


def second(y):
    x = array(float, len(y))
    x[0] = Normal(0.0, 1.5)
    for t in range(1, len(y)):
        x[t] = Normal(0.6 * x[t - 1] - (0.2 * x[t - 2] if t > 1 else 0.3), 0.8)
    for t in range(len(y)):
        observe(y[t], Normal(x[t], 0.5))


def panel(y, seen):
    x = array(float, y.shape[0], y.shape[1])
    for i in range(y.shape[0]):
        x[i, 0] = Normal(0.5, 0.4)
        for t in range(1, y.shape[1]):
            x[i, t] = Normal(0.8 * x[i, t - 1], precision=2.5)
    for i in range(y.shape[0]):
        for t in range(y.shape[1]):
            if seen[i, t] == 1:
                observe(y[i, t], Normal(x[i, t], 0.3))


def down(y):
    x = array(float, y.shape[0], y.shape[1])
    for i in range(y.shape[1]):
        x[0, i] = Normal(0.0, 1.0)
        for t in range(1, y.shape[0]):
            x[t, i] = Normal(x[t - 1, i], 0.4)
    for t in range(y.shape[0]):
        for i in range(y.shape[1]):
            observe(y[t, i], Normal(x[t, i], 0.3))


def at_times(y, time, T: int):
    x = array(float, T)
    x[0] = Flat()
    for t in range(1, T):
        x[t] = Normal(x[t - 1], 0.5)
    for n in range(len(y)):
        observe(y[n], Normal(x[time[n]], 0.7))


def ragged(y):
    x = array(float, like=y)
    for d in range(len(y)):
        x[d, 0] = Normal(0.0, 1.0)
        for t in range(1, len(y[d])):
            x[d, t] = Normal(0.7 * x[d, t - 1], 0.5)
        for t in range(len(y[d])):
            observe(y[d, t], Normal(x[d, t], 0.6))


SEEN = np.array([[1, 0, 1], [0, 1, 1], [1, 1, 0]])
CASES: dict[str, tuple[Any, str, dict[str, Any], dict[str, Any], tuple[str, ...]]] = {
    "drifting": (drifting, "level", {"y": Y, "c": C}, {"start": 1.3, "step": 0.4, "noise": 0.6}, ("level",)),
    "trend": (trend, "level", {"y": Y}, {}, ("level", "slope")),
    "trend from its slope": (trend, "slope", {"y": Y}, {}, ("slope", "level")),
    "second": (second, "x", {"y": Y}, {}, ("x",)),
    "panel": (panel, "x", {"y": Y.reshape(3, 3), "seen": SEEN}, {}, ("x",)),
    "down": (down, "x", {"y": Y[:8].reshape(4, 2)}, {}, ("x",)),
    "at_times": (at_times, "x", {"y": Y, "time": np.array([5, 1, 1, 0, 3, 5, 2, 1, 5]), "T": 7}, {}, ("x",)),
    "ragged": (ragged, "x", {"y": [Y[:4], Y[4:5], Y[5:]]}, {}, ("x",)),
}


@pytest.mark.parametrize("name", CASES)
def test_mean_and_covariance_are_those_of_the_log_joint(name):
    function, variable, inputs, state, members = CASES[name]
    one = drawn(Kalman(), function, variable, inputs, state)
    assert one.update.variables == members and one.update.exact
    assert same(one.moments(), one.joint(), 1e-6)


def by_hand(
    start: float = 1.3, step: float = 0.4, noise: float = 0.6, without: tuple[int, ...] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and covariance of `level`, from its full precision matrix."""
    unit = np.eye(9)
    rows, targets, weights = [unit[0]], [0.4], [1 / start**2]
    for t in range(1, 9):
        rows.append(unit[t] - C[t] * unit[t - 1])
        targets.append(0.1 * t)
        weights.append(1 / step)
    for t in set(range(9)) - set(without):
        rows.append(2.0 * unit[t])
        targets.append(Y[t] - 0.2)
        weights.append(1 / (noise * C[t]) ** 2)
    a, w = np.array(rows), np.array(weights)
    covariance = np.linalg.inv(a.T @ (w[:, None] * a))
    return covariance @ (a.T @ (w * np.array(targets))), covariance


def test_drifting_equals_the_matrix_written_out():
    one = drawn(Kalman(), drifting, "level", {"y": Y, "c": C}, {"start": 1.3, "step": 0.4, "noise": 0.6})
    assert same(one.moments(), by_hand())


def test_missing_data_add_nothing():
    y = Y.copy()
    y[[0, 4, 5]] = np.nan
    state = {"start": 1.3, "step": 0.4, "noise": 0.6}
    one = drawn(Kalman(), drifting, "level", {"y": y, "c": C}, state, missing="latent")
    one.arrays["v_y"][4] = 100.0
    assert same(one.moments(), by_hand(without=(0, 4, 5)))


def test_many_draws_have_these_moments():
    one = drawn(Kalman(), drifting, "level", {"y": Y, "c": C}, {"start": 1.3, "step": 0.4, "noise": 0.6})
    rng, states = np.random.default_rng(2), []
    for _ in range(3000):
        assert one.draw(rng) == 0
        states.append(one.state())
    mean, covariance = by_hand()
    found = np.array(states)
    sd = np.sqrt(np.diag(covariance))
    assert np.all(np.abs(found.mean(0) - mean) < 4.5 * sd / np.sqrt(3000))
    assert np.all(np.abs(np.cov(found.T) - covariance) < 6 * np.outer(sd, sd) / np.sqrt(3000))


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("v_start[0] * v_start[0]", "v_start[0]"),
        ("(1.0, v_step[0])", "(1.0, v_step[0] * v_step[0])"),
        ("s -= below[t + 1] * value", "s -= below[t] * value"),
        ("(t - 1)", "(t - 0)"),
        ("for t in range(1, ", "for t in range(2, "),
        ("chain_h[0] +=", "chain_h[0] += 0.5 +"),
        ("rng.standard_normal()", "2.0 * rng.standard_normal()"),
    ],
)
def test_mutants_fail(right, wrong):
    one = drawn(Kalman(), drifting, "level", {"y": Y, "c": C}, {"start": 1.3, "step": 0.4, "noise": 0.6})
    assert right in one.text
    one.text = one.text.replace(right, wrong)
    assert not same(one.moments(), by_hand(), 1e-3)


def test_a_start_that_nothing_pins_down_fails():
    time = np.zeros(9, np.int64)
    assert drawn(Kalman(), at_times, "x", {"y": Y, "time": time, "T": 3}, {}).draw(Scripted(np.zeros(0))) == 0

    def unseen(y, seen, T: int):
        x = array(float, T)
        x[0] = Flat()
        for t in range(1, T):
            x[t] = Normal(x[t - 1], 0.5)
        for t in range(T):
            if seen[t] == 1:
                observe(y[t], Normal(x[t], 1.0))

    one = drawn(Kalman(), unseen, "x", {"y": Y, "seen": np.zeros(9, np.int64), "T": 9}, {})
    assert one.draw(Scripted(np.zeros(0))) == 9


def test_coefficients_of_a_chain_have_updates_of_their_own():
    def arx(y):
        phi = Normal(0.5, 0.3)
        mu = Normal(0.0, 1.0)
        x = array(float, len(y))
        x[0] = Normal(mu, 1.0)
        for t in range(1, len(y)):
            x[t] = Normal(mu + phi * x[t - 1], 0.5)
        for t in range(len(y)):
            observe(y[t], Normal(x[t], 0.5))

    found = plan(bind(read(arx), {"y": Y}).program)
    assert found.rule_of("x") == "kalman"
    one = drawn(Kalman(), arx, "x", {"y": Y}, {"phi": 0.7, "mu": 0.2})
    assert one.update.variables == ("x",)
    assert same(one.moments(), one.joint(), 1e-6)


def single(y):
    x = Normal(0.0, 1.0)
    for t in range(len(y)):
        observe(y[t], Normal(x, 1.0))


def tree(y, parent):
    x = array(float, len(y))
    x[0] = Normal(0.0, 1.0)
    for t in range(1, len(y)):
        x[t] = Normal(x[parent[t]], 1.0)
    for t in range(len(y)):
        observe(y[t], Normal(x[t], 1.0))


def window(y):
    x = array(float, len(y))
    x[0] = Normal(0.0, 1.0)
    for t in range(1, len(y)):
        x[t] = Normal(reduce("add", x[0:t]), 1.0)
    for t in range(len(y)):
        observe(y[t], Normal(x[t], 1.0))


def growing(y):
    x = array(float, len(y))
    x[0] = Normal(0.0, 1.0)
    for t in range(1, len(y)):
        x[t] = Normal(x[t - 1] * x[t - 1], 1.0)
    for t in range(len(y)):
        observe(y[t], Normal(x[t], 1.0))


def volatile(y):
    x = array(float, len(y))
    x[0] = Normal(0.0, 1.0)
    for t in range(1, len(y)):
        x[t] = Normal(x[t - 1], 1.0)
    for t in range(len(y)):
        observe(y[t], Normal(0.0, abs(x[t])))


def events(y):
    x = array(float, len(y))
    x[0] = Normal(0.0, 1.0)
    for t in range(1, len(y)):
        x[t] = Normal(x[t - 1], 1.0)
    for t in range(len(y)):
        observe(y[t], Poisson(x[t] * x[t]))


def jumps(y):
    x = array(float, len(y))
    x[0] = Normal(0.0, 1.0)
    for t in range(1, len(y)):
        x[t] = StudentT(3.0, x[t - 1], 1.0)
    for t in range(len(y)):
        observe(y[t], Normal(x[t], 1.0))


def ends(y, other):
    x = array(float, len(y))
    x[0] = Normal(0.0, 1.0)
    for t in range(1, len(y)):
        x[t] = Normal(x[t - 1], 1.0)
    for t in range(len(y)):
        observe(y[t], Normal(x[t] + x[other[t]], 1.0))


def far(y):
    x = array(float, len(y))
    for t in range(9):
        x[t] = Normal(0.0, 1.0)
    for t in range(9, len(y)):
        x[t] = Normal(x[t - 9], 1.0)
    for t in range(len(y)):
        observe(y[t], Normal(x[t], 1.0))


REFUSED: dict[str, tuple[Any, str, str]] = {
    "single": (single, "do not follow one another", "x = Normal"),
    "tree": (tree, "not `t - 1`", "parent[t]"),
    "window": (window, "not `t - 1`", "reduce"),
    "growing": (growing, "not linear", "x[t - 1] * x[t - 1]"),
    "volatile": (volatile, "read in the sd", "abs(x[t])"),
    "events": (events, "Poisson, which is no Normal", "Poisson"),
    "jumps": (jumps, "StudentT is no Gaussian prior", "StudentT"),
    "ends": (ends, "distance that is not known", "other[t]"),
    "far": (far, "dimension 9", "x[t] = Normal(0.0, 1.0)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name):
    function, reason, text = REFUSED[name]
    order = np.array([0, 0, 1, 0, 2, 1, 3, 0, 4])
    extra = {"parent": order} if name == "tree" else {"other": order} if name == "ends" else {}
    y = np.arange(9) if name == "events" else Y
    found = proposed(Kalman(), function, "x", {"y": y, **extra})
    assert isinstance(found, Refusal), found
    assert reason in found.reason
    assert found.line == line_of(function, text)


class TestKalman(UpdateContract):
    """The contract of every rule."""

    compiled = ("drifting", "trend")

    def rule(self):
        return Kalman()

    def cases(self):
        scales = {"start": 1.3, "step": 0.4, "noise": 0.6}
        return [
            UpdateCase("drifting", drifting, {"y": Y, "c": C}, "level", fixed=scales, simulates=True),
            UpdateCase("second", second, {"y": Y}, "x", simulates=True),
            UpdateCase("trend", trend, {"y": Y}, "level"),
        ]

    def refusals(self):
        return [RefusedCase(single, {"y": Y}, "x", "do not follow one another", "x = Normal")]
