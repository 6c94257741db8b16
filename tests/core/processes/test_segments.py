"""Shared memory outlives whoever made it: removed when we killed that process, and only then."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlsysopt.core.processes import Child, segments, start_child, sweep_orphans
from mlsysopt.core.processes.identity import start_ticks
from mlsysopt.core.processes.segments import Segment, remove_segments, segments_of, started_at

TABLE = Path("/proc/sysvipc/shm")
needs_table = pytest.mark.skipif(not TABLE.is_file(), reason=f"this system has no {TABLE}")

# Makes a segment, attaches to it, says its number, and waits; it also attaches to one that is given.
MAKES = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
number = int(sys.argv[1]) if len(sys.argv) > 1 else libc.shmget(0, 4096, 0o1600)
assert number >= 0 and libc.shmat(number, None, 0) not in (None, ctypes.c_void_p(-1).value)
print(number, flush=True)
sys.stdin.read()
"""
MAKER = [sys.executable, "-I", "-S", "-c", MAKES]
DRIVES = f"""
import subprocess, sys
from mlsysopt.core.processes import start_child
child = start_child({MAKER!r}, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
print(child.pid, child.stdout.readline().decode().strip(), flush=True)
sys.stdin.read()
"""

ROWS = """\
       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime
   1442297      32812   600                    56  1283  1303      2   101   104   101   104 1795693611 1795693600 1795693605
         0          3   600                  4096  1283  1283      0     0     0     0     0          0          0 1795693700
         0          4  1600                  4096    77    77      1     0     0     0     0          0          0 1795693800
"""  # noqa: E501


def segment_of(number: int) -> Segment | None:
    rows = [row.split() for row in TABLE.read_text().splitlines()[1:]]
    found = [Segment(int(row[1]), int(row[4]), int(row[6]), float(row[13])) for row in rows if int(row[1]) == number]
    return found[0] if found else None


def maker() -> tuple[Child, int]:
    child = start_child(MAKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    return child, int(child.stdout.readline())


def close(child: Child) -> None:
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            stream.close()


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[str]]:
    """A process of somebody else, with a segment of its own."""
    with subprocess.Popen(MAKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()
        process.wait()
        remove_segments([process.pid], since=0.0)


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@needs_table
def test_the_segment_of_a_killed_child_is_gone_and_that_of_another_process_stays(
    stranger: subprocess.Popen[str],
) -> None:
    other = int(line_of(stranger))
    child, number = maker()
    made = segment_of(number)
    assert made is not None and (made.maker, made.attached) == (child.pid, 1)
    assert child.stop(grace_s=0).signal is not None
    close(child)
    assert segment_of(number) is None
    assert segment_of(other) is not None


@needs_table
def test_a_child_that_ends_by_itself_leaves_none_either() -> None:
    child, number = maker()
    close(child)
    assert child.wait().returncode == 0
    assert segment_of(number) is None


@needs_table
def test_one_that_somebody_still_uses_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "_DETACH_S", 0.02)
    child, number = maker()
    with subprocess.Popen([*MAKER, str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as user:
        assert line_of(user) == str(number)
        child.stop(grace_s=0)
        close(child)
        left = segment_of(number)
        assert left is not None and left.attached == 1
        user.kill()
    assert [one.id for one in remove_segments([child.pid], since=left.made_at)] == [number]
    assert segment_of(number) is None


@needs_table
def test_an_older_one_was_made_by_another_process_of_that_number(stranger: subprocess.Popen[str]) -> None:
    number = int(line_of(stranger))
    made = segment_of(number)
    assert made is not None
    stranger.kill()
    stranger.wait()
    assert remove_segments([stranger.pid], since=made.made_at + 10) == []
    assert segment_of(number) is not None


@needs_table
def test_the_sweep_removes_what_the_child_of_a_killed_driver_left() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", DRIVES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as driver:
        child, number = (int(word) for word in line_of(driver).split())
        assert sweep_orphans() == []
        assert segment_of(number) is not None
        driver.kill()
    assert f"shared memory segment {number} of process {child}" in sweep_orphans()
    assert segment_of(number) is None and start_ticks(child) is None
    assert sweep_orphans() == []


def test_the_table_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "shm"
    table.write_text(ROWS)
    monkeypatch.setattr(segments, "_TABLE", table)
    first, second = segments_of({1283})
    assert first == Segment(id=32812, maker=1283, attached=2, made_at=1795693605.0)
    assert (second.id, second.attached) == (3, 0)
    assert segments_of([1283], since=1795693690.0) == [second]
    # The kernel counts whole seconds.
    assert segments_of([77], since=1795693800.9) != []
    assert segments_of([1]) == []


def test_a_system_without_the_table_has_nothing_to_remove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "_TABLE", tmp_path / "missing")
    assert segments_of([1283]) == []
    assert remove_segments([1283], since=0.0) == []


def test_the_start_of_a_process_is_told_by_the_clock() -> None:
    ticks = start_ticks(1)
    assert ticks is not None
    own = start_ticks(os.getpid())
    assert own is not None
    assert started_at(ticks) <= started_at(own) <= time.time() + 1.0
