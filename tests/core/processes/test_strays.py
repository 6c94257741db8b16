"""Everything that carries the token is ended, also what is just being started; nothing else is."""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

from mlsysopt.core.processes.identity import start_ticks
from mlsysopt.core.processes.strays import TOKEN, carriers, end_all

STARTS_ALL_THE_TIME = "while :; do /bin/sleep 5 & /bin/sleep 0.002; done"


def test_what_starts_while_others_are_ended_is_ended_too() -> None:
    token = os.urandom(8).hex()
    with subprocess.Popen(["/bin/sh", "-c", STARTS_ALL_THE_TIME], env={TOKEN: token}, start_new_session=True) as first:
        while not carriers(token):
            time.sleep(0.001)
        time.sleep(0.3)
        ended = end_all([], token)
        assert first.wait(timeout=10) == -9
    assert first.pid in [stray.pid for stray in ended]
    for _ in range(20):
        assert carriers(token) == []
        time.sleep(0.005)


def test_who_starts_one_program_after_the_other_is_ended(tmp_path: Path) -> None:
    """Between two programs a process has no environment to be known by: most rounds have a look that meets one."""
    program = tmp_path / "again"
    program.write_text('#!/bin/sh\nexec "$0"\n')
    program.chmod(0o755)
    for _ in range(5):
        token = os.urandom(8).hex()
        with ExitStack() as stack:
            runners = [stack.enter_context(subprocess.Popen([program], env={TOKEN: token})) for _ in range(24)]
            while not carriers(token):
                time.sleep(0.001)
            end_all([], token)
            left = [runner.pid for runner in runners if start_ticks(runner.pid) is not None]
            for runner in runners:
                runner.kill()
        assert left == []


def test_a_process_without_any_environment_is_left_alone_and_holds_nobody_up_for_long() -> None:
    with subprocess.Popen(["/bin/sleep", "60"], env={}) as other:
        begun = time.monotonic()
        assert end_all([], "no such token") == []
        assert time.monotonic() - begun < 30.0
        assert start_ticks(other.pid) is not None
        other.kill()
