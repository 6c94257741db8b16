"""CPU seconds of somebody else's process tree: a server whose workers come and go."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlsysopt.core.measure import clocks, tree_cpu

BURN = "import time\nbegan = time.process_time()\nwhile time.process_time() < began + 0.3: pass\n"
# A server: a worker burns, ends and is waited for; the second one burns and lives on.
SERVER = f"""
import os, sys
for stays in (False, True):
    ours, theirs = os.pipe()
    worker = os.fork()
    if not worker:
        exec({BURN!r})
        os.write(theirs, b'x')
        if stays:
            sys.stdin.read()
        os._exit(0)
    os.read(ours, 1)
    if not stays:
        os.waitpid(worker, 0)
    print('done', flush=True)
    sys.stdin.readline()
"""


@contextmanager
def running(code: str) -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, "-I", "-S", "-c", code]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def step(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "done\n"


def test_a_worker_that_has_ended_counts_and_a_living_one_too() -> None:
    with running(SERVER) as server:
        assert server.stdin is not None
        step(server)
        after_first = tree_cpu(server.pid)
        assert after_first == pytest.approx(0.3, abs=0.15)
        server.stdin.write("\n")
        server.stdin.flush()
        step(server)
        assert tree_cpu(server.pid) - after_first == pytest.approx(0.3, abs=0.1)


def test_what_this_process_burns_is_not_the_servers() -> None:
    with running("print('done', flush=True)\nimport sys\nsys.stdin.read()") as server:
        step(server)
        before = tree_cpu(server.pid)
        exec(BURN, {})
        assert tree_cpu(server.pid) - before < 0.05


def test_a_process_that_does_not_exist_used_nothing() -> None:
    assert tree_cpu(2**22 - 3) == 0.0


def test_a_thread_that_ends_while_it_is_asked_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Listed and gone before its counters are read; the one after it still counts.
    for name in ("1", "2", "3"):
        (tmp_path / name).mkdir()
    (tmp_path / "3" / "schedstat").write_text("5000000000 0 1")
    listed = sorted(os.scandir(tmp_path), key=lambda entry: entry.name)
    opened: list[Listing] = []

    def scandir(path: str) -> Listing:
        opened.append(Listing(listed))
        return opened[-1]

    monkeypatch.setattr(clocks.os, "scandir", scandir)
    assert clocks._process_cpu(os.getpid()) >= 5.0
    assert opened and all(one.closed for one in opened)


class Listing:
    """An open folder, as `os.scandir` returns it."""

    def __init__(self, entries: list[os.DirEntry[str]]) -> None:
        self._entries, self.closed = iter(entries), False

    def __iter__(self) -> Listing:
        return self

    def __next__(self) -> os.DirEntry[str]:
        try:
            return next(self._entries)
        except StopIteration:
            self.closed = True
            raise

    def __enter__(self) -> Listing:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True
