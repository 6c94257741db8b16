"""Small integer tensors that are known as formulas of the symbols.

Exporters write shape arithmetic as tensor programs: `Shape -> Gather -> Mul -> Concat -> Reshape`.
Taken as data, all that follows would have unknown sizes. Here such a tensor is an array of `Dim`s;
`onnx_ops.shapes` computes with it, and no op is left in the program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mlsysopt.graph.atoms import Mod
from mlsysopt.graph.facts import Answer, Facts
from mlsysopt.graph.ir import Value
from mlsysopt.graph.symbolic import Dim, maximum, minimum, multiplied
from mlsysopt.graph.types import DType, boolean, i64

if TYPE_CHECKING:
    from mlsysopt.graph.builder import Builder

__all__ = [
    "LARGEST",
    "Sizes",
    "as_value",
    "filled",
    "missing_size",
    "slice_bounds",
    "truncated_quotient",
]

Array: TypeAlias = Any

LARGEST = 256
"""Elements up to which a tensor of integers is followed symbolically; shapes are far shorter."""

_UNBOUNDED = 2**31 - 1
"""Slice limits from here on mean "to the end" in the files of all exporters."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """An integer or truth-value tensor of known content.

    Attributes:
        array: Object array of `Dim`s, or of bools when `dtype` is bool.
        dtype: Element type.
    """

    array: Array
    dtype: DType = i64

    @staticmethod
    def of(values: Sequence[Dim | int] | Dim | int, dtype: DType = i64) -> Sizes:
        """Return a vector of sizes, or a scalar."""
        if isinstance(values, (Dim, int)):
            return Sizes(filled((), [Dim.of(values)]), dtype)
        return Sizes(filled((len(values),), [Dim.of(one) for one in values]), dtype)

    @staticmethod
    def of_array(array: Array, dtype: DType) -> Sizes:
        """Return a tensor of known numbers."""
        made = [bool(one) if dtype is boolean else Dim.of(int(one)) for one in np.asarray(array).reshape(-1)]
        return Sizes(filled(np.shape(array), made), dtype)

    @property
    def dims(self) -> tuple[Dim, ...]:
        """The elements in row-major order."""
        return tuple(Dim.of(int(one)) if isinstance(one, bool) else one for one in self.array.reshape(-1))

    @property
    def is_known(self) -> bool:
        """Whether no symbol occurs."""
        return self.dtype is boolean or all(one.is_constant for one in self.array.reshape(-1))

    @property
    def ints(self) -> tuple[int, ...] | None:
        """The elements as numbers, None when a symbol occurs."""
        found = [one.constant for one in self.dims]
        return None if any(one is None for one in found) else tuple(one for one in found if one is not None)

    def numbers(self) -> Array:
        """Return the numpy array of a tensor without symbols."""
        flat = [bool(one) if self.dtype is boolean else int(one) for one in self.array.reshape(-1)]
        return np.asarray(flat, self.dtype.numpy()).reshape(self.array.shape)


def as_value(b: Builder, sizes: Sizes, name: str) -> Value:
    """Return a value of the program with this content, where an op needs it as data."""
    shape = sizes.array.shape
    if sizes.is_known:
        if shape == ():
            only = sizes.numbers().item()
            return b.op("full", value=only, shape=(), dtype=sizes.dtype, name=name)
        return b.constant(name, sizes.numbers())
    parts = [b.op("size", dim=one) for one in sizes.dims]
    if shape == ():
        made = parts[0]
    else:
        made = b.op("concat", *(b.op("reshape", part, shape=(1,)) for part in parts), axis=0)
        if len(shape) != 1:
            made = b.op("reshape", made, shape=shape)
    return made if sizes.dtype is i64 else b.op("cast", made, to=sizes.dtype, name=name)


def slice_bounds(start: Dim, end: Dim, size: Dim, facts: Facts) -> tuple[Dim, Dim]:
    """Return `0 <= start <= limit <= size` for ONNX's bounds: negative ones count from the end.

    A bound whose sign the facts do not decide gets an exact formula, not a guess.
    """
    low = _clamped(start, size, facts)
    high = _clamped(end, size, facts)
    if facts.le(low, high) is Answer.YES:
        return low, high
    return low, (low if facts.le(high, low) is Answer.YES else maximum(low, high))


def missing_size(source: Sequence[Dim], others: Sequence[Dim]) -> Dim:
    """Return the size that -1 stands for in a reshape of `source` to `others` and one more axis."""
    left, right = list(source), list[Dim]()
    for size in others:
        if size in left:
            left.remove(size)
        else:
            right.append(size)
    return multiplied(left) // multiplied(right)


def _clamped(bound: Dim, size: Dim, facts: Facts) -> Dim:
    number = bound.constant
    if number is not None and number >= _UNBOUNDED:
        return size
    if number is not None and number <= -_UNBOUNDED:
        return Dim.of(0)
    sign = facts.le(0, bound)
    if sign is Answer.NO:
        bound = bound + size
    elif sign is Answer.UNKNOWN:
        # 1 where the bound is negative, else 0.
        bound = bound + size * minimum(1, maximum(0, -bound))
    if facts.le(0, bound) is not Answer.YES:
        bound = Dim.of(0) if facts.le(bound, 0) is Answer.YES else maximum(0, bound)
    if facts.le(bound, size) is Answer.YES:
        return bound
    return size if facts.le(size, bound) is Answer.YES else minimum(bound, size)


def truncated_quotient(a: Dim, b: Dim, facts: Facts) -> Dim | None:
    """Return `a / b` rounded toward zero as ONNX does, None when signs are not known."""
    if a.constant is not None and b.constant:
        quotient = abs(a.constant) // abs(b.constant)
        return Dim.of(quotient if (a.constant < 0) == (b.constant < 0) else -quotient)
    if facts.le(1, b) is not Answer.YES:
        return None
    if facts.le(0, a) is Answer.YES:
        return a // b
    # Without a remainder the way of rounding does not matter.
    for monomial, coefficient in a.terms:
        for atom in monomial:
            if len(monomial) == 1 and coefficient == -1 and isinstance(atom, Mod) and atom.operands[1] == b:
                return atom.operands[0] // b if a + atom.operands[0] % b == atom.operands[0] else None
    if a % b == 0:
        return a // b
    if facts.le(a, 0) is Answer.YES:
        return -((-a) // b)
    return None


def filled(shape: tuple[int, ...], values: Sequence[Any]) -> Array:
    """Return an object array of this shape."""
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(shape)
