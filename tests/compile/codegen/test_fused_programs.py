"""Generated programs: any nodes, layouts, passes and schedules equal their meaning, under every instruction set."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlsysopt.compile.codegen.program import REDUCTIONS, Param, Program
from mlsysopt.compile.codegen.target import host_isa
from tests.compile.codegen.fused import Array, Compiled, Fused

UNARY = ("tanh", "sigmoid", "neg", "abs", "sin", "relu")
BINARY = ("add", "sub", "mul", "maximum", "minimum")


def layout(draw: Any, sizes: tuple[int, ...], whole: bool) -> tuple[tuple[int, ...], int]:
    """Strides of a dense tensor with its axes in any order, some broadcast, and its elements."""
    order = draw(st.permutations(range(len(sizes))))
    strides, step = [0] * len(sizes), 1
    for loop in order:
        if whole or draw(st.booleans()):
            strides[loop] = step
            step *= sizes[loop]
    return tuple(strides), step


@st.composite
def programs(draw: Any) -> tuple[Program, list[Array], list[int]]:
    extents = st.one_of(st.integers(0, 4), st.sampled_from([7, 8, 17]))
    parallel = tuple(draw(st.lists(extents, max_size=2)))
    reduced = tuple(draw(st.lists(st.integers(0, 4), max_size=2 if len(parallel) < 2 else 1)))
    inner = draw(st.one_of(st.integers(0, 40), st.sampled_from([64, 100])))
    schedule = draw(st.sampled_from(["row", "row", "column"]))
    sizes = (*parallel, *reduced, inner)
    params = list(sizes)
    symbolic = draw(st.booleans())
    loops: list[Any] = [Param(i) for i in range(len(sizes))] if symbolic else list(sizes)
    f = Fused(tuple(loops[: len(parallel)]), loops[-1], tuple(loops[len(parallel) : -1]), schedule)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    buffers: list[Array] = []

    def maybe(stride: int) -> Any:
        """A stride as a number or, now and then, as a param."""
        if stride and draw(st.integers(0, 3)) == 0:
            params.append(stride)
            return Param(len(params) - 1)
        return stride

    for _ in range(draw(st.integers(1, 4))):
        strides, elements = layout(draw, sizes, False)
        f.load(tuple(maybe(one) for one in strides))
        buffers.append(rng.normal(size=elements).astype(np.float32))
    nodes = list(range(len(f.nodes)))
    if draw(st.booleans()):
        nodes.append(f.node("index", value=len(sizes) - 1))
    for _ in range(draw(st.integers(1, 3))):
        for _ in range(draw(st.integers(1, 4))):
            pick = st.sampled_from(nodes)
            kind = draw(st.sampled_from((*UNARY, *BINARY, "where", "div")))
            if kind in UNARY:
                nodes.append(f.node(kind, draw(pick)))
            elif kind == "where":
                below = f.node("lt", draw(pick), draw(pick), dtype="bool")
                nodes.append(f.node("where", below, draw(pick), draw(pick)))
            elif kind == "div":
                # A divisor away from 0, and bounded results.
                size = f.node("add", f.node("abs", draw(pick)), f.const(1.0))
                nodes.append(f.node("div", draw(pick), size))
            else:
                nodes.append(f.node(kind, draw(pick), draw(pick)))
        # Reductions of a bounded function: sums stay comparable to the reference.
        args = [f.node("tanh", nodes[-1]) for _ in range(draw(st.integers(0, 2)))]
        found = [f.node(draw(st.sampled_from(["sum", "max", "min"])), arg) for arg in args]
        keeps = [one for one in nodes if f.nodes[one].op not in REDUCTIONS and draw(st.integers(0, 4)) == 0]
        f.sweep(found, keeps=keeps)
        nodes += [f.node("tanh", one) for one in found]
    stores = []
    for node in {nodes[-1], draw(st.sampled_from(nodes))}:
        strides, elements = layout(draw, sizes, True)
        stores.append(f.store(f.node("tanh", node), strides))
        buffers.append(np.full(elements, 9, np.float32))
    f.sweep(stores=stores)
    return f.program(len(params)), buffers, params


@given(programs(), st.sampled_from(["avx2", "avx512", "baseline"]), st.lists(st.integers(0, 1000), max_size=3))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_generated_programs(case: tuple[Program, list[Array], list[int]], cap: str, cuts: list[int]) -> None:
    program, buffers, params = case
    if program.schedule == "row" and math.prod(params[: program.loops]) > 100_000:
        return
    Compiled([program], host_isa(cap)).check(0, program, buffers, params, rtol=2e-4, atol=2e-5, cuts=cuts)
