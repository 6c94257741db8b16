"""Random inputs that a program accepts: sizes by its facts, integers by what they index."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from mlsysopt.core.errors import UsageError, near_misses
from mlsysopt.graph.domains.sizes import InputError
from mlsysopt.graph.ir import Graph, Op, Value
from mlsysopt.graph.symbolic import Dim

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["choose_sizes", "index_limit", "random_inputs"]

Array: TypeAlias = "npt.NDArray[Any]"

_TRIES = 2000
_WIDTH = 8
_LARGE = 1 << 16
# Ops through which an integer reaches a lookup unchanged, by the operands that carry it.
_CARRIERS: Mapping[str, tuple[int, ...]] = {
    "cast": (0,), "reshape": (0,), "transpose": (0,), "broadcast": (0,), "slice": (0,), "split": (0,), "flip": (0,),
    "where": (1, 2), "clip": (0,), "gather": (0,), "gather_elements": (0,),
}  # fmt: skip
_LOOKUPS = ("embedding", "gather", "gather_elements", "scatter", "scatter_add", "cross_entropy")


def random_inputs(
    graph: Graph,
    at: Mapping[str, int] | None = None,
    seed: int = 0,
    *,
    ranges: Mapping[str, tuple[int, int]] | None = None,
) -> dict[str, Array]:
    """Return arrays for every input of a program.

    Floats are standard normal. Integers that are looked up somewhere stay inside the smallest table
    they reach; other integers are 0 or 1, as masks are. Of masks, bool or 0 and 1, the first element of
    each row holds, so that no row is masked out altogether.

    Args:
        graph: The program.
        at: Sizes of symbols; the others are chosen among those that the facts allow, likely ones first.
        seed: The same seed gives the same arrays.
        ranges: Input name -> smallest and largest integer, where the program does not say it.

    Raises:
        InputError: no sizes meet the facts.

    >>> from mlsysopt.graph import Builder, f32, i64
    >>> b = Builder("lookup")
    >>> y = b.op("embedding", b.input("table", f32[7, 2]), b.input("ids", i64["N"]))
    >>> arrays = random_inputs(b.finish([y]), {"N": 100})
    >>> arrays["table"].dtype, arrays["ids"].shape, int(arrays["ids"].max())
    (dtype('float32'), (100,), 6)
    """
    import numpy as np

    for name in ranges or {}:
        graph.input(name)
    rng = np.random.default_rng(seed)
    sizes = choose_sizes(graph, at or {}, rng)
    found: dict[str, Array] = {}
    for value in graph.inputs:
        shape = value.type.at(**{name: sizes[name] for name in value.type.symbols})
        element = value.type.dtype
        if element.is_float:
            found[value.name] = rng.standard_normal(shape).astype(element.numpy())
            continue
        given = (ranges or {}).get(value.name)
        limit = index_limit(graph, value, sizes) if element.is_int and given is None else None
        if given is not None:
            low, high = given
        else:
            low, high = (0, 1) if limit is None else (0, min(limit, cast("int", element.high) + 1) - 1)
        if high < low and 0 not in shape:
            raise InputError(f"input {value.name!r}: there is no integer in {low}..{high} for it to take")
        array = rng.integers(low, max(high, low), shape, np.int64, endpoint=True).astype(element.numpy())
        if given is None and limit is None and shape and shape[-1]:
            array[..., 0] = 1
        found[value.name] = array
    return found


def choose_sizes(graph: Graph, at: Mapping[str, int], rng: np.random.Generator) -> dict[str, int]:
    """Return a size for each symbol in the inputs of a program, as the facts allow.

    Args:
        graph: The program.
        at: Sizes that are given.
        rng: Draws the others: likely ones first, else small ones.

    Raises:
        InputError: given sizes that the facts exclude, or none that they allow were found.
    """
    facts = graph.facts
    symbols = sorted({name for value in graph.inputs for name in value.type.symbols})
    unknown = sorted(at.keys() - set(symbols) - set(graph.symbols) - set(facts.symbols))
    if unknown:
        raise UsageError(
            f"graph {graph.name} has no symbol {unknown[0]!r}; {near_misses(unknown[0], symbols, noun='symbol')}"
        )
    broken = facts.check(at)
    if broken:
        raise InputError("\n".join(broken[:3]))
    # Symbols that follow from others are computed; the rest are drawn.
    formulas = {name: facts.normalise(Dim.of(name)) for name in symbols if name not in at}
    free = sorted({one for formula in formulas.values() for one in formula.symbols} - at.keys())
    choices = {name: _choices(graph, name) for name in free}
    for attempt in range(_TRIES):
        sizes = dict(at)
        for name in free:
            likely, (low, high), step = choices[name]
            if likely and attempt < _TRIES // 4:
                sizes[name] = int(rng.choice(likely))
            else:
                wider = low + _WIDTH * step * (1 + attempt // 50)
                sizes[name] = int(rng.integers(low, (wider if high is None else min(high, wider)) + 1)) // step * step
        sizes.update({name: formula.at(sizes) for name, formula in formulas.items() if name not in sizes})
        lengths = [size for value in graph.inputs for size in value.shape]
        if not facts.check(sizes) and all(size.at(sizes) >= 0 for size in lengths):
            return sizes
    known = f"; given {', '.join(f'{name} = {size}' for name, size in at.items())}" if at else ""
    raise InputError(
        f"graph {graph.name}: no sizes were found that meet its facts ({facts}){known}; give them with at="
    )


def _choices(graph: Graph, name: str) -> tuple[list[int], tuple[int, int | None], int]:
    facts = graph.facts
    low, high = facts.range(Dim.of(name))
    step = facts.divisor(name)
    least = 1 if low is None else max(low, 0)
    least = -(-least // step) * step
    if high is not None and high < least:
        least = high
    return list(facts.likely(name)), (least, high), step


def index_limit(graph: Graph, value: Value, sizes: Mapping[str, int]) -> int | None:
    """Return the size of the smallest axis that an integer input is looked up in, None when in none.

    Args:
        graph: The program.
        value: An input.
        sizes: Sizes of the symbols; an axis whose size is not known by them is passed over.
    """
    limits: list[int] = []
    seen = {value}
    pending = [value]
    while pending:
        one = pending.pop()
        for op in graph.users.get(one, ()):
            axis = _looked_up_in(op, one)
            if axis is not None and axis.symbols <= sizes.keys():
                limits.append(axis.at(sizes))
            carried = op.kind in _CARRIERS and any(op.operands[i] == one for i in _CARRIERS[op.kind])
            if carried or op.kind == "concat":
                fresh = [result for result in op.results if result not in seen and not result.type.dtype.is_float]
                seen.update(fresh)
                pending += fresh
    return min(limits) if limits else None


def _looked_up_in(op: Op, value: Value) -> Dim | None:
    if op.kind not in _LOOKUPS or op.operands[1] != value:
        return None
    if op.kind == "embedding":
        return op.operands[0].shape[0]
    if op.kind == "cross_entropy":
        return op.operands[0].shape[1]
    return op.operands[0].shape[cast("int", op.attrs["axis"])]
