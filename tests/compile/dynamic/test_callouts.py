"""Ops without native form: through torch, through numpy, listed, or refused."""

from __future__ import annotations

import numpy as np
import pytest

from mlsysopt.compile.dynamic import build, callouts
from mlsysopt.compile.errors import CompileError, InputError
from mlsysopt.compile.options import Options
from mlsysopt.compile.variants.decision import Decision
from mlsysopt.graph import Builder, Graph, Loc, dims, f32, i64, interpret

(N,) = dims("N", max=64)
RNG = np.random.default_rng(0)


def sums() -> Graph:
    b = Builder("sums")
    x = b.input("x", f32[N, 4])
    b.loc = Loc("net.py", 7, "head")
    y = b.op("cumsum", b.op("exp", x), axis=0)
    b.loc = Loc("net.py", 9, "head")
    return b.finish([b.op("argmax", b.op("transpose", y, perm=(1, 0)), axis=0), y])


def test_they_run_through_torch_and_are_counted() -> None:
    call = build(sums(), Options(check="none"))
    x = RNG.standard_normal((5, 4)).astype(np.float32)
    places, total = call(x)
    wanted = interpret(sums(), x=x)
    np.testing.assert_array_equal(places, wanted["argmax"])
    np.testing.assert_allclose(total, wanted["cumsum"], rtol=1e-5)
    assert call.stats.call_outs == call.plan.flow.call_outs == 2


def test_all_of_them_are_refused_at_once_with_their_lines() -> None:
    with pytest.raises(CompileError) as found:
        build(sums(), Options(fallback="error"))
    assert str(found.value).splitlines() == [
        "2 ops of sums have no native form and fallback is 'error':",
        "cumsum at net.py:7 head: no native form; runs through torch",
        "argmax at net.py:9 head: no native form; runs through torch",
    ]


def test_without_torch_numpy_does_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callouts, "_torch_is_here", lambda: False)
    call = build(sums())
    x = RNG.standard_normal((3, 4)).astype(np.float32)
    np.testing.assert_array_equal(call(x)[0], interpret(sums(), x=x)["argmax"])
    assert "runs through numpy" in call.explain().outside[0]


def test_an_error_of_theirs_names_the_op() -> None:
    b = Builder("spread")
    x, at, y = b.input("x", f32[6]), b.input("at", i64[N]), b.input("y", f32[N])
    b.loc = Loc("net.py", 3)
    call = build(b.finish([b.op("scatter_add", x, at, y, axis=0)]), Options(check="none"))
    ones = np.ones(2, np.float32)
    assert call(np.zeros(6, np.float32), np.array([1, 1]), ones).tolist() == [0, 2, 0, 0, 0, 0]
    with pytest.raises((InputError, CompileError), match=r"scatter_add at net\.py:3: "):
        call(np.zeros(6, np.float32), np.array([1, 6]), ones)


def test_a_decided_library_kernel_does_the_product_where_it_is_decided_for() -> None:
    b = Builder("product")
    w, c = (
        b.constant(name, RNG.standard_normal(shape).astype(np.float32)) for name, shape in (("w", (8, 16)), ("c", 8))
    )
    x = b.input("x", f32[N, 3, 16])
    graph = b.finish([b.op("relu", b.op("linear", x, w, c, name="lin"))])
    call = build(graph, None, {"lin": Decision.of([(1, "panel.f32"), (10, "aten.nt")])})
    for rows, leaves in ((3, 0), (4, 1)):
        before = call.stats.call_outs
        given = RNG.standard_normal((rows, 3, 16)).astype(np.float32)
        np.testing.assert_allclose(call(given), interpret(graph, x=given)["relu"], rtol=1e-5, atol=1e-5)
        assert call.stats.call_outs - before == leaves


def test_a_value_that_only_python_reads_is_made_for_it() -> None:
    b = Builder("ramp")
    ramp = b.op("iota", shape=(N, Dim3), axis=0, dtype=f32)
    x = b.input("x", f32[N, Dim3])
    call = build(b.finish([b.op("cumsum", b.op("add", b.op("cumsum", ramp, axis=0), x), axis=0)]))
    found = call(np.zeros((4, 3), np.float32))
    np.testing.assert_array_equal(found[:, 0], np.cumsum(np.cumsum(np.arange(4))))


Dim3 = 3
