"""An executable against the meaning of its program: before it is handed out, and on a sample of its calls."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlsysopt.compile.errors import NumericsError
from mlsysopt.core.errors import MlsysoptError
from mlsysopt.graph.costs import cost
from mlsysopt.graph.domains.inputs import choose_sizes, random_inputs
from mlsysopt.graph.domains.numeric import Held, Numeric
from mlsysopt.graph.facts import Facts
from mlsysopt.graph.interpreter import interpret, relative_error
from mlsysopt.graph.ir import Constant, Graph
from mlsysopt.graph.memory.typical import typical_sizes
from mlsysopt.graph.symbolic import Dim

if TYPE_CHECKING:
    import numpy.typing as npt

    from mlsysopt.compile.dynamic.executable import Executable
    from mlsysopt.compile.options import Options

    Array = npt.NDArray[Any]

__all__ = ["Failure", "Trials", "check", "check_call", "check_sizes", "near_sizes", "tolerance"]

_PRIMES = (7, 5, 11, 3, 13)
_FLOPS = 5e8
"""Work of one reference run that a check may cost: in float64 about 30 ms."""

# Of the largest element of an output: rounding of a dozen layers stays a factor of ten below.
_TOLERANCES = {"f64": 1e-9, "f32": 1e-4, "f16": 2e-2, "bf16": 6e-2}
_FORMS = {"bf16": 6e-2, "int8": 1e-1}
_PRECISIONS = {"f32": 0.0, "bf16": _FORMS["bf16"], "int8w": _FORMS["int8"]}
_SLACK = 8.0
_FLOOR = 1e-3
"""Outputs whose largest element is smaller are as good as 0: a variance of equal numbers, a difference of equals."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An output that is not what the program means.

    Attributes:
        output: Its name.
        sizes: At which sizes.
        error: Its error, in the unit of the tolerance.
        tolerance: What was allowed.
        reason: What happened instead of a result, "" when there was one.
    """

    output: str
    sizes: Mapping[str, int]
    error: float
    tolerance: float
    reason: str = ""

    def __str__(self) -> str:
        at = ", ".join(f"{name}={size}" for name, size in self.sizes.items()) or "its only size"
        return f"%{self.output} at {at}: {self.reason or f'error {self.error:.3g}, allowed {self.tolerance:g}'}"


def tolerance(graph: Graph, options: Options, forms: Iterable[str] = ()) -> float:
    """Return the largest error that is no mistake, relative to the largest element of the reference.

    Args:
        graph: The program: its narrowest float type counts.
        options: Their precision counts.
        forms: Forms of packed weights, as in `Weight`: "f32", "bf16", "int8".
    """
    narrow = [_TOLERANCES[value.type.dtype.name] for value in graph.values.values() if value.type.dtype.is_float]
    packed = [_FORMS.get(form, 0.0) for form in forms]
    return max([*narrow, *packed, _PRECISIONS[options.precision]], default=_TOLERANCES["f64"])


def check_sizes(graph: Graph) -> list[dict[str, int]]:
    """Return up to three assignments of sizes: smallest ones, primes, and typical ones that a reference run affords.

    >>> from mlsysopt.graph import parse
    >>> check_sizes(parse("graph @f(%x: f32[B, 4]) where B in 1..64 { %y = exp(%x) : f32[B, 4] return %y }"))
    [{'B': 1}, {'B': 7}, {'B': 8}]
    """
    symbols = sorted({name for value in graph.inputs for name in value.type.symbols})
    facts = graph.facts
    flops = cost(graph).flops
    typical = typical_sizes(facts, symbols)
    while symbols and _priced(flops, typical) > _FLOPS and any(size > 8 for size in typical.values()):
        typical = {name: _allowed(facts, name, max(size // 2, 2)) for name, size in typical.items()}
    wishes = [
        {name: _allowed(facts, name, 1) for name in symbols},
        {name: _allowed(facts, name, _PRIMES[i % len(_PRIMES)]) for i, name in enumerate(symbols)},
        typical,
    ]
    found: list[dict[str, int]] = []
    for wish in wishes:
        sizes = near_sizes(graph, wish)
        if sizes is not None and sizes not in found:
            found.append(sizes)
    return found


class _Weighing(Numeric):
    """The meaning at several sizes: weights are read, and in float64 widened, once.

    A table of which rows are looked up stays as it is: its rows are widened when they have been found.
    """

    def __init__(self, graph: Graph, precision: str) -> None:
        super().__init__(precision)
        self._weights: dict[str, Held] = {}
        self._tables = {
            one.name
            for one in graph.constants
            if all(op.kind == "embedding" and op.operands[1] != one.value for op in graph.users.get(one.value, ()))
        }

    def at(self, sizes: Mapping[str, int]) -> _Weighing:
        self.sizes = dict(sizes)
        return self

    def constant(self, constant: Constant) -> Held:
        if constant.name not in self._weights:
            looked_up = constant.name in self._tables
            self._weights[constant.name] = constant.source.load() if looked_up else super().constant(constant)
        return self._weights[constant.name]


class Reference:
    """What a program means, in float64 and with every result rounded to its declared type.

    Where every float is f32 or f64, the declared types say as much at half the cost: what is near to them is right,
    and only what is not is held against float64. Rounding to half types is too coarse for that.

    Args:
        graph: The program.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.declared_first = all(
            value.type.dtype.name in ("f32", "f64") for value in graph.values.values() if value.type.dtype.is_float
        )
        self._domains: dict[str, _Weighing] = {}

    def outputs(self, precision: str, inputs: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, Any]:
        """Return every output by name; precision as `interpret` has it."""
        if precision not in self._domains:
            self._domains[precision] = _Weighing(self.graph, precision)
        return interpret(self.graph, self._domains[precision].at(sizes), inputs=inputs)


@dataclass(frozen=True, slots=True)
class Trial:
    """Inputs that an executable is tried on, and what the program makes of them.

    Attributes:
        sizes: Size of each symbol.
        inputs: Arrays by name.
        wanted: Outputs as the cheapest reference has them that may accept one.
    """

    sizes: Mapping[str, int]
    inputs: Mapping[str, Any]
    wanted: Mapping[str, Any]


class Trials:
    """Random inputs at a few sizes, made for a program before there is an executable of it.

    Args:
        graph: The program.
        sizes: Assignments to try; None takes those of `check_sizes`.
    """

    def __init__(self, graph: Graph, sizes: Sequence[Mapping[str, int]] | None = None) -> None:
        self.reference = Reference(graph)
        precision = "declared" if self.reference.declared_first else "reference"
        self.all: list[Trial] = []
        for seed, given in enumerate(check_sizes(graph) if sizes is None else sizes):
            inputs = random_inputs(graph, given, seed)
            self.all.append(Trial(given, inputs, self.reference.outputs(precision, inputs, _own(graph, given))))


def check(executable: Executable, trials: Trials | None = None) -> Failure | None:
    """Compare an executable with its program on random inputs; return the first output that is wrong.

    Args:
        executable: It.
        trials: What to try it on, made anew when None.
    """
    trials = trials or Trials(executable.source)
    for trial in trials.all:
        try:
            made = executable(**trial.inputs)
        except MlsysoptError as error:
            first = executable.source.outputs[0].name
            return Failure(first, trial.sizes, math.inf, 0.0, f"{type(error).__name__}: {error}")
        outputs = made if isinstance(made, tuple) else (made,)
        failure = _compared(executable, trial, outputs, trials.reference)
        if failure is not None:
            return failure
    return None


def check_call(
    executable: Executable, inputs: Mapping[str, Any], outputs: Sequence[Any], sizes: Mapping[str, int]
) -> None:
    """Compare one call with the program.

    Raises:
        NumericsError: an output is wrong; the first step that goes wrong is named where it can be found.
    """
    graph, reference = executable.source, Reference(executable.source)
    arrays = {name: _array(given) for name, given in inputs.items()}
    precision = "declared" if reference.declared_first else "reference"
    wanted = reference.outputs(precision, arrays, _own(graph, sizes))
    failure = _compared(executable, Trial(sizes, arrays, wanted), outputs, reference)
    if failure is not None:
        from mlsysopt.compile.dynamic.locate import first_wrong

        step = first_wrong(executable, inputs)
        raise NumericsError(f"{failure}{f'; {step} is the first step that is wrong' if step else ''}")


def _compared(executable: Executable, trial: Trial, outputs: Sequence[Any], reference: Reference) -> Failure | None:
    """Return the first output that is further from its meaning than allowed, None when all are near."""
    graph, sizes, wanted = executable.source, _own(executable.source, trial.sizes), trial.wanted
    limit = executable.options.error
    allowed = limit if limit is not None else executable.tolerance
    found = {value.name: _array(made) for value, made in zip(graph.outputs, outputs, strict=True)}
    for name, made in found.items():
        if made.shape != wanted[name].shape:
            reason = f"shape {made.shape} instead of {wanted[name].shape}"
            return Failure(name, trial.sizes, math.inf, allowed, reason)
    quick = limit is None and reference.declared_first
    if quick and all(_near(made, wanted[name], allowed) for name, made in found.items()):
        return None
    truths = reference.outputs("reference", trial.inputs, sizes) if reference.declared_first else wanted
    rounded: Mapping[str, Any] | None = wanted if reference.declared_first else None
    for name, made in found.items():
        truth = truths[name]
        error = relative_error(made, truth) if limit is None else _rms_error(made, truth)
        if error <= allowed or _is_nothing(made, truth, allowed):
            continue
        # A program may magnify roundings: what its own element types do to it is no mistake of a kernel.
        rounded = rounded if rounded is not None else reference.outputs("declared", trial.inputs, sizes)
        near = rounded[name]
        if limit is None and min(relative_error(made, near), error) <= max(
            allowed, _SLACK * _finite(relative_error(near, truth))
        ):
            continue
        return Failure(name, trial.sizes, error, allowed)
    return None


def _near(found: Array, wanted: Array, allowed: float) -> bool:
    return relative_error(found, wanted) <= allowed or _is_nothing(found, wanted, allowed)


def _own(graph: Graph, sizes: Mapping[str, int]) -> dict[str, int]:
    return {name: size for name, size in sizes.items() if name in graph.symbols}


def _is_nothing(found: Array, truth: Array, allowed: float) -> bool:
    """Whether both are so close to 0 that a relative error says nothing."""
    import numpy as np

    if truth.dtype.kind not in "fV" or not np.isfinite(truth.astype(np.float64)).all():
        return False
    return bool(np.abs(found.astype(np.float64) - truth).max(initial=0) <= allowed * _FLOOR)


def _rms_error(found: Array, truth: Array) -> float:
    import numpy as np

    if truth.dtype.kind not in "fV":
        return relative_error(found, truth)
    truth = truth.astype(np.float64)
    finite = np.isfinite(truth)
    scale = float(np.sqrt(np.mean(truth[finite] ** 2))) if finite.any() else 0.0
    largest = float(np.abs(truth[finite]).max()) if finite.any() else 0.0
    return relative_error(found, truth) * (largest / scale if scale else 1.0)


def _finite(error: float) -> float:
    return error if math.isfinite(error) else 0.0


def _array(given: Any) -> Array:
    import numpy as np

    if hasattr(given, "detach"):
        from mlsysopt.graph.sources import OfTorch

        return OfTorch(given).load()
    return given if isinstance(given, np.ndarray) else np.from_dlpack(given)


def _priced(flops: Dim, sizes: Mapping[str, int]) -> int:
    try:
        return flops.at(sizes)
    except MlsysoptError:
        return 0  # a size that depends on data


def _allowed(facts: Facts, name: str, wish: int) -> int:
    low, high = facts.range(Dim.of(name))
    step = facts.divisor(name)
    size = max(wish, low or 0)
    size = -(-size // step) * step
    return min(size, high // step * step) if high is not None else size


def near_sizes(graph: Graph, wish: Mapping[str, int]) -> dict[str, int] | None:
    """Return sizes near a wish that meet all facts: from the last on, wishes that do not fit are dropped."""
    import numpy as np

    rng = np.random.default_rng(0)
    names = list(wish)
    for kept in range(len(names), -1, -1):
        try:
            return choose_sizes(graph, {name: wish[name] for name in names[:kept]}, rng)
        except MlsysoptError:
            continue
    return None
