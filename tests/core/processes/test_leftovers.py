"""After a kill -9 the next start cleans up, and only what was ours."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlsysopt.core.errors import InfrastructureError
from mlsysopt.core.places import artefact_header
from mlsysopt.core.processes import run_child, sweep_orphans, temporary_folder
from mlsysopt.core.processes.identity import Owner, start_ticks, this_process
from mlsysopt.core.processes.ledger import FORMAT, VERSION, current_ledger, ledger_folder

# A process number that no Linux gives out.
NOBODY = 2**22 - 5

HOLDS_A_FOLDER = """
import sys
from mlsysopt.core.processes import temporary_folder
with temporary_folder("held-") as folder:
    (folder / "data").write_text("x")
    print(folder, flush=True)
    sys.stdin.read()
"""
RUNS_A_TREE = """
from mlsysopt.core.processes import run_child, temporary_folder
with temporary_folder("held-") as folder:
    print(folder, flush=True)
    run_child(["sh", "-c", "setsid sleep 60 & echo $! $$; wait"], on_output=lambda line: print(line, flush=True))
"""


def started(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def line_of(driver: subprocess.Popen[str]) -> str:
    assert driver.stdout is not None
    return driver.stdout.readline().strip()


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def write_ledger(owner: Owner, lines: list[dict[str, Any]], token: str = "no such token") -> Path:
    ledger_folder().mkdir(parents=True, exist_ok=True)
    path = ledger_folder() / f"{owner.stem}.json"
    header = artefact_header(FORMAT, VERSION)
    path.write_text(json.dumps({**header, "owner": owner.to_json(), "token": token, "lines": lines}))
    return path


def dead_owner() -> Owner:
    return replace(this_process(), pid=NOBODY, ticks=1)


def folder_line(folder: Path) -> dict[str, Any]:
    return {"kind": "folder", "path": str(folder), "uid": os.getuid()}


def test_a_folder_is_gone_afterwards(tmp_path: Path) -> None:
    with temporary_folder(base=tmp_path / "made") as folder:
        (folder / "closed").mkdir(mode=0o000)
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()
    assert sweep_orphans() == []


def test_a_folder_is_gone_after_an_exception() -> None:
    with pytest.raises(RuntimeError), temporary_folder() as folder:
        raise RuntimeError
    assert not folder.exists()


def test_no_folder_where_none_can_be_made() -> None:
    with pytest.raises(InfrastructureError, match=r"cannot make .* folder"), temporary_folder(base=Path("/proc/none")):
        pass


def test_the_folder_of_a_killed_driver_is_swept() -> None:
    with started(HOLDS_A_FOLDER) as driver:
        folder = Path(line_of(driver))
        assert sweep_orphans() == []
        assert folder.is_dir()
        driver.kill()
    assert sweep_orphans() == [f"folder {folder}"]
    assert not folder.exists()
    assert sweep_orphans() == []
    assert list(ledger_folder().iterdir()) == []


def test_grandchildren_of_a_killed_driver_are_swept() -> None:
    with started(RUNS_A_TREE) as driver:
        folder = Path(line_of(driver))
        grandchild, _ = (int(word) for word in line_of(driver).split())
        driver.kill()
    # The child died with its driver; its own child, in a session of its own, could not.
    assert start_ticks(grandchild) is not None
    assert any(line.startswith(f"process {grandchild} ") for line in sweep_orphans())
    assert start_ticks(grandchild) is None
    assert not folder.exists()


def test_a_child_that_made_itself_a_daemon_is_ended_at_the_drivers_end() -> None:
    code = (
        "from mlsysopt.core.processes import run_child\n"
        "print(run_child(['sh', '-c', 'setsid sleep 60 >/dev/null 2>&1 & echo $!']).stdout)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert start_ticks(int(done.stdout)) is None


def test_a_recorded_child_is_ended_by_number_and_start_time(child: subprocess.Popen[bytes]) -> None:
    write_ledger(dead_owner(), [{"kind": "child", "pid": child.pid, "ticks": start_ticks(child.pid), "name": "sleep"}])
    assert sweep_orphans() == [f"process {child.pid} (sleep)"]
    assert child.wait(timeout=10) == -9


def test_a_number_that_was_used_again_is_left_alone(child: subprocess.Popen[bytes]) -> None:
    write_ledger(dead_owner(), [{"kind": "child", "pid": child.pid, "ticks": 1, "name": "sleep"}])
    assert sweep_orphans() == []
    assert child.poll() is None


@pytest.mark.parametrize(
    "owner",
    [
        lambda here: here,
        lambda here: replace(here, namespace="pid:[1]", pid=NOBODY),
        lambda here: replace(here, host="another machine", boot="another boot", pid=NOBODY),
        lambda here: replace(here, boot="", pid=NOBODY),
    ],
    ids=["living", "another container", "another machine", "unknown boot"],
)
def test_what_may_still_be_in_use_is_left_alone(owner: Any, child: subprocess.Popen[bytes], tmp_path: Path) -> None:
    folder = tmp_path / "held-0123456789ab"
    folder.mkdir()
    lines = [{"kind": "child", "pid": child.pid, "ticks": start_ticks(child.pid)}, folder_line(folder)]
    path = write_ledger(owner(this_process()), lines)
    assert sweep_orphans() == []
    assert child.poll() is None and folder.is_dir() and path.exists()


def test_after_a_restart_of_the_machine_only_folders_are_left(child: subprocess.Popen[bytes], tmp_path: Path) -> None:
    folder = tmp_path / "held-0123456789ab"
    folder.mkdir()
    lines = [{"kind": "child", "pid": child.pid, "ticks": start_ticks(child.pid)}, folder_line(folder)]
    write_ledger(replace(this_process(), boot="the boot before this one"), lines)
    assert sweep_orphans() == [f"folder {folder}"]
    assert child.poll() is None


def test_what_is_not_named_as_ours_is_never_removed(tmp_path: Path) -> None:
    precious, linked = tmp_path / "precious", tmp_path / "link-0123456789ab"
    precious.mkdir()
    linked.symlink_to(precious)
    write_ledger(dead_owner(), [folder_line(precious), folder_line(linked)])
    assert sweep_orphans() == []
    assert precious.is_dir() and linked.is_symlink()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"artefact": {"format": "ledger", "version": 99}}'])
def test_a_ledger_that_cannot_be_read_is_left_alone(text: str) -> None:
    ledger_folder().mkdir(parents=True)
    path = ledger_folder() / f"{NOBODY}-1-0.json"
    path.write_text(text)
    assert sweep_orphans() == []
    assert path.read_text() == text


def test_a_draft_without_its_file_is_removed() -> None:
    ledger_folder().mkdir(parents=True)
    (ledger_folder() / f"{NOBODY}-1-0.tmp").write_text("{")
    assert sweep_orphans() == []
    assert list(ledger_folder().iterdir()) == []


def test_the_ledger_is_removed_at_a_clean_end() -> None:
    code = (
        "from mlsysopt.core.processes import run_child, temporary_folder\n"
        "with temporary_folder():\n    run_child(['true'])\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert list(ledger_folder().iterdir()) == []


def test_an_unfinished_block_is_cleaned_up_at_the_end_of_python() -> None:
    code = (
        "from mlsysopt.core.processes import start_child, temporary_folder\n"
        "block = temporary_folder()\nchild = start_child(['sleep', '60'])\nprint(child.pid, block.__enter__())\n"
        "import os, sys; sys.stdout.flush(); block.gen = None"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    pid, folder = done.stdout.split()
    assert start_ticks(int(pid)) is None
    assert not Path(folder).exists()


def test_threads_share_one_ledger() -> None:
    def work() -> None:
        for _ in range(20):
            with temporary_folder() as folder:
                assert folder.is_dir()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert json.loads(current_ledger().path.read_bytes())["lines"] == []


def test_a_forked_process_has_a_ledger_of_its_own() -> None:
    with temporary_folder() as folder:
        forked = multiprocessing.get_context("fork").Process(target=_fork)
        forked.start()
        forked.join(30)
        assert forked.exitcode == 0
        assert folder.is_dir()
    assert sweep_orphans() == []


def _fork() -> None:
    assert run_child(["echo", "x"]).stdout == "x\n"
    assert current_ledger().owner.pid == os.getpid()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_full_disk_costs_one_warning_and_no_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this machine allows no mounts")
    try:
        (disk / "mlsysopt/ledger").mkdir(parents=True)
        with pytest.raises(OSError), open(disk / "ballast", "wb", buffering=0) as ballast:
            while True:
                ballast.write(bytes(4096))
        monkeypatch.setenv("XDG_STATE_HOME", str(disk))
        with caplog.at_level(logging.WARNING, logger="mlsysopt"), temporary_folder() as folder:
            assert run_child(["echo", "x"]).stdout == "x\n"
        assert not folder.exists()
        assert [message for message in caplog.messages if "No space left on device" in message] == caplog.messages
        assert len(caplog.messages) == 1
    finally:
        subprocess.run(["umount", str(disk)], check=True)
