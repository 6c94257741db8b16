"""The smallest set of a PostgreSQL winner's changes that keeps 90 % of its gain, in one joint verification.

python -m bench.tune_databases_minimal
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.protocol import Bench
from mlsysopt.core.errors import MissingProgram
from mlsysopt.core.processes import temporary_folder
from mlsysopt.core.study import Event, Study

MEMORY, LOAD_S, BUDGET, SEED = "2GiB", 2.0, "5min", 1


def _show(event: Event) -> None:
    if event.kind in ("trial", "verify", "note"):
        print(event.text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.tune_databases_minimal", description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--budget", default=BUDGET)
    options = parser.parse_args(arguments)
    from mlsysopt.operate.tune.discovery import discover
    from mlsysopt.operate.tune.server_files import server
    from mlsysopt.operate.tune.server_target import server_target

    bench = Bench(
        "tune_databases_minimal",
        "a smaller set of a winner's changes keeps 90 % of its verified gain",
        "the whole winner, verified again in the same rounds",
        f"PostgreSQL mixed, essentials, {options.budget}, tpe; three nested sets, 8 rounds fixed beforehand",
    )
    try:
        target = server_target(
            server("postgres"), workload="mixed", memory=MEMORY, directory=options.directory, seconds=LOAD_S
        )
    except MissingProgram as error:
        return bench.missing(str(error))
    with temporary_folder("bench-minimal-") as folder:
        store = folder / "minimal.db"
        target = discover(target, budget="45s", store=store, on_event=_show).target
        study = Study(target, maximize="tps", sampler="tpe", store=store, seed=SEED, on_event=_show)
        result = study.run(options.budget)
        print(result.text(), flush=True)
        if result.winner is None:
            bench.bar("tune-databases.9a", math.nan, ">=", 0.9, about=f"no winner to reduce: {result.reason}")
            return bench.finish()
        found = result.minimal()
    print(f"\n{found.text()}\n", flush=True)
    bench.round(winner=result.winner.to_json(), minimal=found.to_json())
    share = found.chosen.share if found.chosen is not None else 1.0
    bench.bar("tune-databases.9a", share, ">=", 0.9, about="of the verified logarithmic gain is kept")
    bench.bar(
        "tune-databases.9b", len(found.kept), "<", len(found.changes), about="knobs stay changed, of the winner's"
    )
    bench.bar("tune-databases.9c", len(found.changes), ">=", 6, about="knobs were changed by the winner")
    gain = found.winner.ratios[found.objective]
    bench.headline = f"{len(found.kept)} of {len(found.changes)} changes keep {share:.0%} of {gain.value:.2f}x"
    return bench.finish()


if __name__ == "__main__":
    raise SystemExit(main())
