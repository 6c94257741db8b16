"""The compiler's door: a table for each product of constant weights in a program, as a function of its rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlsysopt.compile.linear.decide import Prices, settle
from mlsysopt.compile.linear.grid import MOST_ROWS, Grid, grid
from mlsysopt.compile.linear.segments import BASELINE, decision
from mlsysopt.compile.variants.decision import Decision
from mlsysopt.compile.variants.site import Epilogue, Site
from mlsysopt.compile.variants.timing import weight_bytes
from mlsysopt.graph.symbolic import Dim

if TYPE_CHECKING:
    from mlsysopt.compile.variants.machine import MachineProfile
    from mlsysopt.compile.variants.site import Variant
    from mlsysopt.graph.ir import Graph, Op

__all__ = ["decisions", "site_of"]


def decisions(
    graph: Graph,
    *,
    threads: int = 1,
    precision: str = "f32",
    candidates: Sequence[Variant] | None = None,
    profile: MachineProfile | None = None,
    prices: Prices | None = None,
    budget_s: float = 0.0,
    native: bool = True,
) -> dict[str, Decision]:
    """Return op name -> which variant runs for which number of rows, for products whose weights are constant.

    Args:
        graph: The program; ranges and likely sizes of its symbols decide which rows matter.
        threads: Threads that a product may use.
        precision: Lowest precision of the weights: "f32", "bf16" or "int8w".
        candidates: Variants that may run; None takes those of the precision.
        profile: Of this machine; None opens the file that all programs of a user share.
        prices: Another source of times.
        budget_s: Seconds for measuring what prices leave open.
        native: Whether only variants are wanted that generated code can call without Python; a product that none of
            them does gets the others. A product that no variant does at all has no table.
    """
    from mlsysopt.compile.linear.profiling import ProfilePrices, residency
    from mlsysopt.compile.linear.profiling import candidates as of_precision

    sites: dict[str, tuple[Op, Site]] = {}
    for op in graph.ops:
        known = site_of(op, graph, threads=threads)
        if known is not None:
            sites[op.name] = (op, known)
    if not sites:
        return {}
    offered = list(candidates) if candidates is not None else of_precision(precision)
    packed = sum(4 * site.number("N") * site.number("K") for _, site in sites.values())
    source = prices
    together: dict[tuple[Site, Grid], list[str]] = {}
    for name, (op, site) in sites.items():
        together.setdefault((site.at(M=Dim.of("M")), _points(_rows(op), graph)), []).append(name)
    found: dict[str, Decision] = {}
    for (site, points), names in together.items():
        # Variants outside generated code are asked only where they may be needed: a library is tried when it is asked.
        own = [one for one in offered if (one.native or not native) and one.supports(site) is None]
        able = own or [one for one in offered if one.supports(site) is None]
        if len(able) == 1:
            found.update(dict.fromkeys(names, Decision.always(able[0].name)))
        if len(able) < 2:
            continue
        source = source or ProfilePrices.open(profile, residency=residency(packed))
        # Where nothing is known, the user's word counts: the narrowest weights of those that were allowed.
        narrowest = min(able, key=weight_bytes).name
        baseline = BASELINE if any(one.name == BASELINE for one in able) else narrowest
        share = budget_s * len(names) / len(sites)
        (costs,) = settle([site], able, source, points=points, counts=[len(names)], budget_s=share, baseline=baseline)
        found.update(dict.fromkeys(names, decision(costs, baseline=baseline)))
    return {name: found[name] for name in sites if name in found}


def site_of(op: Op, graph: Graph, *, threads: int = 1) -> Site | None:
    """Return the site of an op that multiplies by a constant matrix, None for any other.

    Its M is the product of all leading sizes of the first operand.
    """
    constants = {constant.value for constant in graph.constants}
    if op.kind not in ("linear", "matmul") or op.operands[1] not in constants:
        return None
    weight = op.operands[1].type
    if op.kind == "linear":
        turned = False
    elif weight.rank != 2 or op.attrs["transpose_a"]:
        return None
    else:
        turned = not op.attrs["transpose_b"]
    k, n = weight.shape if turned else weight.shape[::-1]
    if not (k.is_constant and n.is_constant):
        return None
    epilogue = Epilogue(bias=op.kind == "linear" and len(op.operands) == 3)
    return Site.linear(_rows(op), int(n), int(k), dtype=str(weight.dtype), epilogue=epilogue, threads=threads)


def _rows(op: Op) -> Dim:
    return math.prod(op.operands[0].shape[:-1], start=Dim.of(1))


def _points(rows: Dim, graph: Graph) -> Grid:
    """Return the row counts that matter: up to the largest possible, the likely ones with more weight."""
    _, high = graph.facts.range(rows)
    if rows.constant is not None:
        return Grid((max(rows.constant, 1),), (1.0,))
    symbols = sorted(rows.symbols)
    likely: list[int] = []
    if all(graph.facts.likely(name) for name in symbols):
        sizes: list[dict[str, int]] = [{}]
        for name in symbols:
            sizes = [{**one, name: size} for one in sizes for size in graph.facts.likely(name)]
        likely = sorted({max(rows.at(one), 1) for one in sizes})
    return grid(max(min(high or MOST_ROWS, MOST_ROWS), *likely, 1), likely)
