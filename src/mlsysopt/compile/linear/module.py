"""Linear layers that pick their kernel by the number of rows, and are the plain layers in everything else.

An adapted layer is the same object as before, of a subclass: parameters, hooks, names and whoever refers to it stay.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlsysopt.compile.linear.packs import Packs

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["STATE", "AdaptiveLinear", "Taken", "applied", "parameters_of", "put_back", "take_over", "trained"]

STATE = "_adaptive"
"""Name of the attribute that an adapted module has more than before."""


class AdaptiveLinear(nn.Linear):
    """An `nn.Linear` whose product runs in its best form for each number of rows.

    In training mode, while gradients are recorded, under autocast, `torch.compile`, tracing or a torch mode, for
    inputs that are no plain f32 tensors on the CPU, and with a parametrization, it is `F.linear`.

    Attributes:
        adapts: The class that it stands for.
    """

    adapts: ClassVar[type[nn.Module]] = nn.Linear
    _adaptive: Taken | None = None

    def forward(self, input: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return functional.linear(input, self.weight, self.bias)
        parameters, taken = self._parameters, self._adaptive
        weight = parameters.get("weight")
        if weight is None or taken is None:  # a parametrization computes it, or `restore` came before its removal
            return functional.linear(input, self.weight, self.bias)
        bias = parameters["bias"]
        if not self.training and taken.packs is not None:
            y = taken.packs.multiply(input, weight, bias)
            if y is not None:
                return y
        return functional.linear(input, weight, bias)

    def train(self, mode: bool = True) -> AdaptiveLinear:
        return trained(self, mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> AdaptiveLinear:
        return applied(self, fn, recurse)


class Taken:
    """What an adapted module has more than before.

    Attributes:
        original: The class that it had.
        packs: Its product; None for a module that only calls others.
    """

    def __init__(self, original: type[nn.Module], packs: Packs | None) -> None:
        self.original, self.packs = original, packs


def take_over(module: nn.Module, packs: Packs) -> None:
    """Make an `nn.Linear` or a transformers `Conv1D` adaptive, in place."""
    original = type(module)
    module.__dict__[STATE] = Taken(original, packs)
    object.__setattr__(module, "__class__", AdaptiveLinear if isinstance(module, nn.Linear) else _adaptive_conv1d())


def parameters_of(module: nn.Module) -> dict[str, Any]:
    """Return the dictionary in which a module keeps its own parameters."""
    return module.__dict__["_parameters"]


def put_back(module: nn.Module) -> bool:
    """Make an adapted module what it was; False when it is none."""
    taken = module.__dict__.pop(STATE, None)
    if taken is None:
        return False
    # A parametrization that came later has made a class of its own from ours, which is plain without the state.
    if "adapts" in type(module).__dict__:
        module.__class__ = taken.original
    return True


def trained(module: Any, mode: bool) -> Any:
    """Set the mode of an adapted module; packs of weights that are about to change are dropped."""
    if mode and module._adaptive is not None and module._adaptive.packs is not None:
        module._adaptive.packs.drop()
    return nn.Module.train(module, mode)


def applied(module: Any, fn: Callable[[Tensor], Tensor], recurse: bool) -> Any:
    """Convert or move the parameters of an adapted module: their storage is another one afterwards."""
    found = nn.Module._apply(module, fn, recurse)  # pyright: ignore[reportPrivateUsage]
    if module._adaptive is not None and module._adaptive.packs is not None:
        module._adaptive.packs.drop()
    return found


@cache
def _adaptive_conv1d() -> type[nn.Module]:
    """Return the adaptive form of transformers' Conv1D, whose weight is [K, N]."""
    from transformers.pytorch_utils import Conv1D

    class AdaptiveConv1D(Conv1D):
        adapts: ClassVar[type[nn.Module]] = Conv1D
        _adaptive: Taken | None = None

        def forward(self, x: Tensor) -> Tensor:
            weight, taken = self._parameters.get("weight"), self._adaptive
            if weight is None or taken is None or taken.packs is None or self.training:
                return Conv1D.forward(self, x)
            if not torch.compiler.is_compiling():
                y = taken.packs.multiply(x, weight, self._parameters.get("bias"))
                if y is not None:
                    return y
            return Conv1D.forward(self, x)

        def train(self, mode: bool = True) -> AdaptiveConv1D:
            return trained(self, mode)

        def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> AdaptiveConv1D:
            return applied(self, fn, recurse)

    # Pickle finds the class under the name of this module, see `__getattr__`.
    AdaptiveConv1D.__qualname__ = "AdaptiveConv1D"
    return AdaptiveConv1D


def __getattr__(name: str) -> Any:
    if name == "AdaptiveConv1D":
        return _adaptive_conv1d()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
