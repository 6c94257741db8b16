"""The order search against every order there is, its proofs, and programs too large to try them all."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import pytest

from mlsysopt.core.errors import UsageError
from mlsysopt.graph import Graph, memory, parse
from mlsysopt.graph.memory.buffers import Buffers, buffers_of
from mlsysopt.graph.memory.liveness import check_order, walk
from tests.graph.memory.nets import branchy, chain_of_blocks, wide


def every_order(buffers: Buffers[int]) -> Iterator[list[int]]:
    """Yield all orders in which the ops can run, lazy ones wherever they may stand."""
    count = len(buffers.needs)

    def extend(done: list[int]) -> Iterator[list[int]]:
        if len(done) == count:
            yield done
            return
        for op in range(count):
            if op not in done and all(need in done for need in buffers.needs[op]):
                yield from extend([*done, op])

    return extend([])


def brute_force(graph: Graph, counted: memory.Accounting) -> int:
    buffers = buffers_of(graph, {}, counted)
    return min(max(walk(buffers, order).live) for order in every_order(buffers))


@pytest.mark.slow
def test_equals_brute_force_over_all_orders() -> None:
    accountings = [
        memory.Accounting(),
        memory.Accounting(inputs=False, outputs=False),
        memory.Accounting(in_place=False),
        memory.Accounting(weights=True),
    ]
    tried = 0
    for seed in itertools.count():
        graph = branchy(seed, 4 + seed % 6)
        if not 2 <= len(graph.ops) <= 12:
            continue
        buffers = buffers_of(graph, {}, memory.Accounting())
        if sum(1 for _ in itertools.islice(every_order(buffers), 3001)) > 3000:
            continue
        counted = accountings[seed % len(accountings)]
        order = memory.best_order(graph, counted)
        assert order.proof == "exact"
        assert order.peak_bytes == brute_force(graph, counted), (seed, str(graph))
        assert memory.profile(graph, order.ops, counted).peak_bytes == order.peak_bytes
        tried += 1
        if tried == 500:
            return


def test_a_thousand_programs_of_two_dozen_ops_are_proven() -> None:
    started = time.process_time()
    for seed in range(1000):
        graph = branchy(1000 + seed, 24)
        order = memory.best_order(graph)
        assert order.proof == "exact"
        assert order.lower_bytes == order.peak_bytes <= order.default_bytes
    # No speed claim, but an exponential search would be noticed.
    assert time.process_time() - started < 60


def test_a_chain_of_blocks_is_cut_and_solved_exactly() -> None:
    order = memory.best_order(chain_of_blocks(200))
    assert order.proof == "exact"
    assert order.peak_bytes == memory.best_order(chain_of_blocks(2)).peak_bytes


def test_out_of_time_states_a_bound_that_holds() -> None:
    graph = wide(9)
    exact = memory.best_order(graph)
    hurried = memory.best_order(graph, seconds=0.0)
    assert exact.proof == "exact"
    assert hurried.lower_bytes <= exact.peak_bytes <= hurried.peak_bytes
    assert "not proven" in str(hurried) or hurried.proof == "exact"


def test_a_result_takes_the_bytes_of_an_operand_that_dies() -> None:
    text = "graph @f(%x: f32[100]) { %y = neg(%x) : f32[100] %z = exp(%y) : f32[100] return %z }"
    assert memory.best_order(parse(text)).peak_bytes == 400
    assert memory.best_order(parse(text), memory.Accounting(in_place=False)).peak_bytes == 800
    # The caller's input is not overwritten, the temporary is.
    assert memory.best_order(parse(text), memory.Accounting(inputs=False)).peak_bytes == 400


def test_views_and_scalars_cost_nothing() -> None:
    text = """graph @f(%x: f32[10, 10]) {
      %v = reshape(%x) {shape = [100]} : f32[100]
      %c = full() {dtype = f32, shape = [], value = 2.0} : f32[]
      %y = mul(%v, %c) : f32[100]
      return %y
    }"""
    order = memory.best_order(parse(text))
    assert order.peak_bytes == 404
    assert order.ops == (0, 1, 2)


def test_an_unused_result_counts_while_its_op_runs() -> None:
    text = """graph @f(%x: f32[10]) {
      %a, %b = split(%x) {axis = 0, sizes = [4, 6]} : f32[4], f32[6]
      return %a
    }"""
    assert memory.best_order(parse(text)).peak_bytes == 80


def test_an_output_that_is_an_input_and_an_empty_program() -> None:
    assert memory.best_order(parse("graph @f(%x: f32[10]) { return %x }")).peak_bytes == 40
    assert memory.best_order(parse("graph @f(%x: f32[10]) { return }")).peak_bytes == 0


def test_orders_are_checked() -> None:
    graph = parse("graph @f(%x: f32[4]) { %y = neg(%x) : f32[4] %z = neg(%y) : f32[4] return %z }")
    with pytest.raises(UsageError, match="each of the 2 ops once"):
        memory.profile(graph, [0])
    with pytest.raises(UsageError, match="before op 0"):
        check_order(buffers_of(graph, {}, memory.Accounting()), [1, 0])
