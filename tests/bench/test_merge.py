"""Merging results: every figure comes from a file, a failed bar is shown as failed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import merge

RECORD: dict[str, Any] = {
    "bench": "core_x",
    "claim": "A claim",
    "peer": "plain loop 1.0",
    "protocol": "interleaved",
    "date": "2026-01-01",
    "seconds": 3.2,
    "machine": {"cpu": "A | B", "cores": 2, "memory_bytes": 24 * 2**30},
    "headline": "1.2x [1.1, 1.3], 6 rounds",
    "passed": False,
    "bars": [
        {
            "name": "core.1",
            "value": float("nan"),
            "relation": ">=",
            "limit": 0.9,
            "must": True,
            "about": "",
            "passed": False,
        },
        {"name": "core.2", "value": 2.0, "relation": "<=", "limit": 1, "must": False, "about": "x", "passed": False},
    ],
}


def test_results_show_failures_and_keep_cells_apart() -> None:
    page = merge.results_page([RECORD])
    assert "| core.1 | nan | >= 0.9 | **fail** |  |" in page
    assert "| core.2 | 2 | <= 1 | **fail** (stretch) | x |" in page
    assert "A \\| B, 2 cores, 24 GiB" in merge.summary([RECORD])
    assert "(0 of 1, missed: core.1)" in merge.summary([RECORD])
    two = merge.summary([RECORD, {**RECORD, "bench": f"{RECORD['bench']}_again"}])
    # One row per room, a line for each bench; what both have in common stands once.
    assert two.count("\n") == 3 and two.count("0 of 1") == 2 and two.count("2 cores") == 1
    assert merge.summary([{**RECORD, "headline": ""}]).count("\n") == 2


def test_files_are_written_and_a_second_run_changes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bench" / "results").mkdir(parents=True)
    (tmp_path / "bench" / "results" / "core_x.json").write_text(json.dumps(RECORD))
    (tmp_path / "README.md").write_text(f"# T\n\n{merge.BEGIN}\nold\n{merge.END}\n\nend\n")
    monkeypatch.setattr(merge, "ROOT", tmp_path)
    monkeypatch.setattr(merge, "RESULTS", tmp_path / "bench" / "results")
    assert merge.main() == 0
    first = (tmp_path / "README.md").read_text()
    assert "old" not in first and "`core_x`" in first and first.endswith("end\n")
    merge.main()
    assert (tmp_path / "README.md").read_text() == first
