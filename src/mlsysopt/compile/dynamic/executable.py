"""One compiled program: any size of its declared dimensions, no compilation after this point."""

from __future__ import annotations

import ctypes
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from mlsysopt.compile.codegen.flow import Branch, Native, Script, arena_bytes, functions_of, scratch_bytes, script_of
from mlsysopt.compile.codegen.steps import Call, CallOut, Place
from mlsysopt.compile.dynamic.arena import Arenas, Context
from mlsysopt.compile.dynamic.arrays import NumpyKind, TensorKind, TorchKind, kind_of
from mlsysopt.compile.dynamic.binding import Binding, fits, mismatch
from mlsysopt.compile.dynamic.bounds import MemoryBound, Stats, said
from mlsysopt.compile.dynamic.callouts import Outer, outer
from mlsysopt.compile.dynamic.calls import Sized, Stage, address_of
from mlsysopt.compile.dynamic.plan import Plan
from mlsysopt.compile.dynamic.weights import Watch, Weights
from mlsysopt.compile.errors import InputError
from mlsysopt.core.errors import UsageError, near_misses
from mlsysopt.graph.ir import Graph
from mlsysopt.graph.sources import OfTorch
from mlsysopt.graph.symbolic import Dim

if TYPE_CHECKING:
    from mlsysopt.compile.codegen.objects import Library
    from mlsysopt.compile.codegen.target import Isa
    from mlsysopt.compile.dynamic.explain import Explanation
    from mlsysopt.compile.options import Options

__all__ = ["Executable", "reports_of"]

_REMEMBERED = 64
"""Sizes whose arithmetic is kept; more is not worth its memory, the arithmetic takes microseconds."""

_RUN = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_void_p] * 8)
_SIZES = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)


class Executable:
    """A compiled program; call it with its inputs, in order or by name.

    Tensors of torch, arrays of numpy and whatever else speaks DLPack are taken; outputs are of the same kind. One
    output comes back as it is, several as a tuple. Several threads may call at once.

    Args:
        graph: The program that the plan is about.
        plan: What is done.
        library: Its code.
        isa: The vector unit that the code was made for.
        options: What it was compiled with.
        source: The program before it was lowered, None for `graph`: what checks compare with.
        notes: What is worth knowing about how it was made, a line each.
        weights: The plan's, where they are packed already.

    Attributes:
        graph, plan, options, notes: As given.
        stages: CPU seconds of each stage of its compilation; empty where it was loaded.
    """

    def __init__(
        self,
        graph: Graph,
        plan: Plan,
        library: Library,
        isa: Isa,
        options: Options,
        *,
        source: Graph | None = None,
        notes: Sequence[str] = (),
        weights: Weights | None = None,
    ) -> None:
        self.graph, self.plan, self.options = graph, plan, options
        self.source = source if source is not None else graph
        self.stages: dict[str, float] = {}
        self.library, self.isa, self.notes = library, isa, tuple(notes)
        self._binding = Binding(graph, plan.flow.symbols)
        self._inputs, self._outputs = graph.inputs, self._binding.outputs
        self._names = tuple(value.name for value in graph.inputs)
        self._places = tuple(self._outputs.index(value) for value in graph.outputs)
        self._kinds: dict[type | None, TensorKind] = {}
        self._known: dict[Any, Sized] = {}
        self._lock = Lock()
        self._weights = weights or Weights(graph, plan.weights, isa)
        self._watch = Watch(self.source)
        self._outers: list[Outer] = [outer(one, graph) for one in plan.outsides]
        self._script = script_of(plan.flow)
        self._functions = {name: _RUN(library.address(name)) for name in functions_of(self._script)}
        # The usual executable is one native function: no loop over a script then.
        alone = len(self._script) == 1 and isinstance(self._script[0], Native)
        self._single = self._functions["run0"] if alone else None
        self._sizes_of = _SIZES(library.address("sizes"))
        self._fork = _pool() if plan.flow.threads > 1 else 0
        self._lookups = _lookups(plan)
        self._arenas = Arenas(len(self._inputs), len(self._outputs), len(self._lookups), self._most_bytes())
        self._sampled = options.sampled

    # calling

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it.

        Raises:
            InputError: inputs that do not fit; the line names both sides.
            StaleWeights: a weight of the model was changed.
            NumericsError: a sampled check failed.
        """
        if kwargs or len(args) != len(self._names):
            args = self._bound(args, kwargs)
        if self._watch:
            self._watch.check()
        kind = self._kind(args)
        context = self._arenas.take()
        try:
            shapes, held = kind.read(args, context)
            prepared = self._known.get(shapes) or self._prepare(shapes)
            made = kind.make(prepared.shapes, context)
            if not prepared.empty:
                self._arenas.reserve(context, prepared.arena, prepared.scratch)
                self._run(prepared, context, self._weights)
            context.calls += 1
            due = self._sampled and context.calls % self._sampled == 0
        finally:
            self._arenas.give(context)
        if due:
            self._check_call(held, made, prepared.sizes)
        if len(self._places) == 1:
            return kind.finished(made[0])
        return tuple([kind.finished(made[place]) for place in self._places])

    def sized(self, sizes: Mapping[str, int]) -> Sized:
        """Return what follows from sizes of the symbols.

        Raises:
            UsageError: a symbol without a size.
        """
        flow = self.plan.flow
        missing = [name for name in flow.symbols if name not in sizes]
        if missing:
            raise UsageError(f"{self.graph.name} needs a size for {', '.join(missing)}")
        ranks = [value.type.rank for value in self._outputs]
        dims = (ctypes.c_int64 * max(len(flow.symbols), 1))(*[sizes[name] for name in flow.symbols])
        found = (ctypes.c_int64 * (2 + sum(ranks) + len(flow.slots)))()
        self._sizes_of(ctypes.addressof(dims), ctypes.addressof(found))
        arena, scratch, *rest = found
        shapes: list[tuple[int, ...]] = []
        for rank in ranks:
            shapes.append(tuple(rest[:rank]))
            rest = rest[rank:]
        if any(size < 0 for shape in shapes for size in shape):
            raise InputError(f"{self.graph.name} at {said(sizes)}: an output would have the shape {shapes}")
        starts = [0]
        for size in rest:
            starts.append(starts[-1] + -(-size // 64) * 64)
        empty = all(0 in shape for shape in shapes)
        return Sized(sizes, dims, ctypes.addressof(dims), arena, scratch, tuple(shapes), tuple(starts), empty)

    @contextmanager
    def staged(self, inputs: Mapping[str, Any], sizes: Mapping[str, int]) -> Generator[Stage]:
        """Set up one call without running it, for those who want to run its steps one by one.

        Args:
            inputs: Arrays of numpy by name.
            sizes: Size of each symbol.
        """
        sized = self.sized(sizes)
        kind = NumpyKind(self._inputs, self._outputs)
        context = self._arenas.take()
        try:
            held = kind.read([inputs[name] for name in self._names], context)
            made = kind.make(sized.shapes, context)
            self._arenas.reserve(context, sized.arena, sized.scratch)
            yield Stage(sized, context, self._weights, self._outers, (held, made))
        finally:
            self._arenas.give(context)

    def _prepare(self, shapes: Sequence[Sequence[int]]) -> Sized:
        for value, shape in zip(self._inputs, shapes, strict=True):
            if not fits(value, shape):
                raise InputError(mismatch(value, value.type.dtype.name, shape))
        prepared = self.sized(self._binding.sizes(shapes))
        with self._lock:
            while len(self._known) >= _REMEMBERED:
                del self._known[next(iter(self._known))]
            self._known[shapes] = prepared
        return prepared

    def _run(self, prepared: Sized, context: Context, weights: Weights) -> None:
        given = (
            prepared.dims_at,
            context.inputs_at,
            context.outputs_at,
            weights.address,
            context.arena,
            context.scratch,
            context.faults_at,
            self._fork,
        )
        if self._lookups:  # what a call that failed left behind is not this one's
            ctypes.memset(context.faults_at, 0, ctypes.sizeof(context.faults))
        if self._single is not None:
            self._single(*given)
        else:
            self._carry_out(self._script, given, prepared, context, weights)
        for i, label in enumerate(self._lookups):
            if context.faults[i]:
                raise InputError(f"{label}: an index is outside its table, at {said(prepared.sizes)}")

    def _carry_out(
        self, script: Script, given: tuple[int, ...], prepared: Sized, context: Context, weights: Weights
    ) -> None:
        def address(place: Place) -> int:
            return address_of(place, prepared, context, weights)

        for part in script:
            if isinstance(part, Native):
                self._functions[part.function](*given)
            elif isinstance(part, CallOut):
                context.call_outs += 1
                self._outers[part.function](address, prepared.sizes)
            else:
                self._carry_out(_taken(part, prepared.sizes), given, prepared, context, weights)

    def _bound(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        names, name = self._names, self.graph.name
        if len(args) > len(names):
            raise InputError(f"{name}: {len(args)} inputs given, it has {len(names)}: {', '.join(names)}")
        given = dict(zip(names, args, strict=False))
        for word, value in kwargs.items():
            if word not in names:
                raise InputError(f"{name} has no input {word!r}; {near_misses(word, names, noun='input')}")
            if word in given:
                raise InputError(f"{name}: the input {word!r} is given twice")
            given[word] = value
        missing = [f"{value.name}: {value.type}" for value in self._inputs if value.name not in given]
        if missing:
            raise InputError(f"{name}: no value given for {', '.join(missing)}")
        return tuple([given[one] for one in names])

    def _kind(self, args: Sequence[Any]) -> TensorKind:
        """Return what handles tensors like the first input; the others are read whatever they are."""
        first = type(args[0]) if args else None
        found = self._kinds.get(first)
        if found is None:
            name = kind_of(args[0]) if args else "numpy"
            if name == "torch":
                found = TorchKind(self._inputs, self._outputs)
            else:
                found = NumpyKind(self._inputs, self._outputs, args[0] if args and name != "numpy" else None)
            self._kinds[first] = found
        return found

    def _check_call(self, inputs: Sequence[Any], outputs: Sequence[Any], sizes: Mapping[str, int]) -> None:
        from mlsysopt.compile.dynamic.check import check_call

        check_call(self, dict(zip(self._names, inputs, strict=True)), outputs, sizes)

    # asking

    @property
    def stats(self) -> Stats:
        """What it has done so far."""
        used = self._arenas.usage()
        return Stats(
            used.calls, 0, used.copies, used.call_outs, used.arena_bytes, used.held_bytes, used.peak_bytes
        )  # fmt: skip

    @property
    def tolerance(self) -> float:
        """Largest error, relative to the largest element of the reference, that is no mistake."""
        from mlsysopt.compile.dynamic.check import tolerance

        return tolerance(self.source, self.options, [weight.form for weight in self.plan.weights])

    def memory_bound(self, **sizes: int) -> MemoryBound:
        """Return the memory that a call allocates: a formula of the symbols, and a number where sizes are given."""
        outputs = sum((value.type.bytes for value in self._outputs), Dim.of(0))
        flow = self.plan.flow
        return MemoryBound(arena_bytes(flow), scratch_bytes(flow), outputs, self._weights.packed_bytes, sizes)

    def explain(self, *, measure: bool = False, **sizes: int) -> Explanation:
        """Return what was found, fused and chosen, and for given sizes which kernels run and how long.

        Args:
            measure: Whether every step is timed here and now, on random inputs.
            sizes: Sizes of the symbols; those left out take typical ones.
        """
        from mlsysopt.compile.dynamic.explain import explain

        return explain(self, sizes, measure=measure)

    def refresh(self) -> None:
        """Take over the weights of the model as they are now; not while another thread calls.

        Where the program was made from what its weights held - equal ones became one, or were computed with - all of
        it is compiled again.
        """
        before = {constant.name: constant for constant in self.source.constants}
        now = {constant.name: constant for constant in self.graph.constants}
        if before.keys() == now.keys() and all(before[name].source is now[name].source for name in now):
            self._weights = Weights(self.graph, self.plan.weights, self.isa)
            self._outers = [outer(one, self.graph) for one in self.plan.outsides]
            self._watch = Watch(self.source)
        else:
            from mlsysopt.compile.dynamic.building import build

            again = build(_read_anew(self.source), self.options, self.plan.decisions)
            again._arenas = self._arenas
            self.__dict__.update(again.__dict__)

    def save(self, path: str | Path) -> Path:
        """Write it to one file, by convention `.mlx`, that runs without torch where no step leaves native code."""
        from mlsysopt.compile.dynamic.artefact import save

        return save(self, path)

    def __repr__(self) -> str:
        return f"<Executable {self.graph.signature}>"

    def _most_bytes(self) -> int | None:
        """Return arena and scratch at the largest sizes, None where a symbol has no largest one."""
        flow, facts = self.plan.flow, self.graph.facts
        most = {name: facts.range(Dim.of(name))[1] for name in flow.symbols}
        known = {name: high for name, high in most.items() if high is not None}
        if len(known) < len(most):
            return None
        return (arena_bytes(flow) + scratch_bytes(flow)).at(known)


def reports_of(graph: Graph, plan: Plan) -> list[Dim]:
    """Return the formulas that an executable needs for each size: shapes of outputs, bytes of slots."""
    outputs = dict.fromkeys(graph.outputs)
    return [*(size for value in outputs for size in value.shape), *plan.flow.slots]


def _taken(branch: Branch, sizes: Mapping[str, int]) -> Script:
    known = dict(sizes)
    return next(script for conditions, script in branch.cases if all(one.holds(known) for one in conditions))


def _lookups(plan: Plan) -> list[str]:
    """Return what may find an index outside, by number of its fault word."""
    found: dict[int, str] = {}
    for calls in plan.flow.alternatives():
        for call in calls:
            if isinstance(call, Call):
                found.update((place.index, call.label) for place in call.buffers if place.kind == "fault")
    return [found.get(i, "a lookup") for i in range(max(found, default=-1) + 1)]


def _pool() -> int:
    from mlsysopt.compile.codegen.threads import pool

    return pool()


def _read_anew(graph: Graph) -> Graph:
    """Return a program whose weights are known by what they hold now."""
    return replace(
        graph,
        constants=tuple(
            replace(one, source=OfTorch(one.source.tensor)) if isinstance(one.source, OfTorch) else one
            for one in graph.constants
        ),
    )
