"""The timing slot: one holder per machine, free as soon as the holder is gone."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from mlsysopt.core.errors import InfrastructureError
from mlsysopt.core.processes import exclusive_slot
from mlsysopt.core.processes.slot import holds_slot

HOLDER = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from mlsysopt.core.processes import exclusive_slot
with exclusive_slot():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def own_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The machine's real slot may be held by somebody's study.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_a_thread_may_enter_again_and_leaves_at_the_end() -> None:
    with exclusive_slot():
        with pytest.raises(RuntimeError), exclusive_slot():
            raise RuntimeError
        assert holds_slot()
    assert not holds_slot()


def test_another_thread_waits() -> None:
    order: list[str] = []

    def other() -> None:
        with exclusive_slot():
            order.append("other")

    thread = threading.Thread(target=other)
    with exclusive_slot():
        thread.start()
        # Long enough for a thread that does not wait to get in.
        thread.join(0.2)
        order.append("first")
    thread.join(30)
    assert order == ["first", "other"]


def test_the_slot_of_a_killed_process_is_free(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        entered = threading.Event()

        def enter() -> None:
            with exclusive_slot():
                entered.set()

        waiting = threading.Thread(target=enter)
        waiting.start()
        assert not entered.wait(0.2)
        holder.kill()
        assert entered.wait(30)
        waiting.join()


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mlsysopt-exclusive.lock").symlink_to(tmp_path / "target")
    with pytest.raises(InfrastructureError, match="cannot open the lock file"), exclusive_slot():
        pass
    assert not (tmp_path / "target").exists()
