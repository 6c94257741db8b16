from __future__ import annotations

import numpy as np
import pytest

from mlsysopt.core.errors import UsageError
from mlsysopt.graph import Builder, Dim, Graph, Loc, compare_outputs, f32, i64, interpret, random_inputs
from mlsysopt.graph.ops.registry import kinds, lookup
from mlsysopt.graph.passes import decompose
from mlsysopt.testing.graphs import random_program


def block() -> Graph:
    B, S = Dim.of("B"), Dim.of("S")
    b = Builder("block")
    x, labels = b.input("x", f32[B, S, 8]), b.input("labels", i64[B * S])
    w = b.constant("w", np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32))
    b.loc = Loc("model.py", 3, "attention")
    y = b.op("attention", x, x, x, causal=True, name="attended")
    b.loc = Loc("model.py", 4, "head")
    y = b.op("gelu", b.op("linear", b.op("layer_norm", y, axes=(2,)), w), name="y")
    loss = b.op("cross_entropy", b.op("reshape", y, shape=(B * S, 8)), labels, name="loss")
    return b.finish([y, loss, b.op("clip", y, name="same")])


def test_everything_becomes_primitive_and_means_the_same() -> None:
    graph = block()
    lowered = decompose(graph)
    lowered.verify()
    assert all(lookup(op.kind).decompose is None for op in lowered.ops)
    report = compare_outputs(graph, lambda inputs: interpret(lowered, inputs=inputs), [{"B": 2, "S": 5}, {}], 1e-12)
    assert report.check().rows[0].output == "y"


def test_names_types_lines_and_facts_stay() -> None:
    graph = block()
    lowered = decompose(graph)
    assert lowered.outputs == graph.outputs and lowered.inputs == graph.inputs
    assert lowered.facts == graph.facts
    known = lowered.values
    for op in graph.ops:
        assert all(known[value.name] == value for value in op.results)
    lines = {op.name: op.loc.line for op in lowered.ops}
    assert lines["attended"] == 3 and lines["y"] == 4
    assert {op.loc.line for op in lowered.ops if op.name.startswith("attended.")} == {3}


def test_idempotent() -> None:
    lowered = decompose(block())
    assert decompose(lowered) is lowered
    kept = decompose(block(), {"softmax", "linear"})
    assert decompose(kept, {"softmax", "linear"}) is kept
    assert decompose(kept) == decompose(block()) or decompose(kept).ops != kept.ops


def test_kinds_to_keep_stay_also_inside_others() -> None:
    found = {op.kind for op in decompose(block(), {"softmax"}).ops}
    assert "softmax" in found and "attention" not in found and "linear" not in found
    with pytest.raises(UsageError, match="unknown op 'softmx'; did you mean softmax"):
        decompose(block(), {"softmx"})


def test_a_composite_that_does_nothing_keeps_its_name() -> None:
    lowered = decompose(block())
    assert lowered.value("same") in lowered.outputs
    assert lowered.producers[lowered.value("same")].kind == "reshape"


def test_generated_programs_mean_the_same() -> None:
    lowered_ops = 0
    for seed in range(150):
        graph = random_program(seed, ops=10)
        lowered = decompose(graph)
        lowered.verify()
        inputs = random_inputs(graph, seed=seed)
        before, after = interpret(graph, inputs=inputs), interpret(lowered, inputs=inputs)
        assert list(before) == list(after)
        lowered_ops += lowered is not graph
        for name, array in before.items():
            if array.dtype.kind == "f":
                scale = np.abs(array).max(initial=0, where=np.isfinite(array)) + 1
                np.testing.assert_allclose(after[name] / scale, array / scale, rtol=1e-9, atol=1e-9)
    assert lowered_ops > 60


def test_about_forty_primitives_carry_the_composites() -> None:
    primitives = [kind for kind in kinds() if lookup(kind).decompose is None]
    assert len(primitives) + len([k for k in kinds() if lookup(k).decompose is not None]) == len(kinds())
    assert 60 <= len(primitives) <= 85
