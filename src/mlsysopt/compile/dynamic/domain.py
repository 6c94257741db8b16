"""How the places of results and operands of an op hang together, and from that the loops of a group of ops."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from mlsysopt.compile.dynamic.indices import HERE, Index, Refused, SplitLoop, reindexed
from mlsysopt.compile.dynamic.roles import REDUCTIONS, Role, is_copy
from mlsysopt.compile.dynamic.strides import same
from mlsysopt.compile.dynamic.views import part_start
from mlsysopt.graph.facts import Answer, Facts
from mlsysopt.graph.ir import Op, Value
from mlsysopt.graph.symbolic import Dim, minimum, multiplied

__all__ = ["Arrangement", "Place", "arrange", "operand_place", "reduced_axes"]

_ZERO, _ONE = Dim.of(0), Dim.of(1)
Place = tuple[Index, ...]
"""Where a kernel stands in a value: an index for each axis."""


def reduced_axes(op: Op) -> tuple[int, ...]:
    return cast("tuple[int, ...]", op.attrs["axes"])


def operand_place(op: Op, number: int, at: Place, loops: Mapping[int, Dim], facts: Facts) -> Place:
    """Return where an operand is read for a place in the (first) result; of a reduction, without its own loops.

    Gathers are no business of this: their first operand is read where data says.

    Raises:
        SplitLoop, Refused: as `indices.cut` does.
    """
    x, result = op.operands[number], op.results[0]
    if op.kind == "reshape":
        return at if is_copy(op) else reindexed(at, result.shape, x.shape, loops, facts)
    if op.kind == "transpose":
        found = list(at)
        for axis, index in zip(cast("tuple[int, ...]", op.attrs["perm"]), at, strict=True):
            found[axis] = index
        return tuple(found)
    if op.kind == "slice":
        starts, steps = cast("tuple[Dim, ...]", op.attrs["starts"]), cast("tuple[int, ...]", op.attrs["strides"])
        return tuple(i.times(Dim.of(k)).shifted(s) for i, s, k in zip(at, starts, steps, strict=True))
    if op.kind == "flip":
        axes = cast("tuple[int, ...]", op.attrs["axes"])
        minus = Dim.of(-1)
        return tuple(i.times(minus).shifted(x.shape[a] - 1) if a in axes else i for a, i in enumerate(at))
    if op.kind == "pad":
        padding = cast("tuple[tuple[int, int], ...]", op.attrs["padding"])
        return tuple(index.shifted(Dim.of(-before)) for index, (before, _) in zip(at, padding, strict=True))
    if op.kind == "concat":
        axis = cast("int", op.attrs["axis"])
        start = sum((value.shape[axis] for value in op.operands[:number]), _ZERO)
        return (*at[:axis], at[axis].shifted(-start), *at[axis + 1 :])
    if op.kind == "gather":
        axis = cast("int", op.attrs["axis"])
        return at[axis : axis + x.type.rank]
    if op.kind == "embedding":
        return at[: x.type.rank]
    if op.kind in REDUCTIONS:
        axes, kept = reduced_axes(op), iter(at)
        if cast("bool", op.attrs["keepdims"]):
            kept = (index for i, index in enumerate(at) if i not in axes)
        return tuple(HERE if i in axes else next(kept) for i in range(x.type.rank))
    return _broadcast(x, result, at, facts)


def _broadcast(x: Value, result: Value, at: Place, facts: Facts) -> Place:
    lead = result.type.rank - x.type.rank
    return tuple(
        _along(size, wanted, index, facts)
        for size, wanted, index in zip(x.shape, result.shape[lead:], at[lead:], strict=True)
    )


def _along(size: Dim, wanted: Dim, index: Index, facts: Facts) -> Index:
    if size == 1 and wanted != 1:
        return HERE
    if same(size, wanted, facts) or facts.eq(size, 1) is Answer.NO:
        return index
    # Whether it is 1 comes out at run time: then its elements are all the same one.
    return index.times(minimum(size - 1, 1))


def part_place(op: Op, result: Value, at: Place) -> Place:
    """Return where the operand of a split is read for a place in one of its results."""
    axis = cast("int", op.attrs["axis"])
    return (*at[:axis], at[axis].shifted(part_start(op, result)), *at[axis + 1 :])


def _result_place(op: Op, number: int, at: Place, loops: Mapping[int, Dim], facts: Facts) -> list[Index | None] | None:
    """Return what the place in an operand says of the place in the result, None per axis where it says nothing."""
    x, result = op.operands[number], op.results[0]
    if op.kind == "reshape":
        return list(at if is_copy(op) else reindexed(at, x.shape, result.shape, loops, facts))
    if op.kind == "transpose":
        return [at[axis] for axis in cast("tuple[int, ...]", op.attrs["perm"])]
    if op.kind in ("slice", "flip", "pad", "concat", "split"):
        if len(op.results) > 1:
            return None
        return [index if a == b else None for index, a, b in zip(at, x.shape, result.shape, strict=True)]
    if op.kind == "gather":
        axis = cast("int", op.attrs["axis"])
        behind = result.type.rank - axis - x.type.rank
        return [*[None] * axis, *at, *[None] * behind] if number == 1 else None
    if op.kind == "embedding":
        return [*at, *[None] * (result.type.rank - len(at))] if number == 1 else None
    lead = result.type.rank - x.type.rank
    known: list[Index | None] = [None] * lead
    for size, wanted, index in zip(x.shape, result.shape[lead:], at, strict=True):
        known.append(HERE if wanted == 1 else None if size == 1 else index)
    return known


@dataclass
class Arrangement:
    """Loops for a group of ops, and where each of its values stands in them.

    Attributes:
        loops: Size of each loop.
        row: The loops that reductions fold, outermost first; () when nothing is folded.
        at: Value -> place, by name.
    """

    loops: dict[int, Dim]
    row: tuple[int, ...]
    at: dict[str, Place]

    def split(self, wish: SplitLoop) -> None:
        """Make two loops of one."""
        size = self.loops.pop(wish.loop)
        outer = max((*self.loops, wish.loop), default=0) + 1
        inner = outer + 1
        self.loops[outer], self.loops[inner] = size // wish.inner, wish.inner
        self.at = {
            name: tuple(index.split(wish.loop, outer, inner, wish.inner) for index in place)
            for name, place in self.at.items()
        }
        self.row = tuple(loop for one in self.row for loop in ((outer, inner) if one == wish.loop else (one,)))

    def folded(self, op: Op, at: Place, facts: Facts) -> Place:
        """Return where a reduction reads its operand: the place in its result, the row's loops along its axes.

        Raises:
            Refused: its axes are not the row.
        """
        x, axes = op.operands[0], reduced_axes(op)
        known = self.at.get(x.name)
        place = list(operand_place(op, 0, at, self.loops, facts))
        if known is not None and all(i in axes or known[i] == place[i] for i in range(x.type.rank)):
            found = known
        else:
            lines = [self.loops[loop] for loop in self.row]
            sizes = [x.shape[axis] for axis in axes]
            along = (
                reindexed([Index.loop(loop) for loop in self.row], lines, sizes, self.loops, facts)
                if self._fits(multiplied(sizes), facts)
                else ()
            )
            for axis, index in zip(axes, along, strict=False):
                place[axis] = index
            found = tuple(place)
        seen = frozenset[int]().union(*(found[axis].loops for axis in axes))
        if seen != frozenset(self.row):
            rows = " x ".join(str(self.loops[loop]) for loop in self.row) or "1"
            raise Refused(
                f"{op.kind} folds another row",
                f"{' * '.join(str(x.shape[axis]) for axis in axes) or '1'} = {rows}",
            )
        return found

    def _fits(self, size: Dim, facts: Facts) -> bool:
        return same(size, multiplied(self.loops[loop] for loop in self.row), facts)


def arrange(
    ops: Sequence[Op],
    beyond: Sequence[Op],
    roots: Sequence[Value],
    roles: Mapping[str, Role],
    sizes: Mapping[str, int],
    facts: Facts,
) -> Arrangement:
    """Find loops for ops, and the place of each of their values in them.

    Args:
        ops: What a kernel computes, with the free ops between, in order.
        beyond: The same with all free ops before them: they tell how results hang together that share loads only.
        roots: Values that it stores.
        roles: As `roles_of` gives them.
        sizes: Typical sizes of the symbols.
        facts: What is known of the sizes.

    Raises:
        Refused: the results of the kernel are not stored by one set of loops.
    """

    def elements(value: Value) -> int:
        return multiplied(value.shape).at(sizes)

    folds = [op for op in ops if roles[op.name] is Role.REDUCTION]
    if folds:
        first = max(folds, key=lambda op: (elements(op.operands[0]), len(reduced_axes(op))))
        reference, axes = first.operands[0], reduced_axes(first)
    else:
        reference, axes = max(roots, key=elements), ()
    loops: dict[int, Dim] = {}
    place: list[Index] = []
    row: list[int] = []
    for i, size in enumerate(reference.shape):
        if size == 1:
            place.append(HERE)
            continue
        loops[i] = size
        place.append(Index.loop(i))
        if i in axes:
            row.append(i)
    found = Arrangement(loops, tuple(row), {reference.name: tuple(place)})
    _spread(found, ops, roles, facts)
    if any(root.name not in found.at for root in roots):
        _spread(found, beyond, roles, facts, split=False)
    for root in roots:
        if root.name not in found.at:
            found.at[root.name] = _matched(root, found, facts)
    return found


def _spread(
    found: Arrangement, ops: Sequence[Op], roles: Mapping[str, Role], facts: Facts, *, split: bool = True
) -> None:
    """Follow ops up and down from what has a place until nothing new is found."""
    while True:
        before = len(found.at)
        for op in reversed(ops):
            _retried(found, lambda one=op: _up(found, one, roles, facts), split)
        for op in ops:
            _retried(found, lambda one=op: _down(found, one, roles, facts), split)
        if len(found.at) == before:
            return


def _retried(found: Arrangement, step: Callable[[], None], split: bool) -> None:
    while True:
        try:
            return step()
        except SplitLoop as wish:
            if not split:
                return None
            found.split(wish)
        except Refused:
            return None


def _up(found: Arrangement, op: Op, roles: Mapping[str, Role], facts: Facts) -> None:
    for result in op.results:
        at = found.at.get(result.name)
        if at is None:
            continue
        for number, x in enumerate(op.operands):
            if x.name in found.at or not _is_whole(op, number, result, facts):
                continue
            if roles[op.name] is Role.REDUCTION:
                found.at[x.name] = found.folded(op, at, facts)
            else:
                found.at[x.name] = operand_place(op, number, at, found.loops, facts)


def _is_whole(op: Op, number: int, result: Value, facts: Facts) -> bool:
    """Whether places in a result visit each element of an operand, and nothing else."""
    x = op.operands[number]
    if op.kind in ("gather", "gather_elements", "embedding"):
        return number == 1
    if op.kind in ("slice", "split", "pad", "concat"):
        return all(same(a, b, facts) for a, b in zip(x.shape, result.shape, strict=True)) and len(op.results) == 1
    if op.kind in ("reshape", "transpose", "flip", *REDUCTIONS):
        return True
    lead = result.type.rank - x.type.rank
    return all(a == 1 or same(a, b, facts) for a, b in zip(x.shape, result.shape[lead:], strict=True))


def _down(found: Arrangement, op: Op, roles: Mapping[str, Role], facts: Facts) -> None:
    result = op.results[0]
    if result.name in found.at or len(op.results) > 1:
        return
    known: list[Index | None] = [HERE if size == 1 else None for size in result.shape]
    for number, x in enumerate(op.operands):
        at = found.at.get(x.name)
        if at is None:
            continue
        if op.kind in REDUCTIONS:
            axes, keep = reduced_axes(op), cast("bool", op.attrs["keepdims"])
            known = [HERE if i in axes else index for i, index in enumerate(at) if keep or i not in axes]
            continue
        said = _result_place(op, number, at, found.loops, facts)
        if said is not None:
            known = [old if old is not None else new for old, new in zip(known, said, strict=True)]
    if all(index is not None for index in known):
        found.at[result.name] = tuple(index for index in known if index is not None)


def _matched(root: Value, found: Arrangement, facts: Facts) -> Place:
    """Give a root that hangs together with nothing the loops of its sizes, in order."""
    free = [loop for loop in found.loops if loop not in found.row]
    place: list[Index] = []
    for size in root.shape:
        if size == 1:
            place.append(HERE)
            continue
        fitting = next((loop for loop in free if same(found.loops[loop], size, facts)), None)
        if fitting is None:
            open_ = [found.loops[loop] for loop in free if facts.eq(found.loops[loop], size) is Answer.UNKNOWN]
            likely = [one for one in open_ if not one.is_constant] or open_
            fact = f"{size} = {' or '.join(dict.fromkeys(map(str, likely)))}" if likely else ""
            raise Refused("the loops of the results differ", fact)
        free.remove(fitting)
        place.append(Index.loop(fitting))
    return tuple(place)
