"""The set-up of the make targets: what a person reads, and what happens without root or programs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from scripts import environment


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (
            "  Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (843.2 MB)\n",
            "  downloading torch 2.13.0 (843.2 MB)",
        ),
        ("  Downloading six-1.17-py3-none-any.whl (11 kB)\n", None),
        ("WARNING: Location 'x' is ignored\n", None),
        ("Installing collected packages: a, b, c\n", "  unpacking 3 packages"),
        ("ERROR: No matching distribution found for x\n", "ERROR: No matching distribution found for x"),
    ],
)
def test_pip_is_quiet_but_for_what_takes_time_or_fails(line: str, shown: str | None) -> None:
    assert environment.pip_line(line) == shown


def test_without_root_the_exact_line_is_printed_and_the_caller_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert environment.install_packages(["rocksdb-tools", "chromium"]) == 0
    assert "sudo apt-get update && sudo apt-get install rocksdb-tools chromium" in capsys.readouterr().out


def test_present_packages_are_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "db_bench").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(environment, "apt_install", lambda packages: pytest.fail("installed what was there"))
    assert environment.install_packages(["rocksdb-tools"]) == 0


def test_failing_installation_shows_its_last_lines(capsys: pytest.CaptureFixture[str]) -> None:
    code = "import sys; print('\\n'.join(map(str, range(50)))); sys.exit(7)"
    assert environment.stream([sys.executable, "-c", code], lambda line: None, env={}) == 7
    assert capsys.readouterr().out.split() == [str(n) for n in range(30, 50)]


def test_long_silence_gets_a_sign_of_life(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(environment, "QUIET_S", 0.05)
    code = "import sys; sys.stdin.read(); import time; time.sleep(0.4)"
    assert environment.stream([sys.executable, "-c", code], lambda line: None, env={}) == 0
    assert "still at work" in capsys.readouterr().out


def test_fingerprint_ignores_the_settings_of_tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    project = '[project]\nname = "x"\n[build-system]\nrequires = []\n'
    (tmp_path / "constraints.txt").write_text("a==1\n")
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "PYTHON", sys.executable)
    seen: list[str] = []
    for tools, freeze in (("", "a==1\n"), ("[tool.ruff]\n", "a==1\n"), ("", "a==2\n")):
        (tmp_path / "pyproject.toml").write_text(project + tools)
        (tmp_path / "constraints.txt").write_text(freeze)
        seen.append(environment.fingerprint())
    assert seen[0] == seen[1] != seen[2]
