"""What `mlsysopt compile bench` does: the same inputs through ours and others, paired, at many sizes."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlsysopt.cli.documents import Document, table
from mlsysopt.core.errors import UsageError

if TYPE_CHECKING:
    from mlsysopt.compile import Executable
    from mlsysopt.core.measure import Ratio
    from mlsysopt.graph import Graph

__all__ = ["benched", "sizes_of"]

LOOKS = (6, 8, 12)
LARGEST = 512
"""Sizes of a symbol without an upper bound are drawn up to here."""


def benched(run: Executable, *, against: str, shapes: str, seed: int, report: Path | None) -> Document:
    """Compare at each size with each peer; end in 4 when nothing is proven."""
    import torch

    from mlsysopt.compile.peers import peer
    from mlsysopt.core.measure import compare
    from mlsysopt.graph import random_inputs

    names = [name.strip() for name in against.split(",") if name.strip()]
    if not names:
        raise UsageError("--against needs at least one peer, e.g. torch")
    graph, threads = run.source, run.options.threads
    torch.set_num_threads(threads)
    every = sizes_of(shapes, graph, seed)
    drawn = [_tensors(graph, random_inputs(graph, dict(sizes), seed)) for sizes in every]
    peers = []
    for name in names:
        click.echo(f"making {name} ready", err=True)
        peers.append(peer(name, graph=graph, examples=drawn[0], threads=threads))
    rows: list[dict[str, Any]] = []
    lines: list[list[object]] = []
    for sizes, inputs in zip(every, drawn, strict=True):
        ours = run(*inputs)
        row: dict[str, Any] = {"sizes": dict(sizes), "peers": {}}
        shown: list[object] = [", ".join(f"{name}={size}" for name, size in sizes.items()) or "fixed"]
        for one in peers:
            theirs = one(inputs)
            difference = _difference(ours, theirs)
            ratio = compare(
                one.ready(inputs), lambda inputs=inputs: run(*inputs), clock="cpu" if threads == 1 else "auto",
                looks=LOOKS, seed=seed, names=(one.name, "ours"),
            )  # fmt: skip
            row["peers"][one.name] = {**ratio.to_json(), "difference": difference}
            shown += [_faster(ratio), f"{difference:.0e}"]
        rows.append(row)
        lines.append(shown)
        click.echo("  ".join(map(str, shown)), err=True)
    header = ["sizes", *(word for one in peers for word in (f"faster than {one.name}", "differs"))]
    summary = {one.name: _summary(one.name, rows) for one in peers}
    text = table(header, lines)
    for name, found in summary.items():
        text += (
            f"\nagainst {name}: {found['geomean']:.2f}x on the whole, "
            f"from {found['least']:.2f}x to {found['most']:.2f}x; "
            f"faster proven at {found['proven']} of {len(rows)} sizes, slower at {found['refuted']}"
        )
    versions = {one.name: one.version for one in peers}
    data: dict[str, Any] = {"rows": rows, "summary": summary, "versions": versions, "recompiles": run.stats.recompiles}
    if report is not None:
        _report(report, run, header, lines, text, summary, versions)
        text += f"\nreport: {report / 'index.html'}"
        data["report"] = str(report / "index.html")
    proven = any(found["proven"] for found in summary.values())
    return Document(text, data, 0 if proven else 4)


def sizes_of(text: str, graph: Graph, seed: int) -> list[dict[str, int]]:
    """Read `random:N` or `B=1,S=8;B=2,S=37`; random ones begin with the smallest allowed.

    Raises:
        UsageError: neither, an unknown symbol, or a size outside its range.
    """
    from mlsysopt.cli.graph import sizes
    from mlsysopt.graph import Dim

    word, _, count = text.partition(":")
    if word != "random":
        found = [sizes(one, graph) for one in text.split(";") if one.strip()]
        lacking = [name for one in found for name in graph.symbols if name not in one]
        if not found or lacking:
            wanted = ",".join(f"{name}=SIZE" for name in graph.symbols)
            raise UsageError(f"--shapes {text!r}: write random:N, or all symbols: {wanted};{wanted}")
        return found
    if not count.isdigit() or int(count) < 1:
        raise UsageError(f"--shapes {text!r}: random:N needs N >= 1")
    rng = random.Random(seed)
    ranges = {name: graph.facts.range(Dim.of(name)) for name in graph.symbols}
    smallest = {name: low or 1 for name, (low, _) in ranges.items()}
    made: list[dict[str, int]] = [smallest] if not graph.facts.check(smallest) else []
    for _ in range(1000 * int(count)):
        if len(made) >= int(count) or not ranges:
            break
        drawn = {
            name: round(math.exp(rng.uniform(math.log(max(low or 1, 1)), math.log(max(high or LARGEST, low or 1, 1)))))
            for name, (low, high) in ranges.items()
        }
        if drawn not in made and not graph.facts.check(drawn):
            made.append(drawn)
    return made or [smallest]


def _tensors(graph: Graph, arrays: Mapping[str, Any]) -> list[Any]:
    import torch

    from mlsysopt.graph.importers.examples import torch_dtype

    return [
        torch.from_numpy(array).to(torch_dtype(value.type.dtype))
        for value, array in zip(graph.inputs, arrays.values(), strict=True)
    ]


def _difference(ours: Any, theirs: list[Any]) -> float:
    import numpy as np

    many = ours if isinstance(ours, tuple) else (ours,)
    worst = 0.0
    for mine, other in zip(many, theirs, strict=False):
        a, b = np.asarray(mine, np.float64), np.asarray(other, np.float64)
        same = np.isnan(a) & np.isnan(b) | (a == b)
        worst = max(worst, float(np.max(np.where(same, 0.0, np.abs(a - b)), initial=0.0)))
    return worst


def _faster(ratio: Ratio) -> str:
    return f"{1 / ratio.value:.2f}x [{1 / ratio.high:.2f}, {1 / ratio.low:.2f}] {ratio.verdict}"


def _summary(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    found = [row["peers"][name] for row in rows]
    faster = [1 / one["value"] for one in found]
    return {
        "geomean": math.exp(sum(map(math.log, faster)) / len(faster)),
        "least": min(faster),
        "most": max(faster),
        "proven": sum(one["verdict"] == "proven" for one in found),
        "refuted": sum(one["verdict"] == "refuted" for one in found),
    }


def _report(
    folder: Path, run: Executable, header: list[str], lines: list[list[object]], text: str,
    summary: Mapping[str, Mapping[str, Any]], versions: Mapping[str, str],
) -> None:  # fmt: skip
    import shlex

    from mlsysopt.compile.references import REFERENCES
    from mlsysopt.core.report import Report

    best = min(found["geomean"] for found in summary.values())
    report = Report(f"compile bench: {run.graph.name}", command=shlex.join(["mlsysopt", *sys.argv[1:]]))
    report.verdict(
        "; ".join(f"{found['geomean']:.2f}x {name} {versions[name]}" for name, found in summary.items()),
        "good" if best > 1 else "plain",
    )
    report.section("Sizes").table(header, lines)
    report.text(text.split("\n\n")[-1])
    report.section("Plan").log(str(run.plan), "steps of the flow")
    report.section("What was found").log(str(run.explain()), "explanation")
    report.cite(*REFERENCES)
    report.write(folder)
