"""Compiled programs in a file: whole, damaged, from elsewhere, and without torch."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlsysopt.compile.dynamic import build, load
from mlsysopt.compile.dynamic.executable import Executable
from mlsysopt.compile.dynamic.plan_text import plan_from, plan_json
from mlsysopt.compile.errors import ExecutableError
from mlsysopt.compile.options import Options
from mlsysopt.compile.variants.decision import Decision
from mlsysopt.graph import Builder, dims, f32

B, S = dims("B", "S", max=(8, 64))
RNG = np.random.default_rng(0)
X = RNG.standard_normal((3, 5, 16)).astype(np.float32)


def block(*, sorts: bool = False) -> Executable:
    b = Builder("block")
    x, w = b.input("x", f32[B, S, 16]), b.constant("w", RNG.standard_normal((24, 16)).astype(np.float32))
    y = b.op("softmax", b.op("gelu", b.op("linear", x, w, name="lin")), axis=2)
    if sorts:
        y = b.op("cumsum", y, axis=2)
    decisions = {"lin": Decision.of([(1, "panel.f32"), (9, "panel.bf16w")])}
    return build(b.finish([y]), Options(check="none"), decisions)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Executable, Path]:
    executable = block()
    return executable, executable.save(tmp_path / "block.mlx")


def changed(path: Path, change: Callable[[dict[str, bytes]], Any]) -> Path:
    """Write an artefact again with other parts."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    change(parts)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


def header(**fields: Any) -> Callable[[dict[str, bytes]], None]:
    def change(parts: dict[str, bytes]) -> None:
        content = json.loads(parts["header.json"])
        for name, value in fields.items():
            content[name] = {**content[name], **value}
        parts["header.json"] = json.dumps(content).encode()

    return change


def test_what_was_saved_comes_back(saved: tuple[Executable, Path]) -> None:
    executable, path = saved
    again = load(path)
    assert again.plan == executable.plan
    assert again.options == executable.options
    np.testing.assert_array_equal(again(X), executable(X))
    assert again.explain(B=1, S=3).rows == executable.explain(B=1, S=3).rows


def test_a_plan_survives_its_text_call_outs_included() -> None:
    plan = block(sorts=True).plan
    assert plan.flow.call_outs == 1
    assert plan_from(json.loads(json.dumps(plan_json(plan)))) == plan


def test_weights_lie_in_the_file_once(saved: tuple[Executable, Path]) -> None:
    with zipfile.ZipFile(saved[1]) as archive:
        assert [name for name in archive.namelist() if name.endswith(".safetensors")] == ["source.mlg.safetensors"]


def test_it_runs_without_torch(saved: tuple[Executable, Path], tmp_path: Path) -> None:
    executable, path = saved
    np.save(tmp_path / "x.npy", X)
    program = (
        "import sys, numpy as np\n"
        "from mlsysopt.compile.dynamic import load\n"
        f"call = load({str(path)!r})\n"
        f"np.save({str(tmp_path / 'y.npy')!r}, call(np.load({str(tmp_path / 'x.npy')!r})))\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), executable(X))


def test_a_file_that_was_cut_short_is_named(saved: tuple[Executable, Path]) -> None:
    path = saved[1]
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ExecutableError, match=r"block\.mlx is no compiled model, or was cut short"):
        load(path)


def test_a_damaged_program_is_named(saved: tuple[Executable, Path]) -> None:
    path = changed(saved[1], lambda parts: parts.update({"program.mlg": b"graph @nothing"}))
    with pytest.raises(ExecutableError, match=r"is damaged: program\.mlg is not what was saved"):
        load(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda parts: parts.update({"code.o": parts["code.o"][:100]}), "code.o is damaged"),
        (lambda parts: parts.update({"plan.json": b"{}"}), "plan.json is damaged"),
        (header(artefact={"package": "0.0.1"}), "it was written by mlsysopt 0.0.1"),
        (header(isa={"features": "+avx512f,+amx"}), "its code needs amx"),
        (header(artefact={"machine": "x86_64 znver9 avx2"}), "its code was made for x86_64 znver9 avx2"),
    ],
    ids=["code", "plan", "version", "features", "machine"],
)
def test_what_cannot_be_used_here_is_made_again_with_one_line(
    saved: tuple[Executable, Path], caplog: pytest.LogCaptureFixture, change: Any, said: str
) -> None:
    executable, path = saved
    with caplog.at_level(logging.WARNING):
        again = load(changed(path, change))
    assert [said in record.message and "made again" in record.message for record in caplog.records] == [True]
    np.testing.assert_allclose(again(X), executable(X), atol=2e-2)


def test_a_newer_version_of_the_format_is_refused(saved: tuple[Executable, Path]) -> None:
    with pytest.raises(ExecutableError, match=r"version 99, .* reads up to version 1: upgrade it"):
        load(changed(saved[1], header(artefact={"version": 99})))


def test_another_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExecutableError, match="No such file"):
        load(tmp_path / "none.mlx")
    with zipfile.ZipFile(tmp_path / "other.mlx", "w") as archive:
        archive.writestr("a", "b")
    with pytest.raises(ExecutableError, match=r"header\.json cannot be read"):
        load(tmp_path / "other.mlx")


def test_a_folder_that_cannot_be_written_is_named(saved: tuple[Executable, Path], tmp_path: Path) -> None:
    with pytest.raises(ExecutableError, match="cannot be written: No such file"):
        saved[0].save(tmp_path / "nowhere" / "a.mlx")
