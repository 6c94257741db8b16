"""Weights that live in panels alone: who reads them gets them bit for bit, who writes them is heard."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from torch import nn

from mlsysopt.compile.linear import adapt, plan_of, restore
from mlsysopt.compile.linear.folded import FoldedLinear, FoldedParameters


@pytest.fixture
def pair(panels: Any) -> tuple[nn.Sequential, nn.Sequential]:
    """A folded model and its plain twin."""
    twin = nn.Sequential(nn.Linear(288, 144), nn.ReLU(), nn.Linear(144, 192, bias=False)).eval()
    model = adapt(copy.deepcopy(twin), prices=panels, max_extra_memory="0x")
    assert [one.forms for one in plan_of(model).products] == [("panel.f32",)] * 2
    assert type(model[0]) is FoldedLinear
    return model, twin


def kept(model: nn.Sequential) -> list[bool]:
    """Return for each layer whether the original form exists."""
    return [one._parameters.folded.parameter is not None for one in (model[0], model[2])]  # type: ignore[union-attr]


def check(model: nn.Module, twin: nn.Module) -> None:
    x = torch.randn(5, 288)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), twin(x), rtol=1e-5, atol=1e-5)


def test_nothing_but_panels_is_left(pair: Any) -> None:
    model, twin = pair
    check(model, twin)
    assert kept(model) == [False, False]
    assert plan_of(model).extra_bytes == 0


def test_a_weight_is_made_again_for_who_reads_it(pair: Any) -> None:
    model, twin = pair
    with torch.inference_mode():
        weight = model[0].weight
    assert torch.equal(weight, twin[0].weight) and weight.requires_grad and not weight.is_inference()
    assert model[0].weight is weight and kept(model) == [True, False]
    check(model, twin)
    assert kept(model) == [True, False], "somebody holds it"
    gone = weakref.ref(weight)
    del weight
    check(model, twin)
    gc.collect()
    assert kept(model) == [False, False] and gone() is None


def test_state_dict_parameters_and_gradients_see_ordinary_weights(pair: Any) -> None:
    model, twin = pair
    for (name, one), (other, two) in zip(model.named_parameters(), twin.named_parameters(), strict=True):
        assert name == other and torch.equal(one, two)
    assert sum(one.numel() for one in model.parameters()) == sum(one.numel() for one in twin.parameters())
    state = model.state_dict()
    assert all(torch.equal(state[name], one) for name, one in twin.state_dict().items())
    del state, one
    check(model, twin)
    assert kept(model) == [False, False]
    model(torch.ones(1, 288)).sum().backward()
    twin(torch.ones(1, 288)).sum().backward()
    assert torch.equal(model[0].weight.grad, twin[0].weight.grad)
    check(model, twin)
    assert kept(model)[0], "a gradient belongs to it"


def test_what_is_written_is_packed(pair: Any) -> None:
    model, twin = pair
    with torch.no_grad():
        model[0].weight.mul_(-2)
        twin[0].weight.mul_(-2)
    check(model, twin)
    assert kept(model) == [False, False]
    assert torch.equal(model[0].weight, twin[0].weight)


def test_what_is_packed_again_runs_in_panels(pair: Any) -> None:
    model, _ = pair
    with torch.no_grad():
        model[0].weight.mul_(-2)
    x = torch.randn(5, 288)
    with torch.inference_mode():
        model(x)
        assert model[0]._adaptive.packs.nbytes > 0
        assert not torch.equal(model[0](x), nn.functional.linear(x, model[0].weight, model[0].bias))


def test_what_is_written_without_a_trace_is_not_lost(pair: Any) -> None:
    model, twin = pair
    for one in (model, twin):
        one[0].weight.data.mul_(-2)
    check(model, twin)
    assert kept(model) == [False, False] and torch.equal(model[0].weight, twin[0].weight)


@pytest.mark.parametrize("view", [lambda one: one.detach(), lambda one: one.detach().numpy()], ids=["tensor", "numpy"])
def test_a_view_of_a_weight_is_a_view_for_as_long_as_it_lives(pair: Any, view: Any) -> None:
    model, twin = pair
    views = [view(one[0].weight) for one in (model, twin)]
    check(model, twin)
    for one in views:
        one[...] = 1.0
    assert torch.equal(model[0].weight, twin[0].weight)
    del views, one
    check(model, twin)
    check(model, twin)
    assert kept(model) == [False, False] and torch.equal(model[0].weight, twin[0].weight)


def test_a_hook_on_a_weight_stays(pair: Any) -> None:
    model, twin = pair
    seen: list[int] = []
    model[0].weight.register_hook(lambda gradient: seen.append(gradient.numel()))
    check(model, twin)
    model(torch.ones(1, 288)).sum().backward()
    assert seen == [144 * 288]


def test_gradients_reach_a_weight_that_was_let_go_of_meanwhile(pair: Any) -> None:
    model, twin = pair
    losses = [one(torch.ones(1, 288)).sum() for one in (model, twin)]
    check(model, twin)
    for one in losses:
        one.backward()
    assert torch.equal(model[0].weight.grad, twin[0].weight.grad)


def test_functional_call_uses_what_it_is_given(pair: Any) -> None:
    model, twin = pair
    x = torch.randn(5, 288)
    for given in ({"0.weight": torch.zeros(144, 288)}, dict(twin.named_parameters())):
        with torch.inference_mode():
            found, wanted = (torch.func.functional_call(one, given, (x,)) for one in (model, twin))
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    check(model, twin)


def test_copies_of_the_dictionary_hold_the_weight(pair: Any) -> None:
    model, twin = pair
    held = model[0]._parameters
    assert torch.equal(dict(held)["weight"], twin[0].weight) and torch.equal({**held}["weight"], twin[0].weight)


@pytest.mark.parametrize("shape", [(96, 288), (144, 200)])
def test_a_weight_of_another_shape_runs_plain(pair: Any, shape: tuple[int, int]) -> None:
    model, _ = pair
    layer, x = model[0], torch.randn(5, shape[1])
    layer.weight, layer.bias = nn.Parameter(torch.randn(shape)), None
    with torch.inference_mode():
        for _ in range(3):
            assert torch.equal(layer(x), nn.functional.linear(x, layer.weight))


def test_a_bias_that_goes(pair: Any) -> None:
    model, twin = pair
    for one in (model, twin):
        one[0].bias = None
    for _ in range(3):
        check(model, twin)


def test_another_parameter_takes_its_place(pair: Any) -> None:
    model, twin = pair
    model[0].weight = nn.Parameter(torch.ones(144, 288))
    twin[0].weight = nn.Parameter(torch.ones(144, 288))
    check(model, twin)
    assert kept(model) == [False, False] and torch.equal(model[0].weight, twin[0].weight)


def test_a_weight_of_another_type_runs_plain(pair: Any) -> None:
    model, twin = pair
    model.double(), twin.double()
    x = torch.randn(3, 288, dtype=torch.float64)
    with torch.inference_mode():
        assert torch.equal(model(x), twin(x))
    model.float(), twin.float()
    check(model, twin)
    assert kept(model) == [False, False]


def test_freezing_a_parameter_lasts(pair: Any) -> None:
    model, twin = pair
    model.requires_grad_(False)
    check(model, twin)
    assert kept(model) == [False, False] and not model[0].weight.requires_grad


def test_marks_on_a_parameter_last(pair: Any) -> None:
    model, twin = pair
    model[0].weight.group = "slow"
    check(model, twin)
    assert kept(model) == [False, False] and model[0].weight.group == "slow"


def test_parametrizations_that_come_later(pair: Any) -> None:
    model, twin = pair
    nn.utils.parametrizations.weight_norm(model[0])
    check(model, twin)
    nn.utils.parametrize.remove_parametrizations(model[0], "weight")
    check(model, twin)
    restore(model)
    check(model, twin)


def test_what_somebody_holds_is_not_taken_away(panels: Any) -> None:
    held = nn.Linear(288, 144).eval()
    optimizer = torch.optim.SGD(held.parameters(), lr=0.1)
    tied = nn.Sequential(nn.Embedding(288, 144), nn.Linear(144, 288, bias=False)).eval()
    tied[1].weight = tied[0].weight
    for model in (held, tied):
        adapt(model, prices=panels, max_extra_memory="0x")
        assert not plan_of(model).changed
        assert not any(type(one._parameters) is FoldedParameters for one in model.modules())
    del optimizer


def test_copies_fold_again(pair: Any) -> None:
    model, twin = pair
    again = copy.deepcopy(model)
    assert type(again[0]._parameters) is dict
    check(again, twin)
    assert kept(again) == [False, False] and kept(model) == [True, True]
    check(model, twin)
    assert kept(model) == [False, False]


def test_a_copy_that_is_trained_gives_nothing_up(pair: Any) -> None:
    model, twin = copy.deepcopy(pair[0]), pair[1]
    optimizers = [torch.optim.SGD(one.parameters(), lr=0.5) for one in (model, twin)]
    check(model, twin)
    for one, optimizer in zip((model, twin), optimizers, strict=True):
        one.train()
        one(torch.ones(1, 288)).sum().backward()
        optimizer.step()
        one.eval()
    check(model, twin)
    assert torch.equal(model[0].weight, twin[0].weight)


def test_a_copy_of_another_type_is_not_rounded(pair: Any) -> None:
    model, twin = (copy.deepcopy(one).double() for one in pair)
    x = torch.randn(5, 288, dtype=torch.float64)
    with torch.inference_mode():
        assert torch.equal(model(x), twin(x))


def test_restored_it_is_an_ordinary_layer(pair: Any) -> None:
    model, twin = pair
    restore(model)
    for one, other in zip(model.modules(), twin.modules(), strict=True):
        assert type(one) is type(other) and one.__dict__.keys() == other.__dict__.keys()
        assert type(one._parameters) is dict
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_who_reads_a_weight_in_every_call_keeps_it(pair: Any) -> None:
    model, twin = pair
    for _ in range(20):
        assert torch.equal(model[0].weight, twin[0].weight)
        check(model, twin)
    assert kept(model) == [True, False]


def test_torch_s_fused_layer_does_not_read_folded_weights(panels: Any) -> None:
    twin = nn.TransformerEncoderLayer(144, 4, 288, batch_first=True).eval()
    model = adapt(copy.deepcopy(twin), prices=panels, max_extra_memory="0x")
    x = torch.randn(2, 5, 144)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), twin(x), rtol=1e-5, atol=1e-5)
    assert model.linear1._parameters.folded.parameter is None  # type: ignore[attr-defined]
