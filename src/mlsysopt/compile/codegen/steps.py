"""What a flow is made of: calls of kernels on places, sizes as formulas. `flow` turns it into native code.

    i64 run(ptr dims, ptr inputs, ptr outputs, ptr constants, ptr arena, ptr scratch, ptr faults, ptr fork)

`dims` are i64 values of the symbols in the order of `Flow.symbols`; inputs, outputs and constants are arrays of
addresses, `fork` is the address of the thread pool's entry, 0 for one thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mlsysopt.graph.symbolic import Dim

__all__ = ["Call", "CallOut", "Choice", "Condition", "Flow", "Place", "Step"]

ZERO = Dim.of(0)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a buffer is.

    Attributes:
        kind: "input", "output", "constant" (number in the array of that name), "slot" (number of an arena slot),
            "fault" (the flow's fault word) or "none" (address 0).
        index: Its number.
        offset: Bytes from its start.
    """

    kind: str
    index: int = 0
    offset: Dim = ZERO

    def __str__(self) -> str:
        text = f"{self.kind}{self.index}"
        return text if self.offset == 0 else f"{text}+{self.offset}"


NOWHERE = Place("none")


@dataclass(frozen=True, slots=True)
class Call:
    """One kernel call.

    Attributes:
        kernel: Function in the flow's module; see `codegen.kernel`.
        buffers: Its buffers.
        params: Its params, formulas of the symbols.
        units: Units of work, a formula.
        scratch_bytes: Bytes of scratch for each thread, a formula.
        work: Nanoseconds of one thread that the whole call is expected to take; the flow forks above a limit.
        label: What it does, for people: "layer_norm(add) at bert.py:214".
        ops: Names of the graph's ops that it carries out.
    """

    kernel: str
    buffers: tuple[Place, ...]
    params: tuple[Dim, ...]
    units: Dim
    scratch_bytes: Dim = ZERO
    work: Dim = ZERO
    label: str = ""
    ops: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Condition:
    """A comparison of two formulas at run time: `left relation right`, relation "<", "<=", "==" or "!="."""

    left: Dim
    relation: str
    right: Dim

    def holds(self, sizes: dict[str, int]) -> bool:
        a, b = self.left.at(sizes), self.right.at(sizes)
        return {"<": a < b, "<=": a <= b, "==": a == b, "!=": a != b}[self.relation]

    def __str__(self) -> str:
        return f"{self.left} {self.relation} {self.right}"


@dataclass(frozen=True, slots=True)
class CallOut:
    """An op without native form: a Python function of the flow, called between two native segments.

    Attributes:
        function: Number of the function among the executable's call-outs.
        reads: Places of operands.
        writes: Places of results.
        label, ops: As in `Call`.
    """

    function: int
    reads: tuple[Place, ...]
    writes: tuple[Place, ...]
    label: str = ""
    ops: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """The first case whose conditions all hold is taken; the last has none. Cases do the same to the same places."""

    cases: tuple[tuple[tuple[Condition, ...], tuple[Call, ...] | tuple[CallOut, ...]], ...]


Step = Call | CallOut | Choice


@dataclass(frozen=True, slots=True)
class Flow:
    """A whole program as steps.

    Attributes:
        symbols: Names of the sizes that a call gives, in order.
        steps: What is done, in order.
        slots: Bytes of each arena slot, formulas; slot i starts where the slots before it end, each rounded up to
            64 bytes.
        inputs, outputs, constants: How many addresses each array holds.
        threads: Threads that calls may use.
    """

    symbols: tuple[str, ...]
    steps: tuple[Step, ...]
    slots: tuple[Dim, ...] = ()
    inputs: int = 0
    outputs: int = 0
    constants: int = 0
    threads: int = 1

    @property
    def call_outs(self) -> int:
        """How many steps leave native code."""
        return sum(any(isinstance(one, CallOut) for one in calls) for calls in self.alternatives())

    def alternatives(self) -> Iterator[tuple[Call | CallOut, ...]]:
        """Return, for each step, all calls that it may make."""
        for step in self.steps:
            if isinstance(step, Choice):
                yield tuple(call for _, calls in step.cases for call in calls)
            else:
                yield (step,)
