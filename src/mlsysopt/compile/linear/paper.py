"""The paper's policy, word for word: two forms of the weights, both timed when a number of rows is first seen.

It is a row in our tables, not what `adapt` does: one noisy call decides for ever, and the table has an entry for
every number of rows that ever arrived.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FirstSeen"]


class FirstSeen:
    """A product y[M, N] = x[M, K] w[N, K]^T + b that keeps its weights as [N, K] and as [K, N].

    Args:
        weights: Shape (N, K).
        bias: Shape (N,), or None.
        clock: Seconds; CPU time of the thread unless another is given.

    References:
        Dice and Kogan, Optimizing Inference Performance of Transformers on CPUs, EuroMLSys 2021.
    """

    def __init__(
        self, weights: Tensor, bias: Tensor | None = None, *, clock: Callable[[], float] = time.thread_time
    ) -> None:
        self.weights, self.bias, self.clock = weights, bias, clock
        self.transposed = weights.t().contiguous()
        self.seen: dict[tuple[int, int], str] = {}
        """Rows and threads -> the form that was faster in the first call with them."""

    @property
    def extra_bytes(self) -> int:
        """Bytes of the second copy."""
        return self.transposed.numel() * self.transposed.element_size()

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply x, shape (M, K); the first call with this M and number of threads runs both forms."""
        import torch

        key = (int(x.shape[0]), torch.get_num_threads())
        form = self.seen.get(key)
        if form is not None:
            return self._in_form(form, x)
        times: dict[str, float] = {}
        result: Any = None
        for name in ("nt", "nn"):
            started = self.clock()
            result = self._in_form(name, x)
            times[name] = self.clock() - started
        self.seen[key] = min(times, key=times.__getitem__)
        return result

    def _in_form(self, form: str, x: Tensor) -> Tensor:
        import torch
        from torch.nn import functional

        if form == "nt":
            return functional.linear(x, self.weights, self.bias)
        if self.bias is None:
            return torch.mm(x, self.transposed)
        return torch.addmm(self.bias, x, self.transposed)
