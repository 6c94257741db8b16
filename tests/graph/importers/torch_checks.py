"""Comparing many small functions at once: eager, imported, and exported to torch again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mlsysopt.graph.exporters import to_torch
from mlsysopt.graph.importers import from_torch
from mlsysopt.graph.interpreter import interpret, relative_error
from mlsysopt.graph.symbolic import dims
from mlsysopt.graph.types import TensorType, i32

__all__ = ["AT", "B", "Many", "S", "check", "filled"]

Functions = Mapping[str, Callable[..., Any]]
B, S = dims("B", "S", min=(1, 4), max=(16, 32))
AT = ({"B": 3, "S": 5}, {"B": 1, "S": 4}, {"B": 4, "S": 9})


class Many(nn.Module):
    """Applies every function to the inputs."""

    def __init__(self, functions: Functions) -> None:
        super().__init__()
        self.functions = dict(functions)
        self.eval()

    def forward(self, x: Tensor, y: Tensor | None = None) -> dict[str, Any]:
        inputs = (x,) if y is None else (x, y)
        return {name: function(*inputs) for name, function in self.functions.items()}


def filled(declared: TensorType, sizes: Mapping[str, int], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = declared.at(**sizes)
    if declared.dtype.is_float:
        return torch.randn(shape, generator=generator, dtype=torch.float64)
    if declared.dtype.is_bool:
        return torch.rand(shape, generator=generator) < 0.5
    return torch.randint(-4, 5, shape, generator=generator, dtype=torch.int32 if declared.dtype is i32 else torch.int64)


def check(functions: Functions, *inputs: TensorType, positive: bool = False) -> None:
    """Compare model, program and exported program at several sizes."""
    module = Many(functions)
    declared = dict(zip(("x", "y"), inputs, strict=False))
    graph = from_torch(module, declared)
    graph.verify()
    again = to_torch(graph).double()
    for seed, sizes in enumerate(AT):
        tensors = {name: filled(one, sizes, seed + i) for i, (name, one) in enumerate(declared.items())}
        if positive:
            tensors = {name: tensor.abs() + 0.5 for name, tensor in tensors.items()}
        with torch.no_grad():
            expected = module(**tensors)
            exported = again(**tensors)
        found = interpret(graph, **{name: tensor.numpy() for name, tensor in tensors.items()})
        exported = exported if isinstance(exported, dict) else {"out": exported}
        values = list(found.values())
        assert len(values) == len(expected)
        for (name, tensor), ours, theirs in zip(expected.items(), values, exported.values(), strict=True):
            truth = tensor.numpy()
            for which, array in (("program", ours), ("exported", theirs.numpy())):
                assert array.shape == truth.shape, (name, which, sizes)
                assert array.dtype.kind == truth.dtype.kind, (name, which, array.dtype, truth.dtype)
                if truth.dtype.kind == "f":
                    assert relative_error(array, truth) < 1e-6, (name, which, sizes)
                else:
                    np.testing.assert_array_equal(array, truth, err_msg=f"{name} {which} {sizes}")
