"""What a fused kernel means, in numpy: emitters and the planner are held against the same few lines.

`interpret_program` runs one `codegen.program.Program` on flat buffers; `run_fusion` runs a whole plan, each kernel
by that, anchors and foreign ops by their definitions, every value at the place that the plan gives it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from mlsysopt.compile.codegen.program import REDUCTIONS, Access, Node, Param, Program, Size
from mlsysopt.core.errors import UsageError
from mlsysopt.graph.domains.sizes import bind_sizes, evaluated
from mlsysopt.graph.ops.registry import lookup
from mlsysopt.graph.types import DTYPES, DType, f64

if TYPE_CHECKING:
    import numpy.typing as npt

    from mlsysopt.compile.dynamic.groups import Fusion
    from mlsysopt.compile.dynamic.views import View
    from mlsysopt.graph.ir import Op, Value

__all__ = ["interpret_program", "run_fusion"]

Array: TypeAlias = "npt.NDArray[Any]"


def interpret_program(
    program: Program, buffers: Sequence[Array], params: Sequence[int] = (), *, precision: str = "declared"
) -> None:
    """Run a kernel: results are written into their buffers.

    Args:
        program: The kernel.
        buffers: One flat array for each argument; an array that is longer or shorter than what is touched is fine
            as long as nothing outside is touched.
        params: Its params.
        precision: "declared" computes in the types of the nodes, half types in f32; "reference" computes every
            float in f64.

    Raises:
        UsageError: an access outside a buffer, or a node without meaning.

    >>> import numpy as np
    >>> from mlsysopt.compile.codegen.program import Argument, Pass, Store
    >>> x, y = np.arange(3, dtype=np.float32), np.zeros(3, np.float32)
    >>> nodes = (Node("load", access=Access(0, (1,))), Node("neg", (0,)))
    >>> arguments = (Argument("f32"), Argument("f32", written=True))
    >>> interpret_program(Program(arguments, (), 3, nodes, (Pass(stores=(Store(1, Access(1, (1,))),)),)), [x, y])
    >>> y
    array([-0., -1., -2.], dtype=float32)
    """
    program.check()
    _Run(program, buffers, params, precision == "reference").run()


class _Run:
    def __init__(self, program: Program, buffers: Sequence[Array], params: Sequence[int], exact: bool) -> None:
        import numpy as np

        self.program, self.buffers, self.params, self.exact = program, buffers, params, exact
        sizes = [self.number(size) for size in (*program.parallel, *program.reduced, program.inner)]
        self.grid = tuple(sizes)
        self.counters = [
            np.arange(size, dtype=np.int64).reshape(-1, *(1,) * (len(sizes) - i - 1)) for i, size in enumerate(sizes)
        ]
        first, last = len(program.parallel), program.loops - (program.schedule == "column")
        self.row = tuple(range(first, last))
        self.kept: dict[int, Array] = {}
        self.folded: dict[int, Array] = {}

    def number(self, size: Size) -> int:
        return self.params[size.index] if isinstance(size, Param) else size

    def run(self) -> None:
        import numpy as np

        with np.errstate(all="ignore"):
            for one in self.program.passes:
                seen: dict[int, Array] = {}  # what was not kept is computed from memory again
                folded = {node: self.fold(self.program.nodes[node], seen) for node in one.reductions}
                for store in one.stores:
                    self.write(store.access, self.value(store.node, seen), seen)
                self.kept.update((node, self.value(node, seen)) for node in one.keeps)
                self.folded.update(folded)

    def dtype(self, name: str) -> DType:
        found = DTYPES[name]
        if not found.is_float:
            return found
        return f64 if self.exact else found if found.bytes > 2 else DTYPES["f32"]

    def value(self, number: int, seen: dict[int, Array]) -> Array:
        for known in (self.folded, self.kept, seen):
            if number in known:
                return known[number]
        seen[number] = self.compute(self.program.nodes[number], seen)
        return seen[number]

    def compute(self, node: Node, seen: dict[int, Array]) -> Array:
        import numpy as np

        element = self.dtype(node.dtype).numpy()
        if node.op == "const":
            return np.asarray(node.value).astype(element)
        if node.op == "index":
            return self.counters[int(node.value)]
        if node.op == "param":
            return np.asarray(self.params[int(node.value)], element)
        if node.op == "load":
            assert node.access is not None
            return self.read(node.access, seen).astype(element)
        if node.op in REDUCTIONS:
            raise UsageError(f"a {node.op} is read in the pass that folds it")
        args = [self.value(arg, seen) for arg in node.args]
        if node.op == "cast":
            return args[0].astype(element)
        kind, attrs = (node.op, {}) if node.op != "gelu_tanh" else ("gelu", {"approximate": "tanh"})
        if kind == "gelu" and not attrs:
            attrs = {"approximate": "none"}
        (found,) = lookup(kind).meaning(args, attrs)
        return np.asarray(found).astype(element)

    def fold(self, node: Node, seen: dict[int, Array]) -> Array:
        import numpy as np

        x = np.broadcast_to(self.value(node.args[0], seen), self.grid)
        element = x.dtype
        if node.op in ("max", "min"):
            low, high = (-np.inf, np.inf) if element.kind == "f" else _ends(element)
            worst = np.asarray(low if node.op == "max" else high, element)
            return np.asarray(getattr(np, node.op)(x, axis=self.row, keepdims=True, initial=worst))
        if node.op in ("any", "all"):
            return np.asarray(getattr(np, node.op)(x, axis=self.row, keepdims=True))
        return np.asarray(getattr(np, node.op)(x, axis=self.row, keepdims=True, dtype=element))

    def places(self, access: Access, seen: dict[int, Array]) -> tuple[Array, Array]:
        """Return where elements are and which of them exist."""
        import numpy as np

        where = np.full((1,) * len(self.grid), self.number(access.offset), np.int64)
        exists = np.ones((1,) * len(self.grid), np.bool_)
        for counter, stride in zip(self.counters, access.strides, strict=True):
            where = where + counter * self.number(stride)
        for loop, low, high in access.window:
            exists = exists & (self.counters[loop] >= self.number(low)) & (self.counters[loop] < self.number(high))
        for part in access.indirect:
            index, size = self.value(part.node, seen), self.number(part.size)
            found = np.where(index < 0, index + size, index)
            wrong = (found < 0) | (found >= size)
            if self.program.faults is not None and np.any(np.broadcast_to(wrong & exists, self.grid)):
                self.buffers[self.program.faults][0] = 1
            where = where + np.clip(found, 0, max(size - 1, 0)) * self.number(part.stride)
        return np.broadcast_to(where, self.grid), np.broadcast_to(exists, self.grid)

    def read(self, access: Access, seen: dict[int, Array]) -> Array:
        import numpy as np

        buffer = self.buffers[access.argument]
        where, exists = self.places(access, seen)
        self.check(buffer, where[exists], access)
        element = buffer.dtype
        found = np.full(self.grid, np.asarray(access.outside).astype(element), element)
        found[exists] = buffer[where[exists]]
        return found

    def write(self, access: Access, value: Array, seen: dict[int, Array]) -> None:
        import numpy as np

        buffer = self.buffers[access.argument]
        where, exists = self.places(access, seen)
        self.check(buffer, where[exists], access)
        buffer[where[exists]] = np.broadcast_to(value, self.grid)[exists].astype(buffer.dtype)

    def check(self, buffer: Array, where: Array, access: Access) -> None:
        if where.size and (where.min() < 0 or where.max() >= buffer.size):
            raise UsageError(
                f"buffer {access.argument} has {buffer.size} elements, {where.min()}..{where.max()} are touched"
            )


def _ends(element: Any) -> tuple[int, int]:
    import numpy as np

    if element.kind == "b":
        return 0, 1
    ends = np.iinfo(element)
    return int(ends.min), int(ends.max)


def run_fusion(
    fusion: Fusion,
    inputs: Mapping[str, Array],
    *,
    sizes: Mapping[str, int] | None = None,
    precision: str = "reference",
) -> list[Array]:
    """Run a plan on arrays and return its outputs in order.

    Args:
        fusion: The plan.
        inputs: Arrays by input name.
        sizes: Sizes of symbols that no input determines.
        precision: As in `interpret_program`; in "reference" floating inputs are taken in f64.

    Raises:
        UsageError: a kernel touches what it should not.
    """
    return _Flow(fusion, inputs, sizes or {}, precision).run()


class _Flow:
    def __init__(self, fusion: Fusion, inputs: Mapping[str, Array], sizes: Mapping[str, int], precision: str) -> None:
        self.fusion, self.graph, self.precision = fusion, fusion.graph, precision
        shapes = {value.name: tuple(inputs[value.name].shape) for value in self.graph.inputs}
        self.sizes = bind_sizes(self.graph, shapes, dict(sizes))
        self.buffers: dict[Value, Array] = {}
        for value in self.graph.inputs:
            self.buffers[value] = self.held(value, inputs[value.name])
        for constant in self.graph.constants:
            self.buffers[constant.value] = self.held(constant.value, constant.source.load())

    def element(self, value: Value) -> Any:
        exact = self.precision == "reference" and value.type.dtype.is_float
        return (f64 if exact else value.type.dtype).numpy()

    def held(self, value: Value, array: Array) -> Array:
        import numpy as np

        return np.ascontiguousarray(array).astype(self.element(value)).reshape(-1)

    def buffer(self, base: Value) -> Array:
        import numpy as np

        if base not in self.buffers:
            # Filled with what would be seen in a result if nobody wrote there.
            size = base.type.elements.at(self.sizes)
            self.buffers[base] = np.full(size, 113).astype(self.element(base))
        return self.buffers[base]

    def run(self) -> list[Array]:
        from mlsysopt.compile.dynamic.anchors import Anchor
        from mlsysopt.compile.dynamic.groups import FusionGroup

        for step in self.fusion.steps:
            if isinstance(step, FusionGroup):
                self.kernel(step)
            elif isinstance(step, Anchor):
                self.by_definition(step.ops, step.result)
            else:
                self.by_definition(step.ops, *step.outputs)
        return [self.array(value) for value in self.graph.outputs]

    def kernel(self, step: Any) -> None:
        import numpy as np

        from mlsysopt.compile.dynamic.schedule import program

        made = program(step, self.fusion)
        fault = np.zeros(1, np.int64)
        buffers = [fault if value is None else self.buffer(value) for value in made.arguments]
        params = [param.at(self.sizes) for param in made.params]
        interpret_program(made.program, buffers, params, precision=self.precision)
        if fault[0]:
            raise UsageError(f"{step.label}: an index is outside")

    def by_definition(self, ops: Sequence[Op], *results: Value) -> None:
        import numpy as np

        known: dict[Value, Array] = {}
        for op in ops:
            operands = [known[x] if x in known else self.array(x) for x in op.operands]
            attrs = {name: self.attr(value) for name, value in evaluated(op.attrs, self.sizes).items()}
            with np.errstate(all="ignore"):
                made = lookup(op.kind).meaning(operands, attrs)
            known.update(zip(op.results, made, strict=True))
        for value in results:
            self.strided(self.fusion.layouts[value], value)[...] = known[value]

    def attr(self, value: Any) -> Any:
        return f64 if isinstance(value, DType) and value.is_float and self.precision == "reference" else value

    def array(self, value: Value) -> Array:
        return self.strided(self.fusion.layouts[value], value)

    def strided(self, view: View, value: Value) -> Array:
        import numpy as np

        buffer = self.buffer(view.base)
        shape = value.type.at(**self.sizes)
        steps = [stride.at(self.sizes) for stride in view.strides]
        start = view.offset.at(self.sizes)
        if 0 in shape:
            return np.zeros(shape, buffer.dtype)
        last = start + sum((size - 1) * step for size, step in zip(shape, steps, strict=True))
        if not (0 <= start <= last < buffer.size):
            raise UsageError(f"%{value.name} at {view} reaches {start}..{last} of {buffer.size} elements")
        bytes_ = [step * buffer.itemsize for step in steps]
        return np.lib.stride_tricks.as_strided(buffer[start:], shape, bytes_)
