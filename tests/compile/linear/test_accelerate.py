"""Tables for the products of a program."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlsysopt.compile.linear import decisions
from mlsysopt.compile.linear.accelerate import site_of
from mlsysopt.graph import Builder, Graph, f32
from mlsysopt.graph.symbolic import Dim, dims


def program(rows: Any = "S") -> Graph:
    b = Builder("net")
    x = b.input("x", f32[rows, 256])
    w, v = (b.constant(name, np.ones((256, 256), np.float32)) for name in ("w", "v"))
    bias = b.constant("bias", np.ones(256, np.float32))
    first = b.op("linear", x, w, bias, name="first")
    second = b.op("matmul", first, v, name="second")
    third = b.op("matmul", second, v, transpose_b=True, name="third")
    scores = b.op("matmul", third, first, transpose_b=True, name="scores")
    return b.finish([scores])


def test_products_of_constants_get_a_table(panels: Any) -> None:
    found = decisions(program(), prices=panels)
    assert list(found) == ["first", "second", "third"]
    assert {one.variants for one in found.values()} == {("panel.f32",)}


def test_all_variants_compete_where_python_may_run(library: Any) -> None:
    assert {one.variants for one in decisions(program(), prices=library).values()} == {("panel.f32",)}
    found = decisions(program(), prices=library, native=False)
    assert {one.variants for one in found.values()} == {("onednn.packed",)}


def test_sites_are_read_from_the_ops() -> None:
    graph = program()
    sites = {op.name: site_of(op, graph) for op in graph.ops}
    assert sites["scores"] is None
    assert [str(sites[name]) for name in ("first", "second")] == [
        "linear K=256 M=S N=256 f32 bias",
        "linear K=256 M=S N=256 f32 plain",
    ]


def test_rows_are_the_product_of_leading_sizes() -> None:
    b = Builder("net")
    x = b.input("x", f32["B", "S", 64])
    y = b.op("linear", x, b.constant("w", np.ones((32, 64), np.float32)), name="y")
    graph = b.finish([y])
    site = site_of(graph.ops[0], graph)
    assert site is not None and site.size("M") == Dim.of("B") * Dim.of("S")
    assert (site.number("N"), site.number("K")) == (32, 64)


def test_declared_sizes_decide_which_rows_are_looked_at(panels: Any) -> None:
    asked: list[int] = []
    quote = panels.quote
    panels.quote = lambda site, variant: (asked.append(site.number("M")), quote(site, variant))[1]
    (size,) = dims("S", max=40, likely={"S": [10]})
    decisions(program(size), prices=panels, native=False)
    assert max(asked) == 40 and 10 in asked
    asked.clear()
    decisions(program(7), prices=panels, native=False)
    assert set(asked) == {7}


def test_what_no_variant_does_has_no_table(panels: Any) -> None:
    from mlsysopt.graph import f64

    b = Builder("net")
    y = b.op("linear", b.input("x", f64["S", 64]), b.constant("w", np.ones((32, 64))), name="y")
    assert decisions(b.finish([y]), prices=panels) == {}


def test_a_program_without_products(panels: Any) -> None:
    b = Builder("net")
    x = b.input("x", f32["S", 4])
    assert decisions(b.finish([b.op("add", x, x)]), prices=panels) == {}
