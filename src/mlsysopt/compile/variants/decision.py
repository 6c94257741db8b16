"""Which variant runs for which number of rows: a short table, whatever sizes arrive."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from mlsysopt.core.errors import UsageError

__all__ = ["Decision", "Segment"]


@dataclass(frozen=True, slots=True)
class Segment:
    """A range of M and what runs there.

    Attributes:
        first: Smallest M.
        variant: Name of the variant.
        gain: Time of the baseline over its time, typical within the segment.
        low, high: Interval of the gain.
        source: "measured", "model" or "roofline".
        seconds: Its time at the segment's typical M.
        runner_up: The next best, "" when there is none.
    """

    first: int
    variant: str
    gain: float = 1.0
    low: float = 1.0
    high: float = 1.0
    source: str = "roofline"
    seconds: float = 0.0
    runner_up: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """Segments by rising M, the first from M = 1 on.

    >>> table = Decision((Segment(1, "panel.f32"), Segment(129, "aten.nt")))
    >>> table.at(128), table.at(4096), table.thresholds
    ('panel.f32', 'aten.nt', (129,))
    """

    segments: tuple[Segment, ...]

    def __post_init__(self) -> None:
        firsts = [one.first for one in self.segments]
        if not firsts or firsts[0] > 1 or firsts != sorted(set(firsts)):
            raise UsageError(f"segments must start at 1 and rise, got {firsts}")

    @property
    def thresholds(self) -> tuple[int, ...]:
        return tuple(one.first for one in self.segments[1:])

    @property
    def variants(self) -> tuple[str, ...]:
        """Names of all that occur, each once."""
        return tuple(dict.fromkeys(one.variant for one in self.segments))

    def at(self, rows: int) -> str:
        """Return the variant for a number of rows; 0 is treated as 1."""
        return self.segments[self.index(rows)].variant

    def index(self, rows: int) -> int:
        return bisect_right(self.thresholds, max(rows, 1))

    @classmethod
    def always(cls, variant: str) -> Decision:
        return cls((Segment(1, variant),))

    @classmethod
    def of(cls, thresholds: Sequence[tuple[int, str]]) -> Decision:
        return cls(tuple(Segment(first, variant) for first, variant in thresholds))
