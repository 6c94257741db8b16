"""Programs run: what is given is checked, sizes are read off, errors name what is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mlsysopt.core.errors import UsageError
from mlsysopt.graph import (
    Builder,
    Dim,
    Facts,
    Graph,
    Loc,
    TensorType,
    bf16,
    boolean,
    compare_outputs,
    f16,
    f32,
    f64,
    i8,
    i32,
    i64,
    interpret,
    random_inputs,
)
from mlsysopt.graph.domains.sizes import InputError
from mlsysopt.graph.errors import GraphError, WeightsError
from mlsysopt.graph.interpreter import relative_error
from mlsysopt.graph.ir import Attrs, Op, Value
from mlsysopt.graph.sources import Absent, InMemory
from mlsysopt.graph.symbolic import dims
from tests.graph.ops.one_op import program


def masked() -> Graph:
    B, S = dims("B", "S", max=(8, 16))
    b = Builder("masked")
    x, mask = b.input("x", f32[B, S, 4]), b.input("mask", i64[B, S])
    keep = b.op("reshape", b.op("cast", mask, to=f32), shape=(B, S, 1))
    return b.finish([b.op("mul", x, keep, name="y")])


X, MASK = np.ones((2, 3, 4), np.float32), np.ones((2, 3), np.int64)


def test_outputs_by_name_in_float64() -> None:
    found = interpret(masked(), x=X * 3, mask=MASK)
    assert list(found) == ["y"] and found["y"].dtype == np.float64
    assert (found["y"] == 3).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"x": X}, "graph masked: no value given for mask: i64[B, S]"),
        ({"x": X, "mask": MASK, "maks": MASK}, "graph masked has no input 'maks'; did you mean mask?"),
        (
            {"x": X, "mask": MASK.astype(np.float32)},
            "input 'mask': expected i64[B, S], got float32 of shape (2, 3); convert it to int64",
        ),
        ({"x": X, "mask": MASK > 0}, "got bool of shape (2, 3)"),
        ({"x": X, "mask": MASK[0]}, "input 'mask': expected i64[B, S], got shape (3,)"),
        ({"x": X[..., :3], "mask": MASK}, "input 'x': expected f32[B, S, 4], got shape (2, 3, 3)"),
        ({"x": X, "mask": np.ones((2, 5), np.int64)}, "S = 3 (x) but S = 5 (mask)"),
        ({"x": np.ones((9, 3, 4), np.float32), "mask": np.ones((9, 3), np.int64)}, "B = 9 but B in 1..8"),
    ],
)
def test_inputs_that_do_not_fit(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        interpret(masked(), **given)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2 and isinstance(caught.value, UsageError)
    assert str(caught.value).count("\n") < 3


def test_an_integer_that_does_not_fit_its_type() -> None:
    graph = program("neg", i8["N"])
    assert interpret(graph, x0=np.array([3, -3]))["neg"].tolist() == [-3, 3]
    with pytest.raises(InputError, match=r"input 'x0': 3\.\.300 does not fit i8"):
        interpret(graph, x0=np.array([3, 300]))


def test_two_sizes_that_the_facts_tie() -> None:
    b = Builder("sum")
    x, y = b.input("x", f32["B", "S"]), b.input("mask", f32["B", "T"])
    b.loc = Loc("bert.py", 214)
    graph = b.finish([b.op("add", x, y)])
    with pytest.raises(InputError) as caught:
        interpret(graph, x=np.ones((1, 12), np.float32), mask=np.ones((1, 10), np.float32))
    for word in ("S = 12", "T = 10", "add at bert.py:214", "S from x", "T from mask"):
        assert word in str(caught.value)


def test_sizes_are_solved_from_formulas() -> None:
    B, S = dims("B", "S")
    b = Builder("solved")
    x, y = b.input("x", f32[B * S, 2]), b.input("y", f32[S * 2 + 1])
    size = b.op("size", dim=B * 100 + S)
    graph = b.finish([size, b.op("neg", x), b.op("neg", y)])
    assert interpret(graph, x=np.ones((12, 2), np.float32), y=np.ones(7, np.float32))["size"] == 403
    with pytest.raises(InputError, match=r"input 'y': axis 0 is .*, and no S makes it 6"):
        interpret(graph, x=np.ones((12, 2), np.float32), y=np.ones(6, np.float32))
    with pytest.raises(InputError, match=r"input 'x': axis 0 is .*, and no B makes it 13"):
        interpret(graph, x=np.ones((13, 2), np.float32), y=np.ones(7, np.float32))


def test_a_formula_that_cannot_be_solved_is_checked_or_given() -> None:
    S = Dim.of("S")
    b = Builder("halves")
    x = b.input("x", f32[S // 2])
    graph = b.finish([b.op("size", dim=S), b.op("neg", x)])
    array = np.ones(3, np.float32)
    assert interpret(graph, at={"S": 7}, x=array)["size"] == 7
    with pytest.raises(InputError, match=r"S = 8 .given. but .* = 3 .x, axis 0., which should be 4"):
        interpret(graph, at={"S": 8}, x=array)
    with pytest.raises(GraphError, match="size %size: S needs a value for S"):
        interpret(graph, x=array)


def test_equalities_of_the_facts_give_sizes() -> None:
    b = Builder("tied", Facts().with_equal(Dim.of("T"), Dim.of("S") * 2))
    x = b.input("x", f32["S"])
    graph = b.finish([b.op("iota", shape=("T",)), b.op("neg", x)])
    assert interpret(graph, x=np.ones(3, np.float32))["iota"].shape == (6,)


def test_torch_tensors_and_lists_are_taken() -> None:
    graph = program("add", f32["N"], f32["N"])
    assert interpret(graph, x0=torch.ones(2, requires_grad=True), x1=[1.0, 2.0])["add"].tolist() == [2.0, 3.0]
    half = program("neg", bf16["N"])
    assert interpret(half, x0=torch.tensor([1.5], dtype=torch.bfloat16))["neg"].tolist() == [-1.5]


def test_names_that_are_no_words() -> None:
    b = Builder("names")
    graph = b.finish([b.op("add", b.input("input.1", f32[1]), b.input("inputs", f32[1]), name="y")])
    one = np.ones(1, np.float32)
    assert interpret(graph, inputs={"input.1": one, "inputs": one})["y"] == 2
    again = program("neg", f32[1])
    with pytest.raises(UsageError, match="input 'x0' is given twice"):
        interpret(again, inputs={"x0": one}, x0=one)
    b = Builder("plain")
    graph = b.finish([b.op("neg", b.input("inputs", f32[1]), name="y")])
    assert interpret(graph, inputs=one)["y"] == -1


def test_an_unknown_precision() -> None:
    with pytest.raises(UsageError, match="precision must be 'reference' or 'declared', got 'float32'"):
        interpret(masked(), precision="float32", x=X, mask=MASK)


# precisions


def test_reference_is_float64_whatever_is_declared() -> None:
    b = Builder("deep")
    x = b.input("x", bf16[1])
    y = b.op("mul", b.op("cast", x, to=f16), b.scalar(0.1, Value("like", f16[1])))
    graph = b.finish([b.op("cast", y, to=f32, name="y")])
    found = interpret(graph, x=np.array([3.0]))["y"]
    assert found.dtype == np.float64 and found[0] == 3.0 * 0.1


@pytest.mark.parametrize(("element", "word"), [(f16, torch.float16), (bf16, torch.bfloat16), (f32, torch.float32)])
def test_declared_rounds_every_result(element: Any, word: torch.dtype) -> None:
    b = Builder("chain")
    x, w = b.input("x", element[4, 8]), b.input("w", element[8, 3])
    y = b.op("matmul", x, w)
    graph = b.finish([b.op("softmax", b.op("mul", y, b.scalar(3.0, y)), axis=1, name="y")])
    rng = np.random.default_rng(0)
    tx, tw = (torch.from_numpy(rng.standard_normal(shape)).to(word) for shape in ((4, 8), (8, 3)))
    found = interpret(graph, precision="declared", x=tx, w=tw)["y"]
    assert found.dtype == element.numpy()
    wanted = torch.softmax((tx @ tw) * 3.0, 1).float().numpy()
    step = {f16: 2**-11, bf16: 2**-8, f32: 2**-23}[element]
    assert np.abs(found.astype(np.float32) - wanted).max() < 4 * step
    if element is not f32:
        exact = interpret(graph, x=tx, w=tw)["y"]
        assert 0 < np.abs(found.astype(np.float64) - exact).max() < 20 * step


def test_numbers_too_large_become_infinite() -> None:
    graph = program("mul", f16[1], f16[1])
    large = np.array([60000.0], np.float16)
    assert np.isinf(interpret(graph, precision="declared", x0=large, x1=large)["mul"])[0]
    assert interpret(graph, x0=large, x1=large)["mul"][0] == 60000.0**2


def test_integers_are_exact() -> None:
    big = np.array([2**62 + 1])
    assert interpret(program("add", i64[1], i64[1]), x0=big, x1=np.array([1]))["add"][0] == 2**62 + 2


# errors inside


def test_an_error_inside_an_op_names_it_and_its_line() -> None:
    b = Builder("divided")
    b.loc = Loc("model.py", 7, "head")
    graph = b.finish([b.op("floordiv", b.input("x", i64[2]), b.input("y", i64[2]))])
    with pytest.raises(GraphError) as caught:
        interpret(graph, x=np.array([1, 2]), y=np.array([1, 0]))
    message = str(caught.value)
    assert message == "floordiv at model.py:7 head: an integer is divided by zero; given %x: int64[2], %y: int64[2]"
    assert caught.value.exit_code == 1


def test_a_result_is_held_against_its_type() -> None:
    graph = program("neg", f32["N"])
    lying = Op("neg", graph.inputs, (Value("y", f32["N", 1]),), Attrs())
    wrong = Graph("lying", graph.inputs, (), (lying,), lying.results)
    with pytest.raises(GraphError, match=r"neg %y: %y is declared f32\[N, 1\] with N = 3, but shape \(3,\) was made"):
        interpret(wrong, x0=np.ones(3, np.float32))


def test_fresh_sizes_are_held_against_the_facts() -> None:
    b = Builder("few", Facts().with_range("u0", 0, 2))
    graph = b.finish([b.op("nonzero", b.input("x", f32["N"]), symbol="u0")])
    assert interpret(graph, x=np.array([1, 0, 2], np.float32))["nonzero"].tolist() == [[0, 2]]
    with pytest.raises(GraphError, match=r"nonzero %nonzero: u0 = 3 but u0 in 0..2"):
        interpret(graph, x=np.ones(3, np.float32))


def test_weights() -> None:
    b = Builder("weights")
    w = b.constant("w", np.arange(3, dtype=np.float32))
    graph = b.finish([b.op("add", b.input("x", f32["B", 3]), w, name="y"), w])
    found = interpret(graph, x=np.zeros((1, 3), np.float32))
    assert found["y"].tolist() == [[0, 1, 2]] and found["w"].dtype == np.float64
    for source, message in (
        (Absent("blake2=00"), "weights blake2=00 are not here"),
        (InMemory(np.ones(4)), "found shape"),
    ):
        b = Builder("weights")
        w = b.constant("w", source, f32[3])
        with pytest.raises(WeightsError, match=message):
            interpret(b.finish([b.op("neg", w)]))


def test_an_op_with_a_region_means_its_region() -> None:
    inner = Builder("inner")
    a = inner.input("a", f32["N"])
    region = inner.finish([inner.op("exp", inner.op("neg", a), name="z")])
    outer = Builder("outer")
    x = outer.input("x", f32["N"])
    fused = Op("neg", (x,), (Value("y", f32["N"]),), Attrs(), (region,))
    graph = Graph("outer", (x,), (), (fused,), fused.results)
    assert interpret(graph, x=np.array([1.0, 2.0]))["y"].tolist() == np.exp([-1.0, -2.0]).tolist()


def test_dead_values_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlsysopt.graph.domains import Numeric, walk

    b = Builder("chain")
    value = b.input("x", f64[4])
    for _ in range(5):
        value = b.op("neg", value)
    graph = b.finish([value])
    domain = Numeric()
    inputs = domain.start(graph, {"x": np.ones(4)})
    assert list(walk(graph, domain, inputs)) == [value]
    assert len(walk(graph, domain, inputs, keep=True)) == 6


# random inputs


def test_random_inputs_index_what_is_there() -> None:
    S = Dim.of("S")
    b = Builder("lookups")
    table, ids = b.constant("table", np.zeros((50, 3), np.float32)), b.input("ids", i32["B", S])
    places, free, flag = b.input("places", i64[S]), b.input("free", i64["B", S]), b.input("flag", boolean["B", S])
    flat = b.op("reshape", b.op("cast", ids, to=i64), shape=(Dim.of("B") * S,))
    found = b.op("embedding", table, flat)
    picked = b.op("gather", b.op("iota", shape=(S,)), places, axis=0)
    graph = b.finish([found, picked, b.op("neg", free), b.op("not", flag)])
    for seed in range(20):
        arrays = random_inputs(graph, {"B": 3, "S": 2}, seed)
        assert arrays["ids"].dtype == np.int32 and arrays["ids"].min() >= 0 and arrays["ids"].max() < 50
        assert set(arrays["places"].tolist()) <= {0, 1}
        assert set(arrays["free"].ravel().tolist()) <= {0, 1}
        assert arrays["flag"][:, 0].all() and arrays["free"][:, 0].all()
        interpret(graph, inputs=arrays)
    assert arrays["ids"].max() > 2
    given = random_inputs(graph, {"B": 30, "S": 2}, ranges={"free": (-3, 5)})["free"]
    assert given.min() == -3 and given.max() == 5
    assert all(
        (a == b).all()
        for a, b in zip(arrays.values(), random_inputs(graph, {"B": 3, "S": 2}, 19).values(), strict=True)
    )


def test_random_inputs_choose_sizes_that_the_facts_allow() -> None:
    S, T = Dim.of("S"), Dim.of("T")
    facts = Facts().with_range("S", 5, 40).with_divisor("S", 4).with_equal(T, S * 2).with_range("U", 1, 3)
    b = Builder("chosen", facts.with_le(Dim.of("V"), S))
    sizes = [b.input(name, f32[name]) for name in "STUV"]
    graph = b.finish([b.op("neg", one) for one in sizes])
    seen: set[int] = set()
    for seed in range(30):
        found = {name: array.shape[0] for name, array in random_inputs(graph, seed=seed).items()}
        assert found["S"] % 4 == 0 and 5 <= found["S"] <= 40 and found["T"] == 2 * found["S"]
        assert 1 <= found["U"] <= 3 and found["V"] <= found["S"]
        seen.add(found["S"])
    assert len(seen) > 2
    assert random_inputs(graph, {"T": 32})["S"].shape == (16,)
    with pytest.raises(InputError, match=r"S = 7 but S is a multiple of 4"):
        random_inputs(graph, {"S": 7})
    with pytest.raises(InputError, match="no sizes were found that meet its facts"):
        random_inputs(graph, {"T": 30})
    with pytest.raises(UsageError, match="graph chosen has no symbol 'Q'; known symbols: S, T, U, V"):
        random_inputs(graph, {"Q": 1})


def test_likely_sizes_come_first() -> None:
    facts = Facts().with_range("S", 1, 512).with_likely("S", {128: 0.5, 77: 0.5})
    b = Builder("likely", facts)
    graph = b.finish([b.op("neg", b.input("x", f32["S"]))])
    assert {random_inputs(graph, seed=seed)["x"].shape[0] for seed in range(20)} == {128, 77}


# comparison


def line() -> Graph:
    b = Builder("line")
    x, w = b.input("x", f32["B", 3]), b.constant("w", np.eye(3, dtype=np.float32) * 2)
    y = b.op("matmul", x, w, name="y")
    return b.finish([y, b.op("argmax", y, axis=1, name="best")])


def test_compare_outputs_accepts_what_is_equal() -> None:
    def peer(inputs: dict[str, Any]) -> list[Any]:
        y = torch.from_numpy(inputs["x"]) * 2
        return [y, y.argmax(1)]

    report = compare_outputs(line(), peer, [{"B": 1}, {"B": 4}, {}], 1e-6)
    assert report.ok and len(report.rows) == 6 and report.worst < 1e-6
    assert report.check() is report
    assert "equal within 1e-06: worst relative error" in str(report)


def test_compare_outputs_finds_what_is_not() -> None:
    def peer(inputs: dict[str, Any]) -> dict[str, Any]:
        y = inputs["x"] * 2
        return {"y": y * (1.01 if len(y) == 4 else 1), "best": y.argmax(1)}

    report = compare_outputs(line(), peer, [{"B": 1}, {"B": 4}], 1e-3)
    assert not report.ok and abs(report.worst - 0.01) < 1e-4
    with pytest.raises(GraphError, match=r"1 of 4 outputs differ by more than 0.001:\n%y at B=4: relative error 0.01"):
        report.check()


@pytest.mark.parametrize(
    ("peer", "problem"),
    [
        (lambda inputs: {"y": inputs["x"] * 2}, "it was not returned"),
        (lambda inputs: {"y": inputs["x"][0], "best": np.zeros(2, np.int64)}, r"shape (3,) instead of (2, 3)"),
        (lambda inputs: {"y": np.zeros((2, 3), np.int64), "best": np.zeros(2)}, "int64 instead of float64"),
    ],
)
def test_compare_outputs_says_what_cannot_be_compared(peer: Any, problem: str) -> None:
    report = compare_outputs(line(), peer, [{"B": 2}], 1.0)
    assert problem in [row.problem for row in report.rows] and not report.ok


def test_a_peer_that_changes_its_inputs_does_not_change_the_truth() -> None:
    def peer(inputs: dict[str, Any]) -> Any:
        inputs["x"] += 1
        return inputs["x"] * 0

    b = Builder("neg")
    graph = b.finish([b.op("neg", b.input("x", f32["B"]))])
    assert compare_outputs(graph, peer, [{"B": 3}], 1e-3).worst == 1.0
    with pytest.raises(UsageError, match="has 1 outputs, 2 were returned"):
        compare_outputs(graph, lambda inputs: [1, 2], [{"B": 3}], 1e-3)


def test_relative_error_of_special_values() -> None:
    nan, inf = np.nan, np.inf
    assert relative_error(np.array([1.0, nan, inf]), np.array([1.0, nan, inf])) == 0
    assert relative_error(np.array([1.0, nan]), np.array([1.0, 2.0])) == inf
    assert relative_error(np.array([1.0, inf]), np.array([1.0, -inf])) == inf
    assert relative_error(np.array([0.0]), np.array([0.0])) == 0
    assert relative_error(np.array([1e-9]), np.array([0.0])) == inf
    assert relative_error(np.array([1, 2]), np.array([1, 3])) == inf
    assert relative_error(np.zeros(0), np.zeros(0)) == 0


def test_types_of_inputs_are_not_guessed() -> None:
    with pytest.raises(InputError, match="got int64 of shape"):
        interpret(program("neg", TensorType(f32, ())), x0=3)
