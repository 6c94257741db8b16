"""Children: what they cost, how they end, and that nothing of them is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from mlsysopt.core.errors import InfrastructureError, MissingProgram, ProcessError, UsageError
from mlsysopt.core.processes import (
    ChildResult,
    descendants,
    run_child,
    running,
    start_child,
    temporary_folder,
    tree_pss_bytes,
)
from mlsysopt.core.processes.ledger import current_ledger
from mlsysopt.core.target import Limits

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start children as another user")
BURN = "import time\nwhile time.process_time() < {}: pass"


def python(code: str, limits: Limits | None = None, **given: Any) -> ChildResult:
    return run_child([sys.executable, "-c", code], limits=limits, **given)


def gone(pid: int) -> bool:
    """Wait until a process is gone or a zombie; a signal is delivered, not executed, when kill returns."""
    for _ in range(1000):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


def test_output_status_and_input() -> None:
    done = python("import sys; print(sys.stdin.read()); print('late', file=sys.stderr); sys.exit(3)", stdin="given")
    assert (done.returncode, done.stdout, done.stderr) == (3, "given\n", "late\n")
    assert done.signal is None and not done.timed_out and not done.killed_for_memory


def test_more_input_and_output_than_a_pipe_holds() -> None:
    text = "0123456789" * 100_000
    assert run_child(["cat"], stdin=text).stdout == text


def test_a_child_need_not_read_its_input() -> None:
    assert run_child(["true"], stdin="x" * 1_000_000).returncode == 0


def test_lines_come_while_it_runs() -> None:
    lines: list[str] = []
    done = run_child(["sh", "-c", "echo one; echo two >&2; printf three"], on_output=lines.append)
    assert sorted(lines) == ["one", "three", "two"]
    assert done.stdout == "one\nthree"


def test_only_the_end_of_endless_output_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "STDERR_BYTES", 1000)
    done = python("import sys\nfor i in range(100000): print(i, file=sys.stderr)")
    assert len(done.stderr) == 1000
    assert done.stderr.endswith("99998\n99999\n")


def test_the_environment_is_on_top_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OURS", "kept")
    monkeypatch.setenv("REMOVED", "gone")
    done = run_child(["sh", "-c", "echo $OURS $GIVEN ${REMOVED-unset}"], env={"GIVEN": "new", "REMOVED": None})
    assert done.stdout.split() == ["kept", "new", "unset"]


def test_arguments_reach_the_program_as_they_are() -> None:
    words = ["", "a b", "$HOME", "`id`", "'", '"', "-x", "a=b", "*", "\\"]
    done = python("import sys; print(sys.argv[1:])")
    assert done.stdout == "[]\n"
    done = run_child([sys.executable, "-c", "import sys; print(sys.argv[1:])", *words])
    assert done.stdout == f"{words}\n"


def test_cpu_seconds_are_those_of_the_whole_tree() -> None:
    burn = BURN.format(0.3)
    alone = python(burn)
    tree = python(f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {burn!r}])\n{BURN.format(0.3)}")
    assert 0.29 < alone.cpu_s < 0.7
    assert 0.59 < tree.cpu_s < 1.3


def test_waiting_costs_wall_and_no_cpu() -> None:
    done = run_child(["sleep", "0.3"])
    assert 0.3 <= done.wall_s < 5 and done.cpu_s < 0.1
    assert 0 <= done.started_after_s < 5


def test_peak_memory_is_the_childs_and_not_the_drivers() -> None:
    ballast = bytearray(150 << 20)
    small = python("import time; time.sleep(0.1)")
    large = python("x = bytearray(120 << 20); import time; time.sleep(0.1)")
    assert small.max_rss_bytes < 60 << 20
    assert 110 << 20 < large.max_rss_bytes < 180 << 20
    assert len(ballast) == 150 << 20


def test_a_time_out_ends_the_whole_group() -> None:
    done = run_child(["sh", "-c", "sleep 60 & echo $!; sleep 60"], limits=Limits(timeout_s=0.3))
    assert done.timed_out and done.signal == signal.SIGTERM
    assert 0.3 <= done.wall_s < 5
    assert gone(int(done.stdout))


def test_a_child_that_ignores_the_request_is_killed() -> None:
    done = run_child(["sh", "-c", "trap '' TERM; sleep 60"], limits=Limits(timeout_s=0.2), grace_s=0.2)
    assert done.timed_out and done.signal == signal.SIGKILL
    assert done.wall_s < 5


def test_a_grandchild_that_left_the_group_is_ended_with_it() -> None:
    done = run_child(["sh", "-c", "setsid sleep 60 & sleep 0.1; echo $!; wait"], limits=Limits(timeout_s=0.4))
    assert done.timed_out and gone(int(done.stdout))


def test_what_a_child_leaves_running_is_ended() -> None:
    began = time.monotonic()
    done = run_child(["sh", "-c", "sleep 60 & echo $!"])
    assert done.returncode == 0 and time.monotonic() - began < 5
    assert gone(int(done.stdout))


def test_a_daemon_that_keeps_the_pipe_does_not_hold_us_up() -> None:
    began = time.monotonic()
    done = run_child(["sh", "-c", "setsid sleep 60 & sleep 0.2; echo $!"])
    assert time.monotonic() - began < 4
    os.kill(int(done.stdout), signal.SIGKILL)


def test_more_memory_than_allowed_is_ended() -> None:
    grow = "x = bytearray(400 << 20)\nx[::4096] = b'1' * len(x[::4096])\nimport time; time.sleep(60)"
    done = python(grow, Limits(memory_bytes=150 << 20))
    assert done.killed_for_memory and not done.timed_out and done.signal == signal.SIGKILL


def test_the_memory_of_a_tree_counts_as_a_whole() -> None:
    each = "import time; x = b'1' * (90 << 20); time.sleep(60)"
    three = f"[subprocess.Popen([sys.executable, '-c', {each!r}]) for _ in range(3)]"
    code = f"import subprocess, sys\nfor p in {three}: p.wait()"
    others = set(descendants(os.getpid()))
    done = python(code, Limits(memory_bytes=200 << 20))
    assert done.killed_for_memory and done.signal == signal.SIGKILL
    assert all(gone(pid) for pid in set(descendants(os.getpid())) - others)


def test_less_memory_than_allowed_is_left_alone() -> None:
    done = python("x = b'1' * (50 << 20); import time; time.sleep(0.3)", Limits(memory_bytes=300 << 20))
    assert done.returncode == 0 and not done.killed_for_memory


def test_a_machine_without_reserve_ends_what_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlsysopt.core.processes.memory.available_bytes", lambda: 1)
    assert python("import time; time.sleep(0.2)").returncode == 0
    large = python("x = b'1' * (300 << 20); import time; time.sleep(60)")
    assert large.killed_for_memory


def test_address_space_is_limited_as_well() -> None:
    done = python("bytearray(6 << 30)", Limits(memory_bytes=100 << 20))
    assert done.returncode == 1 and "MemoryError" in done.stderr


def test_limits_of_files_cpu_and_cores(tmp_path: Path) -> None:
    big = tmp_path / "big"
    done = python(f"open({str(big)!r}, 'wb').write(bytes(1 << 20))", Limits(file_bytes=1 << 16))
    assert done.returncode == 1 and "File too large" in done.stderr and big.stat().st_size <= 1 << 16
    done = python("fs = [open('/dev/null') for _ in range(100)]", Limits(files=32))
    assert done.returncode == 1 and "Too many open files" in done.stderr
    done = python("while True: pass", Limits(cpu_s=1.0, timeout_s=30))
    assert done.signal == signal.SIGXCPU and not done.timed_out
    assert run_child(["sh", "-c", "ulimit -c"]).stdout == "0\n"


def test_a_full_disk_is_the_childs_to_tell() -> None:
    done = python("open('/dev/full', 'wb', buffering=0).write(b'x')")
    assert done.returncode != 0 and "No space left on device" in done.stderr


def test_programs_and_users_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingProgram, match="no program 'no-such-program' on PATH"):
        run_child(["no-such-program"])
    with pytest.raises(MissingProgram, match=r"no program '\./here'"):
        run_child(["./here"], cwd=tmp_path)
    with pytest.raises(UsageError, match="no user 'noboby' on this machine: did you mean nobody"):
        run_child(["true"], user="noboby")
    with pytest.raises(InfrastructureError, match="cannot start true"):
        run_child(["true"], cwd=tmp_path / "missing")


def test_a_program_is_found_from_its_working_folder(tmp_path: Path) -> None:
    script = tmp_path / "here"
    script.write_text("#!/bin/sh\necho found\n")
    script.chmod(0o755)
    assert run_child(["./here"], cwd=tmp_path).stdout == "found\n"


@as_root
def test_privileges_are_dropped() -> None:
    done = run_child(["sh", "-c", "id -un; id -gn; id -G; echo $HOME"], user="nobody")
    name, group, groups, home = done.stdout.split()
    assert (name, group, home) == ("nobody", "nogroup", "/nonexistent")
    assert "0" not in groups.split()


@as_root
def test_another_user_needs_a_folder_it_can_enter(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match=r"'nobody' cannot enter .* temporary_folder\(..., user='nobody'\)"):
        run_child(["true"], user="nobody", cwd=tmp_path)
    with temporary_folder("mlsysopt-test-", user="nobody") as folder:
        assert run_child(["touch", "mine"], user="nobody", cwd=folder).returncode == 0
        assert (folder / "mine").owner() == "nobody"


@as_root
def test_a_child_of_another_user_dies_with_its_driver_as_well() -> None:
    assert driver_is_killed("run_child(['sh', '-c', 'echo $$ >&2; exec sleep 60'], user='nobody', on_output=say)")


def test_a_killed_driver_takes_its_child_along() -> None:
    assert driver_is_killed("run_child(['sh', '-c', 'echo $$; exec sleep 60'], on_output=say)")


def test_a_killed_driver_takes_the_child_of_a_thread_along() -> None:
    assert driver_is_killed(
        "t = threading.Thread(target=run_child, args=(['sh', '-c', 'echo $$; exec sleep 60'],), "
        "kwargs={'on_output': say}); t.start(); t.join()"
    )


def driver_is_killed(code: str) -> bool:
    """Kill a driver once its child has said its number; return whether the child is gone."""
    begin = "import threading\nfrom mlsysopt.core.processes import run_child\ndef say(line): print(line, flush=True)\n"
    with subprocess.Popen([sys.executable, "-c", begin + code], stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        child = int(driver.stdout.readline())
        assert Path(f"/proc/{child}").exists()
        driver.kill()
    return gone(child)


def test_a_child_outlives_the_thread_that_started_it() -> None:
    started: list[Any] = []

    def start() -> None:
        child = start_child(["sh", "-c", "echo up; exec sleep 60"], stdout=subprocess.PIPE)
        assert child.stdout is not None
        # The request to die with the parent is in force once the program itself runs.
        assert child.stdout.readline() == b"up\n"
        child.stdout.close()
        started.append(child)

    starter = threading.Thread(target=start)
    starter.start()
    starter.join()
    (child,) = started
    # The kernel signals when the thread ends; a child that got it would be dead in well under this.
    assert not child.has_ended(0.3)
    assert child.stop().signal == signal.SIGTERM


def test_ctrl_c_leaves_no_child() -> None:
    code = (
        "from mlsysopt.core.processes import run_child\nimport sys\n"
        "try:\n    run_child(['sh', '-c', 'sleep 60 & echo $! $$; wait'], on_output=lambda s: print(s, flush=True))\n"
        "except KeyboardInterrupt:\n    sys.exit(130)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        pids = [int(word) for word in driver.stdout.readline().split()]
        driver.send_signal(signal.SIGINT)
        assert driver.wait(timeout=30) == 130
    assert len(pids) == 2 and all(gone(pid) for pid in pids)


def test_an_exception_of_the_reader_leaves_no_child() -> None:
    def refuse(line: str) -> None:
        raise RuntimeError(line)

    with pytest.raises(RuntimeError, match=r"\d+") as refused:
        run_child(["sh", "-c", "echo $$; exec sleep 60"], on_output=refuse)
    assert gone(int(str(refused.value)))


def test_somebody_who_waits_for_our_children_is_reported() -> None:
    child = start_child(["true"])
    os.waitpid(child.pid, 0)
    with pytest.raises(ProcessError, match="somebody else waited"):
        child.wait()


def test_no_handle_is_left_open() -> None:
    run_child(["true"])
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        run_child(["true"], stdin="x")
    assert len(os.listdir("/proc/self/fd")) == before
    assert '"lines": []' in current_ledger().path.read_text()


def test_many_threads_at_once() -> None:
    results: list[str] = []
    threads = [
        threading.Thread(target=lambda n=n: results.append(run_child(["echo", str(n)]).stdout)) for n in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int(text) for text in results) == list(range(16))


def test_proportional_set_size_of_a_tree() -> None:
    assert tree_pss_bytes(os.getpid()) > 1 << 20
    assert tree_pss_bytes(2**22 - 3) == 0


def test_a_child_without_guards_takes_no_limits() -> None:
    child = start_child(["true"], guarded=False)
    assert child.has_ended(None) and child.wait().returncode == 0
    with pytest.raises(UsageError, match="limits need the guard programs"):
        start_child(["true"], limits=Limits(memory_bytes=2**30), guarded=False)


def test_a_file_that_may_not_run_is_no_missing_program(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("")
    with pytest.raises(InfrastructureError, match="Permission denied"):
        start_child([plain])
