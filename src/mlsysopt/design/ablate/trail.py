"""What becomes of the outputs of modules: who consumes them, and as what.

An output is followed through what leaves its values alone (dropout, reshapes, indexing, scaling by a
constant, activations that keep zero) to the first thing that makes something else of it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

__all__ = ["Mark", "Role", "Trail", "following", "leaves"]

Role = Literal["add", "cat", "mul", "chain", "output"]
Mark = Literal["plain", "shifted", "scaled", "bent"]
"""How an output looks by now: itself; plus a number; scaled or behind an activation, so that zero is still
zero but one is not one; or behind a function that keeps neither."""

Key = tuple[str, int]
"""A module's path and which of its outputs."""


def leaves(value: Any) -> list[torch.Tensor]:
    """Return the tensors in nested tuples, lists, mappings and dataclasses, in order."""
    import torch

    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [tensor for one in value.values() for tensor in leaves(one)]
    if isinstance(value, tuple | list):
        return [tensor for one in value for tensor in leaves(one)]
    if hasattr(value, "__dataclass_fields__") and not isinstance(value, type):
        return [tensor for name in value.__dataclass_fields__ for tensor in leaves(getattr(value, name, None))]
    return []


class Trail:
    """Labels on tensors.

    Attributes:
        roles: (Path, output) -> as what it is consumed.
        beside: Paths of modules whose output meets their own input in an addition.
    """

    def __init__(self) -> None:
        self.roles: dict[Key, set[Role]] = {}
        self.beside: set[str] = set()
        self._marks: dict[int, dict[Key, Mark]] = {}
        self._given: dict[str, set[int]] = {}
        # What a view is a view of.
        self._roots: dict[int, int] = {}
        # Tensors that depend on the model's input; the others are constants to it.
        self._live: set[int] = set()
        # A tensor that is gone would give its id to another one.
        self._kept: list[torch.Tensor] = []

    def start(self, tensors: Iterable[torch.Tensor]) -> None:
        """Say what the model is given."""
        for tensor in tensors:
            self._keep(tensor, live=True)

    def enter(self, path: str, tensors: Iterable[torch.Tensor]) -> None:
        """Say what a module is given."""
        for tensor in tensors:
            self._kept.append(tensor)
            self._given.setdefault(path, set()).add(self._root(tensor))

    def leave(self, path: str, given: Iterable[torch.Tensor], tensors: Iterable[torch.Tensor]) -> None:
        """Say what a module gives."""
        live = any(id(tensor) in self._live for tensor in given)
        for place, tensor in enumerate(tensors):
            self._keep(tensor, live=live)
            self._marks.setdefault(id(tensor), {})[path, place] = "plain"

    def end(self, tensors: Iterable[torch.Tensor]) -> None:
        """Say what the model gives."""
        for tensor in tensors:
            for key in self._marks.get(id(tensor), {}):
                self._consumed(key, "output")

    def saw(self, name: str, args: Any, kwargs: Any, result: Any) -> None:
        """Take note of one call of torch."""
        if name in METADATA:
            return
        operands, made = leaves((args, kwargs)), leaves(result)
        if name == "__setitem__" and operands:
            made = operands[:1]
        live = any(id(tensor) in self._live for tensor in operands)
        before: dict[int, dict[Key, Mark]] = {id(one): dict(self._marks.get(id(one), {})) for one in operands}
        keys: dict[Key, Mark] = {key: mark for marks in before.values() for key, mark in marks.items()}
        changed = name not in THROUGH and name != "__setitem__"
        for tensor in made:
            self._keep(tensor, live=live)
            if changed and id(tensor) in before:
                # Written in place: it is another value now.
                self._marks.pop(id(tensor), None)
                self._roots.pop(id(tensor), None)
        if not changed and operands:
            for tensor in made:
                if tensor is not operands[0]:
                    self._roots[id(tensor)] = self._root(operands[0])
        for key, mark in keys.items():
            others = [tensor for tensor in operands if key not in before[id(tensor)]]
            after: Mark | None = self._met(key, mark, name, args, others, before)
            if after is not None:
                for tensor in made:
                    self._marks.setdefault(id(tensor), {})[key] = after

    def _met(
        self, key: Key, mark: Mark, name: str, args: Any, others: list[torch.Tensor], before: Mapping[int, Any]
    ) -> Mark | None:
        """Note what a call does to an output; return what it is afterwards, None when it was consumed."""
        live = [tensor for tensor in others if id(tensor) in self._live]
        if name in THROUGH or name == "__setitem__":
            return mark
        if name in KEEPS_ZERO:
            return "scaled" if mark in ("plain", "scaled") else self._bent(key)
        if name in ADDS or name in JOINS:
            if live:
                if any(self._root(tensor) in self._given.get(key[0], ()) for tensor in live):
                    self.beside.add(key[0])
                return self._consumed(key, "chain" if mark == "bent" else "cat" if name in JOINS else "add")
            if others:
                # A bias or a position: the signal goes on.
                return "scaled" if mark != "bent" else mark
            number = any(isinstance(one, int | float) and one != 0 for one in args)
            return "shifted" if number and mark == "plain" and name in ADDS else mark
        if name in FACTORS or name in QUOTIENTS:
            if not live:
                return "scaled" if mark in ("plain", "scaled") else self._bent(key)
            divided = name in QUOTIENTS and key in before.get(id(args[0]) if args else 0, ())
            if mark == "shifted" and not divided:
                # 1 + f(x) as a factor: without f it is 1.
                return self._consumed(key, "add")
            return self._consumed(key, "mul" if mark == "plain" and not divided else "chain")
        if name in BENDS and not live:
            return self._bent(key)
        return self._consumed(key, "chain")

    def _bent(self, key: Key) -> Mark:
        self._consumed(key, "chain")
        return "bent"

    def _consumed(self, key: Key, role: Role) -> None:
        self.roles.setdefault(key, set()).add(role)

    def _root(self, tensor: torch.Tensor) -> int:
        return self._roots.get(id(tensor), id(tensor))

    def _keep(self, tensor: torch.Tensor, *, live: bool) -> None:
        self._kept.append(tensor)
        if live:
            self._live.add(id(tensor))


THROUGH = {
    "__getitem__", "alpha_dropout", "as_strided", "bfloat16", "broadcast_to", "chunk", "clone", "contiguous", "detach",
    "double", "dropout", "dropout1d", "dropout2d", "dropout3d", "dropout_", "expand", "expand_as", "feature_dropout",
    "flatten", "float", "half", "index_select", "mH", "mT", "moveaxis", "movedim", "narrow", "permute", "repeat",
    "repeat_interleave", "reshape", "select", "split", "split_with_sizes", "squeeze", "swapaxes", "swapdims", "t", "T",
    "tensor_split", "tile", "to", "transpose", "type", "type_as", "unbind", "unflatten", "unsqueeze", "view", "view_as",
}  # fmt: skip
KEEPS_ZERO = {
    "abs", "celu", "elu", "elu_", "gelu", "hardshrink", "hardswish", "hardtanh", "leaky_relu", "leaky_relu_", "mish",
    "neg", "negative", "__neg__", "prelu", "relu", "relu_", "relu6", "rrelu", "selu", "silu", "softshrink", "softsign",
    "tanh", "tanh_", "tanhshrink",
}  # fmt: skip
ADDS = {
    "__add__", "__iadd__", "__isub__", "__radd__", "__rsub__", "__sub__", "add", "add_", "rsub", "sub", "sub_",
    "subtract", "subtract_",
}  # fmt: skip
JOINS = {"cat", "column_stack", "concat", "concatenate", "dstack", "hstack", "stack", "vstack"}
FACTORS = {"__imul__", "__mul__", "__rmul__", "mul", "mul_", "multiply", "multiply_"}
QUOTIENTS = {"__div__", "__itruediv__", "__rtruediv__", "__truediv__", "div", "div_", "divide", "true_divide"}
# Functions of one tensor that may stand between a head and what the model gives.
BENDS = {
    "amax", "clamp", "clamp_min", "exp", "hardsigmoid", "log", "log_softmax", "logit", "logsigmoid", "logsumexp", "max",
    "mean", "normalize", "sigmoid", "sigmoid_", "softmax", "softmin", "softplus", "sqrt", "sum",
}  # fmt: skip
# Reads of what a tensor is, not of what is in it.
METADATA = {
    "__len__", "__repr__", "data_ptr", "device", "dim", "dtype", "element_size", "empty_like", "full_like",
    "get_device", "grad_fn", "has_names", "is_complex", "is_contiguous", "is_cpu", "is_cuda", "is_floating_point",
    "is_inference", "is_leaf", "is_meta", "is_mkldnn", "is_nested", "is_quantized", "is_sparse", "layout", "names",
    "ndim", "ndimension", "nelement", "new_empty", "new_full", "new_ones", "new_tensor", "new_zeros", "numel",
    "ones_like", "rand_like", "randn_like", "requires_grad", "shape", "size", "storage_offset", "stride",
    "zeros_like",
}  # fmt: skip


@contextmanager
def following(trail: Trail) -> Generator[None]:
    """Watch every call of torch."""
    from torch.overrides import TorchFunctionMode

    class Follow(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            given = kwargs or {}
            result = func(*args, **given)
            name = getattr(func, "__name__", "")
            if name == "__get__":
                # A property: its own name is that of the descriptor.
                name = getattr(getattr(func, "__self__", None), "__name__", "shape")
            trail.saw(name, args, given, result)
            return result

    with Follow():
        yield
