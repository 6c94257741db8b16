"""What calls have cost, and what one may cost before it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlsysopt.graph.symbolic import Dim

__all__ = ["MemoryBound", "Stats", "said"]


@dataclass(frozen=True, slots=True)
class Stats:
    """What an executable has done so far.

    Attributes:
        calls: Calls that were finished.
        recompiles: Always 0: one executable serves all sizes.
        copies: Inputs that had to be copied: their memory was not contiguous, or not as their library takes it.
        call_outs: Steps that left native code.
        arena_bytes: Bytes of intermediate results that the latest call asked for.
        held_bytes: Bytes of arenas that are held now, scratch included.
        peak_bytes: Most bytes, scratch included, that a call asked for.
    """

    calls: int
    recompiles: int
    copies: int
    call_outs: int
    arena_bytes: int
    held_bytes: int
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class MemoryBound:
    """Memory of one call, beside inputs and weights, before it runs.

    Attributes:
        arena: Bytes of intermediate results, a formula.
        scratch: Bytes of the kernels' scratch, a formula.
        outputs: Bytes of the outputs, a formula.
        weights_bytes: Bytes of packed weights, there all the time.
        sizes: Sizes of the symbols, {} when none were given.
    """

    arena: Dim
    scratch: Dim
    outputs: Dim
    weights_bytes: int
    sizes: Mapping[str, int]

    @property
    def formula(self) -> Dim:
        """All bytes that a call allocates."""
        return self.arena + self.scratch + self.outputs

    @property
    def bytes(self) -> int:
        """The formula at the sizes.

        Raises:
            UsageError: a symbol without a size.
        """
        return self.formula.at(self.sizes)

    def __str__(self) -> str:
        number = f" = {self.bytes} B at {said(self.sizes)}" if self.formula.symbols <= self.sizes.keys() else ""
        return (
            f"{self.formula} B{number} (arena {self.arena}, scratch {self.scratch}, outputs {self.outputs}; "
            f"packed weights {self.weights_bytes} B beside it)"
        )


def said(sizes: Mapping[str, int]) -> str:
    """Return sizes for a message.

    >>> said({"B": 2, "S": 37})
    'B=2, S=37'
    """
    return ", ".join(f"{name}={size}" for name, size in sizes.items()) or "fixed sizes"
