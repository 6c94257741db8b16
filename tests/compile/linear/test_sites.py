"""Which products a model has, and how much of its work each does."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from mlsysopt.compile.linear.sites import call, products, trace


class Written(nn.Module):
    """Products by function calls, beside a table that is only looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 256)
        self.w = nn.Parameter(torch.randn(256, 300))
        self.v = nn.Parameter(torch.randn(128, 300))
        self.first = nn.Linear(256, 256)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(self.first(self.table(ids)) @ self.w, self.v)


def test_modules_are_found_without_running_anything() -> None:
    model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 4, bias=False))
    first, last = products(model)
    assert (first.path, first.n, first.k, first.bias, first.adaptable) == ("0", 512, 256, True, True)
    assert (last.n, last.k, last.bias) == (4, 512, False)
    assert last.reason == "smaller than 128x128"
    assert math.isnan(first.share)


def test_a_model_that_is_one_layer_has_its_own_name() -> None:
    assert [one.path for one in products(nn.Linear(256, 256))] == ["Linear"]


def test_tied_weights_are_one_product_with_two_users() -> None:
    model = nn.ModuleDict({"a": nn.Linear(256, 256, bias=False), "b": nn.Linear(256, 256, bias=False)})
    model["b"].weight = model["a"].weight
    (one,) = products(model)
    assert one.users == ("a", "b")


def test_a_traced_call_finds_functional_products_with_their_share() -> None:
    model = Written().eval()
    seen = trace(model, torch.randint(0, 50, (2, 5)))
    found = {one.path: one for one in products(model, seen)}
    assert set(found) == {"first", "w", "v"}
    assert found["first"].adaptable and not found["w"].adaptable
    assert found["w"].reason == "reached by a function call"
    sizes = {"first": 256 * 256, "w": 256 * 300, "v": 128 * 300}
    for name, size in sizes.items():
        assert found[name].share == pytest.approx(size / sum(sizes.values()))
        assert found[name].rows == 10
    assert seen.flops == pytest.approx(2 * 10 * sum(sizes.values()))


def test_without_a_call_tables_and_norms_are_no_products() -> None:
    model = nn.Sequential(Written(), nn.LayerNorm((128, 128)))
    assert {one.path for one in products(model)} == {"0.first", "0.w", "0.v"}


def test_the_fused_paths_of_torch_are_seen() -> None:
    layer = nn.TransformerEncoderLayer(256, 4, 512, batch_first=True).eval()
    seen = trace(layer, torch.randn(2, 5, 256))
    found = {one.path: one for one in products(layer, seen)}
    assert found["self_attn"].kind == "attention" and found["self_attn"].n == 768
    assert sum(one.share for one in found.values()) == pytest.approx(1.0)
    assert found["linear1"].share == pytest.approx(2 * found["self_attn.out_proj"].share)


@pytest.mark.parametrize("proj", [0, 128])
def test_gates_of_recurrent_layers_are_listed(proj: int) -> None:
    model = nn.LSTM(256, 256, proj_size=proj).eval()
    found = products(model)
    assert {one.reason for one in found} == {"inside nn.LSTM"}
    assert len(found) == (3 if proj else 2)


def test_transformers_conv1d_is_a_linear_layer_the_other_way_round() -> None:
    from transformers.pytorch_utils import Conv1D

    (one,) = products(nn.Sequential(Conv1D(512, 256)))
    assert (one.kind, one.n, one.k, one.adaptable) == ("conv1d", 512, 256, True)


class Own(nn.Linear):
    """A layer of somebody's own."""


def refused() -> dict[str, nn.Module]:
    parametrized = nn.Linear(256, 256)
    nn.utils.parametrizations.weight_norm(parametrized)
    pruned = nn.Linear(256, 256)
    prune.l1_unstructured(pruned, "weight", amount=0.5)
    replaced = nn.Linear(256, 256)
    replaced.forward = lambda x: x  # type: ignore[method-assign]
    with torch.inference_mode():
        inferred = nn.Linear(256, 256)
    sparse = nn.Linear(256, 256)
    sparse.weight = nn.Parameter(sparse.weight.detach().to_sparse(), requires_grad=False)
    return {
        "parametrized": parametrized,
        "its weight is computed": pruned,
        "its forward was replaced": replaced,
        "its weight was made in inference mode, where changes cannot be seen": inferred,
        "sparse_coo weight": sparse,
        "on the meta device": nn.Linear(256, 256, device="meta"),
        "float64 weight": nn.Linear(256, 256, dtype=torch.float64),
        "Own is a class of its own": Own(256, 256),
    }


@pytest.mark.parametrize("reason", list(refused()))
def test_what_stays_as_it_is_says_why(reason: str) -> None:
    model = nn.Sequential(refused()[reason])
    assert reason in {one.reason for one in products(model)}
    assert not any(one.adaptable for one in products(model))


@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
def test_lazy_layers_are_listed() -> None:
    model = nn.Sequential(nn.LazyLinear(256), nn.LazyConv1d(8, 3))
    assert [(one.n, one.k, one.adaptable) for one in products(model)] == [(256, 0, False)]


@pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"kdim": 96}])
def test_the_output_of_an_attention_that_torch_runs_is_out_of_reach(options: dict[str, object]) -> None:
    found = products(nn.MultiheadAttention(256, 4, **options))  # type: ignore[arg-type]
    assert "out_proj" in {one.path for one in found} and not any(one.adaptable for one in found)


def test_work_on_a_shared_weight_is_counted_once() -> None:
    model = nn.Sequential(nn.Linear(256, 256), nn.Linear(256, 256), nn.Linear(256, 512)).eval()
    model[1].weight = model[0].weight
    assert [one.share for one in products(model, trace(model, torch.randn(4, 256)))] == [0.25, 0.25, 0.5]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # torch is about to drop them
def test_quantized_layers_are_listed() -> None:
    layer = torch.ao.nn.quantized.dynamic.Linear(256, 256)
    (one,) = products(nn.Sequential(layer))
    assert one.reason == "quantized" and (one.n, one.k) == (256, 256)


def test_tracing_leaves_the_modes_of_modules_as_they_were() -> None:
    model = nn.Sequential(nn.Linear(256, 256), nn.Dropout())
    model.train()
    model[1].eval()
    trace(model, torch.randn(2, 256))
    assert [model.training, model[0].training, model[1].training] == [True, True, False]


def test_inputs_may_be_a_tensor_a_tuple_or_a_mapping() -> None:
    def model(x: int, y: int = 1) -> int:
        return x + y

    assert [call(model, given) for given in (2, (2, 3), {"x": 2, "y": 4})] == [3, 5, 6]  # type: ignore[arg-type]
