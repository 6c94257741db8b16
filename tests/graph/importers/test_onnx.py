"""ONNX models as other exporters write them: symbols, shape arithmetic, weights, and what is refused."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlsysopt.core.errors import UsageError
from mlsysopt.graph import Builder, canonical_hash, f32, interpret, parse
from mlsysopt.graph.errors import FactsError, GraphError, ImportFailed, WeightsError
from mlsysopt.graph.exporters.onnx import to_onnx
from mlsysopt.graph.facts import Answer
from mlsysopt.graph.importers.onnx import from_onnx
from mlsysopt.graph.importers.onnx_ops.notes import FACTS, NOTE
from mlsysopt.graph.ir import Graph
from mlsysopt.graph.sources import InFile
from mlsysopt.graph.symbolic import Dim
from tests.graph.importers.onnx_checks import agrees, evaluated, feeds_of, parsed, same, session


def kinds_of(graph: Graph) -> list[str]:
    return [op.kind for op in graph.ops]


# --- symbols -------------------------------------------------------------------------------------


def test_named_sizes_become_symbols_and_unnamed_ones_get_fresh_names() -> None:
    model = parsed("(float[batch, seq] x, float[batch, 3] y) => (float z) { z = Relu(x) }")
    open_axis = model.graph.input[1].type.tensor_type.shape.dim[1]
    open_axis.Clear()
    graph = from_onnx(model)
    assert [str(value.type) for value in graph.inputs] == ["f32[batch, seq]", "f32[batch, y_1]"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["batch size", "batch_size"], ["batch_size_1", "batch_size"]),
        (["batch-size", "batch/size"], ["batch_size", "batch_size_1"]),
        (["lambda", "min"], ["size_lambda", "size_min"]),
        (["0", "é"], ["size_0", "size"]),
        (["past", "past + 1"], ["past", "past + 1"]),
        (["past", "past+seq"], ["past", "past_seq"]),
        (["a", "2*a // 3"], ["a", str(Dim.parse("2*a // 3"))]),
    ],
)
def test_names_that_no_symbol_may_have_are_changed(given: list[str], expected: list[str]) -> None:
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, given)
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "f", [info], [out])
    read = from_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))
    assert [str(size) for size in read.inputs[0].shape] == expected


def test_declared_ranges_and_sizes() -> None:
    text = "(float[batch, seq, h] x) => (float z) { z = Relu(x) }"
    graph = from_onnx(parsed(text), dims={"batch": (1, 64), "seq": (0, None), "h": 768})
    assert str(graph.inputs[0].type) == "f32[batch, seq, 768]"
    assert graph.facts.range(Dim.of("batch")) == (1, 64)
    assert graph.facts.le(1, Dim.of("seq")) is Answer.UNKNOWN
    assert from_onnx(parsed(text)).facts.le(1, Dim.of("seq")) is Answer.YES
    with pytest.raises(UsageError, match=r"no size 'bacth'; did you mean batch\?"):
        from_onnx(parsed(text), dims={"bacth": 4})


# --- shape arithmetic ----------------------------------------------------------------------------


def test_the_classic_chain_folds_away() -> None:
    graph = agrees(
        """(float[N, M, 12] x) => (float z) { s0 = Shape(x) i0 = Constant<value = int64 {0}>()
            n = Gather<axis = 0>(s0, i0) s1 = Shape(x) i1 = Constant<value = int64 {1}>()
            m = Gather<axis = 0>(s1, i1) nm = Mul(n, m) a = Constant<value = int64[1] {0}>()
            u = Unsqueeze(nm, a) four = Constant<value = int64[1] {4}>()
            rest = Constant<value = int64[1] {-1}>() t = Concat<axis = 0>(u, four, rest)
            r = Reshape(x, t) z = Softmax(r) }"""
    )
    assert kinds_of(graph) == ["reshape", "softmax"]
    assert str(graph.outputs[0].type) == "f32[M*N, 4, 3]"


def test_multi_head_attention_as_exporters_write_it() -> None:
    graph = agrees(
        """(float[N, L, 8] x, float[8, 8] y, float[8, 8] yy) => (float z) { q = MatMul(x, y)
            k = MatMul(x, yy) s = Shape(q) zero = Constant<value = int64 {0}>()
            one = Constant<value = int64 {1}>() b = Gather(s, zero) l = Gather(s, one)
            ax = Constant<value = int64[1] {0}>() bu = Unsqueeze(b, ax) lu = Unsqueeze(l, ax)
            h = Constant<value = int64[1] {2}>() d = Constant<value = int64[1] {4}>()
            t = Concat<axis = 0>(bu, lu, h, d) qh = Reshape(q, t) kh = Reshape(k, t)
            qt = Transpose<perm = [0, 2, 1, 3]>(qh) kt = Transpose<perm = [0, 2, 3, 1]>(kh)
            dd = Shape(qt) last = Constant<value = int64 {-1}>() di = Gather(dd, last)
            df = Cast<to = 1>(di) root = Sqrt(df) sc = MatMul(qt, kt) scaled = Div(sc, root)
            mask = Trilu<upper = 0>(scaled) p = Softmax(mask) o = MatMul(p, qt)
            ot = Transpose<perm = [0, 2, 1, 3]>(o) e = Constant<value = int64[1] {8}>()
            back = Concat<axis = 0>(bu, lu, e) z = Reshape(ot, back) }"""
    )
    assert str(graph.outputs[0].type) == "f32[N, L, 8]"
    assert "size" not in kinds_of(graph) and "gather" not in kinds_of(graph)


def test_expand_with_a_mask_of_minus_ones() -> None:
    # How `torch.Tensor.expand(-1, ...)` is written: sizes of -1 are replaced by ones through Where.
    graph = agrees(
        """(float[N, 1, 4] x, float[N, L, 4] y) => (float z) {
            t = Constant<value = int64[3] {-1, 7, -1}>() s = Shape(t)
            ones = ConstantOfShape<value = int64[1] {1}>(s) m = Constant<value = int64 {-1}>()
            neg = Mul(ones, m) eq = Equal(t, neg) w = Where(eq, ones, t) z = Expand(x, w) }"""
    )
    assert kinds_of(graph) == ["broadcast"] and str(graph.outputs[0].type) == "f32[N, 7, 4]"


def test_positions_from_a_buffer_cut_to_length() -> None:
    graph = agrees(
        """(int64[N, L] k, float[16, 4] x) => (float z) { s = Shape(k)
            one = Constant<value = int64 {1}>() l = Gather(s, one)
            ax = Constant<value = int64[1] {0}>() lu = Unsqueeze(l, ax)
            ids = Constant<value = int64[1, 16] {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}>()
            a = Constant<value = int64[1] {1}>() p = Slice(ids, ax, lu, a) z = Gather(x, p) }"""
    )
    # Without a range nobody knows that L fits the 16 positions: the size says so.
    assert str(graph.outputs[0].type) == "f32[1, min(16, L), 4]"
    bounded = from_onnx(
        parsed(
            """(int64[N, L] k, float[16, 4] x) => (float z) { s = Shape<start = 1>(k)
            a = Constant<value = int64[1] {0}>() z = Slice(x, a, s) }"""
        ),
        dims={"L": (1, 16)},
    )
    assert str(bounded.outputs[0].type) == "f32[L, 4]"


def test_sizes_that_are_data_are_size_ops() -> None:
    graph = agrees(
        """(float[N, M] x) => (float z, int64 w) { s = Shape(x) n = Size(x) f = Cast<to = 1>(n)
            t = ReduceSum(x) z = Div(t, f) two = Constant<value = int64 {2}>() w = Mul(s, two) }"""
    )
    assert kinds_of(graph).count("size") == 3 and str(graph.outputs[1].type) == "i64[2]"


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("half = Div(n, two) r = Add(half, n)", "floordiv(N, 2) + N"),
        ("d = Sub(n, m) a = Abs(d) r = Max(a, m)", None),
        ("r = Mod(n, two)", "mod(N, 2)"),
        ("d = Sub(n, m) r = Div(d, two)", "floordiv"),
        ("r = Min(n, m, two)", "min(2, M, N)"),
        ("e = Equal(n, n) r = Where(e, m, n)", "M"),
        ("o = Constant<value = int64 {0}>() c = Greater(n, o) r = Where(c, m, n)", "M"),
        ("w = ReduceProd<keepdims = 0>(s) r = Identity(w)", "M*N"),
        ("x2 = Tile(s, t2) g = Constant<value = int64 {3}>() r = Gather(x2, g)", "M"),
    ],
)
def test_arithmetic_on_sizes(formula: str, expected: str | None) -> None:
    graph = agrees(
        f"""(float[N, M] x) => (int64 z) {{ s = Shape(x) zero = Constant<value = int64 {{0}}>()
            one = Constant<value = int64 {{1}}>() two = Constant<value = int64 {{2}}>()
            t2 = Constant<value = int64[1] {{2}}>() n = Gather(s, zero)
            m = Gather(s, one) {formula} z = Identity(r) }}"""
    )
    sizes = [str(op.attrs["dim"]) for op in graph.ops if op.kind == "size"]
    if expected == "floordiv":
        # N - M may be negative, where ONNX rounds up: it stays arithmetic on data.
        assert "floordiv" in kinds_of(graph)
    elif expected is not None:
        assert sizes == [str(Dim.parse(expected))]


@pytest.mark.parametrize(
    ("arithmetic", "expected"),
    [
        ("d = Mul(f, two) e = Floor(d)", "2*N"),
        ("d = Div(f, two) e = Floor(d)", "floordiv(N, 2)"),
        ("d = Div(f, two) e = Ceil(d)", "ceildiv(N, 2)"),
        ("d = Mul(quarter, f) e = Mul(d, two)", "floordiv(N, 2)"),
        ("d = Mul(f, odd) e = Floor(d)", None),
    ],
)
def test_sizes_scaled_in_floating_point(arithmetic: str, expected: str | None) -> None:
    text = f"""(float[N, 1] x, float[1, 1] y) => (float z, float w) {{
            s = Shape<end = 1>(x) f = Cast<to = 1>(s) two = Constant<value = float {{2.0}}>()
            quarter = Constant<value = float {{0.25}}>() odd = Constant<value = float {{0.3}}>()
            {arithmetic} w = Identity(e) i = Cast<to = 7>(e) one = Constant<value = int64[1] {{1}}>()
            t = Concat<axis = 0>(i, one) z = Expand(y, t) }}"""
    if expected is None:
        with pytest.raises(ImportFailed, match=r"Expand at node 'z'.* computed from data"):
            from_onnx(parsed(text))
        return
    model = parsed(text)
    graph, runtime = from_onnx(model, dims={"N": (2, 99)}), session(model)
    assert str(graph.outputs[0].shape[0]) == str(Dim.parse(expected))
    for n in (2, 5, 8):
        feeds = feeds_of(graph, {"N": n})
        same(evaluated(graph, feeds), runtime.run(None, feeds), 1e-6)


def test_slice_bounds_of_unknown_sign_are_exact() -> None:
    text = """(float[N, 2] x, float[M, 2] y) => (float z) { n = Shape<end = 1>(x)
            m = Shape<end = 1>(y) d = Sub(n, m)
            big = Constant<value = int64[1] {9223372036854775807}>() z = Slice(x, d, big) }"""
    model = parsed(text)
    graph, runtime = from_onnx(model), session(model)
    for n in range(1, 7):
        for m in range(1, 7):
            feeds = feeds_of(graph, {"N": n, "M": m})
            same(evaluated(graph, feeds), runtime.run(None, feeds), 0)


def test_a_contradiction_of_sizes_names_both_sides() -> None:
    text = "(float[N, 3] x, float[N, 4] y) => (float z) { z = Add(x, y) }"
    with pytest.raises(GraphError, match="3 and 4"):
        from_onnx(parsed(text))
    text = """(float[N, 4] x, float[M, 3] y) => (float z) { t = Constant<value = int64[2] {6, 2}>()
            a = Reshape(x, t) u = Constant<value = int64[1] {15}>() c = Reshape(x, u)
            z = Add(c, c) }"""
    with pytest.raises((FactsError, ImportFailed)):
        from_onnx(parsed(text))


# --- constants -----------------------------------------------------------------------------------


def _weights_model(folder: Path, arrays: dict[str, Any], nodes: list[Any], inputs: list[Any]) -> Path:
    """Write a model whose weights lie in one file beside it."""
    tensors, data = [], b""
    for name, array in arrays.items():
        tensor = numpy_helper.from_array(array, name)
        onnx.external_data_helper.set_external_data(tensor, "weights.bin", offset=len(data), length=array.nbytes)
        data += array.tobytes()
        tensor.ClearField("raw_data")
        tensors.append(tensor)
    (folder / "weights.bin").write_bytes(data)
    graph = helper.make_graph(
        nodes, "f", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], tensors
    )
    path = folder / "model.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    )
    return path


def test_weights_beside_the_model_are_mapped_and_shared(tmp_path: Path) -> None:
    w = np.arange(12, dtype=np.float32).reshape(4, 3)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Gemm", ["h", "w2", ""], ["y"], transB=1)]
    path = _weights_model(tmp_path, {"w": w}, nodes, [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])])
    model = onnx.load(path, load_external_data=False)
    twin = onnx.TensorProto()
    twin.CopyFrom(model.graph.initializer[0])
    twin.name = "w2"
    model.graph.initializer.append(twin)
    path.write_bytes(model.SerializeToString())
    graph = from_onnx(path)
    assert graph.name == "model"
    assert [(one.name, one.label) for one in graph.constants] == [("w", "w")]
    assert isinstance(graph.constants[0].source, InFile)
    x = np.ones((2, 4), np.float32)
    np.testing.assert_allclose(interpret(graph, x=x)["y"], (x @ w) @ w.T)
    assert graph.ops[0].loc.file == "model.onnx" and graph.ops[0].loc.module == "h"


def test_lost_weights_are_an_error_when_they_are_needed(tmp_path: Path) -> None:
    w = np.ones((4, 3), np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    path = _weights_model(tmp_path, {"w": w}, nodes, [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])])
    (tmp_path / "weights.bin").write_bytes(b"short")
    graph = from_onnx(path)
    with pytest.raises(WeightsError, match=r"cut short"):
        graph.constants[0].source.load()
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(WeightsError, match=r"weights\.bin"):
        from_onnx(path).constants[0].source.load()
    with pytest.raises(ImportFailed, match="given as an object"):
        from_onnx(onnx.load(path, load_external_data=False))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("location", "../weights.bin", "outside the model"),
        ("offset", "-4", "numbers >= 0"),
        ("length", "7", "7 bytes in weights.bin"),
    ],
)
def test_places_of_weights_that_cannot_be_are_refused(tmp_path: Path, key: str, value: str, words: str) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    path = _weights_model(
        tmp_path,
        {"w": np.ones((4, 3), np.float32)},
        nodes,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
    )
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == key:
            entry.value = value
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ImportFailed, match=words):
        from_onnx(path)


def test_ten_gigabytes_of_weights_are_imported_without_reading_them(tmp_path: Path) -> None:
    rows = 10 * 2**30 // 4096
    with (tmp_path / "weights.bin").open("wb") as file:
        file.truncate(rows * 4096)
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[rows, 1024], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="weights.bin")
    graph = helper.make_graph(
        [helper.make_node("Gather", ["w", "ids"], ["y"])],
        "big",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["N"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [tensor],
    )
    path = tmp_path / "big.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    )
    program = textwrap.dedent(f"""
        import re
        from pathlib import Path
        from mlsysopt.graph.importers.onnx import from_onnx
        graph = from_onnx({str(path)!r})
        # Not ru_maxrss: that of a child begins with what its parent had before the child's own program started.
        peak_kib = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]
        print(graph.signature, graph.constants[0].type.bytes, peak_kib)
    """)
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert int(found[-2]) == 10 * 2**30
    assert int(found[-1]) < 200 * 1024, "KiB resident"


def test_lone_numbers_are_ops_and_weights_are_constants() -> None:
    model = parsed(
        """(float[N, 2] x) => (float y) <float eps = {0.001}, float[2] w = {1.0, 2.0}, float[1] c = {3.0}> {
            a = Mul(x, w) d = Add(a, eps) y = Add(d, c) }"""
    )
    graph = from_onnx(model)
    assert [(one.name, str(one.type)) for one in graph.constants] == [("w", "f32[2]"), ("c", "f32[1]")]
    assert [op.attrs["value"] for op in graph.ops if op.kind == "full"] == [0.001]


@pytest.mark.parametrize(
    ("attribute", "value"),
    [("value_float", 0.5), ("value_int", 3), ("value_floats", [1.0, 2.0]), ("value_ints", [1, 2])],
)
def test_short_forms_of_constants(attribute: str, value: Any) -> None:
    node = helper.make_node("Constant", [], ["y"], **{attribute: value})
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT if "float" in attribute else TensorProto.INT64, None)
    model = helper.make_model(
        helper.make_graph([node], "f", [], [out]), opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    )
    np.testing.assert_array_equal(interpret(from_onnx(model))[from_onnx(model).outputs[0].name], np.asarray(value))


def test_initialisers_that_are_also_inputs_are_weights() -> None:
    model = parsed("(float[N, 2] x, float[2] w) => (float y) { y = Mul(x, w) }")
    model.graph.initializer.append(numpy_helper.from_array(np.ones(2, np.float32), "w"))
    graph = from_onnx(model)
    assert [value.name for value in graph.inputs] == ["x"] and len(graph.constants) == 1


def test_unused_weights_and_nodes_are_left_out() -> None:
    model = parsed("(float[N, 2] x) => (float y) <float[2] w = {1.0, 2.0}> { dead = Mul(x, w) y = Relu(x) }")
    graph = from_onnx(model)
    assert kinds_of(graph) == ["relu"] and not graph.constants


# --- refusals ------------------------------------------------------------------------------------


def test_unknown_operators_are_listed_all_at_once() -> None:
    model = parsed("(float[N, 4] x) => (float z) { a = acme.Twist(x) c = Det(a) z = com.microsoft.Foo(c) }")
    with pytest.raises(ImportFailed) as caught:
        from_onnx(model)
    message = str(caught.value)
    assert "3 operators without counterpart" in message and 'opaque="keep"' in message
    for words in (
        "Twist (domain acme, opset 3) at node 'a'",
        "Det (domain ai.onnx, opset 18)",
        "Foo (domain com.microsoft, opset 1)",
    ):
        assert words in message
    assert caught.value.exit_code == 1


def test_loops_are_refused_even_when_operators_are_kept() -> None:
    model = parsed(
        """(float[4] x) => (float y) { n = Constant<value = int64 {3}>() c = Constant<value =
            bool {1}>() y = Loop(n, c, x) <body = g (int64 i, bool k, float[4] s) => (bool ko,
            float[4] so) { ko = Identity(k) so = Relu(s) }> }"""
    )
    with pytest.raises(ImportFailed, match=r"Loop .* loops inside a model are not supported"):
        from_onnx(model, opaque="keep")


@pytest.mark.parametrize("opset", [12, 24])
def test_opsets_outside_the_supported_ones_are_refused(opset: int) -> None:
    with pytest.raises(ImportFailed, match=f"opset {opset}, supported are 13 to 23"):
        from_onnx(parsed("(float[4] x) => (float y) { y = Relu(x) }", opset))


def test_inputs_that_are_no_tensors_or_have_no_counterpart() -> None:
    model = parsed("(uint32[4] x) => (uint32 y) { y = Identity(x) }")
    with pytest.raises(ImportFailed, match="input 'x': element type UINT32"):
        from_onnx(model)
    model = parsed("(seq(float[4]) x) => (float y) { y = Relu(x) }")
    with pytest.raises(ImportFailed, match="'x' is no tensor"):
        from_onnx(model)


def test_files_that_are_no_models(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    with pytest.raises(UsageError, match="No such file"):
        from_onnx(path)
    path.write_bytes(b"\x08garbage" * 10)
    with pytest.raises(UsageError, match="no ONNX model"):
        from_onnx(path)
    path.write_bytes(b"")
    with pytest.raises(UsageError, match="names no opset"):
        from_onnx(path)


def test_values_of_nowhere_are_refused() -> None:
    with pytest.raises(ImportFailed, match="'q' is read before it is defined"):
        from_onnx(parsed("(float[4] x) => (float y) { y = Add(x, q) }"))


# --- kept operators ------------------------------------------------------------------------------


def test_kept_operators_run_and_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    text = (
        "(float[N, 5] x) => (float v, int64 i) { k = Constant<value = int64[1] {2}>() s = Mul(x, x) v, i = TopK(s, k) }"
    )
    model = parsed(text)
    with pytest.raises(ImportFailed, match="TopK"):
        from_onnx(model)
    graph = from_onnx(model, opaque="keep")
    assert graph.verify() is None
    assert kinds_of(graph).count("opaque.onnx") == 1
    assert "1 operators were kept as they are: ai.onnx::TopK (1)" in caplog.text
    assert [str(value.type) for value in graph.outputs] == ["f32[N, 2]", "i64[N, 2]"]
    assert parse(str(graph)) == graph
    runtime = session(model)
    for sizes in ({"N": 3}, {"N": 1}):
        feeds = feeds_of(graph, sizes)
        same(evaluated(graph, feeds), runtime.run(None, feeds), 1e-6)


def test_kept_operators_whose_sizes_depend_on_data_get_fresh_symbols() -> None:
    model = parsed("(float[N] x) => (float y) { u = Unique(x) y = Exp(u) }")
    graph = from_onnx(model, opaque="keep")
    assert graph.verify() is None and str(graph.outputs[0].type) == "f32[u0]"
    x = np.asarray([3, 1, 3, 2], np.float32)
    np.testing.assert_allclose(interpret(graph, x=x)["y"], np.exp([1.0, 2, 3]), rtol=1e-6)


def test_kept_operators_of_other_domains_are_run_by_onnxruntime() -> None:
    model = parsed("(float[N, 4] x, float[4] w) => (float y) { y = com.microsoft.GemmaRotaryEmbedding(x, w) }")
    with pytest.raises(ImportFailed, match="type of its output 'y' is not known"):
        from_onnx(model, opaque="keep")
    text = "(float[N, 3, 3] x) => (float[N, 3, 3] y) { y = com.microsoft.Inverse(x) }"
    graph = from_onnx(parsed(text), opaque="keep")
    assert graph.ops[0].attrs["target"] == "com.microsoft::Inverse"
    feeds = feeds_of(graph, {"N": 2})
    same(evaluated(graph, feeds), session(parsed(text)).run(None, feeds), 1e-3)
    unknown = from_onnx(parsed("(float[N, 4] x) => (float[N, 4] y) { y = acme.Twist(x) }"), opaque="keep")
    with pytest.raises(GraphError, match=r"Twist: neither onnx\.reference .* nor onnxruntime"):
        evaluated(unknown, feeds_of(unknown, {"N": 2}))


# --- files of ours -------------------------------------------------------------------------------


def _ours() -> tuple[Graph, onnx.ModelProto]:
    b = Builder("ours")
    x = b.input("x", f32["N", 4])
    graph = b.finish([b.op("silu", x, name="y")])
    return graph, to_onnx(graph)


def test_notes_are_believed_while_the_nodes_are_as_they_were() -> None:
    graph, model = _ours()
    assert canonical_hash(from_onnx(model)) == canonical_hash(graph) and from_onnx(model).name == "ours"
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    changed.graph.node[0].op_type = "Tanh"
    assert kinds_of(from_onnx(changed)) == ["tanh", "mul"]
    swapped = onnx.ModelProto()
    swapped.CopyFrom(model)
    swapped.graph.node[1].op_type = "Add"
    assert kinds_of(from_onnx(swapped)) == ["sigmoid", "add"]


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "{}",
        '{"kind": "nothing"}',
        "[1]",
        '{"kind": 1, "operands": [], "results": [], "attrs": {"a": {"dim": "("}}, "nodes": 2, "digest": ""}',
    ],
)
def test_damaged_notes_are_ignored(text: str) -> None:
    _, model = _ours()
    for entry in model.graph.node[0].metadata_props:
        if entry.key == NOTE:
            entry.value = text
    assert kinds_of(from_onnx(model)) == ["sigmoid", "mul"]


def test_facts_of_a_file_that_contradict_what_is_declared_are_refused() -> None:
    _, model = _ours()
    for entry in model.metadata_props:
        if entry.key == FACTS:
            entry.value = "N in 1..4"
    assert from_onnx(model).facts.range(Dim.of("N")) == (1, 4)
    with pytest.raises(FactsError):
        from_onnx(model, dims={"N": (8, 16)})


def test_functions_inside_a_model_are_opened() -> None:
    text = """<ir_version: 9, opset_import: ["" : 18, "mine" : 1]> f (float[N, 4] x) => (float y) { y = mine.Twice(x) }
        <domain: "mine", opset_import: ["" : 18]> Twice (a) => (c) { c = Add(a, a) }"""
    assert kinds_of(from_onnx(onnx.parser.parse_model(text))) == ["add"]
