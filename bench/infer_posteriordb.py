"""Reference posteriors: `python -m bench.infer_posteriordb`. Bar infer.7: every mean and sd |z| < 4, R-hat < 1.01.

The draws of posteriordb (stan-dev, BSD-3) were made by long, checked runs of Stan.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench.infer_duel  # noqa: F401  # pyright: ignore[reportUnusedImport]  (one thread, before numpy)
from bench.protocol import Bench
from mlsysopt.infer import (
    Bernoulli,
    Beta,
    Categorical,
    Dirichlet,
    Flat,
    HalfCauchy,
    HalfFlat,
    HalfNormal,
    Normal,
    TruncatedNormal,
    array,
    dot,
    model,
    observe,
)

import numpy as np  # isort: skip

Draws = Mapping[str, Any]


@model
def regression(y, X):  # type: ignore[no-untyped-def]
    """Flat coefficients, a half-Cauchy scale."""
    beta = Flat().rows(X.shape[1])
    sigma = HalfCauchy(2.5)
    for n in range(len(y)):
        observe(y[n], Normal(dot(X[n], beta), sigma))


@model
def flat_regression(y, X):  # type: ignore[no-untyped-def]
    """Flat coefficients and scale."""
    beta = Flat().rows(X.shape[1])
    sigma = HalfFlat()
    for n in range(len(y)):
        observe(y[n], Normal(dot(X[n], beta), sigma))


@model
def wide_regression(y, X):  # type: ignore[no-untyped-def]
    """Normal(0, 10) coefficients, a half-Normal scale."""
    beta = Normal(0.0, 10.0).rows(X.shape[1])
    sigma = HalfNormal(10.0)
    for n in range(len(y)):
        observe(y[n], Normal(dot(X[n], beta), sigma))


@model
def hidden(y, loc):  # type: ignore[no-untyped-def]
    """Two states with ordered positive means; rows are flat on the simplex."""
    theta = Dirichlet(1.0, 2).rows(2)
    mu = TruncatedNormal(loc, 1.0, low=0.0).rows(2).ordered()
    z = array(int, len(y))
    z[0] = Categorical.uniform(2)
    for t in range(1, len(y)):
        z[t] = Categorical(theta[z[t - 1]])
    for t in range(len(y)):
        observe(y[t], Normal(mu[z[t]], 1.0))


@model
def gauss_mix(y):  # type: ignore[no-untyped-def]
    """Two components with ordered means."""
    theta = Beta(5.0, 5.0)
    mu = Normal(0.0, 2.0).rows(2).ordered()
    sigma = HalfNormal(2.0).rows(2)
    z = array(int, len(y))
    for n in range(len(y)):
        z[n] = Bernoulli(1.0 - theta)
    for n in range(len(y)):
        observe(y[n], Normal(mu[z[n]], sigma[z[n]]))


@model
def schools(y, sigma):  # type: ignore[no-untyped-def]
    """Eight schools, non-centred."""
    mu = Normal(0.0, 5.0)
    tau = HalfCauchy(5.0)
    e = Normal(0.0, 1.0).rows(len(y))
    for j in range(len(y)):
        observe(y[j], Normal(mu + tau * e[j], sigma[j]))


@model
def lakes(y, x, m_alpha, s_alpha, m_beta, s_beta):  # type: ignore[no-untyped-def]
    """A regression whose intercept and slope are almost perfectly correlated."""
    alpha = Normal(m_alpha, s_alpha)
    beta = Normal(m_beta, s_beta)
    sigma = HalfFlat()
    for n in range(len(y)):
        observe(y[n], Normal(alpha + beta * x[n], sigma))


@model
def autoregression(y, K: int):  # type: ignore[no-untyped-def]
    """Order K, given the first K values."""
    alpha = Normal(0.0, 10.0)
    beta = Normal(0.0, 10.0).rows(K)
    sigma = HalfCauchy(2.5)
    lag = array(float, len(y), K)
    for t in range(K, len(y)):
        for k in range(K):
            lag[t, k] = y[t - k - 1]
    for t in range(K, len(y)):
        observe(y[t], Normal(alpha + dot(lag[t], beta), sigma))


@dataclass(frozen=True)
class Posterior:
    """One reference posterior.

    Attributes:
        data: Name of its data set.
        make: Data -> compiled model.
        names: Our variable -> the reference's name; an array's elements count from 1 there.
        derived: Draws -> what the reference has and the model computes.
    """

    data: str
    make: Callable[[Draws], Any]
    names: Mapping[str, str]
    derived: Callable[[Any], dict[str, Any]] | None = None


def _floats(data: Draws, name: str) -> Any:
    return np.asarray(data[name], dtype=float)


def _with_ones(*columns: Any) -> Any:
    return np.column_stack([np.ones(len(columns[0])), *columns]).astype(float)


def _kidiq(*names: str) -> Callable[[Draws], Any]:
    def make(data: Draws) -> Any:
        hs, iq = _floats(data, "mom_hs"), _floats(data, "mom_iq")
        of = {"hs": hs, "iq": iq, "both": hs * iq}
        return regression(_floats(data, "kid_score"), _with_ones(*(of[name] for name in names)))

    return make


def _nes(data: Draws) -> Any:
    age = np.asarray(data["age_discrete"])
    columns = [
        data["real_ideo"],
        data["race_adj"],
        age == 2,
        age == 3,
        age == 4,
        data["educ1"],
        data["gender"],
        data["income"],
    ]
    return flat_regression(_floats(data, "partyid7"), _with_ones(*columns))


def _mesquite(data: Draws) -> Any:
    logs = [np.log(_floats(data, one)) for one in ("diam1", "diam2", "canopy_height", "total_height", "density")]
    return flat_regression(np.log(_floats(data, "weight")), _with_ones(*logs, _floats(data, "group")))


def _blr(data: Draws) -> Any:
    return wide_regression(_floats(data, "y"), _floats(data, "X"))


def _lakes(data: Draws) -> Any:
    priors = {"m_alpha": "pmualpha", "s_alpha": "psalpha", "m_beta": "pmubeta", "s_beta": "psbeta"}
    return lakes(_floats(data, "y"), _floats(data, "x"), **{ours: float(data[name]) for ours, name in priors.items()})


def _schools(fit: Any) -> dict[str, Any]:
    return {"theta": fit["mu"][..., None] + fit["tau"][..., None] * fit["e"]}


BETA = {"beta": "beta", "sigma": "sigma"}
POSTERIORS: dict[str, Posterior] = {
    "hmm_example-hmm_example": Posterior(
        "hmm_example",
        lambda d: hidden(_floats(d, "y"), np.array([3.0, 10.0])),
        {"mu": "mu"},
        lambda fit: {"theta1": fit["theta"][:, :, 0], "theta2": fit["theta"][:, :, 1]},
    ),
    "low_dim_gauss_mix-low_dim_gauss_mix": Posterior(
        "low_dim_gauss_mix", lambda d: gauss_mix(_floats(d, "y")), {"mu": "mu", "sigma": "sigma", "theta": "theta"}
    ),
    "sblrc-blr": Posterior("sblrc", _blr, BETA),
    "sblri-blr": Posterior("sblri", _blr, BETA),
    "eight_schools-eight_schools_noncentered": Posterior(
        "eight_schools", lambda d: schools(_floats(d, "y"), _floats(d, "sigma")), {"mu": "mu", "tau": "tau"}, _schools
    ),
    "kidiq-kidscore_momhs": Posterior("kidiq", _kidiq("hs"), BETA),
    "kidiq-kidscore_momiq": Posterior("kidiq", _kidiq("iq"), BETA),
    "kidiq-kidscore_momhsiq": Posterior("kidiq", _kidiq("hs", "iq"), BETA),
    "kidiq-kidscore_interaction": Posterior("kidiq", _kidiq("hs", "iq", "both"), BETA),
    "nes1972-nes": Posterior("nes1972", _nes, BETA),
    "nes1980-nes": Posterior("nes1980", _nes, BETA),
    "earnings-earn_height": Posterior(
        "earnings", lambda d: flat_regression(_floats(d, "earn"), _with_ones(_floats(d, "height"))), BETA
    ),
    "earnings-logearn_height": Posterior(
        "earnings", lambda d: flat_regression(np.log(_floats(d, "earn")), _with_ones(_floats(d, "height"))), BETA
    ),
    "arK-arK": Posterior("arK", lambda d: autoregression(_floats(d, "y"), int(d["K"])), {"alpha": "alpha", **BETA}),
    "mesquite-logmesquite": Posterior("mesquite", _mesquite, BETA),
    "kilpisjarvi_mod-kilpisjarvi": Posterior(
        "kilpisjarvi_mod", _lakes, {"alpha": "alpha", "beta": "beta", "sigma": "sigma"}
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.infer_posteriordb", description=__doc__)
    parser.add_argument("--draws", type=int, default=5000)
    parser.add_argument("--only", default="")
    options = parser.parse_args(arguments)
    folder = Path(os.environ.get("MLSYSOPT_DATA", "")) / "posteriordb"
    bench = Bench(
        "infer_posteriordb",
        "the draws are those of the posterior",
        "reference draws of posteriordb, 10 chains of 1000",
        f"4 chains of {options.draws} draws after 1000 sweeps; |z| of means and sds, Monte Carlo errors of both sides",
    )
    if not (folder / "MODELS.md").exists():
        return bench.missing(f"the data set posteriordb (MLSYSOPT_DATA={os.environ.get('MLSYSOPT_DATA', '')!r})")
    rows: list[list[object]] = []
    worst_z = worst_rhat = 0.0
    for name, one in POSTERIORS.items():
        if options.only and options.only not in name:
            continue
        compiled = one.make(json.loads((folder / f"{one.data}.data.json").read_text()))
        for variable in compiled.bound.program.latents:
            if variable.kind != "float":
                compiled[variable.name].retain = "none"
        fit = compiled.infer(options.draws, warmup=1000, chains=4, seed=7)
        with gzip.open(folder / f"{name}.draws.json.gz") as file:
            reference = _read(file)
        z, parameter = _worst(_ours(fit, one), reference)
        rhat = max(row.rhat for row in fit.diagnosis.rows if not row.constant)
        worst_z, worst_rhat = max(worst_z, z), max(worst_rhat, rhat)
        rules = ", ".join(sorted(set(fit.rules.values())))
        rows.append([name, f"{z:.2f}", parameter, f"{rhat:.4f}", f"{fit.cpu_s:.2f}", rules])
        bench.round(
            posterior=name,
            z=z,
            parameter=parameter,
            rhat=rhat,
            cpu_s=fit.cpu_s,
            rules=dict(fit.rules),
            method=fit.method,
        )
        print(f"{name}: worst |z| {z:.2f} ({parameter}), R-hat {rhat:.4f}, {fit.cpu_s:.2f} CPU-s, {rules}", flush=True)
    bench.table(["posterior", "worst |z|", "of", "R-hat", "CPU-s", "updates"], rows)
    bench.bar("infer.7a", worst_z, "<", 4.0, about=f"worst |z| of a mean or sd over {len(rows)} posteriors")
    bench.bar("infer.7b", worst_rhat, "<", 1.01, about="worst R-hat")
    bench.headline = f"{len(rows)} reference posteriors: worst |z| {worst_z:.2f}, worst R-hat {worst_rhat:.4f}"
    return bench.finish(write=not options.only)


def _read(file: Any) -> dict[str, Any]:
    chains = json.loads(file.read())
    return {key: np.array([chain[key] for chain in chains]) for key in chains[0]}


def _ours(fit: Any, one: Posterior) -> dict[str, Any]:
    arrays = {theirs: fit[mine] for mine, theirs in one.names.items()}
    arrays |= one.derived(fit) if one.derived is not None else {}
    found: dict[str, Any] = {}
    for name, draws in arrays.items():
        if draws.ndim == 2:
            found[name] = draws
        else:
            found |= {f"{name}[{i + 1}]": draws[:, :, i] for i in range(draws.shape[2])}
    return found


def _worst(ours: Mapping[str, Any], reference: Mapping[str, Any]) -> tuple[float, str]:
    """Return the largest |z| of a mean or a standard deviation, and whose it is."""
    worst, whose = 0.0, ""
    for name, theirs in reference.items():
        mine = ours[name]
        centre = float(np.mean(theirs))
        for what, f in (("mean", lambda x: x), ("sd", lambda x: np.abs(x - centre) ** 2)):  # noqa: B023
            a, b = f(mine), f(theirs)
            error = np.hypot(_error(a), _error(b))
            z = abs(float(a.mean() - b.mean())) / error
            if z > worst:
                worst, whose = z, f"{what} of {name}"
    return worst, whose


def _error(draws: Any) -> float:
    from mlsysopt.infer.diagnostics import statistics

    ess = float(statistics().ess(draws[:, :, None], chain_axis=0, draw_axis=1, method="mean")[0])
    return float(draws.std() / np.sqrt(ess))


if __name__ == "__main__":
    sys.exit(main())
