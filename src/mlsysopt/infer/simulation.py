"""Data sets that a model draws by itself, and the inference on each of them: what `verify` counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property

import numpy as np

from mlsysopt.infer.binding import Bound
from mlsysopt.infer.diagnostics import cell_name
from mlsysopt.infer.emit.entry import write_failure
from mlsysopt.infer.emit.module import Module
from mlsysopt.infer.engine import Array, Backend, Chain, Engine, Failed
from mlsysopt.infer.ir import Program
from mlsysopt.infer.runtime.streams import stream
from mlsysopt.infer.sampling import explain_failure

__all__ = ["Quantities", "Replicas", "Simulated", "own_data"]

STARTS = 100
"""Prior draws among which a start of finite density under the drawn data has to be."""
CELLS = 12
"""Cells of one array that are each a quantity; of a larger one only the first, the last and the mean are."""
FLAT = 1e-9
"""Relative spread below which a number is a constant with rounding errors, such as the mean of a simplex."""


class Simulated(Engine):
    """An engine whose file has two more entry points.

    `marginal(rng, count, at, joint, best, ...)` keeps independent draws of everything; `successive(rng, count, thin,
    warm, at, failed, joint, best, ...)` follows each sweep by new data, and keeps every `thin`-th state. Parameters
    are those of `sweeps`, of the same types: nothing that both call is compiled twice.
    """

    @cached_property
    def module(self) -> Module:
        """The generated file."""
        module = super().module
        with module.function("marginal", ("rng", "count", "at", "joint", "best")) as f:
            f.line("kept = at")
            with f.block("for number in range(count):"):
                f.line(f"status = {module.call('execute', f, 'rng')}")
                with f.block("if status != 0:"):
                    f.line("return -status")
                f.line(f"kept += {module.call('keep', f, 'kept', 'joint', 'best')}")
            f.line("return kept")
        with module.function("successive", ("rng", "count", "thin", "warm", "at", "failed", "joint", "best")) as f:
            f.line("kept = at")
            with f.block("for number in range(count):"):
                # `count + 1`: what is kept is kept below, with its new data.
                one = ("rng", "number", "1", "count + 1", "0", "warm", "kept", "failed", "joint", "best")
                f.line(f"kept = {module.call('sweeps', f, *one)}")
                with f.block("if failed[2] >= 0:"):
                    f.line("break")
                f.line(f"status = {module.call('replicate', f, 'rng')}")
                write_failure(f, "0")
                with f.block("if (number + 1) % thin == 0:"):
                    f.line(f"kept += {module.call('keep', f, 'kept', 'joint', 'best')}")
            f.line("return kept")
        return module


def own_data(bound: Bound, program: Program, fixed: Mapping[str, Array]) -> Bound:
    """Return the inputs with copies of what is observed: simulated data are written into them."""
    names = {one.variable for one in program.sites if one.observed and one.variable and one.variable not in fixed}
    return replace(bound, arrays={name: one.copy() if name in names else one for name, one in bound.arrays.items()})


class Quantities:
    """The numbers of a state that are compared: cells, means of arrays, log likelihood and log joint.

    Args:
        engine: Of the model.
    """

    def __init__(self, engine: Engine) -> None:
        self.names: list[str] = []
        self.chosen: dict[str, Array] = {}
        self.moving = np.zeros(0, np.int64)
        for name in engine.keep:
            variable = engine.program.variables[name]
            shape = engine.bound.lengths(variable)
            cells = int(np.prod(shape))
            self.chosen[name] = np.arange(cells) if cells <= CELLS else np.array([0, cells - 1])
            starts = engine.bound.starts_of(variable) if variable.ragged else None
            self.names += [cell_name(name, shape, int(one), starts) for one in self.chosen[name]]
            if cells > 1:
                self.names.append(f"mean of {name}")
        self.names += ["log likelihood", "log joint"]

    def of(self, draws: Mapping[str, Array], joint: Array) -> Array:
        """Return the quantities of states, (states, quantities)."""
        found: list[Array] = []
        for name, chosen in self.chosen.items():
            flat = draws[name].reshape(len(joint), -1)
            found.append(flat[:, chosen])
            if flat.shape[1] > 1:
                found.append(flat.mean(axis=1, keepdims=True))
        return np.concatenate([*found, joint[:, 1:], joint[:, :1]], axis=1, dtype=np.float64)

    def keep_moving(self, values: Array) -> None:
        """Leave out what is the same in all states: it has no rank."""
        size = np.abs(values).max(axis=0)
        with np.errstate(invalid="ignore"):
            spread = values.max(axis=0) - values.min(axis=0)
        self.moving = np.flatnonzero(~(spread <= FLAT * np.maximum(size, FLAT)))
        self.names = [self.names[i] for i in self.moving]


class Replicas:
    """One set of arrays through which data set after data set goes.

    Args:
        engine: Code, compiled once for all of them.
        most: States that are kept at a time.
        smooth: Whether NUTS infers, as it would for a user.
        backend: Of the engine.
    """

    def __init__(self, engine: Simulated, *, most: int, smooth: bool, backend: Backend) -> None:
        self.engine, self.smooth = engine, smooth
        self.backend: Backend = backend
        self.chain = Chain(engine, stream(0, 0), draws=most, backend=backend)

    def marginal(self, rng: np.random.Generator, count: int) -> tuple[dict[str, Array], Array]:
        """Return independent draws of all latents, each with data of its own, and their log joint."""
        chain = self.chain
        kept = int(
            self.engine.call(chain.functions, "marginal", chain.arrays, rng, count, 0, chain.joint, chain.best)
        )  # fmt: skip
        if kept < 0:
            raise explain_failure(chain, 0, Failed(-1, -kept - 1, 0))
        return self._kept(kept)

    def successive(self, rng: np.random.Generator, count: int, thin: int) -> tuple[dict[str, Array], Array]:
        """Go on from the present state and data, new data after each sweep."""
        chain = self.chain
        chain.failed[:] = -1
        kept = int(
            self.engine.call(
                chain.functions,
                "successive",
                chain.arrays,
                rng,
                count,
                thin,
                False,
                0,
                chain.failed,
                chain.joint,
                chain.best,
            )
        )
        if chain.failed[2] >= 0:
            raise explain_failure(
                chain, 0, Failed(int(chain.failed[0]) - 1, int(chain.failed[1]), int(chain.failed[2]))
            )
        return self._kept(kept)

    def posterior(
        self, rng: np.random.Generator, seed: int, number: int, *, warmup: int, draws: int, thin: int
    ) -> tuple[dict[str, Array], Array]:
        """Infer from the present data, from an independent prior draw on, adapting anew: as a user's chain does.

        Raises:
            ChainFailed: a state without density.
        """
        if self.smooth:
            return self._nuts(seed, number, warmup, draws, thin)
        chain = self.chain
        chain.rng, chain.thin = rng, thin
        chain.sweeps = chain.kept = 0
        chain.failed[:] = -1
        for name, tuned in self.engine.tuned.items():
            chain.arrays[name][...] = tuned.start
        for _ in range(STARTS):
            status = chain.draw_prior()
            if status:
                raise explain_failure(chain, number, Failed(-1, status - 1, 0))
            if np.isfinite(chain.log_joint()[0]):
                break
        failed = chain.run(warmup, warm=True)
        chain.offset = chain.sweeps
        failed = failed or chain.run(draws * thin, warm=False)
        if failed is not None:
            raise explain_failure(chain, number, failed)
        return self._kept(chain.kept)

    def _nuts(self, seed: int, number: int, warmup: int, draws: int, thin: int) -> tuple[dict[str, Array], Array]:
        from mlsysopt.infer.differentiate import nuts

        for name, array in self.engine.bound.arrays.items():
            if array is not self.chain.arrays[f"v_{name}"]:
                array[...] = self.chain.arrays[f"v_{name}"]
        found = nuts.sample(
            self.engine, draws=draws * thin, warmup=warmup, seed=seed, chain=number, backend=self.backend
        )
        return {name: one[thin - 1 :: thin] for name, one in found.draws.items()}, found.joint[thin - 1 :: thin]

    def _kept(self, count: int) -> tuple[dict[str, Array], Array]:
        return {name: self.chain.arrays[f"k_{name}"][:count] for name in self.engine.keep}, self.chain.joint[:count]
