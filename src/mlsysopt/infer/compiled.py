"""The model object: a decorated function, and what it becomes with data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, update_wrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mlsysopt.core.errors import UsageError, near_misses
from mlsysopt.infer.analysis.blanket import fixed
from mlsysopt.infer.binding import Bound, bind
from mlsysopt.infer.emit.entry import Retain
from mlsysopt.infer.engine import Engine
from mlsysopt.infer.frontend.source import Source, read
from mlsysopt.infer.ir import Variable
from mlsysopt.infer.language import Shape
from mlsysopt.infer.planning import Plan, plan

if TYPE_CHECKING:
    from mlsysopt.core.executors import Executor
    from mlsysopt.infer.fit import Fit
    from mlsysopt.infer.interpret import Interpretation
    from mlsysopt.infer.probability import LogProbability
    from mlsysopt.infer.sampling import Progress, Start
    from mlsysopt.infer.verify import Verification

__all__ = ["Compiled", "Handle", "Model", "model"]

Missing = Literal["error", "latent"]
RETAIN: tuple[Retain, ...] = ("none", "samples", "map", "both", "summary")
MOST_CELLS = 1_000_000
"""Kept cells of a finite array above which only its frequencies are kept by default."""


class Model:
    """A probabilistic model, written as a Python function.

    Call it with data to get a `Compiled` one; with nothing, to get one whose inputs are set later.

    Args:
        function: In the modelling language; it is read, never called as it is.
        source: Its text, where Python cannot find it.
    """

    def __init__(self, function: Callable[..., Any], source: str | None = None) -> None:
        self.function, self.given_source = function, source
        update_wrapper(self, function)

    @cached_property
    def source(self) -> Source:
        """Its text."""
        return read(self.function, self.given_source)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of what it takes."""
        return tuple(one.arg for one in self.source.tree.args.args)

    def __call__(self, *args: Any, missing: Missing = "error", **given: Any) -> Compiled:
        """Give it data: numbers, arrays, lists of rows, or a `Shape` for what does not exist yet."""
        names = self.inputs
        if len(args) > len(names):
            raise UsageError(f"{self.source.name} takes {len(names)} inputs ({', '.join(names)}), got {len(args)}")
        return Compiled(self, missing=missing).bind(**{**dict(zip(names, args, strict=False)), **given})


def model(function: Callable[..., Any] | None = None, *, source: str | None = None) -> Any:
    """Make a model of a function, as a decorator.

    Args:
        function: In the modelling language.
        source: Its text, where Python cannot find it (as in an interactive session).

    References:
        Goodman, Pocock, Peck and Steele, Vate: Runtime Adaptable Probabilistic Programming for Java, EuroMLSys 2021.
    """
    if function is None:
        return lambda one: Model(one, source)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    return Model(function, source)


class Handle:
    """One variable of a compiled model: how it is kept, and whether it is given.

    Attributes:
        name: Of the variable.
    """

    def __init__(self, owner: Compiled, name: str) -> None:
        self._owner, self.name = owner, name

    @property
    def retain(self) -> Retain:
        """How it is kept: "none", "samples", "map", "both" or "summary" (running mean and sd)."""
        return self._owner.keep()[self.name]

    @retain.setter
    def retain(self, how: Retain) -> None:
        if how not in RETAIN:
            raise UsageError(f"{self.name}.retain = {how!r}: allowed are {', '.join(RETAIN)}")
        self._owner.retained[self.name] = how

    def fix(self, value: Any) -> None:
        """Treat the variable as given until `unfix`.

        Args:
            value: Of the variable's shape.
        """
        self._owner.fixed_values[self.name] = self.shaped(value)

    def unfix(self) -> None:
        """Infer the variable again."""
        self._owner.fixed_values.pop(self.name, None)

    def set(self, value: Any) -> None:
        """Start every chain at this value."""
        self._owner.starts[self.name] = self.shaped(value)

    def shaped(self, value: Any) -> NDArray[Any]:
        """Return a value as an array of the variable's shape and kind."""
        bound = self._owner.bound
        variable = bound.program.variables[self.name]
        shape = bound.lengths(variable)
        if variable.ragged and isinstance(value, list | tuple):
            value = np.concatenate([np.asarray(one) for one in value])
        array = np.atleast_1d(np.asarray(value))
        if array.shape != shape:
            raise UsageError(f"{self.name} has the shape {_said(variable, shape)}, got {np.shape(value)}")
        if variable.kind != "float" and not np.all(array == np.floor(array)):
            raise UsageError(f"{self.name} holds whole numbers, got {array.reshape(-1)[0]!r}")
        return np.ascontiguousarray(array.astype(np.float64 if variable.kind == "float" else np.int64))


def _said(variable: Variable, shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape if variable.rank else ()


class Compiled:
    """A model with its inputs.

    Variables are attributes: `h.z.retain = "summary"`, `h.mu.fix(3.0)`; `h["z"]` is the same, for names that
    methods have.

    Args:
        model: What it is of.
        missing: "latent" draws the NaN or masked cells of observed arrays; "error" refuses them.
    """

    def __init__(self, model: Model, *, missing: Missing = "error") -> None:
        self.model = model
        self.missing: Missing = missing
        self.given: dict[str, Any] = {}
        self.fixed_values: dict[str, NDArray[Any]] = {}
        self.retained: dict[str, Retain] = {}
        self.starts: dict[str, NDArray[Any]] = {}
        self.fitted: Fit | None = None

    def bind(self, **given: Any) -> Compiled:
        """Return a copy with some inputs given or replaced; what was fixed or retained stays where shapes allow."""
        names = self.model.inputs
        for name in given:
            if name not in names:
                raise UsageError(
                    f"{self.model.source.name} has no input {name!r}; {near_misses(name, names, noun='input')}"
                )
        new = Compiled(self.model, missing=self.missing)
        new.given = {**self.given, **given}
        new.retained, new.fixed_values, new.starts = dict(self.retained), dict(self.fixed_values), dict(self.starts)
        return new

    def ready(self) -> tuple[str, ...]:
        """Return the names of the inputs that are still missing; nothing when it can be run."""
        return tuple(name for name in self.model.inputs if name not in self.given)

    @cached_property
    def bound(self) -> Bound:
        """The checked inputs."""
        left = self.ready()
        if left:
            name = self.model.source.name
            raise UsageError(
                f"{name} needs {', '.join(left)}; pass {left[0]}=... (--data {left[0]}=FILE, --set for a number), "
                f"or a Shape (--shape {left[0]}=N) to execute only"
            )
        return bind(self.model.source, self.given, missing=self.missing)

    def __getattr__(self, name: str) -> Handle:
        if name.startswith("_") or "model" not in self.__dict__:
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name: str) -> Handle:
        names = [one.name for one in self.bound.program.latents]
        if name not in names:
            raise AttributeError(
                f"{self.model.source.name} has no variable {name!r}; {near_misses(name, names, noun='variable')}"
            )
        return Handle(self, name)

    # What it becomes.

    def plan(self) -> Plan:
        """Choose the updates under what is fixed now."""
        return plan(fixed(self.bound.program, self.fixed_values))

    def keep(self, draws: int = 1000) -> dict[str, Retain]:
        """Return how each latent is kept; large finite arrays default to "summary"."""
        found: dict[str, Retain] = {}
        for one in self.bound.program.latents:
            cells = int(np.prod(self.bound.lengths(one)))
            found[one.name] = "summary" if one.kind != "float" and cells * draws > MOST_CELLS else "samples"
        return found | self.retained

    def engine(self, draws: int = 1000, chosen: Plan | None = None) -> Engine:
        """Return code and data for the present state of fixing and retention."""
        keep: dict[str, Retain] = {k: how for k, how in self.keep(draws).items() if k not in self.fixed_values}
        return Engine(self.plan() if chosen is None else chosen, self.bound, keep, self.fixed_values)

    def explain(self) -> str:
        """Say for each variable its update, what it costs, and why each better update was refused."""
        from mlsysopt.infer.explain import explain

        return explain(self)

    def infer(
        self,
        draws: int = 1000,
        *,
        warmup: int | None = None,
        thin: int = 1,
        chains: int = 4,
        seed: int = 0,
        backend: str = "single",
        executor: Executor | None = None,
        method: Literal["auto", "gibbs", "nuts"] = "auto",
        start: Start | Mapping[str, Any] = "auto",
        out: str | Path | None = None,
        progress: Progress | None = None,
    ) -> Fit:
        """Draw from the posterior.

        Args:
            draws: Kept states of each chain.
            warmup: Sweeps before them; None takes min(1000, draws).
            thin: Sweeps for each kept state.
            chains: How many, independent of one another.
            seed: Same seed, same draws, on every backend.
            backend: "python" (un-jitted), "single" (one thread), "threads" (a chain a thread) or "executor".
            executor: Of `mlsysopt.core.executors`, for "executor": a chain a task.
            method: "gibbs" sweeps, "nuts" for smooth models; "auto" takes NUTS where three or more numbers would be
                left to slice sampling.
            start: "auto" (the best of 8 short runs, of 32 where they cost little), "prior", or values by name.
            out: Folder of the fit: it is saved every ten seconds, and `resume` goes on.
            progress: Is told (chain, sweeps done, sweeps in all).

        Raises:
            UsageError: an input is missing, or a setting is not allowed.
        """
        from mlsysopt.infer.running import infer

        self.fitted = infer(
            self, draws, warmup=warmup, thin=thin, chains=chains, seed=seed, backend=backend, executor=executor,
            method=method, start=start, out=out, progress=progress,
        )  # fmt: skip
        return self.fitted

    def execute(self, n: int | None = None, *, seed: int = 0) -> dict[str, Any]:
        """Draw every variable and every observation forward, honouring what is fixed.

        Args:
            n: How many times; each array gets a leading dimension. None draws once, without it.
            seed: Of the draws.
        """
        from mlsysopt.infer.forward import execute

        return execute(self, n, seed=seed)

    def probability(self, *, tol: float = 0.05, seed: int = 0, draws: int = 100_000, **values: Any) -> LogProbability:
        """Estimate the log probability of given values under what is fixed now.

        Args:
            tol: Standard error of the log at which drawing stops.
            seed: Of the draws.
            draws: At most so many.
            values: Inputs to replace, or variables to hold, by name.
        """
        from mlsysopt.infer.probability import probability

        return probability(self, values, tol=tol, seed=seed, most=draws)

    def interpret(self, *, seed: int = 0, values: Mapping[str, Any] | None = None) -> Interpretation:
        """Run the function itself as ordinary Python: breakpoints work.

        Args:
            seed: Of its draws.
            values: Variables to hold instead of drawing them.
        """
        from mlsysopt.infer.interpret import interpret

        return interpret(
            self.model.function, dict(self.given), seed=seed, values={**self.fixed_values, **(values or {})},
            missing=self.missing, source=self.model.given_source,
        )  # fmt: skip

    def verify(
        self, replicates: int = 500, *, seed: int = 0, progress: Callable[[str, int, int], None] | None = None
    ) -> Verification:
        """Check the inference on this very model: simulation-based calibration and the Geweke joint test.

        Args:
            replicates: Simulated data sets.
            seed: Of everything.
            progress: Is told (part, done, in all).
        """
        from mlsysopt.infer.verify import verify

        return verify(self, replicates, seed=seed, progress=progress)

    @property
    def executes_only(self) -> tuple[str, ...]:
        """Inputs that were passed as a `Shape`."""
        return tuple(
            name
            for name, one in self.given.items()
            if isinstance(one, Shape) or (isinstance(one, list | tuple) and any(isinstance(row, Shape) for row in one))
        )
