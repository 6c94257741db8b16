"""What a fit gives back: draws, summaries, whether it may be believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mlsysopt.core.errors import MissingExtra, UsageError, near_misses
from mlsysopt.infer.diagnostics import Diagnosis, diagnose
from mlsysopt.infer.forward import shaped
from mlsysopt.infer.sampling import Sampled

if TYPE_CHECKING:
    from mlsysopt.infer.compiled import Compiled

__all__ = ["Fit", "Moments"]

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Moments:
    """Running mean and standard deviation of a variable that is kept as a summary.

    Attributes:
        mean: Of the variable's shape.
        sd: Of the variable's shape.
    """

    mean: Array
    sd: Array


@dataclass
class Fit:
    """Draws from a posterior.

    Attributes:
        compiled: The model with its data.
        chains: What each chain that ended left, in order.
        lost: Number -> why, of chains that failed.
        method: "gibbs" or "nuts".
        rules: Variable -> the rule that updated it.
        settings: What `infer` was asked for.
        folder: Where it is saved, if it is.
        stopped: Whether it was ended by hand.
    """

    compiled: Compiled
    chains: Sequence[Sampled]
    lost: Mapping[int, str]
    method: str
    rules: Mapping[str, str]
    settings: Mapping[str, Any]
    folder: Path | None = None
    stopped: bool = False

    def __getitem__(self, name: str) -> Array:
        """Return the kept draws of a variable, shape (chains, draws, *shape); ragged ones are flat."""
        if name not in self.names:
            raise UsageError(f"{name} has no draws in this fit; {near_misses(name, self.names, noun='variable')}")
        length = self.length
        variable = self.compiled.bound.program.variables[name]
        return shaped(variable, np.stack([one.draws[name][:length] for one in self.chains]), 2)

    @property
    def names(self) -> tuple[str, ...]:
        """Variables with draws."""
        return tuple(self.chains[0].draws) if self.chains else ()

    @property
    def length(self) -> int:
        """Kept draws of the shortest chain."""
        return min((len(one.joint) for one in self.chains), default=0)

    @property
    def log_joint(self) -> Array:
        """Log joint of each draw, (chains, draws)."""
        return np.stack([one.joint[: self.length, 0] for one in self.chains])

    @property
    def log_likelihood(self) -> Array:
        """Log likelihood of each draw, (chains, draws)."""
        return np.stack([one.joint[: self.length, 1] for one in self.chains])

    @property
    def cpu_s(self) -> float:
        """CPU seconds of all chains, compiling left out."""
        return sum(one.seconds for one in self.chains)

    @cached_property
    def diagnosis(self) -> Diagnosis:
        """R-hat and ESS of every kept number and of the log joint."""
        if not self.chains or not self.length:
            return Diagnosis((), 0, len(self.lost))
        starts = {
            one.name: starts
            for one in self.compiled.bound.program.variables.values()
            if one.ragged and (starts := self.compiled.bound.starts_of(one)) is not None
        }
        divergences = sum(one.divergences for one in self.chains)
        return diagnose(
            {name: self[name] for name in self.names},
            self.log_joint,
            lost=len(self.lost),
            divergences=divergences,
            ragged=starts,
        )

    @property
    def ok(self) -> bool:
        """Whether it may be believed, see `Diagnosis.ok`."""
        return not self.stopped and self.diagnosis.ok

    def best(self) -> dict[str, Array]:
        """Return the visited state of highest log joint, of what is retained as "map" or "both"."""
        joint = [float(np.max(one.joint[:, 0], initial=-np.inf)) for one in self.chains]
        chain = self.chains[int(np.argmax(joint))]
        variables = self.compiled.bound.program.variables
        return {name: shaped(variables[name], one, 0) for name, one in chain.best.items()}

    def moments(self, name: str) -> Moments:
        """Return mean and sd of a variable that is retained as "summary"."""
        found = [one.moments[name] for one in self.chains if name in one.moments]
        if not found:
            names = list(self.chains[0].moments) if self.chains else []
            raise UsageError(f"{name} is not retained as a summary; {near_misses(name, names, noun='summary')}")
        counts = np.array([len(one.joint) for one in self.chains], dtype=float)
        means = np.stack([mean.reshape(-1) for mean, _ in found])
        total = counts.sum()
        mean = (counts[:, None] * means).sum(axis=0) / total
        squares = sum(square.reshape(-1) for _, square in found) + (counts[:, None] * (means - mean) ** 2).sum(axis=0)
        shape = self.compiled.bound.lengths(self.compiled.bound.program.variables[name])
        return Moments(mean.reshape(shape), np.sqrt(squares / max(total - 1, 1)).reshape(shape))

    def summary(self, most: int = 12) -> str:
        """Return a table of means, sds, quantiles, R-hat and ESS, and the verdict.

        Args:
            most: Rows of each variable at most; of a larger one, those that converged worst are shown.
        """
        from mlsysopt.core.report.columns import aligned

        rows = self.diagnosis.rows
        shown = self.diagnosis.shown(most)
        table = [["", "mean", "sd", "5 %", "95 %", "R-hat", "ESS bulk", "ESS tail"]]
        for one in shown:
            table.append(
                [
                    one.name,
                    *(f"{v:.4g}" for v in (one.mean, one.sd, one.low, one.high)),
                    f"{one.rhat:.3f}" if one.rhat == one.rhat else "-",
                    f"{one.ess_bulk:.0f}" if one.ess_bulk == one.ess_bulk else "-",
                    f"{one.ess_tail:.0f}" if one.ess_tail == one.ess_tail else "-",
                ]
            )
        left = len(rows) - len(shown)
        lines = [*aligned(table)]
        if left:
            lines.append(f"... and {left} more")
        for name in self.chains[0].moments if self.chains else ():
            lines.append(f"{name}: kept as mean and sd, fit.moments({name!r})")
        lines.append(self.verdict())
        return "\n".join(lines)

    def verdict(self) -> str:
        """Return whether it converged, in one to three lines."""
        if self.stopped:
            return f"stopped by hand after {self.length} draws; `resume` goes on"
        said = self.diagnosis.verdict()
        return "\n".join([said, *(f"chain {number}: {why}" for number, why in self.lost.items())])

    def predict(self, n: int | None = None, *, seed: int = 0) -> dict[str, Array]:
        """Draw replicated observations, one set for each of n posterior draws spread over the chains.

        Args:
            n: How many; None takes one for every kept draw, at most 1000.
            seed: Of the draws.

        Returns:
            Observed input -> (n, *shape).
        """
        from mlsysopt.infer.replicate import predict

        return predict(self, n, seed=seed)

    def to_arviz(self) -> Any:
        """Return an `arviz.InferenceData` with posterior, sample statistics and observed data."""
        try:
            import arviz
        except ImportError as error:
            raise MissingExtra.of("to_arviz()", "infer") from error
        bound = self.compiled.bound
        observed = {
            site.variable: bound.arrays[site.variable]
            for site in bound.program.sites
            if site.observed and site.variable in bound.arrays and site.variable not in bound.shapes
        }
        return arviz.from_dict(  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            posterior={name: self[name] for name in self.names},
            sample_stats={"lp": self.log_joint, "log_likelihood": self.log_likelihood},
            observed_data=observed or None,
        )
