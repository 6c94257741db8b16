"""One call: what follows from its sizes, and where each of its places is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlsysopt.compile.codegen.steps import CallOut, Place
from mlsysopt.compile.dynamic.arena import Context
from mlsysopt.compile.dynamic.callouts import Outer
from mlsysopt.compile.dynamic.weights import Weights

__all__ = ["Sized", "Stage", "address_of"]


@dataclass(frozen=True, slots=True)
class Sized:
    """What follows from sizes.

    Attributes:
        sizes: Size of each symbol.
        dims: The same as an array, kept alive.
        dims_at: Its address.
        arena, scratch: Bytes.
        shapes: Shape of each output.
        starts: Where each slot starts in the arena.
        empty: Whether no output has an element.
    """

    sizes: Mapping[str, int]
    dims: Any
    dims_at: int
    arena: int
    scratch: int
    shapes: tuple[tuple[int, ...], ...]
    starts: tuple[int, ...]
    empty: bool


@dataclass(frozen=True, slots=True)
class Stage:
    """A call that is set up; see `Executable.staged`."""

    sized: Sized
    context: Context
    weights: Weights
    outers: Sequence[Outer]
    held: object

    @property
    def scratch(self) -> int:
        """Address of scratch."""
        return self.context.scratch

    def address(self, place: Place) -> int:
        """Return the address of a place."""
        return address_of(place, self.sized, self.context, self.weights)

    def call_out(self, step: CallOut) -> None:
        """Carry out a step without native form."""
        self.outers[step.function](self.address, self.sized.sizes)


def address_of(place: Place, prepared: Sized, context: Context, weights: Weights) -> int:
    """Return the address that a place has in one call."""
    i = place.index
    if place.kind == "input":
        start = context.inputs[i] or 0
    elif place.kind == "output":
        start = context.outputs[i] or 0
    elif place.kind == "constant":
        start = weights.at(i)
    elif place.kind == "slot":
        start = context.arena + prepared.starts[i]
    elif place.kind == "fault":
        start = context.faults_at + 8 * i
    else:
        return 0
    return start + place.offset.at(prepared.sizes)
