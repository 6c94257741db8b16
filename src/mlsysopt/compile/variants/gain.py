"""How far a predicted gain may be off: less than the two times behind it, which go wrong together.

Where memory is slower than a model thinks it is so for a variant and for the baseline. The interval of their ratio is
taken from sites that were measured with both, each predicted without the rows of its own weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlsysopt.compile.variants.price import TERMS, columns
from mlsysopt.core.costmodel import DeclaredTerms
from mlsysopt.core.costmodel.nonnegative import fit_nonnegative
from mlsysopt.core.stats.conformal import conformal_quantile

if TYPE_CHECKING:
    from mlsysopt.compile.variants.machine import MachineProfile
    from mlsysopt.compile.variants.site import Site, Variant
    from mlsysopt.compile.variants.timing import Row

__all__ = ["Misses", "misses"]

COVERAGE = 0.9
# A conformal bound of 90 % needs nine cases; with twice as many near by, those alone are asked.
_LEAST, _LEAST_NEAR = 9, 18
_NEAR = 2.0
# How far outside the measured widths a model is still believed: a kernel pads, and a call has its price.
_REACH = 1.5


@dataclass(frozen=True, slots=True)
class Misses:
    """By how much predicted gains missed.

    Attributes:
        rows: M of each case.
        logs: ln(predicted gain / true gain) of each case.
        widths: Smallest and largest K, then N, of these cases.
    """

    rows: tuple[int, ...]
    logs: tuple[float, ...]
    widths: tuple[tuple[int, int], tuple[int, int]] = ((1, 1 << 62), (1, 1 << 62))

    def of(self, site: Site) -> tuple[float, float] | None:
        """Return the bounds for a site; None where its widths are far from all that was measured."""
        for name, (least, most) in zip("KN", self.widths, strict=True):
            if not least / _REACH <= site.number(name) <= most * _REACH:
                return None
        return self.bounds(site.number("M"))

    def bounds(self, rows: int) -> tuple[float, float]:
        """Return factors of a predicted gain for its lower and its upper bound, each holding in nine of ten cases.

        Cases whose number of rows is within a factor of two are asked when there are enough of them.

        >>> Misses((1,) * 20, (0.0,) * 19 + (0.5,)).bounds(1)
        (1.0, 1.0)
        >>> Misses((), ()).bounds(1)
        (0.0, inf)
        """
        near = [log for m, log in zip(self.rows, self.logs, strict=True) if rows / _NEAR <= m <= rows * _NEAR]
        used = near if len(near) >= _LEAST_NEAR else list(self.logs)
        if len(used) < _LEAST:
            return 0.0, math.inf
        over = conformal_quantile(used, COVERAGE)
        under = conformal_quantile([-log for log in used], COVERAGE)
        return math.exp(-max(over, 0.0)), math.exp(max(under, 0.0))


def misses(
    variant: Variant, baseline: Variant, profile: MachineProfile, *, residency: str = "cold", threads: int = 1
) -> Misses:
    """Return how far predicted gains over a baseline were off at the sites that were measured with both.

    Args:
        variant: Which.
        baseline: What it is compared with.
        profile: What was measured; the answer is kept in it until a tenth more rows are known.
        residency: "cold" or "warm".
        threads: Threads of the rows.
    """
    rows = [
        {row.site: row for row in profile.rows_of(one, residency) if row.site.threads == threads}
        for one in (variant, baseline)
    ]
    both = [site for site in rows[0] if site in rows[1]]
    pair = f"{variant.name} {variant.version} over {baseline.name} {baseline.version}"
    key = f"gain of {pair} {residency} {threads}"
    count, known = profile.models.get(key) or _kept(profile, key)
    if known is None or not count <= len(both) <= count * 1.1:
        known = _misses(both, rows, (variant, baseline))
        profile.models[key] = (len(both), known)
        profile.keep_fit(key, len(both), json.dumps(asdict(known)))
    return known


def _kept(profile: MachineProfile, key: str) -> tuple[int, Misses | None]:
    """Return what is in the profile's file, if it can be read."""
    kept = profile.fit(key)
    if kept is None:
        return 0, None
    try:
        content = json.loads(kept[1])
        (k_least, k_most), (n_least, n_most) = content["widths"]
        logs = tuple(float(log) for log in content["logs"])
        found = Misses(tuple(map(int, content["rows"])), logs, ((k_least, k_most), (n_least, n_most)))
    except (ValueError, KeyError, TypeError):
        return 0, None
    profile.models[key] = (kept[0], found)
    return kept[0], found


def _misses(both: Sequence[Site], rows: Sequence[Mapping[Site, Row]], pair: tuple[Variant, Variant]) -> Misses:
    if len(both) < _LEAST:
        return Misses((), ())
    told = [_left_out(both, known, one) for known, one in zip(rows, pair, strict=True)]
    cases = [
        (site.number("M"), math.log(b / v) - math.log(rows[1][site].seconds / rows[0][site].seconds))
        for site, v, b in zip(both, *told, strict=True)
        if v > 0 and b > 0
    ]
    ks, ns = ([site.number(name) for site in both] for name in "KN")
    widths = (min(ks), max(ks)), (min(ns), max(ns))
    return Misses(tuple(m for m, _ in cases), tuple(log for _, log in cases), widths)


def _left_out(sites: Sequence[Site], known: Mapping[Site, Row], variant: Variant) -> list[float]:
    """Predict each site from rows of other weights, 0 where there are none."""
    named = [columns(site, variant) for site in sites]
    phi = DeclaredTerms(TERMS).columns({name: [one[name] for one in named] for name in named[0]})
    seconds = np.array([known[site].seconds for site in sites])
    shapes = [(site.number("K"), site.number("N")) for site in sites]
    told = np.zeros(len(sites))
    for shape in dict.fromkeys(shapes):
        out = np.array([one == shape for one in shapes])
        if not out.all():
            told[out] = phi[out] @ fit_nonnegative(phi[~out], seconds[~out], weights=np.ones(int((~out).sum())))
    return told.tolist()
