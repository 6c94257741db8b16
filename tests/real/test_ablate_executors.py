"""The same study in this process, on loky and on Ray: the same table."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.real.ablate_study import command, finished, folder

pytest.importorskip("ray", reason="ray is not installed: pip install 'mlsysopt[cluster]'")
pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.mark.timeout(280)
def test_ray_gives_the_table_that_loky_gives(tmp_path: Path) -> None:
    alone = finished(command(folder(tmp_path, "alone"), workers=0))
    loky = finished(command(folder(tmp_path, "loky"), "--executor", "local", workers=2))
    ray = finished(command(folder(tmp_path, "ray"), "--executor", "ray", workers=2))
    assert {row["word"] for row in alone.values()} >= {"needed", "negligible"}
    assert loky == alone
    assert ray == alone
