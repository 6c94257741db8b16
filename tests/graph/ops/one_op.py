"""A program of one op: what its tests build, verify and run."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mlsysopt.graph import Builder, Graph, TensorType, interpret
from mlsysopt.graph.passes import decompose
from mlsysopt.graph.symbolic import Dim
from mlsysopt.graph.types import dtype

Array = np.ndarray[Any, Any]


def program(kind: str, *types: TensorType, also: Sequence[TensorType] = (), **attrs: Any) -> Graph:
    """Return the verified program of one op whose operands are inputs x0, x1, ...; inputs `also` bring symbols."""
    b = Builder("one")
    inputs = [b.input(f"x{i}", one) for i, one in enumerate(types)]
    for i, one in enumerate(also):
        b.input(f"y{i}", one)
    made = b.op(kind, *inputs, **attrs)
    graph = b.finish(made if isinstance(made, tuple) else [made])
    graph.verify()
    return graph


def of_arrays(kind: str, arrays: Sequence[Array], *, symbolic: bool = False, **attrs: Any) -> Graph:
    """Return the program of one op for operands like these, every axis a symbol of its own on request."""
    count = itertools.count()

    def one(array: Array) -> TensorType:
        shape = [Dim.of(f"n{next(count)}") if symbolic else Dim.of(size) for size in array.shape]
        return TensorType(dtype(str(array.dtype)), tuple(shape))

    return program(kind, *map(one, arrays), **attrs)


def run(kind: str, *arrays: Array, symbolic: bool = False, **attrs: Any) -> Array:
    """Return the only result of an op on arrays, in float64."""
    (found,) = run_all(kind, *arrays, symbolic=symbolic, **attrs)
    return found


def run_all(kind: str, *arrays: Array, symbolic: bool = False, **attrs: Any) -> list[Array]:
    graph = of_arrays(kind, arrays, symbolic=symbolic, **attrs)
    return list(interpret(graph, **{f"x{i}": array for i, array in enumerate(arrays)}).values())


def run_parts(kind: str, *arrays: Array, keep: Sequence[str] = (), **attrs: Any) -> Array:
    """Return the same by the op's decomposition."""
    graph = decompose(of_arrays(kind, arrays, **attrs), keep)
    assert kind not in {op.kind for op in graph.ops}
    graph.verify()
    (found,) = interpret(graph, **{f"x{i}": array for i, array in enumerate(arrays)}).values()
    return found


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def integers(*shape: int, low: int = -5, high: int = 6, seed: int = 0, kind: Any = np.int64) -> Array:
    return np.random.default_rng([seed, *shape]).integers(low, high, shape).astype(kind)


def close(found: Array, wanted: Any, *, tolerance: float = 1e-12) -> None:
    """Assert that both have one shape, one element type and nearly the same elements."""
    truth = wanted.detach().numpy() if isinstance(wanted, torch.Tensor) else np.asarray(wanted)
    assert found.shape == truth.shape
    assert found.dtype == truth.dtype
    np.testing.assert_allclose(found, truth, rtol=tolerance, atol=tolerance)


def tensors(*arrays: Array) -> list[torch.Tensor]:
    return [torch.from_numpy(np.array(array)) for array in arrays]
