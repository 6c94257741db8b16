"""Executables: any size, tensors of any library, errors of one line, several threads."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from threading import Barrier, Thread
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mlsysopt.compile.dynamic.building import build
from mlsysopt.compile.dynamic.executable import Executable
from mlsysopt.compile.errors import CompileError, InputError, StaleWeights
from mlsysopt.compile.options import Options
from mlsysopt.graph import Builder, Graph, bf16, boolean, dims, f16, f32, f64, from_torch, i64, interpret
from mlsysopt.graph.facts import Origin
from mlsysopt.graph.interpreter import relative_error

B, S = dims("B", "S", max=(64, 512))
RNG = np.random.default_rng(0)


def weights(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def mlp() -> Graph:
    b = Builder("mlp")
    x = b.input("x", f32[B, S, 32])
    w1, b1, w2 = b.constant("w1", weights(48, 32)), b.constant("b1", weights(48)), b.constant("w2", weights(10, 48))
    return b.finish([b.op("linear", b.op("relu", b.op("linear", x, w1, b1)), w2, name="y")])


def norm() -> Graph:
    b = Builder("norm")
    x, scale, shift = b.input("x", f32[B, S, 40]), b.constant("scale", weights(40)), b.constant("shift", weights(40))
    return b.finish([b.op("layer_norm", x, scale, shift, axes=(2,), name="y")])


@cache
def ready(make: Callable[[], Graph]) -> tuple[Graph, Executable]:
    """A graph and what it is built into, once for all tests that change neither."""
    graph = make()
    return graph, build(graph)


@pytest.fixture
def made() -> Executable:
    return ready(mlp)[1]


@pytest.mark.parametrize("make", [mlp, norm])
@pytest.mark.parametrize("sizes", [(1, 1), (2, 7), (3, 64), (5, 131)])
def test_results_are_those_of_the_program(make: Callable[[], Graph], sizes: tuple[int, int]) -> None:
    graph, call = ready(make)
    x = weights(*sizes, int(graph.inputs[0].shape[2]))
    assert relative_error(call(x), interpret(graph, x=x)["y"]) < 1e-5


@pytest.mark.parametrize("make", [mlp, norm])
def test_an_mlp_and_a_norm_stay_in_native_code(make: Callable[[], Graph]) -> None:
    assert ready(make)[1].plan.flow.call_outs == 0


def test_the_kind_of_tensor_that_comes_in_goes_out(made: Executable) -> None:
    x = weights(2, 3, 32)
    plain, tensor = made(x), made(torch.from_numpy(x))
    assert type(plain) is np.ndarray and type(tensor) is torch.Tensor
    np.testing.assert_array_equal(plain, tensor.numpy())


class Foreign:
    """A tensor of a library that nobody here knows: it speaks DLPack."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **words: Any) -> Any:
        return self.array.__dlpack__(**words)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()

    def __array_namespace__(self) -> Any:
        return ForeignLibrary


class ForeignLibrary:
    @staticmethod
    def from_dlpack(other: Any) -> Foreign:
        return Foreign(np.from_dlpack(other))


def test_whatever_speaks_dlpack_is_taken_and_given_back(made: Executable) -> None:
    x = weights(1, 4, 32)
    found = made(Foreign(x))
    assert type(found) is Foreign
    np.testing.assert_array_equal(found.array, made(x))


def test_inputs_by_name_and_several_outputs_in_order() -> None:
    b = Builder("two")
    x, y = b.input("x", f32["N"]), b.input("y", f32["N"])
    call = build(b.finish([b.op("add", x, y), b.op("sub", x, y), x]))
    total, difference, same = call(y=np.ones(3, np.float32), x=np.full(3, 5, np.float32))
    assert (total.tolist(), difference.tolist(), same.tolist()) == ([6.0] * 3, [4.0] * 3, [5.0] * 3)


def test_an_output_that_is_an_input_is_a_copy() -> None:
    b = Builder("same")
    x = b.input("x", f32["N", 4])
    given = weights(3, 4)
    found = build(b.finish([x, b.op("transpose", x, perm=(1, 0))]))(given)
    assert not np.shares_memory(found[0], given)
    np.testing.assert_array_equal(found[0], given)
    np.testing.assert_array_equal(found[1], given.T)


def test_strided_inputs_are_copied_and_counted() -> None:
    call = build(mlp(), Options(check="none"))
    x = weights(3, 2, 32)
    np.testing.assert_array_equal(call(x.transpose(1, 0, 2)), call(np.ascontiguousarray(x.transpose(1, 0, 2))))
    call(torch.from_numpy(x)[:, :1].expand(3, 2, 32))
    assert call.stats.copies == 2


def test_a_tensor_that_is_stored_with_the_other_sign_is_read_with_its_own() -> None:
    b = Builder("copy")
    call = build(b.finish([b.op("reshape", b.input("x", f32["N"]), shape=("N",))]))
    for given in (torch.tensor([1 + 2j]).conj().imag, torch.tensor([1 + 2j, 3 - 4j]).conj().imag):
        assert call(given).tolist() == given.tolist()


@pytest.mark.parametrize("given", [torch.eye(3).to_sparse(), torch.ones(3, 3).to_mkldnn()], ids=["sparse", "mkldnn"])
def test_a_tensor_without_dense_memory_is_refused(given: torch.Tensor) -> None:
    b = Builder("twice")
    x = b.input("x", f32["N", 3])
    call = build(b.finish([b.op("add", x, x)]))
    assert refused(call, given).startswith("x: no dense tensor (torch.")


def test_arrays_that_may_not_be_written_are_taken_beside_tensors() -> None:
    b = Builder("sum")
    call = build(b.finish([b.op("add", b.input("x", f32["N"]), b.input("y", f32["N"]))]), Options(check="none"))
    given = np.ones(3, np.float32)
    given.flags.writeable = False
    assert call(torch.ones(3), given).tolist() == [2, 2, 2]


@pytest.mark.parametrize("sizes", [(0, 5), (2, 0), (0, 0)])
def test_size_zero_gives_empty_outputs(made: Executable, sizes: tuple[int, int]) -> None:
    found = made(np.zeros((*sizes, 32), np.float32))
    assert (found.shape, found.dtype) == ((*sizes, 10), np.float32)
    assert made(torch.zeros(*sizes, 32)).shape == (*sizes, 10)


def test_size_zero_that_leaves_something_to_say_is_outside_the_declared_range() -> None:
    b = Builder("sum")
    call = build(b.finish([b.op("sum", b.input("x", f32[S]), axes=(0,))]))
    with pytest.raises(InputError, match=r"S = 0, declared 1\.\.512: recompile with dims\(min=\.\.\.\)"):
        call(np.zeros(0, np.float32))


# errors


def refused(call: Executable, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(InputError) as found:
        call(*args, **kwargs)
    assert found.value.exit_code == 2
    return str(found.value)


def test_a_wrong_rank_and_a_wrong_type_are_told_with_both_sides(made: Executable) -> None:
    assert refused(made, weights(37, 32)) == "x: expected f32[B, S, 32], got f32[37, 32] (rank 2)"
    assert refused(made, weights(2, 3, 33)) == "x: expected f32[B, S, 32], got f32[2, 3, 33]"
    wide = np.zeros((2, 3, 32))
    assert refused(made, wide) == "x: expected f32[B, S, 32], got f64[2, 3, 32]"
    assert refused(made, torch.from_numpy(wide)) == "x: expected f32[B, S, 32], got f64[2, 3, 32]"


def test_a_size_outside_the_declared_range(made: Executable) -> None:
    assert refused(made, weights(1, 600, 32)) == "S = 600, declared 1..512: recompile with dims(max=...)"


def masked(second: str) -> Graph:
    b = Builder("masked")
    x, mask = b.input("x", f32[B, "S"]), b.input("mask", f32[B, second])
    b.facts = b.facts.with_equal("S", second, Origin("add", "bert.py:214"))
    return b.finish([b.op("add", x, mask)])


def test_a_broken_equality_names_both_inputs_and_its_origin() -> None:
    line = refused(build(masked("T")), weights(2, 12), weights(2, 10))
    assert line == "S of x is 12 but T of mask is 10 (equal because of add at bert.py:214)"
    line = refused(build(masked("S")), weights(2, 12), weights(2, 10))
    assert line == "S of x is 12 but S of mask is 10 (equal because both are declared S)"


def test_sizes_that_are_formulas_are_solved_and_checked() -> None:
    b = Builder("formulas")
    x, y = b.input("x", f32[2 * S + 1]), b.input("y", f32[B * S])
    call = build(b.finish([b.op("exp", x), b.op("neg", y)]))
    assert [one.shape for one in call(weights(7), weights(6))] == [(7,), (6,)]
    assert refused(call, weights(8), weights(6)) == "x: axis 0 is 2*S + 1, no S makes it 8"
    assert refused(call, weights(7), weights(7)) == "y: axis 0 is B*S, no B makes it 7"


def test_names_and_numbers_of_inputs(made: Executable) -> None:
    assert refused(made) == "mlp: no value given for x: f32[B, S, 32]"
    assert refused(made, y=1) == "mlp has no input 'y'; known inputs: x"
    assert refused(made, 1, 2) == "mlp: 2 inputs given, it has 1: x"
    assert "given twice" in refused(made, weights(1, 1, 32), x=weights(1, 1, 32))
    assert refused(made, [1.0]).startswith("x: expected f32[B, S, 32], got list; give a tensor of torch")


def test_inputs_that_want_gradients_are_refused_unless_none_are_recorded(made: Executable) -> None:
    x = torch.zeros(1, 2, 32, requires_grad=True)
    assert refused(made, x).startswith("x requires gradients and a compiled model has none")
    with torch.no_grad():
        assert made(x).shape == (1, 2, 10)


def test_a_size_that_no_input_says_is_refused() -> None:
    b = Builder("free")
    with pytest.raises(CompileError, match="the size T stands in no input of free"):
        build(b.finish([b.full(1.0, f32["T"])]))


@pytest.mark.parametrize("start", [0, 5, 12])
@pytest.mark.parametrize("kind", ["linear", "matmul"])
def test_a_part_of_a_constant_is_the_weights_of_a_product(kind: str, start: int) -> None:
    b = Builder("part")
    x, w, bias = b.input("x", f32[B, S, 16]), b.constant("w", weights(24, 16)), b.constant("bias", weights(24))
    rows: dict[str, Any] = {"starts": (start, 0), "limits": (start + 12, 16), "strides": (1, 1)}
    if kind == "linear":
        part = b.op("slice", bias, starts=(start,), limits=(start + 12,), strides=(1,))
        y = b.op("linear", x, b.op("slice", w, **rows), part)
    else:
        y = b.op("matmul", x, b.op("slice", w, **rows), transpose_b=True)
    graph = b.finish([b.op("gelu", y, name="y")])
    call, given = build(graph, Options(check="none")), weights(2, 5, 16)
    assert call.plan.flow.call_outs == 0
    assert relative_error(call(given), interpret(graph, x=given)["y"]) < 1e-5


def test_an_index_outside_its_table_is_an_error_and_the_next_call_is_right() -> None:
    b = Builder("lookup")
    table, ids = b.constant("table", weights(5, 8)), b.input("ids", i64["N"])
    call = build(b.finish([b.op("embedding", table, ids)]))
    assert "an index is outside its table, at N=3" in refused(call, np.array([0, 5, 1]))
    assert call(np.array([4, -0, 2])).shape == (3, 8)


def test_faults_of_a_call_that_failed_are_not_those_of_the_next() -> None:
    b = Builder("lookups")
    rows = [b.op("embedding", b.constant(f"t{i}", weights(5 + i, 8)), b.input(f"ids{i}", i64[f"N{i}"])) for i in (0, 1)]
    call = build(b.finish([b.op("softmax", one, axis=1) for one in rows]))
    wrong, right = np.array([0, 9]), np.array([1, 2, 3])
    refused(call, wrong, wrong)
    assert [one.shape for one in call(right, right)] == [(3, 8), (3, 8)]


# element types


@pytest.mark.parametrize("element", [f64, bf16, i64, boolean], ids=str)
def test_other_element_types_go_through(element: Any) -> None:
    b = Builder("types")
    x = b.input("x", element["N"])
    y = b.op("not", x) if element is boolean else b.op("add", x, x)
    call = build(b.finish([y]))
    given = np.array([0, 1, 1]).astype(element.numpy())
    wanted = ~given if element is boolean else given + given
    np.testing.assert_array_equal(call(given), wanted)
    if element is bf16:
        assert call(torch.tensor([0, 1, 1], dtype=torch.bfloat16)).tolist() == [0, 2, 2]


@pytest.mark.parametrize(("element", "length"), [(f16, 70_000), (f16, 2049), (bf16, 257)], ids=str)
def test_a_mean_counts_further_than_its_element_type(element: Any, length: int) -> None:
    b = Builder("mean")
    call = build(b.finish([b.op("mean", b.input("x", element["N"]), axes=(0,))]))
    assert float(call(np.ones(length, element.numpy()))) == 1


@pytest.mark.parametrize("value", [2**63 - 1, 2**53 + 1, -(2**63)])
def test_integers_are_padded_with_every_bit(value: int) -> None:
    b = Builder("pad")
    call = build(b.finish([b.op("pad", b.input("x", i64["N"]), padding=((1, 1),), value=value)]))
    assert call(np.arange(3)).tolist() == [value, 0, 1, 2, value]


# state


def test_it_never_compiles_again_and_arenas_are_what_the_formula_says() -> None:
    call = build(mlp(), Options(check="none"))
    rng = np.random.default_rng(1)
    for _ in range(100):
        batch, length = int(rng.integers(1, 5)), int(rng.integers(1, 40))
        call(np.zeros((batch, length, 32), np.float32))
        bound = call.memory_bound(B=batch, S=length)
        assert call.stats.arena_bytes == bound.arena.at(bound.sizes)
    assert (call.stats.calls, call.stats.recompiles, call.stats.call_outs) == (100, 0, 0)
    largest = call.memory_bound(B=64, S=512)
    assert call.stats.peak_bytes <= call.stats.held_bytes <= largest.bytes
    assert len(call._known) <= 64


def test_the_memory_bound_is_a_formula_and_a_number(made: Executable) -> None:
    bound = made.memory_bound(B=2, S=3)
    assert bound.outputs.at(B=2, S=3) == 2 * 3 * 10 * 4
    assert bound.bytes == bound.formula.at(B=2, S=3)
    assert f"= {bound.bytes} B at B=2, S=3" in str(bound)
    assert "at" not in str(made.memory_bound()).split("(")[0]


def test_threads_that_call_at_once_get_exact_serial_results() -> None:
    call = build(norm(), Options(check="none"))
    rng = np.random.default_rng(2)
    inputs = [
        rng.standard_normal((int(rng.integers(1, 4)), int(rng.integers(1, 30)), 40)).astype(np.float32)
        for _ in range(50)
    ]
    serial = [call(x) for x in inputs]
    barrier, wrong = Barrier(4), list[int]()

    def work(seed: int) -> None:
        order = np.random.default_rng(seed).integers(0, len(inputs), 200)
        barrier.wait()
        wrong.extend(int(i) for i in order if not np.array_equal(call(inputs[i]), serial[i]))

    threads = [Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert call.stats.calls == 850


def test_a_weight_that_was_changed_is_noticed_and_refreshed() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    graph = from_torch(model, {"input": f32[B, 8]})
    call = build(graph)
    x = torch.randn(3, 8)
    before = call(x)
    with torch.no_grad():
        model[2].weight.mul_(2.0)
    with pytest.raises(StaleWeights, match=r"2\.weight was changed after it had been compiled: call refresh\(\)"):
        call(x)
    call.refresh()
    with torch.no_grad():
        torch.testing.assert_close(call(x), model(x))
        assert not torch.equal(call(x), before)


def test_weights_that_were_equal_and_are_no_longer_are_told_apart_by_a_refresh() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)).eval()
    with torch.no_grad():
        model[0].bias.zero_()
        model[2].bias.zero_()
    call = build(from_torch(model, {"input": f32[B, 8]}))
    assert len(call.graph.constants) == 3
    with torch.no_grad():
        model[2].bias.fill_(3.0)
    call.refresh()
    x = torch.randn(5, 8)
    with torch.no_grad():
        torch.testing.assert_close(call(x), model(x))


def test_two_threads_inside_a_call_change_nothing() -> None:
    graph = mlp()
    x = weights(4, 100, 32)
    one, two = build(graph), build(graph, Options(threads=2))
    np.testing.assert_array_equal(one(x), two(x))
