"""Ranges of units on several threads do what one thread does."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from llvmlite import ir

from mlsysopt.compile.codegen import objects, panel, target, threads, workshop
from mlsysopt.compile.codegen.kernel import begin_kernel, entry
from mlsysopt.compile.codegen.loops import address, i64, loop
from mlsysopt.compile.codegen.pack import pack


def _forking(kernel_name: str, module: ir.Module, isa: target.Isa) -> None:
    """A kernel `forked` whose params are those of the kernel, then units, threads, bytes of scratch and the pool."""
    one = module.globals[kernel_name]
    fork = threads.emit_fork(module, isa)
    kernel = begin_kernel(module, "forked")
    b = kernel.ir
    base = len(panel.PARAMS)
    units, count, scratch_bytes, crew = (kernel.param(base + i) for i in range(4))
    b.call(
        fork,
        [one, kernel.buffers, kernel.params, units, count, kernel.scratch, scratch_bytes,
         b.inttoptr(crew, ir.PointerType())],
    )  # fmt: skip
    b.ret_void()


def _mark(module: ir.Module) -> None:
    """A kernel that adds 1 to buffer[unit] and counts its calls in the first word of its scratch."""
    kernel = begin_kernel(module, "mark")
    b = kernel.ir
    int64 = ir.IntType(64)
    with loop(b, kernel.begin, kernel.end) as unit:
        place = address(b, kernel.buffer(0), unit.index, int64)
        b.store(b.add(b.load(place, typ=int64), i64(1)), place)
    b.store(b.add(b.load(kernel.scratch, typ=int64), i64(1)), kernel.scratch)
    b.ret_void()


@pytest.fixture(scope="module")
def marked() -> objects.Library:
    isa = target.host_isa()
    module = target.new_module("threads_mark")
    _mark(module)
    _forking("mark", module, isa)
    return workshop.build(module, isa, cached=False)


@pytest.mark.parametrize("units", [0, 1, 2, 3, 64])
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("forked", [False, True])
def test_every_unit_is_done_once(marked: objects.Library, units: int, count: int, forked: bool) -> None:
    pytest.importorskip("torch")
    done = np.zeros(64, np.int64)
    calls = np.zeros((5, 8), np.int64)
    crew = threads.pool() if forked else 0
    run = entry(marked.address("forked"))
    # 40 bytes of scratch are rounded up to one row of `calls`.
    run([done.ctypes.data], [0] * 7 + [units, count, 40, crew], 0, 1, calls.ctypes.data)
    assert done.tolist() == [1] * units + [0] * (64 - units)
    shares = max(min(units, count), 1) if crew else 1
    assert calls[:, 0].tolist() == [1] * shares + [0] * (5 - shares)


def test_torch_brings_the_pool() -> None:
    pytest.importorskip("torch")
    code = (
        "from mlsysopt.compile.codegen.threads import pool\n"
        "before = pool()\nimport torch\n"
        "import pathlib\nmaps = pathlib.Path('/proc/self/maps').read_text()\n"
        "after = pool()\nassert before == 0, before\nassert after != 0\n"
        "assert pathlib.Path('/proc/self/maps').read_text().count('libgomp') == maps.count('libgomp')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


@pytest.mark.parametrize("rows", [1, 7, 300])
def test_a_product_on_two_threads_has_the_bits_of_one(rows: int) -> None:
    pytest.importorskip("torch")  # which brings the pool
    isa = target.host_isa()
    module = target.new_module("threads_product")
    kernel = panel.gemm(module, isa, panel.Gemm(bias=True, activation="relu"))
    _forking(kernel.name, module, isa)
    library = workshop.build(module, isa)
    rng = np.random.default_rng(rows)
    k, n = 300, 200
    x = rng.standard_normal((rows, k), np.float32)
    bias = rng.standard_normal(n, np.float32)
    panels, _ = pack(rng.standard_normal((n, k), np.float32), isa)
    params = [rows, n, k, k, 0, 0, n]
    size = -(-kernel.scratch_bytes(params) // 64) * 64
    scratch = np.zeros(2 * size + 64, np.uint8)
    place = scratch.ctypes.data + -scratch.ctypes.data % 64
    results = []
    for crew, count in ((0, 1), (threads.pool(), 2), (threads.pool(), 2)):
        y = np.zeros((rows, n), np.float32)
        buffers = [x.ctypes.data, panels.ctypes.data, 0, bias.ctypes.data, 0, y.ctypes.data]
        run = entry(library.address("forked"))
        run(buffers, [*params, kernel.units(params), count, size, crew], 0, 1, place)
        results.append(y)
    assert np.abs(results[0]).max() > 1
    assert all(one.tobytes() == results[0].tobytes() for one in results)
