from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from mlsysopt.graph import i64
from mlsysopt.graph.errors import TypeRuleError
from tests.graph.ops.one_op import close, integers, normal, program, run, run_parts, tensors

CASES: list[tuple[str, dict[str, Any], Callable[..., torch.Tensor]]] = [
    ("relu", {}, F.relu),
    ("gelu", {}, F.gelu),
    ("gelu", {"approximate": "tanh"}, lambda x: F.gelu(x, approximate="tanh")),
    ("silu", {}, F.silu),
    ("hardsigmoid", {}, F.hardsigmoid),
    ("hardswish", {}, F.hardswish),
    ("leaky_relu", {"slope": 0.2}, lambda x: F.leaky_relu(x, 0.2)),
    ("elu", {"alpha": 0.7}, lambda x: F.elu(x, 0.7)),
]


@pytest.mark.parametrize("shape", [(50,), (2, 0), ()], ids=str)
@pytest.mark.parametrize(("kind", "attrs", "truth"), CASES)
def test_is_torch(kind: str, attrs: dict[str, Any], truth: Callable[..., torch.Tensor], shape: tuple[int, ...]) -> None:
    x = normal(*shape) * 4
    wanted = truth(*tensors(x))
    close(run(kind, x, **attrs), wanted)
    close(run_parts(kind, x, **attrs), wanted)


def test_relu_of_integers() -> None:
    x = integers(10)
    close(run("relu", x), F.relu(*tensors(x)))
    close(run_parts("relu", x), F.relu(*tensors(x)))


def test_type_rules_refuse() -> None:
    with pytest.raises(TypeRuleError, match="gelu: not defined for i64; allowed are float"):
        program("gelu", i64["N"])
    with pytest.raises(TypeRuleError, match="'approximate' must be one of none, tanh; got 'erf'"):
        program("gelu", i64["N"], approximate="erf")
