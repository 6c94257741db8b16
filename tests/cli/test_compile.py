"""`mlsysopt compile`: build, explain, bench on a small model, and what cannot be meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlsysopt.cli.main import run
from mlsysopt.graph import Builder, Graph, dims, f32, save


def network() -> Graph:
    """Return gelu(x w + b), normalised, for any number of rows."""
    rng = np.random.default_rng(0)
    (rows,) = dims("N", max=64)
    b = Builder("net")
    x = b.input("x", f32[rows, 32])
    w = b.constant("w", rng.normal(0, 0.2, (48, 32)).astype(np.float32))
    bias = b.constant("bias", rng.normal(0, 0.2, 48).astype(np.float32))
    y = b.op("gelu", b.op("linear", x, w, bias))
    return b.finish([b.op("layer_norm", y, axes=(1,), eps=1e-5)])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save(network(), tmp_path / "net.mlg")
    return tmp_path / "net.mlg"


def said(capsys: pytest.CaptureFixture[str], *words: str | Path) -> Any:
    assert run([*map(str, words), "--json"]) in (0, 4)
    return json.loads(capsys.readouterr().out)


def test_build_writes_a_file_that_explain_and_bench_take(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "net.mlx"
    found = said(capsys, "compile", "build", model, "--dim", "N=1..32", "--likely", "N=8", "--out", out)
    assert out.stat().st_size == found["bytes"]
    assert found["call_outs"] == []
    assert found["steps"] == 2
    assert "N in 1..32" in found["signature"]
    explained = said(capsys, "compile", "explain", out, "--at", "N=7")
    assert explained["sizes"] == {"N": 7}
    assert [row["label"].split(" ")[0] for row in explained["rows"]] == ["linear+gelu", "mean,"]
    assert run(["compile", "explain", str(out), "--plan"]) == 0
    assert "gemm_f32_bias_gelu(input0" in capsys.readouterr().out


def test_bench_compares_at_each_size_and_writes_a_report(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report"
    words = ("compile", "bench", model, "--shapes", "N=1;N=9", "--against", "torch,onnxruntime", "--report", report)
    found = said(capsys, *words)
    assert [row["sizes"] for row in found["rows"]] == [{"N": 1}, {"N": 9}]
    for row in found["rows"]:
        assert set(row["peers"]) == {"torch", "onnxruntime"}
        assert all(one["difference"] < 1e-5 and one["rounds"] >= 6 for one in row["peers"].values())
    assert found["recompiles"] == 0
    page = (report / "index.html").read_text()
    assert "DISC" in page
    assert "gemm_f32_bias_gelu" in page


def test_random_sizes_are_allowed_ones_and_repeat() -> None:
    from mlsysopt.cli.compile_bench import sizes_of

    found = sizes_of("random:9", network(), 3)
    assert found[0] == {"N": 1}
    assert len(found) == 9
    assert all(1 <= one["N"] <= 64 for one in found)
    assert found == sizes_of("random:9", network(), 3)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["build", "{model}", "--dim", "M=1..4"], "no such symbol"),
        (["build", "{model}", "--likely", "N"], "write NAME=SIZE,SIZE"),
        (["build", "{model}", "--likely", "N=65"], "65"),
        (["build", "{model}", "--precision", "f16"], "f16"),
        (["explain", "{model}", "--at", "N=65"], "N"),
        (["bench", "{model}", "--shapes", "random:0"], "random:N needs N >= 1"),
        (["bench", "{model}", "--shapes", "M=1"], "no such symbol"),
        (["bench", "{model}", "--against", "torhc"], "did you mean torch?"),
        (["bench", "{model}", "--against", ","], "at least one peer"),
        (["explain", "{other}"], ".onnx, .pt2 or .mlg"),
    ],
    ids=lambda given: " ".join(given[:3]) if isinstance(given, list) else "",
)
def test_what_cannot_be_meant_is_one_line_and_2(
    words: list[str], says: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "net.txt"
    other.write_text("")
    assert run(["compile", *[word.format(model=model, other=other) for word in words]]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert "Traceback" not in err


def test_a_compiled_file_takes_no_ranges(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compile", "build", str(model), "-o", str(tmp_path / "net.mlx")]) == 0
    assert run(["compile", "explain", str(tmp_path / "net.mlx"), "--dim", "N=1..4"]) == 2
    assert "is compiled already" in capsys.readouterr().err
