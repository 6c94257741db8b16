from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mlsysopt.graph import Answer, Dim, boolean, f32, i8, i64, interpret
from mlsysopt.graph.errors import GraphError, TypeRuleError
from mlsysopt.graph.types import f64
from tests.graph.ops.one_op import close, integers, normal, program, run, run_all, tensors

B, S = Dim.of("B"), Dim.of("S")
_CUT = {"starts": (0,), "limits": (1,), "strides": (1,)}


def test_reshape() -> None:
    x = normal(2, 3, 4)
    for shape in ((6, 4), (24,), (2, 1, 3, 4), (4, 3, 2)):
        close(run("reshape", x, shape=shape), x.reshape(shape))
    close(run("reshape", normal(0, 3), shape=(3, 0)), np.zeros((3, 0)))
    close(run("reshape", normal(1), shape=()), normal(1)[0])


def test_reshape_counts_elements_symbolically() -> None:
    graph = program("reshape", f32[B, S, 768], shape=(B * S, 768))
    assert len(graph.facts) == 0
    learned = program("reshape", f32[B, S], shape=("N", 4), also=[f32["N"]])
    assert learned.facts.eq(B * S, Dim.of("N") * 4) is Answer.YES
    with pytest.raises(TypeRuleError, match="element counts: 6 and 8 must be equal"):
        program("reshape", f32[2, 3], shape=(2, 4))


@pytest.mark.parametrize("perm", [(0, 1, 2), (2, 0, 1), (1, 0, 2)], ids=str)
def test_transpose(perm: tuple[int, ...]) -> None:
    x = normal(2, 3, 4)
    close(run("transpose", x, perm=perm), x.transpose(perm))


def test_broadcast() -> None:
    x = normal(3, 1)
    close(run("broadcast", x, shape=(2, 3, 4)), np.broadcast_to(x, (2, 3, 4)))
    close(run("broadcast", np.array(2.0), shape=(2,)), np.full(2, 2.0))
    close(run("broadcast", normal(1), shape=(0,)), np.zeros(0))
    graph = program("broadcast", f32[1, S], also=[f32[B]], shape=(B, S))
    assert str(graph.outputs[0].type) == "f32[B, S]" and len(graph.facts) == 0


def test_slice() -> None:
    x = normal(5, 6)
    for start, limit, stride in ((0, 5, 1), (1, 4, 2), (0, 5, 3), (2, 2, 1), (4, 5, 7)):
        found = run("slice", x, starts=(start, 0), limits=(limit, 6), strides=(stride, 1))
        close(found, x[start:limit:stride])
    graph = program("slice", f32[S], starts=(1,), limits=(S,), strides=(2,))
    for size in range(1, 9):
        assert graph.outputs[0].shape[0].at(S=size) == len(range(1, size, 2))
    graph = program("slice", f32[S], also=[f32["T"]], starts=(0,), limits=("T",), strides=(1,))
    with pytest.raises(GraphError, match="slice 0:4 does not lie in an axis of size 3"):
        interpret(graph, x0=np.zeros(3, np.float32), y0=np.zeros(4, np.float32))


def test_concat_and_split() -> None:
    x, y = normal(2, 3), normal(2, 1, seed=1)
    close(run("concat", x, y, x, axis=1), np.concatenate([x, y, x], 1))
    close(run("concat", x, axis=0), x)
    for part, wanted in zip(run_all("split", x, axis=1, sizes=(1, 0, 2)), (x[:, :1], x[:, :0], x[:, 1:]), strict=True):
        close(part, wanted)
    graph = program("concat", f32[B, S], f32["A", "T"], axis=0)
    assert str(graph.outputs[0].shape[0]) == str(B + Dim.of("A"))
    assert graph.facts.eq(S, Dim.of("T")) is Answer.YES
    graph = program("split", f32[B * 3, S], axis=0, sizes=(B, B, B))
    assert [str(value.type) for value in graph.outputs] == ["f32[B, S]"] * 3


@pytest.mark.parametrize(("mode", "ours"), [("constant", "constant"), ("reflect", "reflect"), ("replicate", "edge")])
def test_pad_is_torch(mode: str, ours: str) -> None:
    x = normal(2, 3, 4)
    value = {"value": 0.5} if mode == "constant" else {}
    wanted = F.pad(*tensors(x), (2, 1), mode=mode, **value)
    close(run("pad", x, padding=((0, 0), (0, 0), (2, 1)), mode=ours, **value), wanted)


def test_pad_of_an_axis_that_is_too_small() -> None:
    for mode, size in (("reflect", 2), ("edge", 0)):
        graph = program("pad", f64["N"], padding=((2, 0),), mode=mode)
        with pytest.raises(GraphError, match=f"in mode {mode} needs a larger axis than {size}"):
            interpret(graph, x0=np.zeros(size))


def test_flip() -> None:
    x = normal(2, 3, 4)
    close(run("flip", x, axes=(0, 2)), torch.flip(*tensors(x), dims=(0, 2)))


def test_made_from_sizes() -> None:
    iota = interpret(program("iota", also=[f32[S]], shape=(2, S), axis=1, dtype=i64), y0=np.zeros(3, np.float32))[
        "iota"
    ]
    close(iota, np.array([[0, 1, 2], [0, 1, 2]]))
    close(interpret(program("iota", shape=(2, 2), axis=0, dtype=f32))["iota"], np.array([[0.0, 0.0], [1.0, 1.0]]))
    full = interpret(program("full", value=0.1, shape=(2,), dtype=f32))["full"]
    close(full, np.array([0.1, 0.1]))  # in float64: 0.1 itself, not the nearest f32
    assert interpret(program("full", value=True, shape=(), dtype=boolean))["full"].dtype == np.bool_
    size = interpret(program("size", also=[f32[B, S]], dim=B * S + 1), y0=np.zeros((2, 3), np.float32))["size"]
    assert size == 7 and size.dtype == np.int64


@pytest.mark.parametrize(
    ("pattern", "kind", "types", "attrs"),
    [
        (".0, 0. is no permutation of 2 axes", "transpose", [f32[2, 3]], {"perm": (0, 0)}),
        ("broadcast", "broadcast", [f32[3]], {"shape": (2,)}),
        ("has more axes than the 1 asked for", "broadcast", [f32[3, 2]], {"shape": (2,)}),
        ("limit and size of axis 0: 4 must be at most 3", "slice", [f32[3]], {**_CUT, "limits": (4,)}),
        ("start and limit of axis 0: 2 must be at most 1", "slice", [f32[3]], {**_CUT, "starts": (2,)}),
        ("strides .0,. must be at least 1", "slice", [f32[3]], {**_CUT, "strides": (0,)}),
        ("sizes of axis 1: 3 and 4 must be equal", "concat", [f32[2, 3], f32[2, 4]], {"axis": 0}),
        ("ranks 1 and 2 must be equal", "concat", [f32[2], f32[2, 4]], {"axis": 0}),
        ("parts and size of axis 0: 3 and 4 must be equal", "split", [f32[4]], {"axis": 0, "sizes": (1, 2)}),
        ("must not be negative; use slice to cut", "pad", [f32[4]], {"padding": ((-1, 0),)}),
        ("reflect and size of axis 0: 5 must be at most 4", "pad", [f32[4]], {"padding": ((4, 0),), "mode": "reflect"}),
        ("300 is outside -128..127 of i8", "full", [], {"value": 300, "shape": (), "dtype": i8}),
        ("0.5 is no i64", "full", [], {"value": 0.5, "shape": (), "dtype": i64}),
        ("iota: not defined for bool", "iota", [], {"shape": (2,), "dtype": boolean}),
        ("flip: axis 1", "flip", [f32[4]], {"axes": (1,)}),
    ],
)  # fmt: skip
def test_type_rules_refuse(pattern: str, kind: str, types: list[Any], attrs: dict[str, Any]) -> None:
    with pytest.raises(TypeRuleError, match=pattern):
        program(kind, *types, **attrs)


def test_integers_move_exactly() -> None:
    x = integers(3, low=-(2**62), high=2**62)
    assert run("flip", x, axes=(0,)).tolist() == x[::-1].tolist()
