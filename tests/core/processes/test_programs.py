"""Programs: on PATH, beside it, and what to type when they are nowhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlsysopt.core.errors import MissingProgram
from mlsysopt.core.processes import apt_line, program


def make(folder: Path, name: str = "initdb-like") -> Path:
    folder.mkdir(parents=True)
    path = folder / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_the_newest_version_outside_path_wins(tmp_path: Path) -> None:
    make(tmp_path / "9/bin")
    newest = make(tmp_path / "16/bin")
    (tmp_path / "17/bin").mkdir(parents=True)
    assert program("initdb-like", also=[f"{tmp_path}/*/bin"]) == newest


def test_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "16/bin")
    first = make(tmp_path / "here")
    monkeypatch.setenv("PATH", str(tmp_path / "here"))
    assert program("initdb-like", also=[f"{tmp_path}/*/bin"]) == first
    assert program(str(first)) == first


def test_a_missing_program_names_the_way_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingProgram) as missing:
        program("db_bench_of_nobody", package="rocksdb-tools", hint="or --engine embedded")
    assert str(missing.value) == f"db_bench_of_nobody not found: {apt_line('rocksdb-tools')}, or --engine embedded"
    assert missing.value.exit_code == 3
    with pytest.raises(MissingProgram, match=r"^db_bench_of_nobody not found on PATH$"):
        program("db_bench_of_nobody")


def test_the_install_line_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert apt_line("a", "b") == "apt-get update && apt-get install a b"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert apt_line("a") == "sudo apt-get update && sudo apt-get install a"
