"""Small networks and their trainings for the ablation benches; each training costs a fraction of a CPU second."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlsysopt.design.ablate import data_rng

# --- planted parts -------------------------------------------------------------------------------

USELESS = tuple(f"u{i}" for i in range(6))
BRANCHES = ("a", *USELESS, "c", "d")


class Planted(nn.Module):
    """A sum of branches, each reading columns of its own.

    Branch `a` alone sees the first bit of the label, `c` and `d` both see the second one, the six
    others see noise.
    """

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.branches = nn.ModuleDict(
            {name: nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 4)) for name in BRANCHES}
        )

    def forward(self, x: Tensor) -> Tensor:
        out = x.new_zeros(len(x), 4)
        for place, branch in enumerate(self.branches.values()):
            out = out + branch(x[:, 2 * place : 2 * place + 2])
        return out


def planted_data(seed: int, rows: int = 3000) -> dict[str, np.ndarray]:
    """Draw columns for every branch and labels 0..3 from two hidden bits; 4 % of the labels are wrong."""
    rng = np.random.default_rng([20, seed])
    first, second = rng.integers(0, 2, rows), rng.integers(0, 2, rows)
    x = rng.standard_normal((rows, 2 * len(BRANCHES)))

    def show(branch: str, bit: np.ndarray) -> None:
        place = 2 * BRANCHES.index(branch)
        x[:, place : place + 2] += (2 * bit - 1)[:, None] * np.array([1.2, -1.2])

    show("a", first)
    show("c", second)
    # The backup sees the very same: alone, neither of the two adds anything to the other.
    place, other = 2 * BRANCHES.index("d"), 2 * BRANCHES.index("c")
    x[:, place : place + 2] = x[:, other : other + 2]
    labels = 2 * first + second
    labels = np.where(rng.random(rows) < 0.04, rng.integers(0, 4, rows), labels)
    x = x.astype(np.float32)
    half = rows // 2
    return {"x_train": x[:half], "y_train": labels[:half], "x_val": x[half:], "y_val": labels[half:]}


def train_planted(model: Any, data: Any, *, seed: int) -> dict[str, float]:
    """Two epochs of AdamW in batches of 100."""
    accuracy = fit(model, data, seed=seed, epochs=2, batch=100, rate=0.03)
    return {"accuracy": accuracy}


# --- digits --------------------------------------------------------------------------------------


class Block(nn.Module):
    """x + conv(relu(norm(conv(x))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.norm(self.conv1(x))))


class DigitsNet(nn.Module):
    """A residual network for 8 x 8 digits."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.stem_norm = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.pool = nn.AvgPool2d(2)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(width * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.stem_norm(self.stem(x))))
        x = self.blocks(x)
        return self.head(self.drop(x.flatten(1)))


def digits(rows: int = 1437) -> dict[str, Any]:
    """Return sklearn's digits, up to 1,437 rows to train and 360 to validate."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(7).permutation(len(images))
    x, y = (images[order] / 16.0).astype(np.float32).reshape(-1, 1, 8, 8), labels[order].astype(np.int64)
    return {"x_train": x[:rows], "y_train": y[:rows], "x_val": x[1437:], "y_val": y[1437:]}


def train_digits(
    model: Any, data: Any, *, seed: int, smoothing: float = 0.1, decay: float = 0.01, shift: bool = True
) -> dict[str, float]:
    """Three epochs of AdamW; images move by a pixel at random."""
    accuracy = fit(model, data, seed=seed, epochs=3, batch=64, rate=0.01, smoothing=smoothing, decay=decay, shift=shift)
    return {"accuracy": accuracy}


def train_digits_plainly(
    model: Any, data: Any, *, seed: int, smoothing: float = 0.1, decay: float = 0.01
) -> dict[str, float]:
    """Five epochs of AdamW on images as they are."""
    accuracy = fit(model, data, seed=seed, epochs=5, batch=64, rate=0.01, smoothing=smoothing, decay=decay)
    return {"accuracy": accuracy}


# --- a mixer on MNIST ----------------------------------------------------------------------------


class Mix(nn.Module):
    """Token mixing, then channel mixing, each on a residual branch."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = nn.Sequential(nn.Linear(tokens, 2 * tokens), nn.GELU(), nn.Linear(2 * tokens, tokens))
        self.channels = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    """An MLP-mixer on 16 patches of 7 x 7 pixels."""

    def __init__(self, width: int = 16, blocks: int = 2) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 7, stride=7)
        self.blocks = nn.Sequential(*[Mix(16, width) for _ in range(blocks)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(x)).mean(dim=1))


def mnist(rows: int = 1000, held_out: int = 400) -> dict[str, np.ndarray]:
    """Return a small part of MNIST."""
    from mlsysopt.core import datasets

    full = datasets.load("mnist")
    order = np.random.default_rng(11).permutation(len(full["X_train"]))[: rows + held_out]
    x = (full["X_train"][order] / 255.0).astype(np.float32)[:, None]
    y = full["y_train"][order].astype(np.int64)
    return {"x_train": x[:rows], "y_train": y[:rows], "x_val": x[rows:], "y_val": y[rows:]}


def train_mixer(model: Any, data: Any, *, seed: int, smoothing: float = 0.1, decay: float = 0.05) -> dict[str, float]:
    """Four epochs of AdamW."""
    return {"accuracy": fit(model, data, seed=seed, epochs=4, batch=50, rate=0.01, smoothing=smoothing, decay=decay)}


# --- the loop ------------------------------------------------------------------------------------


def fit(
    model: Any, data: Any, *, seed: int, epochs: int, batch: int, rate: float, smoothing: float = 0.0,
    decay: float = 0.0, shift: bool = False,
) -> float:  # fmt: skip
    """Train with AdamW and a falling rate; return the accuracy on the validation rows."""
    torch.set_num_threads(1)
    x, y = (torch.from_numpy(np.asarray(data[name])) for name in ("x_train", "y_train"))
    steps = epochs * (len(x) // batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    rng = data_rng(seed)
    model.train()
    for _ in range(epochs):
        order = torch.from_numpy(rng.permutation(len(x)))
        for start in range(0, len(x) - batch + 1, batch):
            rows = order[start : start + batch]
            inputs = x[rows]
            if shift:
                dx, dy = (int(n) for n in rng.integers(-1, 2, 2))
                inputs = torch.roll(inputs, (dx, dy), (2, 3))
            loss = F.cross_entropy(model(inputs), y[rows], label_smoothing=smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        guessed = model(torch.from_numpy(np.asarray(data["x_val"]))).argmax(dim=1).numpy()
    return float(np.mean(guessed == np.asarray(data["y_val"])))
