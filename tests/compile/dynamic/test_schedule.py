"""Programs of groups: loops, params, passes, sizes 0, 1 and primes, hidden broadcasts, what may be done in place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mlsysopt.compile.codegen.program import Param, Program
from mlsysopt.compile.dynamic.fuse import plan
from mlsysopt.compile.dynamic.schedule import Scheduled, in_place, program
from mlsysopt.core.errors import UsageError
from mlsysopt.graph import Builder, Dim, Facts, Graph, Value, f32, i64, interpret
from mlsysopt.testing.programs import interpret_program, run_fusion


def _only(graph: Graph) -> Scheduled:
    fusion = plan(graph)
    (group,) = fusion.groups
    return program(group, fusion)


def _weight(b: Builder, *shape: int) -> Value:
    return b.constant("w", np.random.default_rng(0).standard_normal(shape).astype(np.float32))


def residual_norm() -> Graph:
    b = Builder("residual_norm")
    x, r = b.input("x", f32["B", "S", 48]), b.input("r", f32["B", "S", 48])
    h = b.op("add", b.op("add", x, r), _weight(b, 48))
    return b.finish([b.op("layer_norm", h, _weight(b, 48), _weight(b, 48), axes=(2,)), h])


def masked_softmax() -> Graph:
    b = Builder("masked_softmax")
    x, mask = b.input("x", f32["B", 3, "S", "S"]), b.input("mask", f32["B", 1, 1, "S"])
    return b.finish([b.op("softmax", b.op("add", b.op("mul", x, b.scalar(0.125, x)), mask), axis=3)])


def gate() -> Graph:
    b = Builder("gate")
    x, g = b.input("x", f32["B", "S", 40]), b.input("g", f32["B", "S", 40])
    return b.finish([b.op("mul", b.op("silu", g), b.op("rms_norm", x, _weight(b, 40), axes=(2,)))])


def turned() -> Graph:
    b = Builder("turned")
    x = b.input("x", f32["B", "S", 12])
    heads = b.op("transpose", b.op("reshape", x, shape=("B", "S", 3, 4)), perm=(0, 2, 1, 3))
    return b.finish([b.op("mul", heads, b.op("sin", heads))])


def over_columns() -> Graph:
    b = Builder("over_columns")
    return b.finish([b.op("softmax", b.input("x", f32["B", "S", 5]), axis=1)])


def rotated() -> Graph:
    b = Builder("rotated")
    x, angle = b.input("x", f32["B", 2, "S", 16]), b.input("angle", f32["S", 16])
    sizes = ("B", 2, "S")
    low = b.op("slice", x, starts=(0, 0, 0, 0), limits=(*sizes, 8), strides=(1, 1, 1, 1))
    high = b.op("slice", x, starts=(0, 0, 0, 8), limits=(*sizes, 16), strides=(1, 1, 1, 1))
    half = b.op("concat", b.op("neg", high), low, axis=3)
    turn, along = b.op("sin", angle), b.op("cos", angle)
    return b.finish([b.op("add", b.op("mul", x, along), b.op("mul", half, turn))])


def padded() -> Graph:
    b = Builder("padded")
    x = b.input("x", f32["B", "S"])
    wide = b.op("pad", b.op("relu", x), padding=((0, 0), (2, 1)), value=3.0)
    mirrored = b.op("pad", x, padding=((0, 0), (0, 2)), mode="edge")
    return b.finish([b.op("max", wide, axes=(1,)), mirrored])


TEMPLATES = (residual_norm, masked_softmax, gate, turned, over_columns, rotated)


def _run(graph: Graph, sizes: dict[str, int], *, minus_infinity: bool = False) -> float:
    graph = graph.with_facts(Facts())  # a size of 0 is as good as any
    rng = np.random.default_rng(0)
    inputs: dict[str, Any] = {v.name: rng.standard_normal(v.type.at(**sizes)).astype("f4") for v in graph.inputs}
    if minus_infinity:
        inputs["mask"][..., ::2] = -np.inf
    worst = 0.0
    for found, truth in zip(run_fusion(plan(graph), inputs), interpret(graph, inputs=inputs).values(), strict=True):
        assert found.shape == truth.shape
        if truth.size:
            worst = max(worst, float(np.abs(found - truth).max()))
    return worst


@pytest.mark.parametrize("make", TEMPLATES)
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (2, 7), (3, 1), (1, 13), (2, 8)])
def test_templates_at_sizes_of_all_kinds(make: Callable[[], Graph], batch: int, length: int) -> None:
    assert _run(make(), {"B": batch, "S": length}) < 1e-12


@pytest.mark.parametrize("make", [residual_norm, gate, turned, rotated])
@pytest.mark.parametrize(("batch", "length"), [(0, 3), (2, 0), (0, 0)])
def test_nothing_is_an_ordinary_size(make: Callable[[], Graph], batch: int, length: int) -> None:
    assert _run(make(), {"B": batch, "S": length}) == 0.0


def test_padding_of_both_kinds() -> None:
    assert _run(padded(), {"B": 2, "S": 5}) < 1e-12


def test_masks_hold_minus_infinity() -> None:
    assert _run(masked_softmax(), {"B": 2, "S": 6}, minus_infinity=True) < 1e-12


def test_a_hidden_broadcast_is_carried_out() -> None:
    b = Builder("f")
    x, y = b.input("x", f32["B", "S"]), b.input("y", f32["B", "T"])
    graph = b.finish([b.op("add", x, y)])
    assert _run(graph, {"B": 3, "S": 5, "T": 1}) < 1e-12
    assert _run(graph, {"B": 3, "S": 5, "T": 5}) < 1e-12


def test_elementwise_loops_collapse_to_one() -> None:
    b = Builder("f")
    x, y = b.input("x", f32["B", "S", 8]), b.input("y", f32["B", "S", 8])
    made = _only(b.finish([b.op("add", x, y)]))
    assert (made.program.parallel, made.program.inner) == ((), Param(0))
    assert made.params == (Dim.parse("8*B*S"),)


def test_the_length_of_a_folded_row_is_a_number_and_the_rest_are_params() -> None:
    made = _only(residual_norm()).program
    assert (made.parallel, made.inner, made.schedule) == ((Param(0),), 48, "row")
    assert [len(one.reductions) for one in made.passes] == [1, 1, 0]
    kept = [made.nodes[node].op for one in made.passes for node in one.keeps]
    assert kept == ["add"]


def test_vectors_lie_along_the_axis_without_gaps() -> None:
    made = _only(over_columns())
    assert made.program.schedule == "column"
    assert made.program.inner == 5
    assert [made.params[size.index] for size in made.program.reduced if isinstance(size, Param)] == [Dim.of("S")]


def test_independent_folds_share_a_pass() -> None:
    b = Builder("f")
    x = b.input("x", f32["B", "S"])
    made = _only(b.finish([b.op("sum", x, axes=(1,)), b.op("max", b.op("exp", x), axes=(1,))])).program
    assert len(made.passes[0].reductions) == 2


def test_groups_that_do_the_same_elsewhere_have_equal_programs() -> None:
    b = Builder("f")
    x = b.input("x", f32["B", "S", 32])
    rng = np.random.default_rng(0)
    for _ in range(3):
        w = b.constant("w", rng.standard_normal((32, 32)).astype(np.float32))
        x = b.op("layer_norm", b.op("linear", x, w), axes=(2,))
    fusion = plan(b.finish([x]))
    made = [program(group, fusion).program for group in fusion.groups]
    assert len(made) == 3 and len(set(made)) == 1


def test_a_number_below_zero_is_no_row_of_a_table() -> None:
    b = Builder("f")
    table = b.constant("table", np.ones((4, 3), np.float32))
    graph = b.finish([b.op("embedding", table, b.input("ids", i64["B"]))])
    made = _only(graph)
    assert made.arguments[-1] is None and made.program.faults == len(made.arguments) - 1
    with pytest.raises(UsageError, match="outside"):
        run_fusion(plan(graph), {"ids": np.array([0, -1])})


def test_what_is_read_where_it_is_written_may_be_done_in_place() -> None:
    b = Builder("f")
    x, y = b.input("x", f32["B", 8]), b.input("y", f32[8])
    made = _only(b.finish([b.op("add", x, y)]))
    assert in_place(made) == [(2, 0)]
    assert in_place(_only(turned())) == []
    assert in_place(_only(over_columns())) == [(1, 0)]


def _changed(made: Program, change: Callable[[Any], Any]) -> Program:
    nodes = list(made.nodes)
    i = next(i for i, node in enumerate(nodes) if node.access is not None)
    nodes[i] = replace(nodes[i], access=change(nodes[i].access))
    return replace(made, nodes=tuple(nodes))


def test_the_interpreter_sees_wrong_strides_and_offsets() -> None:
    made = _only(residual_norm())
    sizes = {"B": 2, "S": 3}
    params = [param.at(sizes) for param in made.params]

    def results(one: Program) -> list[np.ndarray[Any, Any]]:
        rng = np.random.default_rng(1)
        buffers = [rng.standard_normal(v.type.elements.at(sizes)).astype("f4") for v in made.arguments if v is not None]
        interpret_program(one, buffers, params)
        return [buffer for buffer, argument in zip(buffers, one.arguments, strict=True) if argument.written]

    right = results(made.program)
    wrong = results(_changed(made.program, lambda access: replace(access, strides=(0, *access.strides[1:]))))
    assert not all(np.array_equal(a, b) for a, b in zip(right, wrong, strict=True))
    with pytest.raises(UsageError, match="are touched"):
        results(_changed(made.program, lambda access: replace(access, offset=1)))
