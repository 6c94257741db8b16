"""Ratings in the order of their file, as codes: what every trainer here is fed from."""

from __future__ import annotations

import hashlib
import logging
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from mlsysopt.core.errors import MissingExtra, UsageError
from mlsysopt.train.estimate.characteristics import Characteristics, characteristics_of

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Duplicates", "Ratings", "RatingsError"]

log = logging.getLogger("mlsysopt.estimate")

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]
Duplicates = Literal["keep", "last", "mean"]

SMALLEST = 200


class RatingsError(UsageError):
    """Ratings that cannot be read, or that are too few to be sampled."""


@dataclass(frozen=True, eq=False)
class Ratings:
    """R ratings in file order; make one with `from_csv` and its sisters.

    Attributes:
        user: Code of each rating's user, 0 <= code < n_users, shape (R,).
        item: Code of each rating's item, shape (R,).
        value: The ratings, finite, shape (R,).
        n_users: Users; every code occurs.
        n_items: Items; every code occurs.
        source: Where they come from, for reports.
        load_s: Seconds that reading them took.
    """

    user: Ints
    item: Ints
    value: Floats
    n_users: int
    n_items: int
    source: str = ""
    load_s: float = 0.0
    _user_names: Any = field(default=None, repr=False)
    _item_names: Any = field(default=None, repr=False)

    @classmethod
    def from_codes(
        cls,
        user: npt.ArrayLike,
        item: npt.ArrayLike,
        value: npt.ArrayLike,
        *,
        user_names: Any = None,
        item_names: Any = None,
        duplicates: Duplicates = "keep",
        source: str = "",
        started: float | None = None,
    ) -> Ratings:
        """Make ratings from whole numbers; codes that never occur are closed up, the order is kept.

        Args:
            user: Whole numbers from 0, shape (R,).
            item: The same.
            value: Ratings, shape (R,).
            user_names: Name of each user code, or None.
            item_names: Name of each item code, or None.
            duplicates: What becomes of a pair that occurs more than once: `keep` as each trainer would,
                `last`, or `mean` at the place of the last.
            source: For reports.
            started: Reading of `time.perf_counter` when loading began.

        Raises:
            RatingsError: no ratings, or one that is not finite.
        """
        users, items = np.asarray(user, dtype=np.int64), np.asarray(item, dtype=np.int64)
        values = np.asarray(value, dtype=np.float64)
        if not users.shape == items.shape == values.shape or values.ndim != 1:
            raise RatingsError(f"three flat columns are needed, got {users.shape}, {items.shape}, {values.shape}")
        if not len(values):
            raise RatingsError(f"{source or 'the ratings'}: there are no ratings")
        _check_finite(values, source)
        if duplicates not in ("keep", "last", "mean"):
            raise RatingsError(f"duplicates={duplicates!r}: allowed are keep, last, mean")
        users, user_kept = _closed_up(users)
        items, item_kept = _closed_up(items)
        users, items, values = _without_duplicates(users, items, values, duplicates)
        if np.ptp(values) == 0:
            log.warning("%s: every rating is %g", source or "ratings", values[0])
        return cls(
            users,
            items,
            values,
            len(user_kept),
            len(item_kept),
            source,
            0.0 if started is None else time.perf_counter() - started,
            None if user_names is None else np.asarray(user_names, dtype=object)[user_kept],
            None if item_names is None else np.asarray(item_names, dtype=object)[item_kept],
        )

    @classmethod
    def from_csv(
        cls,
        path: str | Path,
        *,
        columns: Sequence[str | int] | None = None,
        delimiter: str | None = None,
        duplicates: Duplicates = "keep",
    ) -> Ratings:
        """Read a text table: CSV, TSV, `::` between the fields, plain or gzipped.

        Args:
            path: The file.
            columns: Names of user, item and rating; numbers from 0 mean a file without a first line of
                names. None takes the usual names.
            delimiter: None takes what the first line and the file's ending suggest.
            duplicates: See `from_codes`.

        Raises:
            RatingsError: no such file or columns, nothing in it, or ratings that are no finite numbers.
            MissingExtra: without pyarrow.
        """
        from mlsysopt.train.estimate.tables import read_csv

        return cls._from_table(read_csv(Path(path), columns, delimiter), str(path), duplicates)

    @classmethod
    def from_parquet(
        cls, path: str | Path, *, columns: Sequence[str] | None = None, duplicates: Duplicates = "keep"
    ) -> Ratings:
        """Read a Parquet file; see `from_csv`."""
        from mlsysopt.train.estimate.tables import read_parquet

        return cls._from_table(read_parquet(Path(path), columns), str(path), duplicates)

    @classmethod
    def from_frame(
        cls, frame: Any, *, columns: Sequence[str] | None = None, duplicates: Duplicates = "keep"
    ) -> Ratings:
        """Take a pandas DataFrame; see `from_csv`."""
        from mlsysopt.train.estimate.tables import read_frame

        return cls._from_table(read_frame(frame, columns), "the frame", duplicates)

    @classmethod
    def from_csr(cls, matrix: Any, *, duplicates: Duplicates = "keep") -> Ratings:
        """Take a SciPy sparse matrix, users in rows; rows and columns without a rating are closed up."""
        started = time.perf_counter()
        rows = matrix.tocsr()
        user = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
        return cls.from_codes(
            user, rows.indices, rows.data, duplicates=duplicates, source="the matrix", started=started
        )

    @classmethod
    def from_trainset(cls, trainset: Any) -> Ratings:
        """Take a Surprise trainset, in the order in which its trainers walk it: user by user.

        The order of the file across users is not in a trainset, so `trainset()` of the result has the
        same ratings by user, but numbers and lists its items in another order.
        """
        started = time.perf_counter()
        user, item, value = zip(*trainset.all_ratings(), strict=True)
        return cls.from_codes(
            user,
            item,
            value,
            user_names=[trainset.to_raw_uid(u) for u in range(trainset.n_users)],
            item_names=[trainset.to_raw_iid(i) for i in range(trainset.n_items)],
            source="the trainset",
            started=started,
        )

    @classmethod
    def _from_table(cls, table: Any, source: str, duplicates: Duplicates) -> Ratings:
        return cls.from_codes(
            table.user,
            table.item,
            table.value,
            user_names=table.user_names,
            item_names=table.item_names,
            duplicates=duplicates,
            source=source,
            started=table.started,
        )

    def __len__(self) -> int:
        return len(self.value)

    @property
    def user_names(self) -> npt.NDArray[Any]:
        """Name of each user, shape (n_users,); the code itself where the source has no names."""
        return np.arange(self.n_users) if self._user_names is None else self._user_names

    @property
    def item_names(self) -> npt.NDArray[Any]:
        """Name of each item, shape (n_items,)."""
        return np.arange(self.n_items) if self._item_names is None else self._item_names

    @cached_property
    def characteristics(self) -> Characteristics:
        """Exact sizes, one pass."""
        return characteristics_of(self.user, self.item)

    @cached_property
    def digest(self) -> str:
        """Hash of codes, ratings and their order: the same content has the same digest."""
        state = hashlib.sha256(f"{self.n_users} {self.n_items}".encode())
        for array in (self.user, self.item, self.value):
            state.update(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"))).tobytes())
        return state.hexdigest()

    @cached_property
    def n_duplicates(self) -> int:
        """Ratings whose pair of user and item occurs earlier: Surprise keeps them, a matrix sums them."""
        keys = self.user.astype(np.int64) * self.n_items + self.item
        return len(keys) - len(np.unique(keys))

    def check_size(self) -> None:
        """Refuse ratings that are too few to be sampled.

        Raises:
            RatingsError: one user, one item, or fewer than 200 ratings.
        """
        if self.n_users < 2 or self.n_items < 2 or len(self) < SMALLEST:
            raise RatingsError(
                f"{self.n_users} users, {self.n_items} items, {len(self)} ratings (loaded in {self.load_s:.2g} s):\n"
                f"too small to sample: train it; estimating starts at 2 users, 2 items, {SMALLEST} ratings"
            )

    def subset_users(self, users: npt.ArrayLike) -> Ratings:
        """Return all ratings of some users, in file order, codes closed up.

        Args:
            users: Mask of shape (n_users,), or codes.
        """
        return self._rows(_mask(users, self.n_users, "users")[self.user])

    def subset_items(self, items: npt.ArrayLike) -> Ratings:
        """Return all ratings of some items; see `subset_users`."""
        return self._rows(_mask(items, self.n_items, "items")[self.item])

    def reordered(self, order: npt.ArrayLike) -> Ratings:
        """Return the same ratings in another order of rows.

        Args:
            order: A permutation of the R rows.
        """
        rows = np.asarray(order)
        if rows.shape != (len(self),) or not np.array_equal(np.sort(rows), np.arange(len(self))):
            raise RatingsError("an order must be a permutation of the rows")
        return replace(self, user=self.user[rows], item=self.item[rows], value=self.value[rows])

    def _rows(self, rows: npt.NDArray[np.bool_]) -> Ratings:
        if not rows.any():
            raise RatingsError("a sample without ratings")
        user, users = _closed_up(self.user[rows])
        item, items = _closed_up(self.item[rows])
        return Ratings(
            user,
            item,
            self.value[rows],
            len(users),
            len(items),
            self.source,
            0.0,
            None if self._user_names is None else self._user_names[users],
            None if self._item_names is None else self._item_names[items],
        )

    def csr(self) -> Any:
        """Return a SciPy CSR matrix of float32, users in rows; ratings of one pair are added up."""
        from scipy.sparse import csr_matrix

        triplets = (self.value.astype(np.float32), (self.user, self.item))
        matrix = csr_matrix(triplets, shape=(self.n_users, self.n_items))
        matrix.sum_duplicates()
        return matrix

    def trainset(self) -> Any:
        """Build a Surprise trainset, laid out in memory as Surprise lays out one read from a file.

        Raises:
            MissingExtra: without scikit-surprise.
        """
        try:
            from surprise import Trainset  # pyright: ignore[reportMissingTypeStubs]
        except ImportError:
            raise MissingExtra.of("building a trainset", "train") from None
        by_user: defaultdict[int, list[tuple[int, float]]] = defaultdict(list)
        by_item: defaultdict[int, list[tuple[int, float]]] = defaultdict(list)
        raw_users, raw_items = self.user_names.tolist(), self.item_names.tolist()
        users: dict[Any, int] = {}
        items: dict[Any, int] = {}
        # One object per code and one list entry per rating in file order, as in Surprise: how far apart
        # they come to lie decides what a walk costs.
        rows: Iterable[tuple[int, int, float]] = zip(
            self.user.tolist(), self.item.tolist(), self.value.tolist(), strict=True
        )
        user_code = _first_seen(users, raw_users)
        item_code = _first_seen(items, raw_items)
        for u, i, r in rows:
            inner_u, inner_i = user_code(u), item_code(i)
            by_user[inner_u].append((inner_i, r))
            by_item[inner_i].append((inner_u, r))
        scale = (float(self.value.min()), float(self.value.max()))
        return Trainset(by_user, by_item, self.n_users, self.n_items, len(self), scale, users, items)


def _first_seen(known: dict[Any, int], names: list[Any]) -> Any:
    codes: dict[int, int] = {}

    def code(outer: int) -> int:
        try:
            return codes[outer]
        except KeyError:
            inner = codes[outer] = known[names[outer]] = len(codes)
            return inner

    return code


def _closed_up(codes: npt.NDArray[Any]) -> tuple[Ints, npt.NDArray[np.intp]]:
    """Return codes without gaps, order of codes kept, and which old codes are left."""
    if codes.min() < 0:
        raise RatingsError(f"codes must be at least 0, got {codes.min()}")
    if codes.max() > 100 * len(codes) + 10_000_000:
        kept, closed = np.unique(codes, return_inverse=True)
        return closed.astype(np.int32), kept
    present = np.zeros(int(codes.max()) + 1, dtype=bool)
    present[codes] = True
    return (np.cumsum(present) - 1).astype(np.int32)[codes], np.flatnonzero(present)


def _mask(chosen: npt.ArrayLike, size: int, noun: str) -> npt.NDArray[np.bool_]:
    given = np.asarray(chosen)
    if given.dtype == bool:
        if given.shape != (size,):
            raise RatingsError(f"a mask of {noun} has shape ({size},), got {given.shape}")
        return given
    if given.size and (given.min() < 0 or given.max() >= size):
        raise RatingsError(f"{noun} have codes 0 to {size - 1}, got {given.min()} to {given.max()}")
    mask = np.zeros(size, dtype=bool)
    mask[given.astype(np.intp)] = True
    return mask


def _check_finite(values: Floats, source: str) -> None:
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        shown = ", ".join(f"row {row + 1}: {values[row]}" for row in wrong[:3])
        raise RatingsError(f"{source or 'ratings'}: {len(wrong)} ratings are not finite numbers: {shown}")


def _without_duplicates(users: Ints, items: Ints, values: Floats, how: Duplicates) -> tuple[Ints, Ints, Floats]:
    if how == "keep":
        return users, items, values
    keys = users.astype(np.int64) * (int(items.max()) + 1) + items
    # The last of each pair, found as the first from behind.
    _, back, group = np.unique(keys[::-1], return_index=True, return_inverse=True)
    if len(back) == len(values):
        return users, items, values
    log.warning("%d ratings repeat a pair of user and item: %s is kept", len(values) - len(back), how)
    last = len(values) - 1 - back
    kept = values[last]
    if how == "mean":
        kept = np.bincount(group[::-1], values) / np.bincount(group)
    order = np.argsort(last)
    return users[last[order]], items[last[order]], kept[order]
