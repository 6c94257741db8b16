"""From arrays to the sizes of symbols, and from symbols in attributes to numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlsysopt.core.errors import UsageError, near_misses
from mlsysopt.graph.errors import GraphError
from mlsysopt.graph.ir import Attr, Graph
from mlsysopt.graph.symbolic import Dim

__all__ = ["InputError", "bind_sizes", "check_names", "evaluated", "solved"]


class InputError(GraphError, UsageError):
    """Arrays that do not fit the inputs of a program, or one another."""

    exit_code = 2


def check_names(graph: Graph, given: Mapping[str, Any]) -> None:
    """Raise InputError unless exactly the inputs of a program are given."""
    names = [value.name for value in graph.inputs]
    unknown = sorted(given.keys() - set(names))
    if unknown:
        raise InputError(
            f"graph {graph.name} has no input {unknown[0]!r}; {near_misses(unknown[0], names, noun='input')}"
        )
    missing = [value for value in graph.inputs if value.name not in given]
    if missing:
        listed = ", ".join(f"{value.name}: {value.type}" for value in missing)
        raise InputError(f"graph {graph.name}: no value given for {listed}")


def bind_sizes(
    graph: Graph, shapes: Mapping[str, Sequence[int]], at: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Return the size of each symbol, from the shapes of inputs, and check them against the facts.

    Args:
        graph: The program.
        shapes: Input name -> shape.
        at: Sizes that are known beforehand, for symbols that no shape determines.

    Raises:
        InputError: shapes that contradict each other, their types or the facts; both sides are named.
    """
    sizes = dict(at or {})
    origin = dict.fromkeys(sizes, "given")
    pending: list[tuple[str, int, Dim, int]] = []
    for value in graph.inputs:
        if value.name not in shapes:
            continue
        shape = tuple(shapes[value.name])
        fixed = all(not size.is_constant or size == got for size, got in zip(value.shape, shape, strict=False))
        if len(shape) != value.type.rank or not fixed:
            raise InputError(f"input {value.name!r}: expected {value.type}, got shape {shape}")
        pending += [(value.name, i, size, got) for i, (size, got) in enumerate(zip(value.shape, shape, strict=True))]
    grew = True
    while grew:
        grew = False
        for name, axis, size, got in pending:
            found = solved(size, got, sizes)
            if found is not None:
                symbol, number = found
                if number is None:
                    raise InputError(f"input {name!r}: axis {axis} is {size}, and no {symbol} makes it {got}")
                sizes[symbol], origin[symbol], grew = number, name, True
    # What no shape says, an equality of the facts may.
    for symbol in graph.symbols:
        if symbol not in sizes:
            formula = graph.facts.normalise(Dim.of(symbol))
            if symbol not in formula.symbols and formula.symbols <= sizes.keys():
                sizes[symbol], origin[symbol] = formula.at(sizes), f"facts: {symbol} = {formula}"
    for name, axis, size, got in pending:
        if size.symbols <= sizes.keys() and size.at(sizes) != got:
            raise InputError(_conflict(name, axis, size, got, sizes, origin))
    _check_facts(graph, sizes, origin)
    return sizes


def solved(size: Dim, got: int, sizes: Mapping[str, int]) -> tuple[str, int | None] | None:
    """Solve `size == got` for its only open symbol, when it stands there linearly.

    Returns:
        The symbol and its size, or None for the size when no integer solves it; None when there is
        not exactly one open symbol or it cannot be solved for.

    >>> solved(Dim.of("B") * 2 + 1, 7, {}), solved(Dim.of("B") * Dim.of("S"), 6, {"S": 2})
    (('B', 3), ('B', 3))
    """
    open_symbols = size.symbols - sizes.keys()
    if len(open_symbols) != 1:
        return None
    (symbol,) = open_symbols
    rest = size.substitute(sizes)
    coefficient, offset = 0, 0
    for monomial, factor in rest.terms:
        if not monomial:
            offset = factor
        elif monomial == (symbol,):
            coefficient = factor
        else:
            return None
    if not coefficient:
        return None
    number, left = divmod(got - offset, coefficient)
    return symbol, None if left else number


def evaluated(attrs: Mapping[str, Attr], sizes: Mapping[str, int]) -> dict[str, Any]:
    """Return attributes with numbers in place of sizes.

    Raises:
        UsageError: a symbol without a size.
    """
    return {name: _number(value, sizes) for name, value in attrs.items()}


def _number(value: Attr, sizes: Mapping[str, int]) -> Any:
    if isinstance(value, Dim):
        return value.at(sizes)
    if isinstance(value, tuple):
        return tuple([_number(one, sizes) for one in value])
    return value


def _conflict(name: str, axis: int, size: Dim, got: int, sizes: Mapping[str, int], origin: Mapping[str, str]) -> str:
    if len(size.terms) == 1 and str(size) in origin:
        symbol = str(size)
        return f"{symbol} = {sizes[symbol]} ({origin[symbol]}) but {symbol} = {got} ({name})"
    known = ", ".join(f"{symbol} = {sizes[symbol]} ({origin[symbol]})" for symbol in sorted(size.symbols))
    return f"{known} but {size} = {got} ({name}, axis {axis}), which should be {size.at(sizes)}"


def _check_facts(graph: Graph, sizes: Mapping[str, int], origin: Mapping[str, str]) -> None:
    broken = graph.facts.check(sizes)
    if broken:
        known = ", ".join(f"{symbol} from {name}" for symbol, name in origin.items() if symbol in "; ".join(broken))
        raise InputError("\n".join(broken[:2]) + (f" ({known})" if known else ""))
    negative = [symbol for symbol, size in sizes.items() if size < 0]
    if negative:
        raise InputError(f"{negative[0]} = {sizes[negative[0]]} ({origin[negative[0]]}): a size is at least 0")
