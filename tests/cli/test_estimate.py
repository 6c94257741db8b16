"""`mlsysopt estimate` at its edges: message, exit code, leftovers, for every kind of bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mlsysopt.cli.main import run
from mlsysopt.core.processes.memory import descendants
from mlsysopt.train.estimate import Ratings, intervals
from tests.train.estimate.planted import BANK, ratings

PLANTED = "tests.train.estimate.planted:planted"
QUICK = ("--budget", "2.5s")
# About a second of training.
SLOW = ("--set", "n_factors=40", "--set", "n_epochs=50")


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


@pytest.fixture
def estimate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    monkeypatch.setattr(intervals, "shipped", lambda: BANK)

    def call(*words: object) -> Said:
        code = run(["estimate", *(str(word) for word in words)])
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return call


def write(path: Path, data: Ratings, header: str = "user,item,rating") -> Path:
    rows = zip(data.user.tolist(), data.item.tolist(), data.value.tolist(), strict=True)
    path.write_text("\n".join([header, *(f"u{u},i{i},{v}" for u, i, v in rows)]) + "\n")
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "ratings.csv", ratings(3000))


@pytest.fixture(scope="module")
def answered(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An estimate file, and the report beside it."""
    folder = tmp_path_factory.mktemp("answer")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intervals, "shipped", lambda: BANK)
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        words = ["estimate", "run", str(table), "--trainer", PLANTED, *QUICK, *SLOW, "-o", str(folder / "a.json")]
        assert run([*words, "--report", str(folder / "report")]) == 0
    return folder / "a.json"


def test_answers_and_writes_file_and_report(answered: Path) -> None:
    content = json.loads(answered.read_text())
    assert content["run"]["verdict"] == "fits"
    page = (answered.parent / "report" / "index.html").read_text()
    for words in ("Time against the share of rows", "What each term adds", "None is left out", "Memory at its peak"):
        assert words in page
    assert "paun2021" in page or "Are we there yet" in page


def test_explains_everything(estimate: Callable[..., Said], answered: Path) -> None:
    said = estimate("explain", answered)
    assert said.code == 0
    for words in ("seconds = ", "share of each term:", "memory at its peak:", "samples (share", "what if", "log-log:"):
        assert words in said.out
    document = json.loads(estimate("explain", answered, "--json").out)
    assert document["forecast"]["rivals"] and document["what_if"]["rows"]
    changed = estimate("explain", answered, "--set", "n_epochs=100", "--json")
    assert json.loads(changed.out)["seconds"] == pytest.approx(2 * document["seconds"], rel=0.1)


def test_the_same_file_answers_again(estimate: Callable[..., Said], table: Path, answered: Path) -> None:
    words = ("run", table, "--trainer", PLANTED, *SLOW, "--model", answered)
    assert estimate(*words).code == 0
    assert estimate(*words, "--within", "1ms").code == 1
    document = json.loads(answered.read_text())["run"]
    edge = (document["seconds"] * document["high"]) ** 0.5 * document["wall_per_cpu"]
    open_ = estimate(*words, "--within", f"{edge}s")
    assert (open_.code, "undecided" in open_.out) == (4, True)
    assert "--budget" in open_.out or "no budget" in open_.out


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        ("", (), "the file is empty"),
        ("user,item,rating\n", (), "no ratings"),
        ("a,b,c\n1,2,3\n", (), "--columns a,b,c"),
        ("user,item,rating\nx,y,good\nx,z,3\n", (), "row 2: 'good'"),
        ("user,item,rating\nx,y,nan\nx,z,inf\n", (), "row 2: 'nan', row 3: 'inf'"),
        ("user,item,rating\nx,y,3\n", ("--columns", "user,item"), "columns are three"),
        ("user,item,rating\nx,y,3\n", (), "too small to sample: train it"),
    ],
)
def test_bad_files_are_refused(
    estimate: Callable[..., Said], tmp_path: Path, content: str, options: tuple[str, ...], words: str
) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(content)
    said = estimate("run", path, "--trainer", "svd", *options)
    assert (said.code, said.out) == (2, "")
    assert words in said.err and "Traceback" not in said.err


def test_no_such_file(estimate: Callable[..., Said], tmp_path: Path) -> None:
    said = estimate("run", tmp_path / "none.csv", "--trainer", "svd")
    assert (said.code, "there is no such file" in said.err) == (2, True)


def test_one_user_is_too_few(estimate: Callable[..., Said], tmp_path: Path) -> None:
    path = tmp_path / "one.csv"
    path.write_text("user,item,rating\n" + "".join(f"x,i{n},3.5\n" for n in range(300)))
    said = estimate("run", path, "--trainer", "svd")
    assert said.code == 2 and "1 users, 300 items, 300 ratings (loaded in" in said.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--trainer", "svdp"), "did you mean svd"),
        (("--trainer", "svd", "--set", "n_factor=3"), "did you mean n_factors?"),
        (("--trainer", "svd", "--set", "n_factors"), "looks like KEY=VALUE"),
        (("--trainer", "knn", "--set", "sim=cosin"), "allowed are msd, cosine"),
        (("--trainer", "svd", "--budget", "20"), None),
        (("--trainer", "svd", "--budget", "0s"), "budget must be above 0"),
        (("--trainer", "svd", "--budget", "soon"), "quantity 'soon'"),
        (("--trainer", "svd", "--memory", "8G"), "8GiB"),
        (("--trainer", "svd", "--within", "10 minutes"), "did you mean"),
        (("--trainer", "svd", "--protocol", "papers"), "papers"),
        (("--trainer", "no_such_module:mine"), "must be importable"),
    ],
)
def test_words_that_mean_nothing_are_refused(
    estimate: Callable[..., Said], tmp_path: Path, options: tuple[str, ...], words: str | None
) -> None:
    path = write(tmp_path / "r.csv", ratings(60))
    said = estimate("run", path, *options)
    if words is None:
        # A budget without a unit is seconds.
        assert said.code == 0
    else:
        assert (said.code, words in said.err) == (2, True), said.err


@pytest.mark.parametrize(
    ("time", "words"),
    [
        ("n_epochs*Q", "unknown symbol 'Q' at position 9"),
        ("__import__('os').system('true')", "position"),
        ("R.real", "position"),
    ],
)
def test_a_declaration_that_is_wrong_is_refused(
    estimate: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, time: str, words: str
) -> None:
    (tmp_path / "declared.py").write_text(
        "from mlsysopt.train import estimate\n"
        f"mine = estimate.trainer('mine', fit=lambda data, n_epochs=1: None, time={time!r})\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "declared", raising=False)
    said = estimate("run", write(tmp_path / "r.csv", ratings(60)), "--trainer", "declared:mine")
    assert (said.code, words in said.err) == (2, True), said.err


def test_a_negative_term_is_named_with_its_place(
    estimate: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "negative.py").write_text(
        "from mlsysopt.train import estimate\n"
        "mine = estimate.trainer('mine', fit=lambda data: None, time=['R', 'U - R'])\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    said = estimate("run", write(tmp_path / "r.csv", ratings(60)), "--trainer", "negative:mine")
    assert said.code == 2
    assert "term 2, 'U - R', is -" in said.err


def test_a_missing_package_names_its_line(
    estimate: Callable[..., Said], table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "surprise", None)
    said = estimate("run", table, "--trainer", "svd")
    assert (said.code, "pip install 'mlsysopt[train]'" in said.err) == (3, True)


def test_what_cannot_fit_is_refused_with_the_arithmetic(estimate: Callable[..., Said], table: Path) -> None:
    said = estimate("run", table, "--trainer", "knn", "--set", "sim=cosine", "--memory", "100MiB")
    assert (said.code, said.out) == (1, "")
    assert "cosine by user holds 5 squares of 3,000^2 x 8 B = 343.3 MiB" in said.err
    assert "sim=msd needs 206 MiB" in said.err and "nothing was started" in said.err


def test_duplicates_are_counted_and_go_on(estimate: Callable[..., Said], tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", ratings(300))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[1], lines[2]]) + "\n")
    said = estimate("run", path, "--trainer", "svd", "--set", "n_epochs=1")
    assert said.code == 0 and "2 ratings repeat a pair" in said.err
    last = estimate("run", path, "--trainer", "svd", "--set", "n_epochs=1", "--duplicates", "last")
    assert last.code == 0 and "Surprise keeps them" not in last.err


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_constant_ratings_are_warned_about_and_go_on(
    estimate: Callable[..., Said], tmp_path: Path, caplog: pytest.LogCaptureFixture, value: float
) -> None:
    data = ratings(400)
    same = Ratings.from_codes(data.user, data.item, [value] * len(data))
    path = write(tmp_path / "same.csv", same)
    said = estimate("run", path, "--trainer", "svd", "--set", "n_epochs=1")
    assert said.code == 0
    assert f"every rating is {value:g}" in caplog.text


def test_a_trainer_that_fails_is_told_with_its_kind(estimate: Callable[..., Said], table: Path) -> None:
    said = estimate("run", table, "--trainer", PLANTED.replace(":planted", ":failing"), *QUICK)
    assert said.code == 1
    assert "3 samples failed, 0 came out well" in said.err
    assert "crashed: ZeroDivisionError: float division" in said.err


def test_a_cheap_training_is_just_done(estimate: Callable[..., Said], table: Path) -> None:
    said = estimate("run", table, "--trainer", PLANTED, "--set", "n_epochs=1", "--json")
    document = json.loads(said.out)
    assert (said.code, document["verdict"]) == (0, "just train")


def test_wrong_terms_are_flagged_and_go_on(
    estimate: Callable[..., Said], table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wrong.py").write_text(
        "from mlsysopt.train import estimate\nfrom tests.train.estimate.planted import burn\n"
        "mine = estimate.trainer('wrong', fit=lambda data: burn(3e-9 * len(data) ** 2), time='U')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    said = estimate("run", table, "--trainer", "wrong:mine", *QUICK, "--always")
    assert said.code == 0
    assert "your terms explain the samples within" in said.out and "terms picked from the dictionary" in said.out


def test_an_estimate_of_another_machine_is_never_used_silently(
    estimate: Callable[..., Said], table: Path, answered: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.json"
    content = json.loads(answered.read_text())
    here = content["run"]["machine"]
    other.write_text(json.dumps({**content, "run": {**content["run"], "machine": "0" * 12}}))
    said = estimate("explain", other)
    assert said.code == 2 and "0" * 12 in said.err and here in said.err and "--transfer" in said.err
    assert estimate("explain", other, "--elsewhere").code == 0
    words = ("run", table, "--trainer", PLANTED, *SLOW, "--model", other)
    refused = estimate(*words)
    assert refused.code == 2 and "0" * 12 in refused.err and here in refused.err
    assert estimate(*words, "--transfer", *QUICK).code == 0


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"artefact": {"format": "plan", "version": 1}}'])
def test_a_file_that_is_no_estimate_is_refused(estimate: Callable[..., Said], tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    said = estimate("explain", path)
    assert said.code == 2 and "Traceback" not in said.err


def test_a_plan_sorts_what_fits(estimate: Callable[..., Said], tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", ratings(1500))
    words = ("plan", path, "--trainer", "svd", "--trainer", "knn", "--trainer", "baseline", "--budget", "6s")
    said = estimate(*words, "--time", "1min", "--memory", "120MiB", "--report", tmp_path / "report", "--json")
    assert said.code == 0
    document: dict[str, Any] = json.loads(said.out)
    verdicts = {row["trainer"]: row["verdict"] for row in document["trainers"]}
    assert set(verdicts) == {"svd", "knn", "baseline"}
    assert verdicts["svd"] in ("fits", "just train") and verdicts["baseline"] in ("fits", "just train")
    assert document["trainers"][-1]["verdict"] in ("does not fit", "undecided", "fits", "just train")
    assert "Which trainers fit" in (tmp_path / "report" / "index.html").read_text()


def test_an_interrupted_run_goes_on_where_it_stopped(
    estimate: Callable[..., Said], table: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", ".")
    words = ["run", str(table), "--trainer", PLANTED, "--set", "n_factors=400", "--set", "n_epochs=400"]
    program = subprocess.Popen(
        [sys.executable, "-m", "mlsysopt", "estimate", *words, "--budget", "60s"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert program.stderr is not None
    for _ in range(3):
        assert "of the users" in program.stderr.readline()
    children = descendants(program.pid)
    program.send_signal(signal.SIGINT)
    assert program.wait(timeout=30) == 130
    program.stderr.close()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in children):
        assert time.monotonic() < deadline, "a child is left"
        os.sched_yield()
    said = estimate(*words, "--budget", "4s", "--always", "--json")
    assert said.code == 0
    assert json.loads(said.out)["from_store"] >= 3


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from mlsysopt.cli.main import run; run(['estimate', 'run', '--help']); "
        "heavy = {'numpy', 'scipy', 'sklearn', 'pyarrow', 'optuna', 'rich', 'surprise', 'torch', 'pydantic'}; "
        "sys.exit(' '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--within" in done.stdout
