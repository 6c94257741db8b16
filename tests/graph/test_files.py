"""Programs on disk: what is written is read back, and what is damaged is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlsysopt.core.errors import ArtefactError, UsageError
from mlsysopt.graph import Builder, canonical_hash, f32, interpret, load, save
from mlsysopt.graph.errors import GraphTextError, WeightsError
from mlsysopt.graph.ir import Graph
from mlsysopt.graph.types import DTYPES


@pytest.fixture
def graph() -> Graph:
    rng = np.random.default_rng(0)
    b = Builder("net")
    x = b.input("x", f32["N", 4])
    weight = b.constant("w", rng.standard_normal((3, 4)).astype(np.float32), label="layer.weight")
    bias = b.constant("odd name!", rng.standard_normal(3).astype(np.float32))
    return b.finish([b.op("linear", x, weight, bias, name="y")])


def test_program_and_weights_come_back(graph: Graph, tmp_path: Path) -> None:
    path = save(graph, tmp_path / "net.mlg")
    back = load(path, check=True)
    assert back == graph and canonical_hash(back) == canonical_hash(graph)
    x = np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(interpret(back, x=x)["y"], interpret(graph, x=x)["y"])
    assert sorted(one.name for one in tmp_path.iterdir()) == ["net.mlg", "net.mlg.safetensors"]


def test_every_element_type_and_shape_comes_back(tmp_path: Path) -> None:
    b = Builder()
    arrays = {}
    for kind in DTYPES.values():
        for shape in ((), (3,), (2, 0), (5, 3)):
            array = np.asarray(np.arange(np.prod(shape)).reshape(shape) % 2, kind.numpy())
            name = f"{kind}_{len(shape)}_{array.size}"
            arrays[name] = array
            b.constant(name, array)
    graph = b.finish([constant.value for constant in b.finish([]).constants])
    back = load(save(graph, tmp_path / "all.mlg"), check=True)
    for constant in back.constants:
        found = constant.source.load()
        assert found.dtype == arrays[constant.name].dtype
        np.testing.assert_array_equal(found, arrays[constant.name])


def test_weights_are_an_ordinary_safetensors_file(graph: Graph, tmp_path: Path) -> None:
    save(graph, tmp_path / "net.mlg")
    tensors = load_file(tmp_path / "net.mlg.safetensors")
    assert {name: one.shape for name, one in tensors.items()} == {"w": (3, 4), "odd name!": (3,)}
    np.testing.assert_array_equal(tensors["w"], graph.constant("w").source.load())


def test_file_of_another_writer_is_read_when_its_content_is_the_same(graph: Graph, tmp_path: Path) -> None:
    path = save(graph, tmp_path / "net.mlg")
    beside = tmp_path / "net.mlg.safetensors"
    save_file({name: np.array(one) for name, one in load_file(beside).items()}, beside)
    load(path, check=True)


def test_program_without_weights_needs_no_second_file(tmp_path: Path) -> None:
    b = Builder("plain")
    x = b.input("x", f32["N"])
    graph = b.finish([b.op("neg", x)])
    (tmp_path / "plain.mlg.safetensors").write_bytes(b"from before")
    assert load(save(graph, tmp_path / "plain.mlg")) == graph
    assert [one.name for one in tmp_path.iterdir()] == ["plain.mlg"]


def test_text_that_a_person_wrote_is_read(tmp_path: Path) -> None:
    path = tmp_path / "hand.mlg"
    path.write_text(
        "// a note\ngraph @f(%x: f32[N]) {\n  %w = const : f32[2] blake2=00\n  %y = neg(%x) : f32[N]\n  return %y\n}\n"
    )
    graph = load(path)
    assert [op.kind for op in graph.ops] == ["neg"]
    with pytest.raises(WeightsError, match="blake2=00"):
        graph.constants[0].source.load()


def test_header_says_what_the_file_is(graph: Graph, tmp_path: Path) -> None:
    path = save(graph, tmp_path / "net.mlg")
    header = json.loads(path.read_text().split("\n")[0].removeprefix("// "))
    assert header["artefact"]["format"] == "graph" and header["weights"] == "net.mlg.safetensors"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"artefact": {"format": "profile", "version": 1}}, "'profile' file"),
        ({"artefact": {"format": "graph", "version": 99}}, "version 99"),
        ({"artefact": {"format": "graph", "version": 1}, "weights": "../other"}, "beside the program"),
    ],
)
def test_headers_that_do_not_fit_are_refused(graph: Graph, tmp_path: Path, change: dict, words: str) -> None:
    path = save(graph, tmp_path / "net.mlg")
    body = path.read_text().split("\n", 1)[1]
    path.write_text(f"// {json.dumps(change)}\n{body}")
    with pytest.raises(ArtefactError, match=words):
        load(path)


def test_damaged_header_and_damaged_text_name_the_place(graph: Graph, tmp_path: Path) -> None:
    path = save(graph, tmp_path / "net.mlg")
    whole = path.read_text()
    path.write_text(whole.replace('{"artefact"', '{"artefact', 1))
    with pytest.raises(ArtefactError, match="header is damaged"):
        load(path)
    path.write_text(whole.replace("linear(", "linaer("))
    with pytest.raises(GraphTextError, match=r"net.mlg:5:\d+: .*linear"):
        load(path)
    path.write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(ArtefactError, match="not text"):
        load(path)
    with pytest.raises(UsageError, match="nowhere"):
        load(tmp_path / "nowhere.mlg")


def _weight_error(path: Path) -> str:
    graph = load(path)  # the program itself is there
    assert "linear" in str(graph)
    with pytest.raises(WeightsError) as caught:
        load(path, check=True)
    assert caught.value.exit_code == 1
    return str(caught.value)


def test_missing_weights_name_each_constant_and_its_hash(graph: Graph, tmp_path: Path) -> None:
    path = save(graph, tmp_path / "net.mlg")
    (tmp_path / "net.mlg.safetensors").unlink()
    message = _weight_error(path)
    for constant in graph.constants:
        assert f"constant {constant.name!r}: expected {constant.source.key}, found nothing" in message
    with pytest.raises(WeightsError, match="'w' cannot be saved"):
        save(load(path), tmp_path / "copy.mlg")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["net.mlg"]


def test_changed_weights_name_the_constant_with_both_hashes(graph: Graph, tmp_path: Path) -> None:
    path = save(graph, tmp_path / "net.mlg")
    beside = tmp_path / "net.mlg.safetensors"
    tensors = load_file(beside)
    tensors["w"] = tensors["w"] + 1
    save_file(tensors, beside)
    message = _weight_error(path)
    assert "constant 'w': expected" in message and "found blake2=" in message and "odd name" not in message


def test_cut_off_weights_are_named(graph: Graph, tmp_path: Path) -> None:
    path = save(graph, tmp_path / "net.mlg")
    beside = tmp_path / "net.mlg.safetensors"
    beside.write_bytes(beside.read_bytes()[:-4])
    assert "cut short" in _weight_error(path)
    beside.write_bytes(beside.read_bytes()[:20])
    assert "header cannot be read" in _weight_error(path)
    beside.write_bytes(b"")
    assert "header cannot be read" in _weight_error(path)


def test_weights_of_another_program_are_named(graph: Graph, tmp_path: Path) -> None:
    path = save(graph, tmp_path / "net.mlg")
    save_file({"w": np.zeros((3, 5), np.float32)}, tmp_path / "net.mlg.safetensors")
    message = _weight_error(path)
    assert "F32[3, 5]" in message and "no tensor of this name" in message


def test_failed_save_leaves_the_old_files(graph: Graph, tmp_path: Path) -> None:
    path = save(graph, tmp_path / "net.mlg")
    before = {one.name: one.read_bytes() for one in tmp_path.iterdir()}
    broken = load(path)
    (tmp_path / "net.mlg.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError):
        save(broken, path)
    assert path.read_bytes() == before["net.mlg"]
    with pytest.raises(UsageError, match="cannot be written"):
        save(graph, tmp_path / "no" / "folder.mlg")
