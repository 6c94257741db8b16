"""What an ONNX file of ours holds: names, sizes, weights, facts; and what cannot be written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from mlsysopt.core.errors import UsageError
from mlsysopt.graph import Builder, Graph, bf16, canonical_hash, f32, i64, interpret
from mlsysopt.graph.errors import GraphError, WeightsError
from mlsysopt.graph.exporters.onnx import to_onnx
from mlsysopt.graph.facts import Origin
from mlsysopt.graph.importers.onnx import from_onnx
from mlsysopt.graph.importers.onnx_ops.types import metadata
from mlsysopt.graph.ir import Loc
from mlsysopt.graph.placement import Mesh, Placement, Replicate
from mlsysopt.graph.sources import Absent, InFile
from mlsysopt.graph.symbolic import Dim, dims
from mlsysopt.graph.types import Dense, Quant, TensorType, i8
from tests.graph.importers.onnx_checks import parsed, session

N, M = dims("N", "M", max=(16, 512))


def _net() -> Graph:
    rng = np.random.default_rng(0)
    b = Builder("net")
    x = b.input("x", f32[N, M, 4])
    w = b.constant("w", rng.standard_normal((6, 4)).astype(np.float32), label="layer.weight")
    v = b.constant("v", rng.standard_normal(6).astype(np.float32), label="layer.bias")
    b.loc = Loc("net.py", 12, "layer")
    y = b.op("linear", x, w, v, name="hidden layer")
    b.loc = Loc()
    return b.finish([b.op("reshape", y, shape=(N * M, 6), name="y")])


def test_the_file_says_what_a_reader_wants_to_know(tmp_path: Path) -> None:
    model = to_onnx(_net(), tmp_path / "net.onnx")
    assert onnx.load(tmp_path / "net.onnx") == model
    assert (model.producer_name, model.graph.name) == ("mlsysopt", "net")
    assert [one.version for one in model.opset_import] == [18]
    declared = [*model.graph.input, *model.graph.output]
    sizes = [[one.dim_param or one.dim_value for one in value.type.tensor_type.shape.dim] for value in declared]
    assert sizes == [["N", "M", 4], ["M*N", 6]]
    assert metadata(model)["mlsysopt.facts"] == "M in 1..512, N in 1..16"
    assert metadata(model.graph.initializer[0])["mlsysopt.label"] == "layer.weight"
    assert [one.name for one in tmp_path.iterdir()] == ["net.onnx"]


def test_lines_of_the_source_and_names_come_back() -> None:
    graph = _net()
    back = from_onnx(to_onnx(graph))
    assert back.ops[0].loc == Loc("net.py", 12, "layer") and back.ops[1].loc == Loc()
    assert [op.name for op in back.ops] == ["hidden layer", "y"]
    assert [one.label for one in back.constants] == ["layer.weight", "layer.bias"]
    assert back.facts == graph.facts and canonical_hash(back) == canonical_hash(graph)


def test_weights_beside_the_file(tmp_path: Path) -> None:
    graph = _net()
    model = to_onnx(graph, tmp_path / "net.onnx", external_data=True)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["net.onnx", "net.onnx.data"]
    assert not any(one.raw_data for one in model.graph.initializer)
    back = from_onnx(tmp_path / "net.onnx")
    assert all(isinstance(one.source, InFile) for one in back.constants)
    # The hash is that of the content, although nothing has been read.
    assert canonical_hash(back) == canonical_hash(graph)
    x = np.ones((2, 3, 4), np.float32)
    np.testing.assert_array_equal(interpret(back, x=x)["y"], interpret(graph, x=x)["y"])
    loaded = onnx.load(tmp_path / "net.onnx")
    np.testing.assert_allclose(session(loaded).run(None, {"x": x})[0], interpret(graph, x=x)["y"], rtol=1e-5)


def test_changed_weights_beside_the_file_are_noticed(tmp_path: Path) -> None:
    to_onnx(_net(), tmp_path / "net.onnx", external_data=True)
    data = tmp_path / "net.onnx.data"
    data.write_bytes(b"\1" + data.read_bytes()[1:])
    with pytest.raises(WeightsError, match=r"expected blake2=.*found blake2="):
        from_onnx(tmp_path / "net.onnx").constant("w").source.load()


def test_a_failed_export_leaves_nothing_behind(tmp_path: Path) -> None:
    b = Builder("lost")
    x = b.input("x", f32[N, 4])
    graph = b.finish([b.op("linear", x, b.constant("w", Absent("blake2=00"), f32[2, 4]))])
    for external in (False, True):
        with pytest.raises(WeightsError, match="blake2=00"):
            to_onnx(graph, tmp_path / "lost.onnx", external_data=external)
    with pytest.raises(UsageError, match="No such file"):
        to_onnx(_net(), tmp_path / "no" / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_outputs_that_are_inputs_weights_or_twice_there() -> None:
    b = Builder("odd")
    x, w = b.input("x", f32[N]), b.constant("w", np.ones(3, np.float32))
    y = b.op("neg", x, name="y")
    graph = b.finish([x, y, w, y])
    model = to_onnx(graph)
    assert len({value.name for value in model.graph.output}) == 4
    found = session(model).run(None, {"x": np.asarray([1, 2], np.float32)})
    assert [one.tolist() for one in found] == [[1, 2], [-1, -2], [1, 1, 1], [-1, -2]]
    assert canonical_hash(from_onnx(model)) == canonical_hash(graph)


def test_a_program_without_inputs_and_one_without_ops() -> None:
    b = Builder("numbers")
    graph = b.finish([b.op("iota", shape=(3,))])
    assert session(to_onnx(graph)).run(None, {})[0].tolist() == [0, 1, 2]
    b = Builder("nothing")
    assert session(to_onnx(b.finish([b.input("x", i64[2])]))).run(None, {"x": np.asarray([1, 2])})[0].tolist() == [1, 2]


def test_layouts_and_quantisation_come_back() -> None:
    b = Builder("stored")
    x = b.input("x", TensorType(i8, (N, Dim.of(2)), quant=Quant((0.1, 0.5), (0, 3), 1)))
    w = b.constant("w", np.ones((2, 2), np.float32), TensorType(f32, (Dim.of(2), Dim.of(2)), Dense((1, 0))))
    y = b.op("matmul", b.op("dequantize", x, scale=(0.1, 0.5), zero_point=(0, 3), axis=1), w)
    graph = b.finish([y])
    back = from_onnx(to_onnx(graph))
    assert back.inputs == graph.inputs and canonical_hash(back) == canonical_hash(graph)


def test_half_precision_weights_come_back() -> None:
    b = Builder("half")
    x = b.input("x", bf16[N, 2])
    w = b.constant("w", np.asarray([0.5, 1.5]).astype(bf16.numpy()))
    back = from_onnx(to_onnx(b.finish([b.op("mul", x, w)])))
    loaded = back.constants[0].source.load()
    assert loaded.dtype == bf16.numpy() and loaded.astype(float).tolist() == [0.5, 1.5]


def test_sizes_that_facts_define_are_computed_from_those_that_are_there() -> None:
    b = Builder("solved")
    x = b.input("x", f32[N, 2])
    b.facts = b.facts.with_equal(Dim.of("T"), N * 3, Origin("split"))
    y = b.op("broadcast", b.op("reshape", x, shape=(1, N, 2)), shape=(Dim.of("T"), N, 2))
    found = session(to_onnx(b.finish([y]))).run(None, {"x": np.ones((2, 2), np.float32)})
    assert found[0].shape == (6, 2, 2)


def test_a_size_that_no_input_has_is_refused() -> None:
    b = Builder("free")
    x = b.input("x", f32[1, 2])
    with pytest.raises(UsageError, match="size 'K' cannot be computed from the shapes of the inputs"):
        to_onnx(b.finish([b.op("broadcast", x, shape=("K", 2))]))


def test_ops_that_onnx_cannot_express_are_listed() -> None:
    b = Builder("foreign")
    x = b.input("x", f32[N, 5])
    kept = b.op("opaque.aten", x, target="aten.sort.default", arguments='{"args": []}', types=(x.type,))
    with pytest.raises(UsageError, match=r"without ONNX counterpart:\n  opaque\.aten"):
        to_onnx(b.finish([kept]))


def test_arguments_that_cannot_be_meant() -> None:
    with pytest.raises(UsageError, match="opset 17, supported are 18 to 23"):
        to_onnx(_net(), opset=17)
    with pytest.raises(UsageError, match="external_data"):
        to_onnx(_net(), external_data=True)
    b = Builder("large")
    x = b.input("x", i64[N])
    table = b.constant("table", Absent("blake2=00"), f32[2**20, 2**10])
    with pytest.raises(UsageError, match="use external_data=True"):
        to_onnx(b.finish([b.op("embedding", table, x)]))
    b = Builder("placed")
    x = b.input("x", f32[N].with_placement(Placement(Mesh(("d",), (2,)), (Replicate(),))))
    with pytest.raises(UsageError, match="placed on several devices"):
        to_onnx(b.finish([b.op("neg", x)]))


def test_the_checker_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise onnx.checker.ValidationError("no")

    monkeypatch.setattr(onnx.checker, "check_model", refuse)
    with pytest.raises(GraphError, match="refuses the model: no"):
        to_onnx(_net())
    assert to_onnx(_net(), check=False).graph.node


def test_kept_operators_go_back_into_the_file() -> None:
    text = "(float[N, 5] x, int64[1] k) => (float v, int64 i) { v, i = TopK(x, k) }"
    graph = from_onnx(parsed(text), opaque="keep")
    written = to_onnx(graph)
    assert [node.op_type for node in written.graph.node] == ["TopK"]
    again = from_onnx(written, opaque="keep")
    assert canonical_hash(again) == canonical_hash(graph)
