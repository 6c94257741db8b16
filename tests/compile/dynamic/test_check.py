"""Executables against the meaning of their program, and what becomes of one that is wrong."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from mlsysopt.compile.codegen import row
from mlsysopt.compile.codegen.program import Node, Program
from mlsysopt.compile.dynamic import build
from mlsysopt.compile.dynamic.check import Trials, check, check_sizes, tolerance
from mlsysopt.compile.errors import NumericsError
from mlsysopt.compile.options import Options
from mlsysopt.graph import Builder, Graph, bf16, dims, f32, f64, parse
from mlsysopt.testing.graphs import random_program

B, S = dims("B", "S", max=(64, 512))


def chain() -> Graph:
    b = Builder("chain")
    return b.finish([b.op("exp", b.op("neg", b.input("x", f32[B, S])), name="y")])


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """An emitter that takes every exp for an expm1."""
    honest = row.emit

    def emit(module: Any, isa: Any, program: Program) -> Any:
        nodes = tuple(
            Node("expm1", node.args, node.dtype, node.value, node.access) if node.op == "exp" else node
            for node in program.nodes
        )
        from dataclasses import replace

        return honest(module, isa, replace(program, nodes=nodes))

    monkeypatch.setattr(row, "emit", emit)


def test_sizes_are_the_smallest_primes_and_typical_ones_that_can_be_afforded() -> None:
    found = check_sizes(
        parse("graph @f(%x: f32[B, S]) where B in 2..64, S in 1..512 { %y = exp(%x) : f32[B, S] return %y }")
    )
    assert found[0] == {"B": 2, "S": 1}
    assert found[1] == {"B": 7, "S": 5}
    large = Builder("large")
    w = large.constant("w", np.zeros((4096, 4096), np.float32))
    graph = large.finish([large.op("linear", large.input("x", f32["N", 4096]), w)])
    assert check_sizes(graph)[2]["N"] <= 16


def test_sizes_meet_the_facts() -> None:
    graph = parse(
        "graph @f(%x: f32[B, S], %y: f32[B, T]) where T = S, S in 1..64 step 8 "
        "{ %z = add(%x, %y) : f32[B, S] return %z }"
    )
    for sizes in check_sizes(graph):
        assert graph.facts.check(sizes) == []


def test_tolerances_follow_the_narrowest_type_and_the_precision() -> None:
    def of(element: Any, precision: str = "f32") -> float:
        b = Builder("t")
        return tolerance(b.finish([b.op("exp", b.input("x", element["N"]))]), Options(precision=precision))

    assert of(f64) < of(f32) < of(bf16)
    assert of(f32, "int8w") > of(f32, "bf16") > of(f32)


def test_a_wrong_kernel_is_undone_and_named(wrong: None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        call = build(chain())
    assert call.plan.flow.call_outs > 0
    assert "undone after its check: fused kernels: %y at B=1, S=1: error" in call.notes[0]
    assert "first at neg, exp" in call.notes[0]
    x = np.ones((2, 3), np.float32)
    np.testing.assert_allclose(call(x), np.exp(-x), rtol=1e-6)
    assert any("undone" in record.message for record in caplog.records)


def test_under_strict_it_is_an_error_with_op_error_and_tolerance(wrong: None) -> None:
    with pytest.raises(
        NumericsError, match=r"chain: fused kernels: %y at B=1, S=1: error .*, allowed 0\.0001, first at"
    ):
        build(chain(), Options(strict=True))


def test_without_a_check_nobody_looks(wrong: None) -> None:
    call = build(chain(), Options(check="none"))
    assert check(call) is not None


def test_a_sample_of_the_calls_is_checked(wrong: None) -> None:
    call = build(chain(), Options(check="none"))
    call._sampled = 3
    x = np.ones((2, 7), np.float32)
    call(x)
    call(x)
    with pytest.raises(NumericsError, match=r"%y at B=2, S=7: .*neg, exp .* is the first step that is wrong"):
        call(x)


def test_a_sample_of_right_calls_says_nothing() -> None:
    call = build(chain(), Options(check="sample:2"))
    for _ in range(4):
        call(np.ones((2, 2), np.float32))
    assert Options(check="sample:2").sampled == 2


def test_an_output_further_off_than_the_user_allows_is_refused() -> None:
    b = Builder("coarse")
    rng = np.random.default_rng(0)
    w = b.constant("w", rng.standard_normal((32, 64)).astype(np.float32))
    graph = b.finish([b.op("linear", b.input("x", f32[B, 64]), w)])
    build(graph, Options(precision="int8w", error=0.05))
    with pytest.raises(NumericsError, match=r"error .*, allowed 1e-05"):
        build(graph, Options(precision="int8w", error=1e-5))


@pytest.mark.parametrize("seed", range(24))
def test_random_programs_equal_their_meaning_at_five_sizes(seed: int) -> None:
    graph = random_program(1000 + seed, ops=10)
    call = build(graph, Options(check="none"))
    assert check(call) is None
    symbols = sorted({name for value in graph.inputs for name in value.type.symbols})
    more = [{name: size for name in symbols if not graph.facts.check({name: size})} for size in (2, 31)]
    for sizes in more:
        fitting = [one for one in check_sizes(graph) if all(one.get(name) == size for name, size in sizes.items())]
        assert check(call, Trials(call.source, fitting)) is None
