"""What ops say about sizes: learned in both directions, with reasons; contradictions name both origins."""

from __future__ import annotations

import pytest

from mlsysopt.graph import Answer, Builder, Dim, Origin, eq, f32, parse, propagate
from mlsysopt.graph.errors import FactsError, GraphError


def test_a_later_op_makes_earlier_sizes_equal() -> None:
    text = """graph @f(%x: f32[S, 8], %m: f32[T, 8]) {
      %a = exp(%x) : f32[S, 8]
      %b = exp(%m) : f32[T, 8]
      %c = concat(%a, %a) {axis = 1} : f32[S, 16]
      %d = concat(%b, %b) {axis = 1} : f32[T, 16]
      %e = matmul(%c, %d) {transpose_b = true} : f32[S, T]
      %f = matmul(%e, %b) : f32[S, 8]
      %g = sub(%f, %b) : f32[S, 8]  // bert.py:214
      return %g
    }"""
    found = propagate(parse(text))
    facts = found.graph.facts
    assert facts.eq(Dim.of("S"), Dim.of("T")) is Answer.YES
    assert "bert.py:214" in str(facts.why(eq(Dim.of("S"), Dim.of("T"))))
    assert found.graph.input("m").type == found.graph.input("x").type, "equal sizes are written alike"
    found.graph.verify()


def test_splits_reshapes_and_contractions_teach() -> None:
    text = """graph @f(%x: f32[N], %y: f32[K, M]) {
      %r = reshape(%x) {shape = [A, 4]} : f32[A, 4]
      %p = matmul(%r, %y) : f32[A, M]
      %s, %t = split(%p) {axis = 1, sizes = [3, 5]} : f32[A, 3], f32[A, 5]
      return %s, %t
    }"""
    facts = propagate(parse(text)).graph.facts
    for left, right in (("N", "4*A"), ("K", "4"), ("M", "8")):
        assert facts.eq(Dim.parse(left), Dim.parse(right)) is Answer.YES, (left, right)


def test_an_undecided_broadcast_is_recorded_and_assumed() -> None:
    graph = parse("graph @f(%x: f32[A], %y: f32[B]) { %z = add(%x, %y) : f32[A] return %z }")
    found = propagate(graph)
    assert [(str(one.left), str(one.right)) for one in found.questions] == [("A", "B")]
    assert found.graph.facts.eq(Dim.of("A"), Dim.of("B")) is Answer.YES
    first = Builder("f")
    first.op("add", first.input("x", f32["A"]), first.input("y", f32["B"]))
    assert [(str(one.left), str(one.right)) for one in first.questions] == [("A", "B")]


def test_sizes_that_cannot_be_one_ask_nothing() -> None:
    graph = parse("graph @f(%x: f32[A], %y: f32[B]) where A in 2..9, B in 2..9 { %z = add(%x, %y) : f32[A] return %z }")
    assert propagate(graph).questions == ()


def test_a_contradiction_names_both_origins() -> None:
    text = """graph @f(%x: f32[S], %y: f32[T]) where S in 2..9, T in 2..9 {
      %a = concat(%x, %y) {axis = 0} : f32[S + T]
      %b = sub(%x, %y) : f32[S]  // one.py:3
      %c = reshape(%a) {shape = [3, S]} : f32[3, S]  // two.py:4
      return %b, %c
    }"""
    with pytest.raises(GraphError) as error:
        propagate(parse(text))
    assert "two.py:4" in str(error.value) or "one.py:3" in str(error.value)
    facts = parse(text).facts.with_equal(Dim.of("S"), 4, Origin("user"))
    with pytest.raises(FactsError, match="mask") as clash:
        facts.with_equal(Dim.of("S"), 5, Origin("mask"))
    assert "user" in str(clash.value)


def test_a_second_run_learns_nothing() -> None:
    text = "graph @f(%x: f32[S], %m: f32[T]) { %c = sub(%x, %m) : f32[S] return %c }"
    once = propagate(parse(text)).graph
    assert propagate(once).graph == once
