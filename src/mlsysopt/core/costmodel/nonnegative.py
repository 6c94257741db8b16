"""Least squares in relative error with coefficients that cannot be negative."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mlsysopt.core.costmodel.protocol import Floats
from mlsysopt.core.errors import UsageError

__all__ = ["fit_near", "fit_nonnegative"]

_STEPS = 5
_REWEIGHTINGS = 4


def fit_nonnegative(
    terms: npt.ArrayLike,
    costs: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    most: npt.ArrayLike | None = None,
    steps: int = _STEPS,
) -> Floats:
    """Fit `costs ~ terms @ c`, `c >= 0`, so that large and small cases count by their relative error.

    Minimizes `sum_j w_j (ln(terms_j @ c) - ln costs_j)^2`. The start is a non-negative least squares
    on rows divided by their cost; each Gauss-Newton step then linearises the logarithm at the present
    prediction `p`, which is again such a problem: rows `terms_j / p_j`, right side `1 + ln(costs_j / p_j)`.
    The best of the iterates is returned, so that a step that overshoots does no harm.

    Args:
        terms: Value of each term in each case, at least 0, shape (n, k).
        costs: Measured costs above 0, shape (n,).
        weights: Shape (n,), at least 0; None means `sqrt(cost / mean cost)`: plain relative error would
            let cases of a millisecond decide, plain seconds only the largest.
        most: Largest value of each coefficient where something is known of it, inf elsewhere, shape (k,).
        steps: Gauss-Newton steps.

    Returns:
        Coefficients, shape (k,).

    Raises:
        UsageError: shapes that do not fit, or a value that is negative or not finite.

    References:
        Lawson and Hanson, Solving Least Squares Problems, 1974, chapter 23.

    >>> fit_nonnegative([[1, 10], [1, 20], [1, 80]], [5, 7, 19]).round(6).tolist()
    [3.0, 0.2]
    """
    phi = np.asarray(terms, dtype=np.float64)
    y = np.asarray(costs, dtype=np.float64)
    if phi.ndim != 2 or y.shape != (len(phi),) or not phi.size:
        raise UsageError(f"terms must be (n, k) and costs (n,), got {phi.shape} and {y.shape}")
    if not np.all(np.isfinite(phi) & (phi >= 0)) or not np.all(np.isfinite(y) & (y > 0)):
        raise UsageError("terms must be finite and at least 0, costs finite and above 0")
    w = np.sqrt(y / y.mean()) if weights is None else np.asarray(weights, dtype=np.float64)
    root = np.sqrt(w)
    scale = phi.max(axis=0)
    scale[scale == 0] = 1.0
    scaled = phi / scale
    if not scaled.any():
        raise UsageError("every term is 0 in every case: nothing can be fitted")
    # A case whose terms are all 0 cannot be explained by any coefficients and has no logarithm.
    usable = scaled.any(axis=1) & (root > 0)
    scaled, y, root = scaled[usable], y[usable], root[usable]
    if not len(y):
        raise UsageError("every case has weight 0 or only terms of 0: nothing can be fitted")
    limit = None if most is None else np.maximum(np.asarray(most, dtype=np.float64) * scale, np.finfo(np.float64).tiny)
    now = _least_squares(root[:, None] * scaled / y[:, None], root, limit)
    best, least = now, np.inf
    for step in range(steps + 1):
        predicted = scaled @ now
        if np.any(predicted <= 0):
            # Such a case would have no logarithm: it pulls as if a thousandth of its cost were predicted.
            predicted = np.maximum(predicted, 1e-3 * y)
        misses = np.log(y / predicted)
        loss = float(np.sum((root * misses) ** 2))
        if loss < least:
            best, least = now, loss
        if step < steps:
            now = _least_squares(root[:, None] * scaled / predicted[:, None], root * (1.0 + misses), limit)
    return best / scale


def fit_near(
    terms: npt.ArrayLike,
    costs: npt.ArrayLike,
    expected: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    strength: float = 1.0,
    outlier: float | None = None,
) -> Floats:
    """Fit as `fit_nonnegative`, held near coefficients that are known elsewhere, up to one common factor.

    Few cases cannot tell terms apart that grow almost alike; what is known of their proportions from other
    cases can. The factor is the weighted median of cost over expected cost. Each coefficient then joins the
    cases as one more: "I cost what was expected, times the factor", and counts as much as `strength` cases.

    Args:
        terms: Value of each term in each case, at least 0, shape (n, k).
        costs: Measured costs above 0, shape (n,).
        expected: Coefficients known elsewhere, shape (k,); one of 0 is not held at all.
        weights: As for `fit_nonnegative`.
        strength: Cases that each expectation counts for, at least 0.
        outlier: Error in logarithms beyond which a case loses weight in proportion; None keeps every weight.

    Returns:
        Coefficients, shape (k,).

    Raises:
        UsageError: as `fit_nonnegative`, or a case that is expected to cost nothing.

    References:
        Huber, Robust Estimation of a Location Parameter, 1964 (the weights of outliers).

    >>> fit_near([[1, 10], [1, 20]], [10, 20], expected=[2.0, 0.5], strength=1e6).round(3).tolist()
    [3.333, 0.833]
    """
    phi = np.asarray(terms, dtype=np.float64)
    y = np.asarray(costs, dtype=np.float64)
    known = np.asarray(expected, dtype=np.float64)
    if phi.ndim != 2 or known.shape != phi.shape[1:]:
        raise UsageError(f"expected coefficients must be one per term, got {known.shape} for terms of {phi.shape}")
    told = phi @ known
    if np.any(told <= 0):
        raise UsageError(f"a case is expected to cost nothing: row {int(np.argmin(told))}")
    w = np.sqrt(y / y.mean()) if weights is None else np.asarray(weights, dtype=np.float64)
    held = np.flatnonzero(known > 0)
    prior = np.zeros((len(held), len(known)))
    # In units of what it is expected to be, each coefficient "costs" 1.
    prior[np.arange(len(held)), held] = 1.0 / (known[held] * _weighted_median(y / told, w))
    rows, right = np.vstack([phi, prior]), np.concatenate([y, np.ones(len(held))])
    now, found = w, known
    for _ in range(1 if outlier is None else _REWEIGHTINGS):
        found = fit_nonnegative(rows, right, weights=np.concatenate([now, np.full(len(held), strength)]))
        if outlier is not None:
            off = np.abs(np.log(np.maximum(phi @ found, 1e-3 * y) / y))
            now = w * np.minimum(1.0, outlier / np.maximum(off, 1e-12))
    return found


def _weighted_median(values: Floats, weights: Floats) -> float:
    """Return the value in the middle of the weight, between two where it falls on their border."""
    order = np.argsort(values)
    upto = np.cumsum(weights[order])
    middle = np.flatnonzero(upto >= upto[-1] / 2)[0]
    if upto[middle] > upto[-1] / 2 or middle + 1 == len(values):
        return float(values[order[middle]])
    return float(np.sqrt(values[order[middle]] * values[order[middle + 1]]))


def _least_squares(rows: Floats, right: Floats, limit: Floats | None) -> Floats:
    from scipy.optimize import lsq_linear, nnls

    if limit is None or not np.isfinite(limit).any():
        return nnls(rows, right)[0]
    return np.clip(lsq_linear(rows, right, bounds=(0.0, limit), method="bvls").x, 0.0, limit)
