"""What a model costs before it runs for real: parameters, and multiply-adds of one forward pass."""

from __future__ import annotations

import copy
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlsysopt.design.ablate.probe import call_model, slow_paths

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Cost", "Counted", "counting", "static_cost"]


@dataclass(frozen=True, slots=True)
class Cost:
    """Costs of a model.

    Attributes:
        parameters: Numbers that are learned; shared ones count once.
        macs: Multiply-adds of matrix products, convolutions and attention in one forward pass.
    """

    parameters: int
    macs: float


@dataclass(slots=True)
class Counted:
    """Multiply-adds while a model runs.

    Attributes:
        macs: All so far.
        inside: Path of a module -> those in its calls.
    """

    macs: float = 0.0
    inside: dict[str, float] = field(default_factory=dict[str, float])


@contextmanager
def counting(model: nn.Module | None = None) -> Generator[Counted]:
    """Count multiply-adds of what runs inside, in all and by the modules of a model."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    found = Counted()
    handles: list[Any] = []

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            given = kwargs or {}
            result = func(*args, **given)
            formula = flop_registry.get(func.overloadpacket)
            if formula is not None:
                found.macs += float(formula(*args, **given, out_val=result)) / 2
            return result

    def watch(path: str, module: nn.Module) -> None:
        def before(module: nn.Module, args: Any) -> None:
            found.inside[path] = found.inside.get(path, 0.0) - found.macs

        def after(module: nn.Module, args: Any, output: Any) -> None:
            found.inside[path] += found.macs

        handles.append(module.register_forward_pre_hook(before))
        handles.append(module.register_forward_hook(after))

    for path, module in model.named_modules() if model is not None else ():
        if not isinstance(module, torch.jit.ScriptModule):  # which takes no hooks; what is around it does
            watch(path, module)
    try:
        with Count():
            yield found
    finally:
        for handle in handles:
            handle.remove()


def static_cost(model: nn.Module, batch: Any) -> Cost:
    """Return parameters and multiply-adds.

    Args:
        model: The model; it is not changed.
        batch: What it is called with.

    >>> import torch
    >>> static_cost(torch.nn.Linear(4, 3, bias=False), torch.zeros(2, 4))
    Cost(parameters=12, macs=24.0)
    """
    import torch

    subject = copy.deepcopy(model).eval()
    with counting() as counted, torch.no_grad(), slow_paths():
        call_model(subject, batch)
    return Cost(sum(one.numel() for one in model.parameters()), counted.macs)
