"""The rule that turns paired differences into words, and stops asking when it can.

At each look: variances of the open rows get the metric's resolution added and are shrunk towards
one another; the t statistics become sequential p-values, which may be looked at as often as one
likes; Holm's procedure over the whole family decides `needed` and `harmful`; two one-sided tests
against the margin decide `negligible`. A decided row gets no more seeds.

Everything works on arrays of studies x rows x seeds, so that what the simulations check is what a
study uses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from mlsysopt.core.errors import UsageError
from mlsysopt.core.stats import MinimumP, Moderated, holm_many, moderate, two_one_sided

__all__ = ["LOOKS", "Judged", "Rule", "looks_up_to", "more_seeds"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

LOOKS = (3, 4, 6, 8, 10)
OPEN, NEEDED, HARMFUL, NEGLIGIBLE = 0, 1, 2, 3
_LEAST = 3
# More seeds than this are not an estimate any more.
_FARTHEST = 200


def looks_up_to(seeds: int) -> tuple[int, ...]:
    """Return the numbers of seeds after which a study with so many seeds at most looks at its rows.

    >>> looks_up_to(10), looks_up_to(5), looks_up_to(20)
    ((3, 4, 6, 8, 10), (3, 4, 5), (3, 4, 6, 8, 10, 14, 20))
    """
    if seeds < _LEAST:
        raise UsageError(f"max_seeds must be at least {_LEAST}, got {seeds}: a spread of fewer values says nothing")
    looks = [*LOOKS]
    while looks[-1] < seeds:
        looks.append(math.ceil(looks[-1] * 1.4))
    return (*(n for n in looks if n < seeds), seeds)


@dataclass(frozen=True, slots=True)
class Judged:
    """What a rule says about every row of every study; arrays of shape (studies, rows).

    Attributes:
        word: 0 open, 1 needed, 2 harmful, 3 negligible.
        look: Seeds at the last look that counted; 0 before the first.
        pairs: Differences that this look had.
        mean: Mean difference at that look, negative for a loss.
        deviation: Shrunken standard deviation of one difference.
        freedom: Degrees of freedom behind it.
        low: Lower end of the repeated interval.
        high: Upper end.
        p_value: Sequential p-value of "no effect", adjusted over the family.
        p_single: The same before the adjustment.
        p_margin: Sequential p-value of "outside the margin"; 1 without a margin.
        covered: Intervals of every look, shape (looks, 2, studies, rows); NaN where the row had no such look.
    """

    word: Ints
    look: Ints
    pairs: Ints
    mean: Floats
    deviation: Floats
    freedom: Floats
    low: Floats
    high: Floats
    p_value: Floats
    p_single: Floats
    p_margin: Floats
    covered: Floats


@dataclass(frozen=True)
class Rule:
    """When a row is decided.

    Attributes:
        looks: Numbers of seeds after which one looks.
        margin: Largest effect that does not matter; None means no row can be called negligible.
        alpha: Error rate of the family.
        step: Resolution of the metric: an accuracy over 360 rows moves by 1/360.

    References:
        Smyth 2004 (moderated t), Holm 1979, Schuirmann 1987 (two one-sided tests).

    >>> judged = Rule(margin=0.5).judge(np.array([[[-2.0, -2.1, -1.9, -2.0], [0.0, 0.1, -0.1, 0.05]]]))
    >>> judged.word.tolist()
    [[1, 3]]
    """

    looks: tuple[int, ...] = LOOKS
    margin: float | None = None
    alpha: float = 0.05
    step: float = 0.0

    # The four parts below are what keeps the error rates; tests take each one out and see that they break.

    def widened(self, variance: Floats, squares: Floats | float) -> Floats:
        """Add what rounding hides: equal rounded values are not certainty."""
        return variance + self.step**2 / 12.0 * squares

    def shrunk(self, variance: Floats, freedom: Floats) -> Moderated:
        """Shrink the variances of the rows that take part in one look."""
        return moderate(variance, freedom, centre="between")

    def sequential(self, smallest: Floats, sides: Literal[1, 2]) -> Floats:
        """Pay for having looked several times."""
        return MinimumP.for_t(self.looks, sides=sides).p_values(smallest)

    def adjusted(self, ps: Floats) -> Floats:
        """Pay for having several rows."""
        return holm_many(ps)

    def interval_level(self) -> float:
        """Return the level of one look's interval, such that all of them hold together."""
        return MinimumP.for_t(self.looks).level(self.alpha)

    def judge(
        self,
        deltas: Floats,
        *,
        reached: Ints | None = None,
        squares: Floats | float = 2.0,
        others: int = 0,
        decide: bool = True,
    ) -> Judged:
        """Go through the looks and decide what can be decided.

        Args:
            deltas: Paired differences in the order of the seeds, shape (studies, rows, seeds); NaN where a
                run failed.
            reached: Leading seeds that each row has finished, shape (studies, rows); None means all.
            squares: Sum of the squared weights of the metrics behind each difference: 2 for one minus another.
            others: Rows of the family that are not there yet; they count as undecided.
            decide: False leaves every row open to the last look.
        """
        from scipy.special import stdtr, stdtrit

        studies, rows, seeds = deltas.shape
        shape = (studies, rows)
        had = np.full(shape, seeds, dtype=np.int64) if reached is None else reached
        word, look, pairs = (np.zeros(shape, dtype=np.int64) for _ in range(3))
        mean, deviation, freedom, low, high = (np.full(shape, np.nan) for _ in range(5))
        smallest, below, above = (np.ones(shape) for _ in range(3))
        adjusted, single, outside = (np.ones(shape) for _ in range(3))
        trace = np.full((len(self.looks), 2, *shape), np.nan)
        level = self.interval_level()
        for place, n in enumerate(self.looks):
            if n > seeds:
                break
            seen = deltas[:, :, :n]
            there = np.isfinite(seen)
            count = there.sum(axis=2)
            part = (word == OPEN) & (had >= n) & (count >= _LEAST)
            if not part.any():
                continue
            filled = np.where(there, seen, 0.0)
            now = filled.sum(axis=2) / np.maximum(count, 1)
            spread = np.where(there, (seen - now[:, :, None]) ** 2, 0.0).sum(axis=2) / np.maximum(count - 1, 1)
            wide = np.where(part, self.widened(spread, squares), np.nan)
            known = self.shrunk(wide, np.where(part, count - 1.0, 1.0))
            error = np.sqrt(known.variance / np.maximum(count, 1))
            with np.errstate(divide="ignore", invalid="ignore"):
                p = 2.0 * np.asarray(stdtr(known.freedom, -np.abs(now) / error))
            smallest = np.where(part, np.fmin(smallest, p), smallest)
            half = np.asarray(stdtrit(known.freedom, 1.0 - level / 2.0)) * error
            trace[place, 0], trace[place, 1] = np.where(part, now - half, np.nan), np.where(part, now + half, np.nan)
            for kept, value in (
                (mean, now), (deviation, np.sqrt(known.variance)), (freedom, known.freedom),
                (low, now - half), (high, now + half), (look, n), (pairs, count),
            ):  # fmt: skip
                np.copyto(kept, value, where=part, casting="unsafe")
            if self.margin is not None:
                lower, upper = two_one_sided(now, error, known.freedom, self.margin)
                below = np.where(part, np.fmin(below, lower), below)
                above = np.where(part, np.fmin(above, upper), above)
                outside = self.sequential(np.maximum(below, above), 1)
            single = np.where(smallest < 1.0, self.sequential(smallest, 2), 1.0)
            padded = np.concatenate([single, np.ones((studies, others))], axis=1)
            adjusted = self.adjusted(padded)[:, :rows]
            if decide:
                inside = part & (outside <= self.alpha)
                found = (word == OPEN) & ~inside & (adjusted <= self.alpha)
                word = np.where(inside, NEGLIGIBLE, np.where(found, np.where(mean < 0, NEEDED, HARMFUL), word))
        return Judged(
            word, look, pairs, mean, deviation, freedom, low, high, adjusted, single, outside, trace
        )  # fmt: skip


def more_seeds(rule: Rule, mean: float, deviation: float, pairs: int, family: int) -> int | None:
    """Estimate how many more seeds would decide a row; None when that cannot be told.

    The mean was picked because it is still open, so it is not taken at its word: the effect counts with
    the inner end of a one-standard-error interval, and the distance to the margin with the outer end.

    Args:
        rule: Of the study.
        mean: Of the differences so far.
        deviation: Shrunken standard deviation of one difference.
        pairs: Differences so far.
        family: Rows that share the error rate.

    >>> more_seeds(Rule(margin=1.0), mean=-0.9, deviation=0.6, pairs=4, family=8)
    9
    """
    if pairs < 2 or not math.isfinite(mean) or not math.isfinite(deviation):
        return None
    from scipy.special import stdtrit

    error = deviation / math.sqrt(pairs)
    two_sided = MinimumP.for_t(rule.looks).level(rule.alpha / max(family, 1))
    goals = [(abs(mean) - error, two_sided / 2.0)]
    if rule.margin is not None:
        goals.append((rule.margin - abs(mean) - error, MinimumP.for_t(rule.looks, sides=1).level(rule.alpha)))
    for n in range(pairs + 1, pairs + _FARTHEST):
        if any(
            distance > 0 and float(stdtrit(2.0 * (n - 1), 1.0 - level)) * deviation / math.sqrt(n) <= distance
            for distance, level in goals
        ):
            return n - pairs
    return None


def needed_looks(looks: Sequence[int], reached: int) -> int | None:
    """Return the next look after so many seeds, None after the last.

    >>> needed_looks(LOOKS, 4), needed_looks(LOOKS, 10)
    (6, None)
    """
    return next((n for n in looks if n > reached), None)
