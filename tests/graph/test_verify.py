"""The verifier: a sound program has no finding; each of many mutants is refused, and the guilty op is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from mlsysopt.graph import (
    Attrs,
    Builder,
    Constant,
    Dim,
    Graph,
    GraphError,
    Loc,
    Mesh,
    Op,
    Partial,
    Placement,
    Quant,
    Replicate,
    Shard,
    TensorType,
    Value,
    boolean,
    f32,
    f64,
    i8,
    i64,
)  # fmt: skip
from mlsysopt.graph.sources import InMemory
from mlsysopt.graph.symbolic import dims
from mlsysopt.graph.types import Blocked, Dense
from mlsysopt.graph.verify import findings

MESH = Mesh(("data",), (2,))
SPLIT, WHOLE, SUM = (Placement(MESH, (word,)) for word in (Shard(0), Replicate(), Partial()))


def sound() -> Graph:
    batch, length = dims("B", "S", max=(64, 512))
    builder = Builder("sound")
    x = builder.input("x", f32[batch, length, 8])
    w = builder.constant("w", np.ones((8, 8), np.float32))
    q = builder.op("matmul", x, w, name="q", loc=Loc("model.py", 7))
    r = builder.op("relu", q, name="r")
    a, b = builder.op("split", r, axis=2, sizes=(4, 4), names=("a", "b"))
    c = builder.op("add", a, b, name="c")
    t = builder.op("transpose", c, perm=(1, 0, 2), name="t")
    return builder.finish([builder.op("sum", t, axes=(0,), keepdims=False, name="s")])


def placed() -> Graph:
    builder = Builder("placed")
    x = builder.input("x", f32[8, 4].with_placement(SPLIT))
    y = builder.input("y", f32[8, 4].with_placement(SPLIT))
    p = builder.input("p", f32[8, 4].with_placement(SUM))
    a = builder.op("add", x, y, name="a")
    e = builder.op("exp", a, name="e")
    return builder.finish([e, builder.op("add", p, p, name="d")])


def test_sound_programs_have_no_finding() -> None:
    for graph in (sound(), placed()):
        assert findings(graph) == []
        assert graph.verify() is None


def op(graph: Graph, name: str, **changes: object) -> Graph:
    """Return the program with one op changed."""
    ops = tuple(replace(one, **changes) if one.name == name else one for one in graph.ops)
    return replace(graph, ops=ops)


def typed(graph: Graph, name: str, change: Callable[[TensorType], TensorType]) -> Graph:
    """Return the program with one value's type changed, at its definition and wherever it is read."""
    old = graph.value(name)
    new = Value(name, change(old.type))

    def swap(values: tuple[Value, ...]) -> tuple[Value, ...]:
        return tuple(new if value == old else value for value in values)

    ops = tuple(replace(one, operands=swap(one.operands), results=swap(one.results)) for one in graph.ops)
    constants = tuple(replace(one, value=new) if one.value == old else one for one in graph.constants)
    return replace(graph, inputs=swap(graph.inputs), constants=constants, ops=ops, outputs=swap(graph.outputs))


def reordered(graph: Graph) -> Graph:
    return replace(graph, ops=(graph.ops[1], graph.ops[0], *graph.ops[2:]))


S, P = sound(), placed()
X, Q, A = S.value("x"), S.value("q"), S.value("a")
GHOST = Value("ghost", X.type)
REGION = Graph("inside", (Value("i", f32[2]),), (), (), (Value("lost", f32[2]),))

MUTANTS: dict[str, tuple[Graph, str, str]] = {
    "ops out of order": (reordered(S), "dominance", "relu %r"),
    "an operand that nothing defines": (op(S, "r", operands=(GHOST,)), "dominance", "relu %r"),
    "an op that reads itself": (op(S, "r", operands=(Value("r", Q.type),)), "dominance", "relu %r"),
    "an operand of another type than its definition": (
        op(S, "r", operands=(Value("q", f32[1, 1, 8]),)),
        "dominance",
        "relu %r",
    ),
    "a name defined twice": (op(S, "c", results=(Value("q", A.type),)), "names", "%q"),
    "a result named as an input": (op(S, "c", results=(Value("x", A.type),)), "names", "%x"),
    "two inputs of one name": (replace(S, inputs=(X, X)), "names", "input %x"),
    "an unknown kind": (op(S, "r", kind="rellu"), "kind", "rellu %r"),
    "an op set that nobody brings": (op(S, "r", kind="nowhere.relu"), "kind", "nowhere.relu %r"),
    "too few operands": (op(S, "c", operands=(A,)), "types", "add %c"),
    "too many operands": (op(S, "r", operands=(Q, Q)), "types", "relu %r"),
    "an attribute that the kind lacks": (op(S, "r", attrs=Attrs({"slope": 1.0})), "types", "relu %r"),
    "an attribute that is missing": (op(S, "t", attrs=Attrs({})), "types", "transpose %t"),
    "an attribute of another type": (op(S, "t", attrs=Attrs({"perm": "102"})), "types", "transpose %t"),
    "a default left out": (op(S, "q", attrs=Attrs({"transpose_a": False})), "attributes", "matmul %q"),
    "a permutation that is none": (op(S, "t", attrs=Attrs({"perm": (1, 1, 2)})), "types", "transpose %t"),
    "an axis outside the rank": (op(S, "s", attrs=Attrs({"axes": (5,), "keepdims": False})), "types", "sum %s"),
    "a result of another size": (typed(S, "s", lambda t: t.with_shape((Dim.of(3), Dim.of(4)))), "types", "sum %s"),
    "a result of another rank": (typed(S, "s", lambda t: t.with_shape(t.shape[:1])), "types", "sum %s"),
    "a result of another element type": (typed(S, "s", lambda t: t.with_dtype(f64)), "types", "sum %s"),
    "operands of two element types": (typed(S, "b", lambda t: t.with_dtype(f64)), "types", "add %c"),
    "a bool where numbers are needed": (typed(S, "x", lambda t: t.with_dtype(boolean)), "types", "matmul %q"),
    "a size that facts do not give": (
        typed(S, "a", lambda t: t.with_shape((Dim.of("Z"), *t.shape[1:]))),
        "symbols",
        "split %a",
    ),
    "a symbol that no input has": (
        typed(S, "r", lambda t: t.with_shape((t.shape[0], Dim.of("Q"), t.shape[2]))),
        "symbols",
        "relu %r",
    ),
    "parts that do not make up the whole": (
        op(S, "a", attrs=Attrs({"axis": 2, "sizes": (Dim.of(4), Dim.of(3))})),
        "types",
        "split %a",
    ),
    "a result too few": (op(S, "a", results=S.ops[2].results[:1]), "results", "split %a"),
    "an op without results": (replace(S, ops=(*S.ops, Op("neg", (X,), ()))), "results", "neg"),
    "an output that nothing defines": (replace(S, outputs=(GHOST,)), "outputs", "return %ghost"),
    "an output of another type": (replace(S, outputs=(Value("s", f32[1]),)), "outputs", "return %s"),
    "a constant with a symbol": (
        replace(S, constants=(Constant(Value("w", f32["B", 8]), InMemory(np.ones(8))),)),
        "constant",
        "const %w",
    ),
    "a layout that is no permutation": (
        typed(S, "r", lambda t: replace(t, layout=Dense((0, 0, 1)))),
        "layout",
        "relu %r",
    ),
    "tiles of another rank": (
        typed(S, "r", lambda t: replace(t, layout=Blocked((0, 1, 2), (4,)))),
        "layout",
        "relu %r",
    ),
    "a tile of nothing": (
        typed(S, "r", lambda t: replace(t, layout=Blocked((0, 1, 2), (4, 0, 1)))),
        "layout",
        "relu %r",
    ),
    "a split along an axis that is not there": (
        typed(P, "x", lambda t: t.with_placement(Placement(MESH, (Shard(7),)))),
        "placement",
        "input %x",
    ),
    "a split that does not divide": (
        typed(P, "x", lambda t: t.with_shape((Dim.of(7), Dim.of(4)))),
        "placement",
        "input %x",
    ),
    "a function of a partial sum": (
        typed(typed(P, "a", lambda t: t.with_placement(SUM)), "e", lambda t: t.with_placement(SUM)),
        "placement",
        "exp %e",
    ),
    "a partial sum added to a whole": (op(P, "d", operands=(P.value("p"), P.value("x"))), "placement", "add %d"),
    "operands on two meshes": (
        typed(P, "y", lambda t: t.with_placement(Placement(Mesh(("m",), (4,)), (Shard(0),)))),
        "placement",
        "add %a",
    ),
    "one operand without a placement": (typed(P, "y", lambda t: t.with_placement(None)), "placement", "add %a"),
    "a result without a placement": (typed(P, "a", lambda t: t.with_placement(None)), "placement", "add %a"),
    "a result placed otherwise": (
        typed(P, "e", lambda t: t.with_placement(Placement(MESH, (Shard(1),)))),
        "placement",
        "exp %e",
    ),
    "reals that are quantised": (
        typed(S, "x", lambda t: replace(t, quant=Quant((0.1,), (0,)))),
        "quantisation",
        "input %x",
    ),
    "scales for an axis that is not there": (
        typed(S, "x", lambda t: replace(t, dtype=i8, quant=Quant((0.1,) * 8, (0,) * 8, 3))),
        "quantisation",
        "input %x",
    ),
    "too few scales": (
        typed(S, "x", lambda t: replace(t, dtype=i8, quant=Quant((0.1,) * 4, (0,) * 4, 2))),
        "quantisation",
        "input %x",
    ),
    "a zero point outside the type": (
        typed(S, "x", lambda t: replace(t, dtype=i8, quant=Quant((0.1,), (300,)))),
        "quantisation",
        "input %x",
    ),
    "a region that returns what it does not define": (
        op(S, "r", regions=(REGION,)),
        "outputs",
        "relu %r / return %lost",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_refused_and_the_guilty_op_is_named(name: str) -> None:
    graph, rule, guilty = MUTANTS[name]
    found = findings(graph)
    assert any(one.rule == rule and guilty in one.what for one in found), "\n".join(map(str, found))
    with pytest.raises(GraphError, match=f"graph {graph.name}: {len(found)} findings"):
        graph.verify()


def test_there_are_enough_mutants() -> None:
    assert len(MUTANTS) >= 30
    assert {rule for _, rule, _ in MUTANTS.values()} >= {
        "attributes", "constant", "dominance", "kind", "layout", "names", "outputs", "placement", "quantisation",
        "results", "symbols", "types",
    }  # fmt: skip


def test_all_findings_come_at_once_with_their_source() -> None:
    graph = op(op(S, "q", attrs=Attrs({})), "t", attrs=Attrs({"perm": (0,)}))
    with pytest.raises(GraphError) as error:
        graph.verify()
    assert "model.py:7" in str(error.value)
    assert "transpose %t" in str(error.value)


def test_a_demand_that_facts_do_not_prove_is_a_finding() -> None:
    a, b = Value("a", f32["M"]), Value("b", f32["N"])
    result = Value("c", f32["M"])
    graph = Graph("f", (a, b), (), (Op("add", (a, b), (result,)),), (result,))
    assert [one.rule for one in findings(graph)] == ["facts"]
    assert findings(graph.with_facts(graph.facts.with_equal(Dim.of("M"), Dim.of("N")))) == []


def test_a_fresh_symbol_is_bound_by_its_op() -> None:
    builder = Builder("f")
    x = builder.input("x", i64["N"])
    found = builder.op("nonzero", x, symbol="u0")
    graph = builder.finish([found])
    assert findings(graph) == []
