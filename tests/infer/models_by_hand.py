"""The log joint of the twelve models, written out by hand: (of the variables, of the data)."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats


def chance(v, o, x):
    p = v["p"]
    return stats.beta(2, 3).logpdf(p), (
        stats.binom(x["trials"], p).logpmf(o["won"]).sum() + stats.geom(p, loc=-1).logpmf(o["waits"]).sum()
    )


def rate(v, o, x):
    lam = v["lam"]
    return stats.gamma(3, scale=0.5).logpdf(lam), (
        stats.poisson(x["exposure"] * lam).logpmf(o["events"]).sum()
        + stats.expon(scale=1 / (x["speed"] * lam)).logpdf(o["times"]).sum()
    )


def tables(v, o, x):
    p = v["p"]
    prior = sum(stats.dirichlet([1.5] * 3).logpdf(row) for row in p)
    votes = sum(stats.multinomial(n, row).logpmf(y) for n, row, y in zip(x["ballots"], p, o["votes"], strict=True))
    return prior, np.log(p[x["group"], o["label"]]).sum() + votes


def scales(v, o, x):
    prior = (
        stats.norm(0, 2).logpdf(v["mean"])
        + stats.invgamma(4, scale=3).logpdf(v["variance"])
        + stats.gamma(3, scale=0.5).logpdf(v["weight"])
    )
    left = stats.norm(v["mean"], v["variance"] ** 0.5).logpdf(o["left"]).sum()
    return prior, left + stats.norm(v["mean"], v["weight"] ** -0.5).logpdf(o["right"]).sum()


def line(v, o, x):
    prior = stats.norm(0, 2).logpdf(v["intercept"]) + stats.norm(0, 1).logpdf(v["slopes"]).sum()
    prior += stats.halfnorm(scale=1).logpdf(v["sd"])
    return prior, stats.norm(v["intercept"] + x["x"] @ v["slopes"], v["sd"]).logpdf(o["y"]).sum()


def schools(v, o, x):
    prior = stats.norm(0, 2).logpdf(v["centre"]) + stats.norm(0, 1).logpdf(v["effect"])
    prior += stats.invgamma(4, scale=3).logpdf([v["between"], v["within"]]).sum()
    prior += stats.norm(v["centre"], v["between"] ** 0.5).logpdf(v["level"]).sum()
    mean = v["level"][x["school"]] + v["effect"] * x["treated"]
    return prior, stats.norm(mean, v["within"] ** 0.5).logpdf(o["y"]).sum()


def mixture(v, o, x):
    prior = stats.beta(2, 2).logpdf(v["weight"]) + stats.norm(0, 3).logpdf(v["centre"]).sum()
    prior += stats.bernoulli(v["weight"]).logpmf(v["z"]).sum()
    return prior, stats.norm(v["centre"][v["z"]], 0.8).logpdf(o["y"]).sum()


def markov(v, o, x):
    rows = [(v["move"], x["stay"]), (v["emit"], x["show"])]
    prior = sum(stats.dirichlet(a).logpdf(row) for given, alpha in rows for row, a in zip(given, alpha, strict=True))
    prior += math.log(0.5) + np.log(v["move"][v["z"][:-1], v["z"][1:]]).sum()
    return prior, np.log(v["emit"][v["z"], o["y"]]).sum()


def drifting(v, o, x):
    level = v["level"]
    prior = stats.invgamma(5, scale=2).logpdf([v["step"], v["noise"]]).sum() + stats.norm.logpdf(level[0])
    prior += stats.norm(0.9 * level[:-1], v["step"] ** 0.5).logpdf(level[1:]).sum()
    return prior, stats.norm(level, v["noise"] ** 0.5).logpdf(o["y"]).sum()


def topics(v, o, x):
    prior = sum(stats.dirichlet([0.8, 0.8]).logpdf(row) for row in v["mix"])
    prior += sum(stats.dirichlet(alpha).logpdf(row) for row, alpha in zip(v["word"], x["taste"], strict=True))
    prior += sum(np.log(row[z]).sum() for row, z in zip(v["mix"], v["z"], strict=True))
    return prior, sum(np.log(v["word"][z, w]).sum() for z, w in zip(v["z"], o["w"], strict=True))


def logistic(v, o, x):
    prior = stats.norm(0, 1.5).logpdf(v["intercept"]) + stats.norm(0, 1).logpdf(v["slopes"]).sum()
    p = 1 / (1 + np.exp(-v["intercept"] - x["x"] @ v["slopes"]))
    return prior, stats.bernoulli(p).logpmf(o["y"]).sum()


def stubborn(v, o, x):
    prior = stats.halfnorm(scale=2).logpdf(v["scale"]) + stats.poisson(8).logpmf(v["animals"])
    prior += stats.dirichlet([1.2] * 3).logpdf(v["parts"])
    data = stats.t(4, 0, v["scale"]).logpdf(o["y"]).sum() + stats.binom(v["animals"], 0.4).logpmf(o["caught"]).sum()
    return prior, data + stats.norm(x["content"] @ v["parts"], 0.5).logpdf(o["blend"]).sum()


# Name of a case -> `(values, observed, inputs) -> (log prior, log likelihood)`.
BY_HAND = {
    "a-chance": chance,
    "b-rate": rate,
    "c-tables": tables,
    "d-scales": scales,
    "e-line": line,
    "f-schools": schools,
    "g-mixture": mixture,
    "h-markov": markov,
    "i-drifting": drifting,
    "j-topics": topics,
    "k-logistic": logistic,
    "l-stubborn": stubborn,
}
