"""The contract of every `Target`: inherit `TargetContract`, say how to make one, run pytest."""

from __future__ import annotations

import json
import math
import os
import pickle
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mlsysopt.core.processes import descendants
from mlsysopt.core.study.guards import parse_guards
from mlsysopt.core.target import Failure, Limits, Measurement, Session, Target

__all__ = ["TargetContract"]


class TargetContract:
    """What a study relies on.

    A subclass implements `make_target` and may override `fidelity` to make a run cheap and
    `wrong_config` to give a configuration that is expected to fail.
    """

    fidelity: ClassVar[float] = 1.0
    wrong_config: ClassVar[dict[str, Any] | None] = None

    def make_target(self) -> Target:
        """Return a new target."""
        raise AssertionError("a subclass of TargetContract defines make_target")

    @pytest.fixture
    def target(self) -> Target:
        return self.make_target()

    def test_has_every_part_of_the_protocol(self, target: Target) -> None:
        assert isinstance(target, Target)
        assert target.name
        assert all(reference.key for reference in target.references)

    def test_fingerprint_is_plain_json_and_repeats(self, target: Target) -> None:
        first = target.fingerprint()
        assert json.loads(json.dumps(first)) == first
        assert self.make_target().fingerprint() == first

    def test_default_is_valid(self, target: Target) -> None:
        space = target.space()
        assert space.violations(space.default()) == []

    def test_with_space_returns_another_target(self, target: Target) -> None:
        smaller = target.space().subspace(target.space().names[:1])
        other = target.with_space(smaller)
        assert other is not target
        assert other.space().names == smaller.names
        assert target.space().names != smaller.names or len(target.space()) == 1

    def test_guards_are_readable_and_kept_by_the_default(self, target: Target) -> None:
        metrics = target.metrics()
        for guard in parse_guards(None, target.guards, metrics):
            assert guard.violation(1.0, 1.0) <= 0 or not guard.relative

    def test_twins_point_at_each_other(self, target: Target) -> None:
        metrics = target.metrics()
        for name, metric in metrics.items():
            if metric.twin is not None:
                assert metrics[metric.twin].twin == name
                assert {metric.clock, metrics[metric.twin].clock} == {"wall", "cpu"}

    def test_static_metrics_are_declared_static(self, target: Target) -> None:
        computed = target.static(target.space().default())
        declared = {name for name, metric in target.metrics().items() if metric.kind == "static"}
        assert set(computed) == declared
        assert all(math.isfinite(value) for value in computed.values())

    def test_default_runs_and_reports_what_it_declares(self, target: Target) -> None:
        with target.session(Limits()) as session:
            assert isinstance(session, Session)
            outcome = session.measure({}, seed=11, fidelity=self.fidelity)
        assert isinstance(outcome, Measurement), f"{outcome}"
        declared = {name for name, metric in target.metrics().items() if metric.kind != "static"}
        assert set(outcome.metrics) <= declared
        assert all(isinstance(value, float | int) and math.isfinite(value) for value in outcome.metrics.values())
        assert outcome.wall_s > 0

    def test_a_sampled_configuration_gives_an_outcome_never_an_exception(self, target: Target) -> None:
        config = target.space().sobol(2, seed=5)[1]
        with target.session(Limits()) as session:
            outcome = session.measure(config, seed=12, fidelity=self.fidelity)
        if isinstance(outcome, Measurement):
            assert set(outcome.effective_config) <= set(target.space().names)
        else:
            assert outcome.reason

    def test_a_wrong_configuration_is_a_failure_with_a_reason(self, target: Target) -> None:
        if self.wrong_config is None:
            pytest.skip("this target names no configuration that must fail")
        with target.session(Limits()) as session:
            outcome = session.measure(self.wrong_config, seed=13, fidelity=self.fidelity, timeout_s=30.0)
        assert isinstance(outcome, Failure)
        assert outcome.kind in ("rejected", "crashed", "timeout", "degraded")
        assert outcome.reason

    def test_a_closed_session_leaves_no_process(self, target: Target) -> None:
        before = set(descendants(os.getpid()))
        with target.session(Limits()) as session:
            session.measure({}, seed=14, fidelity=self.fidelity)
        assert set(descendants(os.getpid())) <= before

    def test_export_writes_a_file(self, target: Target, tmp_path: Path) -> None:
        path = tmp_path / "exported"
        target.export(target.space().default(), path)
        assert path.stat().st_size > 0

    def test_pickles(self, target: Target) -> None:
        again = pickle.loads(pickle.dumps(target))
        assert again.fingerprint() == target.fingerprint()
