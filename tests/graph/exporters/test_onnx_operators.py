"""Each op is written as ONNX nodes that mean the same, and read back as the same op."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from mlsysopt.graph import (
    Builder,
    Graph,
    Value,
    bf16,
    boolean,
    canonical_hash,
    f16,
    f32,
    f64,
    i8,
    i16,
    i32,
    i64,
    u8,
)
from mlsysopt.graph.exporters.onnx import to_onnx
from mlsysopt.graph.importers.onnx import from_onnx
from mlsysopt.graph.ops.registry import kinds
from mlsysopt.graph.passes import canonicalize
from mlsysopt.graph.symbolic import Dim, dims
from tests.graph.importers.onnx_checks import evaluated, feeds_of, same, session, without_notes

B, N, H, W = dims("B", "N", "H", "W", min=(1, 1, 5, 5), max=(16, 16, 40, 40))
Made = Value | tuple[Value, ...]
RANGES = {"B": (1, 16), "N": (1, 16), "H": (5, 40), "W": (5, 40)}
SIZES = ({"B": 2, "N": 3, "H": 7, "W": 8}, {"B": 1, "N": 1, "H": 6, "W": 5})


def _x(b: Builder, name: str = "x", type: Any = f32[N, 4]) -> Value:
    return b.input(name, type)


def _unary(kind: str, type: Any = f32[N, 4], name: str = "x", **attrs: Any) -> Callable[[Builder], Made]:
    return lambda b: b.op(kind, _x(b, name, type), **attrs)


def _binary(kind: str, type: Any = f32[N, 4], other: Any = f32[4], names: str = "xy") -> Callable[[Builder], Made]:
    return lambda b: b.op(kind, _x(b, names[0], type), _x(b, names[1] * 2, other))


def _many(*programs: Callable[[Builder], Made]) -> Callable[[Builder], Made]:
    """Put several programs side by side; inputs of one name are shared where their type is the same."""

    def build(b: Builder) -> Made:
        outputs: list[Value] = []
        for place, program in enumerate(programs):
            inner = Builder(f"part{place}")
            made = program(inner)
            part = inner.finish(made if isinstance(made, tuple) else (made,))
            now = {value: b.input(f"{value.name}_{place}", value.type) for value in part.inputs}
            for op in part.ops:
                results = b.copy(op, [now[value] for value in op.operands], keep_names=False)
                now.update(zip(op.results, results, strict=True))
            outputs += [now[value] for value in part.outputs]
        return tuple(outputs)

    return build


def _norm(b: Builder) -> Made:
    x = _x(b, "x", f32[N, 3, 4])
    w, v, u = _x(b, "w", f32[4]), _x(b, "v", f32[4]), _x(b, "u", f32[3, 4])
    found = [
        b.op("layer_norm", x, axes=(2,)),
        b.op("layer_norm", x, w, axes=(2,), eps=0.1),
        b.op("layer_norm", x, w, v, axes=(2,)),
    ]
    found += [
        b.op("layer_norm", x, u, axes=(1, 2)),
        b.op("rms_norm", x, axes=(2,)),
        b.op("rms_norm", x, w, axes=(2,), eps=1 / 3),
    ]
    return tuple(found)


def _channels(b: Builder) -> Made:
    x = _x(b, "x", f32[N, 4, H])
    w, v, m, p = (_x(b, name, f32[4]) for name in "wvmp")
    return b.op("batch_norm", x, m, p, w, v, eps=1e-3), b.op("group_norm", x, w, v, groups=2, eps=1 / 300)


def _attention(b: Builder) -> Made:
    q, k, v = _x(b, "q1", f32[B, 2, N, 8]), _x(b, "x", f32[B, 2, H, 8]), _x(b, "y", f32[B, 2, H, 6])
    keep, added = _x(b, "b", boolean[B, 1, N, H]), _x(b, "a", f32[H])
    # A row of which nothing is kept has no meaning: one key always is.
    keep = b.op("or", keep, b.op("eq", b.op("iota", shape=(H,)), b.full(0, i64[()])))
    return (
        b.op("attention", q, k, v),
        b.op("attention", q, k, v, causal=True, scale=0.3),
        b.op("attention", q, k, v, keep),
        b.op("attention", q, k, v, added),
    )


def _sizes(b: Builder) -> Made:
    x = _x(b, "x", f32[N, 4, H])
    size = b.op("size", dim=N * 2 + H)
    fixed = b.op("size", dim=7)
    real = b.op("cast", b.op("size", dim=(H - 6) // 4 + N), to=f32)
    return b.op("add", size, fixed), b.op("mul", x, real), b.op("size", dim=(N + 1) * (N - 1) % 5)


def _reshapes(b: Builder) -> Made:
    x = _x(b, "x", f32[N, 4, H, 6])
    return (
        b.op("reshape", x, shape=(N * 4, H * 6)),
        b.op("reshape", x, shape=(N, 2, 2, H, 6)),
        b.op("reshape", x, shape=(H, N, 24)),
        b.op("reshape", x, shape=(N * H * 24,)),
        b.op("reshape", x, shape=(1, N, 4 * H, 2, 3, 1)),
    )


def _slices(b: Builder) -> Made:
    x = _x(b, "x", f32[N, H, 9])
    zero = (0, 0, 0)
    return (
        b.op("slice", x, starts=(0, 1, 2), limits=(N, H, 8), strides=(1, 1, 2)),
        b.op("slice", x, starts=zero, limits=(N, H // 2, 9), strides=(1, 1, 1)),
        b.op("slice", x, starts=(0, H - 3, 0), limits=(N, H, 3), strides=(1, 2, 1)),
        b.op("slice", x, starts=zero, limits=(N, H, 9), strides=(1, 1, 1)),
    )


def _fulls(b: Builder) -> Made:
    x = _x(b, "x", f32[N, 4])
    found = [
        b.full(value, type)
        for value, type in [
            (1 / 3, f32[N, 4]),
            (0.5, f32[4]),
            (2, f32[4]),
            (7, i32[N]),
            (-3, i64[()]),
            (True, boolean[2, N]),
        ]
    ]
    found += [
        b.full(value, type) for value, type in [(0.1, f64[()]), (float("inf"), f32[()]), (0.1, f16[3]), (200, u8[2])]
    ]
    return (b.op("add", x, found[0]), *found[1:])


def _scatters(b: Builder) -> Made:
    x, y, k = _x(b, "x", f32[3, 5]), _x(b, "y", f32[2, 5]), _x(b, "k", i64[2, 5])
    apart = b.op("add", b.op("iota", shape=(2, 5), axis=0), b.full(1, i64[()]))
    return b.op("scatter_add", x, k, y, axis=0), b.op("scatter", x, apart, y, axis=0)


def _selected(b: Builder) -> Made:
    x, keep = _x(b, "x", f32[N, 4]), _x(b, "b", boolean[4])
    chosen = b.op("masked_select", x, keep, symbol="chosen")
    places = b.op("nonzero", b.op("relu", x), symbol="places")
    return b.op("exp", chosen), b.op("reshape", places, shape=(2, places.shape[1], 1))


def _quantized(b: Builder) -> Made:
    x = _x(b, "x", f32[N, 3, 4])
    whole = b.op("quantize", x, scale=(0.05,), zero_point=(3,), dtype=i8)
    each = b.op("quantize", x, scale=(0.05, 0.25, 1 / 3), zero_point=(0, 9, 128), axis=1, dtype=u8)
    wide = b.op("quantize", x, scale=(0.001,), zero_point=(0,), dtype=i16)
    back = b.op("dequantize", each, scale=(0.05, 0.25, 1 / 3), zero_point=(0, 9, 128), axis=1, dtype=f32)
    return whole, each, wide, back, b.op("dequantize", wide, scale=(0.001,), zero_point=(0,), dtype=f64)


CASES: dict[str, Callable[[Builder], Made]] = {
    **{kind: _binary(kind) for kind in ("add", "sub", "mul", "maximum", "minimum", "eq", "ne", "lt", "le", "gt", "ge")},
    "div": _many(_binary("div"), _binary("div", f64[N, 4], f64[4])),
    "floordiv": _many(
        _binary("floordiv", i64[N, 4], i64[4], "ij"),
        _binary("floordiv", i32[N, 4], i32[4], "ij"),
        _binary("floordiv", f32[N, 4], f32[4], "xp"),
        _binary("floordiv", u8[N, 4], u8[4], "jj"),
    ),
    "mod": _many(_binary("mod", i64[N, 4], i64[4], "ij"), _binary("mod", f32[N, 4], f32[4], "xp")),
    "pow": _many(_binary("pow", f32[N, 4], f32[4], "px"), _binary("pow", i64[N, 4], i64[4], "ik")),
    "and": _many(_binary("and", boolean[N], boolean[N], "bb"), _binary("and", i32[N], i32[N], "ij")),
    "or": _many(_binary("or", boolean[N], boolean[N], "bb"), _binary("or", i64[N], i64[N], "ij")),
    "xor": _many(_binary("xor", boolean[N], boolean[N], "bb"), _binary("xor", u8[N], u8[N], "qq")),
    **{
        kind: _unary(kind)
        for kind in (
            "exp",
            "expm1",
            "erf",
            "sin",
            "cos",
            "tan",
            "tanh",
            "sigmoid",
            "floor",
            "ceil",
            "round",
            "is_nan",
            "relu",
            "silu",
            "hardswish",
            "hardsigmoid",
        )
    },
    **{kind: _unary(kind, name="p") for kind in ("log", "log1p", "sqrt", "rsqrt", "reciprocal")},
    "neg": _many(_unary("neg"), _unary("neg", i64[N], "i")),
    "abs": _many(_unary("abs"), _unary("abs", i32[N], "i")),
    "sign": _many(_unary("sign"), _unary("sign", i64[N], "i")),
    "not": _unary("not", boolean[N], "b"),
    "gelu": _many(_unary("gelu"), _unary("gelu", approximate="tanh")),
    "leaky_relu": _many(_unary("leaky_relu"), _unary("leaky_relu", slope=1 / 3)),
    "elu": _many(_unary("elu"), _unary("elu", alpha=1 / 3)),
    "clip": _many(
        _unary("clip", low=-0.5, high=0.1),
        _unary("clip", low=None, high=1),
        _unary("clip", low=0.0, high=None),
        _unary("clip", i64[N], "i", low=-2, high=3),
        _unary("clip"),
    ),
    "where": lambda b: b.op("where", _x(b, "b", boolean[N, 1]), _x(b), _x(b, "y", f32[4])),
    "cast": _many(
        _unary("cast", to=i32),
        _unary("cast", to=boolean),
        _unary("cast", i64[N], "i", to=f32),
        _unary("cast", to=f32),
        _unary("cast", to=f64),
    ),
    "sum": _many(
        _unary("sum", f32[N, 3, 4], axes=(0, 2)),
        _unary("sum", i64[N, 3], "i", axes=(1,), keepdims=True),
        _unary("sum", f32[N, 3, 4], axes=(2, 1)),
        _unary("sum", axes=()),
    ),
    **{
        kind: _many(_unary(kind, f32[N, 3, 4], axes=(1,)), _unary(kind, f32[N, 3], axes=(0, 1), keepdims=True))
        for kind in ("mean", "max", "min", "prod")
    },
    "var": _many(_unary("var", axes=(1,)), _unary("var", f32[N, 3, 4], axes=(1, 2), keepdims=True, correction=1)),
    "any": _many(_unary("any", boolean[N, 4], "b", axes=(1,)), _unary("any", boolean[N], "b", axes=())),
    "all": _unary("all", boolean[N, 4], "b", axes=(0, 1), keepdims=True),
    "argmax": _many(_unary("argmax", axis=1), _unary("argmax", i64[N, 4], "i", axis=0, keepdims=True)),
    "argmin": _unary("argmin", axis=1, keepdims=True),
    "cumsum": _many(_unary("cumsum", axis=1), _unary("cumsum", i64[N, 4], "i", axis=0)),
    "matmul": _many(
        _binary("matmul", f32[B, 2, N, 4], f32[4, 3]),
        lambda b: b.op("matmul", _x(b, "x", f32[4, N]), _x(b, "y", f32[B, 3, 4]), transpose_a=True, transpose_b=True),
        _binary("matmul", i64[N, 4], i64[4, 2], "ij"),
    ),
    "linear": _many(
        lambda b: b.op("linear", _x(b), _x(b, "w", f32[3, 4]), _x(b, "v", f32[3])),
        lambda b: b.op("linear", _x(b, "x", f32[B, N, 4]), _x(b, "w", f32[3, 4]), _x(b, "v", f32[3])),
        lambda b: b.op("linear", _x(b, "x", f32[4]), _x(b, "w", f32[3, 4])),
        lambda b: b.op("linear", _x(b), _x(b, "w", f32[3, 4])),
    ),
    "conv": _many(
        lambda b: b.op(
            "conv",
            _x(b, "x", f32[N, 4, H, 9]),
            _x(b, "y", f32[6, 2, 3, 3]),
            _x(b, "v", f32[6]),
            strides=(2, 1),
            padding=((1, 2), (0, 1)),
            groups=2,
        ),
        lambda b: b.op("conv", _x(b, "x", f32[N, 2, H]), _x(b, "y", f32[3, 2, 3]), dilation=(2,)),
        lambda b: b.op("conv", _x(b, "x", f32[N, 2, 4, 4, 4]), _x(b, "y", f32[3, 2, 2, 2, 2])),
    ),
    "conv_transpose": _many(
        lambda b: b.op(
            "conv_transpose",
            _x(b, "x", f32[N, 4, H, 5]),
            _x(b, "y", f32[4, 3, 3, 3]),
            _x(b, "v", f32[6]),
            strides=(2, 1),
            padding=((1, 1), (0, 1)),
            groups=2,
            output_padding=(1, 0),
        ),
        lambda b: b.op("conv_transpose", _x(b, "x", f32[N, 2, H]), _x(b, "y", f32[2, 3, 3])),
    ),
    "max_pool": _many(
        _unary("max_pool", f32[N, 2, H, W], kernel=(3, 2), strides=(2, 2), padding=((1, 1), (0, 1))),
        _unary("max_pool", f32[N, 2, H, W], kernel=(2, 2)),
        _unary("max_pool", f32[N, 2, H, W], kernel=(3, 3), strides=(2, 2), ceil_mode=True),
        _unary("max_pool", f32[N, 2, H, W], kernel=(2, 2), strides=(2, 2), padding=((1, 1), (1, 1)), ceil_mode=True),
        _unary("max_pool", f32[N, 2, 9], kernel=(3,), strides=(1,), dilation=(2,)),
    ),
    "avg_pool": _many(
        _unary("avg_pool", f32[N, 2, H, W], kernel=(3, 2), strides=(2, 2), padding=((1, 1), (0, 1))),
        _unary(
            "avg_pool",
            f32[N, 2, H, W],
            kernel=(3, 3),
            strides=(1, 1),
            padding=((1, 1), (1, 1)),
            count_include_pad=False,
        ),
        _unary("avg_pool", f32[N, 2, H, W], kernel=(3, 3), strides=(2, 2), ceil_mode=True),
        _unary("avg_pool", f32[N, 2, H, W], kernel=(2, 2), strides=(2, 2), padding=((1, 1), (1, 1)), ceil_mode=True),
        _unary(
            "avg_pool",
            f32[N, 2, H, W],
            kernel=(2, 2),
            strides=(3, 3),
            padding=((1, 1), (1, 1)),
            ceil_mode=True,
            count_include_pad=False,
        ),
    ),
    "adaptive_avg_pool": _many(
        _unary("adaptive_avg_pool", f32[N, 2, H, W], output=(1, 1)),
        _unary("adaptive_avg_pool", f32[N, 2, H, 9], output=(3, 4)),
        _unary("adaptive_avg_pool", f32[N, 2, H], output=(2,)),
    ),
    "reshape": _reshapes,
    "transpose": _unary("transpose", f32[N, 3, 4], perm=(2, 0, 1)),
    "broadcast": _many(
        lambda b: (b.op("broadcast", _x(b, "x", f32[N, 1, 4]), shape=(N, H, 4)), b.op("exp", _x(b, "y", f32[H]))),
        _unary("broadcast", f32[N, 1, 4], shape=(2, N, 3, 4)),
    ),
    "slice": _slices,
    "concat": lambda b: (
        b.op("concat", _x(b), _x(b, "y", f32[N, 3]), axis=1),
        b.op("concat", _x(b, "z", f32[N]), axis=0),
    ),
    "split": _many(
        _unary("split", f32[N, 9], axis=1, sizes=(2, 3, 4)),
        _unary("split", f32[N, H], axis=1, sizes=(H // 2, H - H // 2)),
    ),
    "pad": _many(
        _unary("pad", padding=((0, 1), (2, 0)), value=0.5),
        _unary("pad", padding=((0, 0), (2, 3)), mode="reflect"),
        _unary("pad", padding=((1, 1), (2, 0)), mode="edge", value=0.0),
        _unary("pad", i64[N], "i", padding=((0, 1),), value=-7),
        _unary("pad", padding=((0, 1), (2, 0)), value=1),
        _unary("pad", boolean[N], "b", padding=((1, 0),), value=True),
    ),
    "flip": _many(_unary("flip", axes=(1,)), _unary("flip", f32[N, 3, 4], axes=(2, 0))),
    "iota": lambda b: (
        b.op("exp", _x(b)),
        *(
            b.op("iota", shape=shape, axis=axis, dtype=kind)
            for shape, axis, kind in [
                ((N,), 0, i64),
                ((N,), 0, i32),
                ((5,), 0, i64),
                ((2, N, 3), 1, f32),
                ((4, N), 0, i64),
                ((6,), 0, u8),
            ]
        ),
    ),
    "full": _fulls,
    "size": _sizes,
    "gather": _many(
        lambda b: b.op("gather", _x(b, "x", f32[N, 3]), _x(b, "k", i64[2, H]), axis=1),
        lambda b: b.op("gather", _x(b, "x", f32[N, 3]), _x(b, "k", u8[2]), axis=1),
    ),
    "gather_elements": lambda b: b.op("gather_elements", _x(b, "x", f32[N, 3]), _x(b, "k", i64[N, 2]), axis=1),
    "scatter_add": _scatters,
    "scatter": _scatters,
    "embedding": _many(
        lambda b: b.op("embedding", _x(b, "x", f32[3, 4]), _x(b, "k", i64[N, 2])),
        lambda b: b.op("embedding", _x(b, "x", f32[3, 4]), _x(b, "k", i16[N])),
    ),
    "nonzero": _selected,
    "masked_select": _selected,
    "softmax": _many(_unary("softmax", axis=1), _unary("softmax", f32[N, 3, 4], axis=1)),
    "log_softmax": _unary("log_softmax", axis=1),
    "layer_norm": _norm,
    "rms_norm": _norm,
    "batch_norm": _channels,
    "group_norm": _channels,
    "attention": _attention,
    "cross_entropy": lambda b: tuple(
        b.op("cross_entropy", x, k, reduction=word)
        for x, k in [(_x(b, "x", f32[N, 3]), _x(b, "k", i64[N]))]
        for word in ("mean", "sum", "none")
    ),
    "quantize": _quantized,
    "dequantize": _quantized,
}


def built(program: Callable[[Builder], Made]) -> Graph:
    b = Builder("case")
    made = program(b)
    graph = b.finish(made if isinstance(made, tuple) else (made,))
    assert graph.verify() is None
    return graph


def test_every_core_op_has_a_case() -> None:
    assert sorted(CASES) == kinds()


@pytest.mark.parametrize("name", CASES)
def test_op_means_the_same_in_onnxruntime_and_comes_back(name: str) -> None:
    graph = built(CASES[name])
    model = to_onnx(graph)
    back = from_onnx(model)
    assert back.verify() is None
    assert canonical_hash(canonicalize(back)) == canonical_hash(canonicalize(graph))
    declared = {symbol for value in graph.inputs for symbol in value.type.symbols}
    plain = from_onnx(without_notes(model), dims={name: RANGES[name] for name in declared})
    assert plain.verify() is None
    runtime = session(model)
    for seed, sizes in enumerate(SIZES):
        feeds = feeds_of(graph, sizes, seed)
        meaning = evaluated(graph, feeds)
        same(runtime.run(None, feeds), meaning, 1e-4)
        # The nodes alone, without our notes on them, mean the same too.
        same(evaluated(plain, feeds), meaning, 1e-4)
        if not graph.symbols:
            break


NARROW = (
    "add",
    "div",
    "exp",
    "erf",
    "tanh",
    "sigmoid",
    "relu",
    "silu",
    "gelu",
    "softmax",
    "sum",
    "mean",
    "max",
    "matmul",
    "linear",
    "layer_norm",
    "rms_norm",
    "sin",
    "round",
    "hardswish",
    "elu",
    "clip",
    "where",
    "cumsum",
    "pow",
)


@pytest.mark.parametrize("element", [f16, bf16, f64], ids=str)
@pytest.mark.parametrize("kind", NARROW)
def test_other_floats_are_written_and_come_back(kind: str, element: Any) -> None:
    b = Builder("narrow")
    x, y, w = b.input("x", element[N, 4]), b.input("p", element[N, 4]), b.input("w", element[4, 4])
    operands = {"add": (x, y), "div": (x, y), "pow": (y, x), "matmul": (x, w), "linear": (x, w)}.get(kind, (x,))
    attrs: dict[str, Any] = {
        "softmax": {"axis": 1},
        "sum": {"axes": (1,)},
        "mean": {"axes": (1,)},
        "max": {"axes": (1,)},
        "cumsum": {"axis": 1},
        "layer_norm": {"axes": (1,)},
        "rms_norm": {"axes": (1,)},
        "clip": {"low": -0.5, "high": 0.5},
    }.get(kind, {})
    if kind == "where":
        operands = (b.input("b", boolean[4]), x, y)
    graph = b.finish([b.op(kind, *operands, **attrs)])
    model = to_onnx(graph)
    assert canonical_hash(canonicalize(from_onnx(model))) == canonical_hash(canonicalize(graph))
    if element is bf16:
        return  # onnxruntime has no kernels for it
    runs_the_same(model, graph, 1e-2 if element is f16 else 1e-6)


def runs_the_same(model: onnx.ModelProto, graph: Graph, tolerance: float) -> None:
    feeds = feeds_of(graph, SIZES[0])
    try:
        runtime = session(model)
    except Exception as error:
        # The specification allows more element types than onnxruntime has kernels for.
        assert "NOT_IMPLEMENTED" in str(error)
        return
    same(runtime.run(None, feeds), evaluated(graph, feeds), tolerance)


@pytest.mark.parametrize("element", [i8, u8, i16, i32, i64], ids=str)
@pytest.mark.parametrize(
    "kind",
    ["add", "mul", "maximum", "eq", "lt", "abs", "sum", "max", "prod", "argmax", "cumsum", "matmul", "relu", "sign"],
)
def test_other_integers_are_written_and_come_back(kind: str, element: Any) -> None:
    b = Builder("whole")
    x, y, w = b.input("k", element[N, 4]), b.input("kk", element[N, 4]), b.input("kkk", element[4, 4])
    operands = {"add": (x, y), "mul": (x, y), "maximum": (x, y), "eq": (x, y), "lt": (x, y), "matmul": (x, w)}.get(
        kind, (x,)
    )
    attrs: dict[str, Any] = {
        "sum": {"axes": (1,)},
        "max": {"axes": (1,)},
        "prod": {"axes": (1,)},
        "argmax": {"axis": 1},
        "cumsum": {"axis": 1},
    }.get(kind, {})
    graph = b.finish([b.op(kind, *operands, **attrs)])
    model = to_onnx(graph)
    assert canonical_hash(canonicalize(from_onnx(model))) == canonical_hash(canonicalize(graph))
    runs_the_same(model, graph, 0)


def test_every_way_to_make_and_move_bfloat16_elements() -> None:
    b = Builder("moves")
    x = b.input("x", bf16[N, 4])
    k = b.input("k", i64[N, 4])
    made = [
        b.full(0.5, bf16[N, 3]),
        b.full(0.1, bf16[()]),
        b.op("iota", shape=(N,), dtype=bf16),
        b.op("pad", x, padding=((0, 1), (1, 0)), value=1.5),
        b.op("pad", x, padding=((0, 0), (1, 0)), mode="edge", value=0.0),
        b.op("slice", x, starts=(0, 1), limits=(N, 3), strides=(1, 1)),
        b.op("flip", x, axes=(0,)),
        b.op("concat", x, x, axis=1),
        *b.op("split", x, axis=1, sizes=(1, 3)),
        b.op("gather", x, b.full(1, i64[2]), axis=1),
        b.op("gather_elements", x, b.full(0, i64[N, 2]), axis=1),
        b.op("scatter_add", x, b.op("clip", k, low=0, high=0), x, axis=0),
        b.op("masked_select", x, b.op("gt", x, b.full(0.0, bf16[()])), symbol="chosen"),
        b.op("broadcast", x, shape=(2, N, 4)),
        b.op("nonzero", x, symbol="places"),
        b.op("batch_norm", x, *(b.full(1.0, bf16[4]) for _ in range(4))),
        b.op("adaptive_avg_pool", b.op("reshape", x, shape=(N, 1, 4)), output=(2,)),
        b.op("max_pool", b.op("reshape", x, shape=(N, 1, 4)), kernel=(2,)),
        b.op("conv", b.op("reshape", x, shape=(N, 1, 4)), b.full(1.0, bf16[1, 1, 2])),
        b.op("floordiv", x, x),
        b.op("mod", x, x),
        b.op("expm1", x),
        b.op("quantize", x, scale=(0.1,), zero_point=(0,)),
        b.op(
            "cross_entropy",
            x,
            b.op("reshape", b.op("slice", k, starts=(0, 0), limits=(N, 1), strides=(1, 1)), shape=(N,)),
        ),
        b.op("is_nan", x),
        b.op("argmax", x, axis=1),
    ]
    graph = b.finish(made)
    assert graph.verify() is None
    model = to_onnx(graph)  # the checker compares element types with what each operator takes
    assert canonical_hash(canonicalize(from_onnx(model))) == canonical_hash(canonicalize(graph))


def test_opset_20_has_gelu_of_its_own() -> None:
    graph = built(_unary("gelu", approximate="tanh"))
    model = to_onnx(graph, opset=20)
    assert [node.op_type for node in model.graph.node] == ["Gelu"]
    assert canonical_hash(canonicalize(from_onnx(model))) == canonical_hash(canonicalize(graph))


@pytest.mark.parametrize(
    "formula", ["(L + C)//4", "(L - C)//4", "(C - L)//4", "(L - C) % 3", "min(L, 2*C) - max(3, C)", "L*L*C - 2*L"]
)
def test_size_formulas_round_and_compare_as_sizes_do(formula: str) -> None:
    length, cut = dims("L", "C", max=(9, 9))
    b = Builder("windows")
    x, y = b.input("x", f32[length]), b.input("y", f32[cut])
    size = Dim.parse(formula)
    model = to_onnx(b.finish([x, y, b.op("size", dim=size)]))
    # Only a quotient of unknown sign is corrected for ONNX's rounding toward zero.
    corrected = formula in ("(L - C)//4", "(C - L)//4")
    assert ("Mod" in [node.op_type for node in model.graph.node]) is (corrected or "%" in formula)
    runtime = session(model)
    for one in range(1, 10):
        for other in range(1, 10):
            found = runtime.run(None, {"x": np.zeros(one, np.float32), "y": np.zeros(other, np.float32)})
            assert found[2] == size.at(L=one, C=other)


def test_sizes_are_computed_once_from_the_inputs() -> None:
    b = Builder("shared")
    x = b.input("x", f32[N * 8 + 7, 4])
    y = b.op("reshape", x, shape=((N * 8 + 7) * 2, 2))
    made = b.op(
        "mul", b.op("broadcast", b.input("y", f32[1]), shape=(N,)), b.op("cast", b.op("iota", shape=(N,)), to=f32)
    )
    model = to_onnx(b.finish([y, made]))
    assert [node.op_type for node in model.graph.node].count("Shape") == 1
    runtime = session(model)
    values = np.arange(4 * 23, dtype=np.float32).reshape(23, 4)
    found = runtime.run(None, {"x": values, "y": np.ones(1, np.float32)})
    assert found[0].shape == (46, 2) and found[1].tolist() == [0, 1]
