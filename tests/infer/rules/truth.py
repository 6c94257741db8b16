"""Draws of an update against every state of a small model, one by one."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from mlsysopt.infer.analysis.blanket import Analysis
from mlsysopt.infer.binding import bind
from mlsysopt.infer.engine import Backend, Chain, Engine
from mlsysopt.infer.frontend.source import read
from mlsysopt.infer.planning import plan
from mlsysopt.infer.rules import Refusal, Rule, Update
from mlsysopt.infer.runtime.streams import stream

Array = NDArray[Any]


def engine_of(function: Callable[..., None], given: Mapping[str, Any], *rules: Rule, missing: str = "error") -> Engine:
    """Return what runs a model under some rules."""
    bound = bind(read(function), given, missing=missing)
    return Engine(plan(bound.program, rules), bound, {one.name: "samples" for one in bound.program.latents})


def chain_of(engine: Engine, count: int, backend: Backend = "python", start: Mapping[str, Any] | None = None) -> Chain:
    """Return a chain after `count` kept sweeps from a draw of the prior, or from given values."""
    chain = Chain(engine, stream(7, 1), draws=count, backend=backend)
    assert start is not None or chain.draw_prior() == 0
    for name, value in (start or {}).items():
        chain.arrays[f"v_{name}"][...] = value
    chain.offset = 0
    chain.failed[:] = -1
    failed = chain.run(count, warm=False)
    assert failed is None, failed
    return chain


def table_of(log_joint: Callable[..., float], *counts: int) -> Array:
    """Return the probability of every state of cells with so many values each."""
    logs = np.full(counts, -np.inf)
    for state in itertools.product(*(range(one) for one in counts)):
        logs[state] = log_joint(*state)
    weights = np.exp(logs - logs.max())
    return weights / weights.sum()


def counts_of(draws: Array, *counts: int) -> Array:
    """Return how often every state was drawn; draws have one row for each state."""
    found = np.zeros(counts)
    np.add.at(found, tuple(draws.reshape(len(draws), -1).T), 1)
    return found


def p_value(found: Array, truth: Array) -> float:
    """Return how well independent draws fit: chi-square, states that are expected less than 5 times together."""
    expected = truth.ravel() * found.sum()
    rare = expected < 5
    got, want = found.ravel()[~rare], expected[~rare]
    if expected[rare].sum() > 1:
        got, want = np.append(got, found.ravel()[rare].sum()), np.append(want, expected[rare].sum())
    elif found.ravel()[rare].sum() > 20:
        return 0.0
    want = want * got.sum() / want.sum()
    return float(stats.chi2.sf(((got - want) ** 2 / want).sum(), len(got) - 1))


def distance(found: Array, truth: Array) -> float:
    """Return the total variation between draws and truth."""
    return float(np.abs(found / found.sum() - truth).sum() / 2)


def proposed(function: Callable[..., None], given: Mapping[str, Any], rule: Rule, variable: str) -> Update | Refusal:
    """Return what a rule says of a variable."""
    return rule.propose(variable, Analysis(bind(read(function), given).program))


def line_of(function: Callable[..., None], text: str = "# here") -> int:
    """Return the number of the line of a model that has a text."""
    lines, first = inspect.getsourcelines(function)
    return first + next(i for i, one in enumerate(lines) if text in one)


def normal(x: float, mean: float, sd: float) -> float:
    """Return the log density of a Normal."""
    return float(stats.norm.logpdf(x, mean, sd))
