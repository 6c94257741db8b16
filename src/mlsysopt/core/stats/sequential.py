"""When a comparison may stop: looks at the signed-rank test that keep the error rate together.

The same idea for Student's t is `MinimumP.for_t`.

Stopping at the first of five looks whose p-value is below 5 % calls a comparison of a thing with
itself "different" in 16 % of all cases. Here each look's p-value is divided by its weight, and the
smallest of these so far is turned into one p-value by the distribution it has when there is no
difference: p = g(min over looks). It can only fall as looks are added, it is valid whenever one
stops, and Holm's procedure may be applied to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from mlsysopt.core.errors import UsageError
from mlsysopt.core.stats.minimum import MinimumP
from mlsysopt.core.stats.signed_rank import EXACT, attainable, interval_at, signed_rank_p

__all__ = ["SequentialRule", "Standing"]

Floats = npt.NDArray[np.float64]

# Plans without a committed table are simulated when first used, in about 0.3 s.
_STUDIES = 400_000
_SEED = 20250


@dataclass(frozen=True, slots=True)
class Standing:
    """What a rule says about the differences seen so far.

    Attributes:
        look: Rounds at the look that counts; 0 before the first one.
        p_value: Sequential p-value.
        low: Lower end of the interval for the centre of the differences.
        high: Upper end.
        decided: Whether the interval excludes 0.
    """

    look: int
    p_value: float
    low: float
    high: float
    decided: bool


@dataclass(frozen=True, slots=True)
class SequentialRule:
    """Looks, and the two-sided signed-rank level that each of them may use.

    Attributes:
        looks: Numbers of rounds after which one may stop.
        boundaries: Level per look; 0 where that look cannot decide.
        alpha: Error rate over all looks together.
        weights: Divisor of the p-value per look.
        scores: Values that the smallest weighted p-value can take, increasing.
        tail: Probability of each score or less when there is no difference.

    >>> rule = SequentialRule.for_looks()
    >>> rule.level(6)
    0.03125
    >>> rule.standing([0.1, 0.2, 0.15, 0.12, 0.3, 0.18]).decided
    True
    """

    looks: tuple[int, ...]
    boundaries: tuple[float, ...]
    alpha: float
    weights: tuple[float, ...]
    scores: tuple[float, ...]
    tail: tuple[float, ...]

    @classmethod
    def for_looks(cls, looks: Sequence[int] = (6, 8, 12, 16, 20), alpha: float = 0.05) -> SequentialRule:
        """Return the rule for these looks; one look alone is the plain test.

        Raises:
            UsageError: looks that do not increase, or that come too early to decide anything.
        """
        return _calibrated(tuple(int(n) for n in looks)).at(alpha)

    def at(self, alpha: float) -> SequentialRule:
        """Return the rule with the same looks and weights at another error rate."""
        if not 0.0 < alpha < 1.0:
            raise UsageError(f"alpha must lie between 0 and 1, got {alpha}")
        limit = self.minimum().level(alpha)
        boundaries = tuple(
            max((p for p in attainable(n) if p / weight <= limit), default=0.0)
            for n, weight in zip(self.looks, self.weights, strict=True)
        )
        return replace(self, alpha=alpha, boundaries=boundaries)

    def level(self, look: int) -> float:
        """Return the two-sided level of one look."""
        if look not in self.looks:
            raise UsageError(f"there is no look after {look} rounds; looks: {', '.join(map(str, self.looks))}")
        return self.boundaries[self.looks.index(look)]

    def p_value(self, ps_at_looks: Sequence[float]) -> float:
        """Turn the signed-rank p-values of the looks so far into one.

        Args:
            ps_at_looks: In the order of the looks; may stop early, may not be longer.
        """
        if len(ps_at_looks) > len(self.looks):
            raise UsageError(f"{len(ps_at_looks)} p-values were given for {len(self.looks)} looks")
        weighted = [p / weight for p, weight in zip(ps_at_looks, self.weights, strict=False)]
        return self._tail_of(min(weighted, default=math.inf))

    def reached(self, rounds: int) -> int:
        """Return the last look within so many rounds; 0 before the first one."""
        return max((n for n in self.looks if n <= rounds), default=0)

    def interval(self, x: Sequence[float] | Floats) -> tuple[float, float]:
        """Return the interval that the last look reached may print: it excludes 0 exactly when that look decides."""
        look = self.reached(len(x))
        return interval_at(x[:look], self.level(look)) if look else (-math.inf, math.inf)

    def standing(self, x: Sequence[float] | Floats, *, latest: bool = False) -> Standing:
        """Judge differences in the order in which they were measured.

        The first look that decides counts, as if the rounds after it had not been run: so the
        verdict, the p-value and the interval always agree.

        Args:
            x: Differences, one per round.
            latest: Judge at the last look reached instead, for a quantity that has no say in when to stop.
        """
        values = np.asarray(x, dtype=np.float64)
        ps = self.looks_at(values)
        if not ps:
            return Standing(0, 1.0, -math.inf, math.inf, False)
        single = [self._tail_of(p / weight) for p, weight in zip(ps, self.weights, strict=False)]
        place = len(ps) - 1
        if not latest:
            place = next((i for i, p in enumerate(single) if p <= self.alpha), place)
        p = single[place] if latest else min(single[: place + 1])
        low, high = interval_at(values[: self.looks[place]], self.boundaries[place])
        return Standing(self.looks[place], p, low, high, p <= self.alpha)

    def looks_at(self, x: Sequence[float] | Floats) -> list[float]:
        """Return the signed-rank p-values of every look that these differences reach."""
        values = np.asarray(x, dtype=np.float64)
        return [signed_rank_p(values[:n], ties="bound") for n in self.looks if n <= len(values)]

    def _tail_of(self, score: float) -> float:
        # Every attainable value is in the table; what lies between two of them counts as the upper one.
        return self.minimum().p_value(score)

    def minimum(self) -> MinimumP:
        """Return the distribution of the smallest weighted p-value."""
        return MinimumP(self.scores, self.tail, len(self.looks))


@lru_cache(maxsize=32)
def _calibrated(looks: tuple[int, ...]) -> SequentialRule:
    from mlsysopt.core.stats.simulation import calibrate, scores_of
    from mlsysopt.core.stats.tables import PLANS

    if looks and looks[-1] > EXACT:
        raise UsageError(f"the last look may come after at most {EXACT} rounds, got {looks[-1]}")
    if len(looks) == 1:
        if looks[0] < 6:
            raise UsageError(f"at least 6 rounds are needed for 95 %, got {looks[0]}")
        p = attainable(looks[0])
        return SequentialRule(looks, (0.0,), 0.05, (1.0,), p, p)
    plan = PLANS.get(looks) or calibrate(looks, _STUDIES, _SEED)
    scores = scores_of(looks, plan.weights)
    return SequentialRule(looks, (0.0,) * len(looks), 0.05, plan.weights, scores, plan.tail())
