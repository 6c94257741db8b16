"""A module from a file: known by its name once it has run, and only then."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mlsysopt.core.plugins import module_at


def test_a_file_becomes_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "planted_module", raising=False)
    path = tmp_path / "some.py"
    path.write_text("import sys\nhere = sys.modules[__name__]\n")
    module = module_at(path, "planted_module")
    assert sys.modules["planted_module"] is module is module.here
    path.write_text("raise ValueError('broken')\n")
    with pytest.raises(ValueError, match="broken"):
        module_at(path, "planted_module")
    assert sys.modules["planted_module"] is module
    del sys.modules["planted_module"]
    with pytest.raises(ValueError, match="broken"):
        module_at(path, "planted_module")
    assert "planted_module" not in sys.modules


def test_what_is_no_python_file(tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text("x = 1\n")
    with pytest.raises(ImportError, match="is no Python file"):
        module_at(tmp_path / "some.txt", "planted_text")
