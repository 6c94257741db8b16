"""What `mlsysopt graph memory` prints and draws."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlsysopt.cli.documents import Document, table
from mlsysopt.core.errors import UsageError
from mlsysopt.core.quantities import format_bytes
from mlsysopt.graph import Graph, memory
from mlsysopt.graph.memory.plot import plot_memory

__all__ = ["memory_of"]


def memory_of(
    program: Graph,
    sizes: Mapping[str, int],
    *,
    best: bool,
    weights: bool,
    plot: Path | None,
    seconds: float,
    require_exact: bool,
) -> Document:
    """Describe peak, order, offsets; draw live bytes over the steps."""
    counted = memory.Accounting(weights=weights)
    formula = memory.peak(program, accounting=counted)
    missing = [name for name in program.symbols if name not in sizes]
    if missing:
        if plot is not None or require_exact:
            raise UsageError(f"--at: give sizes for {', '.join(missing)}; a plot and an order need numbers")
        text = f"peak: {formula}\n\nsizes of {', '.join(missing)} are open: --at gives the best order and offsets"
        return Document(text, {"peak": str(formula.formula), "symbols": missing})
    given = memory.profile(program, None, counted, **sizes)
    order = memory.best_order(program, counted, seconds=seconds, **sizes)
    steps = order.ops if best else given.order
    packed = memory.offsets(program, steps, counted, **sizes)
    chosen = memory.profile(program, steps, counted, **sizes)
    waste = packed.total_bytes / packed.lower_bytes - 1 if packed.lower_bytes else 0.0
    proof = "exact" if order.proof == "exact" else f"not proven optimal, at most {order.gap:.1%} above"
    packing = "as small as any packing" if packed.proof == "exact" else f"at most {waste:.1%} above the smallest"
    rows = [
        ["as given", format_bytes(given.peak_bytes), f"peak at %{given.peak_op}"],
        ["best order", format_bytes(order.peak_bytes), f"{_ratio(order)}; {proof}"],
        ["arena", format_bytes(packed.total_bytes), f"{len(packed.rectangles)} buffers; {packing}"],
    ]
    largest = sorted(packed.rectangles, key=lambda one: -one.size)[:5]
    buffers = [[f"%{r.name}", format_bytes(r.size), f"{r.first}..{r.last}"] for r in largest]
    at = ", ".join(f"{name}={size}" for name, size in sizes.items())
    text = "\n".join(
        [
            f"{program.name}{f' at {at}' if at else ''}: {counted}",
            table(["", "bytes", ""], rows),
            f"\npeak as given: {formula}\n\nlargest buffers, {'best order' if best else 'order as given'}",
            table(["value", "bytes", "steps"], buffers),
        ]
    )
    if plot is not None:
        plot.write_text(plot_memory(program, given, chosen, packed).standalone())
        text += f"\n\nplot: {plot}"
    data: dict[str, Any] = {
        "graph": program.name,
        "sizes": dict(sizes),
        "accounting": str(counted),
        "peak_formula": str(formula.formula),
        "default_bytes": given.peak_bytes,
        "peak_op": given.peak_op,
        "best_bytes": order.peak_bytes,
        "lower_bytes": order.lower_bytes,
        "proof": order.proof,
        "order": [program.ops[step].name for step in order.ops],
        "arena_bytes": packed.total_bytes,
        "arena_lower_bytes": packed.lower_bytes,
        "offsets": {name: packed.offset(name) for name in packed.names},
        "live_bytes": list(chosen.bytes),
    }
    return Document(text, data, 4 if require_exact and order.proof != "exact" else 0)


def _ratio(order: memory.Order) -> str:
    if order.peak_bytes == order.default_bytes:
        return "the order as given is as good"
    return f"{order.peak_bytes / order.default_bytes:.2f}x of the order as given"
