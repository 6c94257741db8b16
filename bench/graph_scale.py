"""Fifty thousand ops: build, verify, print and parse against xDSL on the same program, and a placed one alone."""

from __future__ import annotations

import argparse
import gc
import io
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.protocol import Bench
from mlsysopt.graph import Builder, Graph, Mesh, Placement, Replicate, Shard, Value, f32, flatten, parse

WIDTH = 16


def ours(count: int, placement: Placement | None = None, kinds: tuple[str, ...] = ("add", "mul", "sub")) -> Graph:
    """Element-wise ops on `f32[8, 16]`, each reading two of the last values, types inferred for each."""
    builder = Builder("scale")
    one = f32[8, 16].with_placement(placement)
    values: list[Value] = [builder.input(f"x{i}", one) for i in range(WIDTH)]
    for i in range(count):
        values.append(builder.op(kinds[i % len(kinds)], values[-1], values[-1 - (i * 7) % WIDTH], name=f"v{i}"))
    return builder.finish(values[-1:])


def theirs(count: int) -> Any:
    """The same program in xDSL's arith dialect on tensors."""
    from xdsl.builder import Builder as XBuilder
    from xdsl.dialects import arith, func
    from xdsl.dialects.builtin import ModuleOp, TensorType
    from xdsl.dialects.builtin import f32 as xf32
    from xdsl.ir import Block, Region
    from xdsl.rewriter import InsertPoint

    one = TensorType(xf32, [8, 16])
    block = Block(arg_types=[one] * WIDTH)
    builder = XBuilder(InsertPoint.at_end(block))
    values: list[Any] = list(block.args)
    kinds = (arith.AddfOp, arith.MulfOp, arith.SubfOp)
    for i in range(count):
        op = builder.insert(kinds[i % 3](values[-1], values[-1 - (i * 7) % WIDTH]))
        values.append(op.results[0])
    builder.insert(func.ReturnOp(values[-1]))
    return ModuleOp([func.FuncOp("scale", ([one] * WIDTH, [one]), Region(block))])


def xdsl_print_and_parse(module: Any) -> None:
    from xdsl.context import Context
    from xdsl.dialects import arith, builtin, func
    from xdsl.parser import Parser
    from xdsl.printer import Printer

    stream = io.StringIO()
    Printer(stream=stream).print_op(module)
    context = Context()
    for dialect in (builtin.Builtin, func.Func, arith.Arith):
        context.load_dialect(dialect)
    again = Parser(context, stream.getvalue()).parse_module()
    if not again.is_structurally_equivalent(module):
        raise RuntimeError("xDSL's round trip differs")


def our_print_and_parse(graph: Graph) -> None:
    if parse(str(graph)) != graph:
        raise RuntimeError("our round trip differs")


def cpu_seconds(action: Callable[[], Any]) -> tuple[float, Any]:
    gc.collect()
    start = time.process_time()
    found = action()
    return time.process_time() - start, found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ops", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="2,000 ops, two rounds, nothing written")
    given = parser.parse_args()
    count, rounds = (2_000, 2) if given.quick else (given.ops, given.rounds)
    try:
        import xdsl
    except ImportError:
        print("graph_scale: xdsl is missing; nothing was measured")
        return 3
    bench = Bench(
        "graph_scale",
        f"a program of {count:,} ops is built, verified, printed and parsed faster than by xDSL",
        f"xdsl {xdsl.__version__}",
        f"CPU seconds, {rounds} rounds interleaved in one process; each side prints, parses and compares its own text",
    )
    mesh = Mesh(("data", "model"), (2, 4))
    split = Placement(mesh, (Shard(0), Replicate()))
    steps = ("build", "verify", "print and parse")
    mine: dict[str, list[float]] = {
        step: [] for step in (*steps, "placed build", "placed verify", "placed text", "flatten")
    }
    peer: dict[str, list[float]] = {step: [] for step in steps}
    for number in range(rounds):
        row: dict[str, float] = {}
        for side in ("ours", "xdsl") if number % 2 == 0 else ("xdsl", "ours"):
            if side == "ours":
                row["build"], graph = cpu_seconds(lambda: ours(count))
                row["verify"], _ = cpu_seconds(graph.verify)
                row["print and parse"], _ = cpu_seconds(lambda graph=graph: our_print_and_parse(graph))
                row["placed build"], placed = cpu_seconds(lambda: ours(count, split))
                row["placed verify"], _ = cpu_seconds(placed.verify)
                row["placed text"], _ = cpu_seconds(lambda placed=placed: our_print_and_parse(placed))
                row["flatten"], flat = cpu_seconds(lambda placed=placed: flatten(placed))
                if not np.all(flat.local_bytes * 2 == flat.bytes):
                    raise RuntimeError("half of each value should lie on a device")
                for step, seconds in row.items():
                    mine[step].append(seconds)
            else:
                build, module = cpu_seconds(lambda: theirs(count))
                verify, _ = cpu_seconds(module.verify)
                text, _ = cpu_seconds(lambda module=module: xdsl_print_and_parse(module))
                for step, seconds in zip(steps, (build, verify, text), strict=True):
                    peer[step].append(seconds)
        bench.round(ours={step: mine[step][-1] for step in mine}, xdsl={step: peer[step][-1] for step in peer})
    ratios = {step: statistics.median(b / a for a, b in zip(mine[step], peer[step], strict=True)) for step in steps}
    rows = [
        [
            step,
            f"{statistics.median(mine[step]):.2f}",
            f"{statistics.median(peer[step]):.2f}" if step in peer else "",
            f"{ratios[step]:.2f}x" if step in ratios else "",
        ]
        for step in mine
    ]
    bench.table(["step", "ours, CPU-s", "xDSL, CPU-s", "xDSL / ours"], rows)
    median = {step: statistics.median(seconds) for step, seconds in mine.items()}
    scale = 50_000 / count
    bench.bar(
        "graph.7a", median["placed build"] * scale, "<=", 5, about="CPU-s to build a placed program of 50,000 ops"
    )
    bench.bar(
        "graph.7b", median["placed verify"] * scale, "<=", 4, about="CPU-s to verify it, every type inferred again"
    )
    bench.bar("graph.7c", median["placed text"] * scale, "<=", 8, about="CPU-s to print and parse it")
    bench.bar("graph.7d", median["flatten"] * scale, "<=", 1, about="CPU-s to flatten it to arrays")
    bench.bar("graph.7e", ratios["build"], ">=", 1.0, about="xDSL's CPU time to build / ours, median of paired rounds")
    bench.bar("graph.7f", ratios["verify"], ">=", 1.0, about="xDSL's CPU time to verify / ours")
    bench.bar("graph.7g", ratios["print and parse"], ">=", 3.0, about="xDSL's CPU time to print and parse / ours")
    bench.headline = (
        f"{count:,} ops: build {1 / ratios['build']:.2f}x, verify {1 / ratios['verify']:.2f}x, "
        f"print and parse {1 / ratios['print and parse']:.2f}x of xDSL's CPU time"
    )
    return bench.finish(write=not given.quick)


if __name__ == "__main__":
    raise SystemExit(main())
