"""What a value is: element type, symbolic shape, layout, and optionally placement and quantisation."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mlsysopt.core.errors import UsageError, near_misses
from mlsysopt.graph.placement import Placement
from mlsysopt.graph.symbolic import Dim, multiplied

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "DENSE",
    "DTYPES",
    "Blocked",
    "DType",
    "Dense",
    "Layout",
    "Opaque",
    "Quant",
    "TensorType",
    "bf16",
    "boolean",
    "dtype",
    "f16",
    "f32",
    "f64",
    "i8",
    "i16",
    "i32",
    "i64",
    "u8",
]


@dataclass(frozen=True, slots=True)
class DType:
    """An element type; `f32[B, S, 768]` builds a `TensorType`.

    Attributes:
        name: Name in the text form.
        kind: "bool", "int" or "float".
        bytes: Bytes of one element.
        low: Smallest value of an integer type, else None.
        high: Largest value of an integer type, else None.
    """

    name: str
    kind: str
    bytes: int
    low: int | None = None
    high: int | None = None

    def __getitem__(self, shape: int | str | Dim | tuple[int | str | Dim, ...]) -> TensorType:
        dims = shape if isinstance(shape, tuple) else (shape,)
        return TensorType(self, tuple(Dim.of(d) for d in dims))

    @property
    def is_float(self) -> bool:
        return self.kind == "float"

    @property
    def is_int(self) -> bool:
        return self.kind == "int"

    @property
    def is_bool(self) -> bool:
        return self.kind == "bool"

    def numpy(self) -> np.dtype[Any]:
        """Return numpy's type for it; bf16 comes from ml_dtypes."""
        import numpy as np

        if self.name == "bf16":
            import ml_dtypes

            return np.dtype(ml_dtypes.bfloat16)
        return np.dtype(_NUMPY[self.name])

    def __str__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, ...]:
        return dtype, (self.name,)


_NUMPY = {
    "bool": "bool", "i8": "int8", "u8": "uint8", "i16": "int16", "i32": "int32", "i64": "int64",
    "f16": "float16", "f32": "float32", "f64": "float64",
}  # fmt: skip

boolean = DType("bool", "bool", 1)
i8 = DType("i8", "int", 1, -(2**7), 2**7 - 1)
u8 = DType("u8", "int", 1, 0, 2**8 - 1)
i16 = DType("i16", "int", 2, -(2**15), 2**15 - 1)
i32 = DType("i32", "int", 4, -(2**31), 2**31 - 1)
i64 = DType("i64", "int", 8, -(2**63), 2**63 - 1)
f16 = DType("f16", "float", 2)
bf16 = DType("bf16", "float", 2)
f32 = DType("f32", "float", 4)
f64 = DType("f64", "float", 8)

DTYPES: dict[str, DType] = {one.name: one for one in (boolean, i8, u8, i16, i32, i64, f16, bf16, f32, f64)}


def dtype(name: str) -> DType:
    """Return an element type by its name in the text form, or by numpy's or torch's name for it.

    Raises:
        UsageError: no such type; near misses are named.

    >>> dtype("float32").name, dtype("torch.int64").name
    ('f32', 'i64')
    """
    short = name.removeprefix("torch.")
    if short in DTYPES:
        return DTYPES[short]
    foreign = {"bfloat16": "bf16", **{long: ours for ours, long in _NUMPY.items()}}
    if short in foreign:
        return DTYPES[foreign[short]]
    raise UsageError(f"unknown element type {name!r}; {near_misses(short, DTYPES, noun='type', width=12)}")


@dataclass(frozen=True, slots=True)
class Dense:
    """Elements without gaps, the last axis of `order` moving fastest.

    Attributes:
        order: Axes from slowest to fastest; () is row-major.
    """

    order: tuple[int, ...] = ()

    def __str__(self) -> str:
        return "{" + ", ".join(map(str, self.order)) + "}" if self.order else ""


@dataclass(frozen=True, slots=True)
class Blocked:
    """Axes cut into tiles, the tiles in `order`, each tile contiguous: `[N/48][K][48]`.

    Attributes:
        order: Axes from slowest to fastest, of whole tiles.
        tiles: Size of a tile along each axis, >= 1; the last one is padded.
    """

    order: tuple[int, ...]
    tiles: tuple[int, ...]

    def __str__(self) -> str:
        return "{" + ", ".join(map(str, self.order)) + "; tile " + ", ".join(map(str, self.tiles)) + "}"


@dataclass(frozen=True, slots=True)
class Opaque:
    """A library's private packing, known by a tag only."""

    tag: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.\-]+", self.tag):
            raise UsageError(f"opaque layout: tag {self.tag!r} may hold letters, digits, '_', '.' and '-' only")

    def __str__(self) -> str:
        return "{" + f"opaque {self.tag}" + "}"


Layout = Dense | Blocked | Opaque
DENSE = Dense()


@dataclass(frozen=True, slots=True)
class Quant:
    """Integers that stand for reals: `real = scale * (stored - zero_point)`.

    Attributes:
        scale: One scale, or one per index of `axis`; > 0.
        zero_point: As many as scales.
        axis: Axis of per-channel values, None for the whole tensor.
    """

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int | None = None

    def __post_init__(self) -> None:
        if len(self.scale) != len(self.zero_point) or not self.scale or min(self.scale) <= 0:
            raise UsageError(
                f"quantisation: scales must be above 0, one zero point each; got {self.scale}, {self.zero_point}"
            )
        if self.axis is None and len(self.scale) != 1:
            raise UsageError(f"quantisation: {len(self.scale)} scales need an axis")

    def __str__(self) -> str:
        scales, zeros = ", ".join(map(repr, self.scale)), ", ".join(map(str, self.zero_point))
        return f"q({scales}; {zeros}{'' if self.axis is None else f'; {self.axis}'})"


@dataclass(frozen=True, slots=True)
class TensorType:
    """The type of a value.

    Attributes:
        dtype: Element type.
        shape: Sizes, symbolic or constant, each >= 0.
        layout: Order in memory; part of the type because a kernel chooses by it.
        placement: Devices, None for one device.
        quant: Meaning of stored integers, None when they stand for themselves.

    >>> str(f32["B", "S", 768])
    'f32[B, S, 768]'
    """

    dtype: DType
    shape: tuple[Dim, ...]
    layout: Layout = DENSE
    placement: Placement | None = None
    quant: Quant | None = None

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def elements(self) -> Dim:
        """Number of elements, a formula of the symbols."""
        return multiplied(self.shape)

    @property
    def bytes(self) -> Dim:
        """Bytes of the whole tensor without padding, a formula of the symbols."""
        return self.elements * self.dtype.bytes

    @property
    def symbols(self) -> frozenset[str]:
        return frozenset[str]().union(*(size.symbols for size in self.shape))

    def plain(self) -> TensorType:
        """Return the same element type and shape: row-major, on one device, standing for itself."""
        if self.layout is DENSE and self.placement is None and self.quant is None:
            return self
        return TensorType(self.dtype, self.shape)

    def with_shape(self, shape: tuple[Dim, ...]) -> TensorType:
        return replace(self, shape=shape)

    def with_dtype(self, dtype: DType) -> TensorType:
        return replace(self, dtype=dtype)

    def with_placement(self, placement: Placement | None) -> TensorType:
        return replace(self, placement=placement)

    def at(self, **sizes: int) -> tuple[int, ...]:
        """Return the shape for given sizes of the symbols."""
        return tuple(size.at(sizes) for size in self.shape)

    def __str__(self) -> str:
        text = f"{self.dtype.name}[{', '.join(map(str, self.shape))}]{self.layout}"
        if self.placement is not None:
            text += f" {self.placement}"
        if self.quant is not None:
            text += f" {self.quant}"
        return text
