"""Extremely randomised trees on pairs: scikit-learn's own forest, tree by tree, and what pairs are for."""

from __future__ import annotations

import numpy as np
from sklearn.ensemble import ExtraTreesRegressor

from mlsysopt.core.search.forest import Forest, _features


def _halves(n: int = 120, d: int = 4) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).random((n, d))
    works = x[:, 0] + x[:, 1] <= 1.0
    return x[works], x[~works]


def test_its_trees_are_those_of_the_ensemble() -> None:
    good, bad = _halves()
    forest = Forest.fit(good, bad, numeric=np.ones(4, dtype=bool), trees=20, seed=3)
    x, labels = np.concatenate([good, bad]), np.repeat([1.0, 0.0], [len(good), len(bad)])
    whole = ExtraTreesRegressor(20, max_features="sqrt", random_state=3)  # pyright: ignore[reportArgumentType]
    whole.fit(_features(x, forest.pairs), labels)
    fresh = np.random.default_rng(1).random((300, 4))
    votes = whole.predict(_features(fresh, forest.pairs))
    np.testing.assert_allclose(forest(fresh), forest.trust * votes + (1.0 - forest.trust) * forest.base, rtol=1e-12)


def test_a_seed_decides_and_only_columns_with_an_order_are_paired() -> None:
    good, bad = _halves()
    numeric = np.array([True, True, False, True])
    first, again, other = (Forest.fit(good, bad, numeric=numeric, trees=5, seed=seed) for seed in (1, 1, 2))
    fresh = np.random.default_rng(1).random((50, 4))
    np.testing.assert_array_equal(first(fresh), again(fresh))
    assert (first(fresh) != other(fresh)).any()
    assert first.pairs.tolist() == [[0, 1], [0, 3], [1, 3]]
