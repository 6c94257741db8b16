"""In which order cells of a profile are measured, so that an end at any moment leaves the most useful ones."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlsysopt.compile.variants.products import torch_module
from mlsysopt.compile.variants.timing import Bench, Row

if TYPE_CHECKING:
    from mlsysopt.compile.variants.machine import MachineProfile
    from mlsysopt.compile.variants.site import Site, Variant

__all__ = ["Progress", "measure", "order"]

# Row counts that are measured before the next weights get their turn: packing is paid once for each turn.
_TURN = 6


@dataclass(frozen=True, slots=True)
class Progress:
    """One more cell is known.

    Attributes:
        site: Which.
        rows: What each variant took.
        done, cells: Cells measured by this call, and those it set out to measure.
        spent_s: Seconds so far, packing included.
    """

    site: Site
    rows: tuple[Row, ...]
    done: int
    cells: int
    spent_s: float


def measure(
    profile: MachineProfile,
    sites: Sequence[Site],
    variants: Sequence[Variant],
    *,
    budget_s: float | None = None,
    residency: str = "cold",
    progress: Callable[[Progress], None] | None = None,
) -> list[Row]:
    """Time variants for those sites that the profile lacks; every cell is kept as soon as it is known.

    Args:
        profile: Where rows are kept.
        sites: With all sizes known.
        variants: Timed against each other at each site.
        budget_s: Seconds after which no further cell is begun: CPU time at one thread, else elapsed. None means all.
        residency: "cold" or "warm".
        progress: Called after each cell.

    Returns:
        The new rows.
    """
    missing = [site for site in sites if not all(profile.covers(one, site, residency) for one in variants)]
    if not missing:
        return []
    clock = time.thread_time if all(site.threads == 1 for site in missing) else time.perf_counter
    # Importing torch is no measurement.
    torch_module()
    start = clock()
    profile.calibrate()
    found: list[Row] = []
    done = 0
    for turn in order(missing, known=[row.site for row in profile.rows]):
        bench: Bench | None = None
        for site in turn:
            if budget_s is not None and clock() - start >= budget_s:
                return found
            bench = bench or Bench(site, variants, residency=residency)
            rows = bench.measure(site.number("M"))
            profile.add(rows)
            found += rows
            done += 1
            if progress is not None:
                progress(Progress(site, tuple(rows), done, len(missing), clock() - start))
    return found


def order(sites: Sequence[Site], known: Sequence[Site] = ()) -> list[list[Site]]:
    """Return sites in turns of equal weights: within them, what is farthest from all that is known comes next.

    >>> from mlsysopt.compile.variants.site import Site
    >>> turns = order([Site.linear(m, 64, 64) for m in (1, 2, 4, 8, 16)], known=[Site.linear(2, 64, 64)])
    >>> [site.number("M") for site in turns[0]]
    [16, 1, 4, 8, 2]
    """
    groups: dict[str, list[Site]] = {}
    for site in dict.fromkeys(sites):
        groups.setdefault(_weights_of(site), []).append(site)
    queues = [
        _farthest_first(group, [one for one in known if _weights_of(one) == key]) for key, group in groups.items()
    ]
    turns: list[list[Site]] = []
    for first in range(0, max((len(queue) for queue in queues), default=0), _TURN):
        turns += [queue[first : first + _TURN] for queue in queues if queue[first:]]
    return turns


def _weights_of(site: Site) -> str:
    return site.at(M=1).key


def _farthest_first(sites: Sequence[Site], known: Sequence[Site]) -> list[Site]:
    """Order by distance on the axis log M; with nothing known, the smallest M comes first, then the largest."""
    left = sorted(sites, key=lambda site: site.number("M"))
    places = [_place(site) for site in known]
    ordered: list[Site] = []
    while left:
        chosen = max(left, key=lambda site: min((abs(_place(site) - place) for place in places), default=math.inf))
        left.remove(chosen)
        places.append(_place(chosen))
        ordered.append(chosen)
    return ordered


def _place(site: Site) -> float:
    # Base 2: powers of two then lie exactly as far apart as they should, and ties stay ties.
    return math.log2(max(site.number("M"), 1))
