"""The module that runs a program: parameters, sizes from shapes, one call per op.

Imported by `to_torch` only, since a subclass of `nn.Module` cannot be made without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mlsysopt.core.errors import UsageError, near_misses
from mlsysopt.graph.errors import GraphError
from mlsysopt.graph.exporters.torch_ops import Run, lookup_torch
from mlsysopt.graph.importers.examples import torch_dtype
from mlsysopt.graph.ir import Constant, Graph, Op
from mlsysopt.graph.ops.registry import lookup
from mlsysopt.graph.sources import OfTorch
from mlsysopt.graph.symbolic import Dim
from mlsysopt.graph.types import DType, f32

__all__ = ["Program"]

Sizes = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Step:
    """One op, ready to run.

    Attributes:
        run: Computes it.
        operands: Names of values.
        results: Names of values.
        fixed: Attributes that are known.
        open: Attributes that hold symbols -> their value for given sizes.
        fresh: The symbol that the op defines, "" for none, and which axis of the result it is.
        dead: Values that nobody reads afterwards.
    """

    run: Run
    operands: tuple[str, ...]
    results: tuple[str, ...]
    fixed: Mapping[str, Any]
    open: Mapping[str, Callable[[Sizes], Any]]
    fresh: str
    dead: tuple[str, ...]


class Program(nn.Module):
    """A program as a module; made by `to_torch`.

    The element type f32 stands for that of the parameters: `module.double()` computes all of it in
    float64.
    """

    def __init__(self, graph: Graph, *, trainable: bool = False) -> None:
        super().__init__()
        self.graph = graph
        self._attributes: dict[str, str] = {}
        for constant in graph.constants:
            self._add(constant, trainable=trainable)
        # Moves and changes its type with the parameters, so it tells where to make new tensors and of which type.
        self.register_buffer("_like", torch.empty(0), persistent=False)
        self._known = [
            _bind_step(value.name, axis, size) for value in graph.inputs for axis, size in enumerate(value.shape)
        ]
        self._steps = _steps(graph)

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Any:
        given = self._bound(args, kwargs)
        sizes = self._sizes(given)
        values: dict[str, Tensor] = dict(given)
        for name, attribute in self._attributes.items():
            values[name] = getattr(self, attribute)
        like: Any = self._like
        for step in self._steps:
            attrs = dict(step.fixed)
            for name, size_of in step.open.items():
                attrs[name] = size_of(sizes)
            made = step.run([values[name] for name in step.operands], attrs, like)
            results = made if isinstance(made, tuple) else (made,)
            for name, value in zip(step.results, results, strict=True):
                values[name] = value
            if step.fresh:
                sizes[step.fresh] = results[0].shape[-1]
            for name in step.dead:
                del values[name]
        outputs = {value.name: values[value.name] for value in self.graph.outputs}
        return next(iter(outputs.values())) if len(self.graph.outputs) == 1 else outputs

    def _add(self, constant: Constant, *, trainable: bool) -> None:
        tensor = _tensor(constant, copy=trainable)
        attribute = constant.name.replace(".", "_").replace("-", "_")
        while hasattr(self, attribute):
            attribute += "_"
        if tensor.is_floating_point():
            self.register_parameter(attribute, nn.Parameter(tensor, requires_grad=trainable))
        else:
            self.register_buffer(attribute, tensor)
        self._attributes[constant.name] = attribute

    def _bound(self, args: Sequence[Tensor], kwargs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        names = [value.name for value in self.graph.inputs]
        if len(args) > len(names):
            raise UsageError(f"{self.graph.name}: {len(args)} inputs given, it has {len(names)}: {', '.join(names)}")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        for name in given:
            if name not in names:
                raise UsageError(f"{self.graph.name} has no input {name!r}; {near_misses(name, names, noun='input')}")
        missing = [name for name in names if name not in given]
        if missing:
            raise UsageError(f"{self.graph.name}: no value given for {', '.join(missing)}")
        for value in self.graph.inputs:
            found = given[value.name]
            if found.dim() != value.type.rank:
                raise UsageError(f"input {value.name!r}: expected {value.type}, got {list(found.shape)}")
        return given

    def _sizes(self, given: Mapping[str, Tensor]) -> Sizes:
        sizes: Sizes = {}
        origin: dict[str, str] = {}
        for name, axis, symbol, factor, offset, _ in self._known:
            if symbol and symbol not in sizes:
                found: Any = given[name].shape[axis]
                if factor == 1:
                    sizes[symbol] = found - offset if offset else found
                elif (found - offset) % factor:
                    raise UsageError(f"input {name!r}: size {found} of axis {axis} is no {factor}*{symbol} + {offset}")
                else:
                    sizes[symbol] = (found - offset) // factor
                origin[symbol] = name
        for symbol in self.graph.symbols:
            if symbol not in sizes:
                formula = self.graph.facts.normalise(Dim.of(symbol))
                if symbol not in formula.symbols and formula.symbols <= sizes.keys():
                    sizes[symbol] = _size_of(formula)(sizes)
        for name, axis, _, _, _, size in self._known:
            found, wanted = given[name].shape[axis], _size_of(size)(sizes)
            if found != wanted:
                known = ", ".join(f"{one} = {sizes[one]} ({origin[one]})" for one in sorted(size.symbols))
                raise UsageError(f"{known or size} but {size} = {found} ({name})")
        return sizes


def _bind_step(name: str, axis: int, size: Dim) -> tuple[str, int, str, int, int, Dim]:
    """Return input, axis, the symbol that it tells (or ""), factor and offset of `factor*symbol + offset`, and size."""
    if len(size.symbols) == 1:
        (symbol,) = size.symbols
        factor = (size - size.offset) // Dim.of(symbol)
        if factor.constant and Dim.of(symbol) * factor + size.offset == size:
            return name, axis, symbol, factor.constant, size.offset, size
    return name, axis, "", 1, 0, size


def _tensor(constant: Constant, *, copy: bool) -> Tensor:
    source = constant.source
    if isinstance(source, OfTorch):
        tensor: Tensor = source.tensor.detach()
        return tensor.clone() if copy else tensor
    import numpy as np

    array = source.load()
    if constant.type.dtype.name == "bf16":
        return torch.from_numpy(np.array(array).view(np.int16)).view(torch.bfloat16)
    # torch wants to own what it may write to; a mapped file is read-only.
    return torch.from_numpy(np.array(array) if copy or not array.flags.writeable else np.ascontiguousarray(array))


def _steps(graph: Graph) -> list[_Step]:
    last: dict[str, int] = {}
    for i, op in enumerate(graph.ops):
        for value in (*op.operands, *op.results):
            last[value.name] = i
    kept = {value.name for value in graph.outputs}
    ending: dict[int, list[str]] = {}
    for name, i in last.items():
        if name not in kept:
            ending.setdefault(i, []).append(name)
    unknown = sorted({op.kind for op in graph.ops if lookup_torch(op.kind) is None})
    if unknown:
        raise GraphError(f"{graph.name}: no form in torch for {', '.join(unknown)}; decompose or lower them first")
    return [_step(op, tuple(ending.get(i, ()))) for i, op in enumerate(graph.ops)]


def _step(op: Op, dead: tuple[str, ...]) -> _Step:
    run = lookup_torch(op.kind)
    assert run is not None
    fixed: dict[str, Any] = {}
    open_: dict[str, Callable[[Sizes], Any]] = {}
    for name, value in op.attrs.items():
        if _symbolic(value):
            open_[name] = _evaluator(value)
        else:
            fixed[name] = _plain(value)
    fresh = str(op.attrs["symbol"]) if lookup(op.kind).fresh else ""
    return _Step(run, tuple(v.name for v in op.operands), tuple(v.name for v in op.results), fixed, open_, fresh, dead)


def _symbolic(value: Any) -> bool:
    if isinstance(value, tuple):
        return any(_symbolic(one) for one in value)
    return isinstance(value, Dim) and not value.is_constant


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_plain(one) for one in value)
    if isinstance(value, Dim):
        return int(value)
    if isinstance(value, DType):
        # None stands for the type of the parameters.
        return None if value is f32 else torch_dtype(value)
    return value


def _size_of(size: Dim) -> Callable[[Sizes], Any]:
    names = sorted(size.symbols)
    compiled = size.compile(names)
    return lambda sizes: compiled(*[sizes[name] for name in names])


def _evaluator(value: Any) -> Callable[[Sizes], Any]:
    if isinstance(value, tuple):
        parts = [_evaluator(one) for one in value]
        return lambda sizes: tuple([part(sizes) for part in parts])
    if isinstance(value, Dim) and not value.is_constant:
        return _size_of(value)
    plain = _plain(value)
    return lambda sizes: plain
