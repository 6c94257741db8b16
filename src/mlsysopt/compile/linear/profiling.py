"""Times for the tables: what the machine's profile knows, what it lacks, and measuring the difference."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlsysopt.compile.linear.decide import Quote, Timed, settle
from mlsysopt.compile.linear.grid import Grid
from mlsysopt.compile.linear.plan import Plan, Product
from mlsysopt.compile.linear.precision import RUNGS
from mlsysopt.compile.linear.segments import BASELINE, decision
from mlsysopt.compile.variants.gain import misses
from mlsysopt.compile.variants.machine import MachineProfile
from mlsysopt.compile.variants.price import price
from mlsysopt.compile.variants.registry import variant, variants
from mlsysopt.compile.variants.site import Epilogue, Site, Variant
from mlsysopt.core.errors import UsageError, near_misses

if TYPE_CHECKING:
    from mlsysopt.compile.linear.shapes import Shape
    from mlsysopt.compile.variants.timing import Bench

__all__ = ["ProfilePrices", "candidates", "profile", "report", "residency"]

# It rounds activations, too, with one scale a call: nobody who asks for narrow weights means that. A policy can.
_BY_NAME_ALONE = ("aten.int8_dynamic",)
# Packed weights of all variants, copied past the last-level cache: two products at a time are enough for a machine.
_BENCHES = 2


class ProfilePrices:
    """Prices from a machine's profile; what is measured goes into it.

    Args:
        profile: Of this machine.
        residency: "cold" or "warm".
    """

    def __init__(self, profile: MachineProfile, *, residency: str = "cold") -> None:
        self.profile, self.residency = profile, residency
        self._baseline = variant(BASELINE)
        self._benches: OrderedDict[str, tuple[frozenset[str], Bench]] = OrderedDict()

    @classmethod
    def open(cls, profile: MachineProfile | None = None, *, residency: str = "cold") -> ProfilePrices:
        """Return prices from a profile; None opens the one of this machine."""
        return cls(MachineProfile.open() if profile is None else profile, residency=residency)

    def quote(self, site: Site, variant: Variant) -> Quote:
        found = price(site, variant, self.profile, residency=self.residency)
        if found.source != "model" or found.note:
            return Quote(found.mean, found.low, found.high, found.source)
        known = misses(variant, self._baseline, self.profile, residency=self.residency, threads=site.threads)
        return Quote(found.mean, found.low, found.high, found.source, known.of(site))

    def measure(self, site: Site, variants: Sequence[Variant]) -> None:
        self.profile.calibrate()
        self.profile.add(self._bench(site, variants).measure(site.number("M")))

    def _bench(self, site: Site, variants: Sequence[Variant]) -> Bench:
        """Return the bench of these weights: packing is paid once for all numbers of rows."""
        from mlsysopt.compile.variants.timing import Bench

        key = site.at(M=1).key
        names = frozenset(one.name for one in variants)
        held, bench = self._benches.get(key, (frozenset(), None))
        if bench is None or not names <= held:
            bench = Bench(site, variants, residency=self.residency)
            self._benches[key] = (names, bench)
        self._benches.move_to_end(key)
        while len(self._benches) > _BENCHES:
            self._benches.popitem(last=False)
        return bench


def candidates(precision: str = "f32", *, panel: bool = True) -> list[Variant]:
    """Return the variants that a precision allows, the baseline first.

    Args:
        precision: "f32", or the lowest of "bf16" and "int8w" that weights may have.
        panel: Whether generated kernels may be used.

    Raises:
        UsageError: unknown precision.
    """
    if precision not in RUNGS:
        raise UsageError(f"precision {precision!r}; {near_misses(precision, RUNGS, noun='precision')}")
    least = {"f32": 4, "bf16": 2, "int8w": 1}[precision]
    return [
        one
        for one in variants("linear")
        if getattr(one, "weight_bytes", 4) >= least
        and one.name not in _BY_NAME_ALONE
        and (panel or not one.name.startswith("panel."))
    ]


def residency(packed_bytes: int) -> str:
    """Return "warm" when all packed weights of a model fit half of the last-level cache, else "cold"."""
    from mlsysopt.core.measure.micro import last_level_bytes

    return "warm" if packed_bytes <= last_level_bytes() // 2 else "cold"


@dataclass(frozen=True, slots=True)
class _Group:
    """Products with the same row counts: their cells compete for the same budget."""

    shapes: tuple[Shape, ...]
    points: Grid


def profile(
    shapes: Sequence[Shape],
    rows: Grid | Sequence[Grid],
    *,
    threads: int = 1,
    budget_s: float = 20.0,
    precision: str = "f32",
    panel: bool = True,
    machine: MachineProfile | None = None,
    watch: Callable[[Timed], None] | None = None,
    name: str = "shapes",
    settled: bool = False,
) -> Plan:
    """Measure what is most useful to know about some products, and return what would be decided.

    Doubtful cells come first; what is left of the budget goes to the cells that only a model knows.

    Args:
        shapes: Products.
        rows: Row counts for all of them, or for each.
        threads: Threads that a call may use.
        budget_s: Seconds of CPU time at one thread, elapsed ones at more.
        precision: See `candidates`.
        panel: Whether generated kernels may be used.
        machine: Where times are kept; None opens the file of this machine.
        watch: Called after each measurement.
        name: Of the model.
        settled: Stop when nothing is in doubt any more.
    """
    held = MachineProfile.open() if machine is None else machine
    able = candidates(precision, panel=panel)
    clock = time.thread_time if threads == 1 else time.perf_counter
    started = clock()
    for group in _groups(shapes, rows):
        left = budget_s - (clock() - started)
        sites = [_site(one, threads) for one in group.shapes]
        counts = [one.count for one in group.shapes]
        settle(sites, able, ProfilePrices(held), points=group.points, counts=counts, budget_s=left, watch=watch)
    for group in _groups(shapes, rows):
        left = budget_s - (clock() - started)
        if settled or left <= 0:
            continue
        cells = [_site(one, threads).at(M=m) for one in group.shapes for m in group.points.rows]
        held.measure(
            cells,
            able,
            budget_s=left,
            progress=None
            if watch is None
            else lambda seen: watch(
                Timed(seen.done, seen.cells - seen.done, seen.spent_s, seen.site, tuple(r.variant for r in seen.rows))
            ),
        )
    return report(shapes, rows, threads=threads, precision=precision, panel=panel, machine=held, name=name)


def report(
    shapes: Sequence[Shape],
    rows: Grid | Sequence[Grid],
    *,
    threads: int = 1,
    precision: str = "f32",
    panel: bool = True,
    machine: MachineProfile | None = None,
    name: str = "shapes",
) -> Plan:
    """Return what would be decided for some products, from the profile alone; nothing is timed.

    Args: as for `profile`.
    """
    held = MachineProfile.open() if machine is None else machine
    able = candidates(precision, panel=panel)
    prices = ProfilePrices(held)
    found: list[Product] = []
    for group in _groups(shapes, rows):
        sites = [_site(one, threads) for one in group.shapes]
        for shape, known in zip(group.shapes, settle(sites, able, prices, points=group.points), strict=True):
            found.append(Product(shape.k, shape.n, shape.label, shape.count, decision(known)))
    measured = held.threads_measured()
    lines: list[str] = []
    if threads not in measured:
        lines.append(f"not measured at {threads} thread{'s' if threads != 1 else ''}: mlsysopt linear profile does it")
    return Plan(
        name,
        tuple(found),
        threads=threads,
        machine=str(held.here),
        lines=tuple(lines),
    )


def _site(shape: Shape, threads: int) -> Site:
    return Site.linear(1, shape.n, shape.k, epilogue=Epilogue(bias=True), threads=threads)


def _groups(shapes: Sequence[Shape], rows: Grid | Sequence[Grid]) -> list[_Group]:
    if isinstance(rows, Grid):
        return [_Group(tuple(shapes), rows)]
    together: dict[Grid, list[Shape]] = {}
    for shape, points in zip(shapes, rows, strict=True):
        together.setdefault(points, []).append(shape)
    return [_Group(tuple(some), points) for points, some in together.items()]
