"""Models with many parts, for planning and for screening."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class Part(nn.Module):
    """One residual branch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.map = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.map(self.norm(x)))


class Deep(nn.Module):
    """A chain of residual parts."""

    def __init__(self, parts: int = 100, width: int = 16) -> None:
        super().__init__()
        self.parts = nn.Sequential(*[Part(width) for _ in range(parts)])
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.parts(x))


def deep() -> Deep:
    return Deep()


def deep_data() -> dict[str, np.ndarray]:
    return {"x_train": np.random.default_rng(0).standard_normal((64, 16)).astype(np.float32)}


def never(model: Any, data: Any, *, seed: int) -> float:
    raise AssertionError("planning trains nothing")


ESSENTIAL = ("parts.3", "parts.17", "parts.29")


class Wide(nn.Module):
    """A sum of forty branches that read one column each; three of them see the label."""

    def __init__(self, parts: int = 40) -> None:
        super().__init__()
        self.parts = nn.ModuleList([nn.Linear(1, 8) for _ in range(parts)])
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = x.new_zeros(len(x), 8)
        for place, part in enumerate(self.parts):
            hidden = hidden + part(x[:, place : place + 1])
        return self.head(torch.tanh(hidden))


def wide_data(rows: int = 1600) -> dict[str, np.ndarray]:
    """Draw forty columns; the label is the sign of a sum of three."""
    rng = np.random.default_rng(40)
    x = rng.standard_normal((rows, 40)).astype(np.float32)
    seen = [int(name.rpartition(".")[2]) for name in ESSENTIAL]
    y = (x[:, seen].sum(axis=1) + 0.3 * rng.standard_normal(rows) > 0).astype(np.int64)
    half = rows // 2
    return {"x_train": x[:half], "y_train": y[:half], "x_val": x[half:], "y_val": y[half:]}


def train_wide(model: Any, data: Any, *, seed: int) -> dict[str, float]:
    """Two epochs of AdamW in batches of 100."""
    from bench.ablate_nets import fit

    return {"accuracy": fit(model, data, seed=seed, epochs=2, batch=100, rate=0.03)}
