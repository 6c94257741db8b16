"""`mlsysopt ablate` on torch modules: what a selector, a removal and a strict plan say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlsysopt.cli.main import run

STUDY = """
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from mlsysopt.design import ablate


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(4, 8)
        self.blocks = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
        self.read = nn.Linear(8, 8)
        self.idle = nn.Linear(8, 8)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        for block in self.blocks:
            x = x + torch.tanh(block(x))
        x = F.linear(self.drop(x), self.read.weight)
        return self.head(x)


rng = np.random.default_rng(0)
x = rng.standard_normal((400, 4)).astype(np.float32)
data = {"x_train": x[:200], "y_train": (x[:200, 0] > 0).astype(np.int64), "x_val": x[200:], "y_val": x[200:, 0] > 0}


def train(model, data, *, seed):
    x, y = torch.from_numpy(np.asarray(data["x_train"])), torch.from_numpy(np.asarray(data["y_train"]))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for rows in torch.from_numpy(ablate.data_rng(seed).permutation(200)).split(25):
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    model.eval()
    return float(np.mean(model(torch.from_numpy(np.asarray(data["x_val"]))).argmax(1).numpy() == data["y_val"]))


study = ablate.study(Net, train, data, maximize="accuracy", margin=0.2, store="ablate.db")
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "study.py"


def ablate(file: Path, verb: str, chosen: str, *flags: str) -> int:
    file.write_text(f"{STUDY}study{chosen}\n")
    return run(["ablate", verb, str(file), *flags])


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        (".modules('steem')", "no module matches 'steem'; nearest: stem"),
        (".modules('type:Liner')", "Linear"),
        (".modules('idle')", "idle (Linear) is registered, but never called with this input"),
        (".modules('stem', replace='identiti')", "did you mean identity?"),
        (".modules('stem').modules(groups={'stem': 'drop'})", "two components are called 'stem'"),
        (".modules('stem').features('nothing')", "nothing"),
        (".features('x', how='mod')", "drop, mean, permute"),
    ],
)
def test_what_cannot_be_meant_trains_nothing(
    file: Path, chosen: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if "features" in chosen:
        pytest.importorskip("mlsysopt.design.ablate.features")
    assert ablate(file, "run", chosen, "--workers", "0") == 2
    err = capsys.readouterr().err
    assert says in err
    assert not Path("ablate.db").exists()


@pytest.mark.parametrize(("part", "says"), [("head", "gives the model's output"), ("read", "study.py:")])
def test_a_refusal_is_listed_and_the_rest_goes_on(
    file: Path, part: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = f".modules('stem', '{part}')"
    assert ablate(file, "run", chosen, "--workers", "0", "--seeds", "3") in (0, 4)
    out = capsys.readouterr().out
    assert f"refused: {part}: " in out and says in out
    assert ablate(file, "plan", chosen, "--strict") == 2
    assert "cannot be taken away (--strict)" in capsys.readouterr().err


def test_nothing_left_to_train(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ablate(file, "run", ".modules('head')", "--workers", "0") == 2
    assert "nothing is left to train: head" in capsys.readouterr().err


def test_modules_are_listed(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ablate(file, "plan", "", "--list") == 0
    assert capsys.readouterr().out.split() == ["stem", "blocks", "blocks.0", "blocks.1", "read", "idle", "drop", "head"]


def test_equal_groups_are_one_row_with_a_line(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ".modules('blocks.*', groups={'both': 'blocks.*', 'again': ['blocks.0', 'blocks.1'], 'drop': 'drop'})"
    assert ablate(file, "plan", chosen, "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert list(rows) == ["blocks.0", "blocks.1", "both", "drop"]
    assert "the same as again" in rows["both"]["notes"]
    assert rows["both"]["parameters"] < rows["blocks.0"]["parameters"] < 0


def test_a_study_of_modules_gives_verdicts_and_costs(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ".modules('stem', 'blocks.*', 'drop').pairs(('blocks.0', 'blocks.1'))"
    assert ablate(file, "run", chosen, "--workers", "0", "--report", "report", "--json") in (0, 4)
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert rows["blocks.0"]["parameters"] < 0 and rows["drop"]["parameters"] == 0
    assert rows["blocks.0"]["cpu_ratio"] > 0 and rows["blocks.0"]["rss_bytes"] > 0
    assert any("inference" in row["inference"] for row in rows.values() if row["word"] == "negligible")
    assert rows["blocks.0 + blocks.1"]["interaction"] is not None
    assert "Pairs" in Path("report/index.html").read_text()


def test_a_worker_gives_the_table_of_this_process(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = []
    for workers in ("0", "1"):
        flags = ("--workers", workers, "--seeds", "3", "--new-store", "--json")
        assert ablate(file, "run", ".modules('blocks.*')", *flags) in (0, 4)
        rows = json.loads(capsys.readouterr().out)["rows"]
        tables.append([(row["name"], row["word"], row["deltas"]) for row in rows])
    assert tables[0] == tables[1]
