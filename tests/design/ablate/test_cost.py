"""Parameters and multiply-adds are counted, not estimated."""

from __future__ import annotations

import torch
from torch import nn

from mlsysopt.design.ablate.cost import counting, static_cost


def test_a_convolution_and_a_map_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(48, 5))
    cost = static_cost(model, torch.zeros(7, 2, 4, 4))
    assert cost.parameters == 2 * 3 * 9 + 48 * 5 + 5
    assert cost.macs == 7 * (3 * 16 * 2 * 9 + 48 * 5)


def test_by_module_and_shared_parameters_once() -> None:
    layer = nn.Linear(4, 4, bias=False)
    model = nn.Sequential(layer, nn.Tanh(), layer)
    with counting(model) as counted, torch.no_grad():
        model(torch.zeros(3, 4))
    assert counted.macs == 2 * 3 * 16
    assert counted.inside["0"] == counted.macs
    assert counted.inside["1"] == 0
    assert static_cost(model, torch.zeros(3, 4)).parameters == 16


def test_the_model_is_left_as_it_is() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3)).train()
    before = model[0].running_mean.clone()
    static_cost(model, torch.ones(4, 3))
    assert model.training
    assert torch.equal(model[0].running_mean, before)
    assert not model[0]._forward_hooks
