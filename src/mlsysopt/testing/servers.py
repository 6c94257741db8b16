"""The contract of every server file: inherit `ServerContract`, say which server, run pytest."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mlsysopt.core.processes import descendants
from mlsysopt.core.processes.segments import segments_of
from mlsysopt.core.target import Failure, Limits, Measurement, Value
from mlsysopt.operate.tune import server_files
from mlsysopt.operate.tune.server import Knob, Server
from mlsysopt.operate.tune.server_target import ServerTarget, server_target

__all__ = ["MOST_LINES", "ServerContract"]

MOST_LINES = 150
"""A server file is shorter than this."""

_KINDS = {"int": int, "float": (int, float), "bool": bool, "choice": str}
_MOST_PIDS = 2**22


class ServerContract:
    """What tuning relies on in a server file.

    A subclass names the server, by `server` or by the path of its file, a value that it takes and one that it must
    not take; sizes in bytes, as in a space.

    Attributes:
        server: The server, or None where `path` names its file.
        path: Path of the file, "" for an installed server.
        settings: Arguments for `server_target`: workload, knobs, memory ...
        seconds: Length of the load.
        changed: Values that the server takes, other than its defaults.
        absurd: Values that keep it from starting, or that it does not take.
        refusal: Pattern that is found in what is said about them.
        most_lines: The file is shorter than this.
    """

    server: ClassVar[Server | None] = None
    path: ClassVar[str] = ""
    settings: ClassVar[Mapping[str, Any]] = {}
    seconds: ClassVar[float] = 0.5
    changed: ClassVar[Mapping[str, Value]]
    absurd: ClassVar[Mapping[str, Value]]
    refusal: ClassVar[str] = "."
    most_lines: ClassVar[int] = MOST_LINES

    def make_server(self) -> Server:
        """Return the server."""
        return self.server if self.server is not None else server_files.server(self.path)

    def make_target(self, **settings: Any) -> ServerTarget:
        """Return a new target with the knobs that are changed and refused, or with other settings."""
        names = [*self.changed, *(name for name in self.absurd if name not in self.changed)]
        given: dict[str, Any] = {"knobs": names, "seconds": self.seconds, "allow_tmpfs": True}
        given |= {**self.settings, **settings}
        return server_target(self.make_server(), source=self.path, **given)

    @pytest.fixture
    def target(self) -> ServerTarget:
        return self.make_target()

    def test_the_file_is_short(self) -> None:
        path = inspect.getsourcefile(type(self.make_server()))
        assert path is not None
        assert len(Path(path).read_text().splitlines()) < self.most_lines

    def test_knobs_have_types_and_defaults_that_agree(self, target: ServerTarget) -> None:
        knobs = target.catalogue.knobs
        assert knobs
        for name, knob in knobs.items():
            assert isinstance(knob, Knob)
            assert knob.name == name
            assert isinstance(knob.default, _KINDS[knob.kind]), f"{name}: {knob.default!r} is no {knob.kind}"
            assert isinstance(knob.default, bool) == (knob.kind == "bool"), (
                f"{name}: {knob.default!r} is no {knob.kind}"
            )
            if knob.kind == "choice":
                assert knob.default in knob.choices, f"{name}: {knob.default!r} is none of {knob.choices}"
            if knob.low is not None and knob.high is not None:
                assert knob.low <= knob.high, name
            assert knob.group == "" or knob.group in target.catalogue.groups, f"{name}: no group {knob.group!r}"

    def test_what_is_tuned_when_nobody_says_can_be_tuned(self, target: ServerTarget) -> None:
        chosen = target.catalogue.chosen(None)
        assert chosen
        space = target.catalogue.space(chosen, [])
        assert space.violations(space.default()) == []
        assert all(target.catalogue.fence(knob.name) is None for knob in chosen)

    def test_the_default_starts_and_is_loaded_and_measured(self, target: ServerTarget) -> None:
        with target.session(Limits()) as session:
            outcome = session.measure({}, seed=11)
        assert isinstance(outcome, Measurement), outcome
        declared = {name for name, metric in target.metrics().items() if metric.kind != "static"}
        assert declared >= set(outcome.metrics)
        assert outcome.metrics[target.objective] > 0
        assert outcome.metrics[target.twin] > 0
        assert set(outcome.effective_config) == set(target.space().names)
        default = target.space().default()
        assert {name: str(value) for name, value in outcome.effective_config.items()} == {
            name: str(default[name]) for name in default
        }

    def test_a_value_that_is_set_is_read_back(self, target: ServerTarget) -> None:
        with target.session(Limits()) as session:
            outcome = session.probe(dict(self.changed))
        assert isinstance(outcome, Measurement), outcome
        assert {name: outcome.effective_config[name] for name in self.changed} == dict(self.changed)

    def test_the_default_may_be_written_out(self) -> None:
        """A search sets every knob, also those that it leaves at their default."""
        target = self.make_target(knobs=None)
        with target.session(Limits()) as session:
            outcome = session.probe(target.space().default())
        assert isinstance(outcome, Measurement), outcome

    def test_an_absurd_value_is_refused_with_a_reason(self, target: ServerTarget) -> None:
        with target.session(Limits()) as session:
            outcome = session.probe(dict(self.absurd))
            assert isinstance(outcome, Failure), outcome
            assert outcome.kind in ("rejected", "timeout", "degraded", "crashed")
            assert re.search(self.refusal, f"{outcome.reason}\n{outcome.log_tail}"), outcome
            # What was refused leaves no trace behind.
            again = session.probe({})
        assert isinstance(again, Measurement), again

    def test_values_set_in_a_running_server_are_read_back_and_taken_back(self, target: ServerTarget) -> None:
        server = target.server
        if getattr(server, "set_live", None) is None:
            pytest.skip(f"{target.name} sets nothing while it runs")
        live = {name: value for name, value in self.changed.items() if target.catalogue.knobs[name].change == "live"}
        with target.session(Limits()) as session:
            for name, value in live.items():
                assert isinstance(session.probe({name: value}), Measurement), name
                assert isinstance(session.probe({name: target.space().default()[name]}), Measurement), name

    def test_export_writes_lines_that_name_what_changed(self, target: ServerTarget, tmp_path: Path) -> None:
        path = tmp_path / "exported"
        target.export({**target.space().default(), **self.changed}, path)
        assert target.names_in(path.read_text()) or len(path.read_text().splitlines()) > len(self.changed)

    def test_a_closed_session_leaves_nothing(self, target: ServerTarget) -> None:
        processes, segments = set(descendants(os.getpid())), _abandoned_segments()
        with target.session(Limits()) as session:
            folder = session.folder
            session.probe(dict(self.changed))
            session.probe(dict(self.absurd))
            assert folder.is_dir()
        assert not folder.exists()
        assert set(descendants(os.getpid())) <= processes
        assert _abandoned_segments() <= segments


def _abandoned_segments() -> set[int]:
    """Return the shared memory segments whose maker is dead and that nobody is attached to."""
    found = segments_of(range(_MOST_PIDS))
    return {one.id for one in found if not one.attached and not Path("/proc", str(one.maker)).exists()}
