"""`mlsysopt machine` at its edges: message, exit code, what is kept, for every kind of bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from mlsysopt.cli.main import run
from mlsysopt.compile.variants import fingerprint as module
from mlsysopt.compile.variants.fingerprint import fingerprint
from mlsysopt.compile.variants.machine import MachineProfile
from tests.compile.variants.planted import row

SMALL = ("--shapes", "32x48,48x32", "--rows", "1,8")


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


@pytest.fixture
def machine(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    def call(*words: object) -> Said:
        code = run(["machine", *(str(word) for word in words)])
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return call


@pytest.fixture
def known(tmp_path: Path) -> Path:
    """A profile with four rows."""
    place = tmp_path / "known.db"
    with MachineProfile.open(place) as profile:
        profile.add(
            row(name, m, 64, 32, m * cost) for name, cost in (("test.a", 1e-6), ("test.b", 2e-6)) for m in (1, 8)
        )
    return place


def test_measures_shows_and_goes_on(machine: Callable[..., Said], tmp_path: Path) -> None:
    place = tmp_path / "m.db"
    first = machine("measure", *SMALL, "--profile", place)
    assert first.code == 0
    assert "linear K=32 M=8 N=48 f32 bias" in first.out
    assert "4/4 linear" in first.err
    assert "cells are open" not in first.out
    again = machine("measure", *SMALL, "--profile", place)
    assert "4/4" not in again.err
    assert again.out == first.out
    shown = machine("show", "--profile", place)
    assert "measured" in shown.out
    assert str(fingerprint()) in shown.out
    assert first.out.splitlines()[1] in shown.out


def test_a_budget_leaves_cells_open(machine: Callable[..., Said], tmp_path: Path) -> None:
    said = machine("measure", *SMALL, "--budget", "0s", "--profile", tmp_path / "m.db")
    assert said.code == 0
    assert "4 of 4 cells are open: the same command goes on" in said.out


def test_json_is_one_document(machine: Callable[..., Said], known: Path) -> None:
    content = json.loads(machine("show", "--json", "--profile", known).out)
    assert content["machine"]["key"] == fingerprint().key
    assert [(one["variant"], one["sizes"]["M"], one["seconds"]) for one in content["rows"]] == [
        ("test.a", 1, 1e-6), ("test.a", 8, 8e-6), ("test.b", 1, 2e-6), ("test.b", 8, 16e-6),
    ]  # fmt: skip
    measured = machine("measure", "--shapes", "32x32", "--rows", "1", "--budget", "0s", "--json", "--profile", known)
    assert json.loads(measured.out)["open"] == 1


def test_the_table_marks_the_best(machine: Callable[..., Said], known: Path) -> None:
    lines = machine("show", "--profile", known).out.splitlines()
    assert lines[-2:] == [
        "linear K=32 M=1 N=64 f32 plain        1.0*        2.0",
        "linear K=32 M=8 N=64 f32 plain        8.0*       16.0",
    ]


def test_an_empty_profile(machine: Callable[..., Said], tmp_path: Path) -> None:
    said = machine("show", "--profile", tmp_path / "none.db")
    assert said.code == 0
    assert "rows           0, at threads: none" in said.out
    assert "guessed: mlsysopt machine measure measures it" in said.out
    assert not (tmp_path / "none.db").exists()


def test_export_and_import(machine: Callable[..., Said], known: Path, tmp_path: Path) -> None:
    assert (
        machine("export", tmp_path / "m.json", "--profile", known).out == f"4 times written to {tmp_path / 'm.json'}\n"
    )
    said = machine("import", tmp_path / "m.json", "--profile", tmp_path / "new.db")
    assert (said.code, said.out) == (0, f"4 times read from {tmp_path / 'm.json'}\n")
    assert len(MachineProfile.open(tmp_path / "new.db").rows) == 4


def test_another_machine_is_named(
    machine: Callable[..., Said], known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine("export", tmp_path / "m.json", "--profile", known)
    here = replace(fingerprint(), cpu="Another CPU")
    there = fingerprint()
    monkeypatch.setattr(module, "_fingerprint", lambda cap: here)
    said = machine("import", tmp_path / "m.json", "--profile", tmp_path / "new.db")
    assert said.code == 0
    assert f"they are kept, not used\nthey are of  {there}\nthis is      {here}" in said.out
    shown = machine("show", "--profile", tmp_path / "new.db").out
    assert f"this machine   {here}" in shown
    assert f"not used       4 rows of {there}" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("measure", "--shapes", "bert-bas"), "did you mean bert-base?"),
        (("measure", "--shapes", "32"), "widths such as"),
        (("measure", "--rows", "0..4"), "rows '0..4'"),
        (("measure", "--rows", "many"), "allowed are a range such as 1..512"),
        (("measure", "--budget", "20 apples"), "20 apples"),
        (("measure", "--budget", "-5s"), "at least 0s"),
        (("measure", "--threads", "0"), "--threads"),
        (("measure", "--residency", "tepid"), "--residency"),
        (("import", "no-such-file.json"), "no-such-file.json"),
    ],
)
def test_bad_input_is_refused(machine: Callable[..., Said], words: tuple[str, ...], message: str) -> None:
    said = machine(*words)
    assert said.code == 2
    assert message in said.err


def test_a_damaged_file(machine: Callable[..., Said], tmp_path: Path) -> None:
    place = tmp_path / "m.json"
    place.write_text("{}")
    said = machine("import", place, "--profile", tmp_path / "m.db")
    assert (said.code, "this is no machine-profile file" in said.err) == (2, True)
    (tmp_path / "m.db").write_text("no database")
    said = machine("show", "--profile", tmp_path / "m.db")
    assert said.code == 0
    assert "file           none: in memory" in said.out
