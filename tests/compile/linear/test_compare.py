"""An adapted model against its plain self."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from mlsysopt.compile.linear import adapt, compare
from mlsysopt.compile.linear.swap import plain_twin
from mlsysopt.core.errors import UsageError


@pytest.mark.parametrize("memory", ["0x", "1x"])
def test_both_sides_run_and_the_difference_is_told(panels: Any, memory: str) -> None:
    model = nn.Sequential(nn.Linear(384, 384), nn.GELU(), nn.Linear(384, 384)).eval()
    adapt(model, prices=panels, max_extra_memory=memory)
    found = compare(model, torch.randn(8, 384), max_seconds=5)
    assert found.ratio.rounds >= 6 and found.ratio.clock == "cpu"
    assert (found.ratio.baseline, found.ratio.candidate) == ("plain", "adapted")
    assert 0 < found.difference < 1e-4 and found.gain == 1 / found.ratio.value
    assert str(found).endswith(f"largest difference {found.difference:.2g}")


def test_the_plain_side_shares_the_parameters(panels: Any) -> None:
    model = adapt(nn.Sequential(nn.Linear(384, 384)).eval(), prices=panels)
    twin = plain_twin(model)
    assert type(twin[0]) is nn.Linear and twin[0].weight is model[0].weight  # type: ignore[index]
    assert type(model[0]) is not nn.Linear


def test_a_planted_difference_shows(panels: Any) -> None:
    model = adapt(nn.Sequential(nn.Linear(384, 384)).eval(), prices=panels)
    x = torch.randn(4, 384)
    before = copy.deepcopy(model[0].weight.detach())
    model[0].weight.data.add_(1.0)
    assert compare(model, x, max_seconds=1).difference > 1
    model[0].weight.data.copy_(before)


def test_it_is_the_adapted_form_that_is_compared_whatever_the_state_of_the_caller(panels: Any) -> None:
    model = adapt(nn.Sequential(nn.Linear(384, 384), nn.Dropout()).train(), prices=panels, threads=2)
    found = compare(model, torch.randn(8, 384), max_seconds=1)
    assert 0 < found.difference < 1e-4, "neither the plain form nor dropout"
    assert torch.get_num_threads() == 1 and all(one.training for one in model.modules())


def test_what_is_not_finite_on_both_sides_is_no_difference(panels: Any) -> None:
    model = adapt(nn.Sequential(nn.Linear(384, 384)).eval(), prices=panels)
    x = torch.randn(4, 384)
    x[0, 0], x[1, 0] = float("nan"), float("inf")
    assert 0 < compare(model, x, max_seconds=1).difference < 1e-4


def test_a_plain_model_cannot_be_compared() -> None:
    with pytest.raises(UsageError, match="Linear was not adapted"):
        compare(nn.Linear(384, 384), torch.randn(2, 384))
