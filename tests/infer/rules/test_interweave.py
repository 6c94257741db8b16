"""The second move of a level's scale: the same posterior, sooner; and a wrong Jacobian or a wrong sum is seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mlsysopt.infer.analysis.blanket import Analysis
from mlsysopt.infer.binding import bind
from mlsysopt.infer.engine import Chain, Engine
from mlsysopt.infer.frontend.source import read
from mlsysopt.infer.planning import plan
from mlsysopt.infer.rules import ordered_rules
from mlsysopt.infer.rules.interweave import interwoven
from mlsysopt.infer.runtime.streams import stream


def level(y, group, J: int):  # type: ignore[no-untyped-def]
    tau = HalfNormal(1.0)  # type: ignore[name-defined]  # noqa: F821
    alpha = array(float, J)  # type: ignore[name-defined]  # noqa: F821
    for j in range(J):
        alpha[j] = Normal(0.5, tau)  # type: ignore[name-defined]  # noqa: F821
    for n in range(len(y)):
        observe(y[n], Normal(2.0 * alpha[group[n]], 0.7))  # type: ignore[name-defined]  # noqa: F821


def precise(y, group, J: int):  # type: ignore[no-untyped-def]
    p = Gamma(2.0, 1.0)  # type: ignore[name-defined]  # noqa: F821
    alpha = array(float, J)  # type: ignore[name-defined]  # noqa: F821
    for j in range(J):
        alpha[j] = Normal(0.5, precision=p)  # type: ignore[name-defined]  # noqa: F821
    for n in range(len(y)):
        observe(y[n], Normal(2.0 * alpha[group[n]], 0.7))  # type: ignore[name-defined]  # noqa: F821


def varied(y, group, J: int):  # type: ignore[no-untyped-def]
    v = InverseGamma(3.0, 1.0)  # type: ignore[name-defined]  # noqa: F821
    alpha = array(float, J)  # type: ignore[name-defined]  # noqa: F821
    for j in range(J):
        alpha[j] = Normal(0.5, var=v)  # type: ignore[name-defined]  # noqa: F821
    for n in range(len(y)):
        observe(y[n], Normal(2.0 * alpha[group[n]], 0.7))  # type: ignore[name-defined]  # noqa: F821


def noisy(y, group, J: int):  # type: ignore[no-untyped-def]
    """A level whose cells are read between the move of its scale and their own draw."""
    tau = HalfNormal(1.0)  # type: ignore[name-defined]  # noqa: F821
    precision = Gamma(2.0, 1.0)  # type: ignore[name-defined]  # noqa: F821
    alpha = array(float, J)  # type: ignore[name-defined]  # noqa: F821
    for j in range(J):
        alpha[j] = Normal(0.5, tau)  # type: ignore[name-defined]  # noqa: F821
    for n in range(len(y)):
        observe(y[n], Normal(2.0 * alpha[group[n]], precision=precision))  # type: ignore[name-defined]  # noqa: F821


def nested(y, group, J: int):  # type: ignore[no-untyped-def]
    tau = HalfNormal(1.0)  # type: ignore[name-defined]  # noqa: F821
    alpha = array(float, J)  # type: ignore[name-defined]  # noqa: F821
    beta = array(float, J)  # type: ignore[name-defined]  # noqa: F821
    for j in range(J):
        alpha[j] = Normal(0.5, tau)  # type: ignore[name-defined]  # noqa: F821
    for j in range(J):
        beta[j] = Normal(alpha[j], tau)  # type: ignore[name-defined]  # noqa: F821
    for n in range(len(y)):
        observe(y[n], Normal(beta[group[n]], 0.7))  # type: ignore[name-defined]  # noqa: F821


DATA = {"y": np.array([0.3, 1.9, 2.4, -0.2, 1.1, 3.0]), "group": np.array([0, 0, 1, 2, 2, 3]), "J": 4}
SCALES: dict[Callable[..., Any], tuple[str, Callable[[Any], Any], Callable[[Any], Any]]] = {
    level: ("tau", lambda v: v, lambda v: -0.5 * v * v),
    precise: ("p", lambda v: v**-0.5, lambda v: np.log(v) - v),
    varied: ("v", lambda v: v**0.5, lambda v: -4.0 * np.log(v) - 1.0 / v),
}


def _engine(function: Callable[..., Any]) -> Engine:
    bound = bind(read(function), DATA)
    keep = {one.name: "samples" for one in bound.program.latents}
    return Engine(plan(bound.program), bound, keep)  # type: ignore[arg-type]


def _means(engine: Engine, name: str, draws: int, text: str = "") -> tuple[float, float]:
    """Return the mean of a scale's logarithm and its standard error, by batches."""
    if text:
        vars(engine)["text"] = text
    chain = Chain(engine, stream(3, 0), draws=draws, backend="python")
    assert chain.draw_prior() == 0
    assert chain.run(200, warm=True) is None
    chain.offset = chain.sweeps
    assert chain.run(draws, warm=False) is None
    logs = np.log(chain.kept_of(name).reshape(-1))
    batches = logs[: draws // 20 * 20].reshape(20, -1).mean(axis=1)
    return float(logs.mean()), float(batches.std(ddof=1) / np.sqrt(20))


def _evidence(sd: Any, var: Any) -> Any:
    """Return the log density of the data, the cells summed out exactly, but for a constant."""
    log = 0.0
    for j in range(DATA["J"]):
        y = DATA["y"][DATA["group"] == j]
        n, d = len(y), y - 1.0
        spread = 4.0 * sd**2
        log = log - 0.5 * ((n - 1) * np.log(var) + np.log(var + n * spread))
        log = log - 0.5 * ((d**2).sum() / var - spread * d.sum() ** 2 / (var * (var + n * spread)))
    return log


def _truth(function: Callable[..., Any]) -> float:
    """Return the posterior mean of the scale's logarithm, on a grid."""
    _, sd, prior = SCALES[function]
    grid = np.exp(np.linspace(-9.0, 7.0, 4001))
    log = prior(grid) + np.log(grid) + _evidence(sd(grid), 0.49)
    weight = np.exp(log - log.max())
    return float((weight * np.log(grid)).sum() / weight.sum())


@pytest.mark.parametrize("function", list(SCALES), ids=lambda one: one.__name__)
def test_draws_the_posterior(function: Callable[..., Any]) -> None:
    engine = _engine(function)
    name = SCALES[function][0]
    assert "held in units of it" in next(one.about for one in engine.plan.updates if name in one.variables)
    mean, error = _means(engine, name, 6000)
    assert abs(mean - _truth(function)) < 4.0 * error


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (" + u + cross", " + 2.0 * u + cross"),
        ("cross += ", "cross += 0.5 * "),
        ("square += ", "square += 2.0 * "),
    ],
)
def test_a_wrong_move_is_seen(old: str, new: str) -> None:
    engine = _engine(level)
    wrong = engine.text.replace(old, new)
    assert wrong != engine.text
    mean, error = _means(engine, "tau", 6000, wrong)
    assert abs(mean - _truth(level)) > 4.0 * error


def test_cells_that_are_put_to_a_wrong_place_are_seen_by_what_is_drawn_before_they_are() -> None:
    grid = np.exp(np.linspace(-8.0, 6.0, 401))
    tau, s = grid[:, None], grid[None, :]
    log = np.log(tau) - 0.5 * tau * tau + 2.0 * np.log(s) - s + _evidence(tau, 1.0 / s)
    weight = np.exp(log - log.max())
    truth = float((weight * np.log(s)).sum() / weight.sum())
    engine = _engine(noisy)
    wrong = engine.text.replace("(s - 1.0)", "(1.0 - s)")
    assert wrong != engine.text
    mean, error = _means(engine, "precision", 6000)
    assert abs(mean - truth) < 4.0 * error
    mean, error = _means(engine, "precision", 6000, wrong)
    assert abs(mean - truth) > 4.0 * error


def test_levels_that_hang_on_each_other_are_left_alone() -> None:
    program = bind(read(nested), DATA).program
    update = next(one for one in plan(program, ordered_rules()).updates if one.variables == ("tau",))
    assert interwoven(update, Analysis(program)) is update
