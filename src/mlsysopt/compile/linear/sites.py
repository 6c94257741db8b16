"""The products with constant weights in a torch model: which there are, and how much of its work each does.

What is written as a module is found by looking at the modules. What is written as a function call (`x @ self.w`, the
fused path of torch's encoder layer, the gates of an LSTM) shows only when the model runs: one traced call finds it.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Product", "Trace", "call", "evaluating", "products", "trace"]

LEAST_ELEMENTS = 128 * 128  # below, the call costs more than the choice of a kernel can save


@dataclass(frozen=True, slots=True)
class Product:
    """One matrix product whose second operand is a parameter.

    Attributes:
        path: Module that holds the weight, as in `named_modules`; for a functional product the parameter's name.
        kind: "linear" (weight [N, K]), "conv1d" (weight [K, N]), "attention" (`nn.MultiheadAttention`'s input
            projection, [3E, E]), "rnn", "fused" or "functional".
        n: Output features.
        k: Input features.
        bias: Whether a vector is added.
        users: Modules that multiply by this very weight; more than one when it is tied.
        reason: Why it stays as it is; empty when it can be adapted.
        rows: Rows in the traced call, 0 without one.
        share: Share of the traced call's floating-point operations, NaN without a traced call.
    """

    path: str
    kind: str
    n: int
    k: int
    bias: bool = False
    users: tuple[str, ...] = ()
    reason: str = ""
    rows: int = 0
    share: float = math.nan

    @property
    def adaptable(self) -> bool:
        return not self.reason

    def __str__(self) -> str:
        share = "" if math.isnan(self.share) else f", {self.share:.1%} of the flops"
        return f"{self.path} {self.kind} {self.k}x{self.n}{share}" + (f": {self.reason}" if self.reason else "")


@dataclass(frozen=True, slots=True)
class Trace:
    """What one call of a model multiplied.

    Attributes:
        flops: All floating-point operations of products and convolutions.
        work: Storage address of a parameter -> (floating-point operations, rows, name of the op).
    """

    flops: float
    work: Mapping[int, tuple[float, int, str]]


def products(model: nn.Module, seen: Trace | None = None) -> list[Product]:
    """Return every product of a model with constant weights, those that cannot be adapted with the reason.

    Args:
        model: Any module.
        seen: A traced call; without one, functional products are listed from their parameters, without a share.

    >>> from torch import nn
    >>> [str(one) for one in products(nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 4)))]
    ['0 linear 256x512', '2 linear 512x4: smaller than 128x128']
    """
    # One product for all that multiply by a weight in the same way, which a layer of a class of its own does not, nor
    # one with another bias: a library may pack it with the weights.
    found: dict[tuple[Any, ...], Product] = {}
    uses: Counter[int] = Counter()
    for path, module in model.named_modules():
        for product, weight in _of_module(path, module, model):
            key = (id(weight), id(_bias(module)), product.kind, product.reason)
            uses[id(weight)] += 1
            known = found.get(key)
            users = (*known.users, path) if known is not None else (path,)
            found[key] = replace(known or product, users=users)
    parameters = {id(one): (name, one) for name, one in model.named_parameters()}
    for key, (name, weight) in parameters.items():
        if key not in uses and _functional(model, name, weight, seen):
            # [out, in] is how torch writes most of its own; only the shape is told, nothing is done with it.
            found[(key,)] = Product(name, _kind(seen, weight), *_shape(weight), reason="reached by a function call")
    if seen is None:
        return list(found.values())
    weights = {id(module_weight): module_weight for module_weight in _all_weights(model)}
    return [
        _with_work(product, weights.get(key), seen, len(product.users) / uses[key] if key in uses else 1.0)
        for (key, *_), product in found.items()
    ]


def trace(model: nn.Module, inputs: Any) -> Trace:
    """Run a model once and return what it multiplied.

    Args:
        model: Any module; it is run as it stands, without gradients.
        inputs: A tensor, a tuple of positional or a mapping of keyword arguments.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    parameters = {one.untyped_storage().data_ptr() for one in _all_weights(model)}
    work: dict[int, tuple[float, int, str]] = {}
    total = 0.0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal total
            out = func(*args, **(kwargs or {}))
            packet = func._overloadpacket
            weights, rows = _operands(args, parameters)
            if packet in flop_registry:
                flops = float(flop_registry[packet](*args, **(kwargs or {}), out_val=out))
            elif _multiplies(packet.__name__):
                flops = 2.0 * rows * sum(one.numel() for one in weights)
            else:
                return out
            total += flops
            elements = sum(one.numel() for one in weights)
            for one in weights:
                key = one.untyped_storage().data_ptr()
                before, most, _ = work.get(key, (0.0, 0, ""))
                work[key] = (before + flops * one.numel() / elements, max(most, rows), packet.__name__)
            return out

    with evaluating(model), torch.no_grad(), Watch():
        call(model, inputs)
    return Trace(total, work)


def call(model: nn.Module, inputs: Any) -> Any:
    """Call a model with a tensor, a tuple of positional or a mapping of keyword arguments."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Generator[None]:
    """Run in evaluation mode, and leave every module as it was."""
    modes = [(one, one.training) for one in model.modules()]
    # Not by `eval()`, which some layers take as the word for merging or rounding their weights.
    for one, _ in modes:
        one.training = False
    try:
        yield
    finally:
        for one, training in modes:
            one.training = training


def _of_module(path: str, module: nn.Module, model: nn.Module) -> Iterator[tuple[Product, Any]]:
    """Yield what a module multiplies by, with the parameter itself."""
    from torch import nn

    label = path or type(model).__name__
    name = type(module).__name__
    if isinstance(module, nn.MultiheadAttention):
        own = module.__dict__["_parameters"]
        weight = own.get("in_proj_weight")
        if weight is not None:
            bias = own.get("in_proj_bias") is not None
            product = Product(label, "attention", *_shape(weight), bias=bias)
            yield replace(product, reason=_refused(weight) or _attention(path, module, model)), weight
        for part in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
            weight = getattr(module, part)
            if weight is not None:
                reason = _attention(path, module, model)
                yield Product(f"{label}.{part}", "attention", *_shape(weight), reason=reason), weight
    elif isinstance(module, nn.RNNBase):
        for part, weight in module.named_parameters(recurse=False):
            if weight.dim() == 2:
                yield Product(f"{label}.{part}", "rnn", *_shape(weight), reason=f"inside nn.{name}"), weight
    elif isinstance(module, nn.Linear) or _is_conv1d(module) or _quantized(module):
        weight = module.__dict__["_parameters"].get("weight")
        shape = _features(module, weight)
        kind = "conv1d" if _is_conv1d(module) else "linear"
        bias = getattr(module, "bias", None) is not None
        reason = _module_refused(module, weight) or _inside_attention(path, model)
        product = Product(label, kind, *shape, bias=bias, reason=reason)
        yield product, (weight if weight is not None else module)


def _features(module: Any, weight: Any) -> tuple[int, int]:
    """Return (outputs, inputs)."""
    if _is_conv1d(module):
        return int(module.weight.shape[1]), int(module.weight.shape[0])
    if weight is not None and not _lazy(weight) and weight.dim() == 2:
        return _shape(weight)
    return int(module.out_features), int(module.in_features)


def _module_refused(module: Any, weight: Any) -> str:
    from torch import nn
    from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
    from torch.nn.utils import parametrize

    if parametrize.is_parametrized(module):
        return "parametrized"
    if _quantized(module):
        return "quantized"
    known = (nn.Linear, NonDynamicallyQuantizableLinear)
    adapted = getattr(module, "adapts", None) is not None
    if not adapted and type(module) not in known and not _is_conv1d(module):
        return f"{type(module).__name__} is a class of its own"
    if "forward" in module.__dict__:
        return "its forward was replaced"
    return "its weight is computed" if weight is None else _refused(weight)


def _refused(weight: torch.Tensor) -> str:
    """Return why a weight cannot be packed, empty when it can."""
    import torch

    if _lazy(weight):
        return "not initialized yet"
    if weight.is_meta:
        return "on the meta device"
    if weight.layout != torch.strided:
        return f"{str(weight.layout).removeprefix('torch.')} weight"
    if weight.device.type != "cpu":
        return f"on {weight.device}"
    if type(weight) not in (torch.nn.Parameter, torch.Tensor):
        return f"its weight is a {type(weight).__name__}"
    if weight.dtype != torch.float32:
        return f"{str(weight.dtype).removeprefix('torch.')} weight"
    if weight.is_inference():
        return "its weight was made in inference mode, where changes cannot be seen"
    return "smaller than 128x128" if weight.numel() < LEAST_ELEMENTS else ""


def _attention(path: str, module: nn.MultiheadAttention, model: nn.Module) -> str:
    """Return why an attention is left to torch, empty when it has an adapter."""
    from torch import nn

    if module.__dict__["_parameters"].get("in_proj_weight") is None:
        return "queries, keys and values of different widths"
    if type(module) is not nn.MultiheadAttention and getattr(module, "adapts", None) is None:
        return f"{type(module).__name__} is a class of its own"
    if module.bias_k is not None or module.add_zero_attn:
        return "extra keys (add_bias_kv or add_zero_attn)"
    # torch's decoder layer attends by this one to what the encoder returned.
    above, _, name = path.rpartition(".")
    across = name == "multihead_attn" and isinstance(model.get_submodule(above), nn.TransformerDecoderLayer)
    return "cross attention" if across else ""


def _inside_attention(path: str, model: nn.Module) -> str:
    """Return why the output projection of an attention is out of reach: torch reads its weight without calling it."""
    from torch import nn

    above, _, name = path.rpartition(".")
    owner = model.get_submodule(above) if name == "out_proj" else None
    return _attention(above, owner, model) if isinstance(owner, nn.MultiheadAttention) else ""


def _is_conv1d(module: Any) -> bool:
    """Tell transformers' Conv1D, a linear layer with its weight as [in, out], without importing transformers."""
    original = getattr(module, "adapts", None) or type(module)
    return original.__name__ == "Conv1D" and original.__module__.startswith("transformers.")


def _quantized(module: Any) -> bool:
    """Tell the quantized linear layers, whose weight is no parameter."""
    return type(module).__module__.startswith("torch.ao.nn.quantized") and hasattr(module, "out_features")


def _functional(model: nn.Module, name: str, weight: torch.Tensor, seen: Trace | None) -> bool:
    from torch import nn

    if _lazy(weight):
        return False
    if seen is not None:
        return _address(weight) in seen.work and _kind(seen, weight) != "convolution"
    owner = model.get_submodule(name.rpartition(".")[0])
    # Tables that are looked up, and what other layers scale by, multiply nothing.
    return weight.dim() == 2 and not isinstance(owner, nn.Embedding | nn.EmbeddingBag | nn.LayerNorm | nn.RNNBase)


def _kind(seen: Trace | None, weight: torch.Tensor) -> str:
    op = "" if seen is None else seen.work[_address(weight)][2]
    if "convolution" in op:
        return "convolution"
    return "fused" if op.startswith(("_transformer", "_native")) else "functional"


def _with_work(product: Product, weight: torch.Tensor | None, seen: Trace, part: float) -> Product:
    """Return a product with its part of the work that was seen for its weight."""
    flops, rows, _ = seen.work.get(_address(weight), (0.0, 0, "")) if weight is not None else (0.0, 0, "")
    return replace(product, rows=rows, share=part * flops / seen.flops if seen.flops else 0.0)


def _all_weights(model: nn.Module) -> list[torch.Tensor]:
    import torch

    return [one for one in model.parameters() if one.layout == torch.strided and not one.is_meta and not _lazy(one)]


def _lazy(weight: Any) -> bool:
    """Tell a parameter of torch's lazy modules that has no shape before the first call."""
    from torch.nn.parameter import is_lazy

    return bool(is_lazy(weight))


def _bias(module: nn.Module) -> Any:
    own = module.__dict__["_parameters"]
    return own.get("in_proj_bias", own.get("bias"))


def _address(weight: torch.Tensor) -> int:
    import torch

    return 0 if weight.layout != torch.strided or weight.is_meta else weight.untyped_storage().data_ptr()


def _shape(weight: torch.Tensor) -> tuple[int, int]:
    shape = [int(size) for size in weight.shape]
    return math.prod(shape[:-1]), shape[-1] if shape else 1


def _operands(args: Sequence[Any], parameters: set[int]) -> tuple[list[torch.Tensor], int]:
    """Return the weights among an op's operands, and the rows of what they are multiplied with."""
    import torch

    flat: list[Any] = []
    for one in args:
        flat.extend(one if isinstance(one, list | tuple) else [one])
    tensors = [one for one in flat if type(one) in (torch.Tensor, torch.nn.Parameter) and one.layout == torch.strided]
    weights = [one for one in tensors if one.dim() >= 2 and one.untyped_storage().data_ptr() in parameters]
    others = [one for one in tensors if one.dim() >= 2 and one.untyped_storage().data_ptr() not in parameters]
    rows = others[0].numel() // max(others[0].shape[-1], 1) if others else 0
    return weights, rows


def _multiplies(op: str) -> bool:
    """Tell ops that multiply by weights and whose flops torch does not count."""
    return op in ("linear", "_transformer_encoder_layer_fwd", "_native_multi_head_attention") or "rnn_layer" in op
