"""Taking a part out of a model that was built whole, and proving that it is out.

The whole model is built under its seed and edited afterwards: every weight that stays starts with the
value it has in the base, which is what makes runs with one seed pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlsysopt.core.errors import UsageError, near_misses
from mlsysopt.design.ablate.probe import Probe
from mlsysopt.design.ablate.select import Part, unwrapped
from mlsysopt.design.ablate.standins import HOWS, Refused, StandIn, stand_in

if TYPE_CHECKING:
    from torch import nn

    from mlsysopt.design.ablate.proofs import Proof

__all__ = ["NeverCalled", "Refused", "Removal", "Replaced", "places", "prove", "put", "remove"]


@dataclass(frozen=True, slots=True)
class Replaced:
    """One module and what stands there now.

    Attributes:
        path: Where.
        original: Class of the original.
        kind: Kind of the stand-in.
        words: What its adapter does, "" when it needs none.
    """

    path: str
    original: str
    kind: str
    words: str


@dataclass(frozen=True, slots=True)
class Removal:
    """What was taken out of a model.

    Attributes:
        replaced: Every place, in order.
        parameters: Number of parameters taken out, less those of stand-ins.
    """

    replaced: tuple[Replaced, ...]
    parameters: int

    @property
    def adapters(self) -> tuple[str, ...]:
        """What stands where, in words."""
        return tuple(f"{one.path}: {one.kind}{f' ({one.words})' if one.words else ''}" for one in self.replaced)


class NeverCalled(UsageError):
    """A module that was not called: unused, or used behind its back.

    Attributes:
        path: Where it is registered.
    """

    def __init__(self, path: str, kind: str) -> None:
        super().__init__(
            f"{path} ({kind}) is registered, but never called with this input: taking it out changes nothing"
        )
        self.path = path


def remove(model: nn.Module, part: Part, *, how: str = "auto", probe: Probe) -> Removal:
    """Put stand-ins in place of a part; `model` is changed.

    Args:
        model: The whole model.
        part: What to take out.
        how: One of `standins.HOWS`.
        probe: What was seen of the whole model.

    Raises:
        UsageError: an unknown way, a path that is not there, or a module that is never called.
        Refused: it cannot be taken out by replacing it.

    >>> import torch
    >>> from mlsysopt.design.ablate.probe import probe
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2))
    >>> remove(model, Part("1", ("1",)), probe=probe(model, torch.ones(4, 3))).adapters
    ('1: identity',)
    """
    if how not in HOWS:
        raise UsageError(f"replace={how!r}: {near_misses(how, HOWS, noun='way')}")
    model = unwrapped(model)
    before = _count(model)
    made: dict[int, StandIn] = {}
    replaced: list[Replaced] = []
    for path in places(model, part, probe):
        original = model.get_submodule(path)
        new = made.get(id(original))
        if new is None:
            new = made[id(original)] = stand_in(original, probe.seen[path], how)
            reference = next(original.parameters(), None)
            if reference is not None:
                new.to(device=reference.device, dtype=reference.dtype if reference.is_floating_point() else None)
            new.train(original.training)
        put(model, path, new)
        _keep_from_fusing(model, path)
        replaced.append(Replaced(path, type(original).__name__, new.kind, str(getattr(new, "words", ""))))
    return Removal(tuple(replaced), before - _count(model))


def places(model: nn.Module, part: Part, seen: Probe) -> list[str]:
    """Return the paths that have to be replaced.

    A container that its owner only iterates over stands for what it holds.

    Raises:
        UsageError: a path that is not there, or a module that is never called.
        Refused: TorchScript, a head, or a module whose owner reads its tensors.
    """
    found: list[str] = []
    for path in part.paths:
        original = _found(model, path)
        if path in seen.seen:
            if seen.seen[path].gives_output:
                raise Refused(f"{path} gives the model's output: without it there is none", seen.seen[path].sites[0])
            if seen.seen[path].unlike:
                raise Refused(
                    f"{path} gives another structure in a later call: no one stand-in is right for both",
                    seen.seen[path].unlike,
                )
            found.append(path)
            continue
        inner = [one for one in seen.seen if one.startswith(f"{path}.")]
        inner = [one for one in inner if not any(one.startswith(f"{other}.") for other in inner)]
        own = any(True for _ in original.parameters(recurse=False))
        if own or not inner:
            raise NeverCalled(path, type(original).__name__)
        found += places(model, Part(part.name, tuple(inner)), seen)
    return list(dict.fromkeys(found))


def _found(model: nn.Module, path: str) -> nn.Module:
    import torch

    try:
        original = model.get_submodule(path)
    except AttributeError:
        known = [name for name, _ in model.named_modules() if name]
        raise UsageError(f"the model has no module {path!r}; {near_misses(path, known, noun='module')}") from None
    pieces = path.split(".")
    owners = [".".join(pieces[:n]) for n in range(len(pieces) + 1)]
    if any(isinstance(model.get_submodule(owner), torch.jit.ScriptModule) for owner in owners):
        raise Refused(f"{path} is TorchScript: its inside can be neither watched nor replaced")
    return original


def _keep_from_fusing(model: nn.Module, path: str) -> None:
    """Let torch's encoder layers know that they cannot take their fused path, which reads weights of its parts."""
    from torch import nn

    pieces = path.split(".")
    for n in range(len(pieces)):
        owner = model.get_submodule(".".join(pieces[:n]))
        if isinstance(owner, nn.TransformerEncoderLayer):
            owner.activation_relu_or_gelu = 0


def put(model: nn.Module, path: str, new: nn.Module) -> None:
    """Register a module at a path, whatever was there."""
    parent, _, name = path.rpartition(".")
    model.get_submodule(parent).add_module(name, new)


def prove(
    make_model: Callable[..., nn.Module],
    part: Part,
    *,
    how: str = "auto",
    batch: Any,
    second_batch: Any = None,
    seed: int = 0,
) -> Proof:
    """Take a part out of a model built for the purpose and check that it is out; see `proofs.Subject`.

    Who asks about many parts of one model makes a `Subject` and keeps it.

    Args:
        make_model: Returns the whole model; may take `seed`.
        part: What to take out.
        how: One of `standins.HOWS`.
        batch: What the model is called with.
        second_batch: The same with another batch size.
        seed: Seed of the model and of dropout.

    Raises:
        UsageError: a module that is registered and never called, or an unknown way.
    """
    from mlsysopt.design.ablate.proofs import Subject

    return Subject(make_model, batch, second_batch=second_batch, seed=seed).prove(part, how=how)


def _count(model: nn.Module) -> int:
    return sum(one.numel() for one in model.parameters())
