"""One timed training on part of the rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from mlsysopt.core.errors import UsageError
from mlsysopt.train.estimate import clock
from mlsysopt.train.estimate.characteristics import Characteristics

__all__ = ["Sample", "steady"]


@dataclass(frozen=True, slots=True)
class Sample:
    """What a training on part of the rows cost.

    Attributes:
        rows_share: Share of the users, or of the items, that were taken whole; 0 to 1.
        characteristics: Of the part that was trained on.
        params: Hyper-parameters of this training.
        cpu_s: CPU seconds of `fit` alone.
        wall_s: Elapsed seconds of `fit` alone.
        weight: How much it counts, 1 for a quiet measurement.
        peak_bytes: Highest resident memory of the process; 0 where it was not measured.
        seed: Which rows were drawn.
        repeats: Trainings inside the one timing.
        pace_s: CPU seconds of a fixed loop around it, see `clock.pace`; 0 where it was not read.
        spent_s: CPU seconds that taking it cost in all: building, training, readings; 0 means `cpu_s`.
        extra: What else is known, JSON values.
    """

    rows_share: float
    characteristics: Characteristics
    params: Mapping[str, Any]
    cpu_s: float
    wall_s: float
    weight: float = 1.0
    peak_bytes: int = 0
    seed: int = 0
    repeats: int = 1
    pace_s: float = 0.0
    spent_s: float = 0.0
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        if not (0 < self.rows_share <= 1 and math.isfinite(self.cpu_s) and self.cpu_s > 0 and self.weight >= 0):
            raise UsageError(
                f"a sample needs a share of rows in (0, 1], CPU seconds above 0 and a weight of at least 0, "
                f"got {self.rows_share}, {self.cpu_s}, {self.weight}"
            )

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {**asdict(self), "characteristics": self.characteristics.as_dict(), "params": dict(self.params)}

    def at_pace(self, pace_s: float) -> Sample:
        """Return it as if the machine had run at this pace; what was timed is kept in `extra`."""
        if self.pace_s in (0.0, pace_s):
            return self
        lasted_s = self.wall_s * self.repeats
        return replace(
            self,
            cpu_s=clock.evened(self.cpu_s, read_s=self.pace_s, pace_s=pace_s, lasted_s=lasted_s),
            pace_s=pace_s,
            extra={"timed_s": self.cpu_s, "timed_pace_s": self.pace_s, **self.extra},
        )

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Sample:
        """Read what `as_dict` wrote."""
        known = {one.name for one in fields(cls)}
        values: dict[str, Any] = {name: value for name, value in content.items() if name in known}
        values["characteristics"] = Characteristics.from_dict(values["characteristics"])
        return cls(**values)


def steady(samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """Return the samples as if the machine had run at their mean pace all the time.

    A neighbour on the core slows a sample of a tenth of a second for all of it, a training of minutes now
    and then. Samples whose pace is not known stay as they are; doing it twice changes nothing.
    """
    known = [sample.pace_s for sample in samples if sample.pace_s > 0]
    if not known:
        return tuple(samples)
    mean = sum(known) / len(known)
    return tuple(sample.at_pace(mean) for sample in samples)
