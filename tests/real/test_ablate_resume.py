"""Kill -9 of a running ablation at random moments: the same command goes on, and the table is the same."""

from __future__ import annotations

import json
import random
import signal
from collections import Counter
from pathlib import Path

import pytest

from mlsysopt.core.store import Store
from mlsysopt.design.ablate.records import ROOM
from tests.real.ablate_study import command, finished, folder

pytestmark = [pytest.mark.real, pytest.mark.slow]


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
