"""What a variant will take for a site: from a row where there is one, else from a model of all rows, else a bound.

This is the only cost that anybody reads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mlsysopt.compile.variants.site import Epilogue
from mlsysopt.compile.variants.timing import weight_bytes
from mlsysopt.core.costmodel import DeclaredTerms
from mlsysopt.core.errors import MlsysoptError

if TYPE_CHECKING:
    from mlsysopt.compile.variants.machine import MachineProfile
    from mlsysopt.compile.variants.site import Site, Variant
    from mlsysopt.compile.variants.timing import Row

__all__ = ["TERMS", "Price", "between", "columns", "price"]

# Call, weights read, products of whole row blocks, operand and result, what a library does after the product.
TERMS = ("1", "W", "C", "X", "E")
# Fewer rows say nothing about the interval: a conformal one of 90 % needs nine.
_LEAST_ROWS = 9
# Grid points are at most this far apart; a line through points farther apart says little about what lies between.
_NEAR = 2.0


@dataclass(frozen=True, slots=True)
class Price:
    """Seconds that a variant will take for a site.

    Attributes:
        mean: Most likely.
        low, high: Interval; high is inf where only a bound is known.
        source: "measured" (also between two measured row counts), "model" or "roofline".
        note: What is to be known about it, "" for nothing.
    """

    mean: float
    low: float
    high: float
    source: str
    note: str = ""


def price(site: Site, variant: Variant, profile: MachineProfile, *, residency: str = "cold") -> Price:
    """Return what a variant takes; whether it does the site at all is for its `supports` to say.

    Args:
        site: All sizes known.
        variant: Which.
        profile: What was measured.
        residency: "cold", or "warm" where all weights of a model stay in the last-level cache.
    """
    row = profile.find(variant.name, variant.version, site, residency)
    if row is not None:
        return Price(row.seconds, row.low, row.high, "measured")
    found = _neighbours(site, variant, profile, residency) or _modelled(site, variant, profile, residency)
    return found or _bound(site, variant, profile)


def between(rows: int, below: tuple[int, float], above: tuple[int, float], block: int) -> float:
    """Return seconds at a number of rows from those at two others: a line over `ceil(rows / block)`.

    Within one block the line is over rows.

    >>> between(129, (128, 1.0), (192, 2.0), block=64), between(160, (128, 1.0), (192, 2.0), block=1)
    (2.0, 1.5)
    """
    (first, low), (last, high) = below, above
    blocks = math.ceil(last / block) - math.ceil(first / block)
    if blocks:
        share = (math.ceil(rows / block) - math.ceil(first / block)) / blocks
    else:
        share = (rows - first) / (last - first) if last > first else 0.0
    return low + (high - low) * share


def _neighbours(site: Site, variant: Variant, profile: MachineProfile, residency: str) -> Price | None:
    """Price from rows of the same weights: between two row counts, or with another epilogue."""
    m, plain = site.number("M"), replace(site, epilogue=Epilogue())
    for asked, note in ((site, ""), (plain, f"measured without {site.epilogue}")):
        known = profile.series(variant, asked, residency)
        if m in known:
            row = known[m]
            return Price(row.seconds, row.low, row.high, "measured", note)
        below = max((one for one in known if one < m), default=None)
        above = min((one for one in known if one > m), default=None)
        if below is None or above is None or above > _NEAR * below:
            continue
        block = variant.block_rows(site)
        ends = known[below], known[above]
        mean, low, high = (
            between(m, (below, getattr(ends[0], name)), (above, getattr(ends[1], name)), block)
            for name in ("seconds", "low", "high")
        )
        return Price(mean, low, high, "measured", note or f"between {below} and {above} rows")
    return None


def _modelled(site: Site, variant: Variant, profile: MachineProfile, residency: str) -> Price | None:
    rows = profile.rows_of(variant, residency)
    counts = sorted({row.site.threads for row in rows}, key=lambda threads: abs(threads - site.threads))
    for threads in counts:
        known = [row for row in rows if row.site.threads == threads]
        if len(known) < _LEAST_ROWS:
            continue
        model = _model(profile, variant, residency, threads, known)
        told = model.predict({name: [value] for name, value in columns(site, variant).items()})
        mean, low, high = (float(values[0]) for values in (told.mean, told.low, told.high))
        if threads == site.threads:
            return Price(mean, low, high, "model")
        # Between no gain from further threads and a perfect one; fewer threads are the same in reverse.
        ratio = threads / site.threads
        ends = sorted((1.0, ratio))
        note = f"not measured at {site.threads} thread{'s' if site.threads != 1 else ''}"
        return Price(mean * math.sqrt(ratio), low * ends[0], high * ends[1], "model", note)
    return None


def _model(
    profile: MachineProfile, variant: Variant, residency: str, threads: int, rows: Sequence[Row]
) -> DeclaredTerms:
    """Return the model of these rows; fitted anew when there are a tenth more than at the last time."""
    key = f"time of {variant.name} {variant.version} {residency} {threads}"
    count, model = profile.models.get(key) or _kept(profile, key)
    if model is None or not count <= len(rows) <= count * 1.1:
        described = [columns(row.site, variant) for row in rows]
        named = {name: [one[name] for one in described] for name in described[0]}
        shapes = [(row.site.number("K"), row.site.number("N")) for row in rows]
        groups = shapes if len(set(shapes)) > 2 else None
        model = DeclaredTerms(TERMS).fit(
            named, [row.seconds for row in rows], weights=np.ones(len(rows)), groups=groups
        )
        profile.models[key] = (len(rows), model)
        profile.keep_fit(key, len(rows), model.to_json())
    return model


def _kept(profile: MachineProfile, key: str) -> tuple[int, DeclaredTerms | None]:
    """Return the model in the profile's file, if there is one of these terms."""
    kept = profile.fit(key)
    if kept is None:
        return 0, None
    try:
        model = DeclaredTerms.from_json(kept[1])
    except (MlsysoptError, ValueError, KeyError, TypeError):
        return 0, None
    if model.terms != TERMS:
        return 0, None
    profile.models[key] = (kept[0], model)
    return kept[0], model


def columns(site: Site, variant: Variant) -> dict[str, float]:
    """Return what the terms of the model are made of, for one site."""
    m, k, n = site.number("M"), site.number("K"), site.number("N")
    block = variant.block_rows(site)
    after = bool(site.epilogue.activation) + site.epilogue.residual
    return {
        "W": float(n * k * weight_bytes(variant)),
        "C": float(math.ceil(m / block) * block * n * k),
        "X": float(m * (k + n)),
        "E": float(m * n * after),
    }


def _bound(site: Site, variant: Variant, profile: MachineProfile) -> Price:
    m, k, n = site.number("M"), site.number("K"), site.number("N")
    roofline = profile.roofline
    read = n * k * weight_bytes(variant) + 4 * m * (k + n)
    least = max(2 * m * n * k / roofline.flops_per_s, read / roofline.bytes_per_s)
    return Price(least, least, math.inf, "roofline", "" if roofline.measured else "guessed by the vector unit")
