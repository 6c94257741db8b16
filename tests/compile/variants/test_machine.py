"""The profile of a machine: kept, found again, not mixed up, and no trouble when its file is."""

from __future__ import annotations

import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mlsysopt.compile.variants import fingerprint as module
from mlsysopt.compile.variants.calibration import Roofline
from mlsysopt.compile.variants.fingerprint import Fingerprint, fingerprint
from mlsysopt.compile.variants.machine import MachineProfile
from mlsysopt.compile.variants.site import Epilogue, Site
from mlsysopt.compile.variants.timing import Row
from mlsysopt.core.errors import ArtefactError
from mlsysopt.core.places import cache_dir
from tests.compile.variants.planted import Planted, row

ROWS = [row("test.a", m, 64, 32, m * 1e-6) for m in (1, 8)]
OTHER = replace(fingerprint(), cpu="Another CPU")


def test_rows_are_there_again(tmp_path: Path) -> None:
    with MachineProfile.open(tmp_path / "m.db") as profile:
        profile.add(ROWS)
        profile.add([replace(ROWS[0], seconds=5.0)])
        assert len(profile.rows) == 2
    again = MachineProfile.open(tmp_path / "m.db")
    assert again.rows == [ROWS[1], replace(ROWS[0], seconds=5.0)]
    assert again.find("test.a", "1", Site.linear(8, 64, 32)) == ROWS[1]
    assert again.find("test.a", "1", Site.linear(8, 64, 32), "warm") is None
    assert again.find("test.a", "2", Site.linear(8, 64, 32)) is None, "a newer version was not measured"
    assert again.find("test.a", "1", Site.linear(8, 64, 32, threads=2)) is None
    assert again.others == {}


def test_the_default_file_lies_in_the_cache_folder() -> None:
    with MachineProfile.open() as profile:
        profile.add(ROWS)
        assert profile.path == cache_dir() / "machine.db"
    assert len(MachineProfile.open().rows) == 2


def test_looking_makes_no_file(tmp_path: Path) -> None:
    MachineProfile.open(tmp_path / "deep" / "m.db").close()
    assert not (tmp_path / "deep").exists()


def test_a_row_survives_json() -> None:
    epilogue = Epilogue(True, "gelu", True)
    for one in (ROWS[0], row("test.b", 3, 5, 7, 1e-3, epilogue=epilogue, threads=4, residency="warm")):
        assert Row.of(json.loads(json.dumps(one.as_dict()))) == one


def test_series_join_rows_that_differ_in_m_and_bias_alone() -> None:
    profile = MachineProfile()
    gelu = row("test.a", 8, 64, 32, 2e-6, epilogue=Epilogue(activation="gelu"))
    bias = row("test.a", 16, 64, 32, 3e-6, epilogue=Epilogue(bias=True))
    profile.add([*ROWS, gelu, bias, row("test.a", 8, 64, 33, 1e-6), row("test.a", 8, 64, 32, 1e-6, version="0")])
    found = profile.series(Planted("test.a"), Site.linear(100, 64, 32))
    assert found == {1: ROWS[0], 8: ROWS[1], 16: bias}
    assert len(profile.rows_of(Planted("test.a"))) == 5


class TestOtherMachines:
    def test_their_rows_are_not_used_and_both_are_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with MachineProfile.open(tmp_path / "m.db") as profile:
            profile.add(ROWS)
        monkeypatch.setattr(module, "_fingerprint", lambda cap: OTHER)
        with MachineProfile.open(tmp_path / "m.db") as profile:
            assert profile.here == OTHER
            assert profile.rows == []
            ((whose, count),) = profile.others.items()
            assert (count, whose.key != OTHER.key) == (2, True)
            profile.add(ROWS[:1])
        monkeypatch.undo()
        back = MachineProfile.open(tmp_path / "m.db")
        assert len(back.rows) == 2
        assert back.others == {OTHER: 1}

    @pytest.mark.parametrize(
        "changed",
        [
            {"isa": ("avx2",)},
            {"caches": (1, 2)},
            {"libraries": (("torch", "9"),)},
            {"cap": "baseline"},
            {"cores": 99},
        ],
    )
    def test_what_makes_another_machine(self, changed: dict[str, object]) -> None:
        assert replace(fingerprint(), **changed).key != fingerprint().key  # type: ignore[arg-type]

    def test_a_cap_that_takes_something_away_is_another_machine(self) -> None:
        assert fingerprint("avx512") == fingerprint("")
        assert fingerprint("baseline") != fingerprint("")
        assert "capped at baseline" in str(fingerprint("baseline"))

    def test_fingerprints_survive_json(self) -> None:
        from dataclasses import asdict

        assert Fingerprint.of(json.loads(json.dumps(asdict(OTHER)))) == OTHER


class TestExchange:
    def test_export_and_import(self, tmp_path: Path) -> None:
        profile = MachineProfile()
        profile.add(ROWS)
        assert profile.export(tmp_path / "m.json") == 2
        with MachineProfile.open(tmp_path / "new.db") as new:
            assert new.import_(tmp_path / "m.json") == (2, profile.here)
            assert new.rows == ROWS
        assert MachineProfile.open(tmp_path / "new.db").rows == ROWS

    def test_another_machines_rows_are_kept_apart(self, tmp_path: Path) -> None:
        there = MachineProfile(here=OTHER)
        there.add(ROWS)
        there.export(tmp_path / "m.json")
        with MachineProfile.open(tmp_path / "new.db") as new:
            assert new.import_(tmp_path / "m.json") == (2, OTHER)
            assert (new.rows, new.others) == ([], {OTHER: 2})
        again = MachineProfile.open(tmp_path / "new.db")
        assert (again.rows, again.others) == ([], {OTHER: 2})

    def test_bad_files_are_refused(self, tmp_path: Path) -> None:
        profile, place = MachineProfile(), tmp_path / "m.json"
        profile.add(ROWS)
        profile.export(place)
        content = json.loads(place.read_text())
        bad = {
            "{": "is damaged: JSONDecodeError",
            "[]": "this is no machine-profile file",
            json.dumps({**content, "rows": [{"variant": "x"}]}): "is damaged: KeyError",
            json.dumps({**content, "artefact": {**content["artefact"], "version": 9}}): "has version 9",
        }
        for text, message in bad.items():
            place.write_text(text)
            with pytest.raises(ArtefactError, match=message):
                profile.import_(place)
        assert profile.rows == ROWS


class TestTrouble:
    @pytest.mark.parametrize("kind", ["garbage", "foreign", "folder", "damaged rows"])
    def test_a_file_that_cannot_be_used(self, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        place = tmp_path / "m.db"
        if kind == "garbage":
            place.write_bytes(b"SQLite format 3\0" + b"\xff" * 4000)
        elif kind == "folder":
            place.mkdir()
        elif kind == "foreign":
            with sqlite3.connect(place) as connection:
                connection.execute("CREATE TABLE orders (id INTEGER)")
        else:
            with MachineProfile.open(place) as profile:
                profile.add(ROWS)
            with sqlite3.connect(place) as connection:
                connection.execute('UPDATE mlsysopt_sample SET row = \'{"kind": "row"}\'')
        before = None if kind == "folder" else place.read_bytes()
        with caplog.at_level(logging.WARNING, logger="mlsysopt.compile"):
            profile = MachineProfile.open(place)
            profile.add(ROWS)
            profile.add(ROWS)
        assert profile.path is None
        assert len(profile.rows) == 2
        (said,) = [record.getMessage() for record in caplog.records]
        assert said.startswith(f"what is measured on this machine is kept in memory only: {place}: ")
        assert before is None or place.read_bytes() == before

    @pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
    def test_a_folder_that_cannot_be_written(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        tmp_path.chmod(0o500)
        profile = MachineProfile.open(tmp_path / "m.db")
        profile.add(ROWS)
        profile.add(ROWS)
        tmp_path.chmod(0o700)
        assert len([r for r in caplog.records if "kept in memory only" in r.getMessage()]) == 1
        assert profile.rows == ROWS

    def test_a_path_through_a_file(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        (tmp_path / "file").write_text("")
        profile = MachineProfile.open(tmp_path / "file" / "m.db")
        profile.add(ROWS)
        assert len([r for r in caplog.records if "kept in memory only" in r.getMessage()]) == 1
        assert profile.rows == ROWS

    def test_a_killed_measurement_keeps_what_it_finished(self, tmp_path: Path) -> None:
        code = (
            "from mlsysopt.compile.variants.machine import MachineProfile\n"
            "from mlsysopt.compile.variants.site import Site\n"
            "from tests.compile.variants.planted import Planted\n"
            "import sys\n"
            "sites = [Site.linear(m, 16, 16) for m in (1, 2, 4, 8, 16, 32, 64, 128)]\n"
            "told = lambda seen: print(seen.done, flush=True)\n"
            "MachineProfile.open(sys.argv[1]).measure(sites, [Planted('test.a', base_s=8e-3)], progress=told)\n"
        )
        place = tmp_path / "m.db"
        with subprocess.Popen(
            [sys.executable, "-c", code, str(place)], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
        ) as child:
            assert child.stdout is not None
            for line in child.stdout:
                if line.strip() == "3":
                    break
            child.send_signal(signal.SIGKILL)
        known = MachineProfile.open(place)
        assert 3 <= len(known.rows) < 8
        sites = [Site.linear(m, 16, 16) for m in (1, 2, 4, 8, 16, 32, 64, 128)]
        rest = known.measure(sites, [Planted("test.a", base_s=1e-4)])
        assert {one.site for one in rest}.isdisjoint({one.site for one in MachineProfile.open(place).rows} - {
            one.site for one in rest
        })  # fmt: skip
        assert len(known.rows) == 8
        known.close()


def test_bounds_are_measured_once(tmp_path: Path) -> None:
    with MachineProfile.open(tmp_path / "m.db") as profile:
        assert not profile.roofline.measured
        found = profile.calibrate()
        assert profile.calibrate() is found
    assert 1e9 < found.flops_per_s < 1e13
    assert 1e8 < found.bytes_per_s < 1e12
    assert MachineProfile.open(tmp_path / "m.db").roofline == found == Roofline(
        found.flops_per_s, found.bytes_per_s, measured=True
    )  # fmt: skip
