"""When the compiler or its surroundings fail: the rest goes on, with a line."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlsysopt.compile.codegen import row
from mlsysopt.compile.codegen.program import Program
from mlsysopt.compile.dynamic import build
from mlsysopt.compile.errors import CodegenError, CompileError
from mlsysopt.compile.options import Options
from mlsysopt.graph import Builder, Graph, boolean, dims, f32

(N,) = dims("N", max=64)


def chain() -> Graph:
    b = Builder("chain")
    x = b.input("x", f32[N, 8])
    return b.finish([b.op("exp", b.op("sin", b.op("tanh", x)), name="y")])


X = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)


def refusing(op: str, how: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = row.emit

    def emit(module: Any, isa: Any, program: Program) -> Any:
        kernel = honest(module, isa, program)
        if any(node.op == op for node in program.nodes):
            how(module, kernel.name)
        return kernel

    monkeypatch.setattr(row, "emit", emit)


def raised(module: Any, name: str) -> None:
    raise CodegenError(f"{name}: no such instruction")


def broken(module: Any, name: str) -> None:
    """Leave a block that does not end: LLVM's parser refuses the module."""
    module.globals[name].append_basic_block("open")


@pytest.mark.parametrize("how", [raised, broken])
def test_a_kernel_that_is_refused_is_split_and_the_rest_stays_native(
    how: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, own_places: Path
) -> None:
    refusing("sin", how, monkeypatch)
    with caplog.at_level(logging.WARNING):
        call = build(chain(), Options(cache=False))
    np.testing.assert_allclose(call(X), np.exp(np.sin(np.tanh(X))), rtol=1e-5)
    assert [type(step).__name__ for step in call.plan.flow.steps] == ["Call", "CallOut", "Call"]
    assert len(call.notes) == 2 and "its ops are done apart: tanh, sin, exp" in call.notes[0]
    assert "sin %sin: its kernel was refused; runs through torch" in call.explain().outside
    if how is broken:
        kept = list((own_places / "xdg_state_home" / "mlsysopt" / "refused").glob("*.ll"))
        assert kept, "the refused code is kept in the state folder"


def test_a_size_that_depends_on_data_is_refused_with_the_op() -> None:
    b = Builder("fresh")
    x = b.input("x", boolean[N])
    with pytest.raises(CompileError, match="nonzero %nonzero makes a size that depends on data"):
        build(b.finish([b.op("nonzero", x, symbol="K")]))


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to root")
def test_a_cache_that_cannot_be_written_costs_one_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    np.testing.assert_allclose(build(chain())(X), np.exp(np.sin(np.tanh(X))), rtol=1e-5)


def test_a_full_disk_costs_one_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    from mlsysopt.compile.codegen import objects

    def full(path: Path, content: bytes) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(objects, "replace_file", full)
    monkeypatch.setattr(objects, "_warned", False)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            np.testing.assert_allclose(build(chain())(X), np.exp(np.sin(np.tanh(X))), rtol=1e-5)
    assert [record.message for record in caplog.records] == [
        "compiled code is kept in memory only: [Errno 28] No space left on device"
    ]
