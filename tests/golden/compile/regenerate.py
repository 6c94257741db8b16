"""Golden plans of fused kernels: `python -m tests.golden.compile.regenerate` writes them, the diff is reviewed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mlsysopt.compile.dynamic.fuse import plan
from mlsysopt.graph import Builder, Graph, Value, dims, f32, i64

__all__ = ["CASES", "folder", "text"]

folder = Path(__file__).parent


def _weight(b: Builder, name: str, *shape: int) -> Value:
    return b.constant(name, np.random.default_rng(len(name)).standard_normal(shape).astype(np.float32))


def bert_layer() -> Graph:
    import torch
    from transformers import BertConfig, BertModel

    from mlsysopt.graph import from_torch

    sizes: dict[str, Any] = {
        "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
        "vocab_size": 50, "max_position_embeddings": 64, "attn_implementation": "sdpa",
    }  # fmt: skip
    config = BertConfig(**sizes)

    class Hidden(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = BertModel(config, add_pooling_layer=False)

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.body(input_ids=ids, attention_mask=mask).last_hidden_state

    torch.manual_seed(0)
    B, S = dims("B", "S", max=(64, 64))
    return from_torch(Hidden().eval(), {"ids": i64[B, S], "mask": i64[B, S]}, name="bert_layer")


def swiglu() -> Graph:
    """RMSNorm, gate and value, SwiGLU, back, residual."""
    b = Builder("swiglu")
    x = b.input("x", f32["B", "S", 64])
    h = b.op("rms_norm", x, _weight(b, "scale", 64), axes=(2,), name="h")
    gate = b.op("linear", h, _weight(b, "w_gate", 96, 64), name="gate")
    value = b.op("linear", h, _weight(b, "w_value", 96, 64), name="value")
    product = b.op("mul", b.op("silu", gate), value, name="product")
    return b.finish([b.op("add", b.op("linear", product, _weight(b, "w_back", 64, 96)), x, name="y")])


def softmax_by_hand() -> Graph:
    """Scale, mask and softmax in primitives, the row in the middle of the names of nobody."""
    b = Builder("softmax_by_hand")
    scores, mask = b.input("scores", f32["B", 4, "S", "S"]), b.input("mask", f32["B", 1, 1, "S"])
    shifted = b.op("add", b.op("mul", scores, b.scalar(0.125, scores)), mask)
    power = b.op("exp", b.op("sub", shifted, b.op("max", shifted, axes=(3,), keepdims=True)))
    return b.finish([b.op("div", power, b.op("sum", power, axes=(3,), keepdims=True), name="y")])


def column() -> Graph:
    """Mean and spread over the first axis, and what they make of the elements."""
    b = Builder("column")
    x = b.input("x", f32["N", "C"])
    centred = b.op("sub", x, b.op("mean", x, axes=(0,), keepdims=True))
    spread = b.op("sqrt", b.op("mean", b.op("mul", centred, centred), axes=(0,), keepdims=True), name="spread")
    return b.finish([b.op("div", centred, spread, name="y"), spread])


def embedding() -> Graph:
    """Two embeddings, their sum and its norm."""
    b = Builder("embedding")
    ids, table = b.input("ids", i64["B", "S"]), _weight(b, "words", 50, 32)
    places = b.op("embedding", _weight(b, "places", 64, 32), b.op("iota", shape=("S",)))
    both = b.op("add", b.op("embedding", table, ids), places)
    y = b.op("layer_norm", both, _weight(b, "scale", 32), _weight(b, "shift", 32), axes=(2,), name="y")
    return b.finish([y])


def apart() -> Graph:
    """Two products that share a factor and would share a kernel if S were known to be T."""
    b = Builder("apart")
    x, y, factor = b.input("x", f32["S", 1]), b.input("y", f32["T", 1]), b.input("factor", f32[64])
    return b.finish([b.op("mul", x, factor, name="of_x"), b.op("mul", y, factor, name="of_y")])


CASES: dict[str, Callable[[], Graph]] = {
    one.__name__: one for one in (bert_layer, swiglu, softmax_by_hand, column, embedding, apart)
}


def text(name: str) -> str:
    """Return the plan of a case as text."""
    return str(plan(CASES[name]()))


if __name__ == "__main__":
    for case in CASES:
        (folder / f"{case}.txt").write_text(text(case))
