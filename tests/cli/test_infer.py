"""`mlsysopt infer` from end to end, and at its edges: message, exit code, leftovers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from mlsysopt.cli.main import run

COIN = """
from mlsysopt.infer import Bernoulli, Beta, model, observe


@model
def coin(y, a: float):
    p = Beta(a, 1.0)
    for n in range(len(y)):
        observe(y[n], Bernoulli(p))


@model
def loop(y):
    while True:
        pass
"""
PLAIN = ("--backend", "python")


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


@pytest.fixture
def infer(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    def call(*words: object) -> Said:
        code = run(["infer", *(str(word) for word in words)])
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return call


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "y.csv").write_text("y\n" + "\n".join("1101101011") + "\n")
    path = tmp_path / "coin.py"
    path.write_text(COIN)
    return path


def _words(model: Path) -> tuple[str, ...]:
    return (f"{model}:coin", "--set", "a=2", "--data", f"y={model.parent / 'y.csv'}")


def test_from_a_file_to_a_fit_and_back(infer: Callable[..., Said], model: Path) -> None:
    folder, report = model.parent / "fit", model.parent / "report"
    said = infer("fit", *_words(model), "--draws", 400, "--warmup", 20, "--out", folder, "--report", report, *PLAIN)
    assert said.code == 0, said.out
    assert "converged: 4 chains" in said.out
    assert "Fit of coin" in (report / "index.html").read_text()
    again = json.loads(infer("resume", folder, "--json").out)
    assert again["ok"] and again["rules"] == {"p": "conjugate"}
    (p,) = [row for row in again["summary"] if row["name"] == "p"]
    assert abs(p["mean"] - 9 / 13) < 0.02
    replicated = infer("predict", folder, "--draws", 5, "--json")
    assert np.shape(json.loads(replicated.out)["y"]) == (5, 10)
    found = infer("probability", folder, "--data", f"y={model.parent / 'y.csv'}", "--tol", 0.2, "--json")
    assert found.code == 0 and json.loads(found.out)["log_value"] < 0.0


def test_explains(infer: Callable[..., Said], model: Path) -> None:
    assert infer("explain", *_words(model)).out.startswith("p: conjugate number, Beta with Bernoulli (coin.py:7)")
    (choice,) = json.loads(infer("explain", *_words(model), "--json").out)
    assert choice["rule"] == "conjugate" and "chain" in choice["refused"]["p"]


def test_executes(infer: Callable[..., Said], model: Path) -> None:
    words = ("execute", f"{model}:coin", "--set", "a=2", "--shape", "y=7", "--seed", 3)
    shown = json.loads(infer(*words, "--json").out)
    assert len(shown["y"]) == 7 and 0.0 < shown["p"] < 1.0
    out = model.parent / "data.npz"
    assert infer(*words, "--out", out).code == 0
    with np.load(out) as written:
        assert written["y"].tolist() == shown["y"]
    given = infer(*words, "--fix", "p=1.0", "--json")
    assert json.loads(given.out)["y"] == [1] * 7


def test_one_chain_is_not_proven(infer: Callable[..., Said], model: Path) -> None:
    said = infer("fit", *_words(model), "--draws", 50, "--chains", 1, *PLAIN)
    assert said.code == 4 and "not proven: one chain" in said.out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("{m}:coins",), 2, "did you mean coin?"),
        (("{m}",), 2, "names no model"),
        (("nowhere.py:coin",), 2, "there is no file nowhere.py"),
        (("{m}:coin", "--set", "b=1"), 2, "no input 'b'; known inputs: a, y"),
        (("{m}:coin", "--set", "a"), 2, "write NAME=NUMBER"),
        (("{m}:coin", "--set", "a=x"), 2, "'x' is no number"),
        (("{m}:coin", "--set", "a=2"), 2, "coin needs y"),
        (("{m}:coin", "--set", "a=2", "--data", "y=no.csv"), 1, "there is no file no.csv"),
        (
            ("{m}:coin", "--set", "a=2", "--data", "y=y.txt"),
            2,
            "files are .csv, .npy, .npz, .json; a number goes with --set",
        ),
        (("{m}:coin", "--set", "a=2", "--data", "y={y}:z"), 2, "no column 'z'"),
        (("{m}:coin", "--set", "a=-2", "--data", "y={y}"), 2, "coin.py:7"),
        (("{m}:coin", "--set", "a=2", "--data", "y={y}", "--retain", "q=map"), 2, "no variable 'q'"),
        (("{m}:coin", "--set", "a=2", "--data", "y={y}", "--draws", "0"), 2, "draws is 0; at least 1"),
        (("{m}:loop", "--data", "y={y}"), 2, "coin.py:14: the language has no `while`"),
    ],
)
def test_refused(infer: Callable[..., Said], model: Path, words: tuple[str, ...], code: int, message: str) -> None:
    said = infer("fit", *(word.format(m=model, y=model.parent / "y.csv") for word in words))
    assert (said.code, message in said.err) == (code, True), said.err
    assert "Traceback" not in said.err and said.out == ""


def test_a_folder_without_a_fit(infer: Callable[..., Said], tmp_path: Path) -> None:
    for verb in ("resume", "predict", "probability"):
        said = infer(verb, tmp_path)
        assert said.code == 2 and "holds no fit" in said.err
