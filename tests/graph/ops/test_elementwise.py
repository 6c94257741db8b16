from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mlsysopt.graph import Answer, Builder, Dim, boolean, f32, f64, i8, i32, i64, interpret, lookup, u8
from mlsysopt.graph.errors import GraphError, TypeRuleError
from mlsysopt.graph.ops.registry import kinds
from tests.graph.ops.one_op import close, integers, normal, program, run, run_parts, tensors

BINARY = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "floordiv": torch.floor_divide,
    "mod": torch.remainder, "maximum": torch.maximum, "minimum": torch.minimum, "eq": torch.eq, "ne": torch.ne,
    "lt": torch.lt, "le": torch.le, "gt": torch.gt, "ge": torch.ge,
}  # fmt: skip
UNARY = {
    "neg": torch.neg, "abs": torch.abs, "sign": torch.sign, "exp": torch.exp, "expm1": torch.expm1, "erf": torch.erf,
    "sin": torch.sin, "cos": torch.cos, "tan": torch.tan, "tanh": torch.tanh, "sigmoid": torch.sigmoid,
    "floor": torch.floor, "ceil": torch.ceil, "round": torch.round, "reciprocal": torch.reciprocal,
}  # fmt: skip
POSITIVE = {"log": torch.log, "log1p": torch.log1p, "sqrt": torch.sqrt, "rsqrt": torch.rsqrt}
SHAPES = [((2, 3), (2, 3)), ((4, 1, 3), (2, 1)), ((), (3,)), ((0, 2), (1, 2)), ((1,), (1,))]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("kind", BINARY)
def test_binary_is_torch(kind: str, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    a, b = normal(*shapes[0], seed=1), normal(*shapes[1], seed=2)
    close(run(kind, a, b), BINARY[kind](*tensors(a, b)))


@pytest.mark.parametrize("kind", [kind for kind in BINARY if kind != "div"])
def test_binary_of_integers_is_torch(kind: str) -> None:
    a, b = integers(4, 5, seed=1), integers(5, low=1, seed=2) * np.array([1, -1, 2, -2, 3])
    close(run(kind, a, b), BINARY[kind](*tensors(a, b)))


@pytest.mark.parametrize("shape", [(2, 3), (), (0, 4), (1,)], ids=str)
@pytest.mark.parametrize("kind", [*UNARY, *POSITIVE])
def test_unary_is_torch(kind: str, shape: tuple[int, ...]) -> None:
    x = normal(*shape)
    if kind in POSITIVE:
        x = np.abs(x) + 0.1
    close(run(kind, x), {**UNARY, **POSITIVE}[kind](*tensors(x)))


def test_halves_round_to_even() -> None:
    assert run("round", np.array([0.5, 1.5, 2.5, -0.5])).tolist() == [0.0, 2.0, 2.0, -0.0]


def test_power() -> None:
    a, b = np.abs(normal(3, 4)), normal(4, seed=3)
    close(run("pow", a, b), torch.pow(*tensors(a, b)))
    close(run("pow", integers(5), integers(5, low=0, high=4)), integers(5) ** integers(5, low=0, high=4))
    with pytest.raises(GraphError, match="negative power"):
        run("pow", integers(3), np.array([1, -1, 2]))


@pytest.mark.parametrize("kind", ["and", "or", "xor"])
def test_logic_is_bitwise_for_integers(kind: str) -> None:
    truth = {"and": torch.bitwise_and, "or": torch.bitwise_or, "xor": torch.bitwise_xor}[kind]
    for a, b in ((integers(4), integers(4, seed=1)), (integers(4) > 0, integers(4, seed=1) > 0)):
        close(run(kind, a, b), truth(*tensors(a, b)))


def test_not_and_is_nan() -> None:
    assert run("not", np.array([True, False])).tolist() == [False, True]
    assert run("is_nan", np.array([0.0, np.nan, np.inf])).tolist() == [False, True, False]


@pytest.mark.parametrize("kind", ["maximum", "minimum"])
def test_nan_wins(kind: str) -> None:
    assert np.isnan(run(kind, np.array([1.0, np.nan]), np.array([np.nan, 1.0]))).all()


def test_integers_wrap() -> None:
    assert run("add", np.array([127], np.int8), np.array([1], np.int8)).tolist() == [-128]
    assert run("mul", np.array([200], np.uint8), np.array([2], np.uint8)).tolist() == [144]
    assert run("neg", np.array([1], np.uint8)).tolist() == [255]


@pytest.mark.parametrize("kind", ["floordiv", "mod"])
def test_an_integer_divided_by_zero_is_an_error(kind: str) -> None:
    with pytest.raises(GraphError, match=rf"{kind} %{kind}: an integer is divided by zero"):
        run(kind, integers(3), np.array([1, 0, 2]))


def test_infinities_are_values() -> None:
    with np.errstate(all="raise"):
        found = run("div", np.array([1.0, -1.0, 0.0]), np.zeros(3))
    assert found[:2].tolist() == [np.inf, -np.inf] and np.isnan(found[2])
    assert run("sigmoid", np.array([-1000.0, 1000.0])).tolist() == [0.0, 1.0]


def test_where() -> None:
    condition, a, b = normal(4, 1) > 0, normal(3, seed=1), normal(4, 3, seed=2)
    close(run("where", condition, a, b), torch.where(*tensors(condition, a, b)))


@pytest.mark.parametrize(
    ("x", "to", "wanted"),
    [
        (np.array([1.9, -1.9, 0.0]), i32, [1, -1, 0]),
        (np.array([0.0, -0.5, np.nan]), boolean, [False, True, True]),
        (np.array([3, 0, -1]), boolean, [True, False, True]),
        (np.array([True, False]), f64, [1.0, 0.0]),
        (np.array([300, -1]), u8, [44, 255]),
    ],
)
def test_cast(x: np.ndarray[Any, Any], to: Any, wanted: list[Any]) -> None:
    found = run("cast", x, to=to)
    assert found.tolist() == wanted and found.dtype == to.numpy()


def test_clip() -> None:
    x = normal(20)
    for low, high in ((-0.5, 0.5), (None, 0.1), (0.2, None), (1.0, -1.0), (None, None)):
        wanted = x if low is None and high is None else torch.clamp(*tensors(x), min=low, max=high)
        close(run("clip", x, low=low, high=high), wanted)
        close(run_parts("clip", x, low=low, high=high), wanted)
    assert run("clip", np.array([-3, 0, 3]), low=-1, high=1).tolist() == [-1, 0, 1]


def refused(pattern: str, kind: str, *types: Any, **attrs: Any) -> None:
    with pytest.raises(TypeRuleError, match=pattern):
        program(kind, *types, **attrs)


def test_type_rules_refuse() -> None:
    refused("operands have element types f32, f64; cast them to one", "add", f32["N"], f64["N"])
    refused("div: not defined for i64; allowed are float", "div", i64[2], i64[2])
    refused("add: not defined for bool; allowed are int and float", "add", boolean[2], boolean[2])
    refused("sizes 2 and 3 cannot be broadcast together", "add", f32[2], f32[3])
    refused("1 operands given, 2 needed", "add", f32[2])
    refused("exp: not defined for i8", "exp", i8[2])
    refused("not: not defined for f32; allowed are bool", "not", f32[2])
    refused("the condition must be bool, got f32", "where", f32[2], f32[2], f32[2])
    refused("unknown attribute 'two'; did you mean to", "cast", f32[2], two=f64)
    refused("attribute 'to' .dtype. is missing", "cast", f32[2])
    refused("low 0.5 is no bound of i32 elements", "clip", i32[2], low=0.5)


def test_symbols_that_broadcast_become_equal() -> None:
    b = Builder("sizes")
    x, mask = b.input("x", f32["B", "S"]), b.input("mask", f32["B", "T"])
    y = b.op("add", x, mask, name="y")
    graph = b.finish([y])
    assert graph.facts.eq(Dim.of("S"), Dim.of("T")) is Answer.YES
    with pytest.raises(GraphError, match=r"S = 3 but T = 4|T = 4 but S = 3"):
        interpret(graph, x=np.ones((2, 3), np.float32), mask=np.ones((2, 4), np.float32))


def test_every_elementwise_op_says_so() -> None:
    named = [lookup(kind) for kind in (*BINARY, *UNARY, *POSITIVE, "where", "cast", "clip", "gelu", "relu")]
    assert all(one.elementwise for one in named)
    assert not lookup("softmax").elementwise
    assert {kind for kind in kinds() if lookup(kind).commutative} == {
        "add", "mul", "maximum", "minimum", "eq", "ne", "and", "or", "xor",
    }  # fmt: skip


def test_commutative_and_linear_flags_hold() -> None:
    a, b = normal(3), normal(3, seed=1)
    for kind in kinds():
        found = lookup(kind)
        if found.commutative and kind not in ("and", "or", "xor"):
            close(run(kind, a, b), run(kind, b, a))
        if found.linear and found.elementwise:
            left = [2 * a, 2 * b][: 2 if found.operands == 2 else 1]
            right = [a, b][: len(left)]
            close(run(kind, *left), 2 * run(kind, *right))
