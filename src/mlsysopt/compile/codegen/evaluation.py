"""Nodes of a program as values in registers, each computed at the outermost place where all that it reads is known.

A `Scope` is such a place: within the parallel loops, within the reduced ones, at one vector of the innermost loop.
What a scope needs of those around it is computed there beforehand (`prepare`), since code that has been left
cannot be added to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mlsysopt.compile.codegen.arithmetic import FLAGS
from mlsysopt.compile.codegen.lanes import anywhere, broadcast, intrinsic, number, spelling
from mlsysopt.compile.codegen.loops import address, i64
from mlsysopt.compile.codegen.program import Access, Indirect, Node, Param, Size, Store
from mlsysopt.compile.codegen.vectors import Guard, constant, stored

if TYPE_CHECKING:
    from llvmlite import ir

    from mlsysopt.compile.codegen.version import Version

__all__ = ["Scope"]


class Scope:
    """A place in the loops.

    Attributes:
        owner: What is known everywhere.
        parents: Scopes around it.
        indices: Loop -> index, of the loops that this scope fixes. For the innermost loop, that of the first lane.
        lanes: Lanes of the innermost loop here, 0 outside it.
        count: i64, lanes in front that are within the row; None if all are.
        kept: Node -> address of the row buffer's vector here.
        values: Node -> value.
    """

    def __init__(
        self,
        owner: Version,
        parents: Sequence[Scope],
        indices: dict[int, Any],
        lanes: int = 0,
        count: Any = None,
        kept: dict[int, Any] | None = None,
    ) -> None:
        self.owner, self.parents, self.indices = owner, tuple(parents), indices
        self.lanes, self.count, self.kept = lanes, count, kept or {}
        self.values: dict[Any, Any] = {}

    def prepare(self, number: int, depth: int) -> None:
        """Compute what a pass needs at this depth, and the parts of addresses and divisors that are fixed here."""
        owner, program = self.owner, self.owner.program
        nodes = owner.needed(number)
        kept = {node for one in program.passes[:number] for node in one.keeps}
        accesses = [program.nodes[i].access for i in nodes if i not in kept]
        accesses += [store.access for store in program.passes[number].stores]
        for access in accesses:
            if access is not None:
                self._part(access, self)
        for i in nodes:
            if owner.depth(owner.loops[i]) == depth and (i not in kept or depth == 0):
                self.value(i)
        for i in nodes:
            node = program.nodes[i]
            if self._divides_by_row(node) and owner.depth(owner.loops[node.args[1]]) == depth:
                self._inverse(node)

    def _around(self) -> Iterator[Scope]:
        seen: list[Scope] = [self]
        for scope in seen:
            seen += [one for one in scope.parents if one not in seen]
        return iter(seen)

    def _known(self, key: Any) -> Any:
        return next((scope.values[key] for scope in self._around() if key in scope.values), None)

    def index(self, loop: int) -> Any:
        """Return the index of a loop, in the innermost one that of the first lane."""
        return next(scope.indices[loop] for scope in self._around() if loop in scope.indices)

    def value(self, i: int) -> Any:
        """Return a node's value: a vector if it varies along the innermost loop and this is within it, or a scalar."""
        found = self._known(i)
        if found is None:
            found = self.values[i] = self._compute(i)
        return found

    def vector(self, i: int) -> Any:
        """Return a node's value in every lane."""
        return self._spread(self.value(i))

    def _spread(self, value: Any) -> Any:
        from llvmlite import ir

        return value if isinstance(value.type, ir.VectorType) else broadcast(self.owner.b, value, self.lanes)

    def _compute(self, i: int) -> Any:
        from llvmlite import ir

        owner, node = self.owner, self.owner.program.nodes[i]
        if self.lanes and i in self.kept:
            return owner.memory.kept(node.dtype, self.kept[i], self.lanes)
        if node.op == "const":
            return constant(node.dtype, node.value)
        if node.op == "param":
            return owner.arithmetic.cast(owner.params[int(node.value)], "i64", node.dtype)
        if node.op == "index":
            return owner.arithmetic.cast(self._counted(int(node.value)), "i64", node.dtype)
        if node.op == "load":
            assert node.access is not None
            return self._load(node.access, owner.program.arguments[node.access.argument].dtype, i)
        if self._divides_by_row(node):
            scaled = [self._spread(one) for one in self._inverse(node)]
            first = owner.b.fmul(self.vector(node.args[0]), scaled[0], flags=FLAGS)
            return owner.b.fmul(first, scaled[1], flags=FLAGS)
        values = [self.value(arg) for arg in node.args]
        if any(isinstance(value.type, ir.VectorType) for value in values):
            values = [self._spread(value) for value in values]
        simple = self._simple_power(node, values)
        if simple is not None:
            return simple
        dtypes = [owner.program.nodes[arg].dtype for arg in node.args]
        return owner.arithmetic.apply(node.op, dtypes, values, node.dtype)

    def _counted(self, loop: int) -> Any:
        from llvmlite import ir

        if loop != self.owner.inner or not self.lanes:
            return self.index(loop)
        numbers = ir.Constant(ir.VectorType(ir.IntType(64), self.lanes), list(range(self.lanes)))
        return self.owner.b.add(broadcast(self.owner.b, self.index(loop), self.lanes), numbers)

    def _simple_power(self, node: Node, values: list[Any]) -> Any:
        """x^c for the exponents of ordinary models."""
        exponent = self.owner.program.nodes[node.args[1]] if node.op == "pow" else None
        if exponent is None or exponent.op != "const":
            return None
        x, dtype, apply = values[0], node.dtype, self.owner.arithmetic.apply
        if exponent.value in (2, 3):
            square = apply("mul", [dtype] * 2, [x, x], dtype)
            return square if exponent.value == 2 else apply("mul", [dtype] * 2, [square, x], dtype)
        word = {0.5: "sqrt", -1.0: "reciprocal", -0.5: "rsqrt"}.get(float(exponent.value))
        floats = dtype in ("f32", "f64", "f16", "bf16")
        return apply(word, [dtype], [x], dtype) if word is not None and floats else None

    def _divides_by_row(self, node: Node) -> bool:
        """Whether a whole vector is divided by one number of its row, which is then inverted once.

        That is off by a unit in the last place: not for constants, nor where a unit decides about a whole number.
        """
        owner = self.owner
        if node.op != "div" or owner.decides or owner.program.nodes[node.args[1]].op == "const":
            return False
        top, bottom = (owner.loops[arg] for arg in node.args)
        return owner.inner in top and owner.inner not in bottom

    def _inverse(self, node: Node) -> tuple[Any, Any]:
        """Factors whose product is 1 / y, neither denormal nor infinite unless y is 0, infinite or NaN.

        x / y = x * (1 / (y s)) * s with s = 2^+-64 for tiny or huge y, else 1.
        """
        key = ("inverse", node.args[1])
        found = self._known(key)
        if found is not None:
            return found
        b, y = self.owner.b, self.value(node.args[1])
        kind = y.type
        small, large, step = (2.0**-1000, 2.0**1000, 600) if spelling(kind) == "f64" else (2.0**-120, 2.0**120, 64)
        size = intrinsic(b, f"llvm.fabs.{spelling(kind)}", [y], kind)
        scale = b.select(
            b.fcmp_ordered("<", size, number(kind, small)),
            number(kind, 2.0**step),
            b.select(b.fcmp_ordered(">", size, number(kind, large)), number(kind, 2.0**-step), number(kind, 1.0)),
        )
        pair = b.fdiv(number(kind, 1.0), b.fmul(y, scale)), scale
        self.values[key] = pair
        return pair

    # Addresses.

    def _part(self, access: Access, at: Scope) -> Any:
        """What the loops of scope `at` add to an offset; remembered only where it dominates its uses."""
        key = ("part", id(access))
        if key in at.values:
            return at.values[key]
        owner, b = self.owner, self.owner.b
        total = owner.size(access.offset) if not at.parents else i64(0)
        for loop, index in at.indices.items():
            if access.strides[loop] != 0:
                total = b.add(total, b.mul(index, owner.size(access.strides[loop])))
        if at is self:
            at.values[key] = total
        return total

    def offset(self, access: Access) -> Any:
        """Return how many elements from the start of its buffer an access is, without its indirect parts."""
        offset = i64(0)
        for scope in self._around():
            offset = self.owner.b.add(offset, self._part(access, scope))
        return offset

    def _place(self, access: Access, dtype: str) -> tuple[Any, Any, Guard]:
        """Return the address of an access (of its first lane), further offsets of lanes or None, and the guard."""
        from llvmlite import ir

        owner, b = self.owner, self.owner.b
        offset = self.offset(access)
        low, high, scalar = self._window(access)
        count = self.count
        mask, lane_offsets = None, None
        for one in access.indirect:
            index = owner.arithmetic.cast(self.value(one.node), owner.program.nodes[one.node].dtype, "i64")
            guard = Guard(count, low, high, scalar, mask)
            index, some = self._checked(one, index, guard)
            move = b.mul(
                index, broadcast(b, owner.size(one.stride), self.lanes) if _many(index) else owner.size(one.stride)
            )
            if _many(index):
                lane_offsets = move if lane_offsets is None else b.add(lane_offsets, move)
            else:
                offset = b.add(offset, move)
            scalar = some if scalar is None else b.and_(scalar, some)
        place = address(b, owner.buffers[access.argument], offset, stored(dtype))
        if lane_offsets is not None:
            lane_offsets = [b.extract_element(lane_offsets, ir.Constant(ir.IntType(32), j)) for j in range(self.lanes)]
        return place, lane_offsets, Guard(count, low, high, scalar, mask)

    def _window(self, access: Access) -> tuple[Any, Any, Any]:
        owner, b, low, high, scalar = self.owner, self.owner.b, None, None, None
        sizes = (*owner.program.parallel, *owner.program.reduced, owner.program.inner)
        for loop, start, stop in access.window:
            index = self.index(loop)
            bounds: list[tuple[Any, Any]] = [
                (None if start == 0 else owner.size(start), None if stop == sizes[loop] else owner.size(stop))
            ]
            first, last = bounds[0]
            if loop == owner.inner and self.lanes:
                low = _combined(b, low, None if first is None else b.sub(first, index), ">")
                high = _combined(b, high, None if last is None else b.sub(last, index), "<")
                continue
            for bound, relation in ((first, ">="), (last, "<")):
                if bound is not None:
                    holds = b.icmp_signed(relation, index, bound)
                    scalar = holds if scalar is None else b.and_(scalar, holds)
        return low, high, scalar

    def _checked(self, one: Indirect, index: Any, guard: Guard) -> tuple[Any, Any]:
        """Return an index within bounds, reported where it was not, and i1: whether any index is allowed."""
        owner, b = self.owner, self.owner.b
        size = owner.size(one.size)
        some = b.icmp_signed(">", size, i64(0))
        limit, zero = (broadcast(b, size, self.lanes) if _many(index) else size), number(index.type, 0)
        index = b.select(b.icmp_signed("<", index, zero), b.add(index, limit), index)
        wrong = b.icmp_unsigned(">=", index, limit)
        if not guard.open:
            wrong = b.and_(wrong, guard.vector(b, self.lanes) if _many(index) else _scalar_guard(b, guard))
        if owner.program.faults is not None:
            self._report(wrong, owner.indirect_numbers[id(one)] + 1)
        last = b.sub(limit, number(index.type, 1))
        index = b.select(b.icmp_signed(">", index, last), last, index)
        return b.select(b.icmp_signed("<", index, zero), zero, index), some

    def _report(self, wrong: Any, word: int) -> None:
        b = self.owner.b
        wrong = anywhere(b, wrong)
        assert self.owner.program.faults is not None
        with b.if_then(wrong, likely=False):
            b.store(i64(word), self.owner.buffers[self.owner.program.faults])

    def _load(self, access: Access, dtype: str, i: int) -> Any:
        owner, memory = self.owner, self.owner.memory
        place, lane_offsets, guard = self._place(access, dtype)
        if not self.lanes or owner.inner not in owner.loops[i]:
            return memory.scalar(dtype, place, _outer(guard), access.outside)
        stride = access.strides[owner.inner]
        mode = "unit" if stride == 1 else owner.strides if isinstance(stride, Param) else "any"
        if lane_offsets is None and mode == "unit":
            return memory.contiguous(dtype, place, self.lanes, guard, access.outside)
        if lane_offsets is None and mode == "either" and guard.low is None and guard.high is None:
            unit = owner.b.icmp_signed("==", owner.size(stride), i64(1))
            return memory.either(dtype, place, unit, self.lanes, guard, access.outside)
        return memory.spread(dtype, self._lane_places(place, stride, lane_offsets, dtype), guard, access.outside)

    def _lane_places(self, place: Any, stride: Size, offsets: Any, dtype: str) -> list[Any]:
        b, places = self.owner.b, list[Any]()
        for j in range(self.lanes):
            offset = b.mul(i64(j), self.owner.size(stride))
            places.append(address(b, place, offset if offsets is None else b.add(offset, offsets[j]), stored(dtype)))
        return places

    def store(self, store: Store) -> None:
        """Write a node, whole vectors or one element."""
        owner, access = self.owner, store.access
        dtype = owner.program.arguments[access.argument].dtype
        vector = bool(self.lanes) and owner.inner in owner.loops[store.node] | owner.along(access)
        value = self.vector(store.node) if vector else self.value(store.node)
        place, lane_offsets, guard = self._place(access, dtype)
        if not vector:
            owner.memory.store_scalar(dtype, place, value, _outer(guard))
            return
        stride = access.strides[owner.inner]
        if lane_offsets is None and (stride == 1 or (isinstance(stride, Param) and owner.strides == "unit")):
            owner.memory.store_contiguous(dtype, place, value, guard)
        else:
            owner.memory.store_spread(dtype, self._lane_places(place, stride, lane_offsets, dtype), value, guard)


def _many(value: Any) -> bool:
    from llvmlite import ir

    return isinstance(value.type, ir.VectorType)


def _outer(guard: Guard) -> Guard:
    """The part of a guard that concerns what does not vary along the innermost loop."""
    return Guard(scalar=guard.scalar)


def _scalar_guard(b: ir.IRBuilder, guard: Guard) -> Any:
    from llvmlite import ir

    return guard.scalar if guard.scalar is not None else ir.Constant(ir.IntType(1), 1)


def _combined(b: ir.IRBuilder, known: Any, bound: Any, relation: str) -> Any:
    if known is None or bound is None:
        return bound if known is None else known
    return b.select(b.icmp_signed(relation, bound, known), bound, known)
