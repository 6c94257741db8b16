"""Windows that slide over spatial axes: the sizes they give and the views they are, for convolution and pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from mlsysopt.graph.ir import Attrs
from mlsysopt.graph.ops.inference import Inference
from mlsysopt.graph.symbolic import Dim, ceildiv

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Windows", "padded", "view"]

Array: TypeAlias = "npt.NDArray[Any]"


@dataclass(frozen=True, slots=True)
class Windows:
    """How windows lie on the spatial axes.

    Attributes:
        kernel: Elements of a window along each axis.
        strides: Distance of two windows.
        padding: Elements added before and after.
        dilation: Distance of two elements of a window.
        ceil: Whether the last window may hang over, as long as it starts inside the input or the
            padding before it (torch's rule).
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    ceil: bool = False

    @classmethod
    def of(cls, attrs: Attrs, kernel: Sequence[int], *, ceil: bool = False) -> Windows:
        """Take strides, padding and dilation from attributes; empty ones are filled in."""
        rank = len(kernel)
        return cls(
            tuple(kernel),
            cast("tuple[int, ...]", attrs.get("strides", ())) or (1,) * rank,
            cast("tuple[tuple[int, int], ...]", attrs.get("padding", ())) or ((0, 0),) * rank,
            cast("tuple[int, ...]", attrs.get("dilation", ())) or (1,) * rank,
            ceil,
        )

    @property
    def extent(self) -> tuple[int, ...]:
        """Elements from the first to the last of a window, along each axis."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    @property
    def elements(self) -> int:
        return math.prod(self.kernel)

    def check(self, rule: Inference, what: str, *, below_kernel: bool = False) -> None:
        """Demand numbers that fit each other.

        Raises:
            TypeRuleError: another number of axes, or a size out of range.
        """
        rank = len(self.kernel)
        for name in ("strides", "padding", "dilation"):
            given = getattr(self, name)
            rule.require(len(given) == rank, f"{what}: {name} {given} needs one entry per spatial axis, {rank}")
        for name in ("kernel", "strides", "dilation"):
            given = getattr(self, name)
            rule.require(min(given, default=1) >= 1, f"{what}: {name} {given} must be at least 1")
        for (before, after), extent in zip(self.padding, self.extent, strict=True):
            rule.require(min(before, after) >= 0, f"{what}: padding {self.padding} must not be negative")
            fits = not below_kernel or max(before, after) < extent
            rule.require(fits, f"{what}: padding {self.padding} must be smaller than the window, {self.extent}")

    def sizes(self, rule: Inference, spatial: Sequence[Dim], what: str) -> tuple[Dim, ...]:
        """Return the number of windows along each axis.

        Raises:
            TypeRuleError: a window that is larger than the padded input, for certain.
        """
        counts: list[Dim] = []
        for i, size in enumerate(spatial):
            (before, after), extent = self.padding[i], self.extent[i]
            if self.ceil:
                rule.at_most(Dim.of(1), size, f"{what}: spatial axis {i}")
            else:
                rule.at_most(Dim.of(extent), size + (before + after), f"{what}: window and padded size of axis {i}")
            counts.append(self.count(i, size))
        return tuple(counts)

    def count(self, i: int, size: Dim) -> Dim:
        """Return the number of windows along one axis."""
        (before, after), extent, stride = self.padding[i], self.extent[i], self.strides[i]
        if not self.ceil:
            return (size + (before + after - extent)) // stride + 1
        # ceil((size + before + after - extent) / stride) + 1, and not more than ceil((size + before) / stride),
        # which is the last window that starts inside; one of the two is smaller whatever the size is.
        return ceildiv(size + before + min(0, stride + after - extent), stride)

    def counts(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Return the number of windows along each axis, in numbers.

        Raises:
            ValueError: the input is smaller than one window.
        """
        found = tuple(int(self.count(i, Dim.of(size))) for i, size in enumerate(spatial))
        if min(found, default=1) < 1:
            raise ValueError(
                f"a window of {self.extent} does not fit the input of {tuple(spatial)} padded by {self.padding}"
            )
        return found


def padded(x: Array, windows: Windows, counts: Sequence[int], value: float) -> Array:
    """Return the input as large as its windows need, filled up with one value; axes are N, C, spatial."""
    import numpy as np

    widths: list[tuple[int, int]] = []
    cut: list[slice] = []
    for i, count in enumerate(counts):
        needed = (count - 1) * windows.strides[i] + windows.extent[i]
        before, size = windows.padding[i][0], x.shape[2 + i]
        widths.append((before, max(needed - before - size, 0)))
        cut.append(slice(0, needed))
    if any(pair != (0, 0) for pair in widths):
        x = np.pad(x, ((0, 0), (0, 0), *widths), constant_values=np.asarray(value).astype(x.dtype))
    return x[(slice(None), slice(None), *cut)]


def view(x: Array, windows: Windows, counts: Sequence[int]) -> Array:
    """Return a view of a padded input as N, C, kernel..., windows...; nothing is copied."""
    import numpy as np

    spatial = x.strides[2:]
    kernel = tuple(step * d for step, d in zip(spatial, windows.dilation, strict=True))
    across = tuple(step * s for step, s in zip(spatial, windows.strides, strict=True))
    return np.lib.stride_tricks.as_strided(
        x, (*x.shape[:2], *windows.kernel, *counts), (*x.strides[:2], *kernel, *across), writeable=False
    )
