"""The meaning of a program, run op by op: what every compiler and rewriter is checked against."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from mlsysopt.core.errors import UsageError
from mlsysopt.graph.domains.inputs import random_inputs
from mlsysopt.graph.domains.loop import Domain, walk
from mlsysopt.graph.domains.numeric import Numeric
from mlsysopt.graph.errors import GraphError
from mlsysopt.graph.ir import Graph

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "Compared",
    "Comparison",
    "compare_outputs",
    "interpret",
    "random_inputs",
    "relative_error",
]

Array: TypeAlias = "npt.NDArray[Any]"


def interpret(
    graph: Graph,
    /,
    domain: Domain[Any] | None = None,
    *,
    precision: str = "reference",
    at: Mapping[str, int] | None = None,
    inputs: Mapping[str, Any] | None = None,
    **named: Any,
) -> dict[str, Any]:
    """Run a program and return its outputs by name.

    Sizes of symbols are read off the arrays and checked against each other and the facts.

    Args:
        graph: The program.
        domain: What to compute; numbers when None.
        precision: For numbers: "reference" computes every float in float64, "declared" rounds each
            result to its declared type.
        at: Sizes of symbols that no input determines.
        inputs: Arrays by input name, for names that are no Python words; torch tensors are taken too.
            Of a placed input, the whole array or a list with one array per device.
        named: Arrays by input name.

    Returns:
        Output name -> array; of a placed output a list with one array per device.

    Raises:
        InputError: inputs that do not fit the program, its facts or one another.
        GraphError: an op that cannot run on these values; the message names its source line.

    >>> from mlsysopt.graph import Builder, f32
    >>> b = Builder("twice")
    >>> x = b.input("x", f32["N"])
    >>> import numpy as np
    >>> interpret(b.finish([b.op("add", x, x, name="y")]), x=np.ones(2, np.float32))
    {'y': array([2., 2.])}
    """
    if inputs is not None and not isinstance(inputs, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        named, inputs = {"inputs": inputs, **named}, None  # an input that is called so
    twice = sorted((inputs or {}).keys() & named.keys())
    if twice:
        raise UsageError(f"input {twice[0]!r} is given twice")
    chosen: Domain[Any] = Numeric(precision, at=at) if domain is None else domain
    values = walk(graph, chosen, chosen.start(graph, {**(inputs or {}), **named}))
    return {value.name: values[value] for value in graph.outputs}


@dataclass(frozen=True, slots=True)
class Compared:
    """How far one output was from its meaning at one assignment of sizes.

    Attributes:
        output: Name of the output.
        sizes: Sizes of the symbols.
        error: Largest distance, relative to the largest element of the meaning.
        problem: Why it cannot be compared, "" when it can.
    """

    output: str
    sizes: Mapping[str, int]
    error: float
    problem: str = ""

    def __str__(self) -> str:
        at = ", ".join(f"{name}={size}" for name, size in self.sizes.items()) or "fixed sizes"
        return f"%{self.output} at {at}: {self.problem or f'relative error {self.error:.3g}'}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a comparison of a program with something that should mean the same has found.

    Attributes:
        rows: One per output and assignment of sizes.
        tolerance: Largest relative error that is accepted.
    """

    rows: tuple[Compared, ...]
    tolerance: float

    @property
    def worst(self) -> float:
        """The largest relative error of all."""
        return max((row.error for row in self.rows), default=0.0)

    @property
    def ok(self) -> bool:
        return all(row.error <= self.tolerance for row in self.rows)

    def check(self) -> Comparison:
        """Return this.

        Raises:
            GraphError: an error above the tolerance; the three worst are listed.
        """
        if not self.ok:
            wrong = sorted((row for row in self.rows if not row.error <= self.tolerance), key=lambda row: -row.error)
            shown = "\n".join(str(row) for row in wrong[:3])
            raise GraphError(
                f"{len(wrong)} of {len(self.rows)} outputs differ by more than {self.tolerance:g}:\n{shown}"
            )
        return self

    def __str__(self) -> str:
        verdict = "equal" if self.ok else "different"
        return f"{verdict} within {self.tolerance:g}: worst relative error {self.worst:.3g} of {len(self.rows)} outputs"


def compare_outputs(
    graph: Graph,
    fn: Callable[[dict[str, Array]], Any],
    shapes: Sequence[Mapping[str, int]],
    tolerance: float,
    seed: int = 0,
    *,
    ranges: Mapping[str, tuple[int, int]] | None = None,
    precision: str = "reference",
) -> Comparison:
    """Compare a program with something that should mean the same, on random inputs.

    Args:
        graph: The program; its meaning is the truth.
        fn: Takes arrays by input name; returns a mapping by output name, a sequence in the order of
            the outputs, or one array. torch tensors are taken as well.
        shapes: Assignments of sizes to try; symbols left out are chosen.
        tolerance: Largest relative error for `Comparison.ok`.
        seed: Seed of the first assignment's inputs, one more for each further one.
        ranges: As in `random_inputs`.
        precision: As in `interpret`.

    Raises:
        InputError: sizes that the facts exclude.
        GraphError: the program itself cannot be run.
    """
    rows: list[Compared] = []
    for i, sizes in enumerate(shapes):
        inputs = random_inputs(graph, sizes, seed + i, ranges=ranges)
        wanted = interpret(graph, precision=precision, at=sizes, inputs=inputs)
        given = _by_name(graph, fn({name: array.copy() for name, array in inputs.items()}))
        for name, truth in wanted.items():
            rows.append(_compared(name, dict(sizes), truth, given.get(name)))
    return Comparison(tuple(rows), tolerance)


def relative_error(found: Array, truth: Array) -> float:
    """Return the largest distance of two arrays, relative to the largest finite element of the truth.

    Infinite where an infinity or NaN stands in only one of them, and for integers and bools that differ.

    >>> import numpy as np
    >>> relative_error(np.array([1.0, 2.1]), np.array([1.0, 2.0]))
    0.050000000000000044
    """
    import numpy as np

    if truth.dtype.kind not in "fV":
        return 0.0 if np.array_equal(found, truth) else math.inf
    found, truth = found.astype(np.float64), truth.astype(np.float64)
    special = ~np.isfinite(truth)
    if not np.array_equal(found[special], truth[special], equal_nan=True) or not np.isfinite(found[~special]).all():
        return math.inf
    truth, found = truth[~special], found[~special]
    if not truth.size:
        return 0.0
    scale = float(np.abs(truth).max())
    distance = float(np.abs(found - truth).max())
    return distance / scale if scale else math.inf if distance else 0.0


def _compared(name: str, sizes: Mapping[str, int], truth: Any, found: Any) -> Compared:
    import numpy as np

    if found is None:
        return Compared(name, sizes, math.inf, "it was not returned")
    if hasattr(found, "detach"):
        from mlsysopt.graph.sources import OfTorch

        found = OfTorch(found).load()
    array = np.asarray(found)
    if array.shape != truth.shape:
        return Compared(name, sizes, math.inf, f"shape {array.shape} instead of {truth.shape}")
    if (array.dtype.kind in "fV") != (truth.dtype.kind in "fV"):
        return Compared(name, sizes, math.inf, f"{array.dtype} instead of {truth.dtype}")
    return Compared(name, sizes, relative_error(array, truth))


def _by_name(graph: Graph, given: Any) -> Mapping[str, Any]:
    if isinstance(given, Mapping):
        return cast("Mapping[str, Any]", given)
    listed = list(cast("Sequence[Any]", given)) if isinstance(given, (tuple, list)) else [given]
    if len(listed) != len(graph.outputs):
        raise UsageError(f"graph {graph.name} has {len(graph.outputs)} outputs, {len(listed)} were returned")
    return {value.name: one for value, one in zip(graph.outputs, listed, strict=True)}
