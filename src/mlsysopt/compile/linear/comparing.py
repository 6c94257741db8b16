"""An adapted model against its plain self: interleaved rounds, and the largest difference of the output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mlsysopt.compile.linear.adapting import plan_of
from mlsysopt.compile.linear.sites import call
from mlsysopt.core.measure import Ratio
from mlsysopt.core.measure import compare as compare_sides

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Compared", "compare"]


@dataclass(frozen=True, slots=True)
class Compared:
    """What a comparison found.

    Attributes:
        ratio: Time of the adapted model over that of the plain one.
        difference: Largest absolute difference of their outputs.
    """

    ratio: Ratio
    difference: float

    @property
    def gain(self) -> float:
        """Time of the plain model over that of the adapted one."""
        return 1.0 / self.ratio.value

    def __str__(self) -> str:
        return f"{self.ratio}; largest difference {self.difference:.2g}"


def compare(
    adapted: nn.Module,
    inputs: Any,
    *,
    max_seconds: float | None = None,
    clock: Literal["auto", "wall", "cpu"] | None = None,
    names: tuple[str, str] = ("plain", "adapted"),
) -> Compared:
    """Time an adapted model against the plain one on the same inputs, in paired and interleaved rounds.

    The plain side is a copy that shares all parameters. Both run in evaluation mode and on the threads of the plan.

    Args:
        adapted: A model after `adapt`.
        inputs: A tensor, a tuple of positional or a mapping of keyword arguments.
        max_seconds: No round starts after so long.
        clock: "cpu", "wall" or "auto"; None takes CPU time at one thread and "auto" above.
        names: Names of the two sides.

    Raises:
        UsageError: the model was not adapted.
    """
    import torch

    from mlsysopt.compile.linear.lowering import answer, serving
    from mlsysopt.compile.linear.swap import plain_twin

    threads = plan_of(adapted).threads
    twin = plain_twin(adapted)

    def side(model: nn.Module) -> Any:
        def run() -> None:
            with torch.inference_mode():
                call(model, inputs)

        return run

    plain, fast = answer(twin, inputs, threads), answer(adapted, inputs, threads)
    # What is NaN or infinite in both is no difference.
    apart = (plain - fast).abs().masked_fill((plain == fast) | (plain.isnan() & fast.isnan()), 0.0)
    with serving(adapted, threads), serving(twin, threads):
        ratio = compare_sides(
            side(twin),
            side(adapted),
            clock=clock or ("cpu" if threads == 1 else "auto"),
            max_seconds=max_seconds,
            names=names,
        )
    return Compared(ratio, float(apart.max()) if apart.numel() else 0.0)
