"""The flow of an executable as native straight-line code: sizes, offsets, choices and calls, no interpreter.

A step without native form cuts the flow: what lies between two such steps is one native function, and a *script*
says in which order functions and steps are carried out. `sizes` is one more function that fills in, for given
symbols, the bytes of the arena, the bytes of scratch and any other formulas that the caller wants to know.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlsysopt.compile.codegen.formulas import Formulas
from mlsysopt.compile.codegen.steps import Call, CallOut, Choice, Condition, Flow, Place, Step
from mlsysopt.compile.errors import CodegenError
from mlsysopt.core.errors import near_misses
from mlsysopt.graph.symbolic import Dim, ceildiv, maximum

if TYPE_CHECKING:
    from llvmlite import ir

    from mlsysopt.compile.codegen.target import Isa

__all__ = [
    "FORK_NS",
    "Branch",
    "Emitted",
    "Native",
    "Script",
    "arena_bytes",
    "emit",
    "functions_of",
    "scratch_bytes",
    "script_of",
]

FORK_NS = 40_000
"""Work below which a call stays on its thread: waking a second one costs a quarter of that."""

_LINE = 64
_ARGUMENTS = ("dims", "inputs", "outputs", "constants", "arena", "scratch", "faults", "fork")


@dataclass(frozen=True, slots=True)
class Native:
    """Steps that one native function carries out.

    Attributes:
        function: Its name.
        steps: They.
    """

    function: str
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Branch:
    """The first case whose conditions all hold is carried out; at least one of them leaves native code."""

    cases: tuple[tuple[tuple[Condition, ...], Script], ...]


Script = tuple[Native | CallOut | Branch, ...]


@dataclass(frozen=True, slots=True)
class Emitted:
    """What `emit` wrote.

    Attributes:
        script: Order in which functions and steps without native form are carried out.
        sizes: Name of `void sizes(ptr dims, ptr out)`: arena bytes, scratch bytes, then the reports, as i64.
        reports: Number of the reports.
    """

    script: Script
    sizes: str
    reports: int

    @property
    def functions(self) -> tuple[str, ...]:
        """Names of all functions that a process calls."""
        return (self.sizes, *functions_of(self.script))


def arena_bytes(flow: Flow) -> Dim:
    """Return the bytes of the arena, the formula of what generated code computes."""
    return sum((ceildiv(size, _LINE) * _LINE for size in flow.slots), Dim.of(0))


def scratch_bytes(flow: Flow) -> Dim:
    """Return the bytes of scratch of all threads together."""
    needed = {call.scratch_bytes for call in _calls(flow.steps) if call.scratch_bytes != 0}
    rounded = [ceildiv(size, _LINE) * _LINE * flow.threads for size in needed]
    return maximum(0, *rounded) if rounded else Dim.of(0)


def script_of(flow: Flow) -> Script:
    """Return a flow cut at the steps without native form."""
    return _Cutter().cut(flow.steps)


def emit(module: ir.Module, isa: Isa, flow: Flow, reports: Sequence[Dim] = ()) -> Emitted:
    """Write the functions of a flow into the module that holds its kernels.

    Args:
        module: Holds every kernel that the flow calls.
        isa: What the code may use.
        flow: The steps.
        reports: Further formulas that `sizes` is to compute.

    Raises:
        CodegenError: a kernel that the module does not have.
    """
    for call in _calls(flow.steps):
        if call.kernel not in module.globals:
            known = [one.name for one in module.functions]
            raise CodegenError(f"the flow calls {call.kernel!r}, {near_misses(call.kernel, known, noun='kernel')}")
    script = script_of(flow)
    for part in _natives(script):
        _Segment(module, isa, flow, part).write()
    _write_sizes(module, flow, reports)
    return Emitted(script, "sizes", len(reports))


def _calls(steps: Iterable[Step]) -> Iterable[Call]:
    for step in steps:
        if isinstance(step, Call):
            yield step
        elif isinstance(step, Choice):
            yield from (call for _, calls in step.cases for call in calls if isinstance(call, Call))


def functions_of(script: Script) -> tuple[str, ...]:
    """Return the names of the native functions of a script."""
    return tuple(part.function for part in _natives(script))


def _natives(script: Script) -> Iterable[Native]:
    for part in script:
        if isinstance(part, Native):
            yield part
        elif isinstance(part, Branch):
            for _, inner in part.cases:
                yield from _natives(inner)


class _Cutter:
    def __init__(self) -> None:
        self._made = 0

    def cut(self, steps: Iterable[Step]) -> Script:
        found: list[Native | CallOut | Branch] = []
        pending: list[Step] = []

        def close() -> None:
            if pending:
                found.append(Native(f"run{self._made}", tuple(pending)))
                self._made += 1
                pending.clear()

        for step in steps:
            if isinstance(step, CallOut):
                close()
                found.append(step)
            elif isinstance(step, Choice) and any(isinstance(one, CallOut) for _, calls in step.cases for one in calls):
                close()
                found.append(Branch(tuple((conditions, self.cut(calls)) for conditions, calls in step.cases)))
            else:
                pending.append(step)
        close()
        return tuple(found)


class _Segment:
    """One native function. Formulas and addresses stand in its first block, calls in those after it."""

    def __init__(self, module: ir.Module, isa: Isa, flow: Flow, part: Native) -> None:
        from llvmlite import ir

        self.module, self.isa, self.flow, self.part = module, isa, flow, part
        self.ptr, self.i64 = ir.PointerType(), ir.IntType(64)
        self.function = ir.Function(module, ir.FunctionType(self.i64, [self.ptr] * len(_ARGUMENTS)), part.function)
        self.function.attributes.add("nounwind")
        for argument, name in zip(self.function.args, _ARGUMENTS, strict=True):
            argument.name = name
        self.given: dict[str, Any] = dict(zip(_ARGUMENTS, self.function.args, strict=True))
        self.head = ir.IRBuilder(self.function.append_basic_block("head"))
        self.body = ir.IRBuilder(self.function.append_basic_block("body"))
        self.formulas = Formulas(self.head, _loaded_symbols(self.head, self.given["dims"], flow.symbols))
        calls = list(_calls(part.steps))
        self.buffers = self._array(self.ptr, max((len(call.buffers) for call in calls), default=0))
        self.params = self._array(self.i64, max((len(call.params) for call in calls), default=0))
        self.addresses: dict[tuple[str, int] | Place, Any] = {}
        self.starts: list[Any] = [self.i64(0)]

    def write(self) -> None:
        first = self.body.block
        for step in self.part.steps:
            if isinstance(step, Choice):
                self._choice(step)
            else:
                assert isinstance(step, Call)
                self._call(step)
        self.head.branch(first)
        self.body.ret(self.i64(0))

    def _array(self, kind: Any, length: int) -> Any:
        return self.head.alloca(kind, self.i64(max(length, 1)))

    def _choice(self, choice: Choice) -> None:
        after = self.function.append_basic_block("after")
        for conditions, calls in choice.cases:
            otherwise = None
            if conditions:
                taken = self.function.append_basic_block("case")
                otherwise = self.function.append_basic_block("otherwise")
                self.body.cbranch(self._holds(conditions), taken, otherwise)
                self.body.position_at_end(taken)
            for call in calls:
                assert isinstance(call, Call)
                self._call(call)
            self.body.branch(after)
            if otherwise is None:
                break
            self.body.position_at_end(otherwise)
        else:
            self.body.branch(after)
        self.body.position_at_end(after)

    def _holds(self, conditions: Sequence[Condition]) -> Any:
        found = None
        for one in conditions:
            left, right = self.formulas.of(one.left), self.formulas.of(one.right)
            true = self.body.icmp_signed(one.relation, left, right)
            found = true if found is None else self.body.and_(found, true)
        return found

    def _call(self, call: Call) -> None:
        units = self.formulas.of(call.units)
        if call.units.constant is None:
            body, after = self.function.append_basic_block("work"), self.function.append_basic_block("done")
            self.body.cbranch(self.body.icmp_signed(">", units, self.i64(0)), body, after)
            self.body.position_at_end(body)
        elif call.units.constant <= 0:
            return
        else:
            after = None
        for i, place in enumerate(call.buffers):
            self.body.store(self._address(place), self._at(self.body, self.buffers, i, self.ptr))
        for i, size in enumerate(call.params):
            self.body.store(self.formulas.of(size), self._at(self.body, self.params, i, self.i64))
        kernel = self.module.globals[call.kernel]
        # A kernel in the flow's own function would cost registers and compile time, and is called once anyway.
        kernel.attributes.add("noinline")
        if self.flow.threads > 1 and call.units != 1:
            self._forked(call, kernel, units)
        else:
            self._direct(kernel, units)
        if after is not None:
            self.body.branch(after)
            self.body.position_at_end(after)

    def _direct(self, kernel: Any, units: Any) -> None:
        self.body.call(kernel, [self.buffers, self.params, self.i64(0), units, self.given["scratch"]])

    def _forked(self, call: Call, kernel: Any, units: Any) -> None:
        from mlsysopt.compile.codegen.threads import emit_fork

        fork = emit_fork(self.module, self.isa)
        large = self.body.icmp_signed(">=", self.formulas.of(call.work), self.i64(FORK_NS))
        with self.body.if_else(large) as (several, one):
            with several:
                per_thread = self.formulas.aligned(self.formulas.of(call.scratch_bytes), _LINE)
                threads = self.i64(self.flow.threads)
                given = [kernel, self.buffers, self.params, units, threads, self.given["scratch"], per_thread]
                self.body.call(fork, [*given, self.given["fork"]], cconv="fastcc")
            with one:
                self._direct(kernel, units)

    def _address(self, place: Place) -> Any:
        found = self.addresses.get(place)
        if found is None:
            base = self._base(place.kind, place.index)
            if place.offset != 0:
                base = self._byte(base, self.formulas.of(place.offset))
            found = self.addresses[place] = base
        return found

    def _base(self, kind: str, index: int) -> Any:
        if kind == "none":
            return self.ptr(None)
        if kind == "fault":
            return self._byte(self.given["faults"], self.i64(8 * index))
        if kind == "slot":
            return self._byte(self.given["arena"], self._start(index))
        key = kind, index
        if key not in self.addresses:
            array = self.given[f"{kind}s"]
            self.addresses[key] = self.head.load(self._at(self.head, array, index, self.ptr), typ=self.ptr)
        return self.addresses[key]

    def _start(self, slot: int) -> Any:
        while len(self.starts) <= slot:
            size = self.formulas.of(self.flow.slots[len(self.starts) - 1])
            self.starts.append(self.head.add(self.starts[-1], self.formulas.aligned(size, _LINE)))
        return self.starts[slot]

    def _byte(self, base: Any, offset: Any) -> Any:
        from llvmlite import ir

        return self.head.gep(base, [offset], source_etype=ir.IntType(8))

    def _at(self, builder: ir.IRBuilder, array: Any, index: int, kind: Any) -> Any:
        return builder.gep(array, [self.i64(index)], source_etype=kind)


def _loaded_symbols(builder: ir.IRBuilder, dims: Any, symbols: Sequence[str]) -> dict[str, Any]:
    from llvmlite import ir

    i64 = ir.IntType(64)
    return {
        name: builder.load(builder.gep(dims, [i64(i)], source_etype=i64), typ=i64) for i, name in enumerate(symbols)
    }


def _write_sizes(module: ir.Module, flow: Flow, reports: Sequence[Dim]) -> None:
    from llvmlite import ir

    ptr, i64 = ir.PointerType(), ir.IntType(64)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [ptr, ptr]), "sizes")
    function.attributes.add("nounwind")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    formulas = Formulas(builder, _loaded_symbols(builder, function.args[0], flow.symbols))
    arena = i64(0)
    for size in flow.slots:
        arena = builder.add(arena, formulas.aligned(formulas.of(size), _LINE))
    needed = {call.scratch_bytes: None for call in _calls(flow.steps)}
    most = formulas.largest([formulas.aligned(formulas.of(size), _LINE) for size in needed])
    scratch = builder.mul(most, i64(flow.threads))
    for i, value in enumerate([arena, scratch, *(formulas.of(size) for size in reports)]):
        builder.store(value, builder.gep(function.args[1], [i64(i)], source_etype=i64))
    builder.ret_void()
