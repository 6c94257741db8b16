"""FoundationDB's server file against a stand-in: no real cluster takes part in any of this."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mlsysopt.core.errors import MissingProgram, ProcessError, UsageError
from mlsysopt.core.target import Failure, Limits, Measurement
from mlsysopt.operate.tune.server import Place
from mlsysopt.operate.tune.server_target import ServerTarget, server_target
from mlsysopt.operate.tune.servers import fdb, foundationdb
from mlsysopt.operate.tune.servers.foundationdb import FoundationDB
from mlsysopt.testing.servers import ServerContract
from tests.operate.tune import fdb_standin

KNOBS = """
[storage_commit_interval]
type = "float"
default = 0.5
low = 0.001
group = "storage"
[page_cache_4k]
type = "int"
default = 2147483648
[no_such_knob]
type = "int"
default = 3
[max_queue_commit_bytes]
type = "float"
default = 2.5
"""


@pytest.fixture(autouse=True)
def standin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Put the stand-in's programs on PATH and let it load itself."""
    folder = tmp_path / "bin"
    folder.mkdir()
    fdb_standin.install(folder)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    load = f"{sys.executable} -I -S {fdb_standin.__file__} load {{cluster}} {{seconds}}"
    monkeypatch.setenv("MLSYSOPT_FDB_LOAD", load)
    yield folder


@pytest.fixture
def knobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "knobs.toml"
    path.write_text(KNOBS)
    monkeypatch.setenv("MLSYSOPT_FDB_KNOBS", str(path))
    return path


def target(**settings: Any) -> ServerTarget:
    return server_target(FoundationDB(), allow_tmpfs=True, **settings)


class TestStandin(ServerContract):
    server = FoundationDB()
    changed: ClassVar = {"storage_commit_interval": 0.25, "max_queue_commit_bytes": 1_000_000}
    absurd: ClassVar = {"page_cache_4k": 2**40}
    refusal = "Out of memory"


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"no_such_knob": 4}, "WARNING: Unrecognized knob option 'no_such_knob'"),
        ({"max_queue_commit_bytes": 3.5}, "WARNING: Invalid value '3.5' for knob option 'max_queue_commit_bytes'"),
    ],
)
def test_a_warning_about_a_knob_is_a_refusal(knobs: Path, config: dict[str, Any], says: str) -> None:
    with target(knobs=["storage", *config]).session(Limits()) as session:
        for outcome in (session.probe(config), session.measure(config, seed=1)):
            assert isinstance(outcome, Failure)
            assert (outcome.kind, outcome.reason) == ("rejected", says)
            assert outcome.extra["named"] == list(config)


def test_readiness_says_that_the_default_would_run(tmp_path: Path, knobs: Path) -> None:
    programs = {name: Path(str(shutil.which(name))) for name in FoundationDB.programs}
    place = Place(tmp_path / "data", programs)
    FoundationDB().prepare(place)
    with pytest.raises(ProcessError, match="would run with its default"):
        FoundationDB().service(place, {"no_such_knob": 1}).start(20)


def test_the_users_list_is_the_catalogue(knobs: Path) -> None:
    made = target(knobs="storage,no_such_knob")
    assert set(made.catalogue.knobs) == {
        "storage_commit_interval", "page_cache_4k", "no_such_knob", "max_queue_commit_bytes",
    }  # fmt: skip
    assert made.space()["storage_commit_interval"].low_origin == "declared"
    assert "never run against a live cluster" in made.about


def test_the_list_may_be_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "knobs.json"
    path.write_text(json.dumps({"page_cache_4k": {"type": "int", "default": 7}}))
    monkeypatch.setenv("MLSYSOPT_FDB_KNOBS", str(path))
    assert fdb.listed() == {"page_cache_4k": {"type": "int", "default": 7}}


@pytest.mark.parametrize(
    ("text", "says"),
    [("[a]\ntype = 'int'\n", "a needs a type"), ("[a]\ndefault = 1\n", "a needs a type"), ("[a\n", "knobs.toml")],
)
def test_a_list_that_cannot_be_used_is_named(knobs: Path, text: str, says: str) -> None:
    knobs.write_text(text)
    with pytest.raises(UsageError, match=says):
        fdb.listed()
    knobs.unlink()
    with pytest.raises(UsageError, match="No such file"):
        fdb.listed()


def test_committed_transactions_are_what_is_measured(knobs: Path) -> None:
    with target(knobs="storage").session(Limits()) as session:
        default, faster = session.measure({}, seed=1), session.measure({"storage_commit_interval": 0.05}, seed=1)
    assert isinstance(default, Measurement) and isinstance(faster, Measurement)
    assert (default.extra["operations"], faster.extra["operations"]) == (2000, 20_000)
    assert default.metrics["commit_ms"] == 20.0
    assert default.metrics["read_ms"] == pytest.approx(0.4)


def test_a_load_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLSYSOPT_FDB_LOAD", "sh -c 'echo cannot reach {cluster} >&2; exit 3'")
    with target().session(Limits()) as session:
        outcome = session.measure({}, seed=1)
    assert isinstance(outcome, Failure)
    assert outcome.kind == "degraded" and "cannot reach" in outcome.reason


def test_without_a_load_generator_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLSYSOPT_FDB_LOAD")
    if shutil.which("mako"):
        pytest.skip("mako is installed here")
    with pytest.raises(MissingProgram, match="MLSYSOPT_FDB_LOAD"), target().session(Limits()) as session:
        session.measure({}, seed=1)


def test_the_recorded_status_has_what_is_read() -> None:
    status = json.loads(fdb_standin.STATUS.read_text())
    assert fdb.is_available(status)
    assert not fdb.is_available({}), "no coordinator answers"
    status["client"]["database_status"]["available"] = False
    assert not fdb.is_available(status)


def test_every_text_that_a_user_sees_says_that_no_cluster_took_part() -> None:
    assert "never run against a live cluster by this project" in str(foundationdb.__doc__)
    assert all("never run against a live cluster" in one.about for one in FoundationDB().workloads.values())
