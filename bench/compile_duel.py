"""What the benches of `compile` share: interleaved cells in CPU time, and the models that they run.

A cell is one size. Contestants run in blocks A B C ... C B A; a block is as many calls as last a few milliseconds.
The clock is the CPU time of the process, so that a peer's own threads count. Weights of the models are larger than
the last-level cache: they are cold at each call.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["cell", "encoder", "encoder_inputs", "geomean", "width"]

ROUNDS = 9
LEAST_S = 0.02


def cell(
    contestants: Mapping[str, Callable[[], Any]], *, rounds: int = ROUNDS, least_s: float = LEAST_S
) -> dict[str, float]:
    """Return the median CPU seconds of one call of each contestant."""
    loops: dict[str, int] = {}
    for name, call in contestants.items():
        call()
        start = time.process_time()
        call()
        loops[name] = max(1, math.ceil(least_s / max(time.process_time() - start, 1e-6)))
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            call, count = contestants[name], loops[name]
            start = time.process_time()
            for _ in range(count):
                call()
            seconds[name].append((time.process_time() - start) / count)
    return {name: statistics.median(found) for name, found in seconds.items()}


def geomean(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean(math.log(value) for value in values))


def width() -> str:
    """Return which kind of host this is: "wide" (AVX-512) or "narrow"."""
    from mlsysopt.compile.codegen.target import host_isa

    return "wide" if host_isa().lanes >= 16 else "narrow"


def encoder(layers: int) -> Any:
    """Return a BERT-base body of so many layers with random weights, from ids and mask."""
    import torch
    from transformers import BertConfig, BertModel

    class Hidden(torch.nn.Module):
        """Returns the last hidden state as a tensor, so that every runtime returns the same thing."""

        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    torch.manual_seed(0)
    settings: dict[str, Any] = {"num_hidden_layers": layers, "attn_implementation": "sdpa"}
    config = BertConfig(**settings)
    return Hidden(BertModel(config, add_pooling_layer=False)).eval()


def encoder_inputs(batch: int, length: int, *, seed: int = 0, padded: bool = False) -> list[Any]:
    """Return ids and mask; with padding, a quarter of the last sequence is masked."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 30522, (batch, length), generator=generator)
    mask = torch.ones(batch, length, dtype=torch.int64)
    if padded and length >= 4:
        mask[-1, -(length // 4) :] = 0
    return [ids, mask]
