"""Recording a table: half Sobol, half tuners, and a kill that costs one trial."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from bench import tune_rocksdb_record

COMMAND = ["--workload", "mixgraph", "--trials", "5"]


@pytest.fixture
def table(fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", str(fake.folder), prepend=":")
    return tmp_path / "tables" / "t.json.gz"


def read(table: Path) -> dict[str, Any]:
    return json.loads(gzip.decompress(table.read_bytes()))


def test_a_recording_is_a_table_of_columns(table: Path) -> None:
    assert tune_rocksdb_record.main([*COMMAND, "--out", str(table)]) == 0
    found = read(table)
    columns = found["columns"]
    assert columns["role"] == ["canary", *["trial"] * 4, "canary", "trial"]
    assert columns["source"] == ["default", "sobol", "random-0", "sobol", "tpe-0", "default", "sobol"]
    # A canary and the trials that it stands for share their seed: the same operations in the same order.
    assert len(set(columns["seed"][:5])) == 1 and columns["seed"][5] == columns["seed"][6] != columns["seed"][0]
    assert all(len(values) == 7 for group in ("config", "effective", "metrics") for values in found[group].values())
    assert found["config"]["block_size"][0] is None and found["config"]["block_size"][1] is not None
    assert "memory_bytes" not in found["metrics"] and found["static"]["memory_bytes"][0] == 136 * 1024**2
    assert found["fingerprint"]["workload"] == "mixgraph" and "--trials 5" in found["command"]


def test_the_same_command_goes_on_after_a_kill(table: Path, fake: Any) -> None:
    assert tune_rocksdb_record.main([*COMMAND, "--out", str(table)]) == 0
    whole, lines = read(table), table.with_name("t.jsonl")
    kept = lines.read_text().splitlines(keepends=True)
    lines.write_text("".join(kept[:4]) + kept[4][: len(kept[4]) // 2])
    table.unlink()
    before = len(fake.calls())
    assert tune_rocksdb_record.main([*COMMAND, "--out", str(table)]) == 0
    assert len(fake.calls()) - before == 3 * 4
    again = read(table)
    assert again["columns"]["number"] == whole["columns"]["number"]
    assert again["columns"]["seed"] == whole["columns"]["seed"]


def test_another_recording_is_not_continued(table: Path) -> None:
    assert tune_rocksdb_record.main([*COMMAND, "--out", str(table)]) == 0
    with pytest.raises(SystemExit, match="belongs to another recording"):
        tune_rocksdb_record.main([*COMMAND, "--seed", "2", "--out", str(table)])


def test_a_failing_default_stops(table: Path, fake: Any) -> None:
    fake.behave("fail", "run")
    with pytest.raises(SystemExit, match="the default itself fails"):
        tune_rocksdb_record.main([*COMMAND, "--out", str(table)])
    assert not table.exists()


def test_without_db_bench_nothing_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tune_rocksdb_record.main([*COMMAND, "--out", str(tmp_path / "t.json.gz")]) == 3
