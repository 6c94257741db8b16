"""Parts that seem to be out and still act, and stand-ins that must not touch what they were given."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from mlsysopt.core.errors import UsageError
from mlsysopt.design.ablate import features, surgery
from mlsysopt.design.ablate.probe import probe
from mlsysopt.design.ablate.select import Part

ROWS = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


class Listed(nn.Module):
    """Keeps a weight of a part where no module knows of it."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.head = nn.Linear(4, 4), nn.Linear(4, 2)
        self.kept = [self.f.weight]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.f(x) + functional.linear(x, self.kept[0]))


def test_a_weight_that_acts_from_a_list_is_told() -> None:
    proof = surgery.prove(Listed, Part("f", ("f",)), batch=ROWS, second_batch=ROWS[:3])
    assert not proof.ok
    assert any("still acts on the output" in str(finding) for finding in proof.findings)


class ChangedInPlace(nn.Module):
    """Changes what a part gave, and reads what it was given afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.head = nn.Linear(4, 4), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.f(x)
        y += 1
        return self.head(torch.cat([x, torch.tanh(y)], dim=1))


def test_a_stand_in_gives_a_tensor_of_its_own() -> None:
    torch.manual_seed(0)
    model = ChangedInPlace()
    surgery.remove(model, Part("f", ("f",)), how="identity", probe=probe(model, ROWS, second_batch=ROWS[:3]))
    given = ROWS.clone()
    found = model(given)
    assert torch.equal(given, ROWS), "the input is as it was"
    assert torch.allclose(found, model.head(torch.cat([ROWS, torch.tanh(ROWS + 1)], dim=1)))


def test_modules_that_are_built_at_the_first_call_are_refused_in_words() -> None:
    class Open(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f, self.head = nn.LazyLinear(4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.f(x))

    with pytest.raises(UsageError, match="f: sizes are open"):
        surgery.prove(Open, Part("f", ("f",)), batch=ROWS)


def test_what_lies_beside_the_examples_lacks_the_features_as_well() -> None:
    data = TensorDataset(ROWS, torch.zeros(5))
    edited = features.remove_feature(data, [1], how="mean", seed=0)
    whole = edited.tensors[0]
    assert torch.allclose(whole[:, 1], ROWS[:, 1].mean().expand(5))
    assert torch.equal(whole[:, 0], ROWS[:, 0])
    assert torch.equal(whole[2], edited[2][0])


def test_torchscript_is_refused() -> None:
    class Scripted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f, self.head = torch.jit.trace(nn.Linear(4, 4), ROWS), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.f(x))

    with pytest.warns(DeprecationWarning):
        proof = surgery.prove(Scripted, Part("f", ("f",)), batch=ROWS, second_batch=ROWS[:3])
    assert proof.refusal is not None
    assert "TorchScript" in proof.refusal.reason
