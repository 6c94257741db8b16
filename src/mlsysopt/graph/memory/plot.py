"""The picture of memory: live bytes over the steps of two orders, and where the buffers lie."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mlsysopt.core.quantities import format_bytes
from mlsysopt.core.report.plots import BLUE, GREY, ORANGE

if TYPE_CHECKING:
    from mlsysopt.core.report.svg import Drawing
    from mlsysopt.graph.ir import Graph
    from mlsysopt.graph.memory.liveness import Profile
    from mlsysopt.graph.memory.packing import Packing

__all__ = ["plot_memory"]

_NAMED = 0.04


def plot_memory(graph: Graph, given: Profile, chosen: Profile, packed: Packing) -> Drawing:
    """Draw live bytes of the order as given and of the chosen one, over the arena of the chosen one.

    Args:
        graph: The program.
        given: Profile of the order in which the ops stand.
        chosen: Profile of the order that `packed` belongs to.
        packed: Offsets of the buffers.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import FuncFormatter, MultipleLocator

    from mlsysopt.core.report.svg import from_figure

    figure = Figure(figsize=(7.2, 5.2), layout="constrained")
    top, below = figure.subplots(2, 1, sharex=True, height_ratios=[1, 1.4])
    steps = range(len(chosen.bytes))
    same = given.order == chosen.order
    if not same:
        top.step(
            steps, given.bytes, where="mid", color=GREY, lw=1.2, label=f"as given, {format_bytes(given.peak_bytes)}"
        )
    label = f"{'as given' if same else 'best order'}, {format_bytes(chosen.peak_bytes)}"
    top.step(steps, chosen.bytes, where="mid", color=BLUE, lw=1.6, label=label)
    top.fill_between(steps, chosen.bytes, step="mid", color=BLUE, alpha=0.18, lw=0)
    peak = max(steps, key=chosen.bytes.__getitem__, default=0)
    if chosen.bytes:
        top.annotate(
            f"%{chosen.peak_op}", (peak, chosen.peak_bytes), xytext=(0, 4), textcoords="offset points",
            ha="left" if peak < len(chosen.bytes) / 2 else "right", fontsize=8, color=ORANGE,
        )  # fmt: skip
    top.set_ylim(0, 1.18 * max([given.peak_bytes, chosen.peak_bytes, 1]))
    top.set_ylabel("live")
    top.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, fontsize=8)
    for r, at in zip(packed.rectangles, packed.offsets, strict=True):
        last = min(r.last, len(chosen.bytes) - 1)
        span = last - r.first + 1
        box = Rectangle((r.first - 0.5, at), span, r.size, facecolor=BLUE, alpha=0.35, edgecolor=BLUE, lw=0.4)
        below.add_patch(box)
        if r.size > _NAMED * packed.total_bytes and span > _NAMED * len(chosen.bytes):
            below.text(
                r.first + span / 2 - 0.5, at + r.size / 2, r.name, ha="center", va="center", fontsize=6, clip_on=True
            )
    below.set_xlim(-0.5, max(len(chosen.bytes) - 0.5, 0.5))
    below.set_ylim(0, max(packed.total_bytes, 1) * 1.03)
    below.set_ylabel("place in the arena")
    below.set_xlabel("step")
    for plot in (top, below):
        plot.yaxis.set_major_locator(MultipleLocator(_step(plot.get_ylim()[1])))
        plot.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_bytes(int(value))))
        plot.spines[["top", "right"]].set_visible(False)
        plot.tick_params(labelsize=8)
    alt = f"live bytes of {graph.name} over {len(chosen.bytes)} steps, and the place of each buffer in the arena"
    return from_figure(figure, name="memory", alt=alt)


def _step(top: float) -> int:
    """Return a power of two that cuts an axis of bytes into four to eight parts."""
    return 2 ** max(0, math.floor(math.log2(max(top, 1) / 4)))
