"""Models from PyTorch, through `torch.export`.

torch traces the model with fake tensors, so weights are neither read nor copied. What comes out is a
graph of ATen operators with symbolic sizes; each operator is turned into ops by a small function of
`importers.aten`, each size into a `Dim`, each range or assertion of torch into a fact.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from mlsysopt.core.collector import uncollected
from mlsysopt.core.errors import MissingExtra, UsageError
from mlsysopt.graph.importers.torch_program import Exported, identifier, quiet
from mlsysopt.graph.ir import Graph
from mlsysopt.graph.symbolic import Dim, declared_range
from mlsysopt.graph.types import TensorType, dtype

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram

__all__ = ["from_exported", "from_torch", "load_pt2"]


@uncollected()
def from_torch(
    module: nn.Module,
    inputs: Mapping[str, TensorType],
    *,
    symbols: Sequence[Dim] = (),
    examples: Mapping[str, Tensor] | None = None,
    train: bool = False,
    opaque: Literal["error", "keep"] = "error",
    name: str | None = None,
) -> Graph:
    """Import a module.

    Args:
        module: The model, in evaluation mode unless `train`.
        inputs: Types of its inputs, with symbols where sizes may vary. Names are the parameters of
            `forward`, or any names in the order of its positional parameters.
        symbols: Declarations of symbols that stand in formulas only: `h` of `f32[2*h + 1]`.
        examples: Tensors to trace with; made from the types otherwise. Their values matter only to a
            model that reads them.
        train: Whether the program is a training step: the first output of `forward` is the loss, and
            the gradient of each parameter that needs one becomes an output `grad_NAME`.
        opaque: What becomes of an ATen operator without an op here: an error, or `opaque.aten`.
        name: Name of the program, the class of the module otherwise.

    Raises:
        UsageError: the module is in training mode or writes into its buffers; an input that it
            cannot take.
        ImportFailed: torch fixes a size that was declared free; operators that are not known.
        MissingExtra: torch is not installed.
    """
    torch = _torch()
    from mlsysopt.graph.importers.examples import example_tensors
    from mlsysopt.graph.importers.torch_refusals import bound_inputs, check_mode, export_error

    if not isinstance(module, torch.nn.Module):
        raise UsageError(f"from_torch takes a torch.nn.Module, got {type(module).__name__}")
    if not isinstance(inputs, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        given = type(inputs).__name__
        raise UsageError(f'inputs: a dict from names to types is needed, such as {{"x": f32["N", 3]}}, got a {given}')
    if not inputs:
        raise UsageError('from_torch needs the types of its inputs, such as inputs={"x": f32["N", 3, 224, 224]}')
    for given, declared in inputs.items():
        if not isinstance(declared, TensorType):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UsageError(f"input {given!r}: a type such as f32[B, 3] is needed, got {type(declared).__name__}")
    check_mode(module, train=train)
    by_name = bound_inputs(module, inputs)
    tensors = example_tensors(inputs, module, symbols) if examples is None else _given(inputs, examples)

    def run(values: Mapping[str, Any]) -> Any:
        return module(**values) if by_name else module(*values.values())

    shapes = _dynamic_shapes(inputs, symbols)
    try:
        with quiet():
            exported = torch.export.export(
                module,
                () if by_name else tuple(tensors.values()),
                dict(tensors) if by_name else None,
                dynamic_shapes=shapes if by_name else _by_position(module, list(shapes.values())),
                strict=False,
            )
    except Exception as error:  # torch raises a dozen kinds, and hands on what the model raises
        raise export_error(error, module, inputs, run, symbols=symbols, own_examples=examples is not None) from error
    return from_exported(
        exported,
        inputs=inputs,
        symbols=symbols,
        train=train,
        opaque=opaque,
        name=name or identifier(type(module).__name__),
    )


@uncollected()
def from_exported(
    exported: ExportedProgram,
    *,
    inputs: Mapping[str, TensorType] | None = None,
    symbols: Sequence[Dim] = (),
    train: bool = False,
    opaque: Literal["error", "keep"] = "error",
    name: str | None = None,
) -> Graph:
    """Import a program that torch has exported.

    Args:
        exported: The program.
        inputs: Names and types for its inputs in their order; torch's names, and symbols s0, s1 ...
            otherwise.
        symbols: As in `from_torch`.
        train: As in `from_torch`; the program must have been exported with gradients enabled.
        opaque: As in `from_torch`.
        name: Name of the program.

    Raises:
        UsageError: as `from_torch`.
        ImportFailed: as `from_torch`.
    """
    if opaque not in ("error", "keep"):
        raise UsageError(f"opaque={opaque!r}: allowed are 'error' and 'keep'")
    work = Exported(exported, inputs, train=train, keep=opaque == "keep", name=name or "exported")
    for symbol in symbols:
        work.builder.facts = work.builder.facts.with_declared(symbol)
    return work.run()


def load_pt2(
    path: str | os.PathLike[str],
    *,
    inputs: Mapping[str, TensorType] | None = None,
    opaque: Literal["error", "keep"] = "error",
    name: str | None = None,
) -> Graph:
    """Import a file that `torch.export.save` wrote.

    Raises:
        UsageError: no such file, or another format.
        ImportFailed: as `from_torch`.
    """
    torch = _torch()
    where = os.fspath(path)
    if not os.path.isfile(where):
        raise UsageError(f"{where}: no such file; torch.export.save(exported, path) writes one")
    try:
        with quiet():
            exported = torch.export.load(where)
    except Exception as error:  # whatever its readers raise, the file is the reason
        line = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UsageError(f"{where}: not a program saved by torch.export.save ({line})") from error
    stem = os.path.basename(where).rpartition(".")[0]
    return from_exported(exported, inputs=inputs, opaque=opaque, name=name or identifier(stem))


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise MissingExtra.of("importing from PyTorch", "graph") from None
    return torch


def _given(inputs: Mapping[str, TensorType], examples: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if inputs.keys() != examples.keys():
        raise UsageError(f"examples are for {', '.join(examples)}, inputs are {', '.join(inputs)}: one for each input")
    for name, declared in inputs.items():
        shape, element = tuple(examples[name].shape), dtype(str(examples[name].dtype))
        if len(shape) != declared.rank or element is not declared.dtype:
            raise UsageError(f"example {name!r}: expected {declared}, got {element}{list(shape)}")
    return {name: examples[name] for name in inputs}


def _dynamic_shapes(inputs: Mapping[str, TensorType], symbols: Sequence[Dim]) -> dict[str, dict[int, Any]]:
    """Say to torch which sizes are free: one torch dimension per symbol, a*s + b where a size is derived."""
    import torch

    from mlsysopt.graph.importers.examples import symbols_of

    made: dict[str, Any] = {}
    for name, symbol in symbols_of(inputs, symbols).items():
        low, high = declared_range(symbol)
        made[name] = torch.export.Dim(name, min=low, max=high)

    def free(size: Dim) -> Any:
        if len(size.symbols) == 1:
            (name,) = size.symbols
            symbol = Dim.of(name)
            factor = (size - size.offset) // symbol
            if factor.constant is not None and factor.constant > 0 and symbol * factor + size.offset == size:
                scaled = made[name] if factor == 1 else made[name] * factor.constant
                return scaled if not size.offset else scaled + size.offset
        return torch.export.Dim.AUTO  # any other formula: torch takes it for a symbol of its own

    return {
        name: {axis: free(size) for axis, size in enumerate(declared.shape) if not size.is_constant}
        for name, declared in inputs.items()
    }


def _by_position(module: nn.Module, shapes: list[Any]) -> tuple[Any, ...]:
    """Arrange entries as torch binds arguments: those of `*args` are one tuple."""
    kinds = [parameter.kind for parameter in inspect.signature(module.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return tuple(shapes)
    before = kinds.index(inspect.Parameter.VAR_POSITIONAL)
    return (*shapes[:before], tuple(shapes[before:]))
