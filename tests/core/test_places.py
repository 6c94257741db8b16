"""Folders of ours, and the header of every file."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import pytest

from mlsysopt.core import places
from mlsysopt.core.errors import ArtefactError


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    places._temporary.cache_clear()


def test_xdg_first_then_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert places.state_dir() == tmp_path / "home/.local/state/mlsysopt"
    assert places.data_dir() == tmp_path / "home/.local/share/mlsysopt"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert places.cache_dir() == tmp_path / "cache/mlsysopt"
    assert places.cache_dir().is_dir()


def test_a_relative_xdg_path_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_STATE_HOME", "somewhere")
    assert places.state_dir() == tmp_path / "home/.local/state/mlsysopt"


@pytest.mark.parametrize("home", [None, "", "/proc/nowhere", "/dev/null/home"])
def test_without_a_usable_home_a_temporary_folder_and_one_line(
    home: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.delenv("HOME", raising=False)
    if home is not None:
        monkeypatch.setenv("HOME", home)
    with caplog.at_level(logging.WARNING, logger="mlsysopt"):
        first, second = places.state_dir(), places.state_dir()
    assert first == second and tmp_path in first.parents
    assert first.is_dir()
    assert len(caplog.messages) == 1 and f"using the temporary folder {first}" in caplog.messages[0]


def test_a_folder_that_cannot_be_written_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(places.os, "access", lambda *_: False)
    assert tmp_path / "home" not in places.cache_dir().parents


def test_a_folder_that_somebody_else_prepared_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HOME")
    trap = tmp_path / "elsewhere"
    trap.mkdir()
    (tmp_path / f"mlsysopt-{places.os.getuid()}").symlink_to(trap)
    found = places.state_dir()
    assert found.is_dir() and found.resolve() != (trap / "state").resolve()
    assert list(trap.iterdir()) == []


def test_headers_round_trip() -> None:
    content: dict[str, Any] = {
        **places.artefact_header("profile", 2, machine="abc"),
        "version": "of the content",
        "rows": [],
    }
    assert places.read_header(content, "profile", 2) == 2
    assert content["artefact"]["machine"] == "abc"


def test_newer_and_foreign_files_are_refused_by_name() -> None:
    header = places.artefact_header("profile", 2)
    with pytest.raises(ArtefactError, match=r"the profile file has version 2, written by mlsysopt .* upgrade it"):
        places.read_header(header, "profile", 1)
    with pytest.raises(ArtefactError, match="this is a 'profile' file, expected 'graph'"):
        places.read_header(header, "graph", 1)


@pytest.mark.parametrize("content", [{}, [], None, 3, {"artefact": "profile"}])
def test_a_file_without_a_header_is_refused(content: object) -> None:
    with pytest.raises(ArtefactError, match="no profile file"):
        places.read_header(content, "profile", 1)


@pytest.mark.parametrize("version", [None, 0, True, "1", 1.0])
def test_a_version_that_is_no_number_is_refused(version: object) -> None:
    with pytest.raises(ArtefactError, match="expected a whole number"):
        places.read_header({"artefact": {"format": "profile", "version": version}}, "profile", 1)
