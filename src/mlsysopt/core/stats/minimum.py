"""The smallest p-value over several looks, and the one p-value that it is worth.

Whoever looks several times and keeps the best look has to pay for it: p = g(min over looks), where
g(a) is the probability that some look falls to `a` or below when there is no effect. Where the
statistic's distribution does not depend on anything unknown (signs and ranks, Student's t), g is one
table per plan of looks.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

from mlsysopt.core.errors import UsageError

__all__ = ["MinimumP"]

Floats = npt.NDArray[np.float64]

# Plans without a committed table are simulated when first used, in about 2 s.
_STUDIES = 400_000
_SEED = 20251


@dataclass(frozen=True, slots=True)
class MinimumP:
    """The distribution of the smallest p-value over looks when there is no effect.

    Attributes:
        scores: Values of the smallest p-value, increasing.
        tail: Probability of each score or less.
        looks: How many looks there are: no tail is larger than so many times its score.
        continuous: Whether p-values between two scores occur; if not, they count as the upper one.

    >>> g = MinimumP.for_t((3, 4, 6, 8, 10))
    >>> round(g.p_value(0.05), 2), round(g.p_value(0.005), 3)
    (0.15, 0.019)
    >>> round(g.p_value(g.level(0.05)), 6)
    0.05
    """

    scores: tuple[float, ...]
    tail: tuple[float, ...]
    looks: int
    continuous: bool = False

    @classmethod
    def for_t(cls, looks: Sequence[int], *, sides: Literal[1, 2] = 2) -> MinimumP:
        """Return g for Student's t statistic of one sample that grows from look to look.

        Args:
            looks: Sample sizes, increasing, the first at least 2.
            sides: Whether the p-values are one-sided or two-sided.

        Raises:
            UsageError: looks that do not increase, or begin below 2.
        """
        plan = tuple(int(n) for n in looks)
        if not plan or plan[0] < 2 or any(b <= a for a, b in pairwise(plan)):
            raise UsageError(f"looks must be increasing sample sizes from 2, got {plan}")
        return _for_t(plan, sides)

    def p_value(self, score: float) -> float:
        """Turn the smallest p-value so far into a sequential one."""
        if self.continuous:
            return float(self.p_values(np.array([score]))[0])
        place = bisect.bisect_left(self.scores, score)
        return self.tail[place] if place < len(self.tail) else 1.0

    def p_values(self, scores: Floats) -> Floats:
        """Do the same for an array of any shape."""
        if not self.continuous:
            places = np.searchsorted(self.scores, scores)
            return np.append(np.asarray(self.tail), 1.0)[np.minimum(places, len(self.tail))]
        # Below the table the union bound holds; NaN stands for "no look yet".
        given = np.where(np.isnan(scores), 1.0, np.clip(scores, 1e-300, 1.0))
        inside = np.exp(np.interp(np.log(given), np.log(self.scores), np.log(self.tail)))
        below = self.looks * given
        return np.minimum(1.0, np.where(given < self.scores[0], np.minimum(below, inside), inside))

    def level(self, alpha: float) -> float:
        """Return the largest score whose sequential p-value is at most alpha; 0 when there is none."""
        if not 0.0 < alpha < 1.0:
            raise UsageError(f"alpha must lie between 0 and 1, got {alpha}")
        if not self.continuous:
            reached = bisect.bisect_right(self.tail, alpha)
            return self.scores[reached - 1] if reached else 0.0
        if alpha < self.tail[0]:
            return alpha / self.looks
        return float(np.exp(np.interp(np.log(alpha), np.log(self.tail), np.log(self.scores))))


@lru_cache(maxsize=64)
def _for_t(looks: tuple[int, ...], sides: Literal[1, 2]) -> MinimumP:
    from mlsysopt.core.stats.simulation import T_SCORES, calibrate_t, tail_of_counts
    from mlsysopt.core.stats.tables import T_PLANS

    if len(looks) == 1:
        return MinimumP(T_SCORES, T_SCORES, 1, True)
    plan = T_PLANS.get(looks) or calibrate_t(looks, _STUDIES, _SEED)
    below = plan.one_sided if sides == 1 else plan.two_sided
    # A table never says less than one look alone would.
    tail = np.maximum(tail_of_counts(below, plan.studies), T_SCORES)
    return MinimumP(T_SCORES, tuple(float(p) for p in np.maximum.accumulate(tail)), len(looks), True)
