"""Binary networks against enumeration: `python -m bench.infer_exact`. Bar infer.8."""

from __future__ import annotations

import sys
from itertools import product
from typing import Any

import bench.infer_duel  # noqa: F401  # pyright: ignore[reportUnusedImport]  (one thread, before numpy)
from bench.protocol import Bench
from mlsysopt.infer import Bernoulli, Categorical, array, model, observe

import numpy as np  # isort: skip


@model
def six(p, q, r, e):  # type: ignore[no-untyped-def]
    """A network of six nodes; two of their children are seen."""
    a = Bernoulli(p[0])
    b = Bernoulli(q[a])
    c = Bernoulli(q[2 + a])
    d = Bernoulli(r[2 * b + c])
    f = Bernoulli(q[4 + d])
    g = Bernoulli(r[4 + 2 * c + f])
    observe(e[0], Bernoulli(r[8 + 2 * a + g]))
    observe(e[1], Bernoulli(r[12 + 2 * d + b]))


@model
def twelve(p, t, e):  # type: ignore[no-untyped-def]
    """A grid of twelve nodes, three wide; each has up to two parents, every third node's child is seen."""
    x = array(bool, 12)
    x[0] = Bernoulli(p[0])
    for i in range(1, 3):
        x[i] = Bernoulli(t[i, x[i - 1]])
    for i in range(3, 12):
        x[i] = Bernoulli(t[i, 2 * x[i - 3] + x[i - 1]])
    for j in range(4):
        observe(e[j], Bernoulli(t[12 + j, x[3 * j]]))


@model
def chain(y, start, move, emit):  # type: ignore[no-untyped-def]
    """A hidden Markov chain with known parameters."""
    z = array(int, len(y))
    z[0] = Categorical(start)
    for t in range(1, len(y)):
        z[t] = Categorical(move[z[t - 1]])
    for t in range(len(y)):
        observe(y[t], Categorical(emit[z[t]]))


def main() -> int:
    bench = Bench(
        "infer_exact",
        "draws and probabilities are those of the joint distribution",
        "enumeration of every state; the forward algorithm",
        "random tables and evidence; 4 chains of 250,000 draws",
    )
    rng = np.random.default_rng(11)
    small = six(p=rng.uniform(0.2, 0.8, 1), q=rng.uniform(0.1, 0.9, 6), r=rng.uniform(0.1, 0.9, 16), e=np.array([1, 0]))
    names = tuple("abcdfg")
    fit = small.infer(250_000, warmup=100, chains=4, seed=1)
    codes = np.sum([fit[name].reshape(-1).astype(np.int64) << (5 - i) for i, name in enumerate(names)], axis=0)
    seen = np.bincount(codes, minlength=64) / codes.size
    joint = np.array([_density(small, dict(zip(names, state, strict=True))) for state in _states(6)])
    posterior = joint / joint.sum()
    distance = 0.5 * float(np.abs(seen - posterior).sum())
    bench.bar("infer.8a", distance, "<", 0.01, about="total variation of the joint of six nodes")

    large = twelve(p=rng.uniform(0.2, 0.8, 1), t=rng.uniform(0.1, 0.9, (16, 4)), e=rng.integers(0, 2, 4))
    large.x.retain = "samples"
    fit = large.infer(250_000, warmup=100, chains=4, seed=2)
    x = fit["x"].reshape(-1, 12).astype(float)
    states = np.array(list(_states(12)))
    weights = np.array([_density(large, {"x": state}) for state in states])
    weights /= weights.sum()
    apart = 0.0
    for i in range(12):
        for j in range(i):
            for a, b in product((0, 1), repeat=2):
                mine = float(((x[:, i] == a) & (x[:, j] == b)).mean())
                apart = max(apart, abs(mine - float(weights[(states[:, i] == a) & (states[:, j] == b)].sum())))
    bench.bar("infer.8b", apart, "<", 0.005, about="largest error of a pairwise table of twelve nodes")

    # A fresh one: after a fit the same question is about new data, given those that were seen.
    found = small.bind().probability(e=np.array([1, 0]), tol=0.01, seed=3)
    truth = float(np.log(joint.sum()))
    z = abs(found.log_value - truth) / max(found.se, 1e-9) if found.se else abs(found.log_value - truth) * 1e9
    bench.bar(
        "infer.8c",
        z,
        "<=",
        4.0,
        about=f"standard errors of probability ({found.log_value:.4f}) from enumeration ({truth:.4f})",
    )

    K, M, T = 4, 6, 300
    start, move, emit = np.full(K, 1 / K), rng.dirichlet(np.ones(K), K), rng.dirichlet(np.ones(M), K)
    y = rng.integers(0, M, T)
    alpha, log = start * emit[:, y[0]], 0.0
    for label in y[1:]:
        total = alpha.sum()
        log += float(np.log(total))
        alpha = (alpha / total @ move) * emit[:, label]
    log += float(np.log(alpha.sum()))
    exact = chain(y, start, move, emit).probability(y=y)
    bench.bar(
        "infer.8d", abs(exact.log_value - log) / abs(log), "<", 1e-9, about="relative error of an HMM's probability"
    )
    bench.headline = (
        f"joint of six nodes within {distance:.4f}, pairs of twelve within {apart:.4f}, an HMM's probability to 1e-9"
    )
    return bench.finish()


def _states(n: int) -> Any:
    return product((0, 1), repeat=n)


def _density(compiled: Any, values: dict[str, Any]) -> float:
    """Return the joint density by the formula of each node, without the compiler."""
    given = {name: np.asarray(one) for name, one in compiled.given.items()}
    if "q" in given:
        p, q, r, e = (given[name] for name in "pqre")
        a, b, c, d, f, g = (values[name] for name in "abcdfg")
        tables = [(a, p[0]), (b, q[a]), (c, q[2 + a]), (d, r[2 * b + c]), (f, q[4 + d]), (g, r[4 + 2 * c + f])]
        tables += [(e[0], r[8 + 2 * a + g]), (e[1], r[12 + 2 * d + b])]
    else:
        p, t, e, x = given["p"], given["t"], given["e"], values["x"]
        tables = [(x[0], p[0]), *((x[i], t[i, x[i - 1]]) for i in (1, 2))]
        tables += [(x[i], t[i, 2 * x[i - 3] + x[i - 1]]) for i in range(3, 12)]
        tables += [(e[j], t[12 + j, x[3 * j]]) for j in range(4)]
    return float(np.prod([one if value else 1.0 - one for value, one in tables]))


if __name__ == "__main__":
    sys.exit(main())
