"""Simulated studies without any effect: what several looks at the signed-rank test really cost.

Under a symmetric null the signs are fair coins, whatever the sizes are; so the joint distribution
of the statistic over all looks is the same for every continuous noise, and one table per plan of
looks is enough. It has no closed form of practical size (the state is the whole order of the
sizes), hence the simulation. The statistic is counted as positive Walsh averages, which needs no
ranking: V_n = V_(n-1) + #{i <= n: x_i + x_n > 0}.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from mlsysopt.core.errors import UsageError
from mlsysopt.core.stats.signed_rank import attainable

__all__ = [
    "FIRST_SHARE",
    "REFERENCE_ALPHA",
    "T_SCORES",
    "Plan",
    "TPlan",
    "calibrate",
    "calibrate_t",
    "null_ranks",
    "null_t",
    "scores_of",
    "tail_of_counts",
]

REFERENCE_ALPHA = 0.05
"""Level at which the weights of the looks are set; other levels use the same weights."""

FIRST_SHARE = 0.625
"""Share of that level that the first look may use: 0.03125 is six equal signs out of six."""

# The table's own sampling error must not turn into missed error rates: so many of its standard errors are added.
CAUTION = 3.0
_CHUNK = 50_000


@dataclass(frozen=True, slots=True)
class Plan:
    """What one plan of looks needs to turn p-values into one sequential p-value.

    Attributes:
        looks: Numbers of rounds, increasing.
        weights: Divisor of the signed-rank p-value per look.
        studies: Simulated studies.
        below: Studies whose smallest weighted p-value is at most each score of `scores_of`, cumulated.
    """

    looks: tuple[int, ...]
    weights: tuple[float, ...]
    studies: int
    below: tuple[int, ...]

    def tail(self) -> tuple[float, ...]:
        """Return the probability per score, with a margin for the error of the simulation."""
        return tail_of_counts(self.below, self.studies)


@dataclass(frozen=True, slots=True)
class TPlan:
    """What one plan of looks needs to turn the smallest p-value of a t statistic into one p-value.

    Attributes:
        looks: Sample sizes, increasing.
        studies: Simulated studies.
        two_sided: Studies whose smallest two-sided p-value is at most each of `T_SCORES`, cumulated.
        one_sided: The same for one-sided p-values.
    """

    looks: tuple[int, ...]
    studies: int
    two_sided: tuple[int, ...]
    one_sided: tuple[int, ...]


T_SCORES: tuple[float, ...] = tuple(10.0 ** (k / 16) for k in range(-80, 1))
"""Grid of smallest p-values, 16 a decade from 1e-5; in between, the table is interpolated in logarithms."""


def tail_of_counts(below: tuple[int, ...], studies: int) -> tuple[float, ...]:
    """Return shares of simulated studies as probabilities, with a margin for the error of the simulation."""
    n = studies
    return tuple(min(1.0, (k + 1) / (n + 1) + CAUTION * math.sqrt(k * (n - k) / n) / n) for k in below)


def scores_of(looks: tuple[int, ...], weights: tuple[float, ...]) -> tuple[float, ...]:
    """Return every value that a weighted p-value can take, increasing."""
    return tuple(sorted({p / weight for n, weight in zip(looks, weights, strict=True) for p in attainable(n)}))


def null_ranks(looks: tuple[int, ...], studies: int, seed: int) -> Iterator[npt.NDArray[np.int32]]:
    """Yield, chunk by chunk, the smaller count of Walsh averages at each look.

    Args:
        looks: Numbers of rounds, increasing.
        studies: Studies in all.
        seed: Of the simulation.

    Yields:
        Counts, shape (len(looks), studies in this chunk).
    """
    rng = np.random.default_rng(seed)
    for start in range(0, studies, _CHUNK):
        size = min(_CHUNK, studies - start)
        x = rng.standard_normal((looks[-1], size))
        positive = np.zeros(size, dtype=np.int32)
        counts = np.empty((len(looks), size), dtype=np.int32)
        for n in range(1, looks[-1] + 1):
            positive += np.sum(x[:n] + x[n - 1] > 0, axis=0, dtype=np.int32)
            if n in looks:
                counts[looks.index(n)] = np.minimum(positive, n * (n + 1) // 2 - positive)
        yield counts


def calibrate(looks: tuple[int, ...], studies: int, seed: int) -> Plan:
    """Set the weights of a plan and simulate its table.

    The first look may use up to `FIRST_SHARE` of the level; the later looks share the rest, each
    with a nominal level in proportion to the square root of its rounds: of the shapes tried (equal,
    linear, quadratic) this one decides soonest while it loses no power at the last look.

    Raises:
        UsageError: the looks are not increasing, or the first is too early to decide anything.
    """
    if not looks or any(b <= a for a, b in pairwise(looks)) or looks[0] < 1:
        raise UsageError(f"looks must be increasing numbers of rounds, got {looks}")
    allowed = REFERENCE_ALPHA * FIRST_SHARE
    if attainable(looks[0])[0] > allowed:
        raise UsageError(f"the first look must come after at least 6 rounds to be able to decide, got {looks}")
    first_level = max(p for p in attainable(looks[0]) if p <= allowed)
    later_weights = tuple(math.sqrt(n / looks[-1]) for n in looks[1:])
    later_scores = scores_of(looks[1:], later_weights)
    joint = _joint_counts(looks, later_weights, later_scores, studies, seed)

    level = _largest_later_score(joint, looks[0], first_level, later_scores, studies)
    # The first look comes last in the order of scores: where less than the whole level is left, as
    # under Holm's correction, it is given up first, and the later looks keep theirs.
    beyond = later_scores[later_scores.index(level) + 1]
    weights = (first_level / ((level + beyond) / 2), *later_weights)
    scores = scores_of(looks, weights)
    place = {score: i for i, score in enumerate(scores)}
    first_at = np.array([place[p / weights[0]] for p in attainable(looks[0])])
    later_at = np.array([place[score] for score in later_scores])
    counts = np.zeros(len(scores), dtype=np.int64)
    np.add.at(counts, np.minimum(first_at[:, None], later_at[None, :]), joint)
    return Plan(looks, weights, studies, tuple(int(k) for k in np.cumsum(counts)))


def _joint_counts(
    looks: tuple[int, ...],
    later_weights: tuple[float, ...],
    later_scores: tuple[float, ...],
    studies: int,
    seed: int,
) -> npt.NDArray[np.int64]:
    """Count studies by the first look's statistic and the smallest later score."""
    place = {score: i for i, score in enumerate(later_scores)}
    tables = [
        np.array([place[p / weight] for p in attainable(n)]) for n, weight in zip(looks[1:], later_weights, strict=True)
    ]
    columns = len(later_scores)
    joint = np.zeros(len(attainable(looks[0])) * columns, dtype=np.int64)
    for counts in null_ranks(looks, studies, seed):
        later = np.min([table[row] for table, row in zip(tables, counts[1:], strict=True)], axis=0)
        joint += np.bincount(counts[0] * columns + later, minlength=len(joint))
    return joint.reshape(-1, columns)


def _largest_later_score(
    joint: npt.NDArray[np.int64], first: int, first_level: float, later_scores: tuple[float, ...], studies: int
) -> float:
    """Return the score that the later looks may reach when the first look keeps its own level."""
    decided_first = np.array([p <= first_level for p in attainable(first)])
    spent = int(joint[decided_first].sum())
    below = spent + np.cumsum(joint[~decided_first].sum(axis=0))
    rate = (below + 1) / (studies + 1) + CAUTION * np.sqrt(below * (studies - below) / studies) / studies
    fits = np.flatnonzero(rate <= REFERENCE_ALPHA)
    return later_scores[int(fits[-1]) if len(fits) else 0]


def null_t(looks: tuple[int, ...], studies: int, seed: int) -> Iterator[npt.NDArray[np.float64]]:
    """Yield, chunk by chunk, the t statistic of each look at normal noise without any effect.

    Args:
        looks: Sample sizes, increasing, the first at least 2.
        studies: Studies in all.
        seed: Of the simulation.

    Yields:
        Statistics, shape (len(looks), studies in this chunk).
    """
    rng = np.random.default_rng(seed)
    for start in range(0, studies, _CHUNK):
        x = rng.standard_normal((looks[-1], min(_CHUNK, studies - start)))
        found = np.empty((len(looks), x.shape[1]))
        for row, n in zip(found, looks, strict=True):
            row[:] = x[:n].mean(axis=0) / (x[:n].std(axis=0, ddof=1) / math.sqrt(n))
        yield found


def calibrate_t(looks: tuple[int, ...], studies: int, seed: int) -> TPlan:
    """Simulate the table of one plan of looks; see `TPlan`."""
    from scipy.special import stdtr

    freedom = np.array(looks, dtype=np.float64)[:, None] - 1.0
    counts = np.zeros((2, len(T_SCORES)), dtype=np.int64)
    for t in null_t(looks, studies, seed):
        below = np.asarray(stdtr(freedom, t))
        for row, smallest in zip(
            counts, (2.0 * np.minimum(below, 1.0 - below).min(axis=0), below.min(axis=0)), strict=True
        ):
            row += np.searchsorted(np.sort(smallest), T_SCORES, side="right")
    two, one = (tuple(int(k) for k in row) for row in counts)
    return TPlan(looks, studies, two, one)
