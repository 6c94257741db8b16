"""A program, its updates and its data, ready to run: the generated file and the arrays that it works on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mlsysopt.infer.analysis.blanket import visits
from mlsysopt.infer.binding import Bound, evaluate
from mlsysopt.infer.emit.cache import Loaded, door, interpreted, jitted
from mlsysopt.infer.emit.entry import Retain, write_execute, write_log_joint, write_sweeps
from mlsysopt.infer.emit.module import Module, Tuned
from mlsysopt.infer.ir import Program, Site
from mlsysopt.infer.planning import Plan

__all__ = ["Chain", "Engine", "Failed"]

Array = NDArray[Any]
Backend = Literal["python", "single"]

TRIALS, CHEAP_TRIALS, CHEAP = 8, 32, 1e5
"""Prior draws among which a chain looks for its start; more where a sweep takes fewer operations than the last."""
TRIAL_SWEEPS = 20
"""Sweeps of each of them; the better half then goes on for twice as many, down to one."""
PRIOR_DRAWS = 128
"""Draws from the prior that a fit asks for, roughly."""
WORTH_COMPILING = 300_000
"""Draws of single cells that take as long un-jitted as compiling their function does."""


@dataclass(frozen=True, slots=True)
class Failed:
    """Where a chain stopped because something had no density.

    Attributes:
        update: Place of the update among those of a sweep; -1 for a draw from the prior.
        cell: Of the updated variable, flat; of a draw from the prior the number of its site.
        sweep: Number of the sweep, from 0.
    """

    update: int
    cell: int
    sweep: int


class Engine:
    """Generated code and data of one plan.

    Args:
        plan: Program and updates.
        bound: Its data; `bound.program` may differ by what is fixed.
        keep: Latent -> how it is kept.
        values: Values of fixed variables.
    """

    def __init__(
        self, plan: Plan, bound: Bound, keep: Mapping[str, Retain], values: Mapping[str, Array] | None = None
    ) -> None:
        self.plan, self.bound, self.keep, self.values = plan, bound, dict(keep), dict(values or {})

    @cached_property
    def module(self) -> Module:
        """The generated file."""
        module = Module(self.program)
        plan, latent = self.plan, {one.name for one in self.program.latents}
        forward = set(plan.forward)
        fixed = set(self.values)
        write_execute(module, "prior", lambda site: _can_draw(site) and not site.observed and site.variable in latent)
        if all(_can_draw(site) or site.variable in fixed for site in self.program.sites):
            # What is fixed and what is observed are both given; only the observed is drawn when executing.
            write_execute(module, "execute", lambda site: bool(site.variable) and site.variable not in fixed)
            write_execute(
                module, "replicate", lambda site: bool(site.variable) and site.observed and site.variable not in fixed
            )
        if forward:
            write_execute(module, "forward", lambda site: not site.observed and site.variable in forward)
        write_log_joint(module, "log_joint", self.program.sites)
        write_sweeps(module, plan.updates, self.keep, bool(forward))
        return module

    @cached_property
    def text(self) -> str:
        """Source of the generated file."""
        return self.module.text()

    @cached_property
    def signatures(self) -> dict[str, tuple[str, ...]]:
        """Function of the file -> the arrays that follow its parameters."""
        return {name: tuple(one.arrays) for name, one in self.module.written.items()}

    @cached_property
    def inner(self) -> dict[str, tuple[str, ...]]:
        """Functions that only generated code calls -> all their arguments; Python needs a door to them."""
        return {name: (*one.parameters, *one.arrays) for name, one in self.module.written.items() if one.inner}

    @cached_property
    def tuned(self) -> dict[str, Tuned]:
        """Numbers that updates adapt."""
        return dict(self.module.tuned)

    @cached_property
    def updates(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Rule and variables of each update of a sweep, in the order that `Failed.update` counts."""
        return tuple((one.rule, one.variables) for one in self.plan.updates)

    @cached_property
    def trials(self) -> int:
        """Prior draws among which a chain looks for its start."""
        cost = sum(float(evaluate(one.cost, self.bound)) for one in self.plan.updates)
        return CHEAP_TRIALS if cost <= CHEAP else TRIALS

    def quicker(self, times: int) -> Backend:
        """Return the backend that is done sooner with so many passes over all sites; draws are the same on both."""
        cells = sum(float(evaluate(visits(site), self.bound)) for site in self.program.sites)
        return "single" if cells * times > WORTH_COMPILING else "python"

    @cached_property
    def program(self) -> Program:
        """The program, fixed variables as inputs."""
        return self.plan.program

    def __getstate__(self) -> dict[str, Any]:
        """Leave the rules behind: another process needs their text, not their proofs."""
        return {
            "text": self.text,
            "signatures": self.signatures,
            "inner": self.inner,
            "tuned": self.tuned,
            "trials": self.trials,
            "updates": self.updates,
            "program": self.program,
            "bound": self.bound,
            "keep": self.keep,
            "values": self.values,
        }

    def functions(self, backend: Backend = "single") -> Loaded:
        """Return the file's functions, jitted or as plain Python."""
        return interpreted(self.text) if backend == "python" else jitted(self.text)

    def arrays(self) -> dict[str, Array]:
        """Return fresh arrays of inputs, latents, rows' starts and tuned numbers."""
        found: dict[str, Array] = {}
        for name, one in self.bound.arrays.items():
            found[f"v_{name}"] = one.copy() if name in self.bound.missing else one
        for name, starts in self.bound.starts.items():
            found[f"at_{name}"] = starts
        for variable in self.program.variables.values():
            if f"v_{variable.name}" not in found:
                shape = self.bound.lengths(variable)
                found[f"v_{variable.name}"] = np.zeros(shape, np.float64 if variable.kind == "float" else np.int64)
        for name, value in self.values.items():
            found[f"v_{name}"] = (
                np.ascontiguousarray(value).reshape(found[f"v_{name}"].shape).astype(found[f"v_{name}"].dtype)
            )
        for name, tuned in self.tuned.items():
            size = tuned.size if isinstance(tuned.size, int) else int(evaluate(tuned.size, self.bound))
            shape = found[f"v_{tuned.like}"].shape if tuned.like else (size,)
            found[name] = np.full(shape, tuned.start)
        return found

    def call(self, functions: Loaded, name: str, arrays: Mapping[str, Array], *arguments: Any) -> Any:
        """Call a function of the file with the arrays that it takes."""
        function = door(functions, name, self.inner[name]) if name in self.inner else functions[name]
        return function(*arguments, *(arrays[one] for one in self.signatures[name]))


def _can_draw(site: Site) -> bool:
    return site.distribution is not None and not site.distribution.improper


class Chain:
    """One chain: its arrays, its generator, and how far it has come.

    Args:
        engine: What runs.
        rng: Its random stream.
        draws: How many states are kept in all.
        thin: Every how many sweeps one is kept.
        backend: "single" for native code, "python" for the same file un-jitted.
    """

    def __init__(
        self, engine: Engine, rng: np.random.Generator, *, draws: int, thin: int = 1, backend: Backend = "single"
    ) -> None:
        self.engine, self.rng, self.draws, self.thin, self.backend = engine, rng, draws, thin, backend
        self.functions = engine.functions(backend)
        few = backend == "single" and engine.quicker(PRIOR_DRAWS) == "python"
        self._forward = engine.functions("python") if few else self.functions
        self.arrays = engine.arrays()
        self.joint = np.full((max(draws, 1), 2), np.nan)
        self.best = np.full(1, -np.inf)
        self.failed = np.full(3, -1, np.int64)
        self.sweeps = self.kept = 0
        self.offset: int | None = None
        self.kept_s = 0.0
        for name, how in engine.keep.items():
            like = self.arrays[f"v_{name}"]
            if how in ("samples", "both"):
                self.arrays[f"k_{name}"] = np.zeros((draws, *like.shape), like.dtype)
            if how in ("map", "both"):
                self.arrays[f"map_{name}"] = like.copy()
            if how == "summary":
                self.arrays[f"mean_{name}"] = np.zeros(like.shape)
                self.arrays[f"square_{name}"] = np.zeros(like.shape)

    def log_joint(self) -> tuple[float, float]:
        """Return log joint and log likelihood of the present state."""
        joint, likelihood = self.engine.call(self.functions, "log_joint", self.arrays)
        return float(joint), float(likelihood)

    def draw_prior(self) -> int:
        """Draw every latent from its prior; return 0, or 1 + the number of the site that could not be drawn."""
        return int(self.engine.call(self._forward, "prior", self.arrays, self.rng))

    def run(self, count: int, *, warm: bool) -> Failed | None:
        """Run sweeps from where it stands; return where it failed, if it did."""
        self.kept = int(
            self.engine.call(
                self.functions,
                "sweeps",
                self.arrays,
                self.rng,
                self.sweeps,
                count,
                self.thin,
                self.offset or 0,
                warm,
                self.kept,
                self.failed,
                self.joint,
                self.best,
            )
        )
        if self.failed[2] >= 0:
            return Failed(*(int(one) for one in (self.failed[0] - 1, self.failed[1], self.failed[2])))
        self.sweeps += count
        return None

    def kept_of(self, name: str) -> Array:
        """Return the kept draws of a variable so far, shape (kept, *shape)."""
        return self.arrays[f"k_{name}"][: self.kept]
