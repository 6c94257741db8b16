"""Ops without native form: through torch where that is installed, else through the interpreter's numpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from mlsysopt.compile.dynamic.arrays import view_at
from mlsysopt.compile.dynamic.plan import Outside, Product, Tensor
from mlsysopt.compile.dynamic.weights import matrix_of
from mlsysopt.compile.errors import CompileError, InputError
from mlsysopt.core.errors import MlsysoptError
from mlsysopt.graph.domains.sizes import evaluated
from mlsysopt.graph.ir import Graph, Op
from mlsysopt.graph.symbolic import Dim
from mlsysopt.graph.types import DType, dtype

if TYPE_CHECKING:
    import numpy.typing as npt

    from mlsysopt.compile.codegen.steps import Place

    Array = npt.NDArray[Any]

__all__ = ["Outer", "listed", "outer", "refuse"]

Sizes = Mapping[str, int]
Outer = Callable[["Callable[[Place], int]", Sizes], None]
"""A call-out: takes a function from places to addresses, and the sizes of all symbols."""

_Run = Callable[[Sequence["Array"], Sequence["Array"], Sizes], None]


def listed(outsides: Sequence[Outside], graph: Graph) -> list[str]:
    """Return a line for each op that leaves native code: where it comes from, why, and what runs it."""
    ops = {op.name: op for op in graph.ops}
    through = "torch" if _torch_is_here() else "numpy"
    lines: list[str] = []
    for one in outsides:
        where = ops[one.op].where() if one.op in ops else one.op
        lines.append(
            f"{where}: {one.why or 'no native form'}; runs through {one.product.variant if one.product else through}"
        )
    return lines


def refuse(outsides: Sequence[Outside], graph: Graph) -> None:
    """Raise CompileError that names every op without native form, with its source line; nothing for none."""
    if outsides:
        lines = "\n".join(listed(outsides, graph)[:12])
        raise CompileError(f"{len(outsides)} ops of {graph.name} have no native form and fallback is 'error':\n{lines}")


def outer(outside: Outside, graph: Graph) -> Outer:
    """Return the function of a call-out.

    Args:
        outside: Which op, and where its operands and results are.
        graph: The program that holds the op.

    Raises:
        CompileError: the program has no such op.
    """
    op = next((one for one in graph.ops if one.name == outside.op), None)
    if op is None:
        raise CompileError(f"the plan calls the op {outside.op!r}, which {graph.name} does not have")
    if outside.product is not None:
        run: _Run | None = _through_variant(outside.product, graph)
    else:
        run = _through_torch(op) if _torch_is_here() else None
    return _on_memory(run or _through_numpy(op), outside.operands, outside.results, op.where())


def _on_memory(run: _Run, operands: Sequence[Tensor], results: Sequence[Tensor], where: str) -> Outer:
    kinds = [dtype(one.dtype).numpy() for one in (*operands, *results)]
    count = len(operands)

    def call(address: Callable[[Place], int], sizes: Sizes) -> None:
        arrays = [
            view_at(
                address(one.place),
                [size.at(sizes) for size in one.shape],
                [stride.at(sizes) for stride in one.strides],
                kind,
            )
            for one, kind in zip((*operands, *results), kinds, strict=True)
        ]
        try:
            run(arrays[:count], arrays[count:], sizes)
        except IndexError as error:
            raise InputError(f"{where}: an index is outside its table: {error}") from error
        except (MlsysoptError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise CompileError(f"{where}: {error}") from error

    return call


def _through_torch(op: Op) -> _Run | None:
    from mlsysopt.graph.exporters.torch_ops import lookup_torch

    found = lookup_torch(op.kind)
    if found is None:
        return None
    import torch

    like = torch.empty(0)

    def run(operands: Sequence[Array], results: Sequence[Array], sizes: Sizes) -> None:
        attrs = {name: _for_torch(value) for name, value in evaluated(op.attrs, sizes).items()}
        with torch.inference_mode():
            made = found([_tensor(one) for one in operands], attrs, like)
            for result, value in zip(results, made if isinstance(made, tuple) else (made,), strict=True):
                _tensor(result).copy_(value)

    return run


def _through_variant(product: Product, graph: Graph) -> _Run:
    import numpy as np
    import torch

    from mlsysopt.compile.variants.registry import variant
    from mlsysopt.compile.variants.site import Epilogue, Site

    loaded = {one.name: one.source for one in graph.constants}
    weights = matrix_of(np.ascontiguousarray(loaded[product.weight.constant].load()), product.weight)
    bias = np.array(loaded[product.bias].load()).reshape(-1) if product.bias else None
    n, k = weights.shape
    epilogue = Epilogue(bias is not None, product.activation, product.residual)
    site = Site.linear(Dim.of("M"), n, k, epilogue=epilogue)
    kernel = variant(product.variant)
    given = torch.from_numpy(np.array(weights)), torch.from_numpy(bias) if bias is not None else None
    call = kernel.bind(site, kernel.prepare(*given, site), given[1])

    def run(operands: Sequence[Array], results: Sequence[Array], sizes: Sizes) -> None:
        with torch.inference_mode():
            tensors = [_tensor(one) for one in operands]
            _tensor(results[0]).copy_(call(*tensors))

    return run


def _through_numpy(op: Op) -> _Run:
    from mlsysopt.graph.domains.numeric import Numeric

    def run(operands: Sequence[Array], results: Sequence[Array], sizes: Sizes) -> None:
        domain = Numeric("declared", at=sizes)
        for result, value in zip(results, domain.run(op, operands), strict=True):
            result[...] = value

    return run


def _tensor(array: Array) -> Any:
    import numpy as np
    import torch

    if array.dtype.kind == "V" or str(array.dtype) == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _for_torch(value: Any) -> Any:
    if isinstance(value, DType):
        from mlsysopt.graph.importers.examples import torch_dtype

        return torch_dtype(value)
    return value


def _torch_is_here() -> bool:
    return find_spec("torch") is not None
