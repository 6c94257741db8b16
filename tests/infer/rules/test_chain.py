"""The chain block draws whole sequences as enumeration says, and refuses what is no first-order chain."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from mlsysopt.infer.engine import Backend, Engine
from mlsysopt.infer.language import (
    Bernoulli,
    BernoulliLogit,
    Binomial,
    Categorical,
    Normal,
    Poisson,
    array,
    observe,
)
from mlsysopt.infer.rules import Update
from mlsysopt.infer.rules.chain import Chain
from mlsysopt.infer.rules.enumerate import Enumerate
from tests.infer.rules.truth import Array, chain_of, counts_of, engine_of, normal, p_value, proposed, table_of

DRAWS = 3_000
START = np.array([0.5, 0.2, 0.3])
MOVE = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.15, 0.05, 0.8]])
EMIT = np.array([[0.7, 0.1, 0.2], [0.1, 0.6, 0.3], [0.3, 0.3, 0.4]])
MU = np.array([-1.0, 0.5, 2.0])
UP = np.array([0.25, 0.7])


def labels(y, start, move, emit):
    z = array(int, len(y))
    z[0] = Categorical(start)
    for t in range(1, len(y)):
        z[t] = Categorical(move[z[t - 1]])
    for t in range(len(y)):
        observe(y[t], Categorical(emit[z[t]]))


def numbers(x, start, move, mu, drift):
    z = array(int, len(x))
    z[0] = Categorical(start)
    for t in range(1, len(x)):
        z[t] = Categorical(move[z[t - 1]])
        observe(drift[t - 1], Normal(mu[z[t]] - mu[z[t - 1]], var=0.7))
    for t in range(len(x)):
        observe(x[t], Normal(mu[z[t]], 0.8))


def repeated(x, first, up, mu):
    z = array(bool, len(x) + 1)
    z[0] = BernoulliLogit(first)
    for t in range(len(x)):
        z[t + 1] = Bernoulli(up[z[t]] if t < 2 else 1.0 - up[z[t]])
        for r in range(len(x[t])):
            observe(x[t, r], Poisson(mu[z[t]]))


def ragged(w, start, move, emit, x, site_of, pos_of, mu):
    z = array(int, like=w)
    for d in range(len(w)):
        z[d, 0] = Categorical(start)
    for e in range(len(w)):
        for t in range(1, len(w[e])):
            z[e, t] = Categorical(move[z[e, t - 1]])
    for d in range(len(w)):
        for i in range(len(w[d])):
            observe(w[d, i], Categorical(emit[z[d, i]]))
    for n in range(len(x)):
        observe(x[n], Normal(mu[z[site_of[n], pos_of[n]]], 1.0))


def segments(fresh, x, start, move, mu):
    z = array(int, len(x))
    for t in range(len(x)):
        if fresh[t] == 1:
            z[t] = Categorical(start)
        else:
            z[t] = Categorical(move[z[t - 1]])
        if z[t] == 1:
            observe(x[t], Normal(mu[z[t]], 1.0))
        else:
            observe(x[t], Normal(0.0, 2.0))


def interleaved(y, start, move, emit):
    z = array(int, len(y), 2)
    for c in range(2):
        z[0, c] = Categorical(start)
    for t in range(1, len(y)):
        for c in range(2):
            z[t, c] = Categorical(move[z[t - 1, c]])
    for t in range(len(y)):
        for c in range(2):
            observe(y[t, c], Categorical(emit[z[t, c]]))


def narrow(y, start, move, p):
    z = array(int, len(y))
    z[0] = Categorical(start)
    for t in range(1, len(y)):
        z[t] = Categorical(move[z[t - 1]])
    for t in range(len(y)):
        observe(y[t], Binomial(4, p[z[t]]))


def chosen(y, use, end, start, move, emit):
    z = array(int, len(use), 3)
    for d in range(len(use)):
        if use[d] == 1:
            z[d, 0] = Categorical(start)
            for t in range(1, 3):
                z[d, t] = Categorical(move[z[d, t - 1]])
                observe(y[d, t], Categorical(emit[z[d, t]]))
            observe(end[d], Bernoulli(emit[z[d, 2], 0]))


@dataclass(frozen=True)
class Small:
    """A model with one latent, its data, the values of its cells and its log joint."""

    function: Callable[..., None]
    given: dict[str, Any]
    counts: tuple[int, ...]
    log_joint: Callable[..., float]


Y = [2, 0, 1, 1, 2]
X = [0.1, 1.4, -0.3, 2.2]
DRIFT = [0.5, -1.0, 1.5]
REPEATS = np.array([[0, 1], [3, 2], [1, 0], [4, 2]])
RATES = np.array([0.8, 2.5])
WORDS = [[0, 2, 1], [1, 1], [2]]
FRESH = [1, 0, 0, 1, 0]
TWO = np.array([[0, 2], [1, 1], [2, 0]])


def _labels(*z: int) -> float:
    found = math.log(START[z[0]]) + sum(math.log(MOVE[a, b]) for a, b in itertools.pairwise(z))
    return found + sum(math.log(EMIT[k, y]) for k, y in zip(z, Y, strict=True))


def _numbers(*z: int) -> float:
    found = math.log(START[z[0]]) + sum(math.log(MOVE[a, b]) for a, b in itertools.pairwise(z))
    found += sum(normal(d, MU[b] - MU[a], math.sqrt(0.7)) for a, b, d in zip(z, z[1:], DRIFT, strict=False))
    return found + sum(normal(x, MU[k], 0.8) for k, x in zip(z, X, strict=True))


def _repeated(*z: int) -> float:
    p = 1 / (1 + math.exp(-0.4))
    found = math.log(p if z[0] else 1 - p)
    for t in range(4):
        p = UP[z[t]] if t < 2 else 1 - UP[z[t]]
        found += math.log(p if z[t + 1] else 1 - p)
        found += sum(x * math.log(RATES[z[t]]) - RATES[z[t]] for x in REPEATS[t])
    return found


SITE_OF, POS_OF, EXTRA = [0, 0, 2, 0], [1, 2, 0, 1], [0.3, 1.8, -0.7, 1.0]


def _ragged(*z: int) -> float:
    rows, found = [z[:3], z[3:5], z[5:]], 0.0
    for row, words in zip(rows, WORDS, strict=True):
        found += math.log(START[row[0]]) + sum(math.log(MOVE[a, b]) for a, b in itertools.pairwise(row))
        found += sum(math.log(EMIT[k, w]) for k, w in zip(row, words, strict=True))
    return found + sum(normal(x, MU[rows[d][i]], 1.0) for d, i, x in zip(SITE_OF, POS_OF, EXTRA, strict=True))


def _segments(*z: int) -> float:
    found = 0.0
    for t, x in enumerate([*X, 0.9]):
        found += math.log(START[z[t]] if FRESH[t] else MOVE[z[t - 1], z[t]])
        found += normal(x, MU[1], 1.0) if z[t] == 1 else normal(x, 0.0, 2.0)
    return found


def _interleaved(*z: int) -> float:
    found = 0.0
    for c in range(2):
        row = z[c::2]
        found += math.log(START[row[0]]) + sum(math.log(MOVE[a, b]) for a, b in itertools.pairwise(row))
        found += sum(math.log(EMIT[k, y]) for k, y in zip(row, TWO[:, c], strict=True))
    return found


NARROW, NARROW_P, COUNTS = np.array([0.35, 0.65]), np.array([0.2, 0.5, 0.8]), [1, 3, 2, 4]


def _narrow(*z: int) -> float:
    if z[0] > 1:
        return -math.inf
    found = math.log(NARROW[z[0]]) + sum(math.log(MOVE[a, b]) for a, b in itertools.pairwise(z))
    return found + sum(
        y * math.log(NARROW_P[k]) + (4 - y) * math.log(1 - NARROW_P[k]) for k, y in zip(z, COUNTS, strict=True)
    )


ROWS, USE, END = np.array([[0, 2, 1], [1, 1, 0], [2, 0, 0]]), [1, 0, 1], [1, 0, 0]


def _chosen(*z: int) -> float:
    found = 0.0
    for d, row in ((0, z[:3]), (2, z[6:])):
        found += math.log(START[row[0]]) + sum(math.log(MOVE[a, b]) for a, b in itertools.pairwise(row))
        found += sum(math.log(EMIT[row[t], ROWS[d, t]]) for t in (1, 2))
        found += math.log(EMIT[row[2], 0] if END[d] else 1 - EMIT[row[2], 0])
    return found


CASES = {
    "labels": Small(labels, {"y": Y, "start": START, "move": MOVE, "emit": EMIT}, (3,) * 5, _labels),
    "numbers": Small(numbers, {"x": X, "start": START, "move": MOVE, "mu": MU, "drift": DRIFT}, (3,) * 4, _numbers),
    "repeated": Small(repeated, {"x": REPEATS, "first": 0.4, "up": UP, "mu": RATES}, (2,) * 5, _repeated),
    "ragged": Small(
        ragged,
        {
            "w": WORDS,
            "start": START,
            "move": MOVE,
            "emit": EMIT,
            "x": EXTRA,
            "site_of": SITE_OF,
            "pos_of": POS_OF,
            "mu": MU,
        },
        (3,) * 6,
        _ragged,
    ),
    "segments": Small(
        segments, {"fresh": FRESH, "x": [*X, 0.9], "start": START, "move": MOVE, "mu": MU}, (3,) * 5, _segments
    ),
    "interleaved": Small(interleaved, {"y": TWO, "start": START, "move": MOVE, "emit": EMIT}, (3,) * 6, _interleaved),
    "chosen": Small(
        chosen,
        {"y": ROWS, "use": USE, "end": END, "start": START, "move": MOVE, "emit": EMIT},
        (3, 3, 3, 1, 1, 1, 3, 3, 3),
        _chosen,
    ),
    "narrow": Small(narrow, {"y": COUNTS, "start": NARROW, "move": MOVE, "p": NARROW_P}, (3,) * 4, _narrow),
}


@pytest.mark.parametrize("name", CASES)
def test_sequences_come_as_often_as_enumeration_says(name: str) -> None:
    case = CASES[name]
    chain = chain_of(engine_of(case.function, case.given, Chain()), DRAWS)
    truth = table_of(case.log_joint, *case.counts)
    assert p_value(counts_of(chain.kept_of("z"), *case.counts), truth) > 1e-4


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_the_shortest_sequences_have_ends_too(length: int) -> None:
    y = Y[:length]
    chain = chain_of(engine_of(labels, {"y": y, "start": START, "move": MOVE, "emit": EMIT}, Chain()), DRAWS)

    def log_joint(*z: int) -> float:
        moves = sum(math.log(MOVE[a, b]) for a, b in itertools.pairwise(z))
        return math.log(START[z[0]]) + moves + sum(math.log(EMIT[k, label]) for k, label in zip(z, y, strict=True))

    truth = table_of(log_joint, *(3,) * length)
    assert p_value(counts_of(chain.kept_of("z"), *(3,) * length), truth) > 1e-4


MUTANTS = {
    "the cell itself in place of its neighbour": ("numbers", "1[place_2 - 1, j_5]", "1[place_2, j_5]"),
    "the neighbour's value of the transition turned round": (
        "numbers", "place_2 - 1, j_5] * moves_1[state_1, j_5]", "place_2 - 1, j_5] * v_move[state_1, j_5]",
    ),
    "rows of the filter one too early": ("numbers", "    place_1 = t - low_1 + 1", "    place_1 = t - low_1"),
    "from the left: the cell itself": ("labels", "place_1 = middle_1 - 1 - i_1", "place_1 = middle_1 - i_1"),
    "from the left: turned round": ("labels", "* moves_1[state_1, j_6]", "* onward_1[state_1, j_6]"),
    "from the right: turned round": ("labels", "* onward_1[state_2, j_7]", "* moves_1[state_2, j_7]"),
    "from the right: the filter turned round": ("labels", "* onward_1[j_4, k_9]", "* moves_1[j_4, k_9]"),
    "from the right: another cell's label": ("labels", "t = high_1 - 1 - i_1", "t = high_1 - 2 - i_1"),
    "the middle, what lies to the right left out": ("labels", "* ahead_1[j_5]", "* 1.0"),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_neighbour_is_seen(name: str) -> None:
    which, right, wrong = MUTANTS[name]
    case = CASES[which]
    engine = engine_of(case.function, case.given, Chain())
    assert right in engine.text
    engine.__dict__["text"] = engine.text.replace(right, wrong)
    found = counts_of(chain_of(engine, DRAWS).kept_of("z"), *case.counts)
    assert p_value(found, table_of(case.log_joint, *case.counts)) < 1e-6


def test_native_code_draws_the_same() -> None:
    """Exact equality, with a table, logarithms, a chain and cells that are walked again."""

    def mixed(x, g, start, move, mu):
        z = array(int, len(x))
        c = array(bool, 3)
        for i in range(3):
            c[i] = Bernoulli(0.4)
        z[0] = Categorical(start)
        for t in range(1, len(x)):
            z[t] = Categorical(move[z[t - 1]])
            observe(x[t], Normal(mu[z[t]] + c[g[t]] - 0.5 * c[g[t - 1]], 1.0))
        for t in range(len(x)):
            observe(x[g[t]], Normal(mu[z[g[t]]], 2.0))

    given = {"x": X, "g": [0, 2, 1, 0], "start": START, "move": MOVE, "mu": MU}
    engine = engine_of(mixed, given, Chain(), Enumerate())
    plain, native = updated(engine, "python"), updated(engine, "single")
    assert len(np.unique(plain, axis=0)) > 50 and np.array_equal(plain, native)


def updated(engine: Engine, backend: Backend) -> Array:
    """Return what 100 rounds of the updates alone leave: whole sweeps would take much longer to compile."""
    chain = chain_of(engine, 0)
    functions = engine.functions(backend)
    found: list[Array] = []
    for _ in range(100):
        for name in ("update_0_c", "update_1_z"):
            assert engine.call(functions, name, chain.arrays, chain.rng) == 0
        found.append(np.concatenate([chain.arrays["v_c"], chain.arrays["v_z"]]))
    return np.array(found)


def test_long_chains_far_from_their_data_do_not_underflow() -> None:
    x = np.full(3000, 900.0)
    given = {"x": x, "start": START, "move": MOVE, "mu": MU, "drift": np.zeros(2999)}
    chain = chain_of(engine_of(numbers, given, Chain()), 1)
    assert (chain.kept_of("z") == 2).mean() > 0.99


def test_a_cell_without_mass_is_named() -> None:
    emit = np.array([[0.7, 0.0, 0.3], [0.4, 0.0, 0.6], [0.5, 0.0, 0.5]])
    engine = engine_of(labels, {"y": [0, 2, 0, 1, 2], "start": START, "move": MOVE, "emit": emit}, Chain())
    chain = chain_of(engine, 0)
    failed = chain.run(1, warm=True)
    assert failed is not None and (failed.update, failed.cell, failed.sweep) == (0, 3, 0)


def test_impossible_moves_leave_no_mass_where_both_ends_meet() -> None:
    move, emit = np.eye(3), np.eye(3)
    engine = engine_of(labels, {"y": [1, 1, 2], "start": START, "move": move, "emit": emit}, Chain())
    failed = chain_of(engine, 0).run(1, warm=True)
    assert failed is not None and failed.cell == 1


def test_other_parents_are_held_where_they_are() -> None:
    def coupled(y, up, emit):
        a = array(int, len(y))
        b = array(int, len(y))
        a[0] = Bernoulli(0.5)
        b[0] = Bernoulli(0.3)
        for t in range(1, len(y)):
            a[t] = Bernoulli(up[a[t - 1]])
            b[t] = Bernoulli(up[b[t - 1]] if a[t] == 0 else 0.9)
        for t in range(len(y)):
            observe(y[t], Bernoulli(emit[2 * a[t] + b[t]]))

    y, emit = [1, 0, 1], np.array([0.1, 0.8, 0.4, 0.9])
    engine = engine_of(coupled, {"y": y, "up": UP, "emit": emit}, Chain())
    chain = chain_of(engine, 6_000)

    def log_joint(*s: int) -> float:
        a, b = s[:3], s[3:]
        found = math.log(0.5) + math.log(0.3 if b[0] else 0.7)
        for t in range(1, 3):
            p, q = UP[a[t - 1]], UP[b[t - 1]] if a[t] == 0 else 0.9
            found += math.log(p if a[t] else 1 - p) + math.log(q if b[t] else 1 - q)
        return found + sum(
            math.log(emit[2 * i + j] if o else 1 - emit[2 * i + j]) for i, j, o in zip(a, b, y, strict=True)
        )

    draws = np.concatenate([chain.kept_of("a"), chain.kept_of("b")], axis=1)
    found, truth = counts_of(draws, *(2,) * 6), table_of(log_joint, *(2,) * 6)
    assert np.abs(found / found.sum() - truth).sum() / 2 < 0.05


def test_what_it_costs() -> None:
    found = proposed(labels, {"y": Y, "start": START, "move": MOVE, "emit": EMIT}, Chain(), "z")
    assert isinstance(found, Update) and found.finite and found.exact and not found.tuned
    assert found.about == "exact block, first-order chain"
