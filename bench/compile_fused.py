"""Fused kernels at twelve sizes: `python -m bench.compile_fused`. Bar compile-dynamic.1.

Residual + bias + LayerNorm, bias + GELU, scale + mask + softmax, and RMSNorm with a SwiGLU gate, each as an ordinary
PyTorch function compiled once for all sizes. A third of the mask is -inf. Eager PyTorch and Inductor (dynamic, fresh
caches) run the same function.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from typing import Any

from bench.compile_duel import cell, geomean, width
from bench.protocol import Bench

SIZES = ((1, 1), (1, 8), (1, 24), (1, 37), (1, 128), (1, 384), (2, 61), (2, 384), (4, 16), (4, 61), (8, 8), (8, 128))
HIDDEN, WIDE, HEADS = 768, 3072, 12


def functions() -> dict[str, tuple[Any, dict[str, Any], Callable[[int, int], list[Any]]]]:
    """Return name -> (module, input types, inputs at a size)."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    from mlsysopt.graph import dims, f32

    B, S = dims("B", "S", max=(64, 512), likely={"S": [32, 128]})
    torch.manual_seed(0)

    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias, self.norm = nn.Parameter(torch.randn(HIDDEN)), nn.LayerNorm(HIDDEN)

        def forward(self, x: Any, residual: Any) -> Any:
            return self.norm(x + self.bias + residual)

    class Gelu(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.randn(WIDE))

        def forward(self, x: Any) -> Any:
            return F.gelu(x + self.bias)

    class Softmax(nn.Module):
        def forward(self, scores: Any, mask: Any) -> Any:
            return torch.softmax(scores * 0.125 + mask, -1)

    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(HIDDEN))

        def forward(self, x: Any, gate: Any, up: Any) -> Any:
            scaled = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight
            return scaled + F.silu(gate) * up

    def masked(batch: int, length: int) -> list[Any]:
        mask = torch.zeros(batch, 1, 1, length)
        mask[..., length - length // 3 :] = float("-inf")
        return [torch.randn(batch, HEADS, length, length), mask]

    row = f32[B, S, HIDDEN]
    return {
        "residual+bias+LayerNorm": (Norm(), {"x": row, "residual": row}, lambda b, s: _randn(2, b, s, HIDDEN)),
        "bias+GELU": (Gelu(), {"x": f32[B, S, WIDE]}, lambda b, s: _randn(1, b, s, WIDE)),
        "scale+mask+softmax": (Softmax(), {"scores": f32[B, HEADS, S, S], "mask": f32[B, 1, 1, S]}, masked),
        "RMSNorm+SwiGLU": (Gate(), {"x": row, "gate": row, "up": row}, lambda b, s: _randn(3, b, s, HIDDEN)),
    }


def _randn(count: int, *shape: int) -> list[Any]:
    import torch

    return [torch.randn(*shape) for _ in range(count)]


def main(argv: list[str] | None = None) -> int:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--no-inductor", action="store_true")
    given = arguments.parse_args(argv)
    import torch

    import mlsysopt
    from mlsysopt.compile.peers import peer

    torch.set_num_threads(1)
    bench = Bench(
        "compile_fused",
        "one generated kernel per function beats eager PyTorch and Inductor at every size",
        f"PyTorch {torch.__version__} eager and Inductor (dynamic=True, freezing, fresh caches)",
        f"1 thread, CPU time, 9 interleaved rounds, {width()} host; error against float64",
    )
    rows: list[list[object]] = []
    eager: list[float] = []
    inductor: list[float] = []
    better: list[float] = []
    worst = 0.0
    for name, (module, types, inputs_at) in functions().items():
        module.eval().requires_grad_(False)
        exact = copy.deepcopy(module).double()
        ours = mlsysopt.compile(module, types, threads=1)
        examples = inputs_at(3, 7)
        other = None if given.no_inductor else peer("inductor", module=module, examples=examples)
        for batch, length in SIZES:
            inputs = inputs_at(batch, length)
            expected = exact(*(one.double() for one in inputs))
            scale = expected.nan_to_num().abs().max().clamp(min=1.0)
            worst = max(worst, float(((ours(*inputs).double() - expected).abs().max()) / scale))

            def eagerly(module: Any = module, inputs: list[Any] = inputs) -> Any:
                with torch.inference_mode():
                    return module(*inputs)

            calls: dict[str, Any] = {"ours": lambda ours=ours, inputs=inputs: ours(*inputs), "eager": eagerly}
            if other is not None:
                calls["inductor"] = other.ready(inputs)
            seconds = cell(calls)
            bench.round(function=name, size=f"{batch}x{length}", **seconds)
            rows.append([name, f"{batch}x{length}", *(f"{1e6 * one:.1f}" for one in seconds.values())])
            eager.append(seconds["eager"] / seconds["ours"])
            if other is not None:
                inductor.append(seconds["inductor"] / seconds["ours"])
                better.append(min(seconds["eager"], seconds["inductor"]) / seconds["ours"])
    bench.table(["function", "B x S", *(["us ours", "eager", "inductor"][: len(rows[0]) - 2])], rows)
    bench.bar("compile-dynamic.1a", geomean(eager), ">=", 1.5, about="geomean over eager")
    if inductor:
        bench.bar("compile-dynamic.1b", geomean(inductor), ">=", 1.8, about="geomean over Inductor")
        bench.bar("compile-dynamic.1c", min(better), ">=", 0.95, about="smallest cell over the better of both")
    bench.bar("compile-dynamic.1d", worst, "<=", 1e-5, about="error against float64")
    bench.headline = f"{geomean(eager):.2f}x eager ({min(eager):.2f} to {max(eager):.2f})"
    if inductor:
        bench.headline += f", {geomean(inductor):.2f}x Inductor"
    return bench.finish(write=not given.no_inductor)


if __name__ == "__main__":
    raise SystemExit(main())
