"""A used data folder becomes what it was copied from, and what has not changed is not copied again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from mlsysopt.operate.tune.copies import restore


def tree(folder: Path) -> dict[str, tuple[int, str | bytes | None]]:
    """Return what is in a folder: mode, and content or where a link points."""
    found: dict[str, tuple[int, str | bytes | None]] = {}
    for path in sorted(folder.rglob("*")):
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(folder))] = path.lstat().st_mode, content
    return found


def source(folder: Path) -> Path:
    (folder / "base" / "1").mkdir(parents=True)
    (folder / "empty").mkdir(mode=0o700)
    for name, content in {"control": b"c", "base/1/a": b"a" * 9000, "base/1/b": b"b"}.items():
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o600)
        os.utime(folder / name, ns=(10**18, 10**18))
    (folder / "link").symlink_to("control")
    return folder


CHANGES = {
    "written": lambda one: (one / "control").write_bytes(b"d"),
    "grown": lambda one: (one / "base/1/a").write_bytes(b"a" * 9001),
    "removed": lambda one: (one / "base/1/b").unlink(missing_ok=True),
    "added": lambda one: (one / "postmaster.pid").write_text("1"),
    "folder added": lambda one: (one / "new" / "deep").mkdir(parents=True, exist_ok=True),
    "folder removed": lambda one: shutil.rmtree(one / "empty", ignore_errors=True),
    "link turned": lambda one: ((one / "link").unlink(), (one / "link").symlink_to("base")),
}


@given(st.lists(st.sampled_from(sorted(CHANGES)), unique=True))
def test_whatever_a_server_did_is_undone(tmp_path_factory: object, changes: list[str]) -> None:
    folder = tmp_path_factory.mktemp("copies")  # type: ignore[attr-defined]
    origin, copy = source(folder / "source"), folder / "copy"
    shutil.copytree(origin, copy, symlinks=True)
    for one in changes:
        CHANGES[one](copy)
    before = tree(origin)
    restore(origin, copy)
    assert tree(copy) == tree(origin) == before


def test_a_file_that_became_a_folder(tmp_path: Path) -> None:
    origin, copy = source(tmp_path / "source"), tmp_path / "copy"
    shutil.copytree(origin, copy, symlinks=True)
    (copy / "control").unlink()
    (copy / "control" / "deep").mkdir(parents=True)
    shutil.rmtree(copy / "base")
    (copy / "base").write_text("a file")
    restore(origin, copy)
    assert tree(copy) == tree(origin)


def test_what_has_not_changed_stays_the_same_file(tmp_path: Path) -> None:
    origin, copy = source(tmp_path / "source"), tmp_path / "copy"
    shutil.copytree(origin, copy, symlinks=True)
    before = {name: (copy / name).stat().st_ino for name in ("control", "base/1/a", "base/1/b")}
    (copy / "base/1/b").write_bytes(b"x")
    restore(origin, copy)
    after = {name: (copy / name).stat().st_ino for name in before}
    assert after["control"] == before["control"] and after["base/1/a"] == before["base/1/a"]
    assert (copy / "base/1/b").read_bytes() == b"b"
