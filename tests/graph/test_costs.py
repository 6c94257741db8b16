from __future__ import annotations

import numpy as np
import pytest

from mlsysopt.core.errors import UsageError
from mlsysopt.graph import Builder, Dim, Graph, cost, f32, i64
from mlsysopt.graph.ops.registry import kinds, lookup
from mlsysopt.testing.graphs import random_program


def layer() -> Graph:
    B, S = Dim.of("B"), Dim.of("S")
    b = Builder("layer")
    x, ids = b.input("x", f32[B, S, 8]), b.input("ids", i64[B, S])
    table, w = b.constant("table", np.zeros((100, 8), np.float32)), b.constant("w", np.zeros((16, 8), np.float32))
    y = b.op("add", x, b.op("embedding", table, ids))
    flat = b.op("reshape", y, shape=(B * S, 8))
    return b.finish([b.op("softmax", b.op("linear", flat, w), axis=1)])


def test_formulas() -> None:
    table = cost(layer())
    tokens = Dim.of("B") * Dim.of("S")
    assert [row.op.kind for row in table.rows] == ["embedding", "add", "reshape", "linear", "softmax"]
    assert [row.flops for row in table.rows] == [0, tokens * 8, 0, tokens * 256, tokens * 80]
    assert table.flops == tokens * (8 + 256 + 80)
    embedding, add, reshape, linear, _ = table.rows
    assert embedding.read_bytes == tokens * (32 + 8)  # rows that are looked up and ids, not the table
    assert add.read_bytes == tokens * 64 and add.write_bytes == tokens * 32
    assert reshape.read_bytes == reshape.write_bytes == 0  # a view
    assert linear.read_bytes == tokens * 32 + 512


def test_numbers() -> None:
    total = cost(layer()).at(B=2, S=3)
    assert total.flops == 6 * 344 == sum(row.flops for row in total.rows)
    assert total.bytes == total.read_bytes + total.write_bytes
    assert [row.name for row in total.rows][:2] == ["embedding", "add"]
    with pytest.raises(UsageError, match="needs a value for S"):
        cost(layer()).at(B=2)


def test_by_kind() -> None:
    kind = cost(layer()).by_kind()
    assert list(kind) == ["add", "embedding", "linear", "reshape", "softmax"]
    assert sum((one.flops for one in kind.values()), Dim.of(0)) == cost(layer()).flops


def test_an_operand_that_is_read_twice_counts_once() -> None:
    b = Builder("square")
    x = b.input("x", f32[10])
    assert cost(b.finish([b.op("mul", x, x)])).read_bytes == 40


def test_costs_of_generated_programs_are_not_negative() -> None:
    for seed in range(100):
        graph = random_program(seed)
        sizes = {name: max(graph.facts.range(name)[0] or 1, 2) for name in graph.symbols}
        total = cost(graph).at(**sizes)
        assert all(row.flops >= 0 and row.read_bytes >= 0 and row.write_bytes >= 0 for row in total.rows)
        assert total.write_bytes > 0 or all(row.kind == "reshape" for row in total.rows)


def test_every_kind_says_what_it_is() -> None:
    for kind in kinds():
        assert lookup(kind).about, kind
