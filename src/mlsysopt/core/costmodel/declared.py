"""A cost as a sum of declared terms: somebody read the algorithm, a few measurements give the constants."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from mlsysopt.core.costmodel.nonnegative import fit_near, fit_nonnegative
from mlsysopt.core.costmodel.protocol import (
    Columns,
    Floats,
    Prediction,
    Score,
    check_rows,
    checked_columns,
    score_of,
    warn_elsewhere,
)
from mlsysopt.core.errors import ExpressionError, UsageError
from mlsysopt.core.measure import machine
from mlsysopt.core.places import artefact_header, read_header
from mlsysopt.core.space import Expression
from mlsysopt.core.stats import conformal_quantile

__all__ = ["DeclaredTerms"]

_FORMAT = "declared-terms"

# Terms, costs and `weights=` in, coefficients out.
_Fit = Callable[..., Floats]


class DeclaredTerms:
    """`cost = sum_k c_k * term_k`, with `c_k >= 0` fitted in relative error.

    Args:
        terms: Arithmetic expressions over column names; write `"1"` for a constant.
        coverage: Of the conformal intervals, 0 < coverage < 1.

    Raises:
        ExpressionError: a term that cannot be read.
        UsageError: no terms, or one twice.

    References:
        Paun, Moshfeghi and Ntarmos, EuroMLSys 2021, pp. 39-47.

    >>> model = DeclaredTerms(["1", "E*R"])
    >>> model = model.fit({"E": [1, 4, 2], "R": [100, 100, 400]}, [0.3, 0.6, 1.0])
    >>> model.predict({"E": [10], "R": [1000]}).mean.round(4).tolist()
    [10.2]
    >>> model.formula()
    '0.2*1 + 0.001*E*R'
    """

    def __init__(self, terms: Sequence[str], *, coverage: float = 0.9) -> None:
        self.terms = tuple(terms)
        if not self.terms or len(set(self.terms)) != len(self.terms):
            raise UsageError(f"a cost model needs terms, each of them once, got {list(terms)}")
        if not 0.0 < coverage < 1.0:
            raise UsageError(f"coverage must lie between 0 and 1, got {coverage}")
        self.coverage = coverage
        self._expressions = tuple(Expression.parse(term) for term in self.terms)
        self.names = tuple(sorted(frozenset[str]().union(*(one.names for one in self._expressions))))
        self._coefficients: Floats | None = None
        self._spread = float("inf")
        self._score: Score | None = None
        self._machine = ""
        self._cases = 0

    @property
    def coefficients(self) -> Floats:
        """Cost of one unit of each term, shape (k,)."""
        if self._coefficients is None:
            raise UsageError("this cost model has not been fitted: call fit first")
        return self._coefficients

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What it is and where its cases were measured."""
        return {"model": "declared terms", "terms": list(self.terms), "machine": self._machine, "cases": self._cases}

    def columns(self, X: Columns) -> Floats:
        """Return the value of each term, shape (n, k).

        Raises:
            UsageError: a column is missing.
            ExpressionError: a term that is negative or not finite, with its row.
        """
        named = checked_columns(X, self.names)
        rows = len(next(iter(named.values()))) if named else len(np.atleast_1d(next(iter(X.values()), [0.0])))
        found = np.empty((rows, len(self.terms)))
        for k, expression in enumerate(self._expressions):
            found[:, k] = expression.evaluate(named)
            wrong = np.flatnonzero(~(np.isfinite(found[:, k]) & (found[:, k] >= 0)))
            if len(wrong):
                raise ExpressionError(
                    f"term {self.terms[k]!r} is {found[wrong[0], k]:g} in row {wrong[0]}; a term must be at least 0"
                )
        return found

    def fit(
        self,
        X: Columns,
        y: npt.ArrayLike,
        *,
        weights: npt.ArrayLike | None = None,
        groups: Sequence[Any] | None = None,
    ) -> Self:
        """Fit the coefficients, and the intervals on cases left out; see `CostModel.fit`.

        Without weights a case counts `sqrt(cost / mean cost)`, see `fit_nonnegative`.

        Raises:
            UsageError: columns, costs, weights or groups that do not fit together.
        """
        phi = self.columns(X)
        costs, given = check_rows(y, weights, len(phi))
        labels = list(groups) if groups is not None else list(range(len(costs)))
        if len(labels) != len(costs):
            raise UsageError(f"groups must be one per case: {len(costs)} cases, {len(labels)} groups")
        self._coefficients = fit_nonnegative(phi, costs, weights=given)
        self._machine, self._cases = machine().key(), len(costs)
        told = _left_out(phi, costs, given, labels, fit_nonnegative)
        self._calibrate(costs, told, labels if groups is not None else None)
        return self

    def predict(self, X: Columns) -> Prediction:
        """Return cost and conformal interval; on another machine a warning is logged."""
        coefficients = self.coefficients
        warn_elsewhere(self._machine)
        mean = self.columns(X) @ coefficients
        return self._with_interval(mean, self._spread)

    def transfer(self, X: Columns, y: npt.ArrayLike) -> Self:
        """Return a model for this machine: one common factor, then each coefficient as far as the cases ask for it.

        The cases are joined by one pseudo-case per coefficient, which says "as before, times the common
        factor" and counts as much as a case; so that a single case moves only the factor.
        """
        before = self.coefficients
        phi = self.columns(X)
        costs, _ = check_rows(y, None, len(phi))
        told = phi @ before
        if np.any(told <= 0):
            raise UsageError("the model predicts a cost of 0 for a case of the new machine: fit it anew there")
        near = partial(fit_near, expected=before)
        new = type(self)(self.terms, coverage=self.coverage)
        new._coefficients = near(phi, costs, weights=np.ones(len(costs)))
        new._machine, new._cases = machine().key(), len(costs)
        new._calibrate(costs, _left_out(phi, costs, np.ones(len(costs)), list(range(len(costs))), near), None)
        if not np.isfinite(new._spread):
            # Too few cases for an interval of their own: it is at least as wide as where the model comes from.
            new._spread = self._spread
        return new

    def score(self) -> Score:
        """Return how each case of `fit` was predicted by a fit without its group."""
        if self._score is None:
            raise UsageError("this cost model has not been fitted: call fit first")
        return self._score

    def formula(self) -> str:
        """Return the sum with its coefficients; terms with a coefficient of 0 are left out."""
        parts = [f"{c:.4g}*{term}" for c, term in zip(self.coefficients, self.terms, strict=True) if c > 0]
        return " + ".join(parts) if parts else "0"

    def to_json(self) -> str:
        """Return it as text; `from_json` reads it."""
        content: Mapping[str, Any] = {
            **artefact_header(_FORMAT, 1, machine=self._machine or None),
            "terms": list(self.terms),
            "coverage": self.coverage,
            "coefficients": self.coefficients.tolist(),
            "spread": self._spread if np.isfinite(self._spread) else None,
            "score": [getattr(self.score(), name) for name in Score.__dataclass_fields__],
            "machine": self._machine,
            "cases": self._cases,
        }
        return json.dumps(content)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            ArtefactError: another format, or a newer version.
        """
        content = json.loads(text)
        read_header(content, _FORMAT, 1)
        model = cls(content["terms"], coverage=content["coverage"])
        model._coefficients = np.asarray(content["coefficients"], dtype=np.float64)
        model._spread = float("inf") if content["spread"] is None else float(content["spread"])
        model._score = Score(*content["score"])
        model._machine, model._cases = content["machine"], content["cases"]
        return model

    def _calibrate(self, costs: Floats, told: Floats, groups: Sequence[Any] | None) -> None:
        known = told > 0
        misses = np.where(known, np.abs(np.log(costs / np.where(known, told, costs))), np.inf)
        self._spread = conformal_quantile(misses, self.coverage)
        # The interval of a case may not know that case: its quantile is taken over the others.
        spreads = np.array([_quantile(np.delete(misses, j), self.coverage) for j in range(len(costs))])
        self._score = score_of(costs, self._with_interval(told, spreads), groups)

    @staticmethod
    def _with_interval(mean: Floats, spread: float | Floats) -> Prediction:
        with np.errstate(over="ignore", invalid="ignore"):
            wide = np.broadcast_to(np.exp(spread), mean.shape)
            high = np.where(np.isfinite(wide), mean * wide, np.inf)
            return Prediction(mean, mean / wide, high)


def _quantile(misses: Floats, coverage: float) -> float:
    return conformal_quantile(misses, coverage) if len(misses) else float("inf")


def _left_out(phi: Floats, costs: Floats, weights: Floats | None, labels: Sequence[Any], fit: _Fit) -> Floats:
    """Predict each case from a fit without its group, shape (n,); 0 where nothing is left to fit on."""
    told = np.zeros(len(costs))
    for label in dict.fromkeys(labels):
        out = np.array([one == label for one in labels])
        kept = None if weights is None else weights[~out]
        if phi[~out].any() and (kept is None or kept.any()):
            told[out] = phi[out] @ fit(phi[~out], costs[~out], weights=kept)
    return told
