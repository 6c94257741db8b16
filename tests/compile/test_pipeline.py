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
from mlsysopt.graph import Builder, boolean, dim, f32, from_torch, i64, interpret, save, to_onnx


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


class Attended(nn.Module):
    def forward(self, q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(q, k, k, attn_mask=mask)


@pytest.mark.parametrize("length", [1, 3, 70])
@pytest.mark.parametrize("added", [False, True])
def test_a_query_whose_mask_leaves_no_key_gets_zeros_as_in_torch(length: int, added: bool) -> None:
    """A padded batch: of its second sentence nothing is left, of its first a part."""
    L = dim("L", high=80)
    kind = f32 if added else boolean
    run = mo.compile(Attended().eval(), {"q": f32[2, 2, L, 16], "k": f32[2, 2, L, 16], "mask": kind[2, 1, 1, L]})
    q, k = torch.randn(2, 2, 2, length, 16, generator=torch.Generator().manual_seed(0))
    keeps = torch.ones(2, 1, 1, length, dtype=torch.bool)
    keeps[1] = keeps[0, ..., 1:2] = False
    mask = torch.zeros(keeps.shape).masked_fill(~keeps, -torch.inf) if added else keeps
    found = run(q, k, mask)
    assert not found[1].any() and found[0].any()
    torch.testing.assert_close(found, Attended()(q, k, mask), rtol=1e-5, atol=1e-5)


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


class Step(nn.Module):
    """A classifier and its loss: gradients read values in rows and in columns."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 16), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(self.second(torch.tanh(self.first(x))), y)


def test_a_training_step_is_a_program_too() -> None:
    torch.manual_seed(0)
    rows = dim("N", high=64)
    graph = from_torch(Step(), {"x": f32[rows, 12], "y": i64[rows]}, train=True)
    run = mo.compile(graph, strict=True)
    assert run.notes == ()
    assert not run.plan.outsides
    rng = np.random.default_rng(0)
    for size in (1, 7, 64):
        given = {"x": rng.normal(size=(size, 12)).astype(np.float32), "y": rng.integers(0, 5, size)}
        wanted = interpret(graph, inputs=given)
        for found, name in zip(run(**given), wanted, strict=True):
            np.testing.assert_allclose(found, wanted[name], rtol=1e-4, atol=1e-6)


def test_a_value_that_two_products_read_in_both_ways_is_copied() -> None:
    b = Builder("both")
    x = b.input("x", f32["N", 6])
    w = b.constant("w", np.random.default_rng(0).normal(size=(6, 9)).astype(np.float32))
    y = b.op("tanh", x)
    right = b.op("matmul", y, w)
    left = b.op("matmul", b.op("transpose", y, perm=(1, 0)), right)
    graph = b.finish([left, right])
    run = mo.compile(graph, strict=True)
    given = {"x": np.random.default_rng(1).normal(size=(11, 6)).astype(np.float32)}
    for found, wanted in zip(run(**given), interpret(graph, inputs=given).values(), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
