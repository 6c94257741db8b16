"""Native flows: formulas, offsets, choices, calls and where Python comes between."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llvmlite import ir

from mlsysopt.compile.codegen import flow as flows
from mlsysopt.compile.codegen.formulas import Formulas
from mlsysopt.compile.codegen.kernel import begin_kernel
from mlsysopt.compile.codegen.steps import NOWHERE, Call, CallOut, Choice, Condition, Flow, Place
from mlsysopt.compile.codegen.target import host_isa, new_module
from mlsysopt.compile.codegen.workshop import build
from mlsysopt.compile.errors import CodegenError
from mlsysopt.core.errors import UsageError
from mlsysopt.graph.symbolic import Dim
from mlsysopt.testing.graphs import dims_and_facts

ISA = host_isa()
S, B = Dim.of("S"), Dim.of("B")
RUN = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_void_p] * 8)
SIZES = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)


def add_number(module: ir.Module, name: str, number: float) -> str:
    """A kernel y[i] = x[i] + number + p0 for its units i; buffers (x, y), params (p0,)."""
    kernel = begin_kernel(module, name)
    b, i64, f32 = kernel.ir, ir.IntType(64), ir.FloatType()
    x, y, extra = kernel.buffer(0), kernel.buffer(1), b.sitofp(kernel.param(0), f32)
    head, body, done = (kernel.function.append_basic_block(word) for word in ("head", "body", "done"))
    start = b.block
    b.branch(head)
    b.position_at_end(head)
    i = b.phi(i64)
    i.add_incoming(kernel.begin, start)
    b.cbranch(b.icmp_signed("<", i, kernel.end), body, done)
    b.position_at_end(body)
    value = b.load(b.gep(x, [i], source_etype=f32), typ=f32)
    b.store(b.fadd(b.fadd(value, f32(number)), extra), b.gep(y, [i], source_etype=f32))
    i.add_incoming(b.add(i, i64(1)), body)
    b.branch(head)
    b.position_at_end(done)
    b.ret_void()
    return name


class Ran:
    """A flow in this process, its arena and its buffers."""

    def __init__(self, flow: Flow, kernels: dict[str, float], reports: tuple[Dim, ...] = ()) -> None:
        module = new_module("flow_test")
        for name, number in kernels.items():
            add_number(module, name, number)
        self.flow, self.emitted = flow, flows.emit(module, ISA, flow, reports)
        self.library = build(module, ISA, cached=False)
        self.reports = len(reports)

    def sizes(self, **sizes: int) -> list[int]:
        dims = (ctypes.c_int64 * max(len(sizes), 1))(*[sizes[name] for name in self.flow.symbols])
        found = (ctypes.c_int64 * (2 + self.reports))()
        SIZES(self.library.address("sizes"))(ctypes.addressof(dims), ctypes.addressof(found))
        return list(found)

    def run(self, x: np.ndarray, function: str = "run0", fork: int = 0, **sizes: int) -> np.ndarray:
        dims = (ctypes.c_int64 * max(len(sizes), 1))(*[sizes[name] for name in self.flow.symbols])
        y = np.zeros_like(x)
        arena, scratch, *_ = self.sizes(**sizes)
        memory = np.zeros(arena + scratch + 64, np.uint8)
        inputs, outputs = ((ctypes.c_void_p * 1)(one.ctypes.data) for one in (x, y))
        faults = (ctypes.c_int64 * 1)()
        call: Callable[..., int] = RUN(self.library.address(function))
        where = (dims, inputs, outputs, (ctypes.c_void_p * 1)())
        at = memory.ctypes.data
        call(*map(ctypes.addressof, where), at, at + arena, ctypes.addressof(faults), fork)
        return y


INPUT, OUTPUT, SLOT = Place("input"), Place("output"), Place("slot")


def test_steps_pass_values_through_slots() -> None:
    steps = (
        Call("one", (INPUT, SLOT), (S,), S),
        Call("two", (SLOT, Place("slot", 1)), (Dim.of(0),), S),
        Call("one", (Place("slot", 1), OUTPUT), (S // 2,), S),
    )
    ran = Ran(Flow(("S",), steps, (4 * S, 4 * S), 1, 1), {"one": 1.0, "two": 2.0})
    assert ran.emitted.functions == ("sizes", "run0")
    for size in (1, 7, 64):
        x = np.arange(size, dtype=np.float32)
        np.testing.assert_array_equal(ran.run(x, S=size), x + 4 + size + size // 2)


def test_a_call_without_units_is_skipped() -> None:
    step = Call("one", (NOWHERE, OUTPUT), (Dim.of(0),), S - 3)
    ran = Ran(Flow(("S",), (step,), (), 1, 1), {"one": 1.0})
    assert ran.run(np.ones(1, np.float32), S=3).tolist() == [0.0]


def test_an_offset_is_counted_in_bytes() -> None:
    step = Call("one", (Place("input", 0, 4 * B), OUTPUT), (Dim.of(0),), S - B)
    ran = Ran(Flow(("B", "S"), (step,), (), 1, 1), {"one": 1.0})
    assert ran.run(np.arange(5, dtype=np.float32), B=2, S=5).tolist() == [3.0, 4.0, 5.0, 0.0, 0.0]


@pytest.mark.parametrize(("size", "added"), [(1, 1.0), (8, 1.0), (9, 2.0), (16, 2.0), (17, 3.0)])
def test_the_first_case_that_holds_is_taken(size: int, added: float) -> None:
    def case(kernel: str) -> tuple[Call, ...]:
        return (Call(kernel, (INPUT, OUTPUT), (Dim.of(0),), S),)

    choice = Choice(
        (
            ((Condition(S, "<=", Dim.of(8)),), case("one")),
            ((Condition(Dim.of(8), "<", S), Condition(S, "!=", Dim.of(17))), case("two")),
            ((), case("three")),
        )
    )
    after = Call("one", (OUTPUT, OUTPUT), (Dim.of(0),), S)
    ran = Ran(Flow(("S",), (choice, after), (), 1, 1), {"one": 1.0, "two": 2.0, "three": 3.0})
    assert set(ran.run(np.zeros(size, np.float32), S=size)) == {added + 1}


def test_python_comes_between_native_functions() -> None:
    call = Call("one", (INPUT, OUTPUT), (Dim.of(0),), S)
    out = CallOut(0, (INPUT,), (OUTPUT,))
    mixed = Choice((((Condition(S, "<", B),), (out,)), ((), (call,))))
    script = flows.script_of(Flow(("B", "S"), (call, call, out, mixed, call)))
    first, between, branch, last = script
    assert isinstance(first, flows.Native) and (first.function, len(first.steps)) == ("run0", 2)
    assert between is out
    assert isinstance(branch, flows.Branch) and branch.cases[0][1] == (out,)
    assert branch.cases[1][1] == (flows.Native("run1", (call,)),)
    assert last == flows.Native("run2", (call,))


def test_an_unknown_kernel_is_named() -> None:
    with pytest.raises(CodegenError, match="the flow calls 'two', did you mean"):
        Ran(Flow((), (Call("two", (), (), Dim.of(1)),)), {"twoo": 1.0})


def test_an_unknown_symbol_is_named() -> None:
    with pytest.raises(UsageError, match="no call gives T"):
        Ran(Flow(("S",), (Call("one", (), (), Dim.of("T")),)), {"one": 1.0})


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 200), min_size=1, max_size=4), st.integers(1, 9), st.integers(1, 5))
def test_arena_and_scratch_agree_with_their_formulas(factors: list[int], size: int, threads: int) -> None:
    slots = tuple(factor * S + i for i, factor in enumerate(factors))
    steps = tuple(Call("one", (), (), S, scratch_bytes=one * 3) for one in slots)
    flow = Flow(("S",), steps, slots, threads=1)
    ran = Ran(flow, {"one": 1.0}, (S * S, S // 3))
    assert ran.sizes(S=size) == [
        flows.arena_bytes(flow).at(S=size), flows.scratch_bytes(flow).at(S=size), size * size, size // 3,
    ]  # fmt: skip
    wide = Flow(("S",), steps, slots, threads=threads)
    assert flows.scratch_bytes(wide) == flows.scratch_bytes(flow) * threads


@settings(deadline=None, max_examples=60)
@given(dims_and_facts(), st.lists(st.integers(-9, 40), min_size=3, max_size=3))
def test_native_formulas_equal_exact_ones(pair: tuple[tuple[Dim, ...], object], values: list[int]) -> None:
    wanted = [size for size in pair[0] if size.symbols <= {"B", "S", "T"}]
    module = new_module("formulas")
    i64, ptr = ir.IntType(64), ir.PointerType()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [ptr, i64, i64, i64]), "f")
    builder = ir.IRBuilder(function.append_basic_block())
    formulas = Formulas(builder, dict(zip("BST", function.args[1:], strict=True)))
    for i, size in enumerate(wanted):
        builder.store(formulas.of(size), builder.gep(function.args[0], [i64(i)], source_etype=i64))
    builder.ret_void()
    library = build(module, ISA, cached=False)
    found = (ctypes.c_int64 * max(len(wanted), 1))()
    ctypes.CFUNCTYPE(None, ctypes.c_void_p, *[ctypes.c_int64] * 3)(library.address("f"))(
        ctypes.addressof(found), *values
    )
    for size, got in zip(wanted, found, strict=False):
        try:
            exact = size.at(dict(zip("BST", values, strict=True)))
        except UsageError:
            continue  # a division by zero somewhere inside
        assert got == exact, size


@pytest.mark.parametrize(("left", "right"), [(7, 2), (-7, 2), (7, -2), (-7, -2), (6, 3), (5, 0)])
def test_division_rounds_down(left: int, right: int) -> None:
    ran = Ran(Flow(("B", "S"), ()), {}, (S // B, S % B))
    quotient, rest = ran.sizes(S=left, B=right)[2:]
    assert (quotient, rest) == ((left // right, left % right) if right else (0, 0))
