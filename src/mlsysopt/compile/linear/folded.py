"""Layers whose weights live in panels alone: no second copy, and the parameter is made again when somebody reads it.

Packing is a permutation, so that what is read is bit for bit what was there. A parameter that was read stays for as
long as somebody holds it, a hook on it, a gradient of it or a view of its storage; what was written into it meanwhile
is packed before the next call, or, where a write leaves no trace, when it is let go.
"""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Callable, ItemsView, Iterator, ValuesView
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlsysopt.compile.linear.module import AdaptiveLinear, Taken, parameters_of
from mlsysopt.compile.linear.packs import Bound, Packs, packable
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
        handed_out: Whether somebody may have written into it since it was packed, without a trace.
    """

    def __init__(self, weight: nn.Parameter, packed: Packed) -> None:
        self.packed = packed
        self.shape = tuple(weight.shape)
        self.requires_grad = weight.requires_grad
        self.marks = dict(weight.__dict__)
        with torch.inference_mode(False):
            self.token = nn.Parameter(torch.empty(0, device="cpu"), requires_grad=weight.requires_grad)
        self.parameter: nn.Parameter | None = weight
        self.state = (weight._version, weight.data_ptr())
        self.handed_out = False
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
            self.handed_out = True
            return self.parameter

    def replace(self, parameter: nn.Parameter) -> None:
        """Take another parameter: it is packed before the next call."""
        with self.lock:
            if parameter is not self.parameter:
                self.parameter, self.state = parameter, (-1, 0)

    def settle(self, packs: FoldedPacks) -> bool:
        """Pack what was written, and let go of a parameter that nobody holds; False when it cannot be packed."""
        with self.lock:
            if self.parameter is None:
                return True
            if not packable(self.parameter, self.shape):
                return False
            held = self.reads >= _PATIENCE or _bears_more(self.parameter) or _references(self) > _UNHELD
            state = (self.parameter._version, self.parameter.data_ptr())
            # Not every write leaves a trace, and after this there is no place where one could be seen.
            if state != self.state or (self.handed_out and not held):
                self.packed = packs.packed(self.parameter)
                packs.drop()
                self.state = state
            self.requires_grad = self.parameter.requires_grad
            self.token.requires_grad_(self.requires_grad)
            self.handed_out = held
            if not held:
                self.marks = dict(self.parameter.__dict__)
                self.parameter = None
            return True


class FoldedPacks(Packs):
    """Packs of which one is all there is."""

    folded: Folded | None = None

    def packed(self, weight: Tensor) -> Packed:
        """Return a weight in panels."""
        return variant(VARIANT).prepare(weight.detach(), None, self.site(None))

    def drop(self) -> None:
        super().drop()
        folded = self.folded
        if folded is not None and folded.parameter is not None:
            folded.state = (-1, 0)

    def _readable(self, weight: Tensor) -> bool:
        return True  # it stands for panels, see `Folded.settle`

    def _make(self, weight: Tensor, bias: Tensor | None) -> Bound:
        assert self.folded is not None
        packed = self.folded.packed
        run = variant(VARIANT).bind(self.site(bias), packed, None if bias is None else bias.detach())
        return Bound(weight, bias, {VARIANT: run}, packed.nbytes)


class FoldedParameters(dict[str, Any]):
    """The parameters of a layer; who reads the weight gets it, made again."""

    def __init__(self, plain: dict[str, Any], folded: Folded) -> None:
        super().__init__({name: folded.token if name == "weight" else one for name, one in plain.items()})
        self.folded = folded

    def folds(self) -> bool:
        """Tell whether the weight is the one in panels; `torch.func.functional_call` puts others in its place."""
        return super().get("weight") is self.folded.token

    def __iter__(self) -> Iterator[str]:
        # Python copies the plain content of a dictionary, token and all, unless it has an iterator of its own.
        return super().__iter__()

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
            if type(self.__dict__["_parameters"]) is dict:
                _fold_again(self)
            parameters = self.__dict__["_parameters"]
            if type(parameters) is FoldedParameters and parameters.folds():
                packs, folded = self.__dict__["_adaptive"].packs, parameters.folded
                assert isinstance(packs, FoldedPacks)
                if folded.parameter is None or folded.settle(packs):
                    y = packs.multiply(input, folded.token, parameters.get("bias"))
                    if y is not None:
                        return y
        return functional.linear(input, self.weight, self.bias)


def fold(module: nn.Module, packs: Packs) -> None:
    """Give up the original form of a layer's weight, in place, as soon as nobody else holds it.

    Args:
        module: An `nn.Linear`, see `held_elsewhere`.
        packs: Its decision, which runs panels alone.
    """
    taken: Taken = module.__dict__["_adaptive"]
    plain = parameters_of(module)
    weight = plain["weight"]
    assert weight is not None
    made = FoldedPacks(packs.decision, packs.n, packs.k, threads=packs.threads, notices=packs.notices)
    folded = Folded(weight, made.packed(weight))
    made.folded = folded
    made.pack(folded.token, plain.get("bias"))
    module.__dict__["_parameters"] = FoldedParameters(plain, folded)
    module.__dict__["_adaptive"] = Taken(taken.original, made)
    module.__class__ = FoldedLinear
    del weight, plain
    folded.settle(made)


def _fold_again(module: nn.Module) -> None:
    """Fold a copy."""
    weight, packs = parameters_of(module).get("weight"), module.__dict__["_adaptive"].packs
    if type(weight) is nn.Parameter and packable(weight, (packs.n, packs.k)):
        del weight
        fold(module, packs)


def unfold(module: nn.Module) -> None:
    """Give a folded layer its weight back, in place; other modules are left alone."""
    parameters = module.__dict__.get("_parameters")
    if type(parameters) is FoldedParameters:
        module.__dict__["_parameters"] = parameters.plain()


def held_elsewhere(module: nn.Module) -> bool:
    """Tell whether somebody beside an `nn.Linear` holds its weight: an optimizer, a list of parameters, a hook."""
    weight = parameters_of(module)["weight"]
    if weight is None or _bears_more(weight):
        return True
    del weight
    return _parameter_references(module) > _parameter_references(nn.Linear(1, 1))


def _bears_more(parameter: nn.Parameter) -> bool:
    """Tell whether something hangs on a parameter that one made again would not have."""
    hooks = parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None)
    return parameter.grad is not None or bool(hooks) or _owners(parameter) > _SOLE


def _owners(parameter: nn.Parameter) -> int:
    """Return how many tensors share a parameter's storage, as far as torch tells."""
    return _storage_owners(parameter.untyped_storage()._cdata)  # pyright: ignore[reportPrivateUsage]


def _parameter_references(module: nn.Module) -> int:
    return sys.getrefcount(parameters_of(module)["weight"])


def _references(folded: Any) -> int:
    return sys.getrefcount(folded.parameter)


class _Holder:
    """What `_references` finds when nobody else holds a parameter, in this version of Python."""

    def __init__(self) -> None:
        self.parameter = nn.Parameter(torch.empty(0))


_UNHELD = _references(_Holder())
# Private to torch: where it is gone, nobody is known to share a storage.
_C: Any = torch._C  # pyright: ignore[reportPrivateUsage]
_storage_owners: Callable[[int], int] = getattr(_C, "_storage_Use_Count", lambda _: 0)
_SOLE = _owners(_Holder().parameter)
