"""Callables and commands as sides; CPU time of what they start."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlsysopt.core.errors import InfrastructureError, MeasureError, MissingProgram
from mlsysopt.core.measure import SideFailed, compare, run_command, tree_cpu
from mlsysopt.core.measure.clocks import Stopwatch
from mlsysopt.core.measure.sides import describe, runner
from mlsysopt.core.processes import sweep_orphans

BURN = "import time\nwhile time.process_time() < {seconds}: pass"


def burn(seconds: float) -> list[str]:
    return [sys.executable, "-c", BURN.replace("{seconds}", str(seconds))]


def test_seed_is_given_to_those_who_want_it() -> None:
    seen: list[object] = []
    runner(lambda seed: seen.append(seed))(7)
    runner(lambda anything: seen.append(anything))(8)
    runner(lambda steps=100: seen.append(steps))(9)
    runner(lambda steps=100, seed=0: seen.append((steps, seed)))(10)
    runner(lambda *, seed: seen.append(seed))(11)
    runner(lambda: seen.append(None))(12)
    assert seen == [7, 8, 100, (100, 10), 11, None]


def test_callable_with_other_needs_is_refused() -> None:
    with pytest.raises(MeasureError, match="needs a, b; a side takes the round's seed or nothing"):
        runner(lambda a, b: None)


def test_only_numbers_of_a_mapping_are_metrics() -> None:
    assert runner(lambda: {"a": 1, "note": "text", "ok": True})(1).values == {"a": 1.0, "ok": 1.0}
    assert runner(lambda: [1, 2])(1).values == {}


def test_cpu_of_a_command_includes_its_children() -> None:
    code = f"import subprocess, sys\nsubprocess.run({burn(0.3)!r}, check=True)"
    reading = run_command([sys.executable, "-c", code])
    assert 0.3 < reading.cpu_s < 0.3 + 0.4
    assert reading.values["cpu_s"] == reading.cpu_s
    assert reading.values["max_rss_bytes"] > 1e6


def test_sleeping_costs_no_cpu() -> None:
    reading = run_command(["sleep", "0.2"])
    assert reading.wall_s >= 0.2
    assert reading.cpu_s < 0.1


def test_stopwatch_counts_children_that_ended_and_that_live() -> None:
    with Stopwatch() as watch:
        subprocess.run(burn(0.2), check=True)
    assert 0.2 < watch.cpu_s < 0.6
    child = subprocess.Popen(
        [sys.executable, "-c", BURN.format(seconds=0.2) + "\nprint('done', flush=True)\ninput()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert child.stdout is not None
        with Stopwatch() as watch:
            child.stdout.readline()
        assert watch.cpu_s > 0.15
        before = tree_cpu()
    finally:
        child.communicate(b"\n")
    # The child's earlier seconds were counted while it lived; its end adds next to nothing.
    assert -0.05 < tree_cpu() - before < 0.15


def test_stopwatch_counts_threads() -> None:
    start = time.process_time()
    with Stopwatch() as watch:
        sum(range(300_000))
    assert 0 < watch.cpu_s <= time.process_time() - start


def test_commands_are_strings_or_lists_and_get_the_seed(tmp_path: Path) -> None:
    out = tmp_path / "seeds"
    code = f"import os, sys; open({str(out)!r}, 'a').write(sys.argv[1] + ' ' + os.environ['MLSYSOPT_SEED'] + '\\n')"
    runner([sys.executable, "-c", code, "{seed}"])(41)
    runner(f"{sys.executable} -c '{code.replace(chr(39), chr(34))}' {{seed}}")(42)
    assert out.read_text() == "41 41\n42 42\n"


def test_compare_commands() -> None:
    found = compare(burn(0.15), burn(0.05), clock="cpu", warmup=0)
    assert found.verdict == "proven"
    assert found.other is not None and found.other.clock == "wall"


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        ([sys.executable, "-c", "raise SystemExit('bad knob')"], "ended with exit status 1: bad knob"),
        (["sh", "-c", "kill -SEGV $$"], "was killed by signal SIGSEGV"),
    ],
)
def test_failing_command(argv: list[str], reason: str) -> None:
    with pytest.raises(SideFailed) as caught:
        run_command(argv)
    assert caught.value.failure.kind == "crashed"
    assert reason in str(caught.value)


def test_time_out_kills_the_whole_group(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    with pytest.raises(SideFailed, match=r"took longer than 0\.3 s") as caught:
        run_command(["sh", "-c", f"sleep 60 & echo $! > {pid_file}; wait"], timeout_s=0.3)
    assert caught.value.failure.kind == "timeout"
    state = Path(f"/proc/{pid_file.read_text().strip()}/stat")
    deadline = time.monotonic() + 10
    while running(state):
        assert time.monotonic() < deadline, "the grandchild survived its group"


def test_command_of_a_killed_driver_is_swept(tmp_path: Path) -> None:
    pipe = tmp_path / "pid"
    os.mkfifo(pipe)
    code = (
        f"from mlsysopt.core.measure import run_command; run_command(['sh', '-c', 'echo $$ > {pipe}; exec sleep 60'])"
    )
    driver = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": ":".join(sys.path)})
    pid = int(pipe.read_text())
    driver.kill()
    driver.wait()
    assert running(Path(f"/proc/{pid}/stat"))
    assert [line for line in sweep_orphans() if f"process {pid} " in line]
    assert not running(Path(f"/proc/{pid}/stat"))


def test_what_a_command_leaves_in_its_group_is_gone(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    run_command(["sh", "-c", f"sleep 60 & echo $! > {pid_file}"])
    state = Path(f"/proc/{pid_file.read_text().strip()}/stat")
    deadline = time.monotonic() + 10
    while running(state):
        assert time.monotonic() < deadline, "it would disturb the next round"


def test_nothing_runs_in_front_of_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    # The kernel charges what a guard program costs before its exec to the command.
    started: list[list[str]] = []
    real = subprocess.Popen

    def popen(argv: list[str], **given: Any) -> Any:
        started.append(argv)
        return real(argv, **given)

    monkeypatch.setattr(subprocess, "Popen", popen)
    run_command(["true"])
    assert started == [["true"]]


def test_a_given_environment_stands_alone() -> None:
    code = "import os, sys; sys.exit(sorted(os.environ.get(name, '') for name in ('A', 'HOME')) != ['', '1'])"
    assert "HOME" in os.environ
    run_command([sys.executable, "-c", code], env={"A": "1"})


def running(state: Path) -> bool:
    """Whether a process is there and not merely a zombie that nobody has waited for yet."""
    try:
        return state.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_programs_that_cannot_be_started(tmp_path: Path) -> None:
    with pytest.raises(MissingProgram, match="no program 'no-such-program' on PATH"):
        run_command(["no-such-program"])
    plain = tmp_path / "plain"
    plain.write_text("")
    with pytest.raises(InfrastructureError, match=r"cannot start .*/plain: Permission denied"):
        run_command([str(plain)])
    with pytest.raises(MeasureError, match="working directory"):
        run_command(["true"], cwd=tmp_path / "absent")
    with pytest.raises(MeasureError, match="empty command"):
        runner("")


@pytest.mark.parametrize(("side", "name"), [(os.getpid, "getpid"), (["a", "b c"], "a 'b c'"), ("x  y", "x  y")])
def test_names(side: Callable[[], object] | list[str] | str, name: str) -> None:
    assert describe(side) == name
