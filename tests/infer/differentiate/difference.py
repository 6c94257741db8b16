"""What a gradient is checked against: differences of the log density, and the determinant of the transform itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlsysopt.infer.analysis.blanket import Analysis, fixed
from mlsysopt.infer.binding import bind
from mlsysopt.infer.differentiate.nuts import Smooth
from mlsysopt.infer.engine import Engine
from mlsysopt.infer.frontend.source import read
from mlsysopt.infer.planning import Choice, Plan
from mlsysopt.infer.rules import Refusal, Update
from mlsysopt.infer.rules.forward import Forward
from mlsysopt.infer.rules.gradient import Gradient, WholeModel

Floats = NDArray[np.float64]


def engine_of(
    function: Callable[..., None],
    given: Mapping[str, Any],
    *,
    missing: str = "error",
    values: Mapping[str, Any] | None = None,
) -> Engine:
    """Return an engine whose only updates draw forward: NUTS needs no others."""
    bound = bind(read(function), given, missing=missing)
    arrays = {name: np.atleast_1d(np.asarray(one, np.float64)) for name, one in (values or {}).items()}
    program = fixed(bound.program, arrays)
    keep = {one.name: "samples" for one in program.latents}
    analysis = Analysis(program)
    forward = [Forward().propose(name, analysis) for name in sorted(analysis.forward_only)]
    choices = tuple(Choice(one) for one in forward if isinstance(one, Update))
    return Engine(Plan(program, choices), bound, keep, arrays)  # pyright: ignore[reportArgumentType]


def proposed(function: Callable[..., None], given: Mapping[str, Any], **settings: Any) -> WholeModel | Refusal:
    """Return what the rule says of a model."""
    return Gradient().propose_model(Analysis(engine_of(function, given, **settings).program))


def slopes(density: Callable[[Floats], float], x: Floats, step: float = 1e-5) -> Floats:
    """Return central differences."""
    found = np.empty(len(x))
    for i in range(len(x)):
        up, down = x.copy(), x.copy()
        up[i] += step
        down[i] -= step
        found[i] = (density(up) - density(down)) / (2.0 * step)
    return found


def log_determinant(smooth: Smooth, x: Floats, step: float = 1e-6) -> float:
    """Return log |d cells / d x|, of as many cells as move and there are numbers: the last of a simplex row follows."""
    names = sorted(
        name for name in smooth.signatures["constrain"] if name.startswith("v_") and f"g_{name[2:]}" in smooth.arrays
    )

    def cells(at: Floats) -> Floats:
        smooth.call("constrain", at)
        parts = []
        for name in names:
            array = smooth.arrays[name]
            sites = smooth.engine.program.sites_of(name[2:])
            simplex = any(site.distribution is not None and site.distribution.support == "simplex" for site in sites)
            parts.append((array[..., :-1] if simplex else array).reshape(-1).copy())
        return np.concatenate(parts)

    columns = []
    for i in range(len(x)):
        up, down = x.copy(), x.copy()
        up[i] += step
        down[i] -= step
        columns.append((cells(up) - cells(down)) / (2.0 * step))
    matrix = np.array(columns).T
    moved = np.any(matrix != 0.0, axis=1)
    return float(np.linalg.slogdet(matrix[moved])[1])
