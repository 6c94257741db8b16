"""Fitting a tensor to another shape without parameters, at any batch size and sequence length.

Axes are told apart by what they are: the batch, the features, and the others (time, height, width).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

    from mlsysopt.design.ablate.probe import Leaf

__all__ = ["Adapter", "SizeRule", "adapter", "feature_axis", "fitted_features", "size_rules"]

# How many features a layer takes and gives, by the names that torch's layers use.
_TAKES = ("in_channels", "in_features", "num_features", "num_channels", "normalized_shape", "embed_dim", "input_size")
_GIVES = (
    "out_channels", "out_features", "num_features", "num_channels", "normalized_shape", "embed_dim", "embedding_dim",
    "hidden_size",
)  # fmt: skip


# Strides at least halve an axis; less than that is borders.
_BORDER = 0.6


@dataclass(frozen=True, slots=True)
class SizeRule:
    """Where the size of one axis of an output comes from when the model runs.

    Attributes:
        axes: Axes of the first input whose sizes are multiplied; none for a fixed size.
        size: The size seen with the first batch.
        ratio: Output over input size, for axes that shrink or grow with the input.
        more: What the output has more than that, below 0 where borders are cut off.
    """

    axes: tuple[int, ...]
    size: int
    ratio: float = 1.0
    more: int = 0

    def at(self, shape: Sequence[int]) -> int:
        """Return the size for an input of a shape.

        >>> SizeRule((1, 2), 4, 0.25).at((8, 6, 6))
        9
        """
        if not self.axes or max(self.axes) >= len(shape):
            return self.size
        whole = math.prod(shape[axis] for axis in self.axes)
        return max(1, whole + self.more) if self.ratio == 1.0 else max(1, round(whole * self.ratio))


def feature_axis(module: nn.Module, leaf: Leaf, *, given: bool = False) -> int:
    """Return the axis of channels or features of what a module gives, or is given.

    It is where the number of features of the module's last, or first, layer is found; without such a
    layer, axis 1 of what looks like an image, else the last axis. Integers are names and have none: -1.
    """
    rank = len(leaf.shape)
    if given and not leaf.is_float:
        return -1
    own = [axis for axis in range(rank) if axis not in leaf.batch_axes]
    names = _TAKES if given else _GIVES
    layers = [(one, size) for one in module.modules() if (size := _features(one, names))]
    if layers:
        layer, size = layers[0 if given else -1]
        found = [axis for axis in own if leaf.shape[axis] == size]
        if len(found) == 1:
            return found[0]
        if found:
            return found[0] if _counts_channels(layer) else found[-1]
    if rank >= 4 and 1 in own:
        return 1
    return own[-1] if own else rank - 1


def _features(module: nn.Module, names: Sequence[str]) -> int:
    if not any(True for _ in module.parameters(recurse=False)):
        return 0
    for name in names:
        value: Any = vars(module).get(name)
        if isinstance(value, tuple):
            value = value[-1] if value else None  # pyright: ignore[reportUnknownVariableType]
        if isinstance(value, int):
            return value * (2 if name == "hidden_size" and getattr(module, "bidirectional", False) else 1)
    return 0


def _counts_channels(module: nn.Module) -> bool:
    return any(hasattr(module, name) for name in ("in_channels", "num_channels", "num_features"))


def size_rules(module: nn.Module, source: Leaf, target: Leaf) -> tuple[SizeRule, ...]:
    """Say where each size of an output comes from.

    Args:
        module: What made it.
        source: The first input.
        target: The output.
    """
    if source.shape == target.shape and source.batch_axes == target.batch_axes:
        return tuple(SizeRule((axis,), size) for axis, size in enumerate(target.shape))
    rules = [SizeRule((), size) for size in target.shape]
    feature = feature_axis(module, target)
    source_others = _others(source, feature_axis(module, source, given=True))
    others = _others(target, feature)
    for axis in target.batch_axes:
        rules[axis] = _batch_rule(source, target.shape[axis])
    # Adaptive pooling gives one size, whatever comes in.
    fixed = hasattr(module, "output_size")
    if len(others) == len(source_others) and not fixed:
        for axis, like in zip(others, source_others, strict=True):
            if not _counts_layers(module, target, axis):
                rules[axis] = _scaled((like,), source, target.shape[axis])
    elif len(others) == 1 and source_others and not fixed:
        # Height and width become one axis of tokens.
        rules[others[0]] = _scaled(tuple(source_others), source, target.shape[others[0]])
    if len(source_others) == 1 and _is_square(target, source.shape[source_others[0]], _given_out(module)):
        # Weights of attention: both axes follow the sequence.
        rules[-2:] = [SizeRule((source_others[0],), size) for size in target.shape[-2:]]
    return tuple(rules)


def _counts_layers(module: nn.Module, leaf: Leaf, axis: int) -> bool:
    """Whether an axis is that of the layers and directions in a recurrent layer's state."""
    from torch import nn

    if axis != 0 or leaf.batch_axes != (1,):
        return False
    found = [one for one in module.modules() if isinstance(one, nn.RNNBase)]
    return any(leaf.shape[0] == one.num_layers * (2 if one.bidirectional else 1) for one in found)


def _is_square(leaf: Leaf, size: int, features: int) -> bool:
    ends = range(max(0, len(leaf.shape) - 2), len(leaf.shape))
    return (
        len(leaf.shape) > 2
        and 1 < size != features
        and all(leaf.shape[i] == size and i not in leaf.batch_axes for i in ends)
    )


def _given_out(module: nn.Module) -> int:
    """Return the number of features that the last layer gives, 0 without one."""
    return next((size for one in reversed(list(module.modules())) if (size := _features(one, _GIVES))), 0)


def _others(leaf: Leaf, feature: int) -> list[int]:
    return [axis for axis in range(len(leaf.shape)) if axis not in leaf.batch_axes and axis != feature]


def _batch_rule(source: Leaf, size: int) -> SizeRule:
    if not source.batch_axes:
        return SizeRule((), size)
    batch = source.batch_axes[0]
    if source.shape[batch] == size:
        return SizeRule((batch,), size)
    for axis, other in enumerate(source.shape):
        if axis != batch and source.shape[batch] * other == size:
            return SizeRule((batch, axis), size)
    return SizeRule((batch,), size, size / source.shape[batch])


def _scaled(axes: tuple[int, ...], source: Leaf, size: int) -> SizeRule:
    whole = math.prod(source.shape[axis] for axis in axes)
    if size == whole:
        return SizeRule(axes, size)
    if whole and _BORDER < size / whole < 1 / _BORDER:
        # A convolution without padding.
        return SizeRule(axes, size, more=size - whole)
    # One place is a summary of all, however many there are.
    return SizeRule(axes, size, size / whole) if size > 1 and whole else SizeRule((), size)


@dataclass(frozen=True, slots=True)
class Adapter:
    """Turns an input into a tensor of the output's shape.

    Attributes:
        rules: Size of each axis of the output.
        source: Batch axis (-1 for none) and axis of features of the input.
        target: The same of the output.
        flat: Whether places become features, as when an image is flattened.
        words: What it does, for the table; "" when the shapes agree.
    """

    rules: tuple[SizeRule, ...]
    source: tuple[int, int]
    target: tuple[int, int]
    flat: bool
    words: str

    def __call__(self, x: torch.Tensor, shape: Sequence[int] | None = None) -> torch.Tensor:
        """Return `x` in the shape of the output.

        Args:
            x: The input, or something that differs from it in the number of features only.
            shape: Shape of the input; None takes that of `x`.
        """
        if not self.words:
            return x
        sizes = [rule.at(x.shape if shape is None else shape) for rule in self.rules]
        (batch, feature), (to_batch, to_feature) = self.source, self.target
        if not sizes:
            return x.mean()
        order = [batch] if batch >= 0 else []
        order += [axis for axis in range(x.ndim) if axis not in (batch, feature)]
        if feature >= 0 and feature != batch:
            order.append(feature)
        x = x.permute(order)
        if batch < 0:
            x = x.unsqueeze(0)
        if feature < 0 or feature == batch:
            x = x.unsqueeze(-1)
        # Now batch first, features last.
        if self.flat:
            x = x.movedim(-1, 1).flatten(1)
        wanted = [size for axis, size in enumerate(sizes) if axis not in (to_batch, to_feature)]
        x = _places(x, wanted)
        x = fitted_features(x, x.ndim - 1, sizes[to_feature]) if to_feature >= 0 else x.mean(-1)
        if to_batch < 0:
            x = x.mean(0)
        elif x.shape[0] == 1:
            x = x.expand(sizes[to_batch], *x.shape[1:])
        now = ([to_batch] if to_batch >= 0 else []) + [a for a in range(len(sizes)) if a not in (to_batch, to_feature)]
        now += [to_feature] if to_feature >= 0 else []
        return x.permute([now.index(axis) for axis in range(len(sizes))])


def adapter(module: nn.Module, source: Leaf, target: Leaf) -> Adapter | None:
    """Return what fits the first input of a module to its output, None when the batches differ in size."""
    rules = size_rules(module, source, target)
    feature, source_feature = feature_axis(module, target), feature_axis(module, source, given=True)
    batch = target.batch_axes[0] if target.batch_axes else -1
    source_batch = source.batch_axes[0] if source.batch_axes else -1
    if batch >= 0 and source_batch >= 0 and target.shape[batch] != source.shape[source_batch]:
        return None
    feature = -1 if feature == batch else feature
    source_feature = -1 if source_feature == source_batch else source_feature
    places = [source.shape[axis] for axis in _others(source, source_feature)]
    wanted = [target.shape[axis] for axis in _others(target, feature)]
    given = source.shape[source_feature] if source_feature >= 0 else 1
    out = target.shape[feature] if feature >= 0 else 1
    flat = bool(places) and not wanted and out == given * math.prod(places) and math.prod(places) > 1
    ends = (source_batch, source_feature), (batch, feature)
    if source.shape == target.shape:
        # A batch that only one of them has would be another matter, but then the shapes differ too.
        return Adapter(rules, *ends, False, "")
    steps: list[str] = []
    if flat:
        steps.append("flattened")
        given *= math.prod(places)
    elif len(places) > len(wanted) and not wanted:
        steps.append(f"mean over {len(places)} {'axis' if len(places) == 1 else 'axes'}")
    elif len(places) < len(wanted) and not places:
        steps.append(f"repeated along {len(wanted)} new {'axis' if len(wanted) == 1 else 'axes'}")
    elif places != wanted:
        shrinks = math.prod(places) >= math.prod(wanted)
        steps.append("average pool" if shrinks else "nearest upsampling")
    if given != out:
        steps.append(f"first {out} of {given} features" if given > out else f"{out - given} zero features")
    if not steps:
        steps.append("axes moved")
    return Adapter(rules, *ends, flat, ", ".join(steps))


def fitted_features(x: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    """Cut features off, or pad them with zeros."""
    import torch

    given = x.shape[axis]
    if given >= size:
        return x.narrow(axis, 0, size)
    shape = list(x.shape)
    shape[axis] = size - given
    return torch.cat([x, x.new_zeros(shape)], axis)


def _places(x: torch.Tensor, wanted: Sequence[int]) -> torch.Tensor:
    """Fit what lies between batch and features to other sizes."""
    given = list(x.shape[1:-1])
    if given == list(wanted):
        return x
    if not wanted:
        return x.mean(dim=list(range(1, x.ndim - 1)))
    if not given:
        shape = (x.shape[0], *[1] * len(wanted), x.shape[-1])
        return x.reshape(shape).expand(x.shape[0], *wanted, x.shape[-1])
    if len(given) == len(wanted):
        for axis, size in enumerate(wanted, start=1):
            x = _resized(x, axis, size)
        return x
    x = _resized(x.flatten(1, -2), 1, math.prod(wanted))
    return x.reshape(x.shape[0], *wanted, x.shape[-1])


def _resized(x: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    """Average a longer axis down, repeat a shorter one by nearest neighbours."""
    import torch

    given = x.shape[axis]
    if given == size:
        return x
    if given > size:
        moved = x.movedim(axis, -1)
        flat = moved.reshape(1, -1, given)
        return torch.nn.functional.adaptive_avg_pool1d(flat, size).reshape(*moved.shape[:-1], size).movedim(-1, axis)
    places = torch.arange(size, device=x.device) * given // size
    return x.index_select(axis, places)
