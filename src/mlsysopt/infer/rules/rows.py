"""Where a variable is a set of chains: each row starts in one cell, and every other cell reads the one before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mlsysopt.infer.analysis.blanket import Blanket
from mlsysopt.infer.analysis.mentions import mentions, shift_of
from mlsysopt.infer.ir import Call, Expr, Get, Guard, Index, Loop, Site, substitute
from mlsysopt.infer.rules.finite import same, shifted, uses
from mlsysopt.infer.rules.protocol import Refusal

__all__ = ["Row", "row_of"]


@dataclass(frozen=True, slots=True)
class Row:
    """The shape of one chain.

    Attributes:
        outer: Loops over chains.
        time: Loop along a chain; it draws cell `index + shift`.
        axis: Dimension of time.
        shift: See `time`.
        guards: Conditions on whole rows.
        starts: Sites of the first cell, in front of the loop, their loops named as the row's; none where the loop
            itself draws it.
        steps: Sites of the loop: under their guards, one of them draws each cell.
        before: For each step, its read of the neighbour; None where a step reads none and so starts anew.
    """

    outer: tuple[Loop, ...]
    time: Loop
    axis: int
    shift: int
    guards: tuple[Guard, ...]
    starts: tuple[Site, ...]
    steps: tuple[Site, ...]
    before: tuple[Get | None, ...]

    @property
    def loops(self) -> tuple[Loop, ...]:
        """All loops, time innermost."""
        return (*self.outer, self.time)

    def cell(self, back: int = 0) -> tuple[Expr, ...]:
        """Return the cell that the loop draws, or one before it."""
        at = self.steps[0].at
        return tuple(shifted(one, -back) if axis == self.axis else one for axis, one in enumerate(at))


def row_of(blanket: Blanket) -> Row | Refusal:
    """Return the chains that a variable's own sites make, or why they make none."""
    name = blanket.variable.name
    own = blanket.own
    reads = {site.number: tuple(dict.fromkeys(one.get for one in mentions(site, name))) for site in own}
    moving = [site for site in own if reads[site.number]]
    if not moving:
        return Refusal("no cell of it depends on the one before", own[0].line)
    first = moving[0]
    for site in moving:
        if len(reads[site.number]) > 1:
            return Refusal(f"{len(reads[site.number])} of its cells are read in the prior of another one", site.line)
    found = _time(first, reads[first.number][0])
    if isinstance(found, Refusal):
        return found
    time, axis, shift = found
    inner = first.loops[first.loops.index(time) + 1 :]
    if any(uses(bound, {time.index}) for loop in inner for bound in (loop.low, loop.high)):
        return Refusal(f"{inner[-1]} lies inside of the loop over time and depends on it", first.line)
    outer = tuple(loop for loop in first.loops if loop != time)
    steps = [site for site in own if [one.number for one in site.loops] == [one.number for one in first.loops]]
    for site in steps:
        if site.at != first.at:
            return Refusal("two lines of one loop draw different cells of it", site.line)
        if reads[site.number] and reads[site.number] != reads[first.number]:
            return Refusal("a cell depends on others than the one before", site.line)
    for site in moving:
        if site not in steps:
            return Refusal(
                f"cells depend on the one before in two loops (the other one at line {first.line})", site.line
            )
    starts: list[Site] = []
    for site in own:
        if site in steps:
            continue
        start = _renamed(site, outer)
        wanted = tuple(shifted(time.low, shift - 1) if i == axis else one for i, one in enumerate(first.at))
        if start is None or not all(same(a, b) for a, b in zip(start.at, wanted, strict=True)):
            return Refusal(
                f"it draws neither a cell of the loop at line {time.line} nor the one in front of it", site.line
            )
        starts.append(start)
    if not starts and len(moving) == len(steps):
        return Refusal("its first cell is not drawn", first.line)
    common = tuple(
        guard for guard in first.guards
        if not uses(guard.condition, {time.index}) and all(_has(site, guard) for site in (*starts, *steps))
    )  # fmt: skip
    starts = [_without(site, common) for site in starts]
    steps = [_without(site, common) for site in steps]
    for some in (starts, steps):
        if some and not _complete([[guard.condition for guard in site.guards] for site in some]):
            return Refusal("a condition leaves out some of its cells", some[0].line)
    before = tuple(next(iter(reads[site.number]), None) for site in steps)
    return Row(outer, time, axis, shift, common, tuple(starts), tuple(steps), before)


def _time(site: Site, get: Get) -> tuple[Loop, int, int] | Refusal:
    """Return loop, axis and shift of the time of a site that reads another cell."""
    different = [axis for axis, (a, b) in enumerate(zip(site.at, get.at, strict=True)) if not same(a, b)]
    if len(different) != 1:
        return Refusal(f"{Get(site.variable, site.at)} depends on {get}, which is not the cell before it", site.line)
    axis = different[0]
    own, other = shift_of(site.at[axis], site.loops), shift_of(get.at[axis], site.loops)
    if own is None or other is None or own[0] != other[0]:
        return Refusal(f"{Get(site.variable, site.at)} depends on {get}, at a distance that is not known", site.line)
    if own[1] - other[1] != 1:
        return Refusal(f"{Get(site.variable, site.at)} depends on {get}, at distance {own[1] - other[1]}", site.line)
    time = next(loop for loop in site.loops if loop.index == own[0])
    if time.step != 1:
        return Refusal(f"the loop over {time} does not go from cell to cell", site.line)
    if any(uses(one, {time.index}) for i, one in enumerate(site.at) if i != axis):
        return Refusal(f"{Index(time.index)} is the index of two dimensions", site.line)
    return time, axis, own[1]


def _renamed(site: Site, outer: Sequence[Loop]) -> Site | None:
    """Return a site with the indices of other loops that run over the same; None where they do not."""
    if len(site.loops) != len(outer):
        return None
    new: dict[Expr, Expr] = {Index(a.index): Index(b.index) for a, b in zip(site.loops, outer, strict=True)}
    for a, b in zip(site.loops, outer, strict=True):
        if (substitute(a.low, new), substitute(a.high, new), a.step) != (b.low, b.high, b.step):
            return None
    return replace(site.replaced(new), loops=tuple(outer))


def _has(site: Site, guard: Guard) -> bool:
    return any(one.condition == guard.condition for one in site.guards)


def _without(site: Site, common: Sequence[Guard]) -> Site:
    gone = {guard.condition for guard in common}
    return replace(site, guards=tuple(one for one in site.guards if one.condition not in gone))


def _complete(conditions: Sequence[Sequence[Expr]]) -> bool:
    """Whether exactly one of several lists of conditions holds whatever the data are, as in `if ... elif ... else`."""
    if any(not one for one in conditions):
        return len(conditions) == 1
    if not conditions:
        return False
    asked = conditions[0][0]
    if isinstance(asked, Call) and asked.function == "not":
        asked = asked.args[0]
    yes = [one[1:] for one in conditions if one[0] == asked]
    no = [one[1:] for one in conditions if one[0] == Call("not", (asked,))]
    return len(yes) + len(no) == len(conditions) and _complete(yes) and _complete(no)
