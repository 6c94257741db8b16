"""One process at a time trains for a study, also between two trainings."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlsysopt.core.errors import StoreUnavailable
from mlsysopt.core.processes.identity import start_ticks, this_process
from mlsysopt.core.store import Store
from mlsysopt.design.ablate.fingerprint import Fingerprint
from mlsysopt.design.ablate.records import ROOM, Records

PRINT = Fingerprint({}, "", {})


def claimed_by(store: Store, pid: int) -> dict[str, Any]:
    ticks = start_ticks(pid)
    assert ticks is not None
    owner = dataclasses.replace(this_process(), pid=pid, ticks=ticks).to_json()
    store.add_sample(ROOM, "study", {"what": "claim", "owner": owner})
    return owner


def test_a_claim_holds_until_it_is_released_or_its_process_is_gone(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with Store.open(tmp_path / "a.db") as store:
            owner = claimed_by(store, other.pid)
            with pytest.raises(StoreUnavailable, match=f"process {other.pid} on .* trains for study 'study' now"):
                Records(store, "study").claim(PRINT, {})
            # The refused one left no claim of its own: it does not keep the other from going on.
            assert Records(store, "study")._claims == [owner]
            store.add_sample(ROOM, "study", {"what": "release", "owner": owner})
            Records(store, "study").claim(PRINT, {})
            Records(store, "study").release()
            claimed_by(store, other.pid)
            other.kill()
            other.wait()
            Records(store, "study").claim(PRINT, {})
    finally:
        other.kill()
        other.communicate()


def test_of_two_claims_the_first_holds(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with Store.open(tmp_path / "a.db") as store:
            mine = Records(store, "study")
            mine.claim(PRINT, {})
            claimed_by(store, other.pid)
            # The other one stands behind: this process goes on.
            Records(store, "study").claim(PRINT, {})
    finally:
        other.kill()
        other.communicate()
