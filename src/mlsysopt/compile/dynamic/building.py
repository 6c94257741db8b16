"""From a program to its executable: planned, lowered, compiled, checked; what fails is undone and said."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from mlsysopt.compile.codegen.flow import emit
from mlsysopt.compile.codegen.objects import Library
from mlsysopt.compile.codegen.target import Isa, host_isa, new_module
from mlsysopt.compile.codegen.workshop import Workshop
from mlsysopt.compile.codegen.workshop import build as build_library
from mlsysopt.compile.dynamic.binding import Binding
from mlsysopt.compile.dynamic.callouts import listed, refuse
from mlsysopt.compile.dynamic.check import Failure, Trials, check
from mlsysopt.compile.dynamic.executable import Executable, reports_of
from mlsysopt.compile.dynamic.fuse import plan as fused
from mlsysopt.compile.dynamic.groups import Foreign, Fusion, FusionGroup
from mlsysopt.compile.dynamic.kernels import emit_group, lower_group
from mlsysopt.compile.dynamic.lower import Lowering
from mlsysopt.compile.dynamic.plan import Plan
from mlsysopt.compile.dynamic.products import lower_anchor
from mlsysopt.compile.dynamic.roles import Supports
from mlsysopt.compile.dynamic.weights import Weights
from mlsysopt.compile.errors import CodegenError, CompileError, NumericsError
from mlsysopt.compile.options import Options
from mlsysopt.core.errors import MlsysoptError
from mlsysopt.graph.ir import Graph
from mlsysopt.graph.ops.registry import lookup

if TYPE_CHECKING:
    from mlsysopt.compile.variants.decision import Decision

__all__ = ["build"]

log = logging.getLogger("mlsysopt.compile")


@dataclass(frozen=True, slots=True)
class _Stage:
    """How much is left to generated code.

    Attributes:
        name: For messages.
        fuse: Whether ops share kernels.
        native: Whether there are kernels at all; otherwise every op runs where its framework runs it.
        apart: Ops that may not share a kernel.
        outside: Ops that have no kernel that works.
    """

    name: str
    fuse: bool = True
    native: bool = True
    apart: frozenset[str] = frozenset()
    outside: frozenset[str] = frozenset()


_STAGES = (_Stage("fused kernels"), _Stage("one kernel for each op", fuse=False), _Stage("no kernels", native=False))


def build(
    graph: Graph,
    options: Options | None = None,
    decisions: Mapping[str, Decision] | None = None,
    *,
    origin: Graph | None = None,
    stages: dict[str, float] | None = None,
) -> Executable:
    """Compile a program for every size that its facts allow.

    Kernels that LLVM refuses are split into their ops, and ops go through torch in the end. An executable that fails
    its check is built again with less, unless `options.strict` is set.

    Args:
        graph: The program.
        options: How; defaults when None.
        decisions: Op -> kernels by number of rows, for products with constant weights; others take packed panels.
        origin: The program before passes changed it, None for `graph`: checks compare with it, its weights are watched.
        stages: Takes the seconds of processor time of each stage.

    Raises:
        CompileError: an op without native form where `fallback` is "error", or sizes that no input says.
        NumericsError: results are further from the reference than allowed, and `strict` or `error` is set.

    >>> from mlsysopt.graph import Builder, f32
    >>> import numpy as np
    >>> b = Builder("twice")
    >>> x = b.input("x", f32["N"])
    >>> build(b.finish([b.op("add", x, x)]))(np.ones(3, np.float32))
    array([2., 2., 2.], dtype=float32)
    """
    chosen = options or Options()
    spent = _Stopwatch(stages if stages is not None else {})
    _refuse_sizes_of_data(graph)
    with spent("fuse"):
        fusion = fused(graph, supports=_supports())
    notes: list[str] = []
    work = _Work(origin or graph, fusion, chosen, decisions or {}, notes, spent)
    for stage in _STAGES:
        executable = _built(work, stage)
        if chosen.check == "none":
            return executable
        with spent("check"):
            failure = check(executable, work.trials)
            if failure is None:
                return executable
            _undone(executable, stage, failure, chosen, notes)
    log.warning("%s: every stage failed its check; it runs op by op, unchecked", graph.name)
    return executable  # pyright: ignore[reportPossiblyUnboundVariable]


@dataclass(frozen=True, slots=True)
class _Stopwatch:
    """Adds up the processor time of stages, each on the thread that does it."""

    stages: dict[str, float]

    @contextmanager
    def __call__(self, name: str) -> Generator[None]:
        begin = time.thread_time()
        try:
            yield
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + time.thread_time() - begin


@dataclass
class _Work:
    """What all stages of one build have in common."""

    graph: Graph
    fusion: Fusion
    options: Options
    decisions: Mapping[str, Decision]
    notes: list[str]
    spent: _Stopwatch

    @cached_property
    def trials(self) -> Trials:
        """What every stage is checked on."""
        return Trials(self.graph)


def _undone(executable: Executable, stage: _Stage, failure: Failure, options: Options, notes: list[str]) -> None:
    """Note that a stage failed.

    Raises:
        NumericsError: it may not be undone, or is the user's own limit.
    """
    from mlsysopt.compile.dynamic.locate import first_wrong
    from mlsysopt.graph.domains.inputs import random_inputs

    step = first_wrong(executable, random_inputs(executable.source, failure.sizes))
    line = f"{stage.name}: {failure}{f', first at {step}' if step else ''}"
    if options.strict or options.error is not None:
        raise NumericsError(f"{executable.graph.name}: {line}")
    log.warning("%s: %s; undone", executable.graph.name, line)
    notes.append(f"undone after its check: {line}")


def _built(work: _Work, stage: _Stage) -> Executable:
    graph, fusion, options = work.graph, work.fusion, work.options
    isa = host_isa(options.isa)
    while True:
        lowering = Lowering(fusion.graph, fusion.layouts, new_module(graph.name), isa, options, work.decisions)
        try:
            plan, library, weights = _compiled(work, lowering, stage)
            break
        except _Refused as refused:
            work.notes.append(f"LLVM refused a kernel, its ops are done apart: {refused}")
            log.warning("%s: %s", graph.name, work.notes[-1])
            stage = refused.without(stage)
    if options.fallback == "error":
        refuse(plan.outsides, fusion.graph)
    for line in listed(plan.outsides, fusion.graph):
        log.info("%s: %s", graph.name, line)
    return Executable(fusion.graph, plan, library, isa, options, source=graph, notes=work.notes, weights=weights)


def _compiled(work: _Work, lowering: Lowering, stage: _Stage) -> tuple[Plan, Library, Weights]:
    """Write and compile; while LLVM works, weights are packed and the results computed that the check compares with."""
    graph, isa, spent = work.fusion.graph, lowering.isa, work.spent
    with Workshop(isa, cached=work.options.cache, timed=lambda: spent("compile")) as workshop:
        with spent("emit"):
            _lower(lowering, work.fusion, stage, workshop)
            plan = lowering.finish()
            plan = replace(plan, missed=tuple(map(str, work.fusion.missed)) if stage.fuse else ())
            _ = Binding(graph, plan.flow.symbols)  # refuses sizes that no input says, before anything waits for LLVM
            emit(lowering.module, isa, plan.flow, reports_of(graph, plan))
            workshop.hand_over(lowering.module)
        with spent("pack"):
            weights = Weights(graph, plan.weights, isa)
        if work.options.check != "none":
            with spent("check"):
                _ = work.trials
        try:
            return plan, workshop.linked(), weights
        except CodegenError:
            if stage.native:
                _blame(work.fusion, stage, isa)
            raise


class _Refused(Exception):
    """A group that LLVM or an emitter does not take."""

    def __init__(self, group: FusionGroup, why: Exception) -> None:
        super().__init__(f"{group.label}: {why}")
        self.group = group

    def without(self, stage: _Stage) -> _Stage:
        """Return the stage with the group split, or with its only op left to Python."""
        names = frozenset(op.name for op in self.group.ops)
        if len(self.group.ops) > 1 and not names <= stage.apart:
            return replace(stage, apart=stage.apart | names)
        return replace(stage, outside=stage.outside | names)


def _lower(lowering: Lowering, fusion: Fusion, stage: _Stage, workshop: Workshop) -> None:
    for step in fusion.steps:
        if isinstance(step, Foreign):
            lowering.add(lowering.outside(step.op, "no native form"))
        elif not stage.native:
            for op in step.ops:
                lowering.add(lowering.outside(op, "left to the framework"))
        elif isinstance(step, FusionGroup):
            for group in _split(step, fusion, stage):
                _lower_group(lowering, group, fusion, stage)
        else:
            lower_anchor(lowering, step)
        lowering.module = workshop.advanced(lowering.module)


def _lower_group(lowering: Lowering, group: FusionGroup, fusion: Fusion, stage: _Stage) -> None:
    if all(op.name in stage.outside for op in group.ops):
        for op in group.ops:
            lowering.add(lowering.outside(op, "its kernel was refused"))
        return
    try:
        lower_group(lowering, group, fusion)
    except (MlsysoptError, NotImplementedError) as error:
        raise _Refused(group, error) from error


def _split(group: FusionGroup, fusion: Fusion, stage: _Stage) -> list[FusionGroup]:
    """Return a group as it is, or one for each of its ops."""
    if len(group.ops) == 1 or (stage.fuse and not stage.apart & {op.name for op in group.ops}):
        return [group]
    return [FusionGroup((op,), op.operands, op.results, group.kind, group.inlined) for op in group.ops]


def _blame(fusion: Fusion, stage: _Stage, isa: Isa) -> None:
    """Compile kernels one by one; raise _Refused for the first that LLVM does not take."""
    for step in fusion.groups:
        for group in _split(step, fusion, stage):
            module = new_module(f"refused_{group.outputs[0].name}")
            try:
                emit_group(module, isa, group, fusion)
                build_library(module, isa, cached=False)
            except MlsysoptError as error:
                raise _Refused(group, error) from error


def _supports() -> Supports:
    from mlsysopt.compile.codegen.row import supports

    return supports


def _refuse_sizes_of_data(graph: Graph) -> None:
    fresh = [op for op in graph.ops if lookup(op.kind).fresh]
    if fresh:
        raise CompileError(
            f"{fresh[0].where()} makes a size that depends on data; an executable reads all sizes off its inputs: "
            "leave this op to the program around it"
        )
