"""Synthetic ratings have the structure that was asked for, and the same seed gives the same bytes."""

from __future__ import annotations

import numpy as np
import pytest

from mlsysopt.core.errors import UsageError
from mlsysopt.train.estimate import synthetic
from mlsysopt.train.estimate.synthetic import FITTING, ITEM_LAWS, TEST, USER_LAWS, Shape, ratings

DIGESTS = {
    "lognormal-zipf1.0": "7a92e06b47730eea86e374bc51a566bcdaf5853bb3fd5f03b5e8175f90bb8581",
    "poisson-zipf0.7": "734b668dfcc2440bf02c09d4f294b7d88d320125a5b609bce0c9fef1e437acf3",
    "floor-flat": "9ece4dc1a594aeb12a16cf79196c2740f9991108ceba9b58c3641ec6843c761f",
    "pareto-mandelbrot": "e3b077a902b472ca16068d3524b83030d9966e424c52a8b7ceb992192d033d82",
    "heavy-lognormal1.5": "16aaa8da754c3f0797521957c70a49f072fd11dd6f061638dbde1ca6748e4a31",
    "stretched-zipf1.2": "cc257d71b43e2dc3929141a83b5e89bc9337243ddd2438b3ff74fdbe7c5b60e9",
}


@pytest.mark.parametrize("users", USER_LAWS)
def test_degrees_follow_the_law_exactly(users: str) -> None:
    data = ratings(users, "flat", n_users=300, n_items=400, n_ratings=9_000, seed=1)
    degrees = np.sort(np.bincount(data.user))
    again = ratings(users, "zipf1.0", n_users=300, n_items=500, n_ratings=9_000, order="shuffled", seed=2)
    assert degrees.sum() == 9_000 and degrees[0] >= 1
    if degrees[-1] < 200:
        assert np.array_equal(degrees, np.sort(np.bincount(again.user))), "neither drawn nor a matter of the items"
    activity = np.sort(USER_LAWS[users]((np.arange(300) + 0.5) / 300))
    inside = (degrees > 1) & (degrees < 200)
    ratio = degrees[inside] / activity[inside]
    # Rounding to whole ratings is all that stands between degree and law.
    assert np.all(np.abs(degrees[inside] - np.median(ratio) * activity[inside]) <= 1.5 + 0.02 * degrees[inside])


@pytest.mark.parametrize("items", ITEM_LAWS)
def test_no_pair_twice_and_popularity_as_asked(items: str) -> None:
    data = ratings("poisson", items, n_users=2_000, n_items=400, n_ratings=20_000, seed=3)
    assert data.n_duplicates == 0
    found = np.sort(np.bincount(data.item, minlength=400))[::-1]
    law = ITEM_LAWS[items](np.arange(1, 401, dtype=np.float64))
    if items == "flat":
        assert found[0] < 2.5 * np.median(found)
    else:
        # Without replacement flattens the head; in the body the law is visible.
        tail = slice(20, 200)
        assert np.corrcoef(np.log(found[tail]), np.log(np.sort(law)[::-1][tail]))[0, 1] > 0.95


def test_clusters_change_what_occurs_together_but_not_how_often() -> None:
    plain, local = (
        ratings("poisson", "zipf0.7", n_users=3_000, n_items=300, n_ratings=30_000, locality=share, seed=4)
        for share in (0.0, 0.8)
    )
    a, b = (np.sort(np.bincount(data.item, minlength=300)) for data in (plain, local))
    assert np.corrcoef(a, b)[0, 1] > 0.95

    def association(data: synthetic.Ratings) -> float:
        """How far pairs of items occur together more or less often than their margins say."""
        matrix = (data.csr() > 0).astype(np.float64)
        together = (matrix.T @ matrix).toarray()
        np.fill_diagonal(together, 0)
        expected = np.outer(together.sum(axis=0), together.sum(axis=0)) / together.sum()
        return float(((together - expected) ** 2).sum() / expected.sum())

    assert association(local) > 3 * association(plain)


def test_orders_hold_the_same_ratings_in_other_rows() -> None:
    by_user, by_time, shuffled = (
        ratings(n_users=200, n_items=100, n_ratings=2_000, order=order, seed=5)
        for order in ("user", "time", "shuffled")
    )

    def pairs(data: synthetic.Ratings) -> set[tuple[int, int]]:
        return set(zip(data.user.tolist(), data.item.tolist(), strict=True))

    assert pairs(by_user) == pairs(by_time) == pairs(shuffled)

    def switches(data: synthetic.Ratings) -> int:
        return int(np.count_nonzero(np.diff(data.user)))

    assert switches(by_user) == 199 < switches(by_time) <= switches(shuffled)
    # By time, a user's rows lie close together.
    spread = [np.ptp(np.flatnonzero(by_time.user == u)) for u in range(200)]
    wide = [np.ptp(np.flatnonzero(shuffled.user == u)) for u in range(200)]
    assert np.median(spread) < 0.6 * np.median(wide)


def test_values_are_whole_stars_with_a_structure_to_learn() -> None:
    data = ratings(n_users=400, n_items=300, n_ratings=20_000, seed=6)
    assert set(np.unique(data.value)) == {1.0, 2.0, 3.0, 4.0, 5.0}
    means = np.bincount(data.item, data.value) / np.bincount(data.item)
    assert np.var(data.value - means[data.item]) < 0.9 * np.var(data.value)


def test_given_pairs_get_values_and_an_order() -> None:
    data = synthetic.from_pairs([0, 0, 1], [5, 6, 5], order="shuffled", seed=1)
    assert (data.n_users, data.n_items, len(data)) == (2, 2, 3)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"users": "lognorml"}, "did you mean lognormal"),
        ({"items": "zipf"}, "unknown law of items 'zipf'"),
        ({"n_ratings": 10, "n_users": 20}, "at least one each"),
        ({"n_ratings": 500, "n_users": 20, "n_items": 40}, "at most 40 %"),
        ({"order": "size"}, "order is user, time or shuffled"),
        ({"locality": 2.0}, "locality 0 to 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(given: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        ratings(**given)  # type: ignore[arg-type]


def test_fitting_and_test_shapes_share_no_law() -> None:
    assert not {shape.users for shape in FITTING} & {shape.users for shape in TEST}
    assert not {shape.items for shape in FITTING} & {shape.items for shape in TEST}


@pytest.mark.parametrize("shape", [*FITTING, *TEST], ids=lambda shape: shape.name)
def test_a_shape_is_the_same_everywhere(shape: Shape) -> None:
    data = ratings(
        shape.users,
        shape.items,
        n_users=300,
        n_items=200,
        n_ratings=5_000,
        order="time",
        locality=shape.locality,
        seed=1,
    )
    assert data.digest == DIGESTS[shape.name]
