"""Kill -9 of a running ablation at random moments: the same command goes on, and the table is the same."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from mlsysopt.core.store import Store
from mlsysopt.design.ablate.records import ROOM

pytestmark = [pytest.mark.real, pytest.mark.slow]

STUDY = """
import random, time
from mlsysopt.design import ablate


def make():
    return {}


def train(model, data, *, seed, a=True, b=True, c=True, d=True):
    time.sleep(0.03)  # sleep
    value = 0.9 + random.Random(seed).gauss(0, 0.006) + random.Random(repr((seed, a, b, c, d))).gauss(0, 0.006)
    return {"accuracy": value - (0.0 if a else 0.03) - (0.0 if c or d else 0.05)}


study = ablate.study(make, train, maximize="accuracy", margin=0.012, store="ablate.db")
study.options(a=False, b=False, c=False, d=False).pairs(("c=False", "d=False"), top=2)
"""
TIMES = ("cpu_ratio", "rss_bytes")


def command(folder: Path, *, workers: int) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "mlsysopt", "ablate", "run", "study.py", "--json", "--workers", str(workers)]
    return subprocess.Popen(
        words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def finished(process: subprocess.Popen[str]) -> dict[str, object]:
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    table = json.loads(out)
    return {row["name"]: {k: v for k, v in row.items() if k not in TIMES} for row in table["rows"]}


def folder(tmp_path: Path, name: str, *, sleep_s: float = 0.03) -> Path:
    place = tmp_path / name
    place.mkdir()
    (place / "study.py").write_text(STUDY.replace("0.03)  # sleep", f"{sleep_s})"))
    return place


@pytest.mark.timeout(280)
def test_ten_kills_change_nothing(tmp_path: Path) -> None:
    whole = finished(command(folder(tmp_path, "whole"), workers=0))
    torn = folder(tmp_path, "torn")
    rng = random.Random(4)
    for kill in range(10):
        process = command(torn, workers=kill % 2 * 2)
        assert process.stderr is not None
        # The moment is counted in finished trainings, not in seconds: the machine may be slow.
        for _ in range(rng.randint(1, 5)):
            if not process.stderr.readline():
                break
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert finished(command(torn, workers=2)) == whole
    with Store.open(torn / "ablate.db", read_only=True) as store:
        rows = [sample.row for sample in store.samples(ROOM)]
    trained = Counter((row["row"], row["seed"], row["key"]) for row in rows if row["what"] == "trial")
    assert max(trained.values()) == 1
    began = Counter(row["key"] for row in rows if row["what"] == "began")
    lost = Counter(row["key"] for row in rows if row["what"] == "lost")
    # Whatever began more than once had been lost in between.
    assert all(count == 1 + lost[key] for key, count in began.items())
    assert sum(lost.values()) >= 1


def test_a_second_run_waits_for_the_first(tmp_path: Path) -> None:
    place = folder(tmp_path, "shared", sleep_s=2.0)
    first = command(place, workers=0)
    assert first.stderr is not None and first.stderr.readline()
    second = command(place, workers=0)
    _, err = second.communicate(timeout=60)
    first.kill()
    first.communicate()
    assert second.returncode == 1
    assert "trains for study 'ablation' now" in err


def test_ctrl_c_keeps_what_is_there(tmp_path: Path) -> None:
    place = folder(tmp_path, "stopped", sleep_s=0.3)
    process = command(place, workers=2)
    assert process.stderr is not None and process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert json.loads(out)["status"] == "interrupted"
    assert "mlsysopt ablate resume" in err
