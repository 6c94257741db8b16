"""Where along an axis a kernel stands: sums of loop counters times sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlsysopt.compile.dynamic.strides import exact, refined, segments
from mlsysopt.graph.facts import Answer, Facts
from mlsysopt.graph.symbolic import Dim

__all__ = ["HERE", "Index", "Refused", "SplitLoop", "reindexed"]

_ZERO, _ONE = Dim.of(0), Dim.of(1)


class Refused(Exception):
    """Ops do not go into one kernel.

    Attributes:
        reason: Why, in a few words.
        fact: What would have to be known, "" when nothing helps.
    """

    def __init__(self, reason: str, fact: str = "") -> None:
        super().__init__(reason)
        self.reason, self.fact = reason, fact


class SplitLoop(Exception):
    """A loop must become two before an index can be followed.

    Attributes:
        loop: The loop.
        inner: Size of the inner one.
    """

    def __init__(self, loop: int, inner: Dim) -> None:
        super().__init__(f"loop {loop} by {inner}")
        self.loop, self.inner = loop, inner


@dataclass(frozen=True, slots=True)
class Index:
    """`constant + sum(loop * factor)`.

    Attributes:
        terms: Loop and factor, by loop; no factor is 0.
        constant: What does not vary.
    """

    terms: tuple[tuple[int, Dim], ...] = ()
    constant: Dim = _ZERO

    @classmethod
    def loop(cls, number: int) -> Index:
        return cls(((number, _ONE),))

    @property
    def loops(self) -> frozenset[int]:
        return frozenset(loop for loop, _ in self.terms)

    @property
    def only(self) -> int | None:
        """The loop that it moves with one by one, None unless there is just one."""
        return self.terms[0][0] if len(self.terms) == 1 and self.terms[0][1] == 1 else None

    def shifted(self, by: Dim) -> Index:
        return self if by == 0 else Index(self.terms, self.constant + by)

    def times(self, factor: Dim) -> Index:
        if factor == 1:
            return self
        if factor == 0:
            return HERE
        return Index(tuple((loop, one * factor) for loop, one in self.terms), self.constant * factor)

    def plus(self, other: Index) -> Index:
        if not other.terms:
            return self.shifted(other.constant)
        found = dict(self.terms)
        for loop, factor in other.terms:
            found[loop] = found.get(loop, _ZERO) + factor
        terms = tuple((loop, found[loop]) for loop in sorted(found) if found[loop] != 0)
        return Index(terms, self.constant + other.constant)

    def split(self, loop: int, outer: int, inner: int, size: Dim) -> Index:
        """Return it with a loop replaced by two, the inner one of a size."""
        for one, factor in self.terms:
            if one == loop:
                rest = Index(tuple(term for term in self.terms if term[0] != loop), self.constant)
                return rest.plus(Index(((outer, factor * size),))).plus(Index(((inner, factor),)))
        return self


HERE = Index()
"""The only place along an axis of size 1."""


def joined(indices: Sequence[Index], sizes: Sequence[Dim]) -> Index:
    """Return the place in one axis that is made of several."""
    found = HERE
    for index, size in zip(indices, sizes, strict=True):
        found = found.times(size).plus(index)
    return found


def cut(index: Index, size: Dim, loops: Mapping[int, Dim], facts: Facts) -> tuple[Index, Index]:
    """Return quotient and rest of an index by a size.

    Raises:
        SplitLoop: a loop runs over several quotients and rests.
        Refused: the quotient is no sum of loops.
    """
    whole: list[tuple[int, Dim]] = []
    rest: list[tuple[int, Dim]] = []
    for loop, factor in index.terms:
        quotient = exact(factor, size)
        (whole if quotient is not None else rest).append((loop, quotient if quotient is not None else factor))
    quotient = exact(index.constant, size)
    constant, remaining = (quotient, _ZERO) if quotient is not None else (_ZERO, index.constant)
    if any(facts.lt(factor, 0) is not Answer.NO for _, factor in rest):
        raise Refused("an axis that runs backward is cut")
    top = sum((factor * (loops[loop] - 1) for loop, factor in rest), remaining)
    if (rest or remaining != 0) and not (top + 1 == size or facts.lt(top, size) is Answer.YES):
        for loop, factor in rest:
            inner = exact(size, factor)
            if inner is not None and inner != 1 and exact(loops[loop], inner) is not None:
                raise SplitLoop(loop, inner)
        names = ", ".join(str(loops[loop]) for loop, _ in rest)
        raise Refused("an axis is cut across the loops", f"{size} divides {names or index.constant}")
    return Index(tuple(whole), constant), Index(tuple(rest), remaining)


def reindexed(
    indices: Sequence[Index], shape: Sequence[Dim], target: Sequence[Dim], loops: Mapping[int, Dim], facts: Facts
) -> tuple[Index, ...]:
    """Return where an element of a shape stands under another shape of as many elements.

    Raises:
        SplitLoop, Refused: as `cut` does.
    """
    found = [HERE] * len(target)
    for left, right in segments(shape, target, facts):
        if len(left) == len(right) == 1:
            found[right[0]] = indices[left[0]]
            continue
        if not left or not right:
            continue
        pieces = refined([shape[k] for k in left], [target[k] for k in right], facts)
        if pieces is None:
            raise Refused("axes are cut at places that do not fit", "")
        sizes, of_left, of_right = pieces
        at: dict[int, Index] = {}
        for axis, k in zip(of_left, left, strict=True):
            rest = indices[k]
            for piece in reversed(axis[1:]):
                rest, at[piece] = cut(rest, sizes[piece], loops, facts)
            at[axis[0]] = rest
        for axis, k in zip(of_right, right, strict=True):
            found[k] = joined([at[piece] for piece in axis], [sizes[piece] for piece in axis])
    return tuple(found)
