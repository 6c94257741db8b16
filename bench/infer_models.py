"""Models and simulated data that the benches of `infer` share."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlsysopt.infer import (
    BernoulliLogit,
    Categorical,
    Dirichlet,
    Gamma,
    HalfNormal,
    Normal,
    array,
    dot,
    model,
    observe,
)

__all__ = [
    "hierarchy", "hierarchy_data", "hmm", "hmm_data", "lda", "lda_data", "logistic", "logistic_data", "mixture",
    "mixture_data",
]  # fmt: skip


@model
def hmm(y, K: int, M: int, sticky, typed):  # type: ignore[no-untyped-def]
    """Labels emitted by a chain of K states; the priors tell the states apart."""
    move = Dirichlet(sticky).rows(K)
    emit = Dirichlet(typed).rows(K)
    z = array(int, len(y))
    z[0] = Categorical.uniform(K)
    for t in range(1, len(y)):
        z[t] = Categorical(move[z[t - 1]])
    for t in range(len(y)):
        observe(y[t], Categorical(emit[z[t]]))


def hmm_data(seed: int, T: int = 2000, K: int = 4, M: int = 8) -> dict[str, Any]:
    """Simulate: rows `move[k] ~ Dirichlet(1 + 8[j=k])`, `emit[k] ~ Dirichlet(0.5 + 4[m//2=k])`.

    Drawn again until every state has a tenth of the time: one that is hardly visited leaves two modes, which says
    more about luck than about samplers.
    """
    rng = np.random.default_rng(seed)
    sticky, typed = 1.0 + 8.0 * np.eye(K), 0.5 + 4.0 * (np.arange(M)[None, :] // 2 == np.arange(K)[:, None])
    while True:
        move = np.stack([rng.dirichlet(one) for one in sticky])
        emit = np.stack([rng.dirichlet(one) for one in typed])
        z, y = np.empty(T, dtype=np.int64), np.empty(T, dtype=np.int64)
        for t in range(T):
            z[t] = rng.choice(K, p=move[z[t - 1]]) if t else rng.integers(K)
            y[t] = rng.choice(M, p=emit[z[t]])
        if np.bincount(z, minlength=K).min() >= T / 10:
            break
    return {"y": y, "K": K, "M": M, "sticky": sticky, "typed": typed}


@model
def lda(w, K: int, V: int):  # type: ignore[no-untyped-def]
    """Topics of ragged documents."""
    theta = Dirichlet(0.1, K).rows(len(w))
    phi = Dirichlet(0.05, V).rows(K)
    z = array(int, like=w)
    for d in range(len(w)):
        for i in range(len(w[d])):
            z[d, i] = Categorical(theta[d])
    for d in range(len(w)):
        for i in range(len(w[d])):
            observe(w[d, i], Categorical(phi[z[d, i]]))


def lda_data(seed: int, tokens: int = 20_000, K: int = 10, V: int = 500, length: int = 100) -> dict[str, Any]:
    """Simulate documents of about `length` tokens."""
    rng = np.random.default_rng(seed)
    phi = rng.dirichlet(np.full(V, 0.05), K)
    docs: list[Any] = []
    while sum(map(len, docs)) < tokens:
        size = int(min(rng.integers(length // 2, 3 * length // 2), tokens - sum(map(len, docs))))
        topics = rng.choice(K, size, p=rng.dirichlet(np.full(K, 0.1)))
        docs.append(np.array([rng.choice(V, p=phi[k]) for k in topics], dtype=np.int64))
    return {"w": docs, "K": K, "V": V, "phi": phi}


@model
def mixture(x, K: int):  # type: ignore[no-untyped-def]
    """A Gaussian mixture, identified by ordered means."""
    weight = Dirichlet(2.0, K)
    mu = Normal(0.0, 5.0).rows(K).ordered()
    precision = Gamma(2.0, 2.0).rows(K)
    z = array(int, len(x))
    for n in range(len(x)):
        z[n] = Categorical(weight)
    for n in range(len(x)):
        observe(x[n], Normal(mu[z[n]], precision=precision[z[n]]))


def mixture_data(seed: int, N: int = 1000, apart: float = 4.0) -> dict[str, Any]:
    """Simulate three components, `apart` standard deviations between neighbours."""
    rng = np.random.default_rng(seed)
    z = rng.choice(3, N, p=[0.3, 0.4, 0.3])
    return {"x": rng.normal(apart * (z - 1.0), np.array([0.8, 1.0, 1.2])[z]), "K": 3}


@model
def hierarchy(y, x, county, J: int):  # type: ignore[no-untyped-def]
    """Intercepts that vary by group around a common one, and one slope."""
    mu = Normal(0.0, 5.0)
    tau = HalfNormal(2.0)
    slope = Normal(0.0, 5.0)
    sigma = HalfNormal(2.0)
    alpha = array(float, J)
    for j in range(J):
        alpha[j] = Normal(mu, tau)
    for n in range(len(y)):
        observe(y[n], Normal(alpha[county[n]] + slope * x[n], sigma))


def hierarchy_data(seed: int, J: int = 85, N: int = 919) -> dict[str, Any]:
    """Simulate groups of very different sizes, as counties are."""
    rng = np.random.default_rng(seed)
    county = np.concatenate([np.arange(J), rng.choice(J, N - J, p=rng.dirichlet(np.full(J, 0.7)))])
    alpha, x = rng.normal(1.4, 0.35, J), rng.integers(0, 2, N).astype(float)
    return {"y": rng.normal(alpha[county] - 0.7 * x, 0.75), "x": x, "county": county, "J": J}


@model
def logistic(y, X):  # type: ignore[no-untyped-def]
    """Logistic regression."""
    intercept = Normal(0.0, 2.5)
    beta = Normal(0.0, 2.5).rows(X.shape[1])
    for n in range(len(y)):
        observe(y[n], BernoulliLogit(intercept + dot(X[n], beta)))


def logistic_data(seed: int, N: int = 500, p: int = 10, correlation: float = 0.7) -> dict[str, Any]:
    """Simulate regressors that are pairwise correlated."""
    rng = np.random.default_rng(seed)
    covariance = np.full((p, p), correlation) + (1.0 - correlation) * np.eye(p)
    X = rng.multivariate_normal(np.zeros(p), covariance, N)
    logit = 0.3 + X @ rng.normal(0.0, 0.6, p)
    return {"y": (rng.random(N) < 1.0 / (1.0 + np.exp(-logit))).astype(np.int64), "X": X}
