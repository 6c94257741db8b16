"""From a planned program to a flow: kernels for groups and anchors, places for values, call-outs for the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mlsysopt.compile.codegen.kernel import Kernel
from mlsysopt.compile.codegen.steps import Call, CallOut, Choice, Condition, Flow, Place, Step
from mlsysopt.compile.dynamic.plan import Outside, Plan, Tensor, Weight
from mlsysopt.compile.dynamic.slots import Slots, Touch, assign
from mlsysopt.compile.dynamic.views import Layouts, View
from mlsysopt.compile.errors import CodegenError
from mlsysopt.graph.ir import Graph, Op, Value
from mlsysopt.graph.symbolic import Dim

if TYPE_CHECKING:
    from llvmlite import ir

    from mlsysopt.compile.codegen.target import Isa
    from mlsysopt.compile.options import Options
    from mlsysopt.compile.variants.decision import Decision

__all__ = ["Draft", "Lowering", "Ref"]

_ZERO = Dim.of(0)


@dataclass(frozen=True, slots=True)
class Ref:
    """Bytes of a value whose place is not known yet.

    Attributes:
        base: The value that owns them.
        offset: Bytes from its start.
    """

    base: Value
    offset: Dim = _ZERO


Buffer = Ref | Place


@dataclass(frozen=True)
class Draft:
    """A step whose places are not known yet.

    Attributes:
        make: Returns the step, given a function from references to places.
        touch: What it reads and writes.
    """

    make: Callable[[Callable[[Buffer], Place]], Step]
    touch: Touch


@dataclass
class Lowering:
    """One program on its way to a flow; drafts are added in order, `finish` gives them places.

    Attributes:
        graph: The program, prepared.
        layouts: Where its values lie.
        module: Kernels go there; the next one takes over when it is full.
        isa: What they may use.
        options: How the program is compiled.
        decisions: Op -> kernels by number of rows.
    """

    graph: Graph
    layouts: Layouts
    module: ir.Module
    isa: Isa
    options: Options
    decisions: Mapping[str, Decision] = field(default_factory=dict[str, "Decision"])
    drafts: list[Draft] = field(default_factory=list[Draft])
    outsides: list[tuple[Outside, tuple[View, ...]]] = field(default_factory=list[tuple[Outside, tuple[View, ...]]])
    missed: list[str] = field(default_factory=list[str])
    taken: dict[str, Decision] = field(default_factory=dict[str, "Decision"])

    def __post_init__(self) -> None:
        self.constants = {constant.value for constant in self.graph.constants}
        self.weights: dict[Weight, int] = {}
        self.made: set[Value] = set()
        self.faults = 0

    # places

    def view(self, value: Value) -> View:
        """Return where a value lies; one that kernels only compute where they read it gets bytes of its own."""
        return self.layouts.view(value) or View.whole(value)

    def ref(self, value: Value) -> Ref:
        """Return the first element of a value."""
        view = self.view(value)
        return Ref(view.base, view.offset * value.type.dtype.bytes)

    def weight(self, weight: Weight) -> Place:
        """Return the place of an array that is made of a constant."""
        return Place("constant", self.weights.setdefault(weight, len(self.weights)))

    # steps

    def call(
        self,
        kernel: Kernel,
        buffers: Sequence[Buffer],
        params: Sequence[Dim | int],
        *,
        reads: Sequence[Value],
        writes: Sequence[Value],
        label: str,
        ops: Sequence[str],
        work: Dim = _ZERO,
        reuses: Value | None = None,
    ) -> Draft:
        """Return a draft of a kernel call.

        Args:
            kernel: Which one.
            buffers, params: What it is given, as it documents them.
            reads, writes: Values, views allowed.
            label, ops, work: As in `Call`.
            reuses: A value that the first result may take the bytes of.
        """
        if len(buffers) != len(kernel.buffers) or len(params) != len(kernel.params):
            raise CodegenError(
                f"{kernel.name} takes {len(kernel.buffers)} buffers and {len(kernel.params)} params, "
                f"got {len(buffers)} and {len(params)} for {label}"
            )
        given = tuple(map(Dim.of, params))
        try:
            # Kernels count their work on numbers; on formulas the same arithmetic gives formulas.
            units: Any = kernel.units(given)  # pyright: ignore[reportArgumentType]
            scratch: Any = kernel.scratch_bytes(given)  # pyright: ignore[reportArgumentType]
        except TypeError as error:
            raise CodegenError(f"{kernel.name} counts its work in a way that has no formula: {error}") from error
        units, scratch = Dim.of(units), Dim.of(scratch)

        def make(place: Callable[[Buffer], Place]) -> Call:
            places = tuple(map(place, buffers))
            return Call(kernel.name, places, given, units, scratch, work, label, tuple(ops))

        return Draft(make, self._touch(reads, writes, reuses))

    def add(self, draft: Draft) -> None:
        """Append a step; values that somebody must have made first are made."""
        for base in draft.touch.reads:
            self._made_sure(base)
        self.made.update(draft.touch.writes)
        self.drafts.append(draft)

    def choose(self, cases: Sequence[tuple[tuple[Condition, ...], Draft]]) -> Draft:
        """Return a draft that carries out the first of several drafts whose conditions hold."""
        if len(cases) == 1:
            return cases[0][1]

        def make(place: Callable[[Buffer], Place]) -> Choice:
            made = [(conditions, (draft.make(place),)) for conditions, draft in cases]
            return Choice(tuple(made))  # pyright: ignore[reportArgumentType]

        reads = dict.fromkeys(value for _, draft in cases for value in draft.touch.reads)
        return Draft(make, Touch(tuple(reads), cases[0][1].touch.writes))

    def outside(self, op: Op, why: str) -> Draft:
        """Return a draft that leaves native code for an op."""
        views = tuple(self.view(value) for value in (*op.operands, *op.results))
        tensors = [_tensor(value, view) for value, view in zip((*op.operands, *op.results), views, strict=True)]
        count = len(op.operands)
        one = Outside(op.name, tuple(tensors[:count]), tuple(tensors[count:]), why)
        return self.leave(one, op.operands, op.results, op.where(), (op.name,))

    def leave(
        self, outside: Outside, reads: Sequence[Value], writes: Sequence[Value], label: str, ops: Sequence[str]
    ) -> Draft:
        """Return a draft that leaves native code; `reads` and `writes` are the values behind its tensors, in order."""
        number = len(self.outsides)
        self.outsides.append((outside, tuple(self.view(value) for value in (*reads, *writes))))

        def make(place: Callable[[Buffer], Place]) -> CallOut:
            read, written = (tuple(place(self.ref(value)) for value in values) for values in (reads, writes))
            return CallOut(number, read, written, label, tuple(ops))

        return Draft(make, self._touch(reads, writes, None))

    def _touch(self, reads: Sequence[Value], writes: Sequence[Value], reuses: Value | None) -> Touch:
        def bases(values: Sequence[Value]) -> tuple[Value, ...]:
            return tuple(dict.fromkeys(self.view(value).base for value in values))

        return Touch(bases(reads), bases(writes), self.view(reuses).base if reuses is not None else None)

    def _made_sure(self, base: Value) -> None:
        """Make a value that kernels compute where they read it, for a step that reads it from memory."""
        if base in self.made or base in self.constants or base in self.graph.inputs:
            return
        op = self.graph.producer(base)
        if op is None:
            raise CodegenError(f"%{base.name} is read and made by nobody; please report the program")
        self.add(self.outside(op, "only a step without native form reads it"))

    # the end

    def finish(self) -> Plan:
        """Give every value a place; return the plan."""
        homes: dict[Value, Place] = {}
        for i, value in enumerate(self.graph.inputs):
            homes[value] = Place("input", i)
        outputs = tuple(dict.fromkeys(self.graph.outputs))
        for i, value in enumerate(outputs):
            homes.setdefault(value, Place("output", i))
        touched = dict.fromkeys(base for draft in self.drafts for base in (*draft.touch.reads, *draft.touch.writes))
        owned = [base for base in touched if base not in homes and base not in self.constants]
        slots: Slots = assign([draft.touch for draft in self.drafts], owned, self.graph.facts)

        def place(buffer: Buffer) -> Place:
            if isinstance(buffer, Place):
                return buffer
            base = buffer.base
            if base in self.constants:
                home = self.weight(Weight(base.name))
            elif base in homes:
                home = homes[base]
            else:
                home = Place("slot", slots.of[base.name])
            return replace(home, offset=home.offset + buffer.offset)

        def placed(tensor: Tensor, view: View, size: int) -> Tensor:
            return replace(tensor, place=place(Ref(view.base, view.offset * size)))

        steps = tuple(draft.make(place) for draft in self.drafts)
        outsides: list[Outside] = []
        for one, views in self.outsides:
            tensors = [
                placed(tensor, view, view.base.type.dtype.bytes)
                for tensor, view in zip((*one.operands, *one.results), views, strict=True)
            ]
            count = len(one.operands)
            outsides.append(replace(one, operands=tuple(tensors[:count]), results=tuple(tensors[count:])))
        values = self._values(place, touched)
        flow = Flow(
            _symbols(self.graph, steps, slots.sizes, outsides, outputs),
            steps,
            slots.sizes,
            len(self.graph.inputs),
            len(outputs),
            len(self.weights),
            self.options.threads,
        )
        return Plan(
            self.graph.name,
            flow,
            tuple(self.weights),
            tuple(outsides),
            slots.members,
            self.taken,
            tuple(self.missed),
            values,
        )

    def _values(self, place: Callable[[Buffer], Place], touched: Mapping[Value, None]) -> dict[str, Tensor]:
        """Return where each result is that comes to memory."""
        found: dict[str, Tensor] = {}
        made = {base for draft in self.drafts for base in draft.touch.writes}
        for op in self.graph.ops:
            for value in op.results:
                view = self.view(value)
                if view.base in made:
                    tensor = _tensor(value, view)
                    found[value.name] = replace(
                        tensor, place=place(Ref(view.base, view.offset * value.type.dtype.bytes))
                    )
        return found


def _tensor(value: Value, view: View) -> Tensor:
    return Tensor(Place("none"), value.type.dtype.name, value.shape, view.strides)


def _symbols(
    graph: Graph, steps: Sequence[Step], slots: Sequence[Dim], outsides: Sequence[Outside], outputs: Sequence[Value]
) -> tuple[str, ...]:
    """Return the symbols that a flow and its surroundings need, sorted."""
    found: set[str] = set()

    def note(*sizes: Dim) -> None:
        for size in sizes:
            found.update(size.symbols)

    def visit(step: Step) -> None:
        if isinstance(step, Choice):
            for conditions, calls in step.cases:
                for one in conditions:
                    note(one.left, one.right)
                for call in calls:
                    visit(call)
        elif isinstance(step, Call):
            note(*step.params, step.units, step.scratch_bytes, step.work, *(place.offset for place in step.buffers))

    for step in steps:
        visit(step)
    note(*slots, *(size for value in outputs for size in value.shape))
    names = {one.op for one in outsides}
    for op in graph.ops:
        if op.name in names:
            # Attributes of an op that Python carries out are evaluated at the sizes of the call.
            note(
                *(size for value in (*op.operands, *op.results) for size in value.shape), *_sizes_in(op.attrs.values())
            )
    for one in outsides:
        for tensor in (*one.operands, *one.results):
            note(*tensor.shape, *tensor.strides, tensor.place.offset)
    return tuple(sorted(found))


def _sizes_in(values: Any) -> list[Dim]:
    found: list[Dim] = []
    for value in values:
        if isinstance(value, Dim):
            found.append(value)
        elif isinstance(value, tuple):
            found += _sizes_in(value)
    return found
