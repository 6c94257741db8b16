"""Twelve small models, one for each kind of update: what every executor and every rule of inference is checked on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlsysopt.infer.language import (
    Bernoulli,
    BernoulliLogit,
    Beta,
    Binomial,
    Categorical,
    Dirichlet,
    Exponential,
    Gamma,
    Geometric,
    HalfNormal,
    InverseGamma,
    Multinomial,
    Normal,
    Poisson,
    Shape,
    StudentT,
    array,
    dot,
    observe,
)


@dataclass(frozen=True)
class Case:
    """A model with inputs for which it can be executed.

    Attributes:
        name: Letter and subject.
        function: The model.
        inputs: Parameter -> value; observed arrays are Shapes, a list of Shapes where rows are ragged.
        sizes: Observed array -> how many numbers it holds.
    """

    name: str
    function: Callable[..., None]
    inputs: dict[str, Any]
    sizes: dict[str, int]


def chance(won, waits, trials):
    p = Beta(2.0, 3.0)
    for i in range(len(won)):
        observe(won[i], Binomial(trials[i], p))
    for i in range(len(waits)):
        observe(waits[i], Geometric(p))


def rate(events, times, exposure, speed):
    lam = Gamma(3.0, 2.0)
    for i in range(len(events)):
        observe(events[i], Poisson(exposure[i] * lam))
    for i in range(len(times)):
        observe(times[i], Exponential(speed[i] * lam))


def tables(label, votes, group, ballots, K: int):
    p = Dirichlet(1.5, K).rows(len(ballots))
    for i in range(len(label)):
        observe(label[i], Categorical(p[group[i]]))
    for j in range(len(ballots)):
        observe(votes[j], Multinomial(ballots[j], p[j]))


def scales(left, right):
    mean = Normal(0.0, 2.0)
    variance = InverseGamma(4.0, 3.0)
    weight = Gamma(3.0, 2.0)
    for i in range(len(left)):
        observe(left[i], Normal(mean, var=variance))
    for i in range(len(right)):
        observe(right[i], Normal(mean, precision=weight))


def line(y, x):
    intercept = Normal(0.0, 2.0)
    slopes = Normal(0.0, 1.0).rows(x.shape[1])
    sd = HalfNormal(1.0)
    for i in range(len(y)):
        observe(y[i], Normal(intercept + dot(x[i], slopes), sd))


def schools(y, school, treated, J: int):
    centre = Normal(0.0, 2.0)
    between = InverseGamma(4.0, 3.0)
    within = InverseGamma(4.0, 3.0)
    effect = Normal(0.0, 1.0)
    level = array(float, J)
    for j in range(J):
        level[j] = Normal(centre, var=between)
    for i in range(len(y)):
        if treated[i] == 1:
            observe(y[i], Normal(level[school[i]] + effect, var=within))
        else:
            observe(y[i], Normal(level[school[i]], var=within))


def mixture(y):
    weight = Beta(2.0, 2.0)
    centre = Normal(0.0, 3.0).rows(2).ordered()
    z = array(int, len(y))
    for i in range(len(y)):
        z[i] = Bernoulli(weight)
    for i in range(len(y)):
        observe(y[i], Normal(centre[z[i]], 0.8))


def markov(y, stay, show, K: int):
    move = array(float, K, K)
    emit = array(float, K, show.shape[1])
    for k in range(K):
        move[k] = Dirichlet(stay[k])
        emit[k] = Dirichlet(show[k])
    z = array(int, len(y))
    z[0] = Categorical.uniform(K)
    for t in range(1, len(y)):
        z[t] = Categorical(move[z[t - 1]])
    for t in range(len(y)):
        observe(y[t], Categorical(emit[z[t]]))


def drifting(y, drift: float):
    step = InverseGamma(5.0, 2.0)
    noise = InverseGamma(5.0, 2.0)
    level = array(float, len(y))
    level[0] = Normal(0.0, 1.0)
    for t in range(1, len(y)):
        level[t] = Normal(drift * level[t - 1], var=step)
    for t in range(len(y)):
        observe(y[t], Normal(level[t], var=noise))


def topics(w, taste, K: int, V: int):
    mix = Dirichlet(0.8, K).rows(len(w))
    word = array(float, K, V)
    for k in range(K):
        word[k] = Dirichlet(taste[k])
    z = array(int, like=w)
    for d in range(len(w)):
        for i in range(len(w[d])):
            z[d, i] = Categorical(mix[d])
            observe(w[d, i], Categorical(word[z[d, i]]))


def logistic(y, x):
    intercept = Normal(0.0, 1.5)
    slopes = Normal(0.0, 1.0).rows(x.shape[1])
    for i in range(len(y)):
        observe(y[i], BernoulliLogit(intercept + dot(x[i], slopes)))


def stubborn(y, caught, blend, content):
    scale = HalfNormal(2.0)
    for i in range(len(y)):
        observe(y[i], StudentT(4.0, 0.0, scale))
    animals = Poisson(8.0)
    for j in range(len(caught)):
        observe(caught[j], Binomial(animals, 0.4))
    parts = Dirichlet(1.2, content.shape[1])
    for i in range(len(blend)):
        observe(blend[i], Normal(dot(content[i], parts), 0.5))


def cases() -> list[Case]:
    """Return the twelve, each with inputs of at most 60 observed numbers."""
    rng = np.random.default_rng(2021)
    return [
        Case(
            "a-chance",
            chance,
            {"won": Shape(5), "waits": Shape(6), "trials": np.array([4, 7, 1, 9, 3])},
            {"won": 5, "waits": 6},
        ),
        Case(
            "b-rate",
            rate,
            {
                "events": Shape(6),
                "times": Shape(5),
                "exposure": np.array([0.5, 1.0, 2.0, 0.2, 1.5, 3.0]),
                "speed": np.array([1.0, 0.5, 2.0, 1.0, 4.0]),
            },
            {"events": 6, "times": 5},
        ),
        Case(
            "c-tables",
            tables,
            {
                "label": Shape(12),
                "votes": Shape(2, 3),
                "group": np.array([0, 1] * 6),
                "ballots": np.array([5, 8]),
                "K": 3,
            },
            {"label": 12, "votes": 6},
        ),
        Case("d-scales", scales, {"left": Shape(10), "right": Shape(12)}, {"left": 10, "right": 12}),
        Case("e-line", line, {"y": Shape(20), "x": rng.normal(size=(20, 2)).round(3)}, {"y": 20}),
        Case(
            "f-schools",
            schools,
            {"y": Shape(24), "school": np.arange(24) % 4, "treated": (np.arange(24) % 3 == 0).astype(np.int64), "J": 4},
            {"y": 24},
        ),
        Case("g-mixture", mixture, {"y": Shape(25)}, {"y": 25}),
        Case(
            "h-markov",
            markov,
            {
                "y": Shape(30),
                "stay": np.array([[6.0, 2.0], [2.0, 6.0]]),
                "show": np.array([[6.0, 2.0, 1.0], [1.0, 2.0, 6.0]]),
                "K": 2,
            },
            {"y": 30},
        ),
        Case("i-drifting", drifting, {"y": Shape(25), "drift": 0.9}, {"y": 25}),
        Case(
            "j-topics",
            topics,
            {
                "w": [Shape(9), Shape(5), Shape(12), Shape(7)],
                "taste": np.array([[4.0, 3.0, 1.0, 0.5], [0.5, 1.0, 3.0, 4.0]]),
                "K": 2,
                "V": 4,
            },
            {"w": 33},
        ),
        Case("k-logistic", logistic, {"y": Shape(30), "x": rng.normal(size=(30, 2)).round(3)}, {"y": 30}),
        Case(
            "l-stubborn",
            stubborn,
            {"y": Shape(15), "caught": Shape(4), "blend": Shape(8), "content": rng.normal(size=(8, 3)).round(3)},
            {"y": 15, "caught": 4, "blend": 8},
        ),
    ]
