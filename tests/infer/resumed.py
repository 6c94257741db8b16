"""A fit in a process of its own, which a test kills or interrupts; `python resumed.py model folder pace [mode]`.

Models have a file of their own because a fit folder has to find them again from their text.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from mlsysopt.infer import folder as saving
from mlsysopt.infer import sampling
from mlsysopt.infer.compiled import Compiled, model
from mlsysopt.infer.fit import Fit
from mlsysopt.infer.language import Beta, Binomial, Categorical, Dirichlet, HalfNormal, Normal, array, observe

__all__ = ["MODELS", "MODES", "compiled", "fitted"]


@model
def chain(y, K: int):
    # A comment with a def in it.
    move = Dirichlet(1.0, K).rows(K)
    level = Normal(0.0, 2.0).rows(K).ordered()
    z = array(int, len(y))
    z[0] = Categorical.uniform(K)
    for t in range(1, len(y)):
        z[t] = Categorical(move[z[t - 1]])
    for t in range(len(y)):
        observe(y[t], Normal(level[z[t]], 0.5))


@model
def groups(k, n, y):
    p = Beta(1.0, 1.0)
    scale = HalfNormal(1.0)
    for d in range(len(k)):
        for i in range(len(k[d])):
            observe(k[d, i], Binomial(n, p))
    for i in range(len(y)):
        observe(y[i], Normal(0.0, scale))


@model
def curve(x, y):
    level = Normal(0.0, 2.0)
    slope = Normal(0.0, 2.0)
    scale = HalfNormal(1.0)
    for i in range(len(y)):
        observe(y[i], Normal(level + slope * x[i], scale))


MODELS = ("chain", "groups")
MODES: dict[str, dict[str, Any]] = {
    "plain": {"backend": "python", "method": "gibbs", "draws": 60},
    "compiled": {"backend": "single", "method": "gibbs", "draws": 400},
    "nuts": {"backend": "single", "method": "nuts", "draws": 400},
}
"""How a model is run: each sweep in Python, compiled, and as a whole smooth model."""


def compiled(name: str) -> Compiled:
    """Return a model with its data: a chain kept whole, or ragged groups with a slice update and a gap."""
    if name == "chain":
        rng = np.random.default_rng(1)
        made: Compiled = chain(np.where(np.arange(12) % 5 < 3, 1.0, -1.0) + rng.normal(0, 0.3, 12), K=2)
        made.z.retain = "summary"
        made.level.retain = "both"
        return made
    if name == "curve":
        x = np.linspace(-1.0, 1.0, 20)
        return curve(x, 0.5 + x + np.random.default_rng(2).normal(0, 0.3, 20))
    return groups([np.array([1, 2]), np.array([3])], 4, [0.5, np.nan, -1.0, 0.3], missing="latent")


def fitted(name: str, out: Path | None, mode: str = "plain", **options: Any) -> Fit:
    """Run the fit of a model."""
    given = dict(MODES[mode])
    return compiled(name).infer(given.pop("draws"), warmup=30, chains=2, seed=5, out=out, **given, **options)


if __name__ == "__main__":
    # A save after each slice, and slices of a sweep or two: wherever a kill comes, something is half done.
    saving.EVERY_S = 0.0
    sampling.SLICE_S = 1e-9
    pause = float(sys.argv[3])
    sys.stdout.write("begun\n")
    sys.stdout.flush()
    found = fitted(sys.argv[1], Path(sys.argv[2]), *sys.argv[4:], progress=lambda *_: time.sleep(pause))
    sys.stdout.write(found.verdict())
