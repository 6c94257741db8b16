"""Parts that seem to be out and still act, and stand-ins that must not touch what they were given."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from mlsysopt.core.errors import UsageError
from mlsysopt.design.ablate import features, surgery
from mlsysopt.design.ablate.probe import probe, slow_paths
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


class TwoFaced(nn.Module):
    """Gives a tensor first, then a pair."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor, *, pair: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        y = self.inner(x)
        return (y, 2 * y) if pair else y


class AsksTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.f, self.head = TwoFaced(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.f(x)
        z, more = self.f(y, pair=True)
        return self.head(x + z + more)


def test_a_part_that_gives_another_structure_later_is_refused() -> None:
    proof = surgery.prove(AsksTwice, Part("f", ("f",)), batch=ROWS, second_batch=ROWS[:3])
    assert proof.refusal is not None
    assert "another structure in a later call" in str(proof.refusal) and "test_hidden_use.py:" in str(proof.refusal)
    # What is inside gives the same at each call and can be taken out.
    assert surgery.prove(AsksTwice, Part("f.inner", ("f.inner",)), batch=ROWS, second_batch=ROWS[:3]).ok


class SwitchesItselfOn(nn.Module):
    """Turns torch's fused layers on before it uses them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(self.layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        torch.backends.mha.set_fastpath_enabled(True)
        return self.head(self.encoder(x)[:, 0])


def test_fused_layers_that_the_model_switches_on_stay_off() -> None:
    model = SwitchesItselfOn().eval()
    called: list[str] = []
    model.encoder.layers[0].linear1.register_forward_hook(lambda *_: called.append("linear1"))
    rows = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    before = torch.backends.mha.get_fastpath_enabled()
    with torch.no_grad(), slow_paths():
        model(rows)
    assert called == ["linear1"]
    assert torch.backends.mha.get_fastpath_enabled() == before
