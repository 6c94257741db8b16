"""Sizes that pass through floating point: `floor(cast(size) * 2.0)`, as scaling of images is exported.

A fraction of a size is kept as formula and denominator, so that the integer it becomes in the end
is a formula again. Factors are exact fractions of small numbers; others stay arithmetic on data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mlsysopt.graph.facts import Answer
from mlsysopt.graph.importers.symbolic_values import LARGEST, Sizes, filled
from mlsysopt.graph.symbolic import Dim, ceildiv

if TYPE_CHECKING:
    from mlsysopt.graph.importers.onnx_ops.node import Node

__all__ = ["Ratio", "Ratios", "ratios_of", "sizes_of_ratios"]

Array: TypeAlias = Any

_LARGEST_DENOMINATOR = 4096
"""A factor that people mean, such as 0.5 or 1.25; the float nearest to 0.3 has 2**25."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """A formula over a number >= 1."""

    above: Dim
    below: int = 1

    def scaled(self, factor: Fraction) -> Ratio:
        return Ratio(self.above * factor.numerator, self.below * factor.denominator)

    def floor(self) -> Dim:
        return self.above // self.below

    def ceil(self) -> Dim:
        return ceildiv(self.above, self.below)


@dataclass(frozen=True, slots=True)
class Ratios:
    """A tensor of reals that follow from sizes; an object array of `Ratio`."""

    array: Array


def ratios_of(node: Node) -> Ratios | None:
    """Return what a node computes from sizes in floating point, None when it does not."""
    compute = _FOLDS.get(node.kind) if node.domain == "" else None
    return None if compute is None else compute(node)


def sizes_of_ratios(node: Node) -> Sizes | None:
    """Return the integers that a cast makes of fractions of sizes."""
    if node.kind != "Cast" or node.domain:
        return None
    found, to = node.ratios(0), node.dtype_attr("to")
    if found is None or not to.is_int:
        return None
    whole: list[Dim] = []
    for one in found.array.reshape(-1):
        # A cast rounds toward zero; for what is not negative that is the floor.
        if one.below != 1 and node.facts.le(0, one.above) is not Answer.YES:
            return None
        whole.append(one.floor())
    return Sizes(filled(found.array.shape, whole), to)


def _factor(number: float) -> Fraction | None:
    if not np.isfinite(number) or number == 0:
        return None
    exact = Fraction(float(number))
    return exact if exact.denominator <= _LARGEST_DENOMINATOR else None


def _cast(node: Node) -> Ratios | None:
    if not node.dtype_attr("to").is_float:
        return None
    found, sizes = node.ratios(0), node.sizes(0)
    if found is not None:
        return found
    if sizes is None or sizes.is_known or sizes.array.size > LARGEST:
        return None
    return Ratios(filled(sizes.array.shape, [Ratio(one) for one in sizes.dims]))


def _scaled(node: Node) -> Ratios | None:
    left, right = node.ratios(0), node.numbers(1)
    if left is None and node.kind == "Mul":
        left, right = node.ratios(1), node.numbers(0)
    if left is None or right is None:
        return None
    ratios, numbers = np.broadcast_arrays(left.array, np.asarray(right))
    made: list[Ratio] = []
    for one, number in zip(ratios.reshape(-1), numbers.reshape(-1), strict=True):
        factor = _factor(number)
        if factor is None or (node.kind == "Div" and factor < 0):
            return None
        made.append(one.scaled(1 / factor if node.kind == "Div" else factor))
    return Ratios(filled(ratios.shape, made))


def _rounded(node: Node) -> Ratios | None:
    found = node.ratios(0)
    if found is None:
        return None
    up = node.kind == "Ceil"
    return Ratios(
        filled(found.array.shape, [Ratio(one.ceil() if up else one.floor()) for one in found.array.reshape(-1)])
    )


def _moved(node: Node) -> Ratios | None:
    parts = [node.ratios(i) for i in range(len(node.inputs) if node.kind == "Concat" else 1)]
    arrays: Sequence[Array] = [one.array for one in parts if one is not None]
    if len(arrays) != len(parts):
        return None
    if node.kind == "Concat":
        return Ratios(np.concatenate(arrays, axis=node.attr("axis", 0)))
    axes = node.ints(1)
    if axes is None:
        return Ratios(arrays[0].squeeze()) if node.kind == "Squeeze" and not node.has(1) else None
    return Ratios(np.expand_dims(arrays[0], axes) if node.kind == "Unsqueeze" else arrays[0].squeeze(axes))


def _same(node: Node) -> Ratios | None:
    return node.ratios(0)


_FOLDS: dict[str, Callable[[Node], Ratios | None]] = {
    "Cast": _cast, "Mul": _scaled, "Div": _scaled, "Floor": _rounded, "Ceil": _rounded, "Identity": _same,
    "Concat": _moved, "Unsqueeze": _moved, "Squeeze": _moved,
}  # fmt: skip
