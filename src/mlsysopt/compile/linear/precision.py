"""Lower precision behind a gate: what breaks the limit on the model's output is refused, and the error is shown.

The model is seen through `Switchable`: modules whose precision can be set one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from mlsysopt.core.errors import UsageError, near_misses

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["DEFAULT_ERROR", "RUNGS", "Errors", "Outcome", "Rung", "Switchable", "climb", "output_errors"]

RUNGS = ("f32", "bf16", "int8w")
"""From the most exact to the coarsest."""

DEFAULT_ERROR = 2e-2
"""Largest error of the output over its root mean square, where no limit is given."""


class Switchable(Protocol):
    """A model whose modules can each run at another precision."""

    def modules(self) -> Sequence[str]:
        """Return the names of the modules that have a choice."""
        ...

    def rungs(self, module: str) -> Sequence[str]:
        """Return the precisions that a module can run at, in the order of `RUNGS`, "f32" first."""
        ...

    def seconds(self, module: str, rung: str) -> float:
        """Return its time in one call of the model."""
        ...

    def expected(self, module: str, rung: str) -> float:
        """Return the largest error to expect of its result, relative to that result's root mean square."""
        ...

    def run(self, batch: Any, rungs: Mapping[str, str]) -> npt.NDArray[np.floating[Any]]:
        """Return the output for a batch; modules that are not named run in f32."""
        ...

    def reference(self, batch: Any) -> npt.NDArray[np.float64]:
        """Return the output of a float64 run."""
        ...


@dataclass(frozen=True, slots=True)
class Errors:
    """Errors of an output, each relative to the root mean square of the reference.

    Attributes:
        largest: The largest; the gate looks at this one alone.
        p99, median: Quantiles, which hide what the largest shows.
    """

    largest: float
    p99: float
    median: float

    def __str__(self) -> str:
        return f"max {self.largest:.2g}, p99 {self.p99:.2g}, median {self.median:.2g}"


@dataclass(frozen=True, slots=True)
class Rung:
    """One setting that was tried.

    Attributes:
        name: "bf16", "int8w" or "auto".
        errors: Of the output.
        passed: Whether they are within the limit.
        lowered: How many modules ran below f32.
        unseen: Whether the batches were kept back for the last check.
    """

    name: str
    errors: Errors
    passed: bool
    lowered: int
    unseen: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a climb ended with.

    Attributes:
        precision: What was asked for; the name of a variant where that was forced on all.
        limit: Largest error allowed.
        rungs: Module -> its precision.
        tried: Every setting in the order in which it was tried.
        promoted: Modules that were moved up, in order, each with the rung that it left.
        random_inputs: Whether nobody gave calibration batches.
    """

    precision: str
    limit: float
    rungs: Mapping[str, str] = field(default_factory=dict)
    tried: tuple[Rung, ...] = ()
    promoted: tuple[tuple[str, str], ...] = ()
    random_inputs: bool = False

    @property
    def lowered(self) -> int:
        """How many modules run below f32."""
        return sum(rung != "f32" for rung in self.rungs.values())

    @property
    def errors(self) -> Errors | None:
        """The largest errors of what was kept, on all batches; of what was refused, those that it was refused for."""
        if self.refused or not self.tried:
            return self.tried[-1].errors if self.tried else None
        last = {one.unseen: one.errors for one in self.tried if one.passed}
        return Errors(*(max(getattr(one, part) for one in last.values()) for part in ("largest", "p99", "median")))

    @property
    def refused(self) -> bool:
        """Whether lower precision was asked for and nothing of it is left."""
        return self.precision != "f32" and not self.lowered

    def text(self) -> str:
        """Return one line for people."""
        if self.precision == "f32":
            return "f32"
        if self.lowered and not self.tried:
            return (
                f"{self.precision}: {self.lowered} of {len(self.rungs)} modules lowered, their error was not looked at"
            )
        if not self.tried:
            return f"f32: {self.precision} is faster for no product within its error and memory limits"
        error = f"error {self.errors}"
        where = " (random inputs)" if self.random_inputs else ""
        if self.refused:
            return f"f32: {self.precision} refused, {error} against a limit of {self.limit:g}{where}"
        promoted = f", {len(self.promoted)} moved up" if self.promoted else ""
        return f"{self.precision}: {self.lowered} of {len(self.rungs)} modules lowered{promoted}, {error}{where}"


def output_errors(output: npt.NDArray[Any], reference: npt.NDArray[np.float64]) -> Errors:
    """Return the errors of an output, relative to the root mean square of the reference.

    A value that is not finite in one of the two alone is an infinite error.

    >>> import numpy as np
    >>> output_errors(np.array([3.0, 4.5]), np.array([3.0, 4.0])).largest.__round__(3)
    0.141
    """
    import numpy as np

    truth = np.asarray(reference, np.float64).ravel()
    given = np.asarray(output, np.float64).ravel()
    if given.shape != truth.shape:
        raise UsageError(f"output of {given.size} values, reference of {truth.size}: they must be of one shape")
    finite = np.isfinite(truth)
    rms = float(np.sqrt(np.mean(truth[finite] ** 2))) if finite.any() else 0.0
    with np.errstate(invalid="ignore"):
        apart = np.abs(given - truth)
    same = (given == truth) | (np.isnan(given) & np.isnan(truth))
    apart = np.where(same, 0.0, np.where(np.isfinite(apart), apart, np.inf)) / (rms or 1.0)
    if not apart.size:
        return Errors(0.0, 0.0, 0.0)
    # Not interpolated: between a number and infinity there is no quantile.
    p99, median = np.quantile(apart, [0.99, 0.5], method="higher")
    return Errors(float(apart.max()), float(p99), float(median))


def climb(
    model: Switchable,
    precision: str,
    calibration: Sequence[Any],
    *,
    limit: float | None = None,
    random_inputs: bool = False,
    watch: Callable[[Rung], None] | None = None,
) -> Outcome:
    """Find the lowest precision whose output error is within a limit.

    "bf16" and "int8w" are for all modules that they make faster, or for none. "auto" begins with every module at its
    lowest rung whose expected error is within the limit and that is faster than those above; while the output is too
    far off, the module with the largest error per microsecond saved moves up one rung. Every other batch is kept back
    for a last check, which may move more of them up; one batch alone serves for both.

    Args:
        model: The model.
        precision: "f32", "bf16", "int8w" or "auto".
        calibration: Batches, as `model.run` takes them; at least one below f32.
        limit: Largest error of the output over its root mean square; None means `DEFAULT_ERROR`.
        random_inputs: Whether the batches are random; only passed on.
        watch: Called after every setting that was tried.

    Raises:
        UsageError: unknown precision, a limit that is not above 0, or no batch.
    """
    allowed = (*RUNGS, "auto")
    if precision not in allowed:
        raise UsageError(f"precision {precision!r}; {near_misses(precision, allowed, noun='precision')}")
    most = DEFAULT_ERROR if limit is None else limit
    if not most > 0:
        raise UsageError(f"error must be above 0, got {most}")
    names = list(model.modules())
    if precision == "f32" or not names:
        return Outcome(precision, most, dict.fromkeys(names, "f32"))
    if not calibration:
        raise UsageError(f"precision {precision!r} needs at least one calibration batch")
    search = _Search(model, precision, most, calibration, watch)
    rungs = search.fixed() if precision != "auto" else search.auto()
    return Outcome(precision, most, rungs, tuple(search.tried), tuple(search.promoted), random_inputs)


class _Search:
    """State of one climb."""

    def __init__(
        self,
        model: Switchable,
        precision: str,
        limit: float,
        batches: Sequence[Any],
        watch: Callable[[Rung], None] | None,
    ) -> None:
        self.model, self.precision, self.limit, self.watch = model, precision, limit, watch
        # Every other one, since batches often come in the order of their lengths.
        self.seen = list(batches[0::2])
        self.kept_back = list(batches[1::2]) or self.seen
        self.tried: list[Rung] = []
        self.promoted: list[tuple[str, str]] = []
        self.ladders: dict[str, list[str]] = {}
        self.alone: dict[tuple[str, str], float] = {}
        self.references: dict[int, npt.NDArray[np.float64]] = {}

    def fixed(self) -> dict[str, str]:
        plain = dict.fromkeys(self.model.modules(), "f32")
        rungs = {name: self.precision if self._faster(name) else "f32" for name in plain}
        if rungs == plain:
            return plain
        passed = self._measured(rungs, self.seen)[1] and self._measured(rungs, self.kept_back, unseen=True)[1]
        return rungs if passed else plain

    def _faster(self, name: str) -> bool:
        """Whether a module has this precision, and gains by it: its memory may allow it no second form."""
        able = self.precision in self.model.rungs(name)
        return able and self.model.seconds(name, self.precision) < self.model.seconds(name, "f32")

    def auto(self) -> dict[str, str]:
        rungs = {name: self._ladder(name)[-1] for name in self.model.modules()}
        for batches, unseen in ((self.seen, False), (self.kept_back, True)):
            while any(rung != "f32" for rung in rungs.values()):
                error, passed = self._measured(rungs, batches, unseen=unseen)
                if passed:
                    break
                rungs = self._promote(rungs, error)
        return rungs

    def _ladder(self, name: str) -> list[str]:
        """Return the rungs of a module that its expected error allows, each faster than every more exact one."""
        if name not in self.ladders:
            found = ["f32"]
            for rung in self.model.rungs(name)[1:]:
                fine = self.model.expected(name, rung) <= self.limit
                if fine and self.model.seconds(name, rung) < self.model.seconds(name, found[-1]):
                    found.append(rung)
            self.ladders[name] = found
        return self.ladders[name]

    def _measured(
        self, rungs: Mapping[str, str], batches: Sequence[Any], *, unseen: bool = False
    ) -> tuple[float, bool]:
        errors = self._errors(rungs, batches)
        passed = errors.largest <= self.limit
        lowered = sum(rung != "f32" for rung in rungs.values())
        self.tried.append(Rung(self.precision, errors, passed, lowered, unseen))
        if self.watch is not None:
            self.watch(self.tried[-1])
        return errors.largest, passed

    def _errors(self, rungs: Mapping[str, str], batches: Sequence[Any]) -> Errors:
        found = [output_errors(self.model.run(one, rungs), self._reference(one)) for one in batches]
        return Errors(*(max(getattr(one, part) for one in found) for part in ("largest", "p99", "median")))

    def _reference(self, batch: Any) -> npt.NDArray[np.float64]:
        if id(batch) not in self.references:
            self.references[id(batch)] = self.model.reference(batch)
        return self.references[id(batch)]

    def _promote(self, rungs: Mapping[str, str], error: float) -> dict[str, str]:
        """Move up modules until their errors, added as if independent, would fit the limit; at least one moves.

        The sum is scaled to the error just measured, so that only the shares in it matter.
        """
        found = dict(rungs)
        lowered = [name for name, rung in found.items() if rung != "f32"]
        squares = {name: self._alone(name, found[name]) ** 2 for name in lowered}
        whole = sum(squares.values())
        scale = error / math.sqrt(whole) if whole > 0 else math.inf
        for name in sorted(lowered, key=lambda name: -self._error_per_second(name, found[name])):
            self.promoted.append((name, found[name]))
            found[name] = self._above(name, found[name])
            squares[name] = self._alone(name, found[name]) ** 2 if found[name] != "f32" else 0.0
            # An error that is not finite has no shares: one module at a time then.
            if not math.isfinite(scale) or scale * math.sqrt(sum(squares.values())) <= self.limit:
                break
        return found

    def _above(self, name: str, rung: str) -> str:
        ladder = self._ladder(name)
        return ladder[ladder.index(rung) - 1]

    def _error_per_second(self, name: str, rung: str) -> float:
        saved = self.model.seconds(name, self._above(name, rung)) - self.model.seconds(name, rung)
        return self._alone(name, rung) / saved

    def _alone(self, name: str, rung: str) -> float:
        """Return the output's error when this module alone is lowered."""
        if (name, rung) not in self.alone:
            self.alone[name, rung] = self._errors({name: rung}, self.seen[:1]).largest
        return self.alone[name, rung]
