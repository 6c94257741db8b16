"""Strides under reshapes: which axes a reshape joins or cuts, and where the elements lie afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from mlsysopt.graph.facts import Answer, Facts
from mlsysopt.graph.symbolic import Dim

__all__ = ["collapsible", "dense", "exact", "refined", "restride", "same", "segments"]

_ZERO, _ONE = Dim.of(0), Dim.of(1)
Segment = tuple[tuple[int, ...], tuple[int, ...]]


def same(a: Dim, b: Dim, facts: Facts) -> bool:
    """Whether two sizes are proven equal."""
    if a == b:
        return True
    if a.is_constant and b.is_constant:
        return False
    return facts.eq(a, b) is Answer.YES


def exact(size: Dim, divisor: Dim) -> Dim | None:
    """Return the quotient when a division leaves no rest whatever the symbols are, else None."""
    if divisor == 0:
        return None
    quotient = size // divisor
    return quotient if quotient * divisor == size else None


def dense(shape: Sequence[Dim]) -> tuple[Dim, ...]:
    """Return row-major strides, in elements; an axis of size 1 has stride 0.

    >>> dense((Dim.of("B"), Dim.of(1), Dim.of("S"), Dim.of(4)))
    (Dim('4*S'), Dim('0'), Dim('4'), Dim('1'))
    """
    strides: list[Dim] = []
    step = _ONE
    for size in reversed(shape):
        strides.append(_ZERO if size == 1 else step)
        step = step * size
    return tuple(reversed(strides))


def segments(shape: Sequence[Dim], other: Sequence[Dim], facts: Facts) -> Iterator[Segment]:
    """Yield the smallest runs of axes of two shapes that hold equally many elements; axes of size 1 are left out."""
    left = [i for i, size in enumerate(shape) if size != 1]
    right = [i for i, size in enumerate(other) if size != 1]
    i = j = 0
    while i < len(left) or j < len(right):
        width = _smallest([shape[k] for k in left[i:]], [other[k] for k in right[j:]], facts)
        if width is None:  # equal as a whole only: the type rule has said so
            yield tuple(left[i:]), tuple(right[j:])
            return
        yield tuple(left[i : i + width[0]]), tuple(right[j : j + width[1]])
        i, j = i + width[0], j + width[1]


def _smallest(xs: Sequence[Dim], ys: Sequence[Dim], facts: Facts) -> tuple[int, int] | None:
    tops = _products(ys)
    for i, product in enumerate(_products(xs), 1):
        for j, other in enumerate(tops, 1):
            if product == other:
                return i, j
    for i, product in enumerate(_products(xs), 1):
        for j, other in enumerate(tops, 1):
            if same(product, other, facts):
                return i, j
    return None


def _products(sizes: Sequence[Dim]) -> list[Dim]:
    found: list[Dim] = []
    for size in sizes:
        found.append(found[-1] * size if found else size)
    return found


def refined(
    xs: Sequence[Dim], ys: Sequence[Dim], facts: Facts
) -> tuple[list[Dim], list[list[int]], list[list[int]]] | None:
    """Cut the axes of one segment into pieces of which both shapes are made.

    Returns:
        Sizes of the pieces, then the pieces of each x axis and of each y axis; None when there are no such pieces,
        as for [4, 6] and [6, 4].
    """
    pieces: list[Dim] = []
    of_x: list[list[int]] = [[] for _ in xs]
    of_y: list[list[int]] = [[] for _ in ys]
    i = j = 0
    left, right = (xs[0] if xs else _ONE), (ys[0] if ys else _ONE)
    while i < len(xs) and j < len(ys):
        if same(left, right, facts):
            piece, after_left, after_right = left, _ONE, _ONE
        elif (rest := exact(right, left)) is not None:
            piece, after_left, after_right = left, _ONE, rest
        elif (rest := exact(left, right)) is not None:
            piece, after_left, after_right = right, rest, _ONE
        else:
            return None
        of_x[i].append(len(pieces))
        of_y[j].append(len(pieces))
        pieces.append(piece)
        left, right = after_left, after_right
        if left == 1:
            i += 1
            left = xs[i] if i < len(xs) else _ONE
        if right == 1:
            j += 1
            right = ys[j] if j < len(ys) else _ONE
    return (pieces, of_x, of_y) if i == len(xs) and j == len(ys) else None


def collapsible(sizes: Sequence[Dim], strides: Sequence[Dim], facts: Facts) -> bool:
    """Whether axes lie behind one another without a gap, so that they may count as one."""
    kept = [(size, stride) for size, stride in zip(sizes, strides, strict=True) if size != 1]
    return all(same(outer, size * inner, facts) for (_, outer), (size, inner) in pairwise(kept))


def restride(
    shape: Sequence[Dim], strides: Sequence[Dim], target: Sequence[Dim], facts: Facts
) -> tuple[Dim, ...] | None:
    """Return the strides of the same elements under another shape, None when no strides say it.

    >>> B, S = Dim.of("B"), Dim.of("S")
    >>> restride((B, S, Dim.of(8)), dense((B, S, Dim.of(8))), (B * S, Dim.of(2), Dim.of(4)), Facts())
    (Dim('8'), Dim('4'), Dim('1'))
    """
    found = [_ZERO] * len(target)
    for left, right in segments(shape, target, facts):
        sizes, steps = [shape[k] for k in left], [strides[k] for k in left]
        wanted = [target[k] for k in right]
        here = _within(sizes, steps, wanted, facts)
        if here is None:
            return None
        for k, stride in zip(right, here, strict=True):
            found[k] = stride
    return tuple(found)


def _within(sizes: Sequence[Dim], steps: Sequence[Dim], wanted: Sequence[Dim], facts: Facts) -> list[Dim] | None:
    if not sizes:
        return [_ZERO] * len(wanted)
    if collapsible(sizes, steps, facts):
        return [steps[-1] * one for one in _later(wanted)]
    cut = refined(sizes, wanted, facts)
    if cut is None:
        return None
    pieces, of_x, of_y = cut
    at: dict[int, Dim] = {}
    for axis, step in zip(of_x, steps, strict=True):
        for piece, later in zip(axis, _later([pieces[k] for k in axis]), strict=True):
            at[piece] = step * later
    found: list[Dim] = []
    for axis in of_y:
        if not collapsible([pieces[k] for k in axis], [at[k] for k in axis], facts):
            return None
        found.append(at[axis[-1]])
    return found


def _later(sizes: Sequence[Dim]) -> list[Dim]:
    """Return for each size the product of those behind it."""
    found = [_ONE]
    for size in reversed(sizes[1:]):
        found.append(found[-1] * size)
    return list(reversed(found))
