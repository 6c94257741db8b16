"""A small network as a program: its text, its peak memory as a formula, and the order of ops that needs least."""

from __future__ import annotations

import torch

from mlsysopt import graph as mg
from mlsysopt.graph import dims, f32


class Inception(torch.nn.Module):
    """Three branches over one input, joined by a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = torch.nn.Conv2d(8, 48, 1)
        self.down = torch.nn.Conv2d(48, 8, 3, padding=1)
        self.side = torch.nn.Conv2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = torch.relu(self.wide(x))
        side = torch.relu(self.side(x))
        pooled = torch.nn.functional.max_pool2d(x, 3, stride=1, padding=1)
        return torch.cat([self.down(wide), side, pooled], dim=1).mean((2, 3))


def main() -> None:
    (batch,) = dims("B", max=64)
    torch.manual_seed(0)
    program = mg.from_torch(Inception().eval(), inputs={"x": f32[batch, 8, 16, 16]})
    program.verify()
    print(program)
    print("\npeak:", mg.memory.peak(program))
    print("best:", mg.memory.best_order(program, B=1))
    inputs = mg.random_inputs(program, {"B": 2}, seed=0)
    (reference,) = mg.interpret(program, inputs=inputs).values()
    with torch.no_grad():
        eager = mg.to_torch(program)(torch.from_numpy(inputs["x"]).float())
    print("torch against the float64 reference:", f"{abs(eager.numpy() - reference).max():.1e}")


if __name__ == "__main__":
    main()
