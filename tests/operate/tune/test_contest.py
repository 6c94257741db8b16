"""A contest of tuners: equal time, same starts, winners verified together, and the line it comes to."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlsysopt.core.errors import StoreError, StudyError, UsageError
from mlsysopt.core.measure import Ratio
from mlsysopt.core.references import Reference
from mlsysopt.core.store import Store
from mlsysopt.core.study import Candidate, Event
from mlsysopt.core.study.trials import TrialView, views
from mlsysopt.operate.tune.contest import Contest, Entry, compare
from mlsysopt.operate.tune.contest_rows import gap_below, rows_of
from mlsysopt.operate.tune.contest_table import facts, headline
from mlsysopt.operate.tune.server_target import server_target
from mlsysopt.testing.planted import Planted
from tests.operate.tune.planted_server import Planted as PlantedServer

# One run of the planted target counts for 0.1 ms: three defaults and five starts are at least 1.3 ms.
SECONDS = 0.0018


def contest(target: Any = None, **given: Any) -> Contest:
    asked: dict[str, Any] = {"tuners": ["random", "tpe"], "seconds": SECONDS, "rounds": 8, **given}
    return compare(target or Planted(noise=0.01), **asked)


def trials(store: Path, study: str) -> list[TrialView]:
    import optuna

    with Store.open(store, read_only=True) as opened:
        return views(optuna.load_study(study_name=study, storage=opened.optuna).get_trials())


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Contest, Path, list[Event]]:
    """One finished contest of three tuners, its store, and what it said."""
    store, heard = tmp_path_factory.mktemp("contest") / "tune.db", list[Event]()
    found = contest(tuners=["random", "tpe", "qmc"], store=store, on_event=heard.append)
    return found, store, heard


# --- playing -------------------------------------------------------------------------------------


def test_times_spent_differ_by_at_most_one_trial_and_nobody_begins_one_beyond_the_budget(
    played: tuple[Contest, Path, list[Event]],
) -> None:
    found, _, _ = played
    spent = [row.spent_s for row in found.rows]
    longest = max(entry.longest_s for row in found.rows for entry in row.entries)
    assert max(spent) - min(spent) <= longest + 1e-12
    assert found.setting["equal"] and found.setting["spent_differ_s"] == max(spent) - min(spent)
    assert all(SECONDS - 2.001e-4 < one < SECONDS + longest for one in spent)


def test_the_tuner_with_the_least_time_spent_goes_next(played: tuple[Contest, Path, list[Event]]) -> None:
    _, _, heard = played
    spent = dict.fromkeys(("random", "tpe", "qmc"), 0.0)
    for event in heard:
        tuner = event.data.get("tuner")
        if event.kind == "asked":
            assert spent[tuner] <= min(spent.values()) + 1e-12
        if event.kind == "trial":
            spent[tuner] = event.data["elapsed_s"]
            assert event.text.startswith(f"{tuner}: trial ")


def test_default_and_starts_are_shared_and_the_default_is_charged_to_each(
    played: tuple[Contest, Path, list[Event]],
) -> None:
    found, store, _ = played
    with Store.open(store, read_only=True) as opened:
        names = [info.name for info in opened.studies()]
        defaults = {name: opened.measurements(name, role="baseline") for name in names[:3]}
    assert names == ["contest/random/1", "contest/tpe/1", "contest/qmc/1", "contest/verification"]
    metrics = [[row.metrics for row in rows] for rows in defaults.values()]
    assert len(metrics[0]) == 3 and metrics[0] == metrics[1] == metrics[2]
    starts = [[trial.config for trial in trials(store, name)[:6]] for name in names[:3]]
    assert starts[0] == starts[1] == starts[2]
    assert all(row.entries[0].curve[0] == (pytest.approx(3e-4), 1.0) for row in found.rows)


def test_winners_are_verified_in_the_same_rounds_and_identical_ones_once(
    played: tuple[Contest, Path, list[Event]],
) -> None:
    found, store, _ = played
    winners = [row.entries[0].config for row in found.rows if row.entries[0].config is not None]
    different = {json.dumps(config, sort_keys=True) for config in winners}
    with Store.open(store, read_only=True) as opened:
        rows = opened.measurements("contest/verification", role="verify")
    assert {row.side for row in rows} == {"default", *(f"trial {i}" for i in range(len(different)))}
    by_seed: dict[int, set[str]] = {}
    for row in rows:
        by_seed.setdefault(row.seed, set()).add(row.side)
    assert len(by_seed) <= 8 and all("default" in sides for sides in by_seed.values())
    assert all(len(sides) == len(different) + 1 for sides in list(by_seed.values())[:6])
    for row in found.rows:
        winner = row.entries[0].winner
        assert winner is not None and row.ratio == winner.ratios["throughput"].value
        assert found.complete and winner.trial > 0 and winner.observed == row.entries[0].observed


def test_an_identical_winner_is_verified_once_and_shared(tmp_path: Path) -> None:
    # Time for the starts alone: both tuners have seen the same.
    found = contest(seconds=0.0012, store=tmp_path / "tune.db", seed=3)
    first, second = (row.entries[0] for row in found.rows)
    assert first.config == second.config is not None and first.winner == second.winner
    assert "random = tpe: the same winner, verified once" in found.notes
    assert "no time for a proposal of its own after the 5 shared starts: random, tpe" in found.notes
    assert "the winner is a shared start, nothing that the tuner proposed: random, tpe" in found.notes
    assert "too short to tell tuners apart: nobody got beyond the 5 shared starts" in found.headline
    assert found.rows[1].gap in (0.0, None) and found.rows[0].gap in (0.0, None)


def test_again_on_a_finished_store_runs_nothing_and_another_target_is_refused(
    played: tuple[Contest, Path, list[Event]],
) -> None:
    found, store, _ = played
    heard: list[Event] = []
    again = contest(tuners=["random", "tpe", "qmc"], store=store, on_event=heard.append)
    assert not [event for event in heard if event.kind in ("asked", "verify", "baseline")]
    assert again.text() == found.text() and [r.ratio for r in again.rows] == [r.ratio for r in found.rows]
    with pytest.raises(StoreError, match="another target"):
        contest(Planted(noise=0.01, gain=False), store=store)


def test_stopped_and_resumed_ends_like_one_that_was_never_stopped(tmp_path: Path) -> None:
    store = tmp_path / "tune.db"
    stopped = contest(store=store, on_event=stopping("trial", 9))
    assert not stopped.complete and stopped.exit_code == 130
    assert stopped.headline.startswith("INCOMPLETE: everyone has used ")
    assert all(row.verdict == "unverified" and row.ratio is None for row in stopped.rows)
    assert stopped.text().splitlines()[-1] == stopped.headline and "(INCOMPLETE)" in stopped.text()
    before = {name: trials(store, name) for name in ("contest/random/1", "contest/tpe/1")}
    resumed = contest(store=store)
    assert resumed.complete and resumed.setting["equal"]
    for name, kept in before.items():
        done = [trial for trial in kept if trial.state == "valid"]
        after = {trial.number: trial for trial in trials(store, name)}
        assert done and all(after[trial.number] == trial for trial in done)
        assert [trial.number for trial in after.values()] == list(range(len(after)))
    # A tuner that joins later gets the same default, the same starts and the same time.
    joined = contest(store=store, tuners=["qmc", "random", "tpe"])
    assert joined.complete and joined.setting["equal"]
    starts = [[t.config for t in trials(store, f"contest/{tuner}/1")[:6]] for tuner in ("qmc", "tpe")]
    assert starts[0] == starts[1]


def test_stopped_while_the_default_is_measured_the_starts_still_come_first(tmp_path: Path) -> None:
    store = tmp_path / "tune.db"
    stopped = contest(store=store, on_event=stopping("baseline", 2))
    assert stopped.rows == () and stopped.exit_code == 130
    resumed = contest(store=store)
    starts = [[t.config for t in trials(store, f"contest/{tuner}/1")[:6]] for tuner in ("random", "tpe")]
    assert resumed.complete and starts[0] == starts[1] and trials(store, "contest/random/1")[0].is_default


def test_stopped_while_verifying_goes_on_with_the_finished_rounds(tmp_path: Path) -> None:
    store = tmp_path / "tune.db"
    stopped = contest(store=store, on_event=stopping("verify", 4), seed=3)
    assert stopped.exit_code == 130
    with Store.open(store, read_only=True) as opened:
        kept = len({row.seed for row in opened.measurements("contest/verification", role="verify")})
    heard: list[Event] = []
    assert contest(store=store, on_event=heard.append, seed=3).complete
    texts = [event.text for event in heard if event.kind == "verify"]
    assert kept >= 1 and not any(re.search(r"round 1[:,]", text) for text in texts)
    assert all(re.match(r"verifying (random|tpe|random = tpe), round", text) for text in texts)


def stopping(kind: str, count: int) -> Callable[[Event], None]:
    """Return a listener that presses Ctrl-C at the n-th event of a kind."""
    seen = 0

    def listen(event: Event) -> None:
        nonlocal seen
        seen += event.kind == kind
        if seen == count:
            seen += 1
            raise KeyboardInterrupt

    return listen


def test_nothing_to_gain_keeps_the_default() -> None:
    found = contest(Planted(noise=0.05, gain=False), tuners=["random"], seconds=0.0016, seed=5)
    assert found.exit_code == 4 and "keep the default" in found.headline


def test_several_seeds_and_validity_are_crossed(tmp_path: Path) -> None:
    found = contest(
        tuners=["random", "qmc"], seconds=0.001, seeds=2, validity=["learned", "none"], store=tmp_path / "tune.db",
        rounds=6,
    )  # fmt: skip
    assert {(row.tuner, row.validity) for row in found.rows} == {
        (tuner, word) for tuner in ("random", "qmc") for word in ("learned", "none")
    }
    assert all([entry.seed for entry in row.entries] == [1, 2] for row in found.rows)
    with Store.open(tmp_path / "tune.db", read_only=True) as opened:
        assert "contest/qmc/2/none" in [info.name for info in opened.studies()]
    assert "validity" in found.table()[0] and all(row.p_value is None for row in found.rows)


def test_on_a_server_failures_are_charged_and_rules_are_told(tmp_path: Path) -> None:
    target = server_target(PlantedServer(busy_s=0.005), directory=tmp_path, memory="1GiB", knobs="low_mark,high_mark")
    found = compare(target, tuners=["random"], seconds=4, rounds=6, validity="learned", verify_seconds=2)
    assert found.complete and found.rows[0].spent_s > 3.0, found.text()
    entries = [entry for row in found.rows for entry in row.entries]
    assert any(entry.counts.get("rejected", 0) for entry in entries)
    rules = [rule["text"] for entry in entries for rule in entry.rules]
    assert any("low_mark" in rule for rule in rules), rules
    page = found.report(tmp_path / "report").read_text()
    assert "low_mark" in page and "rejected" in page


# --- the table -----------------------------------------------------------------------------------


def winner(per_round: Sequence[float], verdict: str = "proven", *, better: Any = "higher") -> Candidate:
    ratio = Ratio.of([1.0] * len(per_round), per_round, metric="tps", better=better, clock="wall", machine="two cores")
    return Candidate(14, {"cache": 64}, {"cache": 64}, per_round[0], {"tps": ratio}, [], verdict, "p99_ms is 1.4x")


def entry(tuner: str, per_round: Sequence[float] | None, *, seed: int = 1, verdict: str = "proven") -> Entry:
    return Entry(
        tuner=tuner, validity="all", seed=seed, study=f"contest/{tuner}/{seed}", counts={"rejected": 1, "valid": 9},
        worked=4, tried=5, spent_s=91.5, ask_cpu_s=0.25, longest_s=9.25,
        observed=per_round[0] if per_round else 1.0, config={"cache": 64} if per_round else None,
        winner=winner(per_round, verdict) if per_round else None, curve=((9.0, 1.0), (18.0, 1.25)),
        rules=({"text": "low < high", "origin": "server message", "hard": True},),
    )  # fmt: skip


RISING = [1.36, 1.38, 1.40, 1.42, 1.44, 1.46, 1.39, 1.41]
FLATTER = [value * 0.95 for value in RISING]


def made(entries: Sequence[Entry], *, verified: bool = True) -> Contest:
    rows = rows_of(entries, metric="tps", better="higher", looks=(6, 8), verified=verified)
    tuners = list(dict.fromkeys(one.tuner for one in entries))
    setting: dict[str, Any] = {
        "target": "planted", "about": "", "fingerprint": {"version": "1.0"}, "metric": "tps", "better": "higher",
        "seconds": 90.0, "seeds": sorted({one.seed for one in entries}), "tuners": tuners, "validity": ["all"],
        "looks": [6, 8], "clock": "wall", "guards": ["p99_ms <= 1.1x"], "knobs": ["cache"], "constraints": [],
        "study": "contest", "store": "tune.db", "machine": "two cores", "spent_differ_s": 4.5, "longest_trial_s": 9.25,
        "equal": True,
    }  # fmt: skip
    notes = facts(setting, entries, lambda one: one.tuner)
    last = headline(rows, better="higher", factor=False) if verified else "INCOMPLETE"
    reference = Reference("a2021", "inproceedings", "A Title", "A. Author", 2021, {"booktitle": "EuroMLSys"})
    return Contest(rows, last, verified, setting, tuple(notes), (reference,))


def test_text_of_a_contest_is_a_table_that_fits_and_ends_in_one_plain_line() -> None:
    found = made([
        entry("random", FLATTER), entry("tpe", RISING), entry("cmaes", None),
        entry("dds", [2.0] * 8, verdict="guard broken"),
    ])  # fmt: skip
    assert found.text() == GOLDEN
    assert max(map(len, found.text().splitlines())) <= 120
    assert found.exit_code == 0


GOLDEN = """\
planted: higher tps, 1 min 30 s of measuring each, seed 1
  tuner   verified tps        verdict            gap to random            valid  trials  spent s  ask CPU-s
  tpe     1.41x [1.38, 1.44]  proven             +5.3% [+5.3%, +5.3%]       80%      10     91.5       0.25
  random  1.34x [1.31, 1.37]  proven             -                          80%      10     91.5       0.25
  cmaes   1.00x               keeps the default  -25.2% [-26.9%, -23.4%]    80%      10     91.5       0.25
  dds     1.00x               guard broken       -25.2% [-26.9%, -23.4%]    80%      10     91.5       0.25
note: times spent differ by 4.5 s, no more than one trial (the longest: 9.25 s)
note: below 5 seeds nothing is called significant: intervals alone are shown
note: cmaes found no trial that beats the default: it keeps it, 1x exactly
note: dds comes to the default, its winner is of no use: p99_ms is 1.4x
random search is within 5 % of the best (tpe, 1.41x [1.38, 1.44])"""


def test_gap_is_round_by_round_for_one_seed() -> None:
    rows = {row.tuner: row for row in made([entry("random", FLATTER), entry("tpe", RISING)]).rows}
    assert rows["random"].gap is None
    assert rows["tpe"].gap == pytest.approx(-math.log(0.95))
    # The spread of the rounds is common to both and cancels.
    assert rows["tpe"].gap_low == pytest.approx(rows["tpe"].gap) == rows["tpe"].gap_high
    assert "random search is within 5 % of the best (tpe, 1.41x" in headline(
        list(rows.values()), better="higher", factor=False
    )


def test_gap_to_a_random_search_that_keeps_the_default_is_the_ratio_itself() -> None:
    rows = {row.tuner: row for row in made([entry("random", None), entry("tpe", RISING)]).rows}
    assert rows["random"].ratio == 1.0 and rows["random"].verdict == "keeps the default"
    assert rows["tpe"].gap == pytest.approx(math.log(rows["tpe"].ratio or 0.0))


def test_gap_is_paired_over_seeds_and_tested_from_five_on() -> None:
    def seeds(count: int) -> list[Entry]:
        ours = [entry("tpe", [1.2 + 0.1 * seed] * 8, seed=seed) for seed in range(count)]
        peers = [entry("random", [(1.2 + 0.1 * seed) / 1.05] * 8, seed=seed) for seed in range(count)]
        return [*peers, *ours]

    few = {row.tuner: row for row in made(seeds(4)).rows}
    assert few["tpe"].p_value is None and few["tpe"].gap == pytest.approx(math.log(1.05))
    assert few["tpe"].gap_high == pytest.approx(math.log(1.05)) and few["tpe"].verdict == "all proven"
    assert few["tpe"].low is not None and few["tpe"].low < (few["tpe"].ratio or 0.0)
    many = made(seeds(6))
    assert {row.tuner: row.p_value for row in many.rows} == {"tpe": pytest.approx(0.03125), "random": None}
    assert "p (Holm)" in many.text() and "below 5 seeds" not in many.text()


def test_gap_of_a_time_counts_the_other_way() -> None:
    assert gap_below(0.8, 0.7, "lower") == pytest.approx(0.125)
    assert gap_below(1.2, 1.5, "higher") == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([entry("random", RISING), entry("tpe", FLATTER)], "random search is the best (1.41x"),
        ([entry("tpe", RISING), entry("random", RISING)], "no tuner beats random search (1.41x [1.38, 1.44]); tpe"),
        ([entry("random", RISING)], "no other tuner took part"),
        ([entry("qmc", FLATTER), entry("tpe", RISING)], "random search did not take part"),
        ([entry("random", None), entry("tpe", None)], "keep the default: no tuner found anything"),
        ([entry("random", None), entry("tpe", [1.5] * 8)], "random search ends 33 % below the best (tpe, 1.50x"),
        ([entry("random", FLATTER, verdict="not proven"), entry("tpe", RISING, verdict="not proven")],
         "keep the default: no winner is proven better than it; random search is within 5 % of the best"),
    ],
)  # fmt: skip
def test_headline(entries: list[Entry], said: str) -> None:
    assert said in made(entries).headline


def test_without_a_proven_winner_the_exit_code_says_keep_the_default() -> None:
    assert made([entry("random", None), entry("tpe", RISING, verdict="not proven")]).exit_code == 4
    assert made([entry("random", RISING)], verified=False).exit_code == 130


def test_json_round_trip_is_exact_even_with_open_intervals() -> None:
    open_ended = made([entry("random", [1.1, 1.2]), entry("tpe", [1.3, 1.2]), entry("qmc", None)])
    for found in (open_ended, made([entry("random", RISING)], verified=False)):
        text = json.dumps(found.to_json(), allow_nan=False)
        assert Contest.from_json(json.loads(text)).to_json() == found.to_json()
        assert Contest.from_json(json.loads(text)).text() == found.text()
    assert "[too few rounds]" in open_ended.text()


def test_report_opens_from_disk_and_asks_nothing_of_a_network(tmp_path: Path) -> None:
    entries = [entry("random", FLATTER), entry("tpe", RISING), entry("cmaes", None)]
    page = made(entries).report(tmp_path / "report", command="mlsysopt tune compare planted").read_text()
    assert "random search is within 5 % of the best" in page and "A. Author" in page
    assert "low &lt; high" in page and "mlsysopt tune compare planted" in page
    outside = [url for url in re.findall(r"(?:src|href)=\"([^\"]+)\"", page) if re.match(r"(?:https?:)?//", url)]
    assert outside == [] and (tmp_path / "report" / "figures" / "02.svg").is_file()
    assert made(entries[:1], verified=False).report(tmp_path / "stopped").is_file()


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tuners": ["random", "tpee"]}, "did you mean tpe"),
        ({"tuners": ["random", "random"]}, "named twice"),
        ({"tuners": []}, "a list of sampler names"),
        ({"tuners": "random"}, "a list of sampler names"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"seconds": 0}, "seconds must be positive"),
        ({"seconds": "soon"}, "seconds"),
        ({"validity": "some"}, "known words: all, learned, none"),
        ({"validity": ["none", "none"]}, "different ones"),
        ({"rounds": 5}, "at least 6 are needed"),
        ({"maximize": "throughput", "minimize": "get_us"}, "one metric"),
        ({"maximize": "troughput"}, "did you mean throughput"),
        ({"guard": {"write_uss": "<= 1x"}}, "write_us"),
        ({"seconds": 0.0004}, "3 runs of the default and one trial with its canary are 5 runs: "
                              "the smallest workable time is 500 us"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_the_way_out(given: dict[str, Any], said: str) -> None:
    with pytest.raises((UsageError, StudyError), match=re.escape(said)) as caught:
        contest(**given)
    assert caught.value.exit_code == 2


def test_a_target_without_an_objective_needs_one() -> None:
    with pytest.raises(UsageError, match="pass maximize or minimize"):
        contest(replace(Planted(), objective=None))  # type: ignore[arg-type]
