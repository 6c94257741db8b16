"""Compile a small encoder once, run it at sizes nobody announced, and see what became of it."""

import random

import torch
from torch import nn

import mlsysopt as mo
from mlsysopt.graph import dims, f32


class Block(nn.Module):
    """Attention and a wide layer, each behind a residual and a norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x + self.attention(x, x, x, need_weights=False)[0])
        return self.second(x + self.narrow(nn.functional.gelu(self.wide(x))))


torch.manual_seed(0)
torch.set_num_threads(1)
model = Block(256, 4).eval()
B, S = dims("B", "S", max=(16, 512), likely={"S": [32, 128]})
run = mo.compile(model, {"x": f32[B, S, 256]})

rng = random.Random(0)
worst = 0.0
with torch.inference_mode():
    for batch, length in [(1, 1), (2, 61), *((rng.randint(1, 4), rng.randint(1, 200)) for _ in range(20))]:
        x = torch.randn(batch, length, 256)
        worst = max(worst, float((run(x) - model(x)).abs().max()))
print(f"22 sizes, {run.stats.recompiles} recompilations, largest difference from eager {worst:.1e}")

x = torch.randn(1, 37, 256)
with torch.inference_mode():
    print("1 x 37, compiled against eager:", mo.compare(lambda: model(x), lambda: run(x), clock="cpu"))
print(f"memory of a call: {run.memory_bound(B=1, S=37).bytes} bytes beside inputs and weights")
print(run.explain(B=1, S=37))
