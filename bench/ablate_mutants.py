"""Forty ways in which a removal can seem to work and not have, and twelve sound ones that must pass in silence."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlsysopt.core.errors import UsageError
from mlsysopt.design.ablate import features
from mlsysopt.design.ablate.proofs import Subject
from mlsysopt.design.ablate.select import match

__all__ = ["CONTROLS", "MUTANTS", "REASONS", "Case", "is_told", "outcome"]

WIDTH = 6


class Net(nn.Module):
    """A stem, what a case puts between, and a head."""

    def __init__(
        self, between: Callable[[Any, Tensor], Any], end: Callable[[Any, Any], Any], **parts: Callable[..., Any]
    ) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
        makers: dict[str, Callable[..., Any]] = {"mid": lambda: nn.Linear(WIDTH, WIDTH), **parts}
        for name, make in makers.items():
            # A maker that takes the model ties something to what is there already.
            made = make(self) if make in TIES else make()
            setattr(self, name, made)
        self.between, self.end = between, end

    def forward(self, x: Tensor) -> Any:
        return self.end(self, self.between(self, self.stem(x)))


@dataclass(frozen=True, slots=True)
class Case:
    """One model and what is asked of it.

    Attributes:
        between: What happens between stem and head.
        part: Selector.
        how: Way to replace it.
        end: What is made of the rest.
        parts: Name -> maker of further modules; it may take the model.
        feature: Asked for instead of a module.
        removal: Way to take the feature away.
    """

    between: Callable[[Any, Tensor], Any] = lambda m, x: m.mid(x)
    part: Any = "mid"
    how: str = "auto"
    end: Callable[[Any, Any], Any] = lambda m, x: m.head(x)
    parts: Mapping[str, Callable[..., Any]] | None = None
    feature: str = ""
    removal: str = "mean"

    def make(self) -> nn.Module:
        return Net(self.between, self.end, **(self.parts or {}))


class Method(nn.Linear):
    """A layer with a method beside `forward`."""

    def strength(self) -> Tensor:
        return self.weight.norm()


class Two(nn.Module):
    """Gives two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.map(x), x


class Counter(nn.Module):
    """Gives no tensor."""

    def forward(self, x: Tensor) -> int:
        return len(x)


def traced() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: Any = torch.jit.trace(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()), torch.ones(2, WIDTH))
    return made


def kept_in_a_list(model: Any) -> Any:
    model.__dict__["hidden"] = [model.mid]
    return nn.Identity()


def kept_forward(model: Any) -> Any:
    model.__dict__["run"] = model.mid.forward
    return nn.Identity()


def tied(model: Any) -> Any:
    other = nn.Linear(WIDTH, WIDTH)
    other.weight = model.mid.weight
    return other


def tied_parameter(model: Any) -> Any:
    return model.mid.weight


TIES: tuple[Callable[..., Any], ...] = (kept_in_a_list, kept_forward, tied, tied_parameter)


def attention(model: Any, x: Tensor) -> Tensor:
    return x + model.attn(x[None], x[None], x[None])[0][0]


def pair() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())


def raises(model: Any, x: Tensor) -> Tensor:
    y = model.mid(x)
    if not bool(y.any()):
        raise ValueError("nothing came")
    return y


def written(model: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        model.mid.bias.clamp_(-1, 1)
    return model.mid(x)


MUTANTS: dict[str, Case] = {
    # Names.
    "a name with a letter too many": Case(part="midd"),
    "a layer that is not there": Case(part="mid.0"),
    "a pattern without a match": Case(part="blocks.*"),
    "a class that is not there": Case(part="type:Conv2d"),
    "a prefix without a match": Case(part="prefix:encoder"),
    "one of a group that is not there": Case(part=["mid", "middle"]),
    "a function that accepts nothing": Case(part=lambda path, module: False),
    "an unknown way": Case(how="idenity"),
    # Modules that are not used as modules.
    "never called": Case(lambda m, x: x),
    "called in evaluation only": Case(lambda m, x: x if m.training else m.mid(x)),
    "an idle member of a list": Case(
        lambda m, x: m.all[0](x), "all.1", parts={"all": lambda: nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])}
    ),
    "its weight in a functional call": Case(lambda m, x: F.linear(x, m.mid.weight)),
    "called, and its weight read too": Case(lambda m, x: m.mid(x) + m.mid.weight.sum()),
    "its bias written in place": Case(written),
    "its weight in a penalty that the model gives": Case(end=lambda m, x: (m.head(x), m.mid.weight.square().sum())),
    "a fused path in evaluation": Case(lambda m, x: m.mid(x) if m.training else F.linear(x, m.mid.weight)),
    "a layer inside it called from outside": Case(lambda m, x: m.mid(x) + m.mid[0](x), parts={"mid": pair}),
    "a slice of it used": Case(lambda m, x: m.mid(x) + m.mid[:1](x), parts={"mid": pair}),
    "a method of its own": Case(lambda m, x: m.mid(x) * m.mid.strength(), parts={"mid": lambda: Method(WIDTH, WIDTH)}),
    "forward called by hand": Case(lambda m, x: m.mid.forward(x)),
    "its forward kept aside": Case(lambda m, x: m.run(x), parts={"kept": kept_forward}),
    "kept in a plain list": Case(lambda m, x: m.hidden[0](x), parts={"kept": kept_in_a_list}),
    "the projection inside attention": Case(
        attention, "attn.out_proj", parts={"attn": lambda: nn.MultiheadAttention(WIDTH, 2, batch_first=True)}
    ),
    "TorchScript": Case(parts={"mid": traced}),
    # Parameters that stay.
    "a weight tied to another layer": Case(lambda m, x: m.other(m.mid(x).tanh()), parts={"other": tied}),
    "a weight registered twice": Case(lambda m, x: m.mid(x) @ m.again, parts={"again": tied_parameter}),
    # Heads.
    "the head": Case(part="head"),
    "the head before a softmax": Case(part="head", end=lambda m, x: F.log_softmax(m.head(x), -1)),
    "one of two heads": Case(part="mid", end=lambda m, x: (m.head(x), x)),
    # What the model then does.
    "another number of calls": Case(lambda m, x: (lambda y: y if bool(y.any()) else m.mid(y))(m.mid(x)), how="neutral"),
    "another shape of the output": Case(
        lambda m, x: (lambda y: y if bool(y.any()) else y[:1])(m.mid(x)), how="neutral"
    ),
    "another structure of the output": Case(
        end=lambda m, x: m.head(x) if bool(x.any()) else [m.head(x)], how="neutral"
    ),
    "an error in the model": Case(raises, how="neutral"),
    "a division by zero": Case(lambda m, x: x / m.mid(x).abs().sum(), how="neutral"),
    "a gradient that is not finite": Case(lambda m, x: x + (m.mid(x) + 0 * x).square().sum().sqrt(), how="neutral"),
    # Nothing changes.
    "a branch that is multiplied by zero": Case(lambda m, x: x + 0 * m.mid(x)),
    "a result that nobody uses": Case(lambda m, x: (m.mid(x), x)[1]),
    "dropout that drops nothing": Case(lambda m, x: m.mid(m.drop(x)), "drop", parts={"drop": lambda: nn.Dropout(0.0)}),
    "a module that gives no tensor": Case(
        lambda m, x: m.mid(x) / m.count(x), "count", parts={"count": lambda: Counter()}
    ),
    # Features.
    "a feature that is not there": Case(feature="colums:1"),
}

# What the message must say: refused for another reason is not told.
REASONS = {
    "never called": ("never called", "called in evaluation only", "an idle member of a list", "its forward kept aside"),
    "no module": (
        "a name with a letter too many", "a layer that is not there", "a pattern without a match",
        "a class that is not there", "a prefix without a match", "one of a group that is not there",
        "a function that accepts nothing",
    ),
    "did you mean": ("an unknown way",),
    "is read without calling it": (
        "its weight in a functional call", "called, and its weight read too", "its bias written in place",
        "its weight in a penalty that the model gives", "a fused path in evaluation", "the projection inside attention",
    ),
    "called from outside": ("a layer inside it called from outside", "forward called by hand"),
    "a slice of the": ("a slice of it used",),
    "no attribute 'strength'": ("a method of its own",),
    "called 0 times": ("kept in a plain list",),
    "called 2 times": ("another number of calls",),
    "is TorchScript": ("TorchScript",),
    "still in the model as": ("a weight tied to another layer", "a weight registered twice"),
    "gives the model's output": ("the head", "the head before a softmax", "one of two heads"),
    "the model gives 1 x 3": ("another shape of the output",),
    "another structure": ("another structure of the output",),
    "nothing came": ("an error in the model",),
    "is not finite": ("a division by zero", "a gradient that is not finite"),
    "does not change": (
        "a branch that is multiplied by zero", "a result that nobody uses", "dropout that drops nothing",
    ),
    "gives no tensor": ("a module that gives no tensor",),
    "has no such": ("a feature that is not there",),
}  # fmt: skip


def is_told(name: str, word: str, why: str) -> bool:
    """Whether a sham removal was refused or warned of, and for the right reason."""
    return word != "accepted" and any(text in why for text, names in REASONS.items() if name in names)


CONTROLS: dict[str, Case] = {
    "a chain": Case(),
    "a branch": Case(lambda m, x: x + m.mid(x)),
    "a gate": Case(lambda m, x: x * m.mid(x)),
    "its flags read": Case(lambda m, x: m.mid(x) * m.mid.out_features),
    "called twice": Case(lambda m, x: m.mid(m.mid(x).tanh())),
    "two outputs": Case(lambda m, x: (lambda pair: pair[0] + pair[1])(m.mid(x)), parts={"mid": lambda: Two()}),
    "attention": Case(attention, "attn", parts={"attn": lambda: nn.MultiheadAttention(WIDTH, 2, batch_first=True)}),
    "dropout": Case(lambda m, x: m.mid(m.drop(x)), "drop", parts={"drop": lambda: nn.Dropout(0.5)}),
    "a sequence that is iterated": Case(
        lambda m, x: m.mid[1](m.mid[0](x)), parts={"mid": lambda: nn.Sequential(nn.Linear(6, 6), nn.Tanh())}
    ),
    "a learned map": Case(how="linear"),
    "a matched one": Case(how="matched"),
    "a feature": Case(feature="columns:1"),
}


def outcome(case: Case) -> tuple[str, str]:
    """Return refused, warned or accepted, and the first words of why."""
    x = torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(5))
    if case.feature:
        data = np.asarray(x)[:, None, None, :], np.arange(8)
        try:
            features.check(data, [case.feature])
            features.remove_feature(data, [case.feature], how=case.removal)
        except UsageError as error:
            return "refused", str(error)
        return "accepted", ""
    try:
        model = case.make()
        found = match(model, case.part)
        proof = Subject(case.make, x, second_batch=x[:5]).prove(found[0], how=case.how)
    except UsageError as error:
        return "refused", str(error)
    if proof.refusal is not None:
        return "refused", str(proof.refusal)
    if not proof.ok:
        return "refused", str(next(one for one in proof.findings if one.failed))
    return ("warned", str(proof.findings[0])) if proof.findings else ("accepted", "")
