"""Values on several devices: one array each, together the whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsysopt.core.errors import UsageError
from mlsysopt.graph import Builder, Graph, Mesh, Partial, Placement, Replicate, Shard, f32, i64, interpret
from mlsysopt.graph.domains import assembled, scattered
from mlsysopt.graph.errors import GraphError

MESH = Mesh(("data", "model"), (2, 3))
WORDS = (Shard(0), Shard(1), Shard(0, uneven=True), Replicate(), Partial())


@given(st.sampled_from(WORDS), st.sampled_from(WORDS))
def test_assembled_is_what_was_scattered(first: Any, second: Any) -> None:
    placement = Placement(MESH, (first, second))
    array = np.random.default_rng(0).standard_normal((6, 12))
    parts = scattered(array, placement)
    assert len(parts) == 6
    np.testing.assert_array_equal(assembled(parts, placement), array)


def test_parts_in_the_order_of_the_mesh() -> None:
    parts = scattered(np.arange(6).reshape(2, 3), Placement(MESH, (Shard(0), Shard(1))))
    assert [int(part[0, 0]) for part in parts] == [0, 1, 2, 3, 4, 5]


def test_uneven_parts_are_torchs_chunks() -> None:
    mesh = Mesh(("data",), (4,))
    parts = scattered(np.arange(6), Placement(mesh, (Shard(0, uneven=True),)))
    assert [part.tolist() for part in parts] == [[0, 1], [2, 3], [4, 5], []]
    with pytest.raises(UsageError, match="axis 0 of size 6 does not divide by 4; mark it uneven"):
        scattered(np.arange(6), Placement(mesh, (Shard(0),)))
    with pytest.raises(UsageError, match="5 arrays given, one for each device"):
        assembled([np.ones(1)] * 5, Placement(mesh, (Shard(0),)))


def added(placement: Placement, other: Placement | None = None, kind: str = "add") -> Graph:
    b = Builder("placed")
    x = b.input("x", f32["B", 6].with_placement(placement))
    y = b.input("y", f32["B", 6].with_placement(other or placement))
    return b.finish([b.op(kind, x, y, name="z", placement=placement)])


@pytest.mark.parametrize("word", [Shard(0), Shard(1), Replicate()], ids=str)
def test_elementwise_ops_run_on_each_device(word: Any) -> None:
    placement = Placement(Mesh(("data",), (2,)), (word,))
    graph = added(placement, kind="mul")
    x = np.random.default_rng(0).standard_normal((4, 6))
    found = interpret(graph, x=x, y=scattered(x, placement))["z"]
    assert isinstance(found, list) and len(found) == 2
    np.testing.assert_array_equal(assembled(found, placement), x * x)


def test_partial_sums_stay_partial_under_linear_ops() -> None:
    placement = Placement(Mesh(("data",), (2,)), (Partial(),))
    x = np.random.default_rng(0).standard_normal((4, 6))
    halves = [x * 0.25, x * 0.75]
    found = interpret(added(placement), x=halves, y=halves)["z"]
    np.testing.assert_allclose(assembled(found, placement), 2 * x)
    with pytest.raises(GraphError, match="mul is not linear, so it may not be applied to the terms of a partial sum"):
        interpret(added(placement, kind="mul"), x=halves, y=halves)


def test_numbers_join_in() -> None:
    placement = Placement(Mesh(("data",), (2,)), (Shard(0),))
    b = Builder("scaled")
    x = b.input("x", f32["B"].with_placement(placement))
    graph = b.finish([b.op("mul", x, b.scalar(2.0, x), name="z", placement=placement)])
    found = interpret(graph, x=np.arange(4.0))["z"]
    assert [part.tolist() for part in found] == [[0.0, 2.0], [4.0, 6.0]]


def test_a_source_is_split_by_its_placement() -> None:
    placement = Placement(Mesh(("data",), (2,)), (Shard(0),))
    b = Builder("made")
    graph = b.finish([b.op("iota", shape=(4,), dtype=i64, placement=placement, name="z")])
    assert [part.tolist() for part in interpret(graph)["z"]] == [[0, 1], [2, 3]]


def test_what_has_no_meaning_is_refused() -> None:
    mesh = Mesh(("data",), (2,))
    x = np.ones((4, 6))
    with pytest.raises(GraphError, match="unless it is elementwise and all operands are placed alike"):
        interpret(added(Placement(mesh, (Shard(0),)), Placement(mesh, (Replicate(),))), x=x, y=x)
    placement = Placement(mesh, (Shard(0),))
    b = Builder("softmax")
    value = b.input("x", f32["B", 6].with_placement(placement))
    graph = b.finish([b.op("softmax", value, axis=1, placement=placement)])
    with pytest.raises(GraphError, match="softmax %softmax: softmax has no meaning on values of several devices"):
        interpret(graph, x=x)


def test_an_op_set_of_its_own_is_given_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlsysopt.graph.ops import registry

    def gathered(arrays: Any, attrs: Any) -> Any:
        (parts,) = arrays
        whole = np.concatenate(parts, attrs["axis"])
        return ([whole for _ in parts],)

    monkeypatch.setattr(registry, "_DEFINED", dict(registry._DEFINED))
    registry.define(
        registry.OpDef(
            "toy.all_gather", 1, lambda rule, types, attrs: (types[0],), gathered, {"axis": registry.AttrSpec("int")}
        )
    )
    mesh = Mesh(("data",), (2,))
    b = Builder("collective")
    x = b.input("x", f32["B", 6].with_placement(Placement(mesh, (Shard(0),))))
    graph = b.finish([b.op("toy.all_gather", x, axis=0, placement=Placement(mesh, (Replicate(),)), name="z")])
    array = np.random.default_rng(0).standard_normal((4, 6))
    found = interpret(graph, x=array)["z"]
    assert len(found) == 2 and all((part == array).all() for part in found)
    short = {"x": [array[:2], array[2:3]]}
    assert interpret(graph, inputs=short)["z"][0].shape == (3, 6)
