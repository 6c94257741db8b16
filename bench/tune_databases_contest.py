"""Tuners compared live on a real PostgreSQL, and the same on a workload where there may be nothing to win.

`python -m bench.tune_databases_contest` takes under twelve minutes on a quiet machine: random, tpe, dds and td3 on
`mixed`, 90 s each, then random and tpe on `tpcb`, 45 s each. `mixed` or `tpcb` alone runs that one with all four at
90 s; `--all` lets seven tuners take part.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.protocol import Bench
from mlsysopt.core.errors import MissingExtra, MissingProgram
from mlsysopt.core.measure import is_quiet
from mlsysopt.core.processes import temporary_folder
from mlsysopt.core.search import registry
from mlsysopt.core.study import Event, Study
from mlsysopt.operate.tune.contest import TUNERS, Contest, compare
from mlsysopt.operate.tune.discovery import discover
from mlsysopt.operate.tune.server_files import server
from mlsysopt.operate.tune.server_target import ServerTarget, server_target

FOUR, TWO = ("random", "tpe", "dds", "td3"), ("random", "tpe")
DIRECTORY = "/var/tmp"
MEMORY = "2GiB"
LOAD_S = 2.0
"""A second less than the workloads' own, so that a tuner has some ten trials in its time."""
ROUNDS = 8
"""The fewest that can prove one of four winners together."""
NEVER = float("nan")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload", choices=["both", "mixed", "tpcb"], nargs="?", default="both")
    parser.add_argument("--all", action="store_true", help="seven tuners instead of four")
    parser.add_argument("--seconds", type=float, default=90.0, help="time for each tuner")
    parser.add_argument("--tuners", default="", help="others than these, e.g. random,tpe")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", type=Path, help="folder for the HTML reports")
    given = parser.parse_args(arguments)
    tuners = tuple(given.tuners.split(",")) if given.tuners else TUNERS if given.all else FOUR
    both = given.workload == "both"
    workloads = ("mixed", "tpcb") if both else (given.workload,)
    try:
        targets = {name: _target(name) for name in workloads}
    except (MissingProgram, MissingExtra) as error:
        print(error, file=sys.stderr)
        return 3
    first = next(iter(targets.values()))
    bench = Bench(
        "tune_databases_contest",
        "at 90 s each, the best of four tuners makes `mixed` at least 1.2x faster, guards kept; tpcb promises nothing",
        f"random search beside {', '.join(t for t in tuners if t != 'random')}; PostgreSQL {first.version} as it comes",
        f"{given.seconds:g} s of measuring each, essentials, discovered ranges, {MEMORY}, {DIRECTORY}, seed "
        f"{given.seed}; all winners verified in the same interleaved rounds; quiet: wall decides, else CPU seconds",
    )
    lacking = [tuner for tuner in tuners if tuner not in registry.names()]
    if lacking:
        return bench.missing(f"sampler {', '.join(lacking)}")
    with temporary_folder("bench-contest-") as folder:
        store = folder / "contest.db"
        found = discover(first, budget="45s", store=store, on_event=_show)
        print(f"ranges: {found.probes} probes, {found.seconds:.1f} s", file=sys.stderr)
        for name, target in targets.items():
            ranged = target.with_space(found.target.space())
            shorter = both and name == "tpcb"
            contest = compare(
                ranged,
                tuners=TWO if shorter else tuners,
                seconds=given.seconds / 2 if shorter else given.seconds,
                store=store,
                name=name,
                seed=given.seed,
                rounds=ROUNDS,
                on_event=_show,
            )
            print(f"\n{contest}\n", flush=True)
            bench.round(workload=name, quiet=is_quiet(), discovery_s=found.seconds, contest=contest.to_json())
            if given.report is not None:
                print(f"report: {contest.report(given.report / name, command=' '.join(sys.argv))}", file=sys.stderr)
            if name == "mixed":
                _bars_of_mixed(bench, contest)
            else:
                _bar_of_tpcb(bench, contest, ranged, store, given.seed)
    return bench.finish()


def _target(workload: str) -> ServerTarget:
    return server_target(
        server("postgres"), workload=workload, knobs="essentials", memory=MEMORY, directory=DIRECTORY, seconds=LOAD_S
    )


def _bars_of_mixed(bench: Bench, contest: Contest) -> None:
    known = contest.setting
    proven = [row.ratio for row in contest.rows if row.verdict == "proven" and row.ratio is not None]
    bench.bar(
        "tune-databases.3a", max(proven, default=NEVER), ">=", 1.2,
        about=f"best verified {known['metric']} to the default on mixed, proven, guards kept",
    )  # fmt: skip
    bench.bar(
        "tune-databases.3b", known["spent_differ_s"] / known["longest_trial_s"], "<=", 1.0,
        about=f"times spent differ by {known['spent_differ_s']:.2f} s, in trials of {known['longest_trial_s']:.2f} s",
    )  # fmt: skip
    told = [
        row for row in contest.rows
        if row.valid_share is not None and row.ask_cpu_s > 0 and (row.gap is not None or row.tuner == "random")
    ]  # fmt: skip
    bench.bar(
        "tune-databases.3d", len(told), "==", len(known["tuners"]),
        about="tuners whose row has gap to random, valid share and ask time",
    )  # fmt: skip
    bench.headline = contest.headline


def _bar_of_tpcb(bench: Bench, contest: Contest, target: ServerTarget, store: Path, seed: int) -> None:
    best = contest.best
    if best is None or best.verdict != "proven":
        bench.bar("tune-databases.3c", 1.0, "==", 1.0, about=f"tpcb: {contest.headline}")
        return
    winner = best.entries[0].winner
    assert winner is not None
    metric = contest.setting["metric"]
    study = Study(
        target, maximize=target.objective, sampler="random", store=store, name="tpcb/confirmation", seed=seed + 1000,
        validity="none", clock=contest.setting["clock"], on_event=_show,
    )  # fmt: skip
    again = study.judge([winner.config], rounds=ROUNDS)[0]
    bench.round(workload="tpcb, second verification", candidate=again.to_json())
    bench.bar(
        "tune-databases.3c", float(again.verdict == "proven"), "==", 1.0,
        about=f"tpcb: {best.tuner}'s gain, verified a second time: {again.ratios[metric]}",
    )  # fmt: skip


def _show(event: Event) -> None:
    if event.kind in ("started", "baseline", "trial", "refused", "verify", "note"):
        print(f"  {event.text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
