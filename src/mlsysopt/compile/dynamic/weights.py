"""Arrays that a flow reads and no call gives: a program's constants as they are, or packed for a kernel."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlsysopt.compile.dynamic.plan import Weight
from mlsysopt.compile.errors import StaleWeights
from mlsysopt.graph.ir import Graph
from mlsysopt.graph.sources import OfTorch

if TYPE_CHECKING:
    import numpy.typing as npt

    from mlsysopt.compile.codegen.target import Isa

    Array = npt.NDArray[Any]

__all__ = ["Watch", "Weights", "matrix_of"]


class Weights:
    """The arrays and their addresses.

    Args:
        graph: Holds the constants.
        weights: What each array is.
        isa: Panels are made for it.

    Attributes:
        arrays: In the order of `weights`.
        address: Address of the array of their addresses.
        packed_bytes: Bytes that exist beside the originals.

    Raises:
        WeightsError: the bytes of a constant are not at hand.
    """

    def __init__(self, graph: Graph, weights: Sequence[Weight], isa: Isa) -> None:
        import numpy as np

        sources = {constant.name: constant.source for constant in graph.constants}
        loaded: dict[str, Array] = {}
        packed: dict[object, tuple[Array, Array | None]] = {}
        self.arrays: list[Array] = []
        for weight in weights:
            if weight.constant not in loaded:
                loaded[weight.constant] = np.ascontiguousarray(sources[weight.constant].load())
            array = loaded[weight.constant]
            if weight.form:
                key = weight.constant, weight.form, weight.matrix
                if key not in packed:
                    packed[key] = _packed(array, weight, isa)
                panels, scales = packed[key]
                array = panels if weight.part == "weights" or scales is None else scales
            self.arrays.append(array)
        self.packed_bytes = sum(part.nbytes for parts in packed.values() for part in parts if part is not None)
        self._addresses = (ctypes.c_void_p * max(len(self.arrays), 1))(*[one.ctypes.data for one in self.arrays])
        self.address = ctypes.addressof(self._addresses)

    def at(self, i: int) -> int:
        """Return the address of an array."""
        return self._addresses[i] or 0


class Watch:
    """Notices that a weight of the model was changed after it had been packed.

    Args:
        graph: Its constants that are tensors of torch are watched.
    """

    def __init__(self, graph: Graph) -> None:
        self._names: list[str] = []
        self._tensors: list[Any] = []
        for constant in graph.constants:
            source = constant.source
            # A tensor made in inference mode counts no versions.
            if isinstance(source, OfTorch) and not source.tensor.is_inference():
                self._names.append(constant.label or constant.name)
                self._tensors.append(source.tensor)
        self._seen = self._now()

    def __bool__(self) -> bool:
        return bool(self._tensors)

    def check(self) -> None:
        """Raise StaleWeights when a tensor was written since; the first one is named."""
        now = [tensor._version for tensor in self._tensors]
        if now != self._seen:
            name = next(name for name, a, b in zip(self._names, now, self._seen, strict=True) if a != b)
            raise StaleWeights(f"{name} was changed after it had been compiled: call refresh() to take it over")

    def _now(self) -> list[int]:
        return [tensor._version for tensor in self._tensors]


def matrix_of(array: Array, weight: Weight) -> Array:
    """Return what of a constant is packed, as a matrix [N, K] that shares its memory.

    Args:
        array: The constant, row-major.
        weight: Says where in it the matrix lies.
    """
    import numpy as np

    if weight.matrix is None:
        return array
    rows, columns, *steps = weight.matrix
    return np.lib.stride_tricks.as_strided(
        array.reshape(-1), (rows, columns), [step * array.itemsize for step in steps], writeable=False
    )


def _packed(array: Array, weight: Weight, isa: Isa) -> tuple[Array, Array | None]:
    import numpy as np

    from mlsysopt.compile.codegen.pack import pack

    return pack(np.asarray(matrix_of(array, weight), dtype=np.float32), isa, weight.form)
