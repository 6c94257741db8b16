"""The replay in seconds: what time and failures cost, that it is fair, and areas by hand."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import optuna
import pytest

from bench import tune_databases_table
from bench.recording import lines_of, measured, record, resumed, write_table
from bench.replayed import STARTS, Table
from bench.replayed_seconds import PROBE_S, RAN, TimedReplay, TimedTrace, study_in_seconds
from bench.replayed_truth import TruthSampler
from bench.tune_databases_record import TUNERS, Proposals, _extra, plan
from bench.tune_databases_table import Contestant, Setting, behind, objective_of, reach, replay, report, sampler
from mlsysopt.core.search.past import spending
from mlsysopt.core.space import Float, Int, Space
from mlsysopt.core.target import Failure, Measurement, Metric, Outcome

RUN_S, REFUSED_S, LATE_S = 5.0, 0.5, 2.0


def planted_space() -> Space:
    return Space(
        [
            Int("buffers", 1, 2**40, default=2**14, log=True),
            Int("work", 1, 2**30, default=2**12, log=True),
            Int("connections", 1, 2**18, default=100, log=True),
            Int("reserved", 1, 2**18, default=3, log=True, special=(0,)),
            Float("cost", 0.001, 1000.0, default=4.0, log=True),
            Int("workers", 0, 16, default=2),
        ]
    )


def planted_failure(config: dict[str, Any]) -> str | None:
    if config["reserved"] >= config["connections"] or config["buffers"] * config["connections"] > 2**36:
        return "rejected"
    return "degraded" if config["connections"] < 4 else None


def planted_gain(config: dict[str, Any]) -> float:
    buffers, work, cost = (math.log2(config[name]) for name in ("buffers", "work", "cost"))
    return 0.5 - 0.01 * (abs(buffers - 24) + abs(work - 18) + 2 * abs(cost - 1)) - 0.02 * config["workers"]


def planted_table(trials: int = 150, *, noise: float = 0.02) -> dict[str, Any]:
    """Return a table in the format of `bench.tune_databases_record`."""
    space, rng = planted_space(), np.random.default_rng(0)
    box = space.with_bounds("buffers", 2**8, 2**28).with_bounds("connections", 4, 2000).with_bounds("reserved", 1, 30)
    designs = {"sobol": space.sobol(trials, 1), "box": box.sobol(trials, 2)}
    columns: dict[str, list[Any]] = {
        name: [] for name in ("role", "number", "source", "wall_s", "pressure", "failure", "named", "under_load")
    }
    configs: dict[str, list[Any]] = {name: [] for name in space.names}
    metrics: dict[str, list[Any]] = {name: [] for name in ("tps", "tps_cpu", "p99_ms", "memory_bytes")}

    def add(role: str, number: int, source: str, config: dict[str, Any]) -> None:
        full = space.default() | config
        kind = planted_failure(full) if role == "trial" else None
        seconds = {None: RUN_S, "rejected": REFUSED_S, "degraded": LATE_S}[kind]
        named = ["connections"] if kind else None
        told = {"kind": kind, "reason": f"planted {kind}"} if kind else None
        row = (role, number, source, seconds, 3.0, told, named, kind == "degraded" if kind else None)
        for column, value in zip(columns.values(), row, strict=True):
            column.append(value)
        for name, column in configs.items():
            column.append(config.get(name))
        speed = 300.0 * math.exp(planted_gain(full) + noise * rng.standard_normal())
        got = {"tps": speed, "tps_cpu": speed / 2, "p99_ms": 3e4 / speed, "memory_bytes": 2e8 + full["work"]}
        for name, column in metrics.items():
            column.append(None if kind else got[name])

    for number in range(trials):
        if number % 4 == 0:
            add("canary", number // 4, "default", {})
        source = "box" if number % 3 else "sobol"
        add("trial", number, source, designs[source][number])
    return {
        "objective": "tps",
        "space": space.to_json(),
        "guards": {"p99_ms": "<= 1.1x", "memory_bytes": "<= 1000000000"},
        "subgoals": {},
        "columns": columns,
        "config": configs,
        "effective": configs,
        "metrics": metrics,
    }


@pytest.fixture(scope="module")
def it() -> TimedReplay:
    return TimedReplay(Table.of_json("planted", planted_table(), objective="tps", absolute=True))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tables") / "planted.json.gz"
    path.write_bytes(gzip.compress(json.dumps(planted_table()).encode()))
    return path


class Fixed(optuna.samplers.RandomSampler):
    """Proposes the same few configurations over and over, and notes what it was shown of the budget."""

    def __init__(self, space: Space, configs: Sequence[dict[str, Any]]) -> None:
        super().__init__(seed=0)
        self.space, self.configs, self.shares, self.durations = space, configs, [], []

    def infer_relative_search_space(self, study, trial):  # type: ignore[no-untyped-def]
        return self.space.distributions()

    def sample_relative(self, study, trial, search_space):  # type: ignore[no-untyped-def]
        if trial.number > STARTS:
            self.shares.append(spending(study, trial)[0])
            self.durations = [
                (one.datetime_complete - one.datetime_start).total_seconds() for one in study.trials if one.state != 0
            ]
        return self.space.to_params(self.configs[trial.number % len(self.configs)])


def refused(space: Space) -> dict[str, Any]:
    return space.default() | {"reserved": 2**17, "connections": 2}


def test_failures_keep_their_kind_seconds_and_message(it: TimedReplay) -> None:
    seen = it.see(refused(it.table.space), np.random.default_rng(0))
    assert seen.metrics is None and seen.failure is not None
    assert (seen.failure.kind, seen.failure.reason, seen.seconds) == ("rejected", "planted rejected", REFUSED_S)
    assert seen.failure.extra == {"named": ["connections"]}
    ran = it.see({}, np.random.default_rng(0))
    assert ran.failure is None and ran.seconds == pytest.approx(RUN_S, rel=1e-6)
    assert it.default_s == RUN_S and it.sorts.accuracy > 0.8


def test_validity_is_certain(it: TimedReplay) -> None:
    """A configuration that fails fails again, whatever the noise."""
    for config in it.table.space.sobol(64, 5):
        seen = [it.see(config, np.random.default_rng(i)) for i in range(3)]
        assert len({one.failure.kind if one.failure else RAN for one in seen}) == 1
        assert len({one.seconds for one in seen}) == 1


def test_a_probe_shows_what_a_start_shows(it: TimedReplay) -> None:
    assert it.probe({}).ok
    assert not it.probe(refused(it.table.space)).ok
    late = it.table.configs[it.table.failures.index("degraded")]
    seen = it.see(late, np.random.default_rng(0))
    assert seen.failure is not None and seen.failure.extra["under_load"] and it.probe(late).ok


def test_guards_that_are_no_ratio_count_against_the_median_default(it: TimedReplay) -> None:
    default = 2e8 + 2**12
    assert it.table.guards["memory_bytes"] == (1.0, pytest.approx(math.log(1e9 / default)))
    without = Table.of_json("planted", planted_table(12), objective="tps")
    assert set(without.guards) == {"p99_ms"}


def test_seconds_of_runs_refusals_and_canaries_are_spent(it: TimedReplay) -> None:
    space = it.table.space
    made: list[Fixed] = []

    def make(space: Space, seed: int, probes: object) -> Fixed:
        made.append(Fixed(space, [refused(space), space.default()]))
        return made[-1]

    starts = [refused(space)] * STARTS
    trace = study_in_seconds(it, make, seed=0, budget_s=20.0, starts=starts)
    assert trace.after_s == STARTS * REFUSED_S
    # Trials 6, 7, ...: a refusal, then a run, until the next one would be over after the budget.
    np.testing.assert_allclose(np.diff(trace.ends_s)[STARTS:], [REFUSED_S, RUN_S] * 3 + [REFUSED_S])
    assert trace.ends_s[-1] == pytest.approx(19.5)
    assert trace.valid_share == 3 / 7
    np.testing.assert_allclose(made[0].shares[:3], np.array([2.5, 3.0, 8.0]) / 20.0)
    np.testing.assert_allclose(made[0].durations[: STARTS + 3], [0.0] + [REFUSED_S] * 6 + [RUN_S])
    beside = study_in_seconds(it, make, seed=0, budget_s=60.0, starts=starts, beside_s=RUN_S)
    np.testing.assert_allclose(np.diff(beside.ends_s)[:STARTS], REFUSED_S + RUN_S)


def test_probes_are_charged_and_bounded(it: TimedReplay) -> None:
    space = it.table.space
    asked: list[dict[str, Any]] = []

    def diagnose(space: Space, config: Any, failure: Any, probe: Any) -> list[str]:
        for name in 5 * ("reserved", "connections", "buffers", "work"):
            probe({name: config[name]})
            asked.append({name: config[name]})
        return ["reserved"]

    probed: list[Any] = []

    def make(space: Space, seed: int, probes: Any) -> Fixed:
        probed.append(probes)
        return Fixed(space, [refused(space)])

    starts = [refused(space)] * STARTS

    def run(budget_s: float, **given: Any) -> TimedTrace:
        asked.clear()
        return study_in_seconds(it, make, seed=0, budget_s=budget_s, starts=starts, diagnose=diagnose, **given)

    # What the failures have cost so far, and the probe in which that is reached: two of 0.4 s after a refusal of
    # 0.5 s, then, as more than that is spent, one each, until 2.0 of 2.5 s leave room for two.
    trace = run(12.0)
    spent_s = np.diff(trace.ends_s) - REFUSED_S
    np.testing.assert_allclose(spent_s[:6], np.array([2, 1, 1, 1, 2, 1]) * PROBE_S)
    assert np.all(np.cumsum(spent_s) < REFUSED_S * np.arange(1, len(spent_s) + 1) + PROBE_S)
    # The starting points end for all tuners at the same time, whoever looks into them.
    assert trace.after_s == STARTS * REFUSED_S
    assert trace.probes == len(asked) == len(probed[-1]())
    assert all(one.probe for one in probed[-1]())
    # A failure costs the canary beside it, too; in all, no more than a quarter of the budget.
    beside = run(79.0, beside_s=RUN_S)
    np.testing.assert_allclose(np.diff(beside.ends_s)[:3], RUN_S + REFUSED_S + 14 * PROBE_S)
    assert beside.probes == math.ceil(0.25 * 79.0 / PROBE_S)


def test_area_by_hand() -> None:
    trace = TimedTrace(
        gains=np.array([0.0, -math.inf, 0.1, 0.05, 0.3]),
        ends_s=np.array([0.0, 1.0, 4.0, 8.0, 9.0]),
        ran=np.array([True, False, True, True, True]),
        after_s=2.0, budget_s=12.0, starts=1, probes=0, cpu_s=np.zeros(3),
    )  # fmt: skip
    # From 2 to 4 the default is the best, to 9 the trial of 0.1, to 12 the one of 0.3.
    assert trace.area(0.5) == pytest.approx((2 * 0.5 + 5 * 0.4 + 3 * 0.2) / 10)
    assert trace.best == 0.3
    assert trace.valid_share == 1.0


def test_a_trial_that_is_not_over_in_time_does_not_count(it: TimedReplay) -> None:
    starts = [refused(it.table.space)] * STARTS
    trace = study_in_seconds(
        it, lambda space, seed, probes: Fixed(space, [space.default()]), seed=0, starts=starts,
        budget_s=STARTS * REFUSED_S + RUN_S - 0.1,
    )  # fmt: skip
    assert len(trace.gains) == STARTS + 1 and math.isnan(trace.valid_share)
    assert trace.area(0.4) == pytest.approx(0.4)
    with pytest.raises(ValueError, match="are over before the 5 starting points"):
        study_in_seconds(
            it, lambda space, seed, probes: Fixed(space, [space.default()]), seed=0, starts=starts, budget_s=1.0
        )


def test_all_tuners_share_starts_noise_and_seconds(it: TimedReplay) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rows = [
        Contestant("random", "random"),
        Contestant("dds", "dds"),
        Contestant("tpe, FAIL", "tpe", tells_fail=True),
        Contestant("valid tpe", "tpe", kept=True),
        Contestant("valid cmaes", "cmaes", kept=True),
    ]

    def run(one: Contestant, seed: int) -> TimedTrace:
        return study_in_seconds(
            it, lambda space, n, probes: sampler(one, it, space, n, probes), seed=seed, budget_s=12 * RUN_S,
            tells_fail=one.tells_fail,
        )  # fmt: skip

    traces = [run(one, 3) for one in rows]
    for trace in traces:
        np.testing.assert_array_equal(trace.gains[: STARTS + 1], traces[0].gains[: STARTS + 1])
        np.testing.assert_array_equal(trace.ends_s[: STARTS + 1], traces[0].ends_s[: STARTS + 1])
        assert trace.after_s == traces[0].after_s and trace.ends_s[-1] <= trace.budget_s == 12 * RUN_S
    again = run(rows[3], 3)
    np.testing.assert_array_equal(again.gains, traces[3].gains)


def test_whoever_is_kept_to_what_works_runs_more_of_its_trials(it: TimedReplay) -> None:
    """A study has some 15 trials after the starts, of which chance moves three or four: ten studies decide."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def share(one: Contestant) -> float:
        traces = [
            study_in_seconds(
                it, lambda space, n, probes: sampler(one, it, space, n, probes), seed=seed, budget_s=12 * RUN_S
            )
            for seed in range(10)
        ]
        return float(np.concatenate([trace.ran[STARTS + 1 :] for trace in traces]).mean())

    assert share(Contestant("valid tpe", "tpe", kept=True)) > share(Contestant("random", "random")) + 0.1


def test_whoever_knows_what_runs_is_never_refused(it: TimedReplay) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    oracle, plain = Contestant("oracle tpe", "tpe", kept=True, oracle=True), Contestant("tpe", "tpe")
    space = it.table.space
    made = sampler(oracle, it, space, 0, list)
    assert isinstance(made, TruthSampler)
    model = made.model(optuna.create_study(sampler=made))
    pool = space.sobol(64, 5)
    ran = [it.see(one, np.random.default_rng(0)).failure is None for one in pool]
    assert 0 < sum(ran) < 64 and model.p(pool).tolist() == [float(one) for one in ran]

    def run(one: Contestant) -> TimedTrace:
        return study_in_seconds(
            it, lambda space, n, probes: sampler(one, it, space, n, probes), seed=3, budget_s=12 * RUN_S
        )

    free, kept = run(plain), run(oracle)
    assert free.valid_share < kept.valid_share == 1.0
    assert free.refused_share > kept.refused_share == 0.0


def test_the_reach_of_the_bar_is_said_in_one_line() -> None:
    trace = TimedTrace(
        gains=np.zeros(5), ends_s=np.array([0.0, 1.0, 2.0, 3.5, 8.0]), ran=np.array([True, False, False, True, False]),
        after_s=2.0, budget_s=14.0, starts=2, probes=0, cpu_s=np.zeros(2),
    )  # fmt: skip
    # After the starts only the last trial was refused: 4.5 of 12 seconds.
    assert trace.refused_share == 4.5 / 12
    assert "4a can be reached" in reach([trace], (0.88, 0.8, 0.97))
    said = reach([trace], (0.95, 0.9, 1.0))
    assert "4a cannot be reached" in said and "0.95 [0.90, 1.00]" in said and "37.5%" in said


def test_kept_traces_do_not_depend_on_whether_there_is_an_oracle(path: Path) -> None:
    assert "oracle" not in tune_databases_table.key(Setting(path), Contestant("gp", "gp"))


def test_whoever_knows_the_best_point_has_no_regret_from_its_end_on(it: TimedReplay) -> None:
    """A mutant: were the regret of another point, or of its start, this would not come out."""
    space = it.table.space
    pool = [*space.sobol(1024, 1), *it.table.configs]
    truth, able = it.truth(np.asarray(space.encode_many(pool)))
    best = pool[int(np.argmax(np.where(able, truth, -np.inf)))]
    ceiling = float(truth[able].max())
    starts = [refused(space)] * STARTS
    trace = study_in_seconds(
        it, lambda space, seed, probes: Fixed(space, [best]), seed=0, starts=starts,
        budget_s=STARTS * REFUSED_S + 10 * RUN_S,
    )  # fmt: skip
    assert trace.area(ceiling) == pytest.approx(ceiling / 10, rel=1e-6)


def test_wall_clock_decides_where_the_recording_was_quiet() -> None:
    table = planted_table(8)
    assert objective_of(table) == "tps"
    table["columns"]["pressure"] = [40.0] * len(table["columns"]["pressure"])
    assert objective_of(table) == "tps_cpu"


def test_the_report_has_every_bar(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from bench.protocol import Bench

    rows = [one for one in tune_databases_table.contestants() if one.base in ("random", "dds") and not one.probes]
    traces = replay(Setting(path, runs=10), rows, lambda one: 2, 1)
    assert {name: len(ts) for name, ts in traces.items()} == {one.name: 2 for one in rows}
    bench = Bench("planted", "", "", "")
    report(bench, tune_databases_table.load(path), traces)
    out = capsys.readouterr().out
    assert [bar.name for bar in bench.bars] == [f"tune-databases.4{letter}" for letter in "abcd"]
    assert [bar.must for bar in bench.bars] == [True, False, False, False]
    assert "random ends" in bench.headline and "% below the best" in out
    assert len(bench.rounds) == 2 * len(rows)


def test_kept_traces_are_used_only_where_they_fit(path: Path, tmp_path: Path) -> None:
    rows = [Contestant("gp", "gp"), Contestant("valid gp", "gp", kept=True)]
    trace = TimedTrace(
        np.array([0.0, -math.inf]), np.array([0.0, 0.5]), np.array([True, False]), 0.5, 9.0, 1, 3, np.array([0.1])
    )
    setting = Setting(path)
    tune_databases_table.keep(tmp_path, setting, rows, {one.name: [trace] for one in rows})
    for one in rows:
        got = tune_databases_table.kept(tmp_path, setting, one, 1)
        assert got is not None and got[0].to_json() == trace.to_json()
        np.testing.assert_array_equal(got[0].gains, trace.gains)
        assert got[0].area(0.4) == trace.area(0.4)
        assert tune_databases_table.kept(tmp_path, setting, one, 2) is None
        assert tune_databases_table.kept(tmp_path, Setting(path, runs=39), one, 1) is None
    assert tune_databases_table.kept(tmp_path, setting, Contestant("gp", "gp", probes=True), 1) is None


def test_the_cost_of_an_ask_needs_enough_trials_and_failures(it: TimedReplay) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    plain, kept, failed = tune_databases_table.ask_costs(it, "random")
    assert 0.0 < plain < kept and failed == 24
    few = TimedReplay(Table.of_json("few", planted_table(24), objective="tps"))
    assert math.isnan(tune_databases_table.ask_costs(few, "random")[0])


def test_the_gap_is_one_of_ratios() -> None:
    assert behind([0.0, 0.2], [0.1, 0.3]) == pytest.approx(1 - math.exp(-0.1))


def test_a_missing_table_exits_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tune_databases_table.main(["replay", "--table", str(tmp_path / "no.json.gz")]) == 3
    assert "tune_databases_record" in capsys.readouterr().err


def test_a_recording_has_thirds_and_tuners_start_late() -> None:
    for trials in (12, 300, 331):
        found = plan(trials)
        assert len(found) == trials and len(set(found)) == trials
        counts = {name: sum(one == name for one, _ in found) for name in ("sobol", "box", "tuner")}
        assert counts["sobol"] == counts["box"] == trials // 3
    first = next(number for number, (name, _) in enumerate(plan(300)) if name == "tuner")
    assert first >= 30
    assert TUNERS.count("random") < TUNERS.count("tpe")


class Recorded:
    """A target that is its own session: `planted_failure` and `planted_gain`, and which runs it was asked for."""

    objective = "tps"
    guards: ClassVar[dict[str, str]] = {"p99_ms": "<= 1.1x"}

    def __init__(self) -> None:
        self.runs: list[dict[str, Any]] = []

    def space(self) -> Space:
        return planted_space()

    def metrics(self) -> dict[str, Metric]:
        return {"tps": Metric("tx/s", "higher"), "p99_ms": Metric("ms", "lower")}

    def measure(self, config: dict[str, Any], *, seed: int, timeout_s: float) -> Outcome:
        self.runs.append(config)
        full = self.space().default() | config
        kind: Any = planted_failure(full)
        if kind is not None:
            return Failure(kind, f"planted {kind}", wall_s=REFUSED_S, extra={"named": ["connections"]})
        speed = 300.0 * math.exp(planted_gain(full))
        return Measurement({"tps": speed, "p99_ms": 3e4 / speed}, full, RUN_S, 1.0, 0.0, "", {"server_cpu_s": 1.0})


def recorded(target: Recorded, out: Path, trials: int) -> tuple[list[dict[str, Any]], Proposals]:
    rows = resumed(lines_of(out), {"a": 1})
    proposals = Proposals(target, 1, trials, rows)
    record(
        out, {"a": 1}, rows,
        lambda: measured(target, proposals, rows, trials=trials, seed=1, say=lambda *_: None, extra=_extra),
    )  # fmt: skip
    write_table(out, {"a": 1}, target, rows, form="server-table", columns=["named", "under_load", "server_cpu_s"])
    return rows, proposals


def test_a_recording_goes_on_after_a_kill_and_can_be_replayed(tmp_path: Path) -> None:
    out = tmp_path / "t.json.gz"
    whole, _ = recorded(Recorded(), out, 60)
    lines = lines_of(out)
    text = lines.read_text().splitlines(keepends=True)
    # The header, 40 rows, and half of another one.
    lines.write_text("".join(text[:41]) + text[41][:30])
    target = Recorded()
    again, proposals = recorded(target, out, 60)
    assert len(target.runs) == len(whole) - 40
    assert [(row["role"], row["number"], row["seed"]) for row in again] == [
        (row["role"], row["number"], row["seed"]) for row in whole
    ]
    # Designs are the same; tuners went on from what they had seen, and were told of what failed.
    designed = [i for i, row in enumerate(whole) if row["source"] in ("default", "sobol", "box")]
    assert [again[i]["config"] for i in designed] == [whole[i]["config"] for i in designed]
    for source, study in proposals.studies.items():
        own = [row for row in again if row["source"] == source]
        told = [trial for trial in study.trials if trial.user_attrs["config"] in _texts(own)]
        assert len(told) == len(own)
        # Starting points are valid; a failure has the worst value that was seen and a broken constraint.
        assert all(trial.constraints["valid"] == -1.0 for trial in study.trials if trial not in told)
        for trial, row in zip(told, own, strict=True):
            assert trial.constraints["valid"] == (1.0 if row["failure"] else -1.0)
            assert not row["failure"] or trial.value <= 0.0
    table = TimedReplay(Table.load(out, objective="tps"))
    assert table.table.columns["wall_s"].count(REFUSED_S) == sum(row["failure"] is not None for row in again)


def test_a_block_is_measured_on_one_machine(tmp_path: Path) -> None:
    out = tmp_path / "t.json.gz"
    whole, _ = recorded(Recorded(), out, 12)
    lines = lines_of(out)
    text = [line.replace(whole[0]["machine"], "elsewhere") for line in lines.read_text().splitlines(keepends=True)]
    # The header and 13 rows: two blocks of five, a canary and two trials of the third.
    lines.write_text("".join(text[:14]))
    assert len(resumed(lines, {"a": 1})) == 10
    lines.write_text("".join(text[:11]))
    assert len(resumed(lines, {"a": 1})) == 10
    target = Recorded()
    again, _ = recorded(target, out, 12)
    assert len(target.runs) == 5
    assert [row["machine"] for row in again] == ["elsewhere"] * 10 + [whole[0]["machine"]] * 5


def _texts(rows: list[dict[str, Any]]) -> set[str]:
    return {planted_space().canonical(row["config"]) for row in rows}
