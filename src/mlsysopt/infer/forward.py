"""Executing forward: synthetic data from a model, and replicated data from a fit."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mlsysopt.core.errors import UsageError
from mlsysopt.infer.engine import Backend, Chain, Engine, Failed
from mlsysopt.infer.ir import Variable
from mlsysopt.infer.runtime.streams import stream
from mlsysopt.infer.sampling import explain_failure

if TYPE_CHECKING:
    from mlsysopt.infer.compiled import Compiled

__all__ = ["FORWARD", "execute", "forward_names", "shaped"]

FORWARD = 1 << 20
"""Key of forward streams, out of the way of the chains'."""


def execute(compiled: Compiled, n: int | None, *, seed: int = 0, backend: Backend | None = None) -> dict[str, Any]:
    """Draw everything that is not fixed, in program order; `Compiled.execute` has the details."""
    engine = compiled.engine()
    for site in engine.program.sites:
        if site.distribution is None:
            raise UsageError(f"{engine.program.name} has a factor(...) at line {site.line}, and so cannot be executed")
        if site.distribution.improper and not site.observed:
            raise UsageError(
                f"{site.variable} has the improper prior {site.distribution.name} (line {site.line}); "
                f"fix it to execute: .{site.variable}.fix(value)"
            )
    if n is not None and n < 1:
        raise UsageError(f"n is {n}; at least 1 draw")
    chain = Chain(engine, stream(seed, FORWARD), draws=0, backend=backend or engine.quicker(n or 1))
    names = forward_names(engine)
    found: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    for _ in range(1 if n is None else n):
        status = int(engine.call(chain.functions, "execute", chain.arrays, chain.rng))
        if status:
            raise explain_failure(chain, 0, Failed(-1, status - 1, 0))
        for name in names:
            found[name].append(chain.arrays[f"v_{name}"].copy())
    if n is None:
        return {name: _once(engine.program.variables[name], one[0], compiled) for name, one in found.items()}
    return {name: shaped(engine.program.variables[name], np.stack(one)) for name, one in found.items()}


def forward_names(engine: Engine) -> tuple[str, ...]:
    """Return what executing draws: latents that are not fixed, and observed inputs."""
    return tuple(
        dict.fromkeys(
            site.variable for site in engine.program.sites if site.variable and site.variable not in engine.values
        )
    )


def shaped(variable: Variable, array: NDArray[Any], leading: int = 1) -> NDArray[Any]:
    """Return draws without the dimension of one that numbers have in generated code."""
    return array if variable.rank else array.reshape(array.shape[:leading])


def _once(variable: Variable, array: NDArray[Any], compiled: Compiled) -> Any:
    starts = compiled.bound.starts_of(variable) if variable.ragged else None
    if starts is not None:
        return [array[a:b] for a, b in pairwise(starts)]
    return array if variable.rank else array[0].item()
