"""Where the parts of a value live: DTensor's words, as names and sizes only.

Speeds, links and memories of devices belong to whoever prices a placement; a program that was
never placed carries `None` and nobody pays for this.

References:
    Santhanam, Krishna, Tomioka, Fitzgibbon, *DistIR*, EuroMLSys 2021: types that carry a device.
    Wanchao Liang et al., *PyTorch DTensor*: shard, replicate, partial.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mlsysopt.core.errors import UsageError

__all__ = ["Axis", "Mesh", "Partial", "Placement", "Replicate", "Shard"]


@dataclass(frozen=True, slots=True)
class Mesh:
    """A grid of devices.

    Attributes:
        axes: Name of each axis of the grid.
        sizes: Devices along each axis, each >= 1.

    >>> Mesh(("data", "model"), (2, 4)).devices
    8
    """

    axes: tuple[str, ...]
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.axes) != len(self.sizes) or len(set(self.axes)) != len(self.axes) or min(self.sizes, default=1) < 1:
            raise UsageError(f"mesh: axes {self.axes} need distinct names and one size >= 1 each, got {self.sizes}")

    @property
    def devices(self) -> int:
        return math.prod(self.sizes)

    def __str__(self) -> str:
        return ", ".join(f"{name}={size}" for name, size in zip(self.axes, self.sizes, strict=True))


@dataclass(frozen=True, slots=True)
class Shard:
    """Split along one axis of the tensor.

    Attributes:
        axis: Axis of the tensor, >= 0.
        uneven: Whether the last parts may be smaller; otherwise the axis divides.
    """

    axis: int
    uneven: bool = False

    def __str__(self) -> str:
        return f"S{self.axis}{'?' if self.uneven else ''}"


@dataclass(frozen=True, slots=True)
class Replicate:
    """The whole tensor on every device of the axis."""

    def __str__(self) -> str:
        return "R"


@dataclass(frozen=True, slots=True)
class Partial:
    """Every device holds a term; the tensor is their sum."""

    reduction: str = "sum"

    def __post_init__(self) -> None:
        if self.reduction != "sum":
            raise UsageError(f"partial placement: reduction {self.reduction!r} is unknown; allowed is 'sum'")

    def __str__(self) -> str:
        return "P"


Axis = Shard | Replicate | Partial


@dataclass(frozen=True, slots=True)
class Placement:
    """One word per axis of a mesh.

    >>> str(Placement(Mesh(("data", "model"), (2, 4)), (Shard(0), Replicate())))
    '@(data=2, model=4; S0, R)'
    """

    mesh: Mesh
    along: tuple[Axis, ...]

    def __post_init__(self) -> None:
        if len(self.along) != len(self.mesh.axes):
            raise UsageError(f"placement: the mesh has {len(self.mesh.axes)} axes, {len(self.along)} words were given")

    @property
    def is_partial(self) -> bool:
        return any(isinstance(word, Partial) for word in self.along)

    def shards(self, axis: int) -> int:
        """Return into how many parts an axis of the tensor is split."""
        parts = (
            size
            for word, size in zip(self.along, self.mesh.sizes, strict=True)
            if isinstance(word, Shard) and word.axis == axis
        )
        return math.prod(parts)

    def __str__(self) -> str:
        return f"@({self.mesh}; {', '.join(map(str, self.along))})"
