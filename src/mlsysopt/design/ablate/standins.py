"""What stands in for a part that was taken out: nothing neutral, its input, or a map of the same size.

A stand-in answers for the flags and submodules that parents read of the original (`batch_first`,
`embed_dim`), but raises when a tensor of it is reached: a part whose weights are used without
calling it cannot be taken out by replacing it, and must not seem to have been.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _NormBase  # pyright: ignore[reportPrivateUsage]

from mlsysopt.core.errors import MlsysoptError
from mlsysopt.design.ablate.probe import Leaf, Seen, leaves, rebuilt
from mlsysopt.design.ablate.shapes import Adapter, SizeRule, adapter, fitted_features, size_rules

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["HOWS", "Ghost", "Identity", "Linear", "Matched", "Neutral", "Refused", "StandIn", "stand_in"]

HOWS = ("auto", "identity", "neutral", "linear", "matched")
"""Ways to replace a part."""

_PLAIN = (bool, int, float, str, tuple, type(None), torch.dtype, torch.device, torch.Size)
_OWN = {"training", "call_super_init", "dump_patches"}
_WITHIN = 0.05
_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm, nn.CrossMapLRN2d)
_RESHAPES = (nn.Flatten, nn.Unflatten, nn.Identity)


class Refused(MlsysoptError):
    """A part that cannot be taken out, and why.

    Attributes:
        reason: Why.
        where: Source line that stands against it, "" when there is none.
    """

    exit_code = 2

    def __init__(self, reason: str, where: str = "") -> None:
        super().__init__(f"{reason} ({where})" if where else reason)
        self.reason = reason
        self.where = where

    def __reduce__(self) -> tuple[Any, ...]:
        return Refused, (self.reason, self.where)


class StandIn(nn.Module):
    """Takes the place of a module.

    Args:
        original: What it stands in for; its flags are copied, its tensors are not.
    """

    kind = "stand-in"

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.calls = 0
        self.stands_for = type(original).__name__
        flags = {name: value for name, value in vars(original).items() if isinstance(value, _PLAIN)}
        # In `__dict__`, so that ghosts do not become submodules with names of their own.
        self.__dict__["_flags"] = {name: value for name, value in flags.items() if name not in _OWN and name[0] != "_"}
        self.__dict__["_ghosts"] = {name: Ghost(child) for name, child in original.named_children()}
        self.__dict__["_tensors"] = {
            *(name for name, _ in original.named_parameters(recurse=False)),
            *(name for name, _ in original.named_buffers(recurse=False)),
            *(name for name, value in vars(original).items() if isinstance(value, torch.Tensor)),
        }
        if isinstance(original, nn.MultiheadAttention):
            # Encoder layers ask for it to see whether they may fuse; None says no.
            self.__dict__["_tensors"].discard("in_proj_bias")
            self.__dict__["_flags"]["in_proj_bias"] = None

    def __getattr__(self, name: str) -> Any:
        own = self.__dict__
        if any(name in own.get(kind, ()) for kind in ("_parameters", "_buffers", "_modules")):
            return super().__getattr__(name)
        if name in own.get("_flags", ()):
            return own["_flags"][name]
        if name in own.get("_ghosts", ()):
            return own["_ghosts"][name]
        if name in own.get("_tensors", ()):
            raise Refused(f"its {name} is read without calling it", _reader())
        return super().__getattr__(name)

    def __getitem__(self, index: int | slice) -> Any:
        """Return the ghost of a part of a `Sequential`."""
        found = list(self.__dict__["_ghosts"].values())[index]
        if isinstance(index, slice):
            raise Refused(f"a slice of the {self.stands_for} is used without calling it", _reader())
        return found

    def __len__(self) -> int:
        return len(self.__dict__["_ghosts"])

    def __bool__(self) -> bool:
        return True

    def extra_repr(self) -> str:
        return f"for {self.stands_for}"


class Ghost(StandIn):
    """Stands for a submodule of something that was taken out: it has flags, and cannot be called."""

    kind = "ghost"

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise Refused(f"a {self.stands_for} inside it is called from outside", _reader())


@dataclass(frozen=True, slots=True)
class _Fill:
    """What stands for one tensor of an output.

    Attributes:
        leaf: What was seen there.
        rules: Where its sizes come from.
        value: What fills it, when it is a constant.
        fit: What fits the input to it, when it is the input.
    """

    leaf: Leaf
    rules: tuple[SizeRule, ...]
    value: float = 0.0
    fit: Adapter | None = None

    @property
    def words(self) -> str:
        return self.fit.words if self.fit is not None else ""


class Filling(StandIn):
    """Gives, for each tensor of the output, a constant or the input in its shape."""

    # Takes no part in saving and loading; says which precision and device the model has by now.
    like: Tensor

    def __init__(self, original: nn.Module, seen: Seen, fills: Sequence[_Fill]) -> None:
        super().__init__(original)
        self.structure = seen.structure
        self.fills = list(fills)
        floats = next((leaf.dtype for leaf in (*seen.outputs, *seen.inputs) if leaf.is_float), "float32")
        self.register_buffer("like", torch.zeros(0, dtype=getattr(torch, floats)), persistent=False)

    @property
    def words(self) -> str:
        """What the adapters do, "" when shapes agree."""
        return "; ".join(dict.fromkeys(fill.words for fill in self.fills if fill.words))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        given = leaves((args, kwargs))
        x = given[0] if given else None
        return rebuilt(self.structure, [self.filled(place, fill, x, given) for place, fill in enumerate(self.fills)])

    def filled(self, place: int, fill: _Fill, x: Tensor | None, given: Sequence[Tensor]) -> Tensor:
        """Return one tensor of the output."""
        if fill.leaf.same_as is not None and fill.leaf.same_as < len(given):
            return given[fill.leaf.same_as]
        if fill.fit is not None and x is not None:
            made = fill.fit(x)
            # A new tensor, as the original gave one: what follows may change it in place.
            return made.clone() if made.data_ptr() == x.data_ptr() else made
        shape = [rule.at(x.shape if x is not None else ()) for rule in fill.rules]
        kind = self.like.dtype if fill.leaf.is_float else getattr(torch, fill.leaf.dtype)
        if fill.leaf.is_float and x is not None and x.is_floating_point():
            kind = x.dtype
        return torch.full(shape, fill.value, dtype=kind, device=x.device if x is not None else self.like.device)


class Neutral(Filling):
    """Gives the element that changes nothing where it is consumed: zeros, or ones for a factor."""

    kind = "neutral"


class Identity(Filling):
    """Passes its first tensor on, fitted to the shape of the original's output."""

    kind = "identity"


class Linear(Filling):
    """One learnable map of the features at each position."""

    kind = "linear"

    def __init__(self, original: nn.Module, seen: Seen, fills: Sequence[_Fill], place: int, fit: Adapter) -> None:
        super().__init__(original, seen, fills)
        self.place, self.fit, self.axis = place, fit, _axis(fit, seen.inputs[0])
        self.out = _sizes(fit, seen, place)[1]
        self.map = nn.Linear(*_sizes(fit, seen, place), dtype=self.like.dtype)

    @property
    def words(self) -> str:
        return ", ".join(word for word in ("learned map", _without_features(self.fit.words)) if word)

    def filled(self, place: int, fill: _Fill, x: Tensor | None, given: Sequence[Tensor]) -> Tensor:
        if place != self.place or x is None:
            return super().filled(place, fill, x, given)
        return _fitted(self.map(_features_last(x, self.axis)), self.axis, self.fit, x)


class Matched(Filling):
    """As many parameters as the original, without its structure: what `auto` would put there, and a bottleneck.

    `w` hidden features take `w * (in + out)` weights at each position; what is left over becomes
    scales and biases, so that the numbers agree. Where not even two numbers per feature are to be
    had (as in a normalisation), scales and biases are all.
    """

    kind = "matched"

    def __init__(self, original: nn.Module, seen: Seen, fills: Sequence[_Fill], place: int, fit: Adapter) -> None:
        super().__init__(original, seen, fills)
        wanted = sum(one.numel() for one in original.parameters())
        if not wanted:
            raise Refused("it has no parameters to match")
        self.place, self.fit, self.axis = place, fit, _axis(fit, seen.inputs[0])
        given, self.out = _sizes(fit, seen, place)
        pair = given + self.out
        self.width = 0 if wanted <= 2 * self.out else wanted // pair
        left = wanted - self.width * pair
        if left > 2 * self.out and (self.width + 1) * pair <= (1 + _WITHIN) * wanted:
            self.width, left = self.width + 1, 0
        biases, scales = min(left, self.out), max(0, min(left - self.out, self.out))
        dtype = self.like.dtype
        self.down = nn.Linear(given, self.width, bias=False, dtype=dtype) if self.width else None
        self.up = nn.Linear(self.width, self.out, bias=False, dtype=dtype) if self.width else None
        self.shift = nn.Parameter(torch.zeros(biases, dtype=dtype)) if biases else None
        self.scale = nn.Parameter(torch.zeros(scales, dtype=dtype)) if scales else None
        found = sum(one.numel() for one in self.parameters())
        if abs(found - wanted) > _WITHIN * wanted:
            raise Refused(f"no map of {given} to {self.out} features has {wanted} parameters; the nearest has {found}")

    @property
    def words(self) -> str:
        shape = f"bottleneck of {self.width}" if self.width else "scales and biases"
        base = "beside its input" if self.fills[self.place].fit is not None else ""
        return ", ".join(word for word in (shape, base, _without_features(self.fit.words)) if word)

    def filled(self, place: int, fill: _Fill, x: Tensor | None, given: Sequence[Tensor]) -> Tensor:
        base = super().filled(place, fill, x, given)
        if place != self.place or x is None:
            return base
        last = _features_last(x, self.axis)
        made = last.new_zeros(*last.shape[:-1], self.out)
        if self.down is not None and self.up is not None:
            made = made + self.up(functional.gelu(self.down(last)))
        if self.scale is not None:
            kept = fitted_features(last, last.ndim - 1, self.out)
            made = made + kept * functional.pad(self.scale, (0, self.out - len(self.scale)))
        if self.shift is not None:
            made = made + functional.pad(self.shift, (0, self.out - len(self.shift)))
        return base + _fitted(made, self.axis, self.fit, x)


def stand_in(original: nn.Module, seen: Seen, how: str) -> StandIn:
    """Return what stands in for a module.

    Args:
        original: The module.
        seen: What the probe saw of it.
        how: One of `HOWS`.

    Raises:
        Refused: nothing of that kind fits.
    """
    if not seen.outputs:
        raise Refused("it gives no tensor")
    if isinstance(original, _RESHAPES):
        raise Refused("it only passes its input on: there is nothing to take out")
    if how in ("auto", "neutral"):
        return _filling(original, seen, _auto(original, seen) if how == "auto" else _neutral(original, seen))
    if not seen.inputs:
        raise Refused(f"it is given no tensor that {how} could pass on; neutral is possible")
    place = _used(seen)
    if not seen.inputs[0].is_float and (seen.outputs[place].is_float or how != "identity"):
        raise Refused(f"its input is integers: nothing {how} can pass on; neutral is possible")
    if how == "identity":
        return _filling(original, seen, _identity(original, seen))
    if not seen.outputs[place].is_float:
        raise Refused(f"its output is integers: no {how} map is possible")
    fit = adapter(original, seen.inputs[0], seen.outputs[place])
    if fit is None:
        raise Refused("its output has another batch size than its input; neutral is possible")
    if how == "linear":
        return Linear(original, seen, _neutral(original, seen), place, fit)
    return Matched(original, seen, _auto(original, seen), place, fit)


def _filling(original: nn.Module, seen: Seen, fills: Sequence[_Fill]) -> StandIn:
    passes = any(fill.fit is not None for fill in fills)
    return (Identity if passes else Neutral)(original, seen, fills)


def _auto(original: nn.Module, seen: Seen) -> list[_Fill]:
    """Return the neutral element of whatever consumes each output."""
    if not seen.inputs or not seen.inputs[0].is_float:
        return _neutral(original, seen)
    if _is_link(original, seen):
        return _identity(original, seen)
    fills = _neutral(original, seen)
    for place, leaf in enumerate(seen.outputs):
        if leaf.role == "chain" and leaf.is_float and leaf.same_as is None:
            fit = adapter(original, seen.inputs[0], leaf)
            if fit is None:
                raise Refused("its output has another batch size than its input; neutral is possible")
            fills[place] = _Fill(leaf, fills[place].rules, fit=fit)
    return fills


def _is_link(original: nn.Module, seen: Seen) -> bool:
    """Whether something only transforms a signal that comes from elsewhere, as a normalisation or dropout does.

    At the end of a branch, zeros in its place would take the whole branch away. When it is the branch,
    its output meets its own input in the addition.
    """
    if len(seen.inputs) != 1 or len(seen.outputs) != 1 or seen.beside_input:
        return False
    of_torch = type(original).__module__.startswith("torch.nn.")
    return isinstance(original, _NORMS) or (of_torch and not any(True for _ in original.parameters()))


def _neutral(original: nn.Module, seen: Seen) -> list[_Fill]:
    return [
        _Fill(
            leaf,
            size_rules(original, seen.inputs[0], leaf)
            if seen.inputs
            else tuple(SizeRule((), size) for size in leaf.shape),
            value=1.0 if leaf.role == "mul" else 0.0,
        )
        for leaf in seen.outputs
    ]


def _identity(original: nn.Module, seen: Seen) -> list[_Fill]:
    fills = _neutral(original, seen)
    for place, leaf in enumerate(seen.outputs):
        if leaf.same_as is not None or leaf.is_float != seen.inputs[0].is_float:
            continue
        if place == _used(seen) or leaf.roles:
            fit = adapter(original, seen.inputs[0], leaf)
            if fit is None:
                raise Refused("its output has another batch size than its input; neutral is possible")
            fills[place] = _Fill(leaf, fills[place].rules, fit=fit)
    return fills


def _used(seen: Seen) -> int:
    """Return the first output that somebody uses."""
    return next((place for place, leaf in enumerate(seen.outputs) if leaf.roles and leaf.is_float), 0)


def _axis(fit: Adapter, source: Leaf) -> int:
    """Return the axis that a map works on, from the end."""
    feature = fit.source[1]
    if feature < 0:
        raise Refused("it is given one number per example: no map is possible; neutral is")
    return feature - len(source.shape)


def _sizes(fit: Adapter, seen: Seen, place: int) -> tuple[int, int]:
    feature = fit.target[1]
    return seen.inputs[0].shape[fit.source[1]], seen.outputs[place].shape[feature] if feature >= 0 else 1


def _features_last(x: Tensor, axis: int) -> Tensor:
    return x.movedim(axis, -1)


def _fitted(made: Tensor, axis: int, fit: Adapter, x: Tensor) -> Tensor:
    """Return what a map made, in the shape of the output: features stand last, and have their final number."""
    made = made.movedim(-1, axis)
    if fit.flat:
        # Mapped at each place: the places are a mean now, not more features.
        fit = Adapter(fit.rules, fit.source, fit.target, False, fit.words)
    return made if made.shape == x.shape and not fit.words else _shaped(fit, made, x)


def _shaped(fit: Adapter, made: Tensor, x: Tensor) -> Tensor:
    return Adapter(fit.rules, fit.source, fit.target, fit.flat, fit.words or "features")(made, x.shape)


def _without_features(words: str) -> str:
    return ", ".join(word for word in words.split(", ") if word and "features" not in word)


def _reader() -> str:
    """Return the line outside torch that led here; torch's own too when a module of torch did it."""
    frame = sys._getframe(2)  # pyright: ignore[reportPrivateUsage]
    inside = ""
    while frame is not None:
        file = frame.f_code.co_filename
        if "mlsysopt/design/ablate" not in file and not file.startswith("<"):
            line = f"{file.rpartition('/')[2]}:{frame.f_lineno}"
            if "/torch/nn/modules/module" not in file:
                inside = inside or line
                if "/torch/" not in file:
                    return line if inside == line else f"{inside}, called at {line}"
        frame = frame.f_back
    return inside
