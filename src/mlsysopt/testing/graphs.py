"""Random tensor programs with symbolic sizes: every property test of programs draws from here.

`programs()` is a hypothesis strategy, so that a failing program shrinks; `random_program` draws the
same programs from a seed, fast, for benches. All of them verify, and run at all sizes that their
facts allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from mlsysopt.graph.facts import Facts
from mlsysopt.graph.ir import Graph
from mlsysopt.graph.symbolic import Dim
from mlsysopt.graph.types import DTYPES, Blocked, Dense, DType, Quant, TensorType, boolean, f32, i64
from mlsysopt.testing.growing import Growing, drawn_facts, drawn_size
from mlsysopt.testing.growing_ops import makers

if TYPE_CHECKING:
    import numpy as np
    from hypothesis import strategies as st

__all__ = ["dims_and_facts", "programs", "random_program", "types"]

T = TypeVar("T")


def random_program(
    seed: int,
    ops: int = 12,
    *,
    dtypes: Sequence[DType] = (f32, i64, boolean),
    branches: bool = True,
    reductions: bool = True,
    views: bool = True,
    contractions: bool = True,
    several_results: bool = True,
) -> Graph:
    """Return a program of about so many ops; the same arguments give the same program.

    Args:
        seed: Seed.
        ops: Ops of the program; a few ops that make operands come on top.
        dtypes: Element types of its inputs.
        branches: Whether an op may read any value; otherwise it reads the newest one that fits.
        reductions: Whether there are reductions and normalisations.
        views: Whether there are reshapes, slices and the like.
        contractions: Whether there are matrix products, convolutions and pooling.
        several_results: Whether there are ops with more than one result.

    >>> g = random_program(3, ops=5)
    >>> g.verify() is None, g == random_program(3, ops=5)
    (True, True)
    """
    import numpy as np

    choice = _Seeded(np.random.default_rng(seed))
    flags = makers(reductions, views, contractions, several_results)
    return Growing(choice, dtypes, branches).made(ops, flags)


def programs(
    max_ops: int = 12,
    *,
    dtypes: Sequence[DType] = (f32, i64, boolean),
    branches: bool = True,
    reductions: bool = True,
    views: bool = True,
    contractions: bool = True,
    several_results: bool = True,
) -> st.SearchStrategy[Graph]:
    """Return a strategy for programs of 1 to `max_ops` ops; arguments as in `random_program`."""
    from hypothesis import strategies as st

    flags = makers(reductions, views, contractions, several_results)

    @st.composite
    def program(draw: st.DrawFn) -> Graph:
        return Growing(_Drawn(draw), dtypes, branches).made(draw(st.integers(1, max_ops)), flags)

    return program()


def dims_and_facts(symbols: Sequence[str] = ("B", "S", "T")) -> st.SearchStrategy[tuple[tuple[Dim, ...], Facts]]:
    """Return a strategy for sizes, and facts about the symbols in them that can hold together."""
    from hypothesis import strategies as st

    @st.composite
    def pair(draw: st.DrawFn) -> tuple[tuple[Dim, ...], Facts]:
        choice = _Drawn(draw)
        facts = drawn_facts(choice, symbols)
        return tuple(drawn_size(choice, symbols) for _ in range(choice.integer(1, 4))), facts

    return pair()


def types(symbols: Sequence[str] = ("B", "S"), *, plain: bool = True) -> st.SearchStrategy[TensorType]:
    """Return a strategy for types of rank 0 to 4.

    Args:
        symbols: Symbols in their sizes.
        plain: Whether they are row-major and stand for themselves; otherwise some have a layout or are quantised.
    """
    from hypothesis import strategies as st

    @st.composite
    def one(draw: st.DrawFn) -> TensorType:
        choice = _Drawn(draw)
        element = choice.pick(list(DTYPES.values()))
        shape = tuple(drawn_size(choice, symbols) for _ in range(choice.integer(0, 4)))
        layout, quant = Dense(), None
        if not plain and shape:
            order = tuple(draw(st.permutations(range(len(shape)))))
            tiles = tuple(choice.pick((1, 8, 48)) for _ in shape)
            layout = choice.pick((Dense(), Dense(order), Blocked(order, tiles)))
            if element.is_int and choice.integer(0, 1):
                quant = Quant((0.5,), (choice.integer(-3, 3),))
        return TensorType(element, shape, layout, quant=quant)

    return one()


class _Seeded:
    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def integer(self, low: int, high: int) -> int:
        return int(self._rng.integers(low, high + 1))

    def pick(self, items: Sequence[T]) -> T:
        return items[int(self._rng.integers(len(items)))]


class _Drawn:
    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw

    def integer(self, low: int, high: int) -> int:
        from hypothesis import strategies as st

        return self._draw(st.integers(low, high))

    def pick(self, items: Sequence[T]) -> T:
        return items[self.integer(0, len(items) - 1)]
