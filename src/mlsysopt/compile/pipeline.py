"""The stages from a model to its executable, in order.

    import -> canonical form -> choose kernels (`linear`) -> fuse, plan, emit, check (`dynamic`) -> Executable

Each stage takes a program and hands one on; what a stage cannot do, it leaves as it is.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlsysopt.compile.options import Options
from mlsysopt.core.collector import uncollected
from mlsysopt.core.errors import UsageError
from mlsysopt.graph.ir import Graph

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mlsysopt.compile.dynamic.executable import Executable
    from mlsysopt.graph.symbolic import Dim
    from mlsysopt.graph.types import TensorType

__all__ = ["compile"]

_FORM_OF = {"f32": "f32", "bf16": "bf16", "int8w": "int8"}

# What `effort="max"` spends on timing kernels, beyond what the profile of the machine knows.
_TIMING_S = 20.0


@uncollected()
def compile(
    model: nn.Module | Graph | str | Path,
    inputs: Mapping[str, TensorType] | None = None,
    *,
    symbols: Sequence[Dim] = (),
    examples: Mapping[str, Tensor] | None = None,
    options: Options | None = None,
    **settings: Any,
) -> Executable:
    """Compile a model once, for every size of its declared dimensions.

    Args:
        model: A PyTorch module in evaluation mode, a program, or a file (.onnx, .pt2, .mlg).
        inputs: Types of a module's inputs, with symbols where sizes may vary: `{"x": f32[B, S, 768]}`. A program
            or file brings its own.
        symbols: Declarations of symbols that stand in formulas only.
        examples: Tensors to trace a module with; made from the types otherwise.
        options: All options at once.
        settings: Fields of `Options` by name: `precision="bf16"`, `threads=2`, `effort="max"` ...

    Raises:
        UsageError: a module without input types, an option that does not exist, a model in training mode.
        ImportFailed: torch or ONNX does not let the model in: the reason is named.
        CompileError: an op without native form under `fallback="error"`.
        NumericsError: under `strict`, a stage whose result is too far from the reference.

    References:
        K. Zhu et al., *DISC: A Dynamic Shape Compiler for Machine Learning Workloads*, EuroMLSys 2021.

    >>> from mlsysopt.graph import Builder, f32
    >>> b = Builder("f")
    >>> program = b.finish([b.op("relu", b.input("x", f32["N"]))])
    >>> compiled = compile(program)
    >>> import numpy as np
    >>> compiled(np.array([-1.0, 2.0], np.float32)).tolist()
    [0.0, 2.0]
    """
    chosen = _options(options, settings)
    stages: dict[str, float] = {}
    with _timed(stages, "import"):
        origin = _imported(model, inputs, symbols, examples)
    with _timed(stages, "emit"):
        _begin_parts(origin, chosen)
    from mlsysopt.compile import dynamic
    from mlsysopt.compile.linear import accelerate
    from mlsysopt.graph import passes

    with _timed(stages, "canonicalize"):
        graph = passes.canonicalize(origin)
    with _timed(stages, "select"):
        thorough = chosen.effort == "max"
        decisions = accelerate.decisions(
            graph,
            threads=chosen.threads,
            precision=chosen.precision,
            native=not thorough,
            budget_s=_TIMING_S if thorough else 0.0,
        )
    executable = dynamic.build(graph, chosen, decisions, origin=origin, stages=stages)
    executable.stages.update(stages)
    return executable


def _begin_parts(graph: Graph, options: Options) -> None:
    """Let LLVM begin with what products of a program will call, whatever the other stages make of them."""
    if any(op.kind in ("linear", "matmul", "attention") for op in graph.ops):
        from mlsysopt.compile.codegen.parts import begin
        from mlsysopt.compile.codegen.target import host_isa

        begin(host_isa(options.isa), _FORM_OF[options.precision], cached=options.cache)


def _options(options: Options | None, settings: Mapping[str, Any]) -> Options:
    from dataclasses import fields

    from mlsysopt.core.errors import near_misses

    known = [field.name for field in fields(Options)]
    for name in settings:
        if name not in known:
            raise UsageError(f"compile: unknown option {name!r}; {near_misses(name, known, noun='option', width=12)}")
    return replace(options or Options(), **settings)


def _imported(
    model: Any,
    inputs: Mapping[str, TensorType] | None,
    symbols: Sequence[Dim],
    examples: Mapping[str, Tensor] | None,
) -> Graph:
    from mlsysopt.graph import from_onnx, from_torch, load, load_pt2

    if isinstance(model, Graph):
        return model
    if isinstance(model, (str, Path)):
        path = Path(model)
        ending = path.suffix.lower()
        if ending == ".onnx":
            return from_onnx(path, opaque="keep")
        if ending == ".pt2":
            return load_pt2(path, opaque="keep")
        if ending == ".mlg":
            return load(path)
        raise UsageError(f"compile: {path}: files end with .onnx, .pt2 or .mlg")
    if inputs is None:
        raise UsageError('compile: a module needs the types of its inputs, such as inputs={"x": f32["N", 3, 224, 224]}')
    return from_torch(model, inputs, symbols=symbols, examples=examples, opaque="keep")


@contextmanager
def _timed(stages: dict[str, float], name: str) -> Generator[None]:
    start = time.thread_time()
    yield
    stages[name] = time.thread_time() - start
