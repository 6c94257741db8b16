"""Whether a fit may be believed: rank-normalised split R-hat, bulk and tail ESS, divergences.

References:
    Vehtari, Gelman, Simpson, Carpenter and Buerkner, Rank-normalization, folding, and localization: An improved R-hat,
    Bayesian Analysis 16(2), 2021.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlsysopt.core.errors import MissingExtra

__all__ = ["Diagnosis", "Row", "cell_name", "diagnose", "statistics"]

Array = NDArray[Any]

MOST_RHAT, LEAST_ESS = 1.01, 400.0
MOST_CELLS = 2000
"""Cells of one variable that are judged; of a larger one, evenly spread ones and the variable's mean."""


@dataclass(frozen=True, slots=True)
class Row:
    """One number of a fit.

    Attributes:
        name: Such as "mu[2]" or "log joint".
        mean: Of all chains.
        sd: Of all chains.
        low: 5 % quantile.
        high: 95 % quantile.
        rhat: nan for one chain and for a number that never changes.
        ess_bulk: Effective draws for the mean, in total.
        ess_tail: Effective draws for the 5 % and 95 % quantiles, in total.
    """

    name: str
    mean: float
    sd: float
    low: float
    high: float
    rhat: float
    ess_bulk: float
    ess_tail: float

    @property
    def constant(self) -> bool:
        """Whether it never changed."""
        return self.sd == 0.0

    @property
    def trouble(self) -> float:
        """How far it is from being fine: above 0 it is not."""
        if self.constant:
            return -np.inf
        return float(
            max((self.rhat - 1.0) / (MOST_RHAT - 1.0), LEAST_ESS / max(min(self.ess_bulk, self.ess_tail), 1e-9)) - 1.0
        )


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What the rows say together.

    Attributes:
        rows: One for each judged number; the log joint is the last.
        chains: How many chains ended.
        lost: How many did not.
        divergences: Of NUTS, after warming up.
    """

    rows: tuple[Row, ...]
    chains: int
    lost: int = 0
    divergences: int = 0

    @property
    def constants(self) -> int:
        """Numbers that never changed: counted, not failed."""
        return sum(one.constant for one in self.rows)

    @property
    def ok(self) -> bool:
        """At least two chains, none lost, no divergence, R-hat < 1.01 and both ESS >= 400 everywhere."""
        return self.chains >= 2 and not self.lost and not self.divergences and all(self._fine(one) for one in self.rows)

    @staticmethod
    def _fine(one: Row) -> bool:
        return one.constant or (one.rhat < MOST_RHAT and min(one.ess_bulk, one.ess_tail) >= LEAST_ESS)

    def worst(self, count: int = 3) -> tuple[Row, ...]:
        """Return the rows that are not fine, the worst first."""
        bad = [one for one in self.rows if not self._fine(one)]
        return tuple(sorted(bad, key=lambda one: -one.trouble if not np.isnan(one.trouble) else -np.inf)[:count])

    def shown(self, most: int) -> tuple[Row, ...]:
        """Return the rows to show: at most so many of each variable, then those that converged worst."""
        of: dict[str, list[Row]] = {}
        for one in self.rows:
            of.setdefault(one.name.partition("[")[0], []).append(one)
        found: list[Row] = []
        for rows in of.values():
            worst = sorted(rows, key=lambda row: -row.rhat if row.rhat == row.rhat else 0.0)[:most]
            found += rows if len(rows) <= most else [row for row in rows if row in worst]
        return tuple(found)

    def verdict(self) -> str:
        """Return one to three lines: fine, or what is wrong and what to do."""
        if self.ok:
            worst = max((one.rhat for one in self.rows if not one.constant), default=1.0)
            least = min((min(one.ess_bulk, one.ess_tail) for one in self.rows if not one.constant), default=np.inf)
            return f"converged: {self.chains} chains, R-hat <= {worst:.3f}, ESS >= {least:.0f}"
        if self.lost:
            return f"not proven: {self.lost} of {self.chains + self.lost} chains failed"
        if self.chains < 2:
            return "not proven: one chain; run at least two (chains=4)"
        if self.divergences:
            return f"not proven: {self.divergences} divergences; write the model non-centred, or use method='gibbs'"
        worst = self.worst()
        said = ", ".join(
            f"{one.name} (R-hat {one.rhat:.2f}, ESS {min(one.ess_bulk, one.ess_tail):.0f})" for one in worst
        )
        far = max(one.rhat for one in worst)
        remedy = (
            "the chains disagree: several modes, or labels that can be swapped (`.ordered()` identifies them)"
            if not far < 1.1 else "run longer: more draws, or thin="
        )  # fmt: skip
        return f"not converged: {said}\n{remedy}"


def diagnose(
    draws: Mapping[str, Array],
    joint: Array,
    *,
    lost: int = 0,
    divergences: int = 0,
    ragged: Mapping[str, Array] | None = None,
) -> Diagnosis:
    """Judge the draws of all chains.

    Args:
        draws: Name -> (chains, draws, *shape).
        joint: Log joint, (chains, draws).
        lost: Chains that did not end.
        divergences: Of NUTS.
        ragged: Name -> starts of rows of a flat ragged variable.

    Raises:
        MissingExtra: without arviz-stats.
    """
    rows: list[Row] = []
    for name, array in draws.items():
        flat = array.reshape(*array.shape[:2], -1).astype(np.float64)
        cells = flat.shape[2]
        chosen = np.arange(cells) if cells <= MOST_CELLS else np.linspace(0, cells - 1, MOST_CELLS).astype(int)
        names = [cell_name(name, array.shape[2:], int(i), (ragged or {}).get(name)) for i in chosen]
        rows += _rows(names, flat[:, :, chosen])
        if cells > MOST_CELLS:
            rows += _rows([f"mean of {name}"], flat.mean(axis=2, keepdims=True))
    rows += _rows(["log joint"], np.asarray(joint, np.float64)[:, :, None])
    return Diagnosis(tuple(rows), int(joint.shape[0]), lost, divergences)


def _rows(names: list[str], flat: Array) -> list[Row]:
    """Return the rows of numbers, shape (chains, draws, numbers)."""
    chains, draws, count = flat.shape
    mean, sd = flat.mean(axis=(0, 1)), flat.std(axis=(0, 1))
    low, high = np.quantile(flat.reshape(-1, count), [0.05, 0.95], axis=0)
    rhat, bulk, tail = (np.full(count, np.nan) for _ in range(3))
    moving = np.flatnonzero((flat != flat[:1, :1]).any(axis=(0, 1)) & np.isfinite(flat).all(axis=(0, 1)))
    if len(moving) and draws >= 4:
        stats = statistics()
        part = flat[:, :, moving]
        if chains > 1:
            rhat[moving] = stats.rhat(part, chain_axis=0, draw_axis=1)
        bulk[moving] = stats.ess(part, chain_axis=0, draw_axis=1, method="bulk")
        tail[moving] = stats.ess(part, chain_axis=0, draw_axis=1, method="tail", prob=(0.05, 0.95))
    sd[np.setdiff1d(np.arange(count), moving)] = np.where(
        np.isfinite(mean[np.setdiff1d(np.arange(count), moving)]), 0.0, np.nan
    )
    columns = (mean, sd, low, high, rhat, bulk, tail)
    return [Row(name, *(float(one[i]) for one in columns)) for i, name in enumerate(names)]


def statistics() -> Any:
    """Return arviz-stats' functions over arrays: R-hat and effective sample sizes.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        from arviz_stats.base import array_stats  # pyright: ignore[reportMissingTypeStubs, reportPrivateImportUsage]
    except ImportError as error:
        raise MissingExtra.of("judging a fit", "infer") from error
    return array_stats


def cell_name(name: str, shape: tuple[int, ...], flat: int, starts: Array | None) -> str:
    """Return a cell as it stands in a model, from its place among all; `starts` are those of ragged rows."""
    if starts is not None:
        row = int(np.searchsorted(starts, flat, side="right")) - 1
        return f"{name}[{row}, {flat - int(starts[row])}]"
    if shape in ((), (1,)):
        return name
    return f"{name}[{', '.join(str(int(i)) for i in np.unravel_index(flat, shape))}]"
