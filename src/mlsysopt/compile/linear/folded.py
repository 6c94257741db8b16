"""Layers whose weights live in panels alone: no second copy, and the parameter is made again when somebody reads it.

Packing is a permutation, so that what is read is bit for bit what was there. A parameter that was read stays for as
long as somebody holds it; what was written into it meanwhile is packed before the next call.
"""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import ItemsView, ValuesView
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlsysopt.compile.linear.module import AdaptiveLinear, Taken, parameters_of
from mlsysopt.compile.linear.packs import Bound, Packs
from mlsysopt.compile.variants.registry import variant
from mlsysopt.compile.variants.site import Packed

__all__ = ["FoldedLinear", "fold", "held_elsewhere", "unfold"]

VARIANT = "panel.f32"

# Who reads a parameter this often reads it in every call: it is kept then, as making it again is slow.
_PATIENCE = 16


class Folded:
    """A weight in panels.

    Attributes:
        token: An empty parameter that stands in the layer's dictionary for the one that is not there.
        packed: The panels.
        parameter: The parameter, while somebody may hold it.
    """

    def __init__(self, weight: nn.Parameter, packed: Packed) -> None:
        self.packed = packed
        self.shape = tuple(weight.shape)
        self.requires_grad = weight.requires_grad
        self.marks = dict(weight.__dict__)
        with torch.inference_mode(False):
            self.token = nn.Parameter(torch.empty(0), requires_grad=weight.requires_grad)
        self.parameter: nn.Parameter | None = None
        self.state = (-1, 0)
        self.reads = 0
        self.lock = threading.RLock()

    def read(self) -> nn.Parameter:
        """Return the parameter, made again from the panels if need be."""
        from mlsysopt.compile.codegen.pack import unpack

        with self.lock:
            if self.parameter is None:
                with torch.inference_mode(False):
                    data = torch.from_numpy(unpack(self.packed.arrays["weights"], self.shape[0]))
                    made = nn.Parameter(data, requires_grad=self.requires_grad)
                vars(made).update(self.marks)
                self.reads += 1
                self.parameter, self.state = made, (made._version, made.data_ptr())
            return self.parameter

    def replace(self, parameter: nn.Parameter) -> None:
        """Take another parameter: it is packed before the next call."""
        with self.lock:
            self.parameter, self.state = parameter, (-1, 0)

    def settle(self, packs: FoldedPacks) -> bool:
        """Pack what was written, and let go of a parameter that nobody holds; False when it cannot be packed."""
        with self.lock:
            parameter = self.parameter
            if parameter is None:
                return True
            plain = parameter.dtype is torch.float32 and parameter.is_cpu and tuple(parameter.shape) == self.shape
            if not plain or type(parameter) is not nn.Parameter or parameter.is_inference():
                return False
            state = (parameter._version, parameter.data_ptr())
            if state != self.state:
                self.packed = packs.packed(parameter)
                packs.drop()
                self.state = state
            self.requires_grad = parameter.requires_grad
            self.token.requires_grad_(self.requires_grad)
            idle = parameter.grad is None and self.reads < _PATIENCE
            del parameter
            if idle and _references(self) == _UNHELD:
                assert self.parameter is not None
                self.marks = dict(self.parameter.__dict__)
                self.parameter = None
            return True


class FoldedPacks(Packs):
    """Packs of which one is all there is."""

    folded: Folded | None = None

    def packed(self, weight: Tensor) -> Packed:
        """Return a weight in panels."""
        return variant(VARIANT).prepare(weight.detach(), None, self.site)

    def drop(self) -> None:
        super().drop()
        folded = self.folded
        if folded is not None and folded.parameter is not None:
            folded.state = (-1, 0)

    def _make(self, weight: Tensor, bias: Tensor | None) -> Bound:
        assert self.folded is not None
        packed = self.folded.packed
        run = variant(VARIANT).bind(self.site, packed, None if bias is None else bias.detach())
        return Bound(weight, bias, (run,) * len(self.decision.segments), packed.nbytes)


class FoldedParameters(dict[str, Any]):
    """The parameters of a layer; who reads the weight gets it, made again."""

    def __init__(self, plain: dict[str, Any], folded: Folded) -> None:
        super().__init__({name: folded.token if name == "weight" else one for name, one in plain.items()})
        self.folded = folded

    def __getitem__(self, name: str) -> Any:
        held = super().__getitem__(name)
        return self.folded.read() if held is self.folded.token else held

    def __setitem__(self, name: str, value: Any) -> None:
        if name == "weight" and type(value) is nn.Parameter:
            self.folded.replace(value)
            value = self.folded.token
        super().__setitem__(name, value)

    def get(self, name: str, default: Any = None) -> Any:
        # Not `dict.get`, which this stands for.
        return self[name] if name in self else default  # noqa: SIM401

    def pop(self, name: str, *default: Any) -> Any:
        held = super().pop(name, *default)
        return self.folded.read() if held is self.folded.token else held

    def items(self) -> ItemsView[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.plain().items()

    def values(self) -> ValuesView[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.plain().values()

    def copy(self) -> dict[str, Any]:
        return self.plain()

    def plain(self) -> dict[str, Any]:
        """Return an ordinary dictionary, with the parameter."""
        return {name: self[name] for name in self}

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (self.plain(),)

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return copy.deepcopy(self.plain(), memo)


class FoldedLinear(AdaptiveLinear):
    """An adaptive layer without the original form of its weight; a copy of it folds at its first call."""

    adapts: ClassVar[type[nn.Module]] = nn.Linear

    def forward(self, input: Tensor) -> Tensor:
        taken = self._adaptive
        if not torch.compiler.is_compiling() and taken is not None and not self.training:
            parameters = self.__dict__["_parameters"]
            if type(parameters) is dict and type(parameters.get("weight")) is nn.Parameter:
                assert taken.packs is not None
                fold(self, taken.packs)
                parameters, taken = self.__dict__["_parameters"], self.__dict__["_adaptive"]
            if type(parameters) is FoldedParameters and "weight" in parameters:
                packs, folded = taken.packs, parameters.folded
                assert isinstance(packs, FoldedPacks)
                if folded.parameter is None or folded.settle(packs):
                    y = packs.multiply(input, folded.token, parameters.get("bias"))
                    if y is not None:
                        return y
        return functional.linear(input, self.weight, self.bias)


def fold(module: nn.Module, packs: Packs) -> None:
    """Give up the original form of a layer's weight, in place.

    Args:
        module: An `nn.Linear` whose weight nobody else needs, see `held_elsewhere`.
        packs: Its decision, which runs panels alone.
    """
    taken: Taken = module.__dict__["_adaptive"]
    plain = parameters_of(module)
    weight = plain["weight"]
    assert weight is not None
    made = FoldedPacks(packs.decision, packs.n, packs.k, bias=packs.bias, threads=packs.threads, notices=packs.notices)
    folded = Folded(weight, made.packed(weight))
    made.folded = folded
    made.pack(folded.token, plain.get("bias"))
    module.__dict__["_parameters"] = FoldedParameters(plain, folded)
    module.__dict__["_adaptive"] = Taken(taken.original, made)
    module.__class__ = FoldedLinear


def unfold(module: nn.Module) -> None:
    """Give a folded layer its weight back, in place; other modules are left alone."""
    parameters = module.__dict__.get("_parameters")
    if type(parameters) is FoldedParameters:
        module.__dict__["_parameters"] = parameters.plain()


def held_elsewhere(module: nn.Module) -> bool:
    """Tell whether somebody beside an `nn.Linear` holds its weight: an optimizer, a list of parameters, a gradient."""
    weight = parameters_of(module)["weight"]
    if weight is None or weight.grad is not None:
        return True
    del weight
    return _parameter_references(module) > _parameter_references(nn.Linear(1, 1))


def _parameter_references(module: nn.Module) -> int:
    return sys.getrefcount(parameters_of(module)["weight"])


def _references(folded: Any) -> int:
    return sys.getrefcount(folded.parameter)


class _Holder:
    """What `_references` finds when nobody else holds a parameter, in this version of Python."""

    def __init__(self) -> None:
        self.parameter = nn.Parameter(torch.empty(0))


_UNHELD = _references(_Holder())
