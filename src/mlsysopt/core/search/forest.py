"""Extremely randomised trees on positions and their pairwise sums and differences.

Many bounds of a system are sums or products of two parameters; on log ranges a product is a sum of
positions, so that one cut of one such feature says what single parameters need a staircase for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Forest", "separation"]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

PAIRED = 10
"""Columns whose sums and differences are features; those of thirty would be 870."""
PRIOR = 2.0
"""Imagined successes: what is p before the first failure? One; and after it, with nothing else known, two thirds."""


@dataclass(frozen=True, slots=True)
class Forest:
    """p(success) in the unit cube.

    Attributes:
        trees: Fitted trees, as scikit-learn stores them.
        pairs: Columns that are paired, shape (k, 2).
        base: Share of successes, with a prior.
        trust: How much the trees count beside `base`, 0 to 1.

    References:
        Geurts, Ernst, Wehenkel, Extremely randomized trees, Machine Learning 2006.
    """

    trees: tuple[Any, ...]
    pairs: NDArray[np.intp]
    base: float
    trust: float

    @classmethod
    def fit(cls, good: Floats, bad: Floats, *, numeric: Flags, trees: int, seed: int) -> Forest:
        """Fit both classes, each of at least one row.

        Args:
            good: Positions that worked, shape (n, d).
            bad: Positions that did not, shape (m, d).
            numeric: Columns that have an order, shape (d,).
            trees: Number of trees.
            seed: The same seed gives the same forest.
        """
        from sklearn import config_context
        from sklearn.tree import ExtraTreeRegressor

        x = np.concatenate([good, bad])
        worked = np.arange(len(x)) < len(good)
        columns = np.flatnonzero(numeric)
        if len(columns) > PAIRED:
            order = np.argsort(-separation(x[:, columns], worked), kind="stable")
            columns = np.sort(columns[order[:PAIRED]])
        i, j = np.triu_indices(len(columns), 1)
        pairs = np.stack([columns[i], columns[j]], axis=1)
        features, labels = _features(x, pairs), worked.astype(np.float64)
        # On labels 0 and 1 the squared error chooses as Gini's index does, and a leaf's mean is its share. One
        # estimator, fitted again and again: an ensemble would copy and check one per tree, which takes as long again.
        one = ExtraTreeRegressor(max_features="sqrt")  # pyright: ignore[reportArgumentType]
        rng = np.random.RandomState(seed)
        grown: list[Any] = []
        with config_context(skip_parameter_validation=True):
            for _ in range(trees):
                one.random_state = rng.randint(np.iinfo(np.int32).max)
                grown.append(one.fit(features, labels, check_input=False).tree_)
        few = min(len(good), len(bad))
        base = (len(good) + PRIOR) / (len(x) + PRIOR)
        return cls(tuple(grown), pairs, base, few / (few + PRIOR))

    def __call__(self, x: Floats) -> Floats:
        """Return p at positions, shape (n, d) -> (n,)."""
        features = _features(x, self.pairs)
        # The trees themselves: checks and job queues of `predict_proba` cost 10 ms a call, for one row as for many.
        votes = np.mean([tree.predict(features)[:, 0] for tree in self.trees], axis=0)
        return self.trust * votes + (1.0 - self.trust) * self.base


def separation(x: Floats, good: Flags) -> Floats:
    """Return how well one cut of each column separates two classes, shape (d,): 0 not at all, 1 entirely.

    Args:
        x: Positions, shape (n, d).
        good: The classes, shape (n,).

    >>> separation(np.array([[0.1, 0.5], [0.2, 0.1], [0.9, 0.3]]), np.array([True, True, False])).round(2).tolist()
    [1.0, 0.25]
    """
    n, total = len(good), int(good.sum())
    found = np.zeros(x.shape[1])
    if not 0 < total < n:
        return found
    whole = total * (n - total) / n
    for j, column in enumerate(x.T):
        order = np.argsort(column, kind="stable")
        cuts = np.flatnonzero(np.diff(column[order]) > 0)
        if not len(cuts):
            continue
        left, below = cuts + 1.0, np.cumsum(good[order])[cuts]
        right, above = n - left, total - below
        impure = below * (left - below) / left + above * (right - above) / right
        found[j] = 1.0 - float(impure.min()) / whole
    return found


def _features(x: Floats, pairs: NDArray[np.intp]) -> NDArray[np.float32]:
    first, second = x[:, pairs[:, 0]], x[:, pairs[:, 1]]
    return np.concatenate([x, first + second, first - second], axis=1).astype(np.float32)
