"""The emitted gradient against differences, and the emitted log density against the engine's log joint."""

# The words of the language carry nothing outside of a model.
# pyright: reportIndexIssue=false, reportUnusedVariable=false

from __future__ import annotations

import numpy as np
import pytest

from mlsysopt.infer.differentiate.nuts import Smooth
from mlsysopt.infer.language import Dirichlet, Normal, observe
from tests.infer.differentiate.difference import engine_of, log_determinant, slopes
from tests.infer.differentiate.smooth_models import CASES, regression


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_that_of_the_log_density(name: str) -> None:
    smooth = Smooth(engine_of(*CASES[name]), "python")
    evaluate = smooth.log_density()
    rng = np.random.default_rng(3)
    for _ in range(3):
        x = rng.uniform(-1.0, 1.0, smooth.dimensions)
        value, gradient = evaluate(x)
        assert np.isfinite(value)
        np.testing.assert_allclose(gradient, slopes(lambda at: evaluate(at)[0], x), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", CASES)
def test_log_density_is_the_log_joint_and_the_determinant(name: str) -> None:
    smooth = Smooth(engine_of(*CASES[name]), "python")
    x = np.random.default_rng(4).uniform(-1.0, 1.0, smooth.dimensions)
    determinant = log_determinant(smooth, x)
    value, _ = smooth.log_density()(x)
    assert smooth.of_model("log_joint")[0] + determinant == pytest.approx(value, rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("name", CASES)
def test_constrain_and_unconstrain_are_inverse(name: str) -> None:
    smooth = Smooth(engine_of(*CASES[name]), "python")
    x = np.random.default_rng(5).uniform(-3.0, 3.0, smooth.dimensions)
    back = np.full(smooth.dimensions, np.nan)
    smooth.call("constrain", x)
    assert smooth.call("unconstrain", back) == smooth.dimensions
    np.testing.assert_allclose(back, x, rtol=1e-9, atol=1e-9)


def test_missing_cells_are_numbers_of_the_line_and_given_ones_are_not() -> None:
    y = np.array([0.3, np.nan, 1.0, np.nan, np.nan, 0.2])
    smooth = Smooth(engine_of(lagged, {"y": y}, missing="latent"), "python")
    assert smooth.dimensions == 1 + 3
    x = np.array([0.2, 0.7, -0.4, 0.1])
    evaluate = smooth.log_density()
    value, gradient = evaluate(x)
    np.testing.assert_allclose(gradient, slopes(lambda at: evaluate(at)[0], x), rtol=1e-6)
    assert smooth.of_model("log_joint")[0] == pytest.approx(value)
    assert smooth.arrays["v_y"][[0, 2, 5]] == pytest.approx([0.3, 1.0, 0.2])


def lagged(y):
    pull = Normal(0.0, 0.5)
    for t in range(1, len(y)):
        observe(y[t], Normal(pull * y[t - 1], 0.7))


def test_fixed_variables_take_no_number() -> None:
    function, given = CASES["regression"]
    smooth = Smooth(engine_of(function, given, values={"sd": 0.5}), "python")
    assert smooth.dimensions == 4
    x = np.array([0.1, 0.2, -0.3, 0.4])
    evaluate = smooth.log_density()
    np.testing.assert_allclose(evaluate(x)[1], slopes(lambda at: evaluate(at)[0], x), rtol=1e-6)
    value, _ = evaluate(x)
    assert smooth.of_model("log_joint")[0] == pytest.approx(value)


def side(y):
    mean = Normal(0.0, 1.0)
    for i in range(len(y)):
        observe(y[i], Normal(mean, 1.0))
    unused = Normal(mean, 2.0)
    parts = Dirichlet(0.5, 3)
    shadow = Normal(unused + parts[0], 1.0)
    later = Normal(shadow, 1.0)  # noqa: F841


def test_what_nothing_observed_depends_on_is_left_out() -> None:
    smooth = Smooth(engine_of(side, {"y": np.array([0.5, 1.5])}), "python")
    assert smooth.dimensions == 1
    value, gradient = smooth.log_density()(np.array([1.0]))
    assert gradient == pytest.approx([-1.0])
    assert value == pytest.approx(-1.5 * np.log(2 * np.pi) - 0.5 - 0.25)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e4])
def test_what_is_not_finite_has_no_density(bad: float) -> None:
    smooth = Smooth(engine_of(*CASES["regression"]), "python")
    x = np.zeros(smooth.dimensions)
    x[-1] = bad
    assert smooth.log_density()(x)[0] == -np.inf


def test_a_loop_of_no_iterations_has_no_slope() -> None:
    smooth = Smooth(engine_of(regression, {"y": np.array([1.0]), "x": np.zeros((1, 0))}), "python")
    assert smooth.dimensions == 2
    assert np.isfinite(smooth.log_density()(np.zeros(2))[0])


def test_native_code_gives_the_same_bits() -> None:
    plain, native = (Smooth(engine_of(*CASES["steps"]), backend) for backend in ("python", "single"))  # pyright: ignore[reportArgumentType]
    x = np.random.default_rng(6).uniform(-1.5, 1.5, plain.dimensions)
    a, b = plain.log_density()(x), native.log_density()(x)
    assert a[0] == b[0]
    assert np.array_equal(a[1], b[1])
