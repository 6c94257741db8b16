"""`mlsysopt linear`: what it prints, writes and refuses, with exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from mlsysopt.cli.main import run
from mlsysopt.compile.codegen import target
from mlsysopt.core.errors import MissingExtra
from mlsysopt.graph import load_pt2

pytest.importorskip("torch")

OWN = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 256))
    return model, lambda length: (torch.randn(length, 256),)

def tiny():
    return nn.Sequential(nn.Linear(8, 8)), lambda length: (torch.randn(length, 8),)

def wrong():
    return 5

def broken():
    raise RuntimeError("no weights here")
"""


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


@pytest.fixture
def linear(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    def call(*words: object) -> Said:
        code = run(["linear", *(str(word) for word in words)])
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return call


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "nets.py"
    path.write_text(OWN)
    return path


def test_profile_measures_report_reads_and_both_say_the_same(linear: Callable[..., Said], tmp_path: Path) -> None:
    words = ("--shapes", "192x160", "--rows", "1,8", "--no-panel")
    first = linear("profile", *words, "--budget", "30s", "--report", tmp_path / "report")
    assert first.code == 0, first.err
    assert "192 x 160" in first.out
    assert "192 x 160, 8 rows:" in first.err
    page = (tmp_path / "report" / "index.html").read_text()
    assert "Optimizing Inference Performance" in page
    again = linear("report", *words)
    assert again.code == 0
    assert again.out == first.out.replace(f"report: {tmp_path / 'report' / 'index.html'}\n", "")
    assert again.err == ""
    document = json.loads(linear("report", *words, "--json").out)
    assert document["products"][0]["k"] == 192
    assert document["products"][0]["segments"][0]["source"] == "measured"


def test_products_of_a_program(linear: Callable[..., Said], tmp_path: Path) -> None:
    import torch

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = torch.nn.Linear(192, 160)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x)

    size = torch.export.Dim("S", min=1, max=512)
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(Net(), (torch.randn(4, 192),), dynamic_shapes={"x": {0: size}}), path)
    (symbol,) = load_pt2(path).symbols
    found = linear("report", "--model", path, "--at", f"{symbol}=8,128", "--no-panel")
    assert found.code == 0, found.err
    assert "192 x 160" in found.out
    unknown = linear("report", "--model", path, "--at", "T=8")
    assert unknown.code == 2
    assert f"size {symbol} of" in unknown.err
    assert f"add --at {symbol}=8,128" in unknown.err
    assert linear("report", "--model", path, "--rows", "1..8", "--no-panel").code == 0


def test_bench_compares_and_writes(linear: Callable[..., Said], own: Path, tmp_path: Path) -> None:
    words = ("bench", f"{own}:net", "--seq", "4,16", "--budget", "5s", "--report", tmp_path / "report", "--json")
    found = linear(*words)
    assert found.code in (0, 4), found.err
    document = json.loads(found.out)
    assert document["plan"]["name"] == "Sequential"
    assert document["model"] == "net"
    assert (tmp_path / "report" / "index.html").exists()
    if document["plan"]["products"] and document["lengths"]:
        assert [one["length"] for one in document["lengths"]] == [4, 16]
        assert all(one["error"] <= 1e-4 for one in document["lengths"])


def test_a_forced_variant_is_one_table_row_for_each_length(linear: Callable[..., Said], own: Path) -> None:
    found = linear("bench", f"{own}:net", "--seq", "4,16", "--policy", "aten.nn", "--budget", "0s")
    assert found.code in (0, 4), found.err
    assert "2 of 2 products adapted, as asked for" in found.out
    for words in ("length", "plain ms", "adapted ms", "interval", "rounds", "max error", "extra MiB", "verdict"):
        assert words in found.out
    assert len([line for line in found.out.splitlines() if line.split()[:1] in (["4"], ["16"])]) == 2


def test_nothing_to_adapt_is_not_proven(linear: Callable[..., Said], own: Path) -> None:
    found = linear("bench", f"{own}:tiny", "--seq", "4", "--budget", "0s")
    assert found.code == 4
    assert "nothing to adapt in Sequential (0 of 1 linear products can be reached)" in found.out
    assert "smaller than 128x128" in found.out


def test_a_lower_precision_that_nothing_reaches(linear: Callable[..., Said], own: Path) -> None:
    words = ("bench", f"{own}:net", "--seq", "4", "--precision", "bf16", "--error", "1e-12", "--budget", "1s")
    found = linear(*words, "--require-lower")
    assert found.code == 4
    # Refused, or faster for no product: that is the clock's to say.
    assert "f32: bf16 " in found.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["report"], "give either --shapes"),
        (["report", "--shapes", "bert-bse"], "did you mean bert-base"),
        (["report", "--shapes", "64x64", "--rows", "0..4"], "allowed are a range such as 1..512"),
        (["report", "--shapes", "64x64", "--at", "S=8"], "with --shapes write --rows"),
        (["profile", "--shapes", "64x64", "--budget", "5 parsecs"], "unit"),
        (["profile", "--shapes", "64x64", "--budget", "-5s"], "budget '-5s': a time of at least 0s is needed"),
        (["bench", "{own}:net", "--budget", "-5s"], "budget '-5s': a time of at least 0s is needed"),
        (["bench", "absent.py:net"], "there is no file absent.py"),
        (["bench", "bert-bse"], "did you mean bert-base"),
        (["bench", "net.pt2"], "is an exported program"),
        (["bench", "bert-base", "--seq", "8,x"], "lengths look like 8,32,128"),
        (["bench", "bert-base", "--against", "inductr"], "did you mean inductor"),
        (["bench", "{own}:wrong"], "must return a module and a function"),
        (["bench", "{own}:broken"], "no weights here"),
        (["bench", "{own}:absent"], "absent"),
        (["bench", "{own}:net", "--precision", "f61"], "precision 'f61'"),
        (["bench", "{own}:net", "--policy", "tabel"], "did you mean table"),
        (["bench", "{own}:net", "--max-extra-memory", "-1x"], 'allowed forms: "0x", "1x", "512MiB"'),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_what_cannot_be_meant_ends_with_2(
    linear: Callable[..., Said], own: Path, words: list[str], message: str
) -> None:
    said = linear(*(word.replace("{own}", str(own)) for word in words))
    assert said.code == 2, said.err
    assert message in said.err
    assert said.err.splitlines()[-1].startswith("error: ")


def test_without_llvmlite_the_extra_is_named(
    linear: Callable[..., Said], own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(cap: str | None = None) -> target.Isa:
        raise MissingExtra.of("generating code", "compile")

    monkeypatch.setattr(target, "host_isa", missing)
    said = linear("bench", f"{own}:net", "--seq", "4", "--budget", "0s")
    assert said.code == 3
    assert "pip install 'mlsysopt[compile]'" in said.err
    plain = linear("bench", f"{own}:net", "--seq", "4", "--budget", "0s", "--no-panel")
    assert plain.code in (0, 4), plain.err
