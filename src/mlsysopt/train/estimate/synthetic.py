"""Ratings with a planted structure: named laws of activity and popularity, so that shapes can be held apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mlsysopt.core.errors import UsageError, near_misses
from mlsysopt.train.estimate.ratings import Ratings

__all__ = ["FITTING", "ITEM_LAWS", "TEST", "USER_LAWS", "Shape", "from_pairs", "ratings"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Order = Literal["user", "time", "shuffled"]

_CLUSTERS = 12
_RANK = 3
# Random numbers that are held at once.
_CELLS = 2_000_000


@dataclass(frozen=True, slots=True)
class Shape:
    """A pair of laws; `locality` > 0 adds clusters of taste."""

    name: str
    users: str
    items: str
    locality: float = 0.0


def _heavy(u: Floats) -> Floats:
    # One user in ten rates as much as twenty others.
    return np.where(u > 0.9, 20.0, 1.0) * -np.log1p(-np.clip((u * 10) % 1.0, 1e-3, 1 - 1e-6))


# Each law maps evenly spread numbers in (0, 1) to relative activity: degrees are exact, not drawn.
USER_LAWS: dict[str, Callable[[Floats], Floats]] = {
    "lognormal": lambda u: np.exp(_normal_quantile(u)),
    "poisson": lambda u: np.maximum(_poisson_quantile(u, 25.0), 1.0),
    "floor": lambda u: 20.0 - 40.0 * np.log1p(-u),
    "pareto": lambda u: (1.0 - u) ** (-1.0 / 1.3),
    "heavy": _heavy,
    "stretched": lambda u: (-np.log1p(-u)) ** 2.0,
}
# Each law maps ranks 1..n to relative popularity.
ITEM_LAWS: dict[str, Callable[[Floats], Floats]] = {
    "zipf1.0": lambda rank: rank**-1.0,
    "zipf0.7": lambda rank: rank**-0.7,
    "flat": lambda rank: np.ones_like(rank),
    "mandelbrot": lambda rank: (rank + 0.02 * len(rank)) ** -1.3,
    "lognormal1.5": lambda rank: np.exp(1.5 * _normal_quantile(1.0 - (rank - 0.5) / len(rank))),
    "zipf1.2": lambda rank: rank**-1.2,
}
# What constants may be fitted on, and what only bars may see.
FITTING = (
    Shape("lognormal-zipf1.0", "lognormal", "zipf1.0"),
    Shape("poisson-zipf0.7", "poisson", "zipf0.7"),
    Shape("floor-flat", "floor", "flat"),
)
TEST = (
    Shape("pareto-mandelbrot", "pareto", "mandelbrot"),
    Shape("heavy-lognormal1.5", "heavy", "lognormal1.5"),
    Shape("stretched-zipf1.2", "stretched", "zipf1.2", 0.5),
)


def ratings(
    users: str = "lognormal",
    items: str = "zipf1.0",
    *,
    n_users: int = 1000,
    n_items: int = 1000,
    n_ratings: int = 20_000,
    order: Order = "user",
    locality: float = 0.0,
    seed: int = 0,
) -> Ratings:
    """Draw ratings of a named shape.

    The numbers of ratings per user follow the law exactly; each user's items are drawn without
    replacement from the popularity; values are a rank-3 product plus biases plus noise, on 1 to 5.

    Args:
        users: Law of activity, a key of `USER_LAWS`.
        items: Law of popularity, a key of `ITEM_LAWS`.
        n_users: Users, each with at least one rating.
        n_items: Items that may be drawn; one that nobody rates does not occur.
        n_ratings: Ratings in all, at most 40 % of all pairs; no user rates more than half of the items.
        order: Rows by user, by time (each user comes and goes), or shuffled.
        locality: Share of draws from the user's own cluster of taste, 0 to 1; which items occur together
            changes, how often each occurs does not.
        seed: Of everything drawn.

    Raises:
        UsageError: an unknown law, or sizes that cannot be met.

    >>> data = ratings("poisson", "flat", n_users=50, n_items=40, n_ratings=600, seed=1)
    >>> len(data), data.n_users, int(data.value.min()) >= 1
    (600, 50, True)
    """
    for law, known, noun in ((users, USER_LAWS, "law of users"), (items, ITEM_LAWS, "law of items")):
        if law not in known:
            raise UsageError(f"unknown {noun} {law!r}: {near_misses(law, known, noun='law')}")
    if not n_users <= n_ratings <= 0.4 * n_users * n_items:
        raise UsageError(
            f"{n_ratings} ratings of {n_users} users and {n_items} items: at least one each, at most 40 % of the pairs"
        )
    if order not in ("user", "time", "shuffled") or not 0.0 <= locality <= 1.0:
        raise UsageError(f"order is user, time or shuffled, locality 0 to 1; got {order!r}, {locality}")
    rng = np.random.default_rng(seed)
    degrees = _degrees(USER_LAWS[users]((np.arange(n_users) + 0.5) / n_users), n_ratings, max(1, n_items // 2))
    rng.shuffle(degrees)
    popularity = ITEM_LAWS[items](np.arange(1, n_items + 1, dtype=np.float64))
    popularity /= popularity.sum()
    rng.shuffle(popularity)
    item = _drawn(rng, degrees, popularity, locality)
    user = np.repeat(np.arange(n_users), degrees)
    return _finished(rng, user, item, order)


def from_pairs(user: npt.ArrayLike, item: npt.ArrayLike, *, order: Order = "user", seed: int = 0) -> Ratings:
    """Draw values for pairs that are given, and put the rows in order.

    Args:
        user: Code of each pair's user, shape (R,).
        item: Code of each pair's item, shape (R,).
        order: See `ratings`.
        seed: Of the values and the order.
    """
    return _finished(np.random.default_rng(seed), np.asarray(user), np.asarray(item), order)


def _degrees(activity: Floats, total: int, largest: int) -> Ints:
    """Return whole numbers in proportion to activity: each at least 1 and at most `largest`, exact in their sum."""
    low, high = 0.0, float(total) * largest / activity.min()
    for _ in range(200):
        middle = (low + high) / 2
        if np.clip(activity * middle, 1, largest).sum() < total:
            low = middle
        else:
            high = middle
    exact = np.clip(activity * high, 1, largest)
    degrees = np.floor(exact).astype(np.int64)
    while (missing := total - int(degrees.sum())) > 0:
        free = np.flatnonzero(degrees < largest)
        nearest = free[np.argsort(degrees[free] - exact[free], kind="stable")[:missing]]
        degrees[nearest] += 1
    return degrees


def _drawn(rng: np.random.Generator, degrees: Ints, popularity: Floats, locality: float) -> Ints:
    """Return each user's items, users one after another, shape (sum of degrees,).

    Items race with exponential times at rates in proportion to their popularity; the first n to
    arrive are a draw of n without replacement (successive sampling).
    """
    n_items = len(popularity)
    own = np.zeros(len(degrees), dtype=np.int64)
    rates = popularity[None, :]
    if locality:
        # Users choose clusters by their mass: an item gains inside its cluster what it loses outside.
        members = rng.integers(0, _CLUSTERS, n_items)
        mass = np.bincount(members, popularity, minlength=_CLUSTERS)
        own = rng.choice(_CLUSTERS, len(degrees), p=mass / mass.sum())
        inside = members[None, :] == np.arange(_CLUSTERS)[:, None]
        inside_rate = popularity / np.maximum(mass, 1e-300)[:, None]
        rates = (1 - locality) * popularity + locality * np.where(inside, inside_rate, 0.0)
    with np.errstate(divide="ignore"):
        slowness = (1.0 / rates).astype(np.float32)
    chosen: list[Ints] = []
    step = max(1, _CELLS // n_items)
    for first in range(0, len(degrees), step):
        rows = slice(first, first + step)
        finish = rng.standard_exponential((len(degrees[rows]), n_items), dtype=np.float32) * slowness[own[rows]]
        for row, degree in zip(finish, degrees[rows], strict=True):
            chosen.append(np.argpartition(row, degree)[:degree] if degree < n_items else np.arange(n_items))
    item = np.concatenate(chosen)
    # Within a user, in no order that the codes of the items would tell.
    user = np.repeat(np.arange(len(degrees)), degrees)
    return item[np.lexsort((rng.random(len(item)), user))]


def _finished(rng: np.random.Generator, user: npt.NDArray[Any], item: npt.NDArray[Any], order: Order) -> Ratings:
    n_users, n_items, n = int(user.max()) + 1, int(item.max()) + 1, len(user)
    left, right = rng.standard_normal((n_users, _RANK)), rng.standard_normal((n_items, _RANK))
    taste = np.einsum("rk,rk->r", left[user], right[item])
    raw = 3.4 + 0.5 * taste + 0.4 * rng.standard_normal(n_users)[user] + 0.5 * rng.standard_normal(n_items)[item]
    value = np.clip(np.rint(raw + 0.6 * rng.standard_normal(n)), 1.0, 5.0)
    if order == "shuffled":
        rows = rng.permutation(n)
    elif order == "time":
        # A user arrives at some time and stays for a tenth of the whole.
        rows = np.argsort(rng.random(n_users)[user] + 0.1 * rng.exponential(size=n), kind="stable")
    else:
        rows = np.argsort(user, kind="stable")
    return Ratings.from_codes(user[rows], item[rows], value[rows], source="synthetic")


def _normal_quantile(u: Floats) -> Floats:
    from scipy.special import ndtri

    return ndtri(u)


def _poisson_quantile(u: Floats, mean: float) -> Floats:
    from scipy.stats import poisson

    return np.asarray(poisson.ppf(u, mean), dtype=np.float64)
