"""Tables for sites: priced first, then timed where the choice is open and costs most, until the budget is spent."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from mlsysopt.compile.linear.grid import MOST_ROWS, Grid, grid
from mlsysopt.compile.linear.segments import BASELINE, LEAST_GAIN, Costs, decision
from mlsysopt.compile.variants.site import Site, Variant
from mlsysopt.core.errors import UsageError

if TYPE_CHECKING:
    from mlsysopt.compile.variants.decision import Decision
    from mlsysopt.compile.variants.machine import MachineProfile

__all__ = ["Cell", "Prices", "Quote", "Timed", "costs", "doubts", "settle", "table"]

_MOST_DOUBT = 4.0
"""How far an interval may count as reaching from its middle; one that is open would outweigh everything."""

# A reading is at least this long, and a variant needs about so many of them.
_READING_S, _READINGS = 2e-3, 8
_STAY = 0.1
"""Another site is begun only when the best cell of this one is worth less than this share: packing takes time."""


@dataclass(frozen=True, slots=True)
class Quote:
    """What a variant will take.

    Attributes:
        seconds: Most likely.
        low, high: Interval.
        source: "measured", "model" or "roofline".
        gain: Factors of a predicted gain over the baseline for its lower and upper bound; None where nothing more is
            known of it than the intervals of the two times say.
    """

    seconds: float
    low: float
    high: float
    source: str
    gain: tuple[float, float] | None = None


class Prices(Protocol):
    """Where times come from."""

    def quote(self, site: Site, variant: Variant) -> Quote:
        """Return what is known about a site with M."""
        ...

    def measure(self, site: Site, variants: Sequence[Variant]) -> None:
        """Time variants for a site with M, interleaved; `quote` knows the result afterwards."""
        ...


@dataclass(frozen=True, slots=True)
class Cell:
    """A grid point whose best two variants cannot be told apart yet.

    Attributes:
        site: Number of the site.
        point: Number of the grid point.
        rivals: Variants to be timed together, the best first; the baseline is among them.
        best_s: Seconds of the best, as far as is known.
        gap_s: Seconds that the wrong choice may cost.
        worth: The gap as a share of the best time, times the weight of the point.
        cost_s: Seconds that the timing will take, roughly.
    """

    site: int
    point: int
    rivals: tuple[str, ...]
    best_s: float
    gap_s: float
    worth: float
    cost_s: float


@dataclass(frozen=True, slots=True)
class Timed:
    """Progress: cells timed so far, cells still open, seconds spent, and what was timed last."""

    done: int
    open: int
    spent_s: float
    site: Site
    names: tuple[str, ...] = field(default=())


def costs(site: Site, candidates: Sequence[Variant], prices: Prices, points: Grid) -> Costs:
    """Return what every variant takes at every grid point, as far as it does the site.

    Args:
        site: Any number of rows; M is set to each point.
        candidates: Variants, the baseline among them.
        prices: Where times come from.
        points: Row counts and their weights.

    Raises:
        UsageError: no candidate does the site.
    """
    quotes: dict[str, list[Quote]] = {}
    for variant in candidates:
        sites = [site.at(M=rows) for rows in points.rows]
        refusals = [variant.supports(one) for one in sites]
        if all(one is not None for one in refusals):
            continue
        quotes[variant.name] = [
            prices.quote(one, variant) if refusal is None else Quote(math.inf, math.inf, math.inf, "measured")
            for one, refusal in zip(sites, refusals, strict=True)
        ]
    if not quotes:
        raise UsageError(f"no variant does {site}; offered were {', '.join(v.name for v in candidates) or 'none'}")
    return Costs(
        points.rows,
        points.weights,
        seconds={name: [one.seconds for one in row] for name, row in quotes.items()},
        low={name: [one.low for one in row] for name, row in quotes.items()},
        high={name: [one.high for one in row] for name, row in quotes.items()},
        sources={name: [one.source for one in row] for name, row in quotes.items()},
        blocks={one.name: one.block_rows(site) for one in candidates if one.name in quotes},
        gains={name: _gains(row, quotes[BASELINE]) for name, row in quotes.items()} if BASELINE in quotes else {},
        over=BASELINE,
    )


def _gains(quotes: Sequence[Quote], baseline: Sequence[Quote]) -> list[tuple[float, float] | None]:
    """Return bounds of gains where both times are a model's, whose errors are alike."""
    found: list[tuple[float, float] | None] = []
    for one, plain in zip(quotes, baseline, strict=True):
        if one.source == plain.source == "model" and one.gain is not None:
            gain = plain.seconds / max(one.seconds, 1e-12)
            found.append((gain * one.gain[0], gain * one.gain[1]))
        else:
            found.append(None)
    return found


def doubts(costs: Costs, *, site: int = 0, baseline: str = BASELINE) -> list[Cell]:
    """Return the grid points whose choice is open, in the order of the rows.

    A point is open while another variant may be as fast as the best one, or while the best is not proven against the
    baseline, and one of those has not been measured there.

    Args:
        costs: Of one site.
        site: Its number, for the cells.
        baseline: What the best has to beat.
    """
    cells: list[Cell] = []
    for k, weight in enumerate(costs.weights):
        able = [name for name in costs.seconds if math.isfinite(costs.seconds[name][k])]
        best = min(able, key=lambda name: costs.seconds[name][k], default="")
        if not best:
            continue
        best_s, reach = costs.seconds[best][k], _reach(costs, best, k)[1]
        gaps = {name: reach - _reach(costs, name, k)[0] for name in able if name != best}
        if baseline in gaps:
            proven = costs.gain(best, baseline, k)[0] >= math.log(LEAST_GAIN)
            gaps[baseline] = 0.0 if proven else gaps[baseline] + (LEAST_GAIN - 1) * best_s
        gaps = {name: gap for name, gap in gaps.items() if gap > 0}
        if not gaps or all(_known(costs, name, k) for name in (best, *gaps)):
            continue
        names = sorted(gaps, key=lambda name: costs.seconds[name][k])
        # The baseline is timed with them even when it is far behind: every gain is over its time in the same rounds.
        rivals = (best, *names) if baseline in (best, *names) or baseline not in able else (best, *names, baseline)
        cost = sum(_READINGS * max(costs.seconds[name][k], _READING_S) for name in rivals)
        gap = max(gaps.values())
        cells.append(Cell(site, k, rivals, best_s, gap, weight * gap / max(best_s, 1e-12), cost))
    return cells


def settle(
    sites: Sequence[Site],
    candidates: Sequence[Variant],
    prices: Prices,
    *,
    points: Grid,
    counts: Sequence[int] | None = None,
    budget_s: float = 0.0,
    baseline: str = BASELINE,
    watch: Callable[[Timed], None] | None = None,
    clock: Callable[[], float] | None = None,
) -> list[Costs]:
    """Price all sites, and time the cells in doubt until the budget is spent or none is left.

    The next cell is the one whose wrong choice may cost the largest share of the time of all sites at that number of
    rows, times the weight of the point, for each second that its timing takes.

    Args:
        sites: What is to be decided; their M is not looked at.
        candidates: Variants.
        prices: Where times come from.
        points: Row counts and their weights.
        counts: How many equal products each site stands for; None means one.
        budget_s: Seconds for timing; a measurement that has begun is finished.
        baseline: What the others have to beat.
        watch: Called after each measurement.
        clock: Seconds; None means CPU time of this thread, or elapsed time where a site has several threads.
    """
    ticking = clock or (time.thread_time if all(one.threads == 1 for one in sites) else time.perf_counter)
    known = [costs(site, candidates, prices, points) for site in sites]
    by_name = {one.name: one for one in candidates}
    many = counts or [1] * len(sites)
    started = ticking()
    # A cell is not timed twice with the same rivals: what is still open then is a tie.
    tried: set[tuple[int, int, frozenset[str]]] = set()
    done, here = 0, -1
    while ticking() - started < budget_s:
        shares = _shares(known, many)
        open_cells = {
            cell: shares[cell.site][cell.point] * cell.worth / cell.cost_s
            for i, one in enumerate(known)
            for cell in doubts(one, site=i, baseline=baseline)
            if (i, cell.point, frozenset(cell.rivals)) not in tried
        }
        if not open_cells:
            break
        cell = max(open_cells, key=lambda one: open_cells[one] * (_STAY if one.site != here else 1.0))
        here = cell.site
        tried.add((here, cell.point, frozenset(cell.rivals)))
        site = sites[here].at(M=points.rows[cell.point])
        prices.measure(site, [by_name[name] for name in cell.rivals])
        known[here] = costs(sites[here], candidates, prices, points)
        done += 1
        if watch is not None:
            watch(Timed(done, len(open_cells) - 1, ticking() - started, site, cell.rivals))
    return known


def table(
    site: Site,
    candidates: Sequence[Variant] | None = None,
    *,
    profile: MachineProfile | None = None,
    prices: Prices | None = None,
    budget_s: float = 0.0,
    likely_rows: Sequence[int] = (),
    most_rows: int = MOST_ROWS,
    residency: str = "cold",
    barred: Mapping[str, str] | None = None,
) -> Decision:
    """Return the table of one site.

    Args:
        site: The product; its M is not looked at.
        candidates: Variants that may run; None means all of this machine that change no precision.
        profile: What is known about this machine; None opens the default one.
        prices: Another source of times than the profile.
        budget_s: Seconds for timing what the prices leave open; 0 decides by prices alone.
        likely_rows: Rows that arrive most often.
        most_rows: Largest number of rows that is looked at.
        residency: "cold" or "warm"; see `variants.timing`.
        barred: Variants that must not run, with the reason.

    Raises:
        UsageError: no variant does the site.
    """
    from mlsysopt.compile.linear import profiling

    offered = profiling.candidates() if candidates is None else candidates
    able = [one for one in offered if one.name not in (barred or {})]
    source = prices or profiling.ProfilePrices.open(profile, residency=residency)
    points = grid(most_rows, likely_rows)
    (found,) = settle([site], able, source, points=points, budget_s=budget_s)
    return decision(found)


def _shares(known: Sequence[Costs], counts: Sequence[int]) -> list[list[float]]:
    """Return, for each site and point, its share of the time of all sites with that many rows."""
    best = [
        [count * min(row[k] for row in one.seconds.values()) for k in range(len(one.rows))]
        for one, count in zip(known, counts, strict=True)
    ]
    whole = [sum(column) or 1.0 for column in zip(*best, strict=True)]
    return [[mine / all_s for mine, all_s in zip(row, whole, strict=True)] for row in best]


def _reach(costs: Costs, name: str, k: int) -> tuple[float, float]:
    """Return the interval of a time, cut off where it is wide open."""
    middle = costs.seconds[name][k]
    return max(costs.lows(name)[k], middle / _MOST_DOUBT), min(costs.highs(name)[k], middle * _MOST_DOUBT)


def _known(costs: Costs, name: str, k: int) -> bool:
    return name in costs.sources and costs.sources[name][k] == "measured"
