"""Programs as modules: the same meaning, parameters that train, errors about sizes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mlsysopt.core.errors import UsageError
from mlsysopt.graph.builder import Builder
from mlsysopt.graph.errors import GraphError
from mlsysopt.graph.exporters import to_torch
from mlsysopt.graph.importers import from_torch
from mlsysopt.graph.interpreter import interpret, random_inputs, relative_error
from mlsysopt.graph.ir import Graph, Op, Value
from mlsysopt.graph.symbolic import Dim, dims
from mlsysopt.graph.types import bf16, f32, i8, i64
from mlsysopt.testing.graphs import random_program
from tests.graph.importers.models import MODELS, graph_of, truth

B, S = dims("B", "S", max=(16, 64))


@pytest.mark.parametrize("name", ["bert", "resnet18", "inception", "squeezenet", "decoder", "training_step"])
def test_an_imported_model_comes_back_as_a_module(name: str) -> None:
    model = MODELS[name]
    module = to_torch(graph_of(name)).double()
    for sizes in (model.at[0], model.at[-1]):
        tensors = model.tensors(sizes, seed=3)
        with torch.no_grad():
            made = module(**tensors)
            by_position = module(*tensors.values())
        expected = truth(name, tensors)
        found = made if isinstance(made, dict) else {next(iter(expected)): made}
        assert found.keys() == expected.keys()
        for label, array in expected.items():
            assert relative_error(found[label].numpy(), array) < 1e-9
        if isinstance(made, torch.Tensor):
            assert torch.equal(made, by_position)


def test_in_declared_precision_it_is_close_to_the_model() -> None:
    model = MODELS["decoder"]
    module, graph = model.make(), graph_of("decoder")
    tensors = model.tensors(model.at[2], floats=torch.float32)
    with torch.no_grad():
        assert torch.allclose(to_torch(graph)(**tensors), module(**tensors), rtol=1e-4, atol=1e-5)


def test_the_module_can_be_imported_again() -> None:
    graph = graph_of("decoder")
    again = from_torch(to_torch(graph).eval(), MODELS["decoder"].inputs())
    assert str(again.outputs[0].type) == str(graph.outputs[0].type)
    tensors = MODELS["decoder"].tensors({"B": 2, "S": 6})
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    assert relative_error(interpret(again, **arrays)["out"], interpret(graph, **arrays)["out"]) < 1e-9


def test_constants_become_parameters_and_buffers() -> None:
    b = Builder("affine")
    x = b.input("x", f32[B, 3])
    w = b.constant("w", np.arange(6, dtype=np.float32).reshape(2, 3), label="layer.weight")
    shift = b.constant("shift", np.array([1, -1], np.int64))
    graph = b.finish([b.op("add", b.op("linear", x, w), b.op("cast", shift, to=f32))])
    frozen, free = to_torch(graph), to_torch(graph, trainable=True)
    assert [(name, part.requires_grad) for name, part in frozen.named_parameters()] == [("w", False)]
    assert [(name, part.requires_grad) for name, part in free.named_parameters()] == [("w", True)]
    assert list(frozen.state_dict()) == ["w", "shift"]
    free(torch.ones(4, 3)).sum().backward()
    assert torch.equal(free.w.grad, torch.full((2, 3), 4.0))


def test_training_the_module_leaves_the_model_alone() -> None:
    model = torch.nn.Linear(3, 2).eval()
    graph = from_torch(model, {"input": f32[B, 3]})
    before = model.weight.detach().clone()
    module = to_torch(graph, trainable=True)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
    module(torch.ones(2, 3)).square().sum().backward()
    optimiser.step()
    assert torch.equal(model.weight, before)
    assert not torch.equal(module.weight, before)
    assert to_torch(graph).weight.data_ptr() == model.weight.data_ptr()


def test_sizes_are_checked_with_both_origins() -> None:
    b = Builder("sum")
    x, y = b.input("x", f32[B, S]), b.input("y", f32[B, S * 2])
    graph = b.finish([b.op("concat", x, y, axis=1)])
    module = to_torch(graph)
    assert module(torch.zeros(2, 3), torch.zeros(2, 6)).shape == (2, 9)
    with pytest.raises(UsageError, match=r"B = 2 \(x\) but B = 4 \(y\)"):
        module(torch.zeros(2, 3), torch.zeros(4, 6))
    with pytest.raises(UsageError, match=r"S = 3 \(x\) but 2\*S = 7 \(y\)"):
        module(torch.zeros(2, 3), torch.zeros(2, 7))
    with pytest.raises(UsageError, match=r"input 'x': expected f32\[B, S\], got \[2\]"):
        module(torch.zeros(2), torch.zeros(2, 6))
    with pytest.raises(UsageError, match="no value given for y"):
        module(torch.zeros(2, 3))
    with pytest.raises(UsageError, match="has no input 'z'; "):
        module(torch.zeros(2, 3), z=torch.zeros(2, 6))


def test_an_op_without_a_form_in_torch_is_named() -> None:
    x = Value("x", f32[4])
    made = Value("y", f32[4])
    graph = Graph("talks", (x,), (), (Op("dist.all_reduce", (x,), (made,)),), (made,))
    with pytest.raises(GraphError, match=r"talks: no form in torch for dist.all_reduce"):
        to_torch(graph)


def _image_program(kind: str, **attrs: object) -> Graph:
    b = Builder(kind)
    operands = [b.input("x", f32[2, 4, Dim.of("H"), 9])]
    if kind.startswith("conv"):
        shape = (6, 2, 3, 2) if kind == "conv" else (4, 3, 3, 2)
        rng = np.random.default_rng(0)
        operands.append(b.constant("w", rng.normal(size=shape).astype(np.float32)))
        operands.append(b.constant("b", rng.normal(size=6).astype(np.float32)))
    return b.finish([b.op(kind, *operands, name="y", **attrs)])


WINDOWS = {
    "strides": [(1, 1), (2, 3)],
    "padding": [((0, 0), (0, 0)), ((1, 0), (0, 1)), ((1, 1), (1, 1))],
}


@pytest.mark.parametrize("strides", WINDOWS["strides"])
@pytest.mark.parametrize("padding", WINDOWS["padding"])
@pytest.mark.parametrize(
    ("kind", "attrs"),
    [
        ("conv", {"dilation": (1, 2), "groups": 2}),
        ("conv_transpose", {"dilation": (2, 1), "groups": 2, "output_padding": (0, 1)}),
        ("conv_transpose", {"dilation": (1, 1), "groups": 2, "output_padding": ()}),
        ("max_pool", {"kernel": (3, 2), "dilation": (1, 2), "ceil_mode": False}),
        ("max_pool", {"kernel": (3, 2), "dilation": (), "ceil_mode": True}),
        ("avg_pool", {"kernel": (3, 2), "ceil_mode": False, "count_include_pad": False}),
        ("avg_pool", {"kernel": (3, 2), "ceil_mode": True, "count_include_pad": True}),
        ("avg_pool", {"kernel": (3, 2), "ceil_mode": True, "count_include_pad": False}),
    ],
)
def test_windows_with_uneven_padding(
    kind: str, attrs: dict[str, object], strides: tuple[int, int], padding: object
) -> None:
    if attrs.get("output_padding"):
        strides = (strides[0], 3)  # output padding is smaller than the stride
    graph = _image_program(kind, **attrs, strides=strides, padding=padding)
    module = to_torch(graph).double()
    for height in (5, 8):
        x = np.random.default_rng(height).normal(size=(2, 4, height, 9))
        expected = interpret(graph, x=x)["y"]
        found = module(torch.from_numpy(x)).numpy()
        assert found.shape == expected.shape
        assert relative_error(found, expected) < 1e-9


def test_ops_that_no_importer_makes() -> None:
    b = Builder("rest")
    x = b.input("x", f32[B, 5])
    ids = b.input("ids", i64[B, 5])
    q = b.op("quantize", x, scale=(0.25, 0.5, 0.5, 1.0, 2.0), zero_point=(0, 1, 2, 3, -4), axis=1, dtype=i8)
    outputs = [
        b.op("dequantize", q, scale=(0.5,), zero_point=(3,), axis=None, dtype=f32),
        b.op("gather", x, b.op("sub", ids, b.scalar(3, ids)), axis=1),
        b.op("gather_elements", x, b.op("sub", ids, b.scalar(2, ids)), axis=1),
        b.op("pad", x, padding=((0, 0), (2, 1)), mode="edge", value=0),
        b.op("pad", b.op("gt", x, b.scalar(0.0, x)), padding=((1, 0), (0, 0)), mode="constant", value=True),
        b.op("cross_entropy", x, b.op("argmax", ids, axis=1, keepdims=False), reduction="none"),
        b.op("attention", x, x, x, b.full(0.5, f32[1]), causal=True, scale=0.3),
        b.op("attention", x, x, x, b.full(-math.inf, f32[1]), causal=True),
        b.op("sum", x, axes=(), keepdims=False),
        b.op("var", x, axes=(1,), keepdims=True, correction=1),
        b.op("size", dim=Dim.of("B") * 3),
    ]
    graph = b.finish(outputs)
    module = to_torch(graph).double()
    rng = np.random.default_rng(0)
    arrays = {"x": rng.normal(size=(4, 5)), "ids": rng.integers(0, 3, (4, 5))}
    expected = interpret(graph, **arrays)
    found = module(**{name: torch.from_numpy(array) for name, array in arrays.items()})
    for name, array in expected.items():
        got = found[name].numpy()
        assert got.shape == array.shape and got.dtype.kind == array.dtype.kind, name
        assert relative_error(got.astype(np.float64), array.astype(np.float64)) < 1e-9, name


def test_bf16_constants_keep_their_bits() -> None:
    import ml_dtypes

    b = Builder("half")
    w = b.constant("w", np.array([1.5, -2.25], ml_dtypes.bfloat16), bf16[2])
    graph = b.finish([b.op("cast", w, to=f32, name="y")])
    module = to_torch(graph)
    assert module.w.dtype is torch.bfloat16
    assert module().tolist() == [1.5, -2.25]


@pytest.mark.parametrize("first", range(0, 120, 30))
def test_random_programs_mean_the_same(first: int) -> None:
    for seed in range(first, first + 30):
        graph = random_program(seed, ops=10)
        arrays = random_inputs(graph, seed=seed)
        expected = interpret(graph, inputs=arrays)
        tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
        wide = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
        made = to_torch(graph).double()(**wide)
        found = made if isinstance(made, dict) else {graph.outputs[0].name: made}
        for name, array in expected.items():
            assert relative_error(found[name].numpy().astype(np.float64), array.astype(np.float64)) < 1e-7, (seed, name)
