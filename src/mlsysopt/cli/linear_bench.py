"""What `mlsysopt linear bench` does: the plain model and the adapted one, and others if wanted, at every length."""

from __future__ import annotations

import copy
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlsysopt.cli.documents import table
from mlsysopt.cli.linear_models import Loaded, load
from mlsysopt.cli.options import print_json
from mlsysopt.core.errors import UsageError, near_misses
from mlsysopt.core.quantities import format_seconds

if TYPE_CHECKING:
    from mlsysopt.compile.linear.plan import Plan
    from mlsysopt.compile.peers import Peer
    from mlsysopt.core.measure import Ratio
    from mlsysopt.core.report import Report

__all__ = ["Length", "benched"]

PEERS = ("torch", "inductor")


@dataclass(frozen=True, slots=True)
class Length:
    """One row of the table.

    Attributes:
        length: Of the input.
        ratio: Adapted over plain.
        error: Largest difference of the two outputs.
        peers: Name -> adapted over that one.
    """

    length: int
    ratio: Ratio
    error: float
    peers: dict[str, Ratio]


def benched(
    model: str,
    lengths: Sequence[int],
    *,
    against: str,
    threads: int,
    seed: int,
    folder: Path | None,
    as_json: bool,
    require_lower: bool,
    **settings: Any,
) -> int:
    """Adapt a model, compare, print and return the exit code."""
    import torch

    others = _others(against)
    loaded = load(model, seed=seed)
    _check_lengths(loaded, lengths)
    click.echo(f"adapting {loaded.name}: timing what the profile of this machine leaves open", err=True)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        adapted, plan = _adapted(loaded, lengths, threads=threads, **settings)
        rows = _compared(loaded, adapted, lengths, others, threads) if plan.changed else []
    finally:
        torch.set_num_threads(before)
    code = _code(rows)
    if require_lower and plan.precision.refused:
        code = 4
    written: dict[str, str] = {}
    if folder is not None:
        written["report"] = str(_page(plan, rows, loaded.name).write(folder))
    if as_json:
        shown = [
            {
                "length": one.length,
                "ratio": one.ratio.to_json(),
                "error": one.error,
                "peers": {name: ratio.to_json() for name, ratio in one.peers.items()},
            }
            for one in rows
        ]
        print_json({"model": loaded.name, "lengths": shown, "plan": json.loads(plan.to_json()), "written": written})
        return code
    click.echo(str(plan))
    if rows:
        click.echo("\n" + table(*_cells(plan, rows), right=(0, 1, 2, 3, 6, 7)))
    for what, path in written.items():
        click.echo(f"{what}: {path}")
    return code


def _others(against: str) -> list[str]:
    names = [part.strip() for part in against.split(",") if part.strip()]
    for name in names:
        if name not in PEERS:
            raise UsageError(f"--against {name!r}; {near_misses(name, PEERS, noun='peer')}")
    return [name for name in names if name != "torch"]


def _check_lengths(loaded: Loaded, lengths: Sequence[int]) -> None:
    if loaded.most is not None and max(lengths) > loaded.most:
        raise UsageError(f"--seq {max(lengths)}: {loaded.name} takes at most {loaded.most}")


def _adapted(loaded: Loaded, lengths: Sequence[int], *, error: float | None, **settings: Any) -> tuple[Any, Plan]:
    from mlsysopt.compile.linear import adapt, plan_of

    batches = [loaded.inputs(length) for length in sorted(lengths)[:4]]
    adapted = adapt(
        loaded.model,
        likely_rows=tuple(lengths),
        most_rows=max(512, *lengths),
        error=error,
        calibration=batches,
        **settings,
    )
    return adapted, plan_of(adapted)


def _compared(
    loaded: Loaded, adapted: Any, lengths: Sequence[int], others: Sequence[str], threads: int
) -> list[Length]:
    from mlsysopt.compile.peers import peer

    # The first call is the shortest for all: what compiles sees the same example.
    ready: dict[str, Peer] = {}
    for name in others:
        click.echo(f"making {name} ready", err=True)
        first = loaded.inputs(min(lengths))
        ready[name] = peer(name, module=copy.deepcopy(loaded.model), examples=first, threads=threads)
        click.echo(f"{name} was ready after {format_seconds(ready[name].ready_s)}", err=True)
    return [_one(loaded, adapted, length, ready, threads) for length in lengths]


def _one(loaded: Loaded, adapted: Any, length: int, ready: dict[str, Peer], threads: int) -> Length:
    import torch

    from mlsysopt.compile.linear import compare
    from mlsysopt.core.measure import compare as paired

    given = loaded.inputs(length)
    found = compare(adapted, given)
    click.echo(f"length {length}: {found}", err=True)
    peers: dict[str, Ratio] = {}
    with torch.inference_mode():
        for name, one in ready.items():
            clock = "cpu" if threads == 1 else "auto"
            peers[name] = paired(one.ready(given), lambda: adapted(*given), clock=clock, names=(name, "adapted"))
            click.echo(f"length {length}, {name}: {peers[name]}", err=True)
    return Length(length, found.ratio, found.difference, peers)


def _code(rows: Sequence[Length]) -> int:
    verdicts = [one.ratio.verdict for one in rows]
    return 0 if "proven" in verdicts and "refuted" not in verdicts else 4


def _cells(plan: Plan, rows: Sequence[Length]) -> tuple[list[str], list[list[object]]]:
    names = list(rows[0].peers)
    header = ["length", "plain ms", "adapted ms", "faster", "interval", "rounds", "max error", "extra MiB", "verdict"]
    header += [f"against {name}" for name in names]
    return header, [
        [
            one.length,
            f"{one.ratio.baseline_value * 1e3:.2f}",
            f"{one.ratio.candidate_value * 1e3:.2f}",
            f"{1 / one.ratio.value:.2f}x",
            _interval(one.ratio),
            one.ratio.rounds,
            f"{one.error:.1e}",
            f"{plan.extra_bytes / 2**20:.0f}",
            one.ratio.verdict,
            *(f"{1 / one.peers[name].value:.2f}x {_interval(one.peers[name])}" for name in names),
        ]
        for one in rows
    ]


def _interval(ratio: Ratio) -> str:
    return f"[{1 / ratio.high:.2f}, {1 / ratio.low:.2f}]" if ratio.low > 0 else "[0, inf]"


def _page(plan: Plan, rows: Sequence[Length], name: str) -> Report:
    from mlsysopt.compile.linear.report import page
    from mlsysopt.core.report.plots import Span, intervals

    made = page(plan, shlex.join(["mlsysopt", *sys.argv[1:]]))
    if rows:
        made.section("Plain and adapted")
        made.table(*_cells(plan, rows), f"{name}, batch 1, paired and interleaved rounds")
        known = [one for one in rows if one.ratio.low > 0]
        spans = [
            Span(
                f"length {one.length}",
                1 / one.ratio.value,
                1 / one.ratio.high,
                1 / one.ratio.low,
                {"proven": True, "refuted": False}.get(one.ratio.verdict),
            )
            for one in known
        ]
        if spans:
            made.figure(intervals(spans, label="times faster than plain"), "95 % intervals", alt="speed-up by length")
    return made
