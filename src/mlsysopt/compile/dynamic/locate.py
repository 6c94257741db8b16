"""Which step goes wrong: a call carried out step by step beside the interpreter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlsysopt.compile.codegen.kernel import entry
from mlsysopt.compile.codegen.steps import Call
from mlsysopt.compile.dynamic.arrays import view_at
from mlsysopt.compile.dynamic.explain import taken_steps
from mlsysopt.core.errors import MlsysoptError
from mlsysopt.graph.domains.loop import walk
from mlsysopt.graph.domains.numeric import Numeric
from mlsysopt.graph.interpreter import relative_error
from mlsysopt.graph.types import dtype

if TYPE_CHECKING:
    from mlsysopt.compile.dynamic.executable import Executable

__all__ = ["first_wrong"]


def first_wrong(executable: Executable, inputs: Mapping[str, Any]) -> str:
    """Return the first step whose result is not what its ops mean, with its error; "" when none is found.

    Args:
        executable: It.
        inputs: Arrays of numpy by name.
    """
    graph, plan = executable.graph, executable.plan
    domain = Numeric()
    try:
        truth = walk(graph, domain, domain.start(graph, inputs), keep=True)
    except MlsysoptError:
        return ""
    sizes = {name: domain.sizes[name] for name in plan.flow.symbols}
    makes = {op.name: [value.name for value in op.results] for op in graph.ops}
    wanted: dict[str, Any] = {value.name: array for value, array in truth.items()}
    with executable.staged(inputs, sizes) as stage:
        for step, _ in taken_steps(plan.flow.steps, sizes):
            if isinstance(step, Call):
                units = step.units.at(sizes)
                if units > 0:
                    run = entry(executable.library.address(step.kernel))
                    buffers = [stage.address(place) for place in step.buffers]
                    run(buffers, [size.at(sizes) for size in step.params], 0, units, stage.scratch)
            else:
                stage.call_out(step)
            for name in (name for op in step.ops for name in makes.get(op, ())):
                tensor = plan.values.get(name)
                if tensor is None:
                    continue
                shape = [size.at(sizes) for size in tensor.shape]
                strides = [size.at(sizes) for size in tensor.strides]
                found = view_at(stage.address(tensor.place), shape, strides, dtype(tensor.dtype).numpy())
                error = relative_error(found, wanted[name])
                if not error <= executable.tolerance:
                    return f"{step.label} (%{name}, error {error:.3g})"
    return ""
