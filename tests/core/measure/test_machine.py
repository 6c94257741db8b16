"""The machine and its state, also where the kernel tells nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlsysopt.core.errors import UsageError
from mlsysopt.core.measure import Counters, conditions, counters, is_quiet, machine, timed
from mlsysopt.core.measure import surroundings as module


def test_machine_is_json_and_its_key_ignores_patch_releases() -> None:
    here = machine()
    assert json.loads(json.dumps(here.as_dict()))["key"] == here.key()
    assert here.cores >= 1 and here.memory_bytes > 0 and here.cpu
    assert str(here.cores) in here.text() and "\n" not in here.text()
    one = replace(here, kernel="Linux 6.1.7-generic")
    assert one.key() == replace(one, kernel="Linux 6.1.9-generic", python="3.99.0", packages={}).key()
    for other in ({"cpu": "x"}, {"cores": 99}, {"isa": ()}, {"kernel": "Linux 6.2.0"}, {"memory_bytes": 2**40}):
        assert replace(one, **other).key() != one.key()  # type: ignore[arg-type]


def test_who_multiplies_bf16() -> None:
    here = machine()
    assert not replace(here, isa=("avx2", "avx512f", "avx512_vnni")).multiplies_bf16
    assert replace(here, isa=("avx512f", "avx512_bf16")).multiplies_bf16
    assert replace(here, isa=("avx512f", "amx_bf16")).multiplies_bf16


def test_conditions_since_counters() -> None:
    found = conditions(counters())
    assert found.load1 >= 0
    assert found.major_faults >= 0
    assert found.steal_share is None or 0 <= found.steal_share <= 1


def test_steal_is_the_share_of_all_ticks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    monkeypatch.setattr(module, "_STAT", stat)
    stat.write_text("cpu  100 0 0 800 0 0 0 100 50 0\ncpu0 1\n")
    assert conditions(Counters(50, 500, 0)).steal_share == pytest.approx(0.1)
    assert conditions(Counters(100, 1000, 0)).steal_share == 0.0
    stat.write_text("cpu 1 2\n")
    assert conditions().steal_share is None


@pytest.mark.parametrize(
    ("text", "quiet"),
    [
        ("some avg10=9.99 avg60=50.00 avg300=0.00 total=1\nfull avg10=0.00\n", True),
        ("some avg10=10.00 avg60=0.00 avg300=0.00 total=1\n", False),
        ("nonsense", False),
        (None, False),
    ],
)
def test_quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None, quiet: bool) -> None:
    pressure = tmp_path / "cpu"
    monkeypatch.setattr(module, "_PRESSURE", pressure)
    if text is not None:
        pressure.write_text(text)
    assert is_quiet() is quiet


def test_timed_is_calibrated() -> None:
    short = timed(lambda: sum(range(1000)), min_time_s=0.002)
    long = timed(lambda: sum(range(8000)), min_time_s=0.002)
    assert short.low_s <= short.median_s <= short.high_s
    assert short.loops > long.loops
    assert 4 < long.median_s / short.median_s < 16


def test_timed_rotates_working_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlsysopt.core.measure.micro.last_level_bytes", lambda: 1 << 20)
    seen: set[int] = set()
    array = np.zeros(1 << 15)
    found = timed(lambda x: seen.add(x.ctypes.data), cold=[array], min_time_s=0.0005)
    assert found.sets == 8
    assert len(seen) == 8
    assert array.ctypes.data not in seen


def test_timed_refuses() -> None:
    with pytest.raises(UsageError, match="at least 6 repeats"):
        timed(lambda: None, repeats=5)
    with pytest.raises(UsageError, match="min_time_s"):
        timed(lambda: None, min_time_s=0.0)
