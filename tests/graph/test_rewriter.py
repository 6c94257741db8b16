"""Edits: what is replaced, what stays, what is dead afterwards, and what is refused."""

from __future__ import annotations

import pytest

from mlsysopt.core.errors import UsageError
from mlsysopt.graph import Rewriter, parse

TEXT = """graph @f(%x: f32[B, 4]) {
  %w = const @weight : f32[4] blake2=00
  %a = add(%x, %w) : f32[B, 4]
  %b = neg(%a) : f32[B, 4]
  %c = exp(%b) : f32[B, 4]
  %d = mul(%c, %a) : f32[B, 4]
  return %d, %b
}"""


def test_readers_follow_and_what_nobody_reads_goes() -> None:
    graph = parse(TEXT)
    edit = Rewriter(graph)
    edit.replace(graph.value("a"), graph.input("x"))
    done = edit.finish()
    assert [op.kind for op in done.graph.ops] == ["neg", "exp", "mul"]
    assert done.graph.constants == ()
    assert done.values[graph.value("a")] == graph.input("x")
    assert [op.kind for op in graph.ops] == ["add", "neg", "exp", "mul"], "the old program is as it was"
    done.graph.verify()


def test_new_ops_stand_where_the_old_one_stood() -> None:
    graph = parse(TEXT)
    edit = Rewriter(graph)
    c = graph.value("c")
    place = graph.producer(c)
    assert place is not None
    half = edit.make(place, "tanh", graph.value("b"))
    edit.replace(c, edit.make(place, "sigmoid", half, name="gate"))
    done = edit.finish().graph
    assert [op.kind for op in done.ops] == ["add", "neg", "tanh", "sigmoid", "mul"]
    assert done.value("gate") == done.ops[-1].operands[0]
    done.verify()


def test_chains_of_replacements_end_at_the_last() -> None:
    graph = parse(TEXT)
    edit = Rewriter(graph)
    edit.replace(graph.value("c"), graph.value("b"))
    edit.replace(graph.value("b"), graph.value("a"))
    done = edit.finish().graph
    assert [op.kind for op in done.ops] == ["add", "mul"]
    assert [value.name for value in done.outputs] == ["d", "a"]


def test_cycles_and_other_types_are_refused() -> None:
    graph = parse(TEXT)
    edit = Rewriter(graph)
    edit.replace(graph.value("c"), graph.value("b"))
    with pytest.raises(UsageError, match="which is replaced by it"):
        edit.replace(graph.value("b"), graph.value("c"))
    with pytest.raises(UsageError, match="cannot be replaced"):
        edit.replace(graph.value("a"), graph.constants[0].value)


def test_regions_follow_the_edits_around_them() -> None:
    text = """graph @f(%x: f32[4]) {
      %a = neg(%x) : f32[4]
      %y = exp(%x) do (graph @body(%i: f32[4]) {
        %b = add(%i, %a) : f32[4]
        return %b
      }) : f32[4]
      return %y
    }"""
    graph = parse(text.replace("add(%i, %a)", "neg(%i)"))
    inner = graph.ops[1].regions[0].ops[0]
    outer = graph.value("a")
    from dataclasses import replace

    body = replace(graph.ops[1].regions[0], ops=(replace(inner, kind="add", operands=(inner.operands[0], outer)),))
    graph = replace(graph, ops=(graph.ops[0], replace(graph.ops[1], regions=(body,))))
    edit = Rewriter(graph)
    edit.replace(outer, graph.input("x"))
    done = edit.finish().graph
    assert [op.kind for op in done.ops] == ["exp"]
    assert done.ops[0].regions[0].ops[0].operands[1] == graph.input("x")


def test_outputs_may_be_chosen_anew() -> None:
    graph = parse(TEXT)
    edit = Rewriter(graph)
    edit.return_values([graph.value("a")])
    assert [op.kind for op in edit.finish().graph.ops] == ["add"]
