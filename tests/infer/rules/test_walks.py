"""Loops that meet a cell in every other way: the draws against the log joint of the same file, state by state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mlsysopt.infer.engine import Chain as Running
from mlsysopt.infer.language import Binomial, Categorical, Normal, Poisson, array, observe, reduce
from mlsysopt.infer.rules.chain import Chain
from mlsysopt.infer.rules.enumerate import Enumerate
from mlsysopt.infer.runtime.streams import stream
from tests.infer.rules.truth import chain_of, counts_of, distance, engine_of, p_value, table_of

P = np.array([0.5, 0.2, 0.3])
EMIT = np.array([[0.7, 0.1, 0.2], [0.1, 0.6, 0.3], [0.3, 0.3, 0.4]])
MOVE = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.15, 0.05, 0.8]])


def permuted(y, p, emit):
    z = array(int, 2, 2)
    for i in range(2):
        for j in range(2):
            z[i, j] = Categorical(p)
    for a in range(2):
        for b in range(2):
            observe(y[a, b], Categorical(emit[z[b, a]]))
    for a in range(2):
        observe(y[a, 0] + 0, Categorical(emit[z[a, a]]))


def nested(y, start, p, emit):
    z = array(int, len(y))
    for i in range(len(y)):
        z[i] = Categorical(p)
    for g in range(len(start) - 1):
        for i in range(start[g], start[g + 1]):
            observe(y[i], Categorical(emit[z[i]]))


def strided(y, p, emit):
    z = array(int, len(y))
    for i in range(len(y)):
        z[i] = Categorical(p)
    for i in range(0, len(y), 2):
        observe(y[i], Categorical(emit[z[i]]))
    for i in range(2, len(y)):
        observe(y[i] + 0, Categorical(emit[z[i - 1]]))
    for i in range(1, len(y) - 2):
        for r in range(i):
            observe(y[r] + 0, Categorical(emit[z[i + 1]]))


def backwards(y, p, emit):
    z = array(int, len(y))
    for i in range(len(y)):
        z[i] = Categorical(p)
    for i in range(len(y)):
        observe(y[i], Categorical(emit[z[len(y) - 1 - i]]))
    for i in range(len(y)):
        if z[i] == y[i]:
            observe(y[i] + 0, Categorical(emit[z[0]]))


def triangle(y, p):
    z = array(int, len(y))
    for i in range(len(y)):
        z[i] = Categorical(p)
    for i in range(len(y)):
        for j in range(i):
            observe(y[i] + 0, Normal(1.0 * z[i] * z[j], 1.0))
    observe(y[0], Poisson(reduce("max", z[0:2]) + 0.5))


def neighbours(y, p, move, emit):
    z = array(int, len(y))
    z[0] = Categorical(p)
    for t in range(1, len(y)):
        z[t] = Categorical(move[z[t - 1]])
    for t in range(len(y) - 1):
        for r in range(2):
            if y[t] != 1:
                observe(y[t + 1] + 0, Poisson(0.5 + z[t] + 2 * z[t + 1] + r))
    for t in range(1, len(y), 2):
        observe(y[t], Categorical(emit[z[t]]))
    for t in range(len(y)):
        observe(y[t] + 0, Categorical(emit[z[len(y) - 1]]))


def joined(y, n: int, move, emit):
    z = array(int, 2 * n)
    for d in range(2):
        z[d * n] = Categorical(move[0])
        for t in range(d * n + 1, (d + 1) * n):
            z[t] = Categorical(move[z[t - 1]])
    for t in range(2 * n):
        observe(y[t], Categorical(emit[z[t]]))


def counted(y, p):
    z = array(int, len(y))
    z[0] = Binomial(2, 0.3)
    for t in range(1, len(y)):
        z[t] = Binomial(2, p[z[t - 1]])
    for t in range(len(y)):
        observe(y[t], Poisson(0.5 + z[t]))


Y = [0, 1, 2, 1]
INDEPENDENT: dict[Callable[..., None], tuple[Any, dict[str, Any], tuple[int, ...]]] = {
    permuted: (Enumerate(), {"y": np.array([[0, 1], [2, 1]]), "p": P, "emit": EMIT}, (3,) * 4),
    nested: (Enumerate(), {"y": Y, "start": [0, 1, 3, 4], "p": P, "emit": EMIT}, (3,) * 4),
    strided: (Enumerate(), {"y": [*Y, 0], "p": P, "emit": EMIT}, (3,) * 5),
    neighbours: (Chain(), {"y": Y, "p": P, "move": MOVE, "emit": EMIT}, (3,) * 4),
    joined: (Chain(), {"y": [*Y, 0, 2], "n": 3, "move": MOVE, "emit": EMIT}, (3,) * 6),
    counted: (Chain(), {"y": Y, "p": np.array([0.2, 0.5, 0.7])}, (3,) * 4),
}
SHARED: dict[Callable[..., None], tuple[Any, dict[str, Any], tuple[int, ...]]] = {
    backwards: (Enumerate(), {"y": Y, "p": P, "emit": EMIT}, (3,) * 4),
    triangle: (Enumerate(), {"y": Y[:3], "p": P}, (3,) * 3),
}


def drawn_and_true(rule: Any, function: Callable[..., None], given: dict[str, Any], counts: tuple[int, ...]) -> Any:
    """Return how often each state was drawn, and the probabilities that the log joint gives."""
    engine = engine_of(function, given, rule)
    running = Running(engine, stream(0, 0), draws=1, backend="python")

    def log_joint(*state: int) -> float:
        running.arrays["v_z"].reshape(-1)[:] = state
        return running.log_joint()[0]

    found = counts_of(chain_of(engine, 3000).kept_of("z"), *counts)
    return found, table_of(log_joint, *counts)


@pytest.mark.parametrize("function", INDEPENDENT, ids=lambda one: one.__name__)
def test_independent_draws_fit_the_log_joint(function: Callable[..., None]) -> None:
    rule, given, counts = INDEPENDENT[function]
    found, truth = drawn_and_true(rule, function, given, counts)
    assert p_value(found, truth) > 1e-4


@pytest.mark.parametrize("function", SHARED, ids=lambda one: one.__name__)
def test_cells_one_after_another_fit_the_log_joint(function: Callable[..., None]) -> None:
    rule, given, counts = SHARED[function]
    found, truth = drawn_and_true(rule, function, given, counts)
    assert distance(found, truth) < 0.06
