"""Which parts of a network are needed? A study with as many seeds as each question takes, and a verdict a part."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlsysopt.design import ablate


class Net(nn.Module):
    """Two branches that see the same signal, one that sees another, and a useless one."""

    def __init__(self) -> None:
        super().__init__()
        self.edge, self.copy, self.shape, self.noise = (nn.Linear(2, 8) for _ in range(4))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.edge(x[:, :2]) + self.copy(x[:, :2]) + self.shape(x[:, 2:4]) + self.noise(x[:, 4:])
        return self.head(torch.tanh(hidden))


def make_data(rows: int = 1600) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (rows, 2))
    x = rng.standard_normal((rows, 6))
    x[:, :4] += np.repeat(2 * bits - 1, 2, axis=1) * 1.2
    y = 2 * bits[:, 0] + bits[:, 1]
    x, half = x.astype(np.float32), rows // 2
    return {"x_train": x[:half], "y_train": y[:half], "x_val": x[half:], "y_val": y[half:]}


def train(model: Any, data: Any, *, seed: int, decay: float = 0.01) -> dict[str, float]:
    x, y, x_val = (torch.from_numpy(np.asarray(data[name])) for name in ("x_train", "y_train", "x_val"))
    optimizer, rng = torch.optim.AdamW(model.parameters(), 0.03, weight_decay=decay), ablate.data_rng(seed)
    for rows in torch.from_numpy(rng.permutation(len(x))).split(50):
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    return {"accuracy": float(np.mean(model(x_val).argmax(1).numpy() == np.asarray(data["y_val"])))}


def main() -> None:
    study = ablate.study(Net, train, make_data(), maximize="accuracy", margin=0.02)
    study.modules("edge", "copy", "shape", "noise").options(decay=0.0).pairs(("edge", "copy"))
    print(study.plan(), "\n")
    print(study.run(workers=0, inference=False).table())


if __name__ == "__main__":
    main()
