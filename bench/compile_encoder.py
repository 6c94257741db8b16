"""A 4-layer BERT-base body at eight sizes: `python -m bench.compile_encoder`. Bars compile-dynamic.3 and .4.

Eager PyTorch, Inductor (dynamic, freezing, fresh caches), ONNX Runtime and OpenVINO run the same weights on one
thread. ONNX Runtime and OpenVINO read the program as our exporter writes it. Masks are real tensors; the last quarter
of the last sequence is padding.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from bench.compile_duel import cell, encoder, encoder_inputs, geomean, width
from bench.protocol import Bench, as_installed

SIZES = ((1, 1), (1, 4), (1, 8), (1, 24), (1, 37), (1, 128), (4, 61), (2, 200))
LAYERS = 4


def main(argv: list[str] | None = None) -> int:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--peers", default="inductor,onnxruntime,openvino")
    arguments.add_argument("--rounds", type=int, default=7)
    given = arguments.parse_args(argv)
    import torch

    as_installed()
    import mlsysopt
    from mlsysopt.compile.peers import peer
    from mlsysopt.graph import dims, from_torch, i64

    torch.set_num_threads(1)
    wide = width() == "wide"
    names = [name for name in given.peers.split(",") if name]
    bench = Bench(
        "compile_encoder",
        "one executable for all sizes is faster than eager, Inductor, ONNX Runtime and OpenVINO",
        f"PyTorch {torch.__version__} eager and Inductor, ONNX Runtime, OpenVINO, f32",
        f"{LAYERS}-layer BERT-base body, 1 thread, CPU time, {given.rounds} interleaved rounds, {width()} host",
    )
    model = encoder(LAYERS)
    B, S = dims("B", "S", max=(64, 512), likely={"S": [8, 32, 128]})
    types = {"input_ids": i64[B, S], "attention_mask": i64[B, S]}
    start = time.process_time()
    graph = from_torch(model, types)
    import_s = time.process_time() - start
    start = time.process_time()
    ours = mlsysopt.compile(graph, threads=1, cache=False)
    cold_s = time.process_time() - start
    mlsysopt.compile(graph, threads=1)
    start = time.process_time()
    mlsysopt.compile(graph, threads=1)
    warm_s = time.process_time() - start
    examples = encoder_inputs(3, 7)
    try:
        peers = {name: peer(name, module=model, graph=graph, examples=examples) for name in ("torch", *names)}
    except ImportError as error:
        return bench.missing(str(error))
    rows: list[list[object]] = []
    cells: list[dict[str, float]] = []
    worst = 0.0
    for batch, length in SIZES:
        inputs = encoder_inputs(batch, length, seed=length, padded=True)
        with torch.inference_mode():
            expected = model(*inputs)
        found = ours(*inputs)
        worst = max(worst, float((found - expected).abs().max()))
        calls: dict[str, Any] = {"ours": lambda inputs=inputs: ours(*inputs)}
        calls |= {name: one.ready(inputs) for name, one in peers.items()}
        seconds = cell(calls, rounds=given.rounds)
        cells.append(seconds)
        bench.round(size=f"{batch}x{length}", **seconds)
        rows.append([f"{batch}x{length}", *(f"{1e3 * seconds[name]:.2f}" for name in calls)])
        print("  ".join(map(str, rows[-1])), file=sys.stderr, flush=True)
    bench.table(["B x S", "ours", *peers], rows)
    print(f"largest difference from eager: {worst:.1e}")
    if "openvino" in peers:
        print(f"import {import_s:.2f}, our stages cold {cold_s:.2f}, warm {warm_s:.2f} CPU-s")
    for name, one in peers.items():
        print(f"ready: {name} {one.version} {one.ready_cpu_s:.1f} CPU-s, {one.ready_s:.1f} s")

    def over(name: str) -> float:
        return geomean([one[name] / one["ours"] for one in cells])

    bench.bar("compile-dynamic.3a", over("torch"), ">=", 1.4, about="geomean over eager")
    if "onnxruntime" in peers:
        bench.bar("compile-dynamic.3b", over("onnxruntime"), ">=", 1.05, must=wide, about="geomean over ONNX Runtime")
    if "openvino" in peers:
        bench.bar("compile-dynamic.3c", over("openvino"), ">=", 1.0, must=wide, about="geomean over OpenVINO f32")
        bench.bar("compile-dynamic.stretch1", over("openvino"), ">=", 1.10, must=False, about="over OpenVINO f32")
    if "inductor" in peers:
        print(f"geomean over Inductor with freezing: {over('inductor'):.2f}x")
    against = [name for name in peers if wide or name in ("torch", "inductor")]
    least = min(min(one[name] for name in against) / one["ours"] for one in cells)
    bench.bar("compile-dynamic.3d", least, ">=", 0.92, about=f"smallest cell over the best of {', '.join(against)}")
    bench.bar("compile-dynamic.3e", worst, "<=", 1e-3, about="largest difference from eager")
    bench.bar("compile-dynamic.4a", cold_s, "<=", 3.0, about="our stages, cold, CPU-s")
    bench.bar("compile-dynamic.4b", warm_s, "<=", 0.5, must=False, about="our stages, warm, CPU-s (our target)")
    if "inductor" in peers:
        ratio = peers["inductor"].ready_cpu_s / (import_s + cold_s)
        bench.bar("compile-dynamic.4c", ratio, ">=", 5.0, about="Inductor's cold start over ours, export included")
    if "openvino" in peers:
        _bf16(bench, graph, model, given.rounds)
    others = [name for name in peers if name != "torch"]
    cellmin = min(one["torch"] / one["ours"] for one in cells)
    cellmax = max(one["torch"] / one["ours"] for one in cells)
    bench.headline = f"{over('torch'):.2f}x eager ({cellmin:.2f} to {cellmax:.2f}), " + ", ".join(
        f"{over(name):.2f}x {name}" for name in others
    )
    return bench.finish(write=set(names) == {"inductor", "onnxruntime", "openvino"})


def _bf16(bench: Bench, graph: Any, model: Any, rounds: int) -> None:
    """Compare products in bf16, where the processor has them."""
    import torch

    import mlsysopt
    from mlsysopt.compile.peers import peer
    from mlsysopt.core.measure import machine

    if not machine().multiplies_bf16:
        print("bf16: not run, this processor has no products in bf16")
        return
    ours = mlsysopt.compile(graph, threads=1, precision="bf16")
    other = peer("openvino", graph=graph, precision="bf16")
    rows: list[list[object]] = []
    ratios: list[float] = []
    errors: dict[str, float] = {"ours": 0.0, "openvino": 0.0}
    for batch, length in SIZES:
        inputs = encoder_inputs(batch, length, seed=length, padded=True)
        with torch.inference_mode():
            expected = model(*inputs)
        scale = float(expected.square().mean().sqrt())
        for name, found in (("ours", ours(*inputs)), ("openvino", torch.as_tensor(other(inputs)[0]))):
            errors[name] = max(errors[name], float((found - expected).square().mean().sqrt()) / scale)
        seconds = cell({"ours": lambda inputs=inputs: ours(*inputs), "openvino": other.ready(inputs)}, rounds=rounds)
        bench.round(size=f"{batch}x{length}", precision="bf16", **seconds)
        rows.append([f"{batch}x{length}", *(f"{1e3 * one:.2f}" for one in seconds.values())])
        ratios.append(seconds["openvino"] / seconds["ours"])
    bench.table(["B x S, bf16", "ours", "openvino"], rows)
    said = ", ".join(f"{name} {value:.1e}" for name, value in errors.items())
    print(f"bf16: root mean square difference from f32 over root mean square, largest: {said}")
    bench.bar("compile-dynamic.3f", geomean(ratios), ">=", 0.95, about="bf16, geomean over OpenVINO bf16")


if __name__ == "__main__":
    raise SystemExit(main())
