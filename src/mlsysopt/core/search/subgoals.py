"""Which knobs drive which sub-goal: what the user knows, then what the trials show.

The map is small on purpose: a sub-goal that sees three knobs out of ten needs far fewer trials
than a model of all ten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlsysopt.core.errors import MissingExtra, StudyError, near_misses

__all__ = ["FIRST_MAP", "Subgoal", "check_map", "correlation", "importances", "prior_weights", "subgoal_map"]

Floats = NDArray[np.float64]

FIRST_MAP = 8
"""Valid trials before the data have a say in the map."""
KNOWLEDGE_TRIALS = 8.0
"""Trials that knowledge is worth: its weight is 8 / (8 + n)."""
BOOTSTRAPS, TREES = 10, 8
MASS, FEWEST, MOST = 0.8, 2, 5
MERGE_DISTANCE = 0.3
TWINS = 0.98
"""Merged sub-goals whose values correlate more than this are one quantity measured twice."""


@dataclass(frozen=True, slots=True)
class Subgoal:
    """One intermediate metric and the knobs that drive it.

    Attributes:
        metric: Its name.
        knobs: Driving knobs, the strongest first.
        weights: Their sensitivities, summing to 1 over *all* knobs.
        absorbed: Metrics left out because they measure the same thing.
    """

    metric: str
    knobs: tuple[str, ...]
    weights: Mapping[str, float]
    absorbed: tuple[str, ...] = ()


def prior_weights(
    knowledge: Mapping[str, Mapping[str, float] | Sequence[str]], knobs: Sequence[str]
) -> dict[str, Floats]:
    """Turn a hand-made map into sensitivities that sum to 1 per metric, shape (len(knobs),).

    A plain list means equal weights. Knobs that are not tuned are dropped; a metric without any
    tuned knob is driven by all of them, as far as anybody knows.

    Raises:
        StudyError: a weight is negative or not a number.

    >>> prior_weights({"get_us": ["block", "absent"]}, ["block", "buffer"])["get_us"].tolist()
    [1.0, 0.0]
    """
    found: dict[str, Floats] = {}
    for metric, drivers in knowledge.items():
        given = dict(drivers) if isinstance(drivers, Mapping) else dict.fromkeys(drivers, 1.0)
        row = np.array([float(given.get(knob, 0.0)) for knob in knobs])
        if not np.isfinite(row).all() or (row < 0).any():
            raise StudyError(f"sub-goal {metric!r}: weights must be numbers of at least 0, got {given}")
        found[metric] = row / row.sum() if row.sum() > 0 else np.full(len(knobs), 1.0 / max(1, len(knobs)))
    return found


def check_map(given: Mapping[str, Sequence[str]], knobs: Sequence[str]) -> None:
    """Refuse a user's map over knobs that do not exist.

    Raises:
        StudyError: unknown knob, with its near misses.
    """
    for metric, drivers in given.items():
        for knob in drivers:
            if knob not in knobs:
                raise StudyError(f"sub-goal {metric!r}: unknown knob {knob!r}; {near_misses(knob, knobs, noun='knob')}")


def importances(x: Floats, z: Floats, groups: Sequence[Sequence[int]], *, seed: int) -> Floats:
    """Return the permutation importance of every knob for one metric, shape (len(groups),), summing to 1.

    Ten bootstraps of the trials, each with a small forest of randomised trees; a knob's importance
    is the growth of the squared error on the trials left out when its column is shuffled.

    Args:
        x: Inputs in the unit cube, shape (n, columns).
        z: One metric, shape (n,).
        groups: Columns of each knob.
        seed: Seeds bootstraps, trees and shuffles.

    References:
        Breiman, Random Forests, Machine Learning 45, 2001, section 10.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    try:
        from sklearn.tree import DecisionTreeRegressor
    except ImportError as error:
        raise MissingExtra.of("finding out which knobs drive which metric", "tune") from error
    n, knobs = len(z), len(groups)
    rng = np.random.default_rng(seed)
    inputs = np.ascontiguousarray(x, dtype=np.float32)
    values = np.ascontiguousarray((z - z.mean()) / (z.std() or 1.0))
    total = np.zeros(knobs)
    for _ in range(BOOTSTRAPS):
        drawn = rng.integers(n, size=n)
        out = np.setdiff1d(np.arange(n), drawn)
        if not len(out):
            continue
        order = rng.permutation(len(out))
        # One block per knob, with that knob's columns shuffled, behind the block as it is.
        blocks = np.tile(inputs[out], (knobs + 1, 1))
        for i, columns in enumerate(groups):
            rows = slice((i + 1) * len(out), (i + 2) * len(out))
            blocks[rows, list(columns)] = inputs[out][order][:, list(columns)]
        predicted = np.zeros(len(blocks))
        for _ in range(TREES):
            tree: Any = DecisionTreeRegressor(
                splitter="random", max_features=0.5, min_samples_leaf=1, random_state=int(rng.integers(2**31))
            )
            tree.fit(inputs[drawn], values[drawn], check_input=False)
            predicted += tree.tree_.predict(blocks)[:, 0]
        errors = ((predicted / TREES).reshape(knobs + 1, len(out)) - values[out]) ** 2
        growth = errors.mean(axis=1)
        total += growth[1:] - growth[0]
    positive = np.maximum(total, 0.0)
    return positive / positive.sum() if positive.sum() > 0 else np.full(knobs, 1.0 / knobs)


def subgoal_map(
    x: Floats,
    metrics: Mapping[str, Floats],
    y: Floats,
    knobs: Sequence[str],
    groups: Sequence[Sequence[int]],
    *,
    prior: Mapping[str, Floats],
    seed: int,
) -> list[Subgoal]:
    """Return the sub-goals and their knobs, blended from knowledge and data.

    Importances are blended with the prior (weight 8 / (8 + n)); sub-goals whose sensitivity vectors
    point the same way (cosine distance < 0.3) share one pooled vector, and of those whose *values*
    are nearly one quantity only the one that says most about the objective stays; then the largest
    knobs are kept until 80 % of the sum, at least 2, at most 5.

    Args:
        x: Inputs, shape (n, columns).
        metrics: Observed metrics, each of shape (n,).
        y: Objective, shape (n,).
        knobs: Names of the knobs.
        groups: Columns of each knob.
        prior: What `prior_weights` returned; metrics without an entry start from equal weights.
        seed: Seeds the forests.
    """
    n = len(y)
    trust = KNOWLEDGE_TRIALS / (KNOWLEDGE_TRIALS + n)
    flat = np.full(len(knobs), 1.0 / max(1, len(knobs)))
    vectors: dict[str, Floats] = {}
    for offset, (name, z) in enumerate(sorted(metrics.items())):
        before = prior.get(name, flat)
        if n < FIRST_MAP:
            vectors[name] = before
        else:
            vectors[name] = trust * before + (1 - trust) * importances(x, z, groups, seed=seed + offset)
    found: list[Subgoal] = []
    for members in _merged(vectors):
        pooled = np.mean([vectors[name] for name in members], axis=0)
        kept = _keep(pooled)
        weights = {str(knobs[i]): float(pooled[i]) for i in np.argsort(-pooled, kind="stable").tolist()}
        for name, absorbed in _distinct(members, metrics, y):
            found.append(Subgoal(name, tuple(knobs[i] for i in kept), weights, absorbed))
    return sorted(found, key=lambda subgoal: subgoal.metric)


def _keep(weights: Floats) -> list[int]:
    if float(np.ptp(weights)) < 1e-9:
        # Nothing is known yet; any choice would be one by position.
        return list(range(len(weights)))
    order = np.argsort(-weights, kind="stable")
    reached = int(np.searchsorted(np.cumsum(weights[order]), MASS * weights.sum() - 1e-12)) + 1
    return [int(i) for i in order[: max(min(FEWEST, len(weights)), min(reached, MOST))]]


def _merged(vectors: Mapping[str, Floats]) -> list[list[str]]:
    """Group names greedily: each joins the first group whose pooled vector is near its own."""
    groups: list[list[str]] = []
    for name, vector in vectors.items():
        for group in groups:
            pooled = np.mean([vectors[member] for member in group], axis=0)
            cosine = float(vector @ pooled) / (float(np.linalg.norm(vector) * np.linalg.norm(pooled)) or 1.0)
            if 1.0 - cosine < MERGE_DISTANCE:
                group.append(name)
                break
        else:
            groups.append([name])
    return groups


def _distinct(members: Sequence[str], metrics: Mapping[str, Floats], y: Floats) -> list[tuple[str, tuple[str, ...]]]:
    """Return the members that measure different things, each with those that repeat it."""
    ranked = sorted(members, key=lambda name: (-abs(correlation(metrics[name], y)), name))
    kept: dict[str, list[str]] = {}
    for name in ranked:
        twin = next((other for other in kept if abs(correlation(metrics[name], metrics[other])) > TWINS), None)
        if twin is None:
            kept[name] = []
        else:
            kept[twin].append(name)
    return [(name, tuple(absorbed)) for name, absorbed in kept.items()]


def correlation(a: Floats, b: Floats) -> float:
    """Return Pearson's correlation; 0 where one side does not vary."""
    spread = float(a.std() * b.std())
    return float(((a - a.mean()) * (b - b.mean())).mean()) / spread if spread > 1e-15 else 0.0
