"""Groups of fused ops, lowered: each becomes one kernel, equal ones share it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlsysopt.compile.codegen.kernel import Kernel
from mlsysopt.compile.codegen.steps import Place
from mlsysopt.compile.dynamic.groups import Fusion, FusionGroup
from mlsysopt.compile.dynamic.lower import Buffer, Lowering
from mlsysopt.compile.dynamic.schedule import Scheduled, in_place, program
from mlsysopt.graph.ir import Value
from mlsysopt.graph.symbolic import maximum

if TYPE_CHECKING:
    from llvmlite import ir

    from mlsysopt.compile.codegen.target import Isa

__all__ = ["emit_group", "lower_group"]

# Bytes and simple operations of one lane that a thread does in a nanosecond, roughly: what decides about forks.
_BYTES_PER_NS = 12
_OPS_PER_NS = 8


def lower_group(lowering: Lowering, group: FusionGroup, fusion: Fusion) -> None:
    """Append the kernel of a group.

    Raises:
        CodegenError: the emitter does not know something in it.
    """
    scheduled, kernel = emit_group(lowering.module, lowering.isa, group, fusion)
    buffers: list[Buffer] = []
    for value in scheduled.arguments:
        if value is None:
            buffers.append(Place("fault", lowering.faults))
            lowering.faults += 1
        else:
            buffers.append(lowering.ref(value))
    moved = scheduled.moved // _BYTES_PER_NS
    computed = scheduled.elements * scheduled.work // (_OPS_PER_NS * lowering.isa.lanes)
    reads, writes = _touched(scheduled)
    lowering.add(
        lowering.call(
            kernel,
            buffers,
            scheduled.params,
            reads=reads,
            writes=writes,
            label=group.label,
            ops=[op.name for op in group.ops],
            work=maximum(moved, computed),
            reuses=_reusable(scheduled, writes),
        )
    )


def emit_group(module: ir.Module, isa: Isa, group: FusionGroup, fusion: Fusion) -> tuple[Scheduled, Kernel]:
    """Write the kernel of a group into a module, unless an equal one is there.

    Raises:
        CodegenError: the emitter does not know something in it.
    """
    from mlsysopt.compile.codegen.row import emit

    scheduled = program(group, fusion)
    return scheduled, emit(module, isa, scheduled.program)


def _touched(scheduled: Scheduled) -> tuple[list[Value], list[Value]]:
    reads: list[Value] = []
    writes: list[Value] = []
    for value, argument in zip(scheduled.arguments, scheduled.program.arguments, strict=True):
        if value is not None:
            (writes if argument.written else reads).append(value)
    return reads, writes


def _reusable(scheduled: Scheduled, writes: list[Value]) -> Value | None:
    """Return the operand whose bytes the first result may take."""
    for written, read in in_place(scheduled):
        if writes and scheduled.arguments[written] is writes[0]:
            return scheduled.arguments[read]
    return None
