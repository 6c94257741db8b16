"""Where values lie: of most only one holds bytes, the others are views of it.

A view is a base, an offset and strides. A value whose reader wants another order is written in that order: the
strides travel from the reader back through transposes and reshapes to the op that makes the elements. Parts of a
concatenation are written to their place in the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from mlsysopt.compile.dynamic.anchors import Anchor, find_anchors
from mlsysopt.compile.dynamic.roles import Role, is_copy, roles_of
from mlsysopt.compile.dynamic.strides import collapsible, dense, refined, restride, same, segments
from mlsysopt.graph.facts import Facts
from mlsysopt.graph.ir import Graph, Op, Value
from mlsysopt.graph.symbolic import Dim

__all__ = ["Layouts", "View", "layout", "readable"]

_ZERO = Dim.of(0)


@dataclass(frozen=True, slots=True)
class View:
    """Where the elements of a value are: `base[offset + sum(index * stride)]`, in elements.

    Attributes:
        base: The value that owns the bytes; it is dense and row-major.
        offset: First element.
        strides: One for each axis; 0 where the value repeats.
    """

    base: Value
    offset: Dim
    strides: tuple[Dim, ...]

    @classmethod
    def whole(cls, value: Value) -> View:
        """Return the view of a value that owns its bytes."""
        return cls(value, _ZERO, dense(value.shape))

    def __str__(self) -> str:
        offset = "" if self.offset == 0 else f" + {self.offset}"
        return f"%{self.base.name}{offset} [{', '.join(map(str, self.strides))}]"


class Layouts:
    """The view of every value of a program that can have one; see `layout`.

    Attributes:
        problems: Operands that lie in no form that their reader takes, as (op name or "" for an output, number).
    """

    def __init__(self, graph: Graph, roles: Mapping[str, Role], anchors: Mapping[str, Anchor]) -> None:
        self.graph = graph
        self.roles = roles
        self.anchors = anchors
        self._writers = {anchor.result: anchor.op for anchor in anchors.values()}
        self._inner = {op.name for anchor in anchors.values() for op in anchor.absorbed}
        self.problems: list[tuple[str, int]] = []
        self._placed: dict[str, View] = {}
        self._known: dict[str, View | None] = {}
        self._settled = False

    def settle(self) -> None:
        """Give parts of concatenations their places; from now on the wholes stay where they are."""
        for op in reversed(self.graph.ops):
            if self.roles[op.name] is Role.PLACED:
                _place_parts(op, self)
        self._settled = True

    def view(self, value: Value) -> View | None:
        """Return where a value lies if it is in memory, None when no strides say it."""
        name = value.name
        if name not in self._known:
            self._known[name] = self._view(value)
        return self._known[name]

    def __getitem__(self, value: Value) -> View:
        found = self.view(value)
        if found is None:
            raise KeyError(f"%{value.name} has no place of its own: no strides say where its elements lie")
        return found

    def is_dense(self, value: Value) -> bool:
        """Whether a value lies row-major without gaps, from the start of its base."""
        view = self.view(value)
        return view is not None and view.offset == 0 and contiguous(value, view, self.graph.facts)

    def _view(self, value: Value) -> View | None:
        if value.name in self._placed:
            return self._placed[value.name]
        op = self.graph.producer(value)
        if op is None or self.roles[op.name] is not Role.FREE:
            return View.whole(value)
        if not op.operands:
            return None  # made wherever it is read
        inner = self.view(op.operands[0])
        return None if inner is None else through(op, value, inner, self.graph.facts)

    def place(self, value: Value, view: View) -> bool:
        """Let a value lie in a view of another one; return whether whoever makes it can write it there."""
        if value.name in self._placed:
            return self._placed[value.name] == view
        op = self.graph.producer(value)
        if op is None:
            return False
        op = self._writers.get(value, op)
        role = self.roles[op.name]
        if role is Role.FREE:
            back = _back(op, view, self.graph.facts)
            return back is not None and self.place(op.operands[0], back)
        if value in self.graph.outputs and view.base is not value:
            return False
        if role is Role.PLACED and self._settled:
            return False  # its parts have their places by now
        if not (role.fuses or role is Role.PLACED or writable(op, value, view, self.graph.facts)):
            return False
        self._placed[value.name] = view
        self._known.clear()
        return True

    def pin(self, value: Value) -> None:
        """Keep a value where it lies: a reader that needs it so has been seen, a later one may need it otherwise."""
        op = self.graph.producer(value)
        while op is not None and self.roles[op.name] is Role.FREE and op.operands:
            value = op.operands[0]
            op = self.graph.producer(value)
        view = self.view(value)
        if op is not None and view is not None:
            self._placed.setdefault(value.name, view)


def layout(
    graph: Graph, roles: Mapping[str, Role] | None = None, anchors: Mapping[str, Anchor] | None = None
) -> Layouts:
    """Decide where every value of a program would lie, if it came to memory.

    Args:
        graph: The program, in primitives.
        roles: As `roles_of` gives them.
        anchors: As `find_anchors` gives them.

    >>> from mlsysopt.graph import Builder, f32
    >>> b = Builder("f")
    >>> x = b.input("x", f32["B", 12, "S", 64])
    >>> y = b.op("reshape", b.op("transpose", b.op("exp", x), perm=(0, 2, 1, 3)), shape=("B", "S", 768), name="y")
    >>> print(layout(b.finish([y])).view(b.finish([y]).value("exp")))
    %y [768*S, 64, 768, 1]
    """
    known = roles if roles is not None else roles_of(graph)
    found = Layouts(graph, known, anchors if anchors is not None else find_anchors(graph, known))
    taken: set[str] = set()
    for number, value in enumerate(graph.outputs):
        if value.name in taken or not found.place(value, View.whole(value)):
            found.problems.append(("", number))
        taken.add(value.name)
    for op in graph.ops:
        for number, value in enumerate(op.operands if found.roles[op.name] is Role.ANCHOR else ()):
            if _is_joined(value, found):
                _comes_to(value, found, lambda view, n=number, o=op: readable(o, n, view, graph.facts))
    found.settle()
    residuals = {(anchor.absorbed[-1].name, anchor.residual) for anchor in found.anchors.values() if anchor.residual}
    for op in graph.ops:
        for number, value in enumerate(op.operands):
            if found.roles[op.name] in (Role.ANCHOR, Role.FOREIGN):
                fits = _comes_to(value, found, lambda view, n=number, o=op: readable(o, n, view, graph.facts))
            elif (op.name, value) in residuals:
                fits = _comes_to(value, found, lambda view, v=value: rows(v, view, graph.facts))
            else:
                fits = _is_within_reach(op, number, found)
            if not fits:
                found.problems.append((op.name, number))
    return found


def _is_joined(value: Value, found: Layouts) -> bool:
    """Whether a concatenation stands behind a value."""
    op = found.graph.producer(value)
    while op is not None and op.kind in ("reshape", "transpose") and found.roles[op.name] is Role.FREE:
        op = found.graph.producer(op.operands[0])
    return op is not None and found.roles[op.name] is Role.PLACED


def _comes_to(value: Value, found: Layouts, fits: Callable[[View], bool]) -> bool:
    """Whether a value lies as its reader needs it; if not yet, it is placed so."""
    view = found.view(value)
    if view is not None and fits(view):
        found.pin(value)
        return True
    wanted = View.whole(value)
    return fits(wanted) and found.place(value, wanted)


def _is_within_reach(op: Op, number: int, found: Layouts) -> bool:
    """Whether a kernel can follow an operand to its elements: no strides say it at one reshape of a chain at most."""
    value = op.operands[number]
    if op.kind in ("gather", "gather_elements", "embedding"):
        return number == 1 or found.view(value) is not None
    if op.kind == "pad" and op.attrs["mode"] != "constant":
        return found.view(value) is not None
    if op.kind not in ("reshape", "slice", "split", "flip", "pad", "concat") or is_copy(op):
        return True
    if not _is_followed(value, found):
        return _one_to_one(op, found.graph.facts)
    if op.kind != "reshape" or found.view(op.result) is not None:
        return True
    facts, target = found.graph.facts, op.result.shape
    return all(
        refined([value.shape[k] for k in left], [target[k] for k in right], facts) is not None
        for left, right in segments(value.shape, target, facts)
    )


def _is_followed(value: Value, found: Layouts) -> bool:
    """Whether a kernel that stands anywhere in a value knows where that is: no reshape cuts axes on the way."""
    op = found.graph.producer(value)
    if op is None or found.roles[op.name] is not Role.FREE or not op.operands or found.view(value) is not None:
        return True
    if op.kind == "reshape" and not _one_to_one(op, found.graph.facts):
        return False
    return _is_followed(op.operands[0], found)


def _one_to_one(op: Op, facts: Facts) -> bool:
    """Whether a reshape only adds and drops axes of size 1."""
    if op.kind != "reshape":
        return False
    pairs = segments(op.operands[0].shape, op.result.shape, facts)
    return all(len(left) == len(right) == 1 for left, right in pairs)


def _place_parts(op: Op, found: Layouts) -> None:
    whole, axis = found[op.result], cast("int", op.attrs["axis"])
    start = _ZERO
    for number, part in enumerate(op.operands):
        place = View(whole.base, whole.offset + start * whole.strides[axis], whole.strides)
        if op.operands.index(part) != number or part in found.graph.outputs or not _sole(part, found, place):
            found.problems.append((op.name, number))
        start = start + part.shape[axis]


def _sole(part: Value, found: Layouts, place: View) -> bool:
    # An axis of size 1 has stride 0 in a view of its own and another one as a part; both are right.
    sizes = zip(part.shape, place.strides, strict=True)
    strides = tuple(_ZERO if size == 1 else stride for size, stride in sizes)
    return found.place(part, View(place.base, place.offset, strides))


def through(op: Op, result: Value, view: View, facts: Facts) -> View | None:
    """Return the view of a result of a free op, given that of its operand."""
    (x,) = op.operands
    if op.kind == "reshape":
        strides = restride(x.shape, view.strides, result.shape, facts)
        return None if strides is None else View(view.base, view.offset, strides)
    if op.kind == "transpose":
        perm = cast("tuple[int, ...]", op.attrs["perm"])
        return View(view.base, view.offset, tuple(view.strides[axis] for axis in perm))
    if op.kind == "broadcast":
        return _broadcast(x, result, view, facts)
    if op.kind == "slice":
        starts, steps = cast("tuple[Dim, ...]", op.attrs["starts"]), cast("tuple[int, ...]", op.attrs["strides"])
        offset = sum((s * k for s, k in zip(starts, view.strides, strict=True)), view.offset)
        scaled = tuple(
            _ZERO if size == 1 else stride * step
            for size, stride, step in zip(result.shape, view.strides, steps, strict=True)
        )
        return View(view.base, offset, scaled)
    if op.kind == "split":
        axis, offset = cast("int", op.attrs["axis"]), part_start(op, result)
        return View(view.base, view.offset + offset * view.strides[axis], view.strides)
    return None  # flip: not everybody who reads in place takes a negative stride


def part_start(op: Op, result: Value) -> Dim:
    """Return where a result of a split starts along the axis."""
    sizes = cast("tuple[Dim, ...]", op.attrs["sizes"])
    return sum(sizes[: op.results.index(result)], _ZERO)


def _broadcast(x: Value, result: Value, view: View, facts: Facts) -> View | None:
    lead = result.type.rank - x.type.rank
    strides = [_ZERO] * lead
    for size, stride, wanted in zip(x.shape, view.strides, result.shape[lead:], strict=True):
        if size == 1:
            strides.append(_ZERO)
        elif same(size, wanted, facts):
            strides.append(stride)
        else:
            return None
    return View(view.base, view.offset, tuple(strides))


def _back(op: Op, view: View, facts: Facts) -> View | None:
    """Return where an operand must lie so that the result lies in a view; None unless op only rearranges."""
    if op.kind == "transpose":
        strides = list(view.strides)
        for axis, stride in zip(cast("tuple[int, ...]", op.attrs["perm"]), view.strides, strict=True):
            strides[axis] = stride
        return View(view.base, view.offset, tuple(strides))
    if op.kind == "reshape":
        found = restride(op.result.shape, view.strides, op.operands[0].shape, facts)
        return None if found is None else View(view.base, view.offset, found)
    return None


def contiguous(value: Value, view: View, facts: Facts) -> bool:
    """Whether a view is row-major without gaps."""
    kept = [(size, stride) for size, stride in zip(value.shape, view.strides, strict=True) if size != 1]
    return (not kept or kept[-1][1] == 1) and collapsible([a for a, _ in kept], [b for _, b in kept], facts)


def readable(op: Op, number: int, view: View, facts: Facts) -> bool:
    """Whether a kernel of its own reads an operand where it lies.

    Rows of a linear have one stride, elements of a row are neighbours; of matrices one axis has stride 1, of the
    first one the contracted axis; an attention reads features that are neighbours, and any mask.
    """
    value = op.operands[number]
    inner = _inner(value, view)
    if op.kind == "linear" and number == 0:
        return rows(value, view, facts)
    if op.kind == "matmul":
        first = cast("bool", op.attrs["transpose_a"])
        return (_unit(value, view, -2 if first else -1)) if number == 0 else inner or _unit(value, view, -2)
    if op.kind == "attention":
        return number == 3 or inner
    if op.kind in ("linear", "conv"):
        return contiguous(value, view, facts)
    return True


def rows(value: Value, view: View, facts: Facts) -> bool:
    """Whether a view is a matrix with neighbours in each row: all axes but the last count as one."""
    return _inner(value, view) and collapsible(value.shape[:-1], view.strides[:-1], facts)


def writable(op: Op, value: Value, view: View, facts: Facts) -> bool:
    """Whether a kernel of its own can write its result to a view."""
    if op.kind == "linear":
        return rows(value, view, facts)
    if op.kind in ("matmul", "attention"):
        return _inner(value, view)
    return contiguous(value, view, facts)


def _inner(value: Value, view: View) -> bool:
    return not value.shape or _unit(value, view, -1)


def _unit(value: Value, view: View, axis: int) -> bool:
    return value.shape[axis] == 1 or view.strides[axis] == 1
