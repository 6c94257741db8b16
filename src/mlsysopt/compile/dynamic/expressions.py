"""From a group of ops to nodes: every stored element followed back to what is loaded.

Free ops vanish into places, ops of the group become nodes, everything else is a load. Nodes know loops by number;
`schedule` decides their order later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

from mlsysopt.compile.dynamic.domain import Arrangement, Place, arrange, operand_place, part_place, reduced_axes
from mlsysopt.compile.dynamic.indices import HERE, Index, Refused, SplitLoop
from mlsysopt.compile.dynamic.nodes import Expr, Expressions, Gathered, Load, NodeTable, Root, Window, in_order
from mlsysopt.compile.dynamic.prepare import Prepared
from mlsysopt.compile.dynamic.roles import REDUCTIONS, Role, is_copy, node_op, weight
from mlsysopt.compile.dynamic.strides import same
from mlsysopt.compile.dynamic.views import View
from mlsysopt.graph.ir import Op, Value
from mlsysopt.graph.symbolic import Dim, multiplied

__all__ = ["express", "visible"]

_ZERO = Dim.of(0)


def visible(ops: Sequence[int], prepared: Prepared, inlined: frozenset[int], *, loads: bool = False) -> list[Op]:
    """Return the ops of a group with the free ones that lie between and before them, in the order of the program.

    Args:
        ops: Numbers of the ops.
        prepared: The program.
        inlined: Numbers of ops that are computed wherever they are read.
        loads: Whether free ops count that are nothing but another way to look at memory.
    """
    graph, roles, layouts = prepared.graph, prepared.roles, prepared.layouts
    found = set(ops)
    known: dict[int, bool] = {}

    def followed(value: Value) -> bool:
        """Add what is computed of what stands behind a value; return whether anything is."""
        op = graph.producer(value)
        if op is None:
            return False
        i = prepared.numbers[op.name]
        if i in found and i not in known:
            return True
        if i not in known:
            free = roles[op.name] is Role.FREE
            if not free and i not in inlined:
                return False
            computed = [followed(one) for one in op.operands]
            known[i] = any(computed) or not free or not op.operands or layouts.view(value) is None
            if known[i] or loads:
                found.add(i)
        return known[i]

    for i in ops:
        for value in graph.ops[i].operands:
            followed(value)
    return [graph.ops[i] for i in sorted(found)]


def express(
    ops: Sequence[int],
    roots: Sequence[Value],
    prepared: Prepared,
    inlined: frozenset[int],
    sizes: Mapping[str, int],
) -> Expressions:
    """Turn a group of ops into nodes.

    Args:
        ops: Numbers of the ops.
        roots: Values that are stored.
        prepared: The program.
        inlined: Numbers of ops that are computed wherever they are read.
        sizes: Typical sizes of the symbols.

    Raises:
        Refused: one kernel cannot do it.
    """
    seen = visible(ops, prepared, inlined)
    beyond = visible(ops, prepared, inlined, loads=True) if len(roots) > 1 else seen
    arrangement = arrange(seen, beyond, roots, prepared.roles, sizes, prepared.graph.facts)
    while True:
        writer = _Writer(arrangement, seen, frozenset(prepared.graph.ops[i].name for i in ops), prepared, sizes)
        try:
            return writer.express(roots)
        except SplitLoop as wish:
            arrangement.split(wish)


class _Writer:
    def __init__(
        self,
        arrangement: Arrangement,
        seen: Sequence[Op],
        inside: frozenset[str],
        prepared: Prepared,
        sizes: Mapping[str, int],
    ) -> None:
        self.sizes = sizes
        self.arrangement, self.inside, self.prepared = arrangement, inside, prepared
        self.facts = prepared.graph.facts
        self.row = frozenset(arrangement.row)
        self.seen = {op.name for op in seen}
        self.table = NodeTable(self.facts)
        self.known: dict[tuple[str, Place, tuple[Window, ...]], int] = {}
        self.folded: dict[str, tuple[Place, tuple[Window, ...]]] = {}
        self.places: dict[str, set[Place]] = {}
        self.reductions: list[int] = []
        self.prices: dict[str, int] = {}

    def express(self, roots: Sequence[Value]) -> Expressions:
        done = [self._root(root) for root in roots]
        return Expressions(self.arrangement, self.table.nodes, done, self.reductions, self.table.pinned)

    def _root(self, root: Value) -> Root:
        at = self.arrangement.at[root.name]
        self._check_cover(root, at)
        node = self.value(root, at, ())
        return Root(root, node, self._address(self.prepared.layouts[root], at, ()))

    def _check_cover(self, root: Value, at: Place) -> None:
        """Make sure that the loops visit each element of a result once."""
        seen: set[int] = set()
        for size, index in zip(root.shape, at, strict=True):
            step = Dim.of(1)
            remaining = dict(index.terms)
            while remaining:
                loop = next((one for one, factor in remaining.items() if self._equal(factor, step)), None)
                if loop is None or loop in seen:
                    raise Refused(f"%{root.name} is not visited once by the loops")
                seen.add(loop)
                del remaining[loop]
                step = step * self.arrangement.loops[loop]
            if index.constant != 0 or not (step == size or self._equal(step, size)):
                raise Refused(f"%{root.name} is not covered by the loops", f"{size} = {step}")
        missing = [loop for loop in self.arrangement.loops if loop not in seen]
        if any(loop not in self.row for loop in missing):
            raise Refused(f"%{root.name} is smaller than the loops")
        if missing and len(missing) != len(self.row):
            raise Refused(f"%{root.name} varies along a part of the row")

    def _equal(self, a: Dim, b: Dim) -> bool:
        return same(a, b, self.facts)

    # values

    def value(self, value: Value, at: Place, windows: tuple[Window, ...]) -> int:
        """Return the node of a value at a place."""
        key = (value.name, at, windows)
        found = self.known.get(key)
        if found is None:
            found = self.known[key] = self._value(value, at, windows)
        return found

    def _value(self, value: Value, at: Place, windows: tuple[Window, ...]) -> int:
        op = self.prepared.graph.producer(value)
        if op is None or op.name not in self.seen:
            return self._load(value, at, windows)
        return self._computed(op, value, at, windows)

    def _computed(self, op: Op, value: Value, at: Place, windows: tuple[Window, ...]) -> int:
        kind = op.kind
        if op.name in self.inside:
            self._count(op, at)
        if kind == "split":
            return self.value(op.operands[0], part_place(op, value, at), windows)
        if kind == "full":
            return self.table.const(cast("float", op.attrs["value"]), value.type.dtype.name)
        if kind == "size":
            return self.table.size(cast("Dim", op.attrs["dim"]))
        if kind == "iota":
            return self.table.cast_to(self.table.counter(at[cast("int", op.attrs["axis"])]), value.type.dtype.name)
        if kind == "pad":
            return self._padded(op, at, windows)
        if kind == "concat":
            return self._joined(op, at, windows)
        if kind in ("gather", "gather_elements", "embedding"):
            return self._gathered(op, at, windows)
        if self.prepared.roles[op.name] is Role.REDUCTION:
            return self._folded(op, at, windows)
        loops = self.arrangement.loops
        args = tuple(
            self.value(x, operand_place(op, number, at, loops, self.facts), windows)
            for number, x in enumerate(op.operands)
        )
        if self.prepared.roles[op.name] is Role.FREE or is_copy(op) or kind in REDUCTIONS:
            return args[0]
        if kind == "cast":
            return self.table.cast_to(args[0], value.type.dtype.name)
        return self.table.add(Expr(node_op(op), args, value.type.dtype.name))

    def _count(self, op: Op, at: Place) -> None:
        """Refuse to do work more often than alone, unless it costs about as much as to read what it makes."""
        places = self.places.setdefault(op.name, set())
        places.add(at)
        if len(places) > 1 and (len(places) > _PLACES or self._price(op) > _CHEAP):
            raise Refused(f"%{op.name} would be computed {len(places)} times over")
        if len(self.inside) == 1:
            return
        seen = frozenset[int]().union(*(index.loops for index in at)) if at else frozenset[int]()
        lost = [loop for loop in self.arrangement.loops if loop not in seen and loop not in self._inner]
        # What stays the same along the row is computed once for it.
        shared = 1 if seen & self._inner else max((self.typical(loop) for loop in self._inner), default=1)
        if lost and self._price(op) > _CHEAP * max(shared // _CHEAP, 1):
            raise Refused(f"%{op.name} would be computed again for each of {self.arrangement.loops[lost[0]]}")

    def typical(self, loop: int) -> int:
        return self.arrangement.loops[loop].at(self.sizes)

    def _price(self, op: Op) -> int:
        """Return what an op costs with all that it needs of this kernel, against an addition."""
        if self.prepared.roles[op.name] is Role.REDUCTION:
            return _NEVER
        found = self.prices.get(op.name)
        if found is None:
            makers = [self.prepared.graph.producer(value) for value in op.operands]
            found = sum(self._price(one) for one in makers if one is not None and one.name in self.seen)
            if self.prepared.roles[op.name] is not Role.FREE and not is_copy(op):
                found += weight(node_op(op))
            self.prices[op.name] = found
        return found

    @property
    def _inner(self) -> frozenset[int]:
        """Loops along which a value may stay the same at no cost: it is computed once for each row."""
        if self.row:
            return self.row
        return frozenset({max(self.arrangement.loops)}) if self.arrangement.loops else frozenset()

    # moves

    def _load(self, value: Value, at: Place, windows: tuple[Window, ...], outside: float = 0.0) -> int:
        load = self._address(self.prepared.layouts[value], at, windows, outside)
        return self.table.add(Expr("load", (), value.type.dtype.name, load=load))

    def _address(self, view: View, at: Place, windows: tuple[Window, ...], outside: float = 0.0) -> Load:
        place = Index((), view.offset)
        for index, stride in zip(at, view.strides, strict=True):
            place = place.plus(index.times(stride))
        return Load(view.base, place, (), windows, outside)

    def _mirrored(self, op: Op, at: Place, windows: tuple[Window, ...]) -> int:
        """Return a padding by elements of the tensor itself: outside, an index is bent back into it."""
        x, mirror = op.operands[0], op.attrs["mode"] == "reflect"
        self._check_complete(x)
        view, rest, parts = self.prepared.layouts[x], list(at), list[Gathered]()
        for axis, (before, after) in enumerate(cast("tuple[tuple[int, int], ...]", op.attrs["padding"])):
            if not before and not after:
                continue
            last = self.table.size(x.shape[axis] - 1)
            node = self.table.counter(at[axis].shifted(Dim.of(-before)))
            if mirror:
                node = self.table.add(Expr("abs", (node,), "i64"))
                twice = self.table.size((x.shape[axis] - 1) * 2)
                node = self.table.add(Expr("minimum", (node, self.table.add(Expr("sub", (twice, node), "i64"))), "i64"))
            else:
                low = self.table.add(Expr("maximum", (node, self.table.const(0, "i64")), "i64"))
                node = self.table.add(Expr("minimum", (low, last), "i64"))
            parts.append(Gathered(node, view.strides[axis], x.shape[axis]))
            rest[axis] = HERE
        load = replace(self._address(view, tuple(rest), windows), gathered=tuple(parts))
        return self.table.add(Expr("load", tuple(part.node for part in parts), x.type.dtype.name, load=load))

    def _check_complete(self, value: Value) -> None:
        """Refuse to read elements of a value that this very kernel makes in any order."""
        op = self.prepared.graph.producer(value)
        if op is not None and op.name in self.seen:
            if op.name in self.inside:
                raise Refused(f"%{value.name} must be complete before it is looked up")
            for one in op.operands:
                self._check_complete(one)

    def _padded(self, op: Op, at: Place, windows: tuple[Window, ...]) -> int:
        if op.attrs["mode"] != "constant":
            return self._mirrored(op, at, windows)
        x, number = op.operands[0], cast("float", op.attrs["value"])
        within, more = None, windows
        for axis, (before, after) in enumerate(cast("tuple[tuple[int, int], ...]", op.attrs["padding"])):
            if before or after:
                low, high = Dim.of(before), x.shape[axis] + before
                here, window = self._inside(
                    op, at[axis], low if before else None, high if after else None, x.shape[axis]
                )
                within = here if within is None else self.table.add(Expr("and", (within, here), "bool"))
                more = (*more, window)
        node = self.value(x, operand_place(op, 0, at, self.arrangement.loops, self.facts), in_order(more))
        if within is None:
            return node
        other = self.table.const(number, x.type.dtype.name)
        load = self.table.nodes[node].load
        if load is not None and not windows and not load.gathered:
            return self.table.add(replace(self.table.nodes[node], load=replace(load, outside=number)))
        return self.table.add(Expr("where", (within, node, other), x.type.dtype.name))

    def _joined(self, op: Op, at: Place, windows: tuple[Window, ...]) -> int:
        axis = cast("int", op.attrs["axis"])
        ends: list[Dim] = []
        for x in op.operands:
            ends.append((ends[-1] if ends else _ZERO) + x.shape[axis])
        last = len(op.operands) - 1
        found: int | None = None
        for number in range(last, -1, -1):
            x = op.operands[number]
            start = ends[number] - x.shape[axis]
            here, window = self._inside(op, at[axis], None, ends[number], x.shape[axis], start)
            place = operand_place(op, number, at, self.arrangement.loops, self.facts)
            node = self.value(x, place, in_order((*windows, window)))
            found = node if found is None else self.table.add(Expr("where", (here, node, found), x.type.dtype.name))
        assert found is not None
        return found

    def _inside(
        self, op: Op, index: Index, low: Dim | None, high: Dim | None, size: Dim, start: Dim | None = None
    ) -> tuple[int, Window]:
        """Return whether an index lies between two limits as a node, and as a window of its loop."""
        loop = index.only
        begin = start if start is not None else (low if low is not None else _ZERO)
        if loop is None:
            if index.terms:
                raise Refused(f"{op.kind} along an axis that several loops share")
            raise Refused(f"{op.kind} along an axis at one place")
        counter = self.table.counter(index)
        found: int | None = None
        for kind, limit in (("ge", low), ("lt", high)):
            if limit is not None:
                one = self.table.add(Expr(kind, (counter, self.table.size(limit)), "bool"))
                found = one if found is None else self.table.add(Expr("and", (found, one), "bool"))
        assert found is not None
        shift = index.constant
        self.table.pinned.add(loop)
        return found, Window(loop, begin - shift, begin + size - shift)

    def _gathered(self, op: Op, at: Place, windows: tuple[Window, ...]) -> int:
        x, indices = op.operands
        self._check_complete(x)
        axis = 0 if op.kind == "embedding" else cast("int", op.attrs["axis"])
        where = operand_place(op, 1, at, self.arrangement.loops, self.facts) if op.kind != "gather_elements" else at
        node = self.table.cast_to(self.value(indices, where, windows), "i64")
        size = x.shape[axis]
        if op.kind == "embedding":
            # Numbers count from the front only; one below 0 is sent outside, where it is found out.
            low = self.table.add(Expr("lt", (node, self.table.const(0, "i64")), "bool"))
            node = self.table.add(Expr("where", (low, self.table.size(size), node), "i64"))
        if op.kind == "gather_elements":
            rest = (*at[:axis], HERE, *at[axis + 1 :])
        elif op.kind == "gather":
            rest = (*at[:axis], HERE, *at[axis + indices.type.rank :])
        else:
            rest = (HERE, *at[indices.type.rank :])
        view = self.prepared.layouts[x]
        load = self._address(view, rest, windows)
        found = replace(load, gathered=(Gathered(node, view.strides[axis], size),))
        return self.table.add(Expr("load", (node,), x.type.dtype.name, load=found))

    # reductions and atoms

    def _folded(self, op: Op, at: Place, windows: tuple[Window, ...]) -> int:
        seen = frozenset[int]().union(*(index.loops for index in at)) if at else frozenset[int]()
        if seen & self.row:
            raise Refused(f"{op.kind} %{op.name} is read along its own row")
        if windows:
            raise Refused(f"{op.kind} %{op.name} would be read through a window")
        place = self.arrangement.folded(op, at, self.facts)
        x = op.operands[0]
        node = self.value(x, place, windows)
        kind = "sum" if op.kind == "mean" else op.kind
        level = self.table.nodes[node].level + 1
        total = self.table.add(Expr(kind, (node,), op.result.type.dtype.name, loops=seen, level=level))
        if total not in self.reductions:
            self.reductions.append(total)
        if op.kind != "mean":
            return total
        dtype = op.result.type.dtype
        count = self.table.size(multiplied(x.shape[axis] for axis in reduced_axes(op)))
        # 16 bits hold no large numbers: halves are divided by an f32, which is what they are in registers.
        wide = dtype.name if dtype.bytes > 2 else "f32"
        return self.table.add(Expr("div", (total, self.table.cast_to(count, wide)), dtype.name))


_CHEAP = 4
_NEVER = 1 << 40
_PLACES = 4
