"""Numbers: the meaning of a program in float64, or with every result rounded to its declared type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from mlsysopt.core.errors import MissingExtra, UsageError
from mlsysopt.graph.domains.loop import walk
from mlsysopt.graph.domains.placed import assembled, scattered
from mlsysopt.graph.domains.sizes import InputError, bind_sizes, check_names, evaluated, solved
from mlsysopt.graph.errors import GraphError, WeightsError
from mlsysopt.graph.ir import Constant, Graph, Op, Value
from mlsysopt.graph.ops.registry import OpDef, lookup
from mlsysopt.graph.types import DType, TensorType, f32, f64

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["Held", "Numeric"]

Array: TypeAlias = "npt.NDArray[Any]"
Held: TypeAlias = "npt.NDArray[Any] | list[npt.NDArray[Any]]"
"""An array; of a placed value a list, one array per device."""

_HALVES = ("f16", "bf16")


class Numeric:
    """Arrays.

    Every op's result is held against its type: shapes that differ from the formulas are an error.

    Args:
        precision: "reference" computes every float in float64, which is the meaning of a program.
            "declared" rounds every result to its declared type; half types are computed in f32.
        at: Sizes of symbols that no input determines.

    Attributes:
        sizes: Size of each symbol that is known so far.
    """

    def __init__(self, precision: str = "reference", *, at: Mapping[str, int] | None = None) -> None:
        if precision not in ("reference", "declared"):
            raise UsageError(f"precision must be 'reference' or 'declared', got {precision!r}")
        self.sizes: dict[str, int] = dict(at or {})
        self._exact = precision == "reference"
        self._graph = Graph("")

    def start(self, graph: Graph, given: Mapping[str, Any]) -> Sequence[Held]:
        """Check the arrays, learn the sizes from them."""
        check_names(graph, given)
        self._graph = graph
        values = [_array(value, given[value.name]) for value in graph.inputs]
        shapes = {value.name: _whole_shape(value, held) for value, held in zip(graph.inputs, values, strict=True)}
        self.sizes = bind_sizes(graph, shapes, self.sizes)
        return [self._placed(value, held) for value, held in zip(graph.inputs, values, strict=True)]

    def constant(self, constant: Constant) -> Held:
        array = constant.source.load()
        shape = constant.type.at()
        if tuple(array.shape) != shape:
            raise WeightsError(f"constant %{constant.name}: expected {constant.type}, found shape {tuple(array.shape)}")
        return self._placed(constant.value, array)

    def run(self, op: Op, operands: Sequence[Held]) -> Sequence[Held]:
        try:
            results = self._region(op, operands) if op.regions else self._run(op, lookup(op.kind), operands)
        except (MissingExtra, WeightsError):
            raise
        except (ArithmeticError, LookupError, TypeError, ValueError, GraphError, RuntimeError) as error:
            shown = ", ".join(
                f"%{value.name}: {_shown(held)}" for value, held in zip(op.operands, operands, strict=True)
            )
            raise GraphError(f"{op.where()}: {error}; given {shown or 'no operands'}") from error
        if len(results) != len(op.results):
            raise GraphError(f"{op.where()}: {len(results)} results were made, it declares {len(op.results)}")
        return [self._finished(op, value, held) for value, held in zip(op.results, results, strict=True)]

    def _run(self, op: Op, found: OpDef, operands: Sequence[Held]) -> Sequence[Held]:
        import numpy as np

        attrs = {name: self._element(value) for name, value in evaluated(op.attrs, self.sizes).items()}
        with np.errstate(all="ignore"):  # infinities and NaN are values here as they are in a kernel
            if any(isinstance(held, list) for held in operands):
                return self._on_devices(op, found, operands, attrs)
            return found.meaning([self._operand(cast("Array", held)) for held in operands], attrs)

    def _region(self, op: Op, operands: Sequence[Held]) -> Sequence[Held]:
        """An op with a region means what its region does; inputs of the region are its operands."""
        (region,) = op.regions
        values = walk(region, self, operands)
        return [values[value] for value in region.outputs]

    def _on_devices(self, op: Op, found: OpDef, operands: Sequence[Held], attrs: Mapping[str, Any]) -> Sequence[Held]:
        if "." in op.kind:  # an op set of its own knows what a list is
            return found.meaning(cast("Sequence[Array]", operands), attrs)
        placements = {value.type.placement for value in op.operands if value.type.rank}
        if not found.elementwise or len(placements) != 1:
            raise GraphError(
                f"{op.kind} has no meaning on values of several devices unless it is elementwise and all operands "
                "are placed alike; gather them first"
            )
        placement = next(iter(placements))
        if placement is not None and placement.is_partial and not found.linear:
            raise GraphError(f"{op.kind} is not linear, so it may not be applied to the terms of a partial sum")
        devices = max(len(held) for held in operands if isinstance(held, list))
        rows = [
            found.meaning([self._operand(h[i] if isinstance(h, list) else h) for h in operands], attrs)
            for i in range(devices)
        ]
        return [list(parts) for parts in zip(*rows, strict=True)]

    def _operand(self, array: Array) -> Array:
        # ml_dtypes computes in its own type step by step: half types are computed in f32 and rounded once.
        return array.astype(f32.numpy()) if str(array.dtype) in ("bfloat16", "float16") else array

    def _element(self, value: Any) -> Any:
        if isinstance(value, DType) and value.is_float:
            return f64 if self._exact else f32 if value.name in _HALVES else value
        return value

    def _stored(self, one: TensorType) -> np.dtype[Any]:
        return (f64 if self._exact and one.dtype.is_float else one.dtype).numpy()

    def _placed(self, value: Value, held: Held) -> Held:
        kind = self._stored(value.type)
        if isinstance(held, list):
            return [part.astype(kind, copy=False) for part in held]
        array = held.astype(kind, copy=False)
        return array if value.type.placement is None else scattered(array, value.type.placement)

    def _finished(self, op: Op, value: Value, made: Held) -> Held:
        import numpy as np

        kind, placement = self._stored(value.type), value.type.placement
        with np.errstate(all="ignore"):  # a number too large for its type becomes infinite, as in a kernel
            if isinstance(made, list):
                parts = [np.asarray(part).astype(kind, copy=False) for part in made]
                if placement is None:
                    raise GraphError(f"{op.where()}: %{value.name} has no placement, but {len(parts)} parts were made")
                self._check(op, value, assembled(parts, placement).shape)
                return parts
            array = np.asarray(made).astype(kind, copy=False)
        self._check(op, value, array.shape)
        return array if placement is None else scattered(array, placement)

    def _check(self, op: Op, value: Value, shape: Sequence[int]) -> None:
        """Hold a result against its type; sizes that are new become known."""
        wanted = value.shape
        if len(wanted) == len(shape):
            for size, got in zip(wanted, shape, strict=True):
                found = None if size.symbols <= self.sizes.keys() else solved(size, got, self.sizes)
                if found is not None and found[1] is not None:
                    self._learn(op, found[0], found[1])
            sizes = self.sizes
            if all(
                size.symbols <= sizes.keys() and size.at(sizes) == got for size, got in zip(wanted, shape, strict=True)
            ):
                return
        known = ", ".join(f"{name} = {self.sizes[name]}" for name in sorted(value.type.symbols & self.sizes.keys()))
        raise GraphError(
            f"{op.where()}: %{value.name} is declared {value.type}{f' with {known}' if known else ''}, "
            f"but shape {tuple(shape)} was made"
        )

    def _learn(self, op: Op, symbol: str, size: int) -> None:
        self.sizes[symbol] = size
        broken = [line for line in self._graph.facts.check(self.sizes) if symbol in line]
        if broken:
            raise GraphError(f"{op.where()}: {broken[0]}")


def _array(value: Value, given: Any) -> Held:
    """Return what was given as an array of a fitting element type."""
    if isinstance(given, list) and value.type.placement is not None:
        return [cast("Array", _array(value, part)) for part in cast("list[Any]", given)]
    array, wanted = _as_numpy(given), value.type.dtype
    kind = {"b": "bool", "i": "int", "u": "int", "f": "float", "V": "float"}.get(array.dtype.kind, "other")
    if kind != wanted.kind:
        raise InputError(
            f"input {value.name!r}: expected {value.type}, got {array.dtype} of shape {tuple(array.shape)}; "
            f"convert it to {wanted.numpy()}"
        )
    if wanted.is_int and array.size and array.dtype != wanted.numpy():
        least, most = int(array.min()), int(array.max())
        if least < cast("int", wanted.low) or most > cast("int", wanted.high):
            raise InputError(f"input {value.name!r}: {least}..{most} does not fit {wanted}")
    return array


def _as_numpy(given: Any) -> Array:
    import numpy as np

    if hasattr(given, "detach"):
        from mlsysopt.graph.sources import OfTorch

        return OfTorch(given).load()
    return np.asarray(given)


def _whole_shape(value: Value, held: Held) -> tuple[int, ...]:
    if isinstance(held, list):
        assert value.type.placement is not None
        return assembled(held, value.type.placement).shape
    return held.shape


def _shown(held: Held) -> str:
    if isinstance(held, list):
        return f"{len(held)} parts, the first {_shown(held[0])}" if held else "no parts"
    return f"{held.dtype}{list(held.shape)}"
