"""Putting decisions into a model and taking them out again: modules stay the same objects, of another class."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from mlsysopt.compile.linear.adapters import take_over_attention, take_over_layer
from mlsysopt.compile.linear.folded import fold, held_elsewhere, unfold
from mlsysopt.compile.linear.forms import ORIGINAL
from mlsysopt.compile.linear.module import STATE, parameters_of, put_back, take_over
from mlsysopt.compile.linear.packs import Notices, Packs
from mlsysopt.compile.linear.segments import BASELINE
from mlsysopt.compile.variants.decision import Decision

if TYPE_CHECKING:
    from mlsysopt.compile.linear.refine import Refiner
    from mlsysopt.compile.linear.sites import Product
    from mlsysopt.compile.linear.tables import Table

__all__ = ["install", "module_of", "packs_of", "plain_twin", "remove", "replaceable", "weights_of"]


def install(
    model: nn.Module,
    tables: Sequence[Table],
    *,
    threads: int,
    refiners: Mapping[tuple[Any, ...], Refiner] | None = None,
) -> None:
    """Make the products of a model run as decided, in place; tables that change nothing are passed over.

    Args:
        model: The model.
        tables: One for each product.
        threads: Threads that they were made for.
        refiners: `Table.alike` -> what goes on learning; products that are alike learn together.
    """
    try:
        _install(model, tables, threads, refiners or {})
    except BaseException:  # out of memory, an interrupt: half a model would be neither
        remove(model)
        raise


def _install(
    model: nn.Module, tables: Sequence[Table], threads: int, refiners: Mapping[tuple[Any, ...], Refiner]
) -> None:
    shared = Notices()
    for table in tables:
        if not table.changed:
            continue
        product = table.product
        packs = Packs(
            table.decision,
            product.n,
            product.k,
            threads=threads,
            transposed=product.kind == "conv1d",
            notices=shared,
            refiner=refiners.get(table.alike),
        )
        for path in product.users:
            _take(model, path, product, packs)
        if ORIGINAL in table.forms:
            packs.pack(*_parameters(model, product))
        else:
            fold(module_of(model, product.path), packs)
    _open_fused(model, threads, shared)


def _open_fused(model: nn.Module, threads: int, notices: Notices) -> None:
    """Let torch's fused classes call their adapted parts, whose weights they would read otherwise."""
    for module in list(model.modules()):
        whole = type(module) is nn.TransformerEncoderLayer and any(_adapted(one) for one in module.children())
        layer = module if whole and isinstance(module, nn.TransformerEncoderLayer) else None
        attention = module if layer is None else layer.self_attn
        if type(attention) is nn.MultiheadAttention and (layer is not None or _adapted(attention.out_proj)):
            own, width = parameters_of(attention), attention.embed_dim
            if own.get("in_proj_weight") is None:
                continue
            plain = Packs(Decision.always(BASELINE), 3 * width, width, threads=threads, notices=notices)
            take_over_attention(attention, plain)
        if layer is not None:
            take_over_layer(layer)


def _adapted(module: nn.Module) -> bool:
    return STATE in module.__dict__


def remove(model: nn.Module) -> int:
    """Make every adapted module of a model what it was, and return how many there were."""
    count = 0
    for module in list(model.modules()):
        unfold(module)
        count += put_back(module)
    return count


def packs_of(model: nn.Module) -> Iterable[Packs]:
    """Return the packs of all adapted modules, those of tied weights once."""
    found: dict[int, Packs] = {}
    for module in model.modules():
        taken = module.__dict__.get(STATE)
        if taken is not None and taken.packs is not None:
            found[id(taken.packs)] = taken.packs
    return found.values()


def module_of(model: nn.Module, path: str) -> nn.Module:
    """Return a module by the path of a product; the model's own name stands for the model."""
    named = dict(model.named_modules())
    return named.get(path, model)


def weights_of(model: nn.Module, product: Product) -> tuple[Tensor, Tensor | None]:
    """Return the weights of a product as [N, K], and its bias."""
    weight, bias = _parameters(model, product)
    matrix = weight.detach().t() if product.kind == "conv1d" else weight.detach()
    return matrix, None if bias is None else bias.detach()


def replaceable(model: nn.Module, products: Iterable[Product]) -> dict[str, bool]:
    """Return for each product whether its parameter's storage may be given up for a packed form.

    It may not where something else reads it: another module (tied weights), or whoever holds the parameter, such as
    an optimizer, which would go on with an object that the model no longer has.
    """
    counts: dict[int, int] = {}
    for module in model.modules():
        for parameter in parameters_of(module).values():
            if parameter is not None:
                counts[id(parameter)] = counts.get(id(parameter), 0) + 1
    found: dict[str, bool] = {}
    for product in products:
        module = module_of(model, product.path)
        alone = product.kind == "linear" and len(product.users) == 1 and type(module) is nn.Linear
        found[product.path] = alone and counts[id(module.weight)] == 1 and not held_elsewhere(module)
    return found


def plain_twin(model: nn.Module) -> nn.Module:
    """Return a plain copy of an adapted model that shares its parameters and buffers."""
    shared: dict[int, Any] = {id(one): one for one in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, shared)
    remove(twin)
    return twin


def _parameters(model: nn.Module, product: Product) -> tuple[Any, Any]:
    module = module_of(model, product.path)
    names = ("in_proj_weight", "in_proj_bias") if product.kind == "attention" else ("weight", "bias")
    weight, bias = (getattr(module, name) for name in names)
    return weight, bias


def _take(model: nn.Module, path: str, product: Product, packs: Packs) -> None:
    module: Any = module_of(model, path)
    if product.kind == "attention":
        take_over_attention(module, packs)
    else:
        take_over(module, packs)
