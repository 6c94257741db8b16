"""The role of a cost model, and how one is judged."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

from mlsysopt.core.errors import UsageError, near_misses
from mlsysopt.core.measure import machine

__all__ = [
    "Columns",
    "CostModel",
    "Floats",
    "Prediction",
    "Score",
    "check_rows",
    "checked_columns",
    "score_of",
    "warn_elsewhere",
]

log = logging.getLogger("mlsysopt.costmodel")

Floats = npt.NDArray[np.float64]
Columns = Mapping[str, npt.ArrayLike]


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What cases will cost, in the unit of the costs that the model was fitted on.

    Attributes:
        mean: Most likely cost, shape (n,).
        low: Lower end of the interval, shape (n,); 0 where too little is known for one.
        high: Upper end, shape (n,); inf where too little is known.
    """

    mean: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True, slots=True)
class Score:
    """How a model did on cases that it had not seen.

    Attributes:
        median_relative_error: Median of |predicted / true - 1|.
        rank_correlation: Spearman's, averaged over groups of at least three cases; nan without any.
        coverage: Share of cases inside their interval.
        cases: How many there were.
    """

    median_relative_error: float
    rank_correlation: float
    coverage: float
    cases: int


@runtime_checkable
class CostModel(Protocol):
    """Predicts a positive cost from named columns; `fit` before anything else."""

    def fit(
        self,
        X: Columns,
        y: npt.ArrayLike,
        *,
        weights: npt.ArrayLike | None = None,
        groups: Sequence[Any] | None = None,
    ) -> Self:
        """Learn from measured cases and return itself.

        Args:
            X: Name -> values, each of shape (n,).
            y: Costs above zero, shape (n,).
            weights: How much a case counts, shape (n,); None means as the model sees fit.
            groups: What belongs together (a shape, a machine), shape (n,): `score` leaves out whole groups.
        """
        ...

    def predict(self, X: Columns) -> Prediction:
        """Return cost and interval of each case."""
        ...

    def transfer(self, X: Columns, y: npt.ArrayLike) -> Self:
        """Return a model for this machine from few cases measured on it; itself stays as it is."""
        ...

    def score(self) -> Score:
        """Return how it did on the cases it was fitted on, each predicted without its group."""
        ...

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What it is and where its cases were measured, as JSON values."""
        ...


def checked_columns(X: Columns, names: Sequence[str]) -> dict[str, Floats]:
    """Return the named columns as flat doubles of one length.

    Raises:
        UsageError: a column is missing, not flat, or of another length.
    """
    found: dict[str, Floats] = {}
    for name in names:
        if name not in X:
            raise UsageError(f"the model needs a column {name!r}: {near_misses(name, list(X), noun='column')}")
        found[name] = np.asarray(X[name], dtype=np.float64)
    lengths = {values.shape for values in found.values()}
    if len(lengths) > 1 or any(len(shape) != 1 for shape in lengths):
        shown = ", ".join(f"{name} {values.shape}" for name, values in found.items())
        raise UsageError(f"columns must be flat and of one length, got {shown}")
    return found


def check_rows(y: npt.ArrayLike, weights: npt.ArrayLike | None, rows: int) -> tuple[Floats, Floats | None]:
    """Return costs and weights as flat doubles.

    Raises:
        UsageError: no rows, a cost that is not above zero, or a weight below zero.
    """
    costs = np.asarray(y, dtype=np.float64)
    if costs.shape != (rows,) or not rows:
        raise UsageError(f"costs must be one per case: {rows} cases, costs of shape {costs.shape}")
    wrong = np.flatnonzero(~(np.isfinite(costs) & (costs > 0)))
    if len(wrong):
        raise UsageError(f"costs must be finite and above zero, got {costs[wrong[0]]} in row {wrong[0]}")
    if weights is None:
        return costs, None
    given = np.asarray(weights, dtype=np.float64)
    if given.shape != (rows,) or not np.all(np.isfinite(given) & (given >= 0)) or not given.any():
        raise UsageError("weights must be one per case, finite, at least 0, and not all 0")
    return costs, given


def score_of(truth: npt.ArrayLike, predicted: Prediction, groups: Sequence[Any] | None = None) -> Score:
    """Judge predictions of cases that the model had not seen.

    >>> import numpy as np
    >>> told = Prediction(np.array([1.0, 2.0, 4.4]), np.array([0.9, 1.0, 3.0]), np.array([1.1, 1.9, 5.0]))
    >>> score_of([1.0, 2.0, 4.0], told)
    Score(median_relative_error=0.0, rank_correlation=1.0, coverage=0.6666666666666666, cases=3)
    """
    from scipy.stats import spearmanr

    costs = np.asarray(truth, dtype=np.float64)
    labels = list(groups) if groups is not None else [0] * len(costs)
    correlations: list[float] = []
    for label in dict.fromkeys(labels):
        rows = np.array([one == label for one in labels])
        known = rows & np.isfinite(predicted.mean)
        if known.sum() >= 3 and np.ptp(costs[known]) > 0 and np.ptp(predicted.mean[known]) > 0:
            correlations.append(float(spearmanr(costs[known], predicted.mean[known])[0]))  # pyright: ignore
    inside = (predicted.low <= costs) & (costs <= predicted.high)
    return Score(
        float(np.median(np.abs(predicted.mean / costs - 1.0))),
        float(np.mean(correlations)) if correlations else float("nan"),
        float(np.mean(inside)),
        len(costs),
    )


def warn_elsewhere(fitted_on: str) -> None:
    """Say in the log that a model's cases were measured on another machine than this one."""
    here = machine().key()
    if fitted_on != here:
        log.warning(
            "this cost model was fitted on machine %s, this is %s: measure a few cases here and call transfer",
            fitted_on,
            here,
        )
