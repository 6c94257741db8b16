"""`mlsysopt ablate`: every verb, and every fault that a user can make or meet, by message and exit code."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from mlsysopt.cli.main import run

HEAD = """
import random
from mlsysopt.design import ablate


def make():
    return {}


def noise(seed, *what):
    return random.Random(repr((seed, *what))).gauss(0.0, 0.002)


def train(model, data, *, seed, a=True, b=True, c=True, d=True):
    value = 0.9 + noise(seed) + noise(seed, a, b, c, d)
    return {"accuracy": value - (0.0 if a else 0.06) - (0.0 if c or d else 0.05)}


def begin(train=train, data=None, make=make, **settings):
    settings = {"margin": 0.01, "store": "ablate.db", "maximize": "accuracy", **settings}
    return ablate.study(make, train, data, **settings)

"""
GOOD = "study = begin().options(a=False, b=False, c=False, d=False).pairs(('c=False', 'd=False'))"

Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Work in a folder of its own and write a study file there."""
    monkeypatch.chdir(tmp_path)

    def written(body: str) -> str:
        (tmp_path / "study.py").write_text(HEAD + textwrap.dedent(body) + "\n")
        return "study.py"

    return written


def ablate(*words: str) -> int:
    return run(["ablate", *words])


# --- what works ----------------------------------------------------------------------------------


def test_run_show_resume_and_report(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(GOOD)
    assert ablate("run", file, "--workers", "0", "--report", "report") == 0
    shown = capsys.readouterr()
    assert "needed: a=False, c=False + d=False; negligible: b=False, c=False, d=False" in shown.out
    assert "c=False and d=False back each other up: keep one of them" in shown.out
    assert "base, seed 0: accuracy" in shown.err
    page = Path("report/index.html").read_text()
    assert "backup pair" in page and "mlsysopt" in page and "<svg" in page
    assert ablate("show", "ablate.db", "--json") == 0
    table = json.loads(capsys.readouterr().out)
    assert {row["name"]: row["word"] for row in table["rows"]}["c=False + d=False"] == "needed"
    trained = table["trainings"]
    assert ablate("resume", "ablate.db", "--workers", "0", "--json") == 0
    again = capsys.readouterr()
    assert json.loads(again.out)["trainings"] == trained
    assert "seed 0" not in again.err
    assert ablate("plan", file) == 0
    assert " CPU" in capsys.readouterr().out


def test_plan_trains_nothing_and_names_the_price(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(GOOD)
    assert ablate("plan", file) == 0
    said = capsys.readouterr().out
    assert "family of 5 questions" in said
    assert "6 rows, 19 to 61 trainings" in said
    assert not Path("ablate.db").exists()
    assert ablate("plan", file, "--json", "--seeds", "5") == 0
    assert json.loads(capsys.readouterr().out)["trainings"] == {"least": 31, "most": 31}


def test_without_a_margin_the_plan_says_what_that_costs(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert ablate("plan", write("study = begin(margin=None).options(a=False)")) == 0
    assert "no row can be called negligible" in capsys.readouterr().out


def test_prune_drops_what_is_not_needed_and_verifies_it(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert ablate("run", write(GOOD), "--workers", "0", "--prune", "--json") == 0
    pruned = json.loads(capsys.readouterr().out)["pruned"]
    assert pruned["verified"]
    # Of the backup pair one may go, never both.
    assert "b=False" in pruned["dropped"] and "a=False" not in pruned["dropped"]
    assert len({"c=False", "d=False"} & set(pruned["dropped"])) == 1


def test_a_study_of_another_name(write: Write) -> None:
    file = write("other = begin(store=None).options(a=False)")
    assert ablate("run", f"{file}:other", "--workers", "0") == 0


# --- what cannot be meant ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("study = begin().options(aa=False)", "did you mean a?"),
        ("study = begin().options(a=True)", "the default of train already"),
        ("study = begin().data(fraction=1.5)", "above 0 and at most 1, got 1.5"),
        ("study = begin().data(fraction=[0.5, 0.0])", "got 0.0"),
        ("study = begin(margin=0.0).options(a=False)", "margin must be above 0, got 0.0"),
        ("study = begin(margin=-1).options(a=False)", "margin must be above 0, got -1"),
        ("study = begin(maximize=None).options(a=False)", "maximize='accuracy' or minimize='loss'"),
        ("study = begin()", "nothing is to be taken away"),
        ("study = begin().options(a=False).pairs(('a=False', 'b'))", "'b' is no component"),
        ("study = begin().options(a=False).design('loko')", "did you mean loco?"),
        ("study = begin().options(a=False).variant('x', make).variant('x', make)", "two variants are called 'x'"),
        ("study = begin().options(a=False).variant('a=False', make)", "two components are called 'a=False'"),
        ("study = begin(train=lambda model, data: 1.0).options(a=False)", "no keyword 'seed'"),
        ("study = 3", "'study' is a int"),
        ("stud = begin()", "did you mean stud?"),
        ("study = begin(1 / 0)", "ZeroDivisionError"),
        ("study = begin().modules('x')", "make_model returned a dict"),
    ],
)
def test_refused_studies(body: str, says: str, write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert ablate("run", write(body), "--workers", "0") == 2
    out, err = capsys.readouterr()
    assert says in err and out == ""
    assert len(err.strip().splitlines()) <= 3
    assert not Path("ablate.db").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--max-seeds", "2"], "max_seeds must be at least 3, got 2"),
        (["--seeds", "2"], "a number from 3, got '2'"),
        (["--workers", "-1"], "workers must be 0 (in this process) or more, got -1"),
        (["--budget", "soon"], "a number of trials (20) or a time"),
        (["--timeout", "fast"], "fast"),
        (["--executor", "lokal"], "did you mean local?"),
    ],
)
def test_refused_flags(words: list[str], says: str, write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert ablate("run", write(GOOD), *words) == 2
    assert says in capsys.readouterr().err


def test_missing_files_and_stores(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write(GOOD)
    assert ablate("run", "studi.py") == 2
    assert "did you mean study.py?" in capsys.readouterr().err
    for verb in ("resume", "show"):
        assert ablate(verb, "nowhere.db") == 2
        assert "nowhere.db" in capsys.readouterr().err


def test_equal_components_are_merged_with_a_line(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    body = "study = begin(data={'x': list(range(9))}).options(a=False)\n"
    body += "study.data(fraction=[0.5, 0.5000]); study.variant('x', make)"
    assert ablate("plan", write(body), "--json") == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)["rows"]] == ["a=False", "data 50%", "x"]


# --- what a training can return ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ("None", "train returned None"),
        ("'0.9'", "train returned '0.9'"),
        ("{'acuracy': 0.9}", "did you mean acuracy?"),
        ("[0.9, 0.8]", "a list where a number"),
        ("__import__('torch').ones((), requires_grad=True)", "with its graph"),
    ],
)
def test_no_number_from_the_first_base_training_stops_the_study(
    returned: str, says: str, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    body = f"def bad(model, data, *, seed, a=True):\n    return {returned}\n\nstudy = begin(bad).options(a=False)"
    assert ablate("run", write(body), "--workers", "0") == 1
    shown = capsys.readouterr().out
    assert "the base model's first training gave no result" in shown
    assert says in shown


def test_no_number_in_a_row_is_counted_and_the_study_goes_on(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    body = """
    def sometimes(model, data, *, seed, a=True, b=True, c=True, d=True):
        if not b and seed == 1:
            raise ValueError("diverged on purpose")
        if not c and seed == 2:
            return {"accuracy": float("nan")}
        return train(model, data, seed=seed, a=a)

    study = begin(sometimes).options(a=False, b=False, c=False)
    """
    assert ablate("run", write(body), "--workers", "0", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in result["rows"]}
    assert rows["a=False"]["word"] == "needed"
    assert rows["b=False"]["failed"] == 1 and rows["b=False"]["deltas"][1] is None
    assert ["b=False", 1, "crashed", "ValueError: diverged on purpose"] in result["failures"]
    assert ["c=False", 2, "degraded", "accuracy is nan"] in result["failures"]


def test_a_row_that_fails_again_and_again_is_needed(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    body = """
    def fails(model, data, *, seed, a=True, b=True):
        if not a and seed != 2:
            raise ValueError("diverged")
        return train(model, data, seed=seed, b=b)

    study = begin(fails).options(a=False, b=False)
    """
    assert ablate("run", write(body), "--workers", "0") == 0
    assert "needed (training fails 3/4, 19% to 99%)" in capsys.readouterr().out


def test_three_failures_of_the_base_stop_the_study(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    body = """
    def fails(model, data, *, seed, a=True):
        if a:
            raise ValueError("no good")
        return 0.5

    study = begin(fails).options(a=False)
    """
    assert ablate("run", write(body), "--workers", "0") == 1
    shown = capsys.readouterr().out
    assert "the base model failed to train 3 times: ValueError: no good" in shown
    assert "in fails" in shown


def test_a_training_that_does_not_repeat_is_said(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    body = """
    import itertools
    count = itertools.count()

    def drifts(model, data, *, seed, a=True):
        return 0.9 + next(count) * 1e-4 - (0.0 if a else 0.5)

    study = begin(drifts).options(a=False)
    """
    assert ablate("run", write(body), "--workers", "0") == 0
    assert "not repeatable: seed 0 gave 0.9 and 0.9001; pairing gains nothing" in capsys.readouterr().out


def test_a_seed_without_effect_gives_no_verdicts(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    body = "study = begin(lambda model, data, *, seed, a=True: 0.9 if a else 0.1).options(a=False)"
    assert ablate("run", write(body), "--workers", "0", "--json") == 4
    result = json.loads(capsys.readouterr().out)
    assert "seed has no effect: is it used?" in result["warnings"][0]
    assert {row["word"] for row in result["rows"]} == {"undecided"}


def test_a_component_without_any_effect_is_asked_about(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    body = "study = begin(lambda model, data, *, seed, a=True: 0.9 + noise(seed)).options(a=False)"
    assert ablate("run", write(body), "--workers", "0") == 0
    assert "no effect (metric equal in every seed: was it used?)" in capsys.readouterr().out


# --- workers, limits, budgets --------------------------------------------------------------------


def test_what_cannot_be_pickled_is_named(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    body = "import threading\nstudy = begin(data={'lock': threading.Lock()}).options(a=False)"
    assert ablate("run", write(body), "--workers", "1") == 2
    err = capsys.readouterr().err
    assert "data['lock'] cannot be sent to a worker" in err and "--workers 0" in err
    assert ablate("run", "study.py", "--workers", "0") == 0


def test_what_a_function_holds_is_named_too(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    body = """
    import threading

    def holding():
        handle = threading.Lock()
        return lambda: {"lock": handle}

    study = begin(make=holding()).options(a=False)
    """
    assert ablate("run", write(body), "--workers", "1") == 2
    assert "make_model (variable 'handle') cannot be sent" in capsys.readouterr().err


def test_a_worker_that_dies_a_training_that_takes_too_long_and_one_that_is_too_large(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    body = """
    import os, signal, time

    def dies(model, data, *, seed, a=True, b=True, c=True):
        if not a and seed == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if not b and seed == 1:
            time.sleep(60)
        if not c and seed == 1:
            bytearray(2**32)
        return train(model, data, seed=seed)

    study = begin(dies, margin=0.02).options(a=False, b=False, c=False)
    """
    limits = ("--timeout", "8s", "--trial-memory", "2GiB")
    assert ablate("run", write(body), "--workers", "2", *limits, "--seeds", "4", "--json") == 0
    failures = sorted(json.loads(capsys.readouterr().out)["failures"])
    assert [one[:3] for one in failures] == [
        ["a=False", 1, "crashed"], ["b=False", 1, "timeout"], ["c=False", 1, "crashed"],
    ]  # fmt: skip
    assert "memory" in failures[2][3]


def test_a_budget_that_ends_early(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert ablate("run", write(GOOD), "--workers", "0", "--budget", "8") == 4
    shown = capsys.readouterr()
    assert "undecided" in shown.out
    assert "fewer than 3 seeds: a=False" in shown.out
    assert "trainings are missing" in shown.out
    assert "mlsysopt ablate resume ablate.db" in shown.err
    assert ablate("resume", "ablate.db", "--workers", "0") == 0


# --- the store -----------------------------------------------------------------------------------


def test_changed_code_is_not_mixed(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(GOOD)
    assert ablate("run", file, "--workers", "0") == 0
    with open(file, "a") as stream:
        stream.write("# a change\n")
    capsys.readouterr()
    assert ablate("run", file, "--workers", "0") == 2
    err = capsys.readouterr().err
    assert "study.py (changed)" in err and "--new-store" in err
    assert ablate("run", file, "--workers", "0", "--new-store") == 0
    assert Path("ablate.db.1").exists()


def test_changed_data_is_not_mixed(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    body = "from pathlib import Path\nstudy = begin(data=Path('rows.txt').read_text()).options(a=False)"
    Path("rows.txt").write_text("1")
    assert ablate("run", write(body), "--workers", "0") == 0
    Path("rows.txt").write_text("2")
    assert ablate("run", "study.py", "--workers", "0") == 2
    assert "the data" in capsys.readouterr().err


def test_a_full_disk_is_tried_twice_then_said(
    write: Write,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mlsysopt.core.errors import StoreUnavailable
    from mlsysopt.core.store import Store

    kept, seen = Store.add_sample, [0]

    def add_sample(self: Store, *row: object) -> object:
        # The first write is refused once, that of the third training again and again.
        seen[0] += isinstance(row[2], dict) and row[2]["what"] == "trial"
        if (not seen[0] and not caplog.text) or seen[0] >= 3:
            raise StoreUnavailable("store ablate.db cannot be written: the disk is full; make room and run again")
        return kept(self, *row)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "add_sample", add_sample)
    assert ablate("run", write(GOOD), "--workers", "0") == 1
    assert "the disk is full" in capsys.readouterr().err
    assert "trying once more" in caplog.text
    monkeypatch.setattr(Store, "add_sample", kept)
    assert ablate("resume", "ablate.db", "--workers", "0", "--json") == 0
    assert json.loads(capsys.readouterr().out)["lost"] == 1


def test_a_study_made_from_python_cannot_be_built_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mlsysopt.design import ablate as room

    def train(model: object, data: object, *, seed: int, a: bool = True) -> float:
        return seed * 0.01 - (0.0 if a else 1.0)

    room.study(dict, train, maximize="score", store=tmp_path / "p.db").options(a=False).run(workers=0)
    assert ablate("show", str(tmp_path / "p.db")) == 0
    assert ablate("resume", str(tmp_path / "p.db")) == 2
    assert "made from Python" in capsys.readouterr().err
