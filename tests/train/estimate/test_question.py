"""One question from the ratings to the answer: samples, store, limits, failures, files."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlsysopt.core.errors import ArtefactError, InfrastructureError, UsageError
from mlsysopt.core.store import Store
from mlsysopt.train.estimate import DoesNotFit, Estimate, RatingsError, SamplingFailed, run
from mlsysopt.train.estimate.measuring import Note
from tests.train.estimate.planted import BANK, burn, dying, failing, hanging, planted, ratings

DATA = ratings(3000)
PARAMS = {"n_factors": 40, "n_epochs": 50}
# What the planted trainer costs: 20 ns per rating, factor and epoch.
TRUTH = 0.002 + 2e-8 * len(DATA) * 40 * 50


def ask(trainer: Any = planted, **options: Any) -> Estimate:
    settings: dict[str, Any] = {"params": PARAMS, "budget": "2.5s", "bank": BANK, **options}
    return run(DATA, trainer, **settings)


@pytest.fixture(scope="module")
def answered() -> Estimate:
    return ask()


def test_the_planted_law_is_found(answered: Estimate) -> None:
    assert answered.seconds == pytest.approx(TRUTH, rel=0.25)
    assert answered.low < answered.seconds < answered.high
    assert answered.verdict == "fits" and answered.exit_code == 0
    assert len(answered.samples) >= 4
    assert all(one.rows_share <= 0.5 for one in answered.samples)


def test_every_hyper_parameter_varies(answered: Estimate) -> None:
    for name in PARAMS:
        assert len({one.params[name] for one in answered.samples}) >= 2


def test_other_hyper_parameters_cost_nothing(answered: Estimate) -> None:
    assert answered.at(n_factors=80).seconds == pytest.approx(2 * answered.seconds, rel=0.1)
    more = answered.changed({"n_epochs": "100"})
    assert more.seconds == pytest.approx(2 * answered.seconds, rel=0.1)
    assert more.params["n_epochs"] == 100


def test_says_what_it_cost_and_what_others_say(answered: Estimate) -> None:
    text = str(answered)
    assert "CPU [" in text and "90 %" in text and "samples, largest" in text
    for name in ("linear", "log-log", "random forest", "Gaussian process", "mean of black boxes"):
        assert name in text
    assert answered.spent_s <= 1.1 * 2.5 + 0.5


def test_the_file_holds_everything(answered: Estimate, tmp_path: Path) -> None:
    path = answered.write(tmp_path / "x.estimate.json")
    back = Estimate.read(path)
    assert back.about() == answered.about()
    assert str(back) == str(answered)
    assert [path.name for path in tmp_path.iterdir()] == ["x.estimate.json"]


@pytest.mark.parametrize(
    ("content", "words"),
    [("{", "this is no estimate file"), ("{}", "no 'artefact' entry"), (None, "there is no such file")],
)
def test_another_file_is_refused(tmp_path: Path, content: str | None, words: str) -> None:
    path = tmp_path / "x.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ArtefactError, match=words):
        Estimate.read(path)


def test_a_newer_or_damaged_file_is_refused(answered: Estimate, tmp_path: Path) -> None:
    path = answered.write(tmp_path / "x.json")
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "artefact": {**content["artefact"], "version": 99}}))
    with pytest.raises(ArtefactError, match="version 99"):
        Estimate.read(path)
    path.write_text(json.dumps({**content, "run": {}}))
    with pytest.raises(ArtefactError, match="damaged"):
        Estimate.read(path)


def test_limits_decide(answered: Estimate) -> None:
    wall = answered.wall_per_cpu
    assert ask(model=answered, within=10 * answered.high * wall).exit_code == 0
    slow = ask(model=answered, within=0.5 * answered.low * wall)
    assert (slow.exit_code, slow.verdict) == (1, "does not fit")
    assert "too slow" in str(slow)
    open_ = ask(model=answered, within=math.sqrt(answered.seconds * answered.high) * wall)
    assert (open_.exit_code, open_.verdict) == (4, "undecided")
    assert "--budget" in str(open_) or "no budget" in str(open_)


def test_a_training_that_cannot_fit_is_refused_before_anything_starts() -> None:
    notes: list[Note] = []
    started = time.monotonic()
    with pytest.raises(DoesNotFit, match="nothing was started"):
        ask("knn", params={"user_based": True}, memory="30MiB", watch=notes.append)
    assert not notes and time.monotonic() - started < 10


def test_a_cheap_training_is_told_so_after_two_rungs() -> None:
    found = ask(params={"n_factors": 4, "n_epochs": 5}, budget="20s")
    assert (found.verdict, found.exit_code, found.forecast) == ("just train", 0, None)
    assert found.about_s == pytest.approx(0.002 + 2e-8 * len(DATA) * 20, rel=1.0)
    assert "just train: about" in str(found)
    with pytest.raises(UsageError, match="less than asking"):
        found.at(n_epochs=3)
    again = Estimate.read(found.write(Path(os.environ["XDG_STATE_HOME"]).parent / "x.json"))
    assert again.verdict == "just train"


def test_too_small_is_told_with_the_load_time() -> None:
    with pytest.raises(RatingsError, match="too small to sample: train it"):
        run(DATA.subset_users([0, 1, 2]), planted, PARAMS, bank=BANK)


@pytest.mark.parametrize(
    ("trainer", "words"),
    [(failing, "crashed: ZeroDivisionError: float division"), (dying, "crashed: .*SIGKILL")],
)
def test_a_trainer_that_always_fails_gives_no_forecast(trainer: Any, words: str) -> None:
    with pytest.raises(SamplingFailed, match=words) as failed:
        ask(trainer)
    assert "3 samples failed, 0 came out well" in str(failed.value)
    assert failed.value.exit_code == 1


def test_a_trainer_that_hangs_costs_no_more_than_the_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlsysopt.train.estimate.measuring._LONGEST_GRACE_S", 0.2)
    monkeypatch.setattr("mlsysopt.train.estimate.climb._MOST_FAILURES", 1)
    with pytest.raises(SamplingFailed, match="timeout: not done after"):
        ask(hanging, budget="1s")


def test_a_failure_on_one_rung_keeps_the_others() -> None:
    def fit(data: Any, *, n_factors: int = 8, n_epochs: int = 10) -> None:
        if 1000 < len(data) < 2500:
            raise RuntimeError("this size only")
        burn(2e-8 * len(data) * n_factors * n_epochs)

    found = ask(replace(planted, fit=fit))
    assert [one.reason for one in found.failures] and found.forecast is not None
    assert "a sample failed: crashed: RuntimeError: this size only" in str(found)


def test_wrong_terms_are_flagged() -> None:
    def fit(data: Any, *, n_factors: int = 8, n_epochs: int = 10) -> None:
        burn(5e-9 * len(data) ** 2)

    found = ask(replace(planted, fit=fit, time=("U*0.001", "1")), always=True)
    assert found.forecast is not None and found.forecast.flagged
    assert "your terms explain the samples within" in str(found)
    assert found.exit_code == 0


def test_the_same_question_comes_from_the_store(tmp_path: Path) -> None:
    store = tmp_path / "e.db"
    first = ask(store=store)
    notes: list[Note] = []
    started = time.monotonic()
    again = ask(store=store, watch=notes.append)
    assert again.from_store >= len(first.samples)
    assert [one.cpu_s for one in again.samples][: len(first.samples)] == [one.cpu_s for one in first.samples]
    assert time.monotonic() - started < 20
    other = ask(store=store, seed=1, budget="2s", always=True)
    assert other.from_store == 0


def test_a_sample_of_another_machine_is_taken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "e.db"
    ask(store=store, budget="2s")
    monkeypatch.setattr(Store, "machine_key", "another")
    assert ask(store=store, budget="2s").from_store == 0


def test_an_estimate_of_other_data_or_machine_is_never_used_silently(
    answered: Estimate, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = ratings(2000, seed=9)
    with pytest.raises(UsageError, match="with --transfer three rungs are timed here") as refused:
        run(other, planted, PARAMS, model=answered, bank=BANK)
    assert answered.digest[:12] in str(refused.value) and other.digest[:12] in str(refused.value)
    with pytest.raises(UsageError, match="is of trainer 'planted'"):
        run(DATA, "svd", {}, model=answered, bank=BANK)
    elsewhere = replace(answered, machine="0" * 12)
    with pytest.raises(UsageError, match="of machine 000000000000"):
        ask(model=elsewhere)


def test_a_transfer_times_three_rungs_and_finds_the_factor(answered: Estimate) -> None:
    # The old machine was three times as fast.
    samples = tuple(replace(one, cpu_s=one.cpu_s / 3, wall_s=one.wall_s / 3) for one in answered.samples)
    assert answered.forecast is not None
    coefficients = tuple(c / 3 for c in answered.forecast.coefficients)
    old = replace(
        answered, machine="0" * 12, forecast=replace(answered.forecast, samples=samples, coefficients=coefficients)
    )
    found = ask(model=old, transfer=True)
    assert len(found.samples) == len(samples) + 3
    assert found.seconds == pytest.approx(TRUTH, rel=0.3)


def test_the_budget_bounds_what_is_spent() -> None:
    spent = {}
    for budget in (1.5, 4.0):
        found = ask(budget=budget, params={"n_factors": 200, "n_epochs": 400})
        spent[budget] = found.spent_s
        assert found.spent_s <= 1.1 * budget + 0.3
    assert spent[4.0] > spent[1.5]


def test_a_budget_that_buys_nothing_is_told_with_one_that_does() -> None:
    # The smallest rung alone takes most of the second, on any machine: what is burned is time.
    def fit(data: Any, *, n_factors: int = 8, n_epochs: int = 10) -> None:
        burn(1e-3 * len(data))

    with pytest.raises(SamplingFailed, match="a forecast needs 3: give --budget 3s"):
        ask(replace(planted, fit=fit), budget="1s")


def test_a_full_disk_keeps_what_was_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "e.db"
    from mlsysopt.train.estimate.host import Host

    kept: Callable[..., str] = Host.keep
    taken: list[int] = []

    def keep(self: Host, data: Any) -> str:
        if len(taken) >= 2:
            raise InfrastructureError("a sample cannot be written to x: No space left on device")
        taken.append(1)
        return kept(self, data)

    with monkeypatch.context() as patch, pytest.raises(InfrastructureError, match="No space left"):
        patch.setattr(Host, "keep", keep)
        ask(store=store)
    assert ask(store=store).from_store == 2


_PROGRAM = """
    import sys
    from mlsysopt.train.estimate import run
    from tests.train.estimate.planted import BANK, planted, ratings
    def watch(note):
        sys.stdout.write(note.kind + "\\n")
        sys.stdout.flush()
    params = {"n_factors": 400, "n_epochs": 400}
    run(ratings(3000), planted, params, budget="30s", bank=BANK, store=sys.argv[1], watch=watch)
"""


def test_a_kill_in_a_sample_keeps_the_finished_ones_and_leaves_nothing(tmp_path: Path) -> None:
    store = tmp_path / "e.db"
    program = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_PROGRAM), str(store)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONPATH": "."},
    )
    assert program.stdout is not None
    for _ in range(3):
        assert program.stdout.readline() == b"sample\n"
    from mlsysopt.core.processes.memory import descendants

    children = descendants(program.pid)
    assert children
    program.send_signal(signal.SIGKILL)
    program.wait(timeout=20)
    program.stdout.close()
    deadline = time.monotonic() + 10
    while any(_alive(pid) for pid in children):
        assert time.monotonic() < deadline, "a child is left"
        os.sched_yield()
    with Store.open(store) as opened:
        assert len([row for row in opened.samples("estimate") if row.key.startswith("sample:")]) >= 3
    found = run(
        ratings(3000), planted, {"n_factors": 400, "n_epochs": 400}, budget="3s", bank=BANK, store=store, always=True
    )
    assert found.from_store >= 3


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
