"""The whole pipeline: what goes in, what comes out, and the name that is a module and a function."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import mlsysopt as mo
from mlsysopt.compile import Options
from mlsysopt.core.errors import UsageError
from mlsysopt.graph import dim, f32, from_torch, save, to_onnx


@pytest.fixture(scope="module")
def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 40), nn.GELU(), nn.LayerNorm(40), nn.Linear(40, 7)).eval()


TYPES = {"x": f32[dim("N", high=32), 24]}


def test_the_name_is_a_module_and_a_function(module: nn.Module) -> None:
    run = mo.compile(module, TYPES)
    x = torch.randn(5, 24)
    with torch.inference_mode():
        torch.testing.assert_close(run(x), module(x), rtol=1e-5, atol=1e-5)
    assert mo.compile.Executable is type(run)
    assert set(run.stages) >= {"import", "canonicalize", "select"}
    assert run.stats.recompiles == 0


@pytest.mark.parametrize("ending", [".onnx", ".mlg", ".pt2"])
def test_files_give_the_same_as_the_module(module: nn.Module, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"net{ending}"
    graph = from_torch(module, TYPES)
    if ending == ".onnx":
        to_onnx(graph, path)
    elif ending == ".mlg":
        save(graph, path)
    else:
        rows = torch.export.Dim("N", min=2, max=32)
        torch.export.save(torch.export.export(module, (torch.randn(3, 24),), dynamic_shapes=({0: rows},)), path)
    x = np.random.default_rng(0).normal(size=(6, 24)).astype(np.float32)
    with torch.inference_mode():
        wanted = module(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(mo.compile(path)(x), wanted, rtol=1e-5, atol=1e-5)


def test_options_are_one_object_or_words(module: nn.Module) -> None:
    run = mo.compile(module, TYPES, options=Options(check="none"), isa="baseline")
    assert (run.options.check, run.options.isa) == ("none", "baseline")
    x = torch.randn(3, 24)
    with torch.inference_mode():
        torch.testing.assert_close(run(x), module(x), rtol=1e-5, atol=1e-5)


def test_effort_max_admits_every_variant(module: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlsysopt.compile.pipeline._TIMING_S", 0.2)
    run = mo.compile(module, TYPES, effort="max")
    x = torch.randn(9, 24)
    with torch.inference_mode():
        torch.testing.assert_close(run(x), module(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("precision", "form"), [("bf16", "bf16"), ("int8w", "int8")])
def test_lower_precision_is_used_and_judged(precision: str, form: str) -> None:
    # A wide product of few rows: bytes are its limit, which narrow weights are for.
    wide = nn.Sequential(nn.Linear(256, 512), nn.GELU(), nn.Linear(512, 64)).eval()
    types = {"x": f32[dim("N", high=2), 256]}
    run = mo.compile(wide, types, precision=precision, error=0.1)
    assert f"packed {form}" in str(run.plan)
    assert not run.plan.outsides
    x = torch.randn(2, 256)
    with torch.inference_mode():
        wanted = wide(x)
    error = float((run(x) - wanted).abs().max() / wanted.square().mean().sqrt())
    assert 1e-5 < error < 0.1
    with pytest.raises(mo.compile.NumericsError):
        mo.compile(wide, types, precision=precision, error=1e-7)


def test_what_is_missing_or_unknown_is_said(module: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs the types of its inputs"):
        mo.compile(module)
    with pytest.raises(UsageError, match=r"unknown option 'thread'; did you mean threads\?"):
        mo.compile(module, TYPES, thread=2)
    with pytest.raises(UsageError, match="precision 'f16'"):
        mo.compile(module, TYPES, precision="f16")
    with pytest.raises(UsageError, match="files end with"):
        mo.compile(tmp_path / "net.txt")
    for wrong, words in (({"threads": 0}, "threads"), ({"error": 0.0}, "error"), ({"check": "sample:0"}, "sample:N")):
        with pytest.raises(UsageError, match=words):
            Options(**wrong)


def test_importing_loads_nothing_heavy() -> None:
    code = (
        "import sys, mlsysopt; from mlsysopt import compile; compile.linear; compile.dynamic; compile.Options\n"
        "print([m for m in ('torch', 'numpy', 'llvmlite', 'onnx', 'sqlalchemy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
