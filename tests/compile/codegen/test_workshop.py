"""Modules compiled beside the one that is being written, and parts that a process compiles once."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

from mlsysopt.compile.codegen import objects, parts, target, workshop
from mlsysopt.compile.codegen.panel import Gemm, gemm
from mlsysopt.compile.codegen.workshop import Workshop
from mlsysopt.compile.dynamic import artefact, build
from mlsysopt.compile.errors import CodegenError
from mlsysopt.compile.options import Options
from mlsysopt.graph import Builder, Graph, f32
from mlsysopt.testing.graphs import random_program

UNCACHED = Options(cache=False)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of modules, as LLVM gets them; no part is there beforehand."""
    names: list[str] = []
    honest = objects._compile

    def compile_(text: str, isa: target.Isa, name: str) -> bytes:
        names.append(name)
        return honest(text, isa, name)

    monkeypatch.setattr(objects, "_compile", compile_)
    monkeypatch.setattr(parts, "_made", {})
    return names


def two_products() -> Graph:
    rng = np.random.default_rng(0)
    b = Builder("mlp")
    v, w = (b.constant(name, rng.standard_normal((16, 16)).astype(np.float32)) for name in "vw")
    hidden = b.op("softmax", b.op("linear", b.input("x", f32["N", 16]), v), axis=1)
    return b.finish([b.op("linear", hidden, w)])


@pytest.fixture
def small_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workshop, "_FULL", 1)


def test_a_part_is_compiled_once_for_all_programs(compiled: list[str]) -> None:
    for _ in range(2):
        build(two_products(), UNCACHED)
    assert compiled.count("part_f32") == 1
    assert compiled.count("mlp") == 2


def test_kernels_of_several_modules_are_one_program(small_modules: None, compiled: list[str]) -> None:
    call = build(two_products(), Options(cache=False, strict=True))
    assert compiled.count("mlp") == 3  # a product, which serves twice, the softmax, the flow
    assert len(call.library.objects) == 4


@pytest.mark.parametrize("seed", range(6))
def test_random_programs_in_small_modules_equal_their_meaning(small_modules: None, seed: int) -> None:
    build(random_program(seed, ops=12), Options(cache=False, strict=True))


def test_a_saved_program_has_all_its_objects(small_modules: None, tmp_path: Any) -> None:
    call = build(two_products())
    call.save(tmp_path / "mlp.mlx")
    again = artefact.load(tmp_path / "mlp.mlx")
    assert again.library.objects == call.library.objects
    x = np.ones((5, 16), np.float32)
    np.testing.assert_array_equal(again(x), call(x))


def test_a_module_that_llvm_refuses_is_an_error_of_the_link(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> bytes:
        raise CodegenError("LLVM refused it")

    monkeypatch.setattr(objects, "_compile", refuse)
    isa = target.host_isa()
    with Workshop(isa, cached=False, timed=nullcontext) as shop:
        shop.hand_over(target.new_module("refused"))
        with pytest.raises(CodegenError, match="LLVM refused it"):
            shop.linked()


def test_a_part_that_failed_is_tried_again(monkeypatch: pytest.MonkeyPatch, compiled: list[str]) -> None:
    isa, honest = target.host_isa(), objects._compile

    def refuse(*_: Any) -> bytes:
        raise CodegenError("not now")

    monkeypatch.setattr(objects, "_compile", refuse)
    with pytest.raises(CodegenError, match="not now"):
        parts.object_code(isa, "f32", cached=False)
    monkeypatch.setattr(objects, "_compile", honest)
    assert parts.object_code(isa, "f32", cached=False)[:4] == b"\x7fELF"


def test_a_module_names_the_parts_that_it_calls() -> None:
    module = target.new_module("products")
    gemm(module, target.host_isa(), Gemm("int8"))
    assert parts.needed(objects.Source.of(module).declared) == ("int8",)
    gemm(module, target.host_isa(), Gemm("f32"))
    assert parts.needed(objects.Source.of(module).declared) == ("f32", "int8")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_does_not_wait_for_what_its_parent_began(monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import Future

    isa = target.host_isa()
    monkeypatch.setattr(parts, "_made", {(isa, "f32"): Future(), (isa, "bf16"): (done := Future())})
    done.set_result(b"kept")
    parts._after_fork()
    assert list(parts._made) == [(isa, "bf16")]
