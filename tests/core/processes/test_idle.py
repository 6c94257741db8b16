"""A child that is held waits until its threads are at rest, and nothing of its output is lost."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from mlsysopt.core.processes import Hold, run_child
from mlsysopt.core.processes.idle import Rest
from mlsysopt.core.target import Limits

# Works in a thread for a while, and says when that ended and when the main thread got on.
WORKS_BEHIND = """
import sys, threading, time
def work():
    while time.monotonic() < end:
        sum(range(2000))
    done.append(time.monotonic())
done, end = [], time.monotonic() + {work_s}
print("head")
print("from here on", flush=True)
threading.Thread(target=work, daemon=True).start()
for number in range(2000):
    print("line", number, "x" * 40)
print("worked until", *(done or ["never"]))
"""
HOLD = Hold(after="from here on", idle_s=0.2)


def python(code: str, *, limits: Limits | None = None, hold: Hold | None = HOLD) -> tuple[bool, list[str], bool]:
    done = run_child([sys.executable, "-S", "-c", code], limits=limits, hold=hold)
    return done.held, done.stdout.splitlines(), done.timed_out


def test_it_goes_on_when_its_threads_are_done() -> None:
    held, lines, _ = python(WORKS_BEHIND.format(work_s=0.6))
    assert held
    assert lines[:3] == ["head", "from here on", "line 0 " + "x" * 40] and len(lines) == 2003
    assert lines[-1].startswith("worked until ") and not lines[-1].endswith("never")


def test_without_a_hold_it_would_not_have_waited() -> None:
    held, lines, _ = python(WORKS_BEHIND.format(work_s=20), hold=None)
    assert not held
    assert lines[-1] == "worked until never"


@pytest.mark.parametrize(
    "code", ["print('head')", "print('from here on')", "print('x' * 100_000)"], ids=["short", "too little", "no line"]
)
def test_what_does_not_have_to_wait_is_read_whole(code: str) -> None:
    held, lines, _ = python(code)
    assert not held
    assert lines == subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.splitlines()


def test_a_time_out_ends_it_while_it_is_held() -> None:
    held, lines, timed_out = python(WORKS_BEHIND.format(work_s=60), limits=Limits(timeout_s=1.0))
    assert timed_out and not held
    assert lines[:2] == ["head", "from here on"] and len(lines) < 500


def test_rest_is_counted_from_the_last_work() -> None:
    sleeps = "import time; print(1, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", sleeps], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        deadline, rest = time.monotonic() + 30, Rest(child.pid)
        while rest.lasted_s() < 0.3 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert rest.lasted_s() >= 0.3
        child.kill()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as child:
        rest = Rest(child.pid)
        time.sleep(0.5)
        assert rest.lasted_s() < 0.1
        child.kill()
