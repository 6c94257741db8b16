"""Patterns name parts in the order of the model; what matches nothing is an error with the nearest names."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from mlsysopt.core.errors import UsageError
from mlsysopt.design.ablate.select import Part, match, paths_of, unwrapped
from mlsysopt.testing.ablation_nets import InceptionNet, ResidualNet


class Shared(nn.Module):
    """One layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(3, 3)
        self.rest = nn.ModuleList([nn.Tanh(), self.one])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rest[1](self.rest[0](self.one(x)))


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return ResidualNet()


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("stem", ["stem"]),
        ("blocks.*", ["blocks.0", "blocks.1", "blocks.2"]),
        ("blocks.*.conv1", ["blocks.0.conv1", "blocks.1.conv1", "blocks.2.conv1"]),
        ("*.1.norm?", ["blocks.1.norm1", "blocks.1.norm2"]),
        ("**.shortcut.1", ["blocks.1.shortcut.1"]),
        ("type:Linear", ["head"]),
        ("type:Dropout", ["drop"]),
        ("prefix:blocks.1.shortcut", ["blocks.1.shortcut", "blocks.1.shortcut.0", "blocks.1.shortcut.1"]),
        (lambda path, module: isinstance(module, nn.Linear), ["head"]),
    ],
)
def test_selectors(net: nn.Module, selector: object, names: list[str]) -> None:
    assert [part.name for part in match(net, selector)] == names


def test_a_double_star_reaches_every_depth(net: nn.Module) -> None:
    names = [part.name for part in match(net, "**.conv1")]
    assert names == ["blocks.0.conv1", "blocks.1.conv1", "blocks.2.conv1"]
    assert len(match(net, "**")) == len(paths_of(net))


def test_a_base_class_names_its_heirs(net: nn.Module) -> None:
    assert len(match(net, "type:_BatchNorm")) == len(match(net, "type:BatchNorm2d")) == 8


def test_a_list_is_one_part_without_what_lies_inside(net: nn.Module) -> None:
    assert match(net, ["blocks.0", "blocks.0.conv1", "head"]) == [
        Part("blocks.0, blocks.0.conv1, head", ("blocks.0", "head"))
    ]
    grouped = match(net, "type:BatchNorm2d", group=True)
    assert len(grouped) == 1
    assert grouped[0].paths[0] == "norm"


def test_a_container_without_forward_is_the_group_of_what_it_holds() -> None:
    assert match(InceptionNet(), "mixed") == [Part("mixed", ("mixed.0", "mixed.1"))]


def test_an_instance_under_two_names_is_one_part_with_both() -> None:
    assert match(Shared(), "type:Linear") == [Part("one", ("one", "rest.1"))]
    assert match(Shared(), "rest.1")[0].paths == ("one", "rest.1")


@pytest.mark.parametrize(
    ("selector", "near"),
    [
        ("steem", "stem"),
        ("block.0", "blocks.0"),
        ("blocks.0.conv3", "blocks.0.conv"),
        ("b*.conv9", "blocks"),
        ("type:Conv1d", "Conv2d"),
        ("type:Banana", "classes in this model"),
        ("prefix:nothing", "nearest"),
        (["stem", "heads"], "head"),
    ],
)
def test_no_match_names_the_nearest(net: nn.Module, selector: object, near: str) -> None:
    with pytest.raises(UsageError, match="no module") as caught:
        match(net, selector)
    assert near in str(caught.value)
    assert caught.value.exit_code == 2
    assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize("selector", [3, [], None])
def test_what_is_no_selector_is_refused(net: nn.Module, selector: object) -> None:
    with pytest.raises(UsageError):
        match(net, selector)


@pytest.mark.slow
def test_compiled_wrappers_are_looked_through() -> None:
    inner = ResidualNet()
    with warnings.catch_warnings():
        # The compiler's own imports use what torch itself deprecates.
        warnings.simplefilter("ignore")
        whole, inner.blocks = torch.compile(inner), torch.compile(inner.blocks)
    assert [part.name for part in match(whole, "blocks.0")] == ["blocks.0"]
    assert "blocks.0.conv1" in paths_of(unwrapped(inner))
