"""Example inputs for tracing: sizes that torch will not mistake for constants, numbers in range."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlsysopt.core.errors import UsageError
from mlsysopt.graph.symbolic import Dim, Symbol, declared_range
from mlsysopt.graph.types import DType, TensorType

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["example_sizes", "example_tensors", "symbols_of", "torch_dtype"]

_LEAST = 3  # torch takes 0 and 1 for constants, and 2 meets the halves of much else
_WISHED = 37  # halved five times, as strided networks do, it is still above 1
_OFFSET = 14  # above the smallest allowed size: there, rounded-down sizes are all still different


def torch_dtype(element: DType) -> Any:
    """Return torch's element type."""
    import torch

    return getattr(torch, {"bool": "bool", "u8": "uint8"}.get(element.name) or _TORCH[element.name])


_TORCH = {
    "i8": "int8", "i16": "int16", "i32": "int32", "i64": "int64", "f16": "float16", "bf16": "bfloat16",
    "f32": "float32", "f64": "float64",
}  # fmt: skip


def symbols_of(inputs: Mapping[str, TensorType], symbols: Sequence[Dim] = ()) -> dict[str, Dim]:
    """Return the symbols of declared inputs with what was declared about them, in order of appearance.

    A formula such as `2*h + 1` keeps no declaration: that of `h` comes from another input, or from `symbols`.
    """
    declared = [size for one in inputs.values() for size in one.shape]
    ranges = {size.name: size for size in (*declared, *symbols) if isinstance(size, Symbol)}
    return {name: ranges.get(name, Dim.of(name)) for size in declared for name in sorted(size.symbols)}


def example_sizes(inputs: Mapping[str, TensorType], symbols: Sequence[Dim] = ()) -> dict[str, int]:
    """Choose a size for each symbol: at least 3, within its range, all different.

    Args:
        inputs: Declared types by name.
        symbols: Declarations of symbols that stand in formulas only.

    Raises:
        UsageError: a range that holds no size above 1: the dimension is a constant.

    >>> from mlsysopt.graph.types import i64
    >>> from mlsysopt.graph.symbolic import dims
    >>> example_sizes({"ids": i64[dims("B", "S", max=(64, 512))]})
    {'B': 37, 'S': 39}
    """
    taken = {size.constant for declared in inputs.values() for size in declared.shape if size.is_constant}
    chosen: dict[str, int] = {}
    for name, symbol in symbols_of(inputs, symbols).items():
        low, high = declared_range(symbol)
        if high is not None and high < 2:
            raise UsageError(
                f"dimension {name}: its range {low}..{high} holds no size above 1; "
                f"declare the size itself, such as f32[{max(high, 0)}, ...]"
            )
        size = next(one for one in _candidates(low, high) if one not in taken or one == high)
        taken.add(size)
        chosen[name] = size
    return chosen


def _candidates(low: int, high: int | None) -> Iterator[int]:
    # Odd sizes first: even ones pass checks of divisibility by accident.
    first = max(_WISHED, low + _OFFSET) | 1
    if high is None or first <= high:
        yield from range(first, first + 100 if high is None else high + 1, 2)
    if high is not None:
        yield from range(high - (high % 2 == 0), max(low, _LEAST) - 1, -2)
        yield from range(high, max(low, 2) - 1, -1)
        yield high  # whatever the range, there is an answer: then sizes repeat


def example_tensors(
    inputs: Mapping[str, TensorType], module: nn.Module | None = None, symbols: Sequence[Dim] = ()
) -> dict[str, Tensor]:
    """Build example inputs: normal numbers, and integers that every embedding of the module holds.

    Args:
        inputs: Declared types by name.
        module: The model, None when nothing is known about integers.
        symbols: Declarations of symbols that stand in formulas only.
    """
    import torch

    sizes = example_sizes(inputs, symbols)
    parts = module.modules() if module is not None else ()
    most = min([128, *(part.num_embeddings for part in parts if isinstance(part, torch.nn.Embedding))])
    generator = torch.Generator().manual_seed(0)
    made: dict[str, Tensor] = {}
    for name, declared in inputs.items():
        shape, element = declared.at(**sizes), torch_dtype(declared.dtype)
        if declared.dtype.is_float:
            made[name] = torch.randn(shape, generator=generator).to(element)
        elif declared.dtype.is_bool:
            made[name] = torch.ones(shape, dtype=torch.bool)
        else:
            made[name] = torch.randint(0, most, shape, generator=generator).to(element)
    return made
