"""Ray passes the same contract as the local executors, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mlsysopt.core.executors import Ray
from mlsysopt.core.processes import sweep_orphans
from mlsysopt.core.processes.strays import carriers
from mlsysopt.testing.executors import ExecutorContract

pytest.importorskip("ray", reason="ray is not installed: pip install 'mlsysopt[cluster]'")
pytestmark = [pytest.mark.real, pytest.mark.slow]


class TestRay(ExecutorContract):
    @classmethod
    def make_executor(cls) -> Ray:
        return Ray(workers=2)


DRIVER = """
import os, sys
from mlsysopt.core.executors import Ray
with Ray(workers=1) as ray:
    print(ray.submit(pow, 2, 10).result(), flush=True)
    if sys.argv[1] == "wait":
        sys.stdin.read()
with Ray(workers=1) as again:
    print(again.submit(pow, 2, 3).result())
"""


@pytest.fixture
def surroundings(tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "RAY_"))}
    (tmp_path / "home").mkdir()
    return {
        **kept,
        "HOME": str(tmp_path / "home"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }


def test_nothing_is_left_in_the_home_or_among_the_processes(tmp_path: Path, surroundings: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, "end"], env=surroundings, capture_output=True, text=True, timeout=110
    )
    assert done.stdout.split() == ["1024", "8"], done.stderr
    assert list((tmp_path / "home").iterdir()) == []
    assert ray_processes(tmp_path) == []
    assert list((tmp_path / "state/mlsysopt/ledger").glob("*.json")) == []


def test_a_killed_driver_leaves_nothing_that_a_sweep_does_not_end(
    tmp_path: Path, surroundings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, "wait"],
        env=surroundings, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as driver:  # fmt: skip
        assert driver.stdout is not None
        assert driver.stdout.readline() == "1024\n"
        folder = temporary_folder_of(tmp_path)
        assert folder.is_dir()
        # A process that writes its title over its environment would be nobody's: not even seen here.
        deadline = time.monotonic() + 30
        while strangers(tmp_path) != {driver.pid} or b"DashboardAgent" not in titles(tmp_path):
            assert time.monotonic() < deadline, (strangers(tmp_path), titles(tmp_path))
            time.sleep(0.1)
        driver.kill()
    monkeypatch.setenv("XDG_STATE_HOME", surroundings["XDG_STATE_HOME"])
    assert f"folder {folder}" in sweep_orphans()
    assert ray_processes(tmp_path) == []
    assert not folder.exists()


def ray_processes(tmp_path: Path) -> list[int]:
    """Processes of the cluster: they have the test's home in their environment."""
    mark = f"HOME={tmp_path / 'home'}".encode()
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def strangers(tmp_path: Path) -> set[int]:
    """Processes of the cluster that do not carry the token of its ledger: the driver itself alone."""
    return set(ray_processes(tmp_path)) - set(carriers(ledger_of(tmp_path)["token"]))


def titles(tmp_path: Path) -> bytes:
    found: list[bytes] = []
    for pid in ray_processes(tmp_path):
        with suppress(OSError):
            found.append(Path(f"/proc/{pid}/cmdline").read_bytes())
    return b" ".join(found)


def ledger_of(tmp_path: Path) -> dict[str, Any]:
    (ledger,) = (tmp_path / "state/mlsysopt/ledger").glob("*.json")
    return json.loads(ledger.read_text())


def temporary_folder_of(tmp_path: Path) -> Path:
    for line in ledger_of(tmp_path)["lines"]:
        if line["kind"] == "folder" and Path(line["path"]).name.startswith("ray-"):
            return Path(line["path"])
    raise AssertionError("the driver wrote no folder of Ray's into its ledger")
