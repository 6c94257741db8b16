"""Memory of a call: one arena and the arrays of addresses, taken from a pool and given back.

Arenas are mapped and not allocated, so that one that grew gives all of the smaller one back to the system.
"""

from __future__ import annotations

import ctypes
import mmap
from dataclasses import dataclass

from mlsysopt.compile.errors import CompileError

__all__ = ["Arenas", "Context", "Usage"]

_LINE = 64
_PAGE = mmap.PAGESIZE
_GROWTH = 1.5
_IDLE = 16
"""Contexts that wait for a call; more calls than that at once are served, their contexts are not kept."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What contexts have counted.

    Attributes:
        calls: Calls that were finished.
        copies: Inputs that had to be copied.
        call_outs: Steps that left native code.
        arena_bytes: Bytes that the latest call asked for.
        held_bytes: Bytes of all arenas now.
        peak_bytes: Most bytes that a call asked for.
    """

    calls: int
    copies: int
    call_outs: int
    arena_bytes: int
    held_bytes: int
    peak_bytes: int


class Context:
    """What one call needs, and what it counts; never shared by two calls at a time.

    Attributes:
        arena: Address of the arena, a multiple of 64.
        scratch: Address of scratch, behind the arena.
        inputs, outputs: Arrays of addresses.
        faults: Numbers that kernels set where an index is outside.
    """

    __slots__ = (
        "_held", "_map", "arena", "call_outs", "calls", "copies", "faults", "faults_at", "inputs", "inputs_at",
        "outputs", "outputs_at", "peak", "scratch",
    )  # fmt: skip

    def __init__(self, inputs: int, outputs: int, faults: int = 1) -> None:
        self.inputs = (ctypes.c_void_p * max(inputs, 1))()
        self.outputs = (ctypes.c_void_p * max(outputs, 1))()
        self.faults = (ctypes.c_int64 * max(faults, 1))()
        self.inputs_at, self.outputs_at, self.faults_at = map(
            ctypes.addressof, (self.inputs, self.outputs, self.faults)
        )
        self.arena = self.scratch = 0
        self.calls = self.copies = self.call_outs = self.peak = 0
        self._map: mmap.mmap | None = None
        self._held = 0

    @property
    def held_bytes(self) -> int:
        """Bytes that are mapped."""
        return self._held

    def reserve(self, arena: int, scratch: int, most: int | None) -> None:
        """Make room for a call.

        Args:
            arena: Bytes of the arena, a multiple of 64.
            scratch: Bytes of scratch.
            most: Bytes of both that no allowed call exceeds, None when that is not known.

        Raises:
            CompileError: the system has not so much memory.
        """
        needed = arena + scratch
        if needed > self._held:
            self._grow(needed, most)
        self.scratch = self.arena + arena
        if needed > self.peak:
            self.peak = needed

    def _grow(self, needed: int, most: int | None) -> None:
        wished = max(needed, int(self._held * _GROWTH))
        if most is not None:
            wished = max(needed, min(wished, most))
        length = -(-wished // _PAGE) * _PAGE
        # The old one goes first: its contents are of no use, and both together would be the peak.
        self._map, self._held = None, 0
        try:
            self._map = mmap.mmap(-1, length)
        except (OSError, ValueError, OverflowError) as error:
            raise CompileError(f"this call needs {length} bytes of memory: {error}; use smaller sizes") from None
        self.arena = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self._held = length


class Arenas:
    """A pool of contexts.

    Args:
        inputs: Inputs of a call.
        outputs: Outputs of a call.
        faults: Steps that may find an index outside.
        most: Bytes of arena and scratch that no allowed call exceeds, None when that is not known.
    """

    def __init__(self, inputs: int, outputs: int, faults: int = 0, most: int | None = None) -> None:
        self._counts = inputs, outputs, faults
        self._most = most
        # Taking from a list and giving back to it are single steps of the interpreter: no lock is needed.
        self._idle: list[Context] = []
        self._all: dict[int, Context] = {}
        self._gone = [0, 0, 0, 0]
        self._latest = 0

    def take(self) -> Context:
        """Return a context; give it back after the call."""
        try:
            return self._idle.pop()
        except IndexError:
            context = Context(*self._counts)
            self._all[id(context)] = context
            return context

    def reserve(self, context: Context, arena: int, scratch: int) -> None:
        """Make room for a call in a context that was taken."""
        context.reserve(arena, scratch, self._most)
        self._latest = arena

    def give(self, context: Context) -> None:
        """Let another call have a context."""
        if len(self._idle) < _IDLE:
            self._idle.append(context)
            return
        gone = self._gone
        for i, count in enumerate((context.calls, context.copies, context.call_outs)):
            gone[i] += count
        gone[3] = max(gone[3], context.peak)
        self._all.pop(id(context), None)

    def usage(self) -> Usage:
        """Return what all contexts have counted so far."""
        contexts = list(self._all.values())
        calls, copies, call_outs, peak = self._gone
        return Usage(
            calls + sum(one.calls for one in contexts),
            copies + sum(one.copies for one in contexts),
            call_outs + sum(one.call_outs for one in contexts),
            self._latest,
            sum(one.held_bytes for one in contexts),
            max([peak, *(one.peak for one in contexts)]),
        )
