"""Every server is one short file that nothing else of the package knows."""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from mlsysopt.operate.tune import server_files
from mlsysopt.testing.servers import MOST_LINES

ROOT = Path(__file__).parents[3]
SERVERS = ROOT / "src" / "mlsysopt" / "operate" / "tune" / "servers"
SHIPPED = sorted(path for path in SERVERS.glob("*.py") if re.search(r"^server = ", path.read_text(), re.MULTILINE))
TUNE = SERVERS.parent
# `tune.postgres(...)` in Python: an export, and a function that only looks the name up.
SHORTCUTS = (TUNE / "__init__.py", TUNE / "shipped.py")
FILES = [*SHIPPED, ROOT / "examples" / "servers" / "memcached.py"]


def test_there_are_servers() -> None:
    assert {path.stem for path in SHIPPED} >= {"postgres", "redis", "foundationdb"}


@pytest.mark.parametrize("path", [*sorted(SERVERS.glob("*.py")), FILES[-1]], ids=lambda path: path.name)
def test_a_server_file_and_what_belongs_to_it_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < MOST_LINES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_server_file_is_accepted_by_its_path(path: Path) -> None:
    assert server_files.server(str(path)).name == path.stem


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_no_other_file_names_a_server(path: Path) -> None:
    name = re.compile(rf"tune[./]servers[./]{path.stem}\b|tune\.servers import {path.stem}\b")
    files = [other for other in (ROOT / "src").rglob("*.py") if SERVERS not in other.parents]
    assert [str(other) for other in files if name.search(other.read_text())] == []


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_nothing_is_decided_by_the_name_of_a_server(path: Path) -> None:
    """No `if name == "postgres"` outside of its file."""
    named = re.compile(rf"""["']{path.stem}["']""")
    files = [other for other in TUNE.rglob("*.py") if SERVERS not in other.parents and other not in SHORTCUTS]
    assert [str(other) for other in files if named.search(other.read_text())] == []


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_an_entry_point_registers_it(path: Path) -> None:
    registered = {entry.name: entry.value for entry in entry_points(group="mlsysopt.servers")}
    assert path.stem in registered
