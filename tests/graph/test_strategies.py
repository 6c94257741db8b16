"""Generated programs: what their types say is what the interpreter makes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlsysopt.graph import DType, Facts, Graph, TensorType, bf16, f16, f32, parse, parse_type
from mlsysopt.graph.domains import Numeric, Types, walk
from mlsysopt.graph.interpreter import interpret, random_inputs
from mlsysopt.graph.symbolic import Dim
from mlsysopt.testing.graphs import dims_and_facts, programs, random_program, types

ASSIGNMENTS = 5


def shapes_agree(graph: Graph) -> int:
    """Assert that inferred types give the actual shapes at some assignments; return how many values were compared."""
    domain = Types()
    inferred = walk(graph, domain, domain.start(graph, {}), keep=True)
    seen: set[tuple[tuple[str, int], ...]] = set()
    for seed in range(ASSIGNMENTS):
        numbers = Numeric()
        actual = walk(graph, numbers, numbers.start(graph, random_inputs(graph, seed=seed)), keep=True)
        seen.add(tuple(sorted(numbers.sizes.items())))
        for value, one in inferred.items():
            sizes = {name: numbers.sizes[name] for name in one.symbols}
            array = actual[value]
            assert isinstance(array, np.ndarray)
            assert one.at(**sizes) == array.shape, f"%{value.name}"
            assert one.dtype is value.type.dtype
    assert len(seen) > 1 or not graph.symbols
    return len(inferred)


@pytest.mark.parametrize("first", range(0, 500, 100))
def test_types_of_500_programs_are_what_the_interpreter_makes(first: int) -> None:
    for seed in range(first, first + 100):
        graph = random_program(seed)
        graph.verify()
        assert parse(str(graph)) == graph
        assert shapes_agree(graph) >= len(graph.ops)


@settings(max_examples=60)
@given(programs(max_ops=8))
def test_drawn_programs_verify_and_run(graph: Graph) -> None:
    graph.verify()
    shapes_agree(graph)


def test_declared_results_have_their_declared_type() -> None:
    for seed in range(60):
        graph = random_program(seed, dtypes=[f32, bf16, f16])
        for name, array in interpret(graph, precision="declared", inputs=random_inputs(graph, seed=seed)).items():
            assert array.dtype == graph.value(name).type.dtype.numpy()


def test_programs_cover_the_op_set_and_have_branches() -> None:
    graphs = [random_program(seed, ops=15) for seed in range(150)]
    kinds = {op.kind for graph in graphs for op in graph.ops}
    assert {"conv", "max_pool", "matmul", "split", "concat", "var", "embedding", "softmax", "where", "slice"} <= kinds
    assert any(len(users) > 1 for graph in graphs for users in graph.users.values())
    assert any(len(op.results) > 1 for graph in graphs for op in graph.ops)
    assert sum(len(graph.symbols) > 1 for graph in graphs) > 50


def test_flags_leave_things_out() -> None:
    for seed in range(30):
        graph = random_program(
            seed, ops=10, dtypes=[f32], reductions=False, views=False, contractions=False, several_results=False
        )
        assert not {op.kind for op in graph.ops} & {"sum", "reshape", "conv", "split", "softmax", "matmul"}
        assert all(value.type.dtype is f32 for value in graph.inputs)


def test_a_seed_gives_one_program() -> None:
    assert str(random_program(11, ops=20)) == str(random_program(11, ops=20)) != str(random_program(12, ops=20))


@given(types(plain=False))
def test_types_print_and_parse(one: TensorType) -> None:
    assert isinstance(one.dtype, DType)
    assert parse_type(str(one)) == one


@given(dims_and_facts(), st.integers(0, 1000))
def test_facts_can_hold(drawn: tuple[tuple[Dim, ...], Facts], seed: int) -> None:
    sizes, facts = drawn
    rng = np.random.default_rng(seed)
    for name in facts.symbols:
        low, high = facts.range(name)
        assert low is not None and high is not None and low <= high
        step = facts.divisor(name)
        number = int(rng.integers(-(-low // step), high // step + 1)) * step
        assert not facts.check({name: number})
    assert all(size.symbols <= set(facts.symbols) for size in sizes)
