"""Joint Gaussian blocks draw from the conditional itself, and refuse what is none."""

from __future__ import annotations

import numpy as np
import pytest

from mlsysopt.infer.analysis.blanket import Analysis
from mlsysopt.infer.binding import bind
from mlsysopt.infer.frontend.source import read
from mlsysopt.infer.language import (
    Flat,
    HalfNormal,
    Normal,
    observe,
)
from mlsysopt.infer.planning import plan
from mlsysopt.infer.rules import Update
from mlsysopt.infer.rules.gaussian import Gaussian
from mlsysopt.infer.runtime.streams import stream
from mlsysopt.testing.updates import RefusedCase, UpdateCase, UpdateContract
from tests.infer.rules.affine import Scripted, drawn, proposed, same
from tests.infer.rules.gaussian_models import (
    CASES,
    COUNTED,
    GROUP,
    XS,
    X,
    Y,
    alone,
    autoregression,
    crossed,
    groups_and_slopes,
    guarded,
    hierarchy,
    in_index,
    regression,
    repeated,
    uneven,
)


@pytest.mark.parametrize("name", CASES)
def test_mean_and_covariance_are_those_of_the_log_joint(name):
    function, variable, inputs, state, members = CASES[name]
    one = drawn(Gaussian(), function, variable, inputs, state)
    assert one.update.variables == members and one.update.exact
    assert same(one.moments(), one.joint(), 1e-6)


def by_hand(tau: float = 0.7, sd: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and covariance of (mu, slope, alpha) of the hierarchy, from its full precision matrix."""
    rows, targets, weights = [[1.0, 0, 0, 0, 0], [0, 1.0, 0, 0, 0]], [0.3, 0.1], [1 / 2.0**2, 1 / 1.5**2]
    for j in range(3):
        rows.append([-1.0, 0, *(float(i == j) for i in range(3))])
        targets.append(0.0)
        weights.append(1 / tau**2)
    for y, x, g in zip(Y, X, GROUP, strict=True):
        rows.append([0.0, x, *(float(i == g) for i in range(3))])
        targets.append(y)
        weights.append(1 / sd**2)
    a, w = np.array(rows), np.array(weights)
    covariance = np.linalg.inv(a.T @ (w[:, None] * a))
    return covariance @ (a.T @ (w * np.array(targets))), covariance


def test_hierarchy_equals_the_matrix_written_out():
    one = drawn(Gaussian(), hierarchy, "mu", COUNTED, {"tau": 0.7, "sd": 0.4})
    assert same(one.moments(), by_hand())


def test_many_draws_have_these_moments():
    one = drawn(Gaussian(), hierarchy, "mu", COUNTED, {"tau": 0.7, "sd": 0.4})
    rng, states = np.random.default_rng(1), []
    for _ in range(4000):
        assert one.draw(rng) == 0
        states.append(one.state())
    mean, covariance = by_hand()
    found = np.array(states)
    sd = np.sqrt(np.diag(covariance))
    assert np.all(np.abs(found.mean(0) - mean) < 4.5 * sd / np.sqrt(4000))
    assert np.all(np.abs(np.cov(found.T) - covariance) < 6 * np.outer(sd, sd) / np.sqrt(4000))


def test_regression_equals_least_squares_with_ridge():
    one = drawn(Gaussian(), regression, "intercept", {"y": Y, "xs": XS}, {"variance": 0.3})
    a = np.column_stack([np.ones(12), XS])
    prior = np.diag([0.0, 0.25, 0.25, 0.25])
    covariance = np.linalg.inv(a.T @ a / 0.3 + prior)
    mean = covariance @ (a.T @ Y / 0.3 + prior @ np.array([0.0, 0.5, 0.5, 0.5]))
    assert same(one.moments(), (mean, covariance))


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("v_tau[0] * v_tau[0]", "v_tau[0]"),
        ("v_sd[0] * v_sd[0]", "v_sd[0]"),
        ("range(v_J[0])", "range(v_J[0] - 1)"),
        ("block_q[0, 0] +=", "block_q[0, 0] += 0.25 +"),
        ("group_link[", "group_link[0 * "),
        ("rng.standard_normal()", "2.0 * rng.standard_normal()"),
    ],
)
def test_mutants_fail(right, wrong):
    one = drawn(Gaussian(), hierarchy, "mu", COUNTED, {"tau": 0.7, "sd": 0.4})
    assert right in one.text
    one.text = one.text.replace(right, wrong)
    assert not same(one.moments(), by_hand(), 1e-3)


def test_many_crossed_effects_are_drawn_part_by_part():
    inputs = {"y": Y, "left": np.arange(12) * 25, "right": GROUP[::-1] % 2, "J": 300, "K": 2}
    one = drawn(Gaussian(), crossed, "mu", inputs, {"mu": 0.4, "a": np.full(300, 0.2), "b": [0.1, -0.3]})
    assert one.update.about == "joint Gaussian block, b cell by cell given mu, a: dense, 1 + J numbers"
    # The last part draws `a` given the others as they came out before.
    rng = Scripted(np.zeros(0))
    assert one.draw(rng) == 0 and rng.used == 303
    weight = 1 / 0.6**2
    wanted = np.zeros(300)
    for y, left, right in zip(Y, inputs["left"], inputs["right"], strict=True):
        rest = y - one.arrays["v_mu"][0] + 2.0 * one.arrays["v_b"][right]
        wanted[left] = weight * rest / (weight + 1 / 0.7**2)
    assert np.allclose(one.arrays["v_a"], wanted, rtol=1e-12, atol=1e-12)


def test_kept_products_do_not_grow_with_what_is_not_joint():
    def sums(y, v, left, right, J: int, K: int):
        a = Normal(0.0, 0.7).rows(J)
        b = Normal(0.0, 1.3).rows(K)
        for n in range(len(y)):
            observe(y[n], Normal(a[left[n]] + b[right[n]], 0.6))
        for n in range(len(v)):
            observe(v[n], Normal(a[left[n]], 0.9))

    inputs = {"y": Y, "v": X, "left": np.arange(12), "right": GROUP[::-1] % 2, "J": 20_000, "K": 2}
    one = drawn(Gaussian(), sums, "a", inputs, {})
    assert max(one.arrays[name].size for name in one.engine.tuned) == 256**2
    assert one.draw(Scripted(np.zeros(0))) == 0
    one = drawn(Gaussian(), sums, "a", inputs | {"J": 12}, {})
    assert same(one.moments(), one.joint(), 1e-6)


def test_coefficients_of_one_array_are_read_by_number():
    def kidiq(y, x):
        beta = Flat().rows(3)
        sd = HalfNormal(1.0)
        for n in range(len(y)):
            observe(y[n], Normal(beta[0] + beta[1] * x[n] + beta[2] * x[n] * x[n], sd))

    one = drawn(Gaussian(), kidiq, "beta", {"y": Y, "x": X}, {"sd": 0.5})
    a = np.column_stack([np.ones(12), X, X * X])
    covariance = np.linalg.inv(a.T @ a) * 0.25
    assert same(one.moments(), (covariance @ a.T @ Y * 4.0, covariance))


def test_blocks_do_not_depend_on_who_is_asked():
    def two(y, J: int):
        a = Normal(0.0, 1.0)
        x = Normal(0.0, 1.0).rows(J)
        b = Normal(0.0, 1.0)
        for n in range(len(y)):
            observe(y[n], Normal(a + b * x[n] + 2.0 * b, 0.5))

    analysis = Analysis(bind(read(two), {"y": Y, "J": 12}).program)
    found = {name: Gaussian().propose(name, analysis) for name in "axb"}
    blocks = [one.variables for one in found.values() if isinstance(one, Update)]
    assert blocks == [("a", "x"), ("x", "a"), ("b",)]
    one = drawn(Gaussian(), two, "b", {"y": Y, "J": 12}, {"x": X, "a": 0.3})
    assert same(one.moments(), one.joint(), 1e-6)


def test_names_of_loops_are_not_taken():
    def loops(y, x):
        a = Normal(0.0, 1.0)
        b = Normal(0.0, 1.0)
        for c1 in range(y.shape[0]):
            for w1 in range(y.shape[1]):
                observe(y[c1, w1], Normal(a + b * x[w1], 1.0 + c1))

    one = drawn(Gaussian(), loops, "a", {"y": Y.reshape(4, 3), "x": X[:3]}, {})
    assert same(one.moments(), one.joint(), 1e-6)


def test_products_are_kept_and_data_are_not():
    one = drawn(Gaussian(), regression, "beta", {"y": Y, "xs": XS}, {"variance": 0.3})
    assert "products" in one.text
    one.moments()
    kept = [one.arrays[name].copy() for name in one.engine.tuned]
    one.arrays["v_y"][...] = Y[::-1] * 2.0
    one.arrays["v_variance"][...] = 0.8
    assert same(one.moments(), one.joint(), 1e-6)
    assert all(np.array_equal(a, one.arrays[name]) for a, name in zip(kept, one.engine.tuned, strict=True))


def test_products_of_what_is_observed_are_not_kept():
    one = drawn(Gaussian(), autoregression, "base", {"y": Y, "K": 2}, {"sd": 0.5})
    assert not one.engine.tuned
    assert not drawn(Gaussian(), hierarchy, "mu", COUNTED, {"tau": 1.0, "sd": 1.0}).engine.tuned


def test_cells_that_no_line_draws_are_left_alone():
    inputs = {"y": np.abs(Y) + 0.1, "x": X, "group": GROUP, "treated": GROUP % 2, "J": 4}
    one = drawn(Gaussian(), guarded, "a", inputs, {"a": 7.0})
    one.arrays["v_treated"][:4] = 1
    mean, covariance = one.moments(("a",))
    assert mean[1] == 7.0 and covariance[1, 1] == 0.0 and covariance[3, 3] == pytest.approx(1.5**2)
    keep = [0, 2, 3, 4, 5, 6, 7, 8]
    found, wanted = one.moments(), _with_prior(one, 1)
    assert same((found[0][keep], found[1][np.ix_(keep, keep)]), (wanted[0][keep], wanted[1][np.ix_(keep, keep)]), 1e-6)


def _with_prior(one, cell):
    """Return the moments of the log joint, to which a cell that does not occur is given a unit precision."""
    call = one.engine.call

    class _Joint:
        def call(self, functions, name, arrays, *rest):
            return (call(functions, name, arrays, *rest)[0] - arrays["v_a"][cell] ** 2 / 2, 0.0)

    engine, one.engine = one.engine, _Joint()
    found = one.joint()
    one.engine = engine
    return found


def test_what_nothing_pins_down_fails():
    def loose(y, x):
        a = Flat()
        b = Flat()
        for n in range(len(y)):
            observe(y[n], Normal(a + b * x[n], 1.0))

    one = drawn(Gaussian(), loose, "a", {"y": Y, "x": np.full(12, 0.3)}, {})
    assert one.draw(Scripted(np.zeros(0))) == 1
    assert drawn(Gaussian(), loose, "a", {"y": Y, "x": X}, {}).draw(Scripted(np.zeros(0))) == 0


def test_flat_cells_without_data_fail_by_their_number():
    def cells(y, group, J: int):
        a = Flat().rows(J)
        for n in range(len(y)):
            observe(y[n], Normal(a[group[n]], 1.0))

    assert drawn(Gaussian(), cells, "a", {"y": Y, "group": GROUP, "J": 3}, {}).draw(Scripted(np.zeros(0))) == 0
    assert drawn(Gaussian(), cells, "a", {"y": Y, "group": GROUP, "J": 5}, {}).draw(Scripted(np.zeros(0))) == 4


def test_indices_may_be_latent():
    one = drawn(Gaussian(), in_index, "a", {"y": Y}, {"z": 1})
    assert same(one.moments(), one.joint(), 1e-6)


def test_a_product_leaves_the_other_one_fixed():
    def measured(y, J: int):
        a = Normal(0.0, 1.0)
        b = Normal(0.0, 1.0)
        x = Normal(0.0, 1.0).rows(J)
        for n in range(len(y)):
            observe(y[n], Normal(a + b * x[n], 0.5))

    one = drawn(Gaussian(), measured, "a", {"y": Y, "J": 12}, {"x": X})
    assert one.update.variables == ("a", "b")
    assert same(one.moments(), one.joint(), 1e-6)
    program = bind(read(measured), {"y": Y, "J": 12}).program
    assert plan(program).rule_of("x") == "conjugate"


def test_about_says_what_is_joint():
    found = proposed(Gaussian(), hierarchy, "mu", COUNTED)
    assert isinstance(found, Update)
    assert found.about == "joint Gaussian block, alpha cell by cell given mu, slope: dense, 2 numbers"
    found = proposed(Gaussian(), regression, "beta", {"y": Y, "xs": XS})
    assert isinstance(found, Update)
    assert found.about == "joint Gaussian block, intercept, beta: dense, 1 + xs.shape[1] numbers"


NONE = np.zeros(0)


class TestGaussian(UpdateContract):
    """The contract of every rule."""

    def rule(self):
        return Gaussian()

    def cases(self):
        labels = {"left": GROUP, "right": GROUP[::-1].copy()}
        return [
            UpdateCase(
                "repeated", repeated, {"y": Y, "x": X, "sd": np.abs(X) + 0.5}, "a", grid=(-3.0, 4.0), simulates=True,
                empty={"y": NONE, "x": NONE, "sd": NONE},
            ),
            UpdateCase(
                "uneven", uneven, {"y": Y, **labels, "K": 3}, "a", simulates=True,
                empty={"y": NONE, "left": np.zeros(0, np.int64), "right": np.zeros(0, np.int64)},
            ),
        ]  # fmt: skip

    def refusals(self):
        return [RefusedCase(alone, {"y": Y}, "a", "conjugate does it", "observe")]

    def test_compiled_and_plain_code_draw_the_same_bits(self):
        # The update alone: compiling sweeps around it costs as much again and is tested elsewhere.
        one = drawn(
            Gaussian(), groups_and_slopes, "mu", {"y": Y, "xs": XS, "group": GROUP, "J": 3}, {"tau": 0.7, "sd": 0.4}
        )
        found = []
        for backend in ("python", "single"):
            rng = stream(3, 0)
            for _ in range(20):
                name = "update_0_mu"
                assert one.engine.call(one.engine.functions(backend), name, one.arrays, rng) == 0
            found.append(one.state())
        assert len(found[0]) == 7 and np.array_equal(*found)
