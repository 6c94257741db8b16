"""Tensors of a call, whatever library they come from: addresses in, new tensors of the same kind out."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from mlsysopt.compile.dynamic.binding import mismatch
from mlsysopt.compile.errors import InputError
from mlsysopt.graph.ir import Value

if TYPE_CHECKING:
    import numpy.typing as npt

    from mlsysopt.compile.dynamic.arena import Context

    Array = npt.NDArray[Any]

__all__ = ["NumpyKind", "TensorKind", "TorchKind", "kind_of", "view_at"]


class TensorKind(Protocol):
    """One library's tensors."""

    def read(self, args: Sequence[Any], context: Context) -> tuple[tuple[Sequence[int], ...], list[Any]]:
        """Put the addresses of inputs into a context, which counts copies too.

        Returns:
            The shapes, and what holds the memory: to be kept until the call is over.

        Raises:
            InputError: no tensor, of another type or device, or one that wants gradients.
        """
        ...

    def make(self, shapes: Sequence[Sequence[int]], context: Context) -> list[Any]:
        """Return outputs without content; their addresses are put into a context."""
        ...

    def finished(self, made: Any) -> Any:
        """Return an output as the caller gets it."""
        ...


class TorchKind:
    """Tensors of torch."""

    def __init__(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> None:
        import torch

        from mlsysopt.graph.importers.examples import torch_dtype

        self._inputs = inputs
        self._wanted = [torch_dtype(value.type.dtype) for value in inputs]
        self._made = [torch_dtype(value.type.dtype) for value in outputs]
        self._tensor, self._new, self._recording = torch.Tensor, torch.empty, torch.is_grad_enabled

    def read(self, args: Sequence[Any], context: Context) -> tuple[tuple[Sequence[int], ...], list[Any]]:
        # This is the hot path: a function for each input would cost more than what it does.
        held: list[Any] = []
        shapes: list[Sequence[int]] = []
        addresses, tensor = context.inputs, self._tensor
        for i, given in enumerate(args):
            if not isinstance(given, tensor):
                given = self._foreign(i, given, context)
            if given.dtype is not self._wanted[i]:
                raise InputError(mismatch(self._inputs[i], _dtype_name(given.dtype), tuple(given.shape)))
            if not given.is_cpu:
                raise InputError(f"{self._inputs[i].name}: it is on {given.device}, this executable runs on the CPU")
            if given.requires_grad and self._recording():
                name = self._inputs[i].name
                raise InputError(
                    f"{name} requires gradients and a compiled model has none: "
                    f"call it under torch.inference_mode(), or pass {name}.detach()"
                )
            shape = given.shape
            try:
                # The imaginary part of a conjugate is stored with the other sign; it has gaps unless it is one number.
                if not given.is_contiguous() or ((not shape or shape[-1] == 1) and given.is_neg()):
                    context.copies += 1
                    given = given.resolve_neg().contiguous()
                place = given.data_ptr()
            except RuntimeError as error:
                raise InputError(f"{self._inputs[i].name}: no dense tensor ({given.layout}): {error}") from None
            held.append(given)
            addresses[i] = place
            shapes.append(shape)
        return tuple(shapes), held

    def make(self, shapes: Sequence[Sequence[int]], context: Context) -> list[Any]:
        made: list[Any] = []
        addresses, new = context.outputs, self._new
        for i, shape in enumerate(shapes):
            one = new(shape, dtype=self._made[i])
            addresses[i] = one.data_ptr()
            made.append(one)
        return made

    def finished(self, made: Any) -> Any:
        return made

    def _foreign(self, i: int, given: Any, context: Context) -> Any:
        import torch

        array = _numpy_of(self._inputs[i], given)
        if not array.flags.writeable:  # torch takes it with a warning
            context.copies += 1
            array = array.copy()
        return torch.from_numpy(array)


class NumpyKind:
    """Arrays of numpy, and whatever else speaks DLPack.

    Args:
        inputs, outputs: Of the program.
        like: A tensor of the library that outputs are to belong to; None for numpy.
    """

    def __init__(self, inputs: Sequence[Value], outputs: Sequence[Value], like: Any = None) -> None:
        import numpy as np

        self._inputs = inputs
        self._wanted = [value.type.dtype.numpy() for value in inputs]
        self._made = [value.type.dtype.numpy() for value in outputs]
        self._array, self._new = np.ndarray, np.empty
        self._from = getattr(like.__array_namespace__(), "from_dlpack", None) if _foreign(like) else None

    def read(self, args: Sequence[Any], context: Context) -> tuple[tuple[Sequence[int], ...], list[Any]]:
        held: list[Any] = []
        shapes: list[Sequence[int]] = []
        addresses, plain = context.inputs, self._array
        for i, given in enumerate(args):
            if type(given) is not plain:
                given = _numpy_of(self._inputs[i], given)
            if given.dtype != self._wanted[i]:
                raise InputError(mismatch(self._inputs[i], _dtype_name(given.dtype), given.shape))
            if not given.flags.c_contiguous:
                context.copies += 1
                given = given.copy(order="C")
            held.append(given)
            addresses[i] = _address(given)
            shapes.append(given.shape)
        return tuple(shapes), held

    def make(self, shapes: Sequence[Sequence[int]], context: Context) -> list[Any]:
        made: list[Any] = []
        for i, shape in enumerate(shapes):
            one = self._new(shape, self._made[i])
            context.outputs[i] = _address(one)
            made.append(one)
        return made

    def finished(self, made: Any) -> Any:
        return made if self._from is None else self._from(made)


def _address(array: Array) -> int:
    # Several times as fast as `array.ctypes.data`, but refused for what is read-only, empty or bfloat16.
    try:
        return ctypes.addressof(_CHAR.from_buffer(array))
    except (TypeError, ValueError):
        return array.__array_interface__["data"][0]


_CHAR: Any = ctypes.c_char


def kind_of(given: Any) -> str:
    """Return "torch", "numpy", or the name of another library's type that speaks DLPack."""
    kind = type(given)
    if kind.__module__ == "numpy":
        return "numpy"
    if any(base.__module__.partition(".")[0] == "torch" for base in kind.__mro__[:-1]):
        return "torch"
    return f"{kind.__module__}.{kind.__qualname__}"


def view_at(address: int, shape: Sequence[int], strides: Sequence[int], dtype: Any) -> Array:
    """Return memory as an array; whoever owns it must keep it.

    Args:
        address: First byte.
        shape: Sizes.
        strides: Elements between neighbours along each axis, none negative.
        dtype: Element type, of numpy.
    """
    import numpy as np

    kind = np.dtype(dtype)
    if 0 in shape:
        return np.empty(tuple(shape), kind)
    length = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    raw: Any = (ctypes.c_char * (length * kind.itemsize)).from_address(address)
    return np.ndarray(tuple(shape), kind, raw, strides=tuple(stride * kind.itemsize for stride in strides))


def _foreign(like: Any) -> bool:
    return like is not None and kind_of(like) != "numpy" and hasattr(like, "__array_namespace__")


def _numpy_of(value: Value, given: Any) -> Array:
    import numpy as np

    if type(given) is np.ndarray:
        return given
    if isinstance(given, np.ndarray | np.generic):
        return np.asarray(given)
    if hasattr(given, "__dlpack__"):
        try:
            return np.from_dlpack(given)
        except (BufferError, RuntimeError, TypeError) as error:
            raise InputError(f"{value.name}: {type(given).__name__} cannot be read here: {error}") from None
    raise InputError(
        f"{value.name}: expected {value.type}, got {type(given).__name__}; give a tensor of torch, an array of numpy "
        "or anything else with __dlpack__"
    )


def _dtype_name(dtype: Any) -> str:
    from mlsysopt.core.errors import UsageError
    from mlsysopt.graph.types import dtype as ours

    try:
        return ours(str(dtype)).name
    except UsageError:
        return str(dtype)
