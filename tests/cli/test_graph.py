"""The room `graph` on real files: what a person reads, what a machine reads, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlsysopt.cli.main import run
from mlsysopt.graph import Builder, f32, load, save, to_onnx
from mlsysopt.graph.symbolic import dims
from tests.graph.memory.nets import wide


@pytest.fixture
def model(tmp_path: Path) -> Path:
    batch, length = dims("B", "S", max=(8, 64))
    rng = np.random.default_rng(0)
    builder = Builder("block")
    x = builder.input("x", f32[batch, length, 16])
    weights = [
        builder.constant(f"w{i}", rng.normal(size=(16, 16)).astype(np.float32), label=f"layer.{i}") for i in range(3)
    ]
    q, k, v = (builder.op("matmul", x, w, name=name) for w, name in zip(weights, "qkv", strict=True))
    scores = builder.op("softmax", builder.op("matmul", q, k, transpose_b=True), axis=2)
    path = tmp_path / "block.onnx"
    to_onnx(builder.finish([builder.op("add", builder.op("matmul", scores, v), x, name="y")]), path)
    return path


def document(words: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, Any]:
    assert run([*words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_show_names_sizes_costs_and_ops(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["graph", "show", str(model), "--dim", "S=1..32"]) == 0
    shown = capsys.readouterr().out
    assert "S in 1..32" in shown
    assert "softmax" in shown and "flops" in shown and "weights" in shown
    found = document(["graph", "show", str(model)], capsys)
    assert found["kinds"]["matmul"] == 5
    assert found["weight_bytes"] == 3 * 16 * 16 * 4


def test_why_names_the_ops(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert document(["graph", "show", str(model), "--why", "S=S"], capsys)["answer"] == "yes"
    assert document(["graph", "show", str(model), "--why", "S=B"], capsys)["answer"] == "unknown"


def test_the_text_reads_back(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = tmp_path / "block.mlg"
    assert run(["graph", "convert", str(model), str(saved)]) == 0
    assert "largest relative difference" in capsys.readouterr().out
    assert run(["graph", "check", str(saved)]) == 0
    assert "no finding" in capsys.readouterr().out
    assert document(["graph", "show", str(saved)], capsys)["ops"] == len(load(saved).ops)


def test_convert_there_and_back_computes_the_same(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved, again = tmp_path / "a.mlg", tmp_path / "b.onnx"
    assert document(["graph", "convert", str(model), str(saved)], capsys)["worst"] < 1e-12
    assert document(["graph", "convert", str(saved), str(again)], capsys)["worst"] < 1e-6


def test_memory_by_formula_and_by_numbers(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_sizes = document(["graph", "memory", str(model)], capsys)
    assert open_sizes["symbols"] == ["B", "S"]
    plot = tmp_path / "memory.svg"
    found = document(["graph", "memory", str(model), "--at", "B=2,S=8", "--plot", str(plot)], capsys)
    assert found["proof"] == "exact"
    assert found["best_bytes"] <= found["default_bytes"]
    assert max(found["live_bytes"]) == found["best_bytes"]
    assert plot.read_text().startswith("<?xml")
    assert "not counted" in plot.read_text() or "svg" in plot.read_text()
    assert run(["graph", "memory", str(model), "--at", "B=2,S=8", "--require-exact"]) == 0


def test_an_order_that_is_not_proven_is_said_and_ends_with_4_when_that_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "wide.mlg"
    save(wide(14), path)
    assert run(["graph", "memory", str(path), "--seconds", "0"]) == 0
    assert "not proven optimal" in capsys.readouterr().out
    assert run(["graph", "memory", str(path), "--seconds", "0", "--require-exact"]) == 4


@pytest.mark.parametrize("peer", ["onnxruntime", "torch"])
def test_run_agrees_with_peers(model: Path, peer: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(["graph", "run", str(model), "--at", "B=2,S=7", "--against", peer], capsys)
    assert found["worst"] < 1e-5
    assert found["outputs"]["y"]["shape"] == [2, 7, 16]


def test_run_reads_and_writes_arrays(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given, out = tmp_path / "in.npz", tmp_path / "out.npz"
    np.savez(given, x=np.ones((1, 3, 16)))
    assert run(["graph", "run", str(model), "--inputs", str(given), "-o", str(out)]) == 0
    assert np.load(out)["y"].shape == (1, 3, 16)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["show", "{model}", "--dim", "S"], 2, "write NAME=LOW..HIGH"),
        (["memory", "{model}", "--at", "S"], 2, "write NAME=SIZE"),
        (["memory", "{model}", "--at", "Z=3"], 2, "no such symbol; known symbols: B, S"),
        (["memory", "{model}", "--at", "S=999"], 2, "S = 999 but S in 1..64"),
        (["memory", "{model}", "--plot", "x.svg"], 2, "give sizes for B, S"),
        (["show", "{model}", "--why", "S"], 2, "write A=B"),
        (["run", "{model}", "--against", "tensorflow"], 2, "known peers are onnxruntime and torch"),
        (["convert", "{model}", "out.pb"], 2, "files end with .onnx, .pt2 or .mlg"),
        (["convert", "{model}", "out.pt2"], 2, "B, S are symbols"),
        (["show", "{text}"], 2, "files end with .onnx, .pt2 or .mlg"),
        (["show", "{damaged}"], 2, "damaged"),
        (["show", "nowhere.onnx"], 2, "nowhere.onnx"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_what_cannot_be_meant_is_one_line(
    words: list[str], code: int, says: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"model": model, "text": tmp_path / "a.txt", "damaged": tmp_path / "damaged.mlg"}
    places["text"].write_text("graph")
    save(load_block(model), places["damaged"])
    places["damaged"].write_text(places["damaged"].read_text().replace("matmul", "matmull", 1))
    assert run(["graph", *(word.format(**places) for word in words)]) == code
    out, err = capsys.readouterr()
    assert says in err and "Traceback" not in err
    assert out == ""


def load_block(model: Path) -> Any:
    from mlsysopt.graph import from_onnx

    return from_onnx(model)


def test_findings_are_all_printed_and_end_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], model: Path
) -> None:
    path = tmp_path / "wrong.mlg"
    save(load_block(model), path)
    text = path.read_text()
    path.write_text(text.replace("f32[B, S, S]", "f32[B, S, 16]"))
    assert run(["graph", "check", str(path)]) == 1
    shown = capsys.readouterr().out
    assert "[types]" in shown and "[facts]" in shown
    assert "matmul %" in shown
