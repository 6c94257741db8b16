"""Replicated observations from a fit's draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mlsysopt.core.errors import UsageError
from mlsysopt.infer.engine import Chain, Failed
from mlsysopt.infer.forward import FORWARD, shaped
from mlsysopt.infer.runtime.streams import stream
from mlsysopt.infer.sampling import explain_failure

if TYPE_CHECKING:
    from mlsysopt.infer.fit import Fit

__all__ = ["predict"]

MOST = 1000


def predict(fit: Fit, n: int | None, *, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Draw observations again, given posterior draws; `Fit.predict` has the details."""
    engine = fit.compiled.engine()
    total = len(fit.chains) * fit.length
    latents = [one.name for one in engine.program.latents]
    absent = [name for name in latents if name not in fit.names]
    if absent:
        raise UsageError(
            f"predicting needs draws of {absent[0]}, which is not retained as samples: .{absent[0]}.retain = 'samples'"
        )
    if any(site.distribution is None for site in engine.program.sites):
        raise UsageError("a model with factor(...) cannot be executed, and so not predicted from")
    n = min(total, MOST) if n is None else n
    if n < 1:
        raise UsageError(f"n is {n}; at least 1 draw")
    chain = Chain(engine, stream(seed, FORWARD, 1), draws=0, backend=engine.quicker(n))
    names = tuple(
        dict.fromkeys(
            one.variable
            for one in engine.program.sites
            if one.observed and one.variable and one.variable not in engine.values
        )
    )
    found: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    draws = {name: np.concatenate([one.draws[name][: fit.length] for one in fit.chains]) for name in latents}
    for place in np.linspace(0, total - 1, n).astype(int) if n <= total else chain.rng.integers(total, size=n):
        for name in latents:
            chain.arrays[f"v_{name}"][...] = draws[name][place]
        for name in names:
            chain.arrays[f"v_{name}"] = chain.arrays[f"v_{name}"].copy()
        status = int(engine.call(chain.functions, "replicate", chain.arrays, chain.rng))
        if status:
            raise explain_failure(chain, 0, Failed(-1, status - 1, 0))
        for name in names:
            found[name].append(chain.arrays[f"v_{name}"])
    return {name: shaped(engine.program.variables[name], np.stack(one)) for name, one in found.items()}
