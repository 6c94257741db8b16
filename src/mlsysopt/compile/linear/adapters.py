"""torch's attention and encoder layer, whose products are function calls inside one fused operator.

Adapted, in evaluation mode and without gradients, they do the same in steps, so that each product runs in its best
form. Whatever the steps do not cover (training, nested tensors, cross attention, extra keys, one sequence without a
batch) is left to torch's own `forward`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlsysopt.compile.linear.module import STATE, AdaptiveLinear, Taken, applied, parameters_of, trained

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mlsysopt.compile.linear.packs import Packs

# Its steps cost up to a tenth more than torch's one operator, and a product in a better form saves about a third.
_LEAST_SHARE = 0.5

__all__ = ["AdaptiveAttention", "AdaptiveEncoderLayer", "take_over_attention", "take_over_layer"]


class AdaptiveAttention(nn.MultiheadAttention):
    """An `nn.MultiheadAttention` whose projections run in their best form when it attends to its own input."""

    adapts: ClassVar[type[nn.Module]] = nn.MultiheadAttention
    _adaptive: Taken | None = None

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if (
            not torch.compiler.is_compiling()
            and query is key
            and key is value
            and self.covers(query)
            and _pays(query, self.parts())
        ):
            masks = (key_padding_mask, attn_mask)
            fused = _fused(self) and not any(mask is not None and mask.is_floating_point() for mask in masks)
            found = _attended(self, query, *masks, need_weights, fused)
            if found is not None:
                y, weights = found
                return y, weights.mean(1) if weights is not None and average_attn_weights else weights
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            _heed_training(self.parts())
        return super().forward(
            query,
            key,
            value,
            key_padding_mask=key_padding_mask,
            need_weights=need_weights,
            attn_mask=attn_mask,
            average_attn_weights=average_attn_weights,
            is_causal=is_causal,
        )

    def covers(self, query: Tensor) -> bool:
        return (
            self._adaptive is not None
            and not self.training
            and query.dim() == 3
            and not query.is_nested
            and query.dtype is torch.float32
            and self._parameters.get("in_proj_weight") is not None
            and self.bias_k is None
            and not self.add_zero_attn
        )

    def parts(self) -> tuple[nn.Module, ...]:
        """Return the modules that hold its products."""
        return self, self.out_proj

    def train(self, mode: bool = True) -> AdaptiveAttention:
        return trained(self, mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> AdaptiveAttention:
        return applied(self, fn, recurse)


class AdaptiveEncoderLayer(nn.TransformerEncoderLayer):
    """An `nn.TransformerEncoderLayer` that runs its parts, instead of one operator that reads their weights."""

    adapts: ClassVar[type[nn.Module]] = nn.TransformerEncoderLayer
    _adaptive: Taken | None = None

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        if not torch.compiler.is_compiling() and self._covers(src):
            attention = self.self_attn
            assert isinstance(attention, AdaptiveAttention)
            first = self.norm1(src) if self.norm_first else src
            fused = _fused(attention) and self.activation_relu_or_gelu > 0 and self.norm1.eps == self.norm2.eps
            found = _attended(attention, first, src_key_padding_mask, src_mask, False, fused)
            if found is not None:
                x = src + found[0]
                if self.norm_first:
                    return x + self._ff_block(self.norm2(x))
                x = self.norm1(x)
                return self.norm2(x + self._ff_block(x))
        return super().forward(src, src_mask, src_key_padding_mask, is_causal)

    def _covers(self, src: Tensor) -> bool:
        # With gradients, hooks or autocast torch takes the same steps itself, through the parts; nested tensors only
        # its operator understands.
        attention = self.self_attn
        return (
            self._adaptive is not None
            and not (self.training or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"))
            and isinstance(attention, AdaptiveAttention)
            and attention.covers(src)
            and not _hooked(self, *self.children(), attention.out_proj)
            and _pays(src, (*attention.parts(), self.linear1, self.linear2))
        )


def _hooked(*modules: nn.Module) -> bool:
    return any(one.__dict__["_forward_hooks"] or one.__dict__["_forward_pre_hooks"] for one in modules)


def _pays(x: Tensor, parts: Iterable[nn.Module]) -> bool:
    """Tell whether enough of the work has a better form for these rows to make up for what torch's operator fuses."""
    rows, work, better = x.numel() // x.shape[-1], 0, 0
    for part in parts:
        taken: Taken | None = part.__dict__.get(STATE)
        if taken is None or taken.packs is None:
            weight = parameters_of(part).get("weight")
            work += weight.numel() if weight is not None else 0
            continue
        size = taken.packs.n * taken.packs.k
        work += size
        better += 0 if taken.packs.stays_for(rows) else size
    return better >= _LEAST_SHARE * work


def _heed_training(parts: Iterable[nn.Module]) -> None:
    """Drop packs where torch is about to record gradients on the parameters themselves."""
    for part in parts:
        taken: Taken | None = part.__dict__.get(STATE)
        if taken is not None and taken.packs is not None:
            own, prefix = parameters_of(part), "in_proj_" if isinstance(part, nn.MultiheadAttention) else ""
            weight, bias = own.get(f"{prefix}weight"), own.get(f"{prefix}bias")
            if weight is not None:
                taken.packs.heeds_training(weight, bias)


def take_over_attention(module: nn.MultiheadAttention, packs: Packs) -> None:
    """Make an attention adaptive, in place; its output projection is a layer of its own.

    Args:
        module: With queries, keys and values of one width.
        packs: The input projection, [3E, E].
    """
    module.__dict__["_adaptive"] = Taken(type(module), packs)
    module.__class__ = AdaptiveAttention


def take_over_layer(module: nn.TransformerEncoderLayer) -> None:
    """Let an encoder layer run its parts, in place."""
    module.__dict__["_adaptive"] = Taken(type(module), None)
    module.__class__ = AdaptiveEncoderLayer


def _attended(
    module: AdaptiveAttention,
    query: Tensor,
    padding: Tensor | None,
    attention: Tensor | None,
    need_weights: bool,
    fused: bool,
) -> tuple[Tensor, Tensor | None] | None:
    """Return the result and the weights of each head, (batch, heads, rows, rows), if they are wanted.

    None when torch must do it: masks that it words an error about, or a projection that may not leave torch. A
    causal hint needs nothing, as the mask that it speaks of is always given with it. A row that may attend to nothing
    is NaN where torch would take its fused operator, and 0 where it would not.
    """
    mask = _merged(module, query, padding, attention)
    if mask is NotImplemented:
        return None
    taken: Taken | None = module.__dict__.get(STATE)
    assert taken is not None and taken.packs is not None
    own = parameters_of(module)
    weight, bias = own["in_proj_weight"], own.get("in_proj_bias")
    projected = taken.packs.multiply(query, weight, bias)
    if projected is None and not taken.packs.stays_for(query.numel() // taken.packs.k):
        return None
    if projected is None:
        projected = functional.linear(query, weight, bias)
    first, second, width = query.shape
    heads, size = module.num_heads, width // module.num_heads
    parts = projected.view(first, second, 3, heads, size)
    # To (3, batch, heads, rows, size), whichever of the first two axes is the batch.
    q, k, v = parts.permute(2, 0, 3, 1, 4) if module.batch_first else parts.permute(2, 1, 3, 0, 4)
    weights: Tensor | None = None
    if need_weights or (fused and mask is not None):
        scores = (q * (1.0 / math.sqrt(size))) @ k.transpose(-2, -1)
        weights = torch.softmax(scores if mask is None else scores + mask, -1)
        attended = weights @ v
    else:
        attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    order = (0, 2, 1, 3) if module.batch_first else (2, 0, 1, 3)
    joined = attended.permute(*order).reshape(first, second, width)
    last = module.out_proj
    # As torch does, which reads the weights and runs no hooks of this layer.
    if isinstance(last, AdaptiveLinear):
        return last.forward(joined), weights if need_weights else None
    return functional.linear(joined, last.weight, last.bias), weights if need_weights else None


def _fused(module: nn.MultiheadAttention) -> bool:
    """Tell whether torch would take its fused operator for an attention in evaluation mode, masks aside."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    return (
        enabled
        and module.batch_first
        and not module.num_heads % 2
        and parameters_of(module).get("in_proj_bias") is not None
    )


def _merged(module: AdaptiveAttention, query: Tensor, padding: Tensor | None, attention: Tensor | None) -> Any:
    """Return both masks as one that is added to the scores, (batch, 1 or heads, rows, keys); None for none.

    `NotImplemented` for masks of other shapes or types.
    """
    if padding is None and attention is None:
        return None
    batch, rows = (0, 1) if module.batch_first else (1, 0)
    n, s, heads = query.shape[batch], query.shape[rows], module.num_heads
    shapes = ((padding, ((n, s),)), (attention, ((s, s), (n * heads, s, s))))
    for mask, allowed in shapes:
        if mask is None:
            continue
        if tuple(mask.shape) not in allowed or not (mask.dtype is torch.bool or mask.dtype is query.dtype):
            return NotImplemented
    if padding is not None and attention is not None and padding.dtype is not attention.dtype:
        return NotImplemented  # torch warns of this
    added = None if padding is None else _additive(padding, query).view(n, 1, 1, s)
    if attention is None:
        return added
    over = _additive(attention, query)
    over = over.view(1, 1, s, s) if over.dim() == 2 else over.view(n, heads, s, s)
    return over if added is None else over + added


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype is not torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, -math.inf)
