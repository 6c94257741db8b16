"""Enumeration draws the joint of small finite models, whichever way it finds what reads a cell."""

# Models are read, not run: their words have no values.
# pyright: reportOperatorIssue=false, reportUnnecessaryComparison=false

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from scipy import stats

from mlsysopt.infer.analysis.blanket import Analysis
from mlsysopt.infer.binding import bind, evaluate
from mlsysopt.infer.frontend.source import read
from mlsysopt.infer.language import (
    Bernoulli,
    BernoulliLogit,
    Binomial,
    Categorical,
    Normal,
    Poisson,
    array,
    dot,
    factor,
    observe,
)
from mlsysopt.infer.rules import Update
from mlsysopt.infer.rules.enumerate import Enumerate
from tests.infer.rules.truth import (
    chain_of,
    counts_of,
    distance,
    engine_of,
    normal,
    p_value,
    proposed,
    table_of,
)

P = np.array([0.5, 0.2, 0.3])
EMIT = np.array([[0.7, 0.1, 0.2], [0.1, 0.6, 0.3], [0.3, 0.3, 0.4]])
MU, SD = np.array([-1.0, 0.5, 2.0]), np.array([0.7, 1.0, 1.5])


def log_bernoulli(x: int, p: float) -> float:
    return math.log(p if x else 1.0 - p)


# Cells that share no consumer: each sweep is an independent draw.


def mixture(x, w, p, mu, sd, emit):
    z = array(int, len(x))
    for n in range(len(x)):
        z[n] = Categorical(p)
        observe(x[n], Normal(mu[z[n]], sd[z[n]]))
    for m in range(len(w)):
        observe(w[m], Categorical(emit[z[m]]))


def topics(w, theta, emit):
    z = array(int, like=w)
    for d in range(len(w)):
        for i in range(len(w[d])):
            z[d, i] = Categorical(theta[d])
            observe(w[d, i], Categorical(emit[z[d, i]]))


def groups(x, g, y, h, p, mu, emit):
    z = array(int, 3)
    for j in range(3):
        z[j] = Categorical(p)
    for n in range(len(x)):
        if z[g[n]] != 1:
            observe(x[n], Normal(mu[z[g[n]]], precision=2.0))
        observe(y[n], Categorical(emit[z[g[n]]]))
    for m in range(len(h)):
        observe(h[m], Poisson(1.0 + z[m]))


def change(counts, early, late):
    tau = Categorical.uniform(len(counts))
    for t in range(len(counts)):
        observe(counts[t], Poisson(early if t < tau else late))


def thinned(x, n, rate):
    c = array(int, len(x))
    for i in range(len(x)):
        c[i] = Binomial(n[i], 0.4)
        observe(x[i], Poisson(rate * c[i] + 0.1))


def switched(x, logit):
    on = BernoulliLogit(logit)
    for i in range(len(x)):
        if on == 1:
            observe(x[i], Normal(1.0, var=0.5))
        else:
            observe(x[i], Normal(0.0, 2.0))


# Cells that share consumers: one after another.


def network(evidence, pa, pb, pc, pd):
    a = Bernoulli(pa)
    b = Bernoulli(pb[a])
    c = Bernoulli(pc[a, b])
    d = Bernoulli(pd[b] if c == 1 else 0.3)
    observe(evidence, Bernoulli(0.9 if d == 1 or a == 1 else 0.2))


def ring(y, strength, n: int):
    s = array(bool, n)
    for i in range(n):
        s[i] = Bernoulli(0.45)
    for i in range(n - 1):
        factor(strength * (1.0 if s[i] == s[i + 1] else -1.0))
    factor(strength * (1.0 if s[n - 1] == s[0] else -1.0))
    for i in range(n):
        observe(y[i], Bernoulli(0.8 if s[i] == 1 else 0.3))


def second_order(y, up):
    z = array(int, len(y))
    z[0] = Bernoulli(0.5)
    z[1] = Bernoulli(0.4)
    for t in range(2, len(y)):
        z[t] = Bernoulli(up[z[t - 2], z[t - 1]])
    for t in range(len(y)):
        observe(y[t], Normal(1.0 * z[t], 0.8))


def total(y, w, p):
    z = array(int, len(w))
    for i in range(len(w)):
        z[i] = Categorical(p)
    observe(y, Normal(dot(w, z), 1.0))


def pairs(a, b, won, skill):
    z = array(int, 3)
    for i in range(3):
        z[i] = Bernoulli(0.3)
    for n in range(len(won)):
        observe(won[n], Bernoulli(0.5 + skill * (z[a[n]] - z[b[n]])))


def pointers(y, emit):
    z = array(int, len(y))
    for i in range(len(y)):
        z[i] = Categorical.uniform(3)
    for i in range(len(y)):
        observe(y[i], Categorical(emit[z[z[i]]]))


def halved(y, n: int):
    a = Binomial(n, 0.5)
    b = Binomial(a, 0.6)
    observe(y, Poisson(1.0 + b))


@dataclass(frozen=True)
class Small:
    """A model, its data, its latents in order, the values of their cells and the log joint."""

    function: Callable[..., None]
    given: dict[str, Any]
    latents: tuple[str, ...]
    counts: tuple[int, ...]
    log_joint: Callable[..., float]


X, W = [0.3, 1.9, -0.8, 1.1], [2, 0, 1]
DOCUMENTS, THETA = [[0, 2], [1], [2, 1]], np.array([[0.2, 0.3, 0.5], [0.6, 0.1, 0.3], [0.1, 0.8, 0.1]])
G, GX, GY, H = [0, 2, 0, 2, 0], [0.3, 1.9, -0.8, 1.1, 0.2], [1, 0, 2, 2, 0], [2, 0, 3]
SERIES, TRIALS, SEEN = [1, 0, 2, 5, 4, 6], np.array([3, 1, 4]), [1, 0, 2]
PC, PB, PD = np.array([[0.2, 0.7], [0.5, 0.9]]), np.array([0.3, 0.8]), np.array([0.1, 0.6])
SPINS, UP, WEIGHTS = [1, 0, 1, 1], np.array([[0.2, 0.7], [0.6, 0.9]]), np.array([1.0, -0.5, 2.0])
A, B, WON = [0, 1, 2, 0, 1], [1, 2, 0, 2, 1], [1, 1, 0, 1, 0]
PLACES = [0, 2, 1]


def _mixture(*z: int) -> float:
    found = sum(math.log(P[k]) + normal(x, MU[k], SD[k]) for k, x in zip(z, X, strict=True))
    return found + sum(math.log(EMIT[k, w]) for k, w in zip(z, W, strict=False))


def _topics(*z: int) -> float:
    cells = [(d, w) for d, words in enumerate(DOCUMENTS) for w in words]
    return sum(math.log(THETA[d, k]) + math.log(EMIT[k, w]) for k, (d, w) in zip(z, cells, strict=True))


def _groups(*z: int) -> float:
    found = sum(math.log(P[k]) for k in z) + sum(stats.poisson.logpmf(h, 1.0 + k) for h, k in zip(H, z, strict=True))
    for g, x, y in zip(G, GX, GY, strict=True):
        found += math.log(EMIT[z[g], y]) + (normal(x, MU[z[g]], math.sqrt(0.5)) if z[g] != 1 else 0.0)
    return float(found)


def _change(tau: int) -> float:
    return float(sum(stats.poisson.logpmf(y, 1.0 if t < tau else 4.0) for t, y in enumerate(SERIES)))


def _thinned(*c: int) -> float:
    each = zip(c, TRIALS, SEEN, strict=True)
    return float(sum(stats.binom.logpmf(k, n, 0.4) + stats.poisson.logpmf(x, 0.7 * k + 0.1) for k, n, x in each))


def _switched(on: int) -> float:
    found = log_bernoulli(on, 1 / (1 + math.exp(0.6)))
    return found + sum(normal(x, 1.0, math.sqrt(0.5)) if on else normal(x, 0.0, 2.0) for x in X)


def _network(a: int, b: int, c: int, d: int) -> float:
    found = log_bernoulli(a, 0.4) + log_bernoulli(b, PB[a]) + log_bernoulli(c, PC[a, b])
    return found + log_bernoulli(d, PD[b] if c else 0.3) + log_bernoulli(1, 0.9 if d or a else 0.2)


def _ring(*s: int) -> float:
    found = sum(log_bernoulli(k, 0.45) + log_bernoulli(y, 0.8 if k else 0.3) for k, y in zip(s, SPINS, strict=True))
    return found + sum(0.6 if s[i] == s[(i + 1) % 4] else -0.6 for i in range(4))


def _second_order(*z: int) -> float:
    found = log_bernoulli(z[0], 0.5) + log_bernoulli(z[1], 0.4)
    found += sum(log_bernoulli(z[t], UP[z[t - 2], z[t - 1]]) for t in range(2, 4))
    return found + sum(normal(x, z[t], 0.8) for t, x in enumerate(X))


def _total(*z: int) -> float:
    return sum(math.log(P[k]) for k in z) + normal(1.7, float(WEIGHTS @ np.array(z)), 1.0)


def _pairs(*z: int) -> float:
    found = sum(log_bernoulli(k, 0.3) for k in z)
    return found + sum(log_bernoulli(w, 0.5 + 0.35 * (z[a] - z[b])) for a, b, w in zip(A, B, WON, strict=True))


def _pointers(*z: int) -> float:
    return sum(math.log(EMIT[z[k], y]) for k, y in zip(z, PLACES, strict=True))


def _halved(a: int, b: int) -> float:
    return float(stats.binom.logpmf(a, 4, 0.5) + stats.binom.logpmf(b, a, 0.6) + stats.poisson.logpmf(3, 1.0 + b))


INDEPENDENT = {
    "mixture": Small(mixture, {"x": X, "w": W, "p": P, "mu": MU, "sd": SD, "emit": EMIT}, ("z",), (3,) * 4, _mixture),
    "topics": Small(topics, {"w": DOCUMENTS, "theta": THETA, "emit": EMIT}, ("z",), (3,) * 5, _topics),
    "groups": Small(
        groups, {"x": GX, "g": G, "y": GY, "h": H, "p": P, "mu": MU, "emit": EMIT}, ("z",), (3,) * 3, _groups
    ),
    "change": Small(change, {"counts": SERIES, "early": 1.0, "late": 4.0}, ("tau",), (6,), _change),
    "thinned": Small(thinned, {"x": SEEN, "n": TRIALS, "rate": 0.7}, ("c",), (5, 5, 5), _thinned),
    "switched": Small(switched, {"x": X, "logit": -0.6}, ("on",), (2,), _switched),
}
SHARED = {
    "network": Small(
        network, {"evidence": 1, "pa": 0.4, "pb": PB, "pc": PC, "pd": PD}, tuple("abcd"), (2,) * 4, _network
    ),
    "ring": Small(ring, {"y": SPINS, "strength": 0.6, "n": 4}, ("s",), (2,) * 4, _ring),
    "second_order": Small(second_order, {"y": X, "up": UP}, ("z",), (2,) * 4, _second_order),
    "total": Small(total, {"y": 1.7, "w": WEIGHTS, "p": P}, ("z",), (3,) * 3, _total),
    "pairs": Small(pairs, {"a": A, "b": B, "won": WON, "skill": 0.35}, ("z",), (2,) * 3, _pairs),
    "pointers": Small(pointers, {"y": PLACES, "emit": EMIT}, ("z",), (3,) * 3, _pointers),
    "halved": Small(halved, {"y": 3, "n": 4}, ("a", "b"), (5, 5), _halved),
}


def drawn(case: Small, count: int) -> Any:
    """Return how often each state came."""
    chain = chain_of(engine_of(case.function, case.given, Enumerate()), count)
    draws = np.concatenate([chain.kept_of(name).reshape(count, -1) for name in case.latents], axis=1)
    return counts_of(draws, *case.counts)


@pytest.mark.parametrize("name", INDEPENDENT)
def test_cells_of_their_own_are_drawn_at_once(name: str) -> None:
    case = INDEPENDENT[name]
    assert p_value(drawn(case, 3_000), table_of(case.log_joint, *case.counts)) > 1e-4


@pytest.mark.parametrize("name", SHARED)
def test_cells_that_share_a_consumer_have_the_right_joint(name: str) -> None:
    case = SHARED[name]
    assert distance(drawn(case, 5_000), table_of(case.log_joint, *case.counts)) < 0.05


def test_a_neighbour_left_out_is_seen() -> None:
    case = SHARED["ring"]
    engine = engine_of(case.function, case.given, Enumerate())
    right = "if (1 <= i):" if "if (1 <= i):" in engine.text else "if (0 <= (i - 1)):"
    assert right in engine.text
    engine.__dict__["text"] = engine.text.replace(right, "if False:")
    found = counts_of(chain_of(engine, 5_000).kept_of("s"), *case.counts)
    assert distance(found, table_of(case.log_joint, *case.counts)) > 0.1


def test_one_label_with_many_words_does_not_underflow() -> None:
    def documents(w, p, phi):
        z = array(int, len(w))
        for d in range(len(w)):
            z[d] = Categorical(p)
            for i in range(len(w[d])):
                observe(w[d, i], Categorical(phi[z[d]]))

    rng = np.random.default_rng(1)
    phi = rng.dirichlet(np.full(5000, 0.5), 3) + 1e-12
    phi /= phi.sum(axis=1, keepdims=True)
    words = [rng.choice(5000, 400, p=phi[k]) for k in (2, 0, 1)] + [rng.choice(5000, 30, p=phi[1])]
    chain = chain_of(engine_of(documents, {"w": words, "p": P, "phi": phi}, Enumerate()), 1)
    assert chain.kept_of("z")[0].tolist() == [2, 0, 1, 1]


def spread(x, p, mu, narrow, wide):
    z = array(int, len(x))
    for n in range(len(x)):
        z[n] = Categorical(p)
        if z[n] < 2:
            observe(x[n], Normal(mu[z[n]], precision=narrow[z[n]]))
        if z[n] == 2:
            observe(x[n], Normal(mu[2], var=wide[n]))


def test_a_spread_is_read_only_where_there_is_one() -> None:
    precision, wide = np.array([1.5, 0.4]), np.array([2.0, 0.7])
    given = {"x": X[:2], "p": P, "mu": MU, "narrow": precision, "wide": wide}

    def log_joint(*z: int) -> float:
        sd = [1.0 / math.sqrt(precision[k]) if k < 2 else math.sqrt(wide[n]) for n, k in enumerate(z)]
        return sum(math.log(P[k]) + normal(x, MU[k], s) for k, x, s in zip(z, X, sd, strict=False))

    case = Small(spread, given, ("z",), (3, 3), log_joint)
    assert p_value(drawn(case, 3_000), table_of(log_joint, *case.counts)) > 1e-4


def test_one_spread_for_all_is_taken_once() -> None:
    def shared(x, p, mu, sd: float):
        z = array(int, len(x))
        for n in range(len(x)):
            z[n] = Categorical(p)
            observe(x[n], Normal(mu[z[n]], sd))

    engine = engine_of(shared, {"x": X, "p": P, "mu": MU, "sd": 0.8}, Enumerate())
    body = engine.text[engine.text.index("def update_0_z") : engine.text.index("def sweep")]
    assert body.index("inverse_or_nan(v_sd[0])") < body.index("for n in range")


def test_an_impossible_value_does_not_hide_the_possible_ones() -> None:
    def narrow(x, p, mu):
        z = array(int, len(x))
        for n in range(len(x)):
            z[n] = Categorical(p)
            observe(x[n], Normal(mu[z[n]], 0.001))

    given = {"x": np.array([0.0]), "p": np.array([0.0, 0.5, 0.5]), "mu": np.array([0.0, 5.0, 5.1])}
    assert chain_of(engine_of(narrow, given, Enumerate()), 20).kept_of("z")[:, 0].tolist() == [1] * 20


def test_a_cell_without_mass_is_named() -> None:
    emit = np.array([[0.7, 0.0, 0.3], [0.4, 0.0, 0.6], [0.5, 0.0, 0.5]])
    engine = engine_of(topics, {"w": DOCUMENTS, "theta": THETA, "emit": emit}, Enumerate())
    failed = chain_of(engine, 0).run(1, warm=True)
    assert failed is not None and (failed.update, failed.cell) == (0, 2)


def test_missing_labels_are_drawn_from_both_sides() -> None:
    def seen(y, up):
        for t in range(1, len(y)):
            observe(y[t], Bernoulli(up[y[t - 1]]))

    given = {"y": np.array([0.0, np.nan, np.nan, 1.0]), "up": PB}
    chain = chain_of(engine_of(seen, given, Enumerate(), missing="latent"), 5_000)

    def log_joint(a: int, b: int) -> float:
        return log_bernoulli(a, PB[0]) + log_bernoulli(b, PB[a]) + log_bernoulli(1, PB[b])

    draws = chain.kept_of("y")
    assert (draws[:, 0] == 0).all() and (draws[:, 3] == 1).all()
    assert distance(counts_of(draws[:, 1:3], 2, 2), table_of(log_joint, 2, 2)) < 0.04


# What it costs.


def cost_of(function: Callable[..., None], given: dict[str, Any], variable: str) -> float:
    bound = bind(read(function), given)
    found = Enumerate().propose(variable, Analysis(bound.program))
    assert isinstance(found, Update) and found.finite
    return evaluate(found.cost, bound)


def test_cost_counts_values_and_what_is_walked_again() -> None:
    assert cost_of(topics, INDEPENDENT["topics"].given, "z") == 3 * (5 + 5)
    assert cost_of(groups, INDEPENDENT["groups"].given, "z") == 3 * (3 + 5 + 5 + 3)
    # Two indices that only the data know: every consumer is looked at for each of 3 cells.
    assert cost_of(pairs, SHARED["pairs"].given, "z") == 2 * (3 + 3 * 2 * 5)


def test_what_is_walked_again_is_said() -> None:
    found = proposed(pairs, SHARED["pairs"].given, Enumerate(), "z")
    assert isinstance(found, Update) and "walked again for each cell" in found.about
    found = proposed(topics, INDEPENDENT["topics"].given, Enumerate(), "z")
    assert isinstance(found, Update) and "walked again" not in found.about
