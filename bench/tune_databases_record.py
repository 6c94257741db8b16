"""Record real trials of PostgreSQL from raw metadata ranges, failures and their seconds among them.

    python -m bench.tune_databases_record --out tests/tables/postgres-mixed.json.gz

No bound was made by hand and no constraint is declared: what does not start is part of the table. A third of
the trials are scrambled-Sobol points of the raw ranges, most of which fail at once; a third are Sobol points of
a narrower box, half of which work; the rest come from tuners in runs of 25 that start from ten valid points:
TPE told of failures by a constraint, TPE kept to what is likely to work, and random search, two to two to one.
The box is for density only: whoever replays the table searches the raw ranges.

A default canary runs before every fourth trial, with the same seed as the four trials that follow it. Every
finished trial is one line of `<out>.jsonl`; the same command goes on after a kill, which costs the trial it hit.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path
from typing import Any, cast

from bench.recording import BLOCK, Row, lines_of, measured, record, resumed, write_table

# Before torch is imported: a sampler's threads would only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
RUN = 25  # trials of one run of one tuner
STARTS = 10  # valid points that such a run starts from
TUNERS = ("tpe", "valid-tpe", "tpe", "valid-tpe", "random")
LATE = 0.15  # of the recording is over before the first tuner starts: it needs valid points to start from
MOST_BYTES = 400_000
KNOBS = (
    "shared_buffers,work_mem,max_connections,superuser_reserved_connections,max_wal_senders,wal_buffers,min_wal_size,"
    "max_locks_per_transaction,random_page_cost,max_parallel_workers_per_gather,effective_io_concurrency"
)
BOX: dict[str, tuple[float | str, float | str]] = {
    "shared_buffers": ("1MiB", "1GiB"),
    "work_mem": ("64KiB", "256MiB"),
    "max_connections": (6, 1500),
    "superuser_reserved_connections": (1, 30),
    "max_wal_senders": (1, 200),
    "wal_buffers": ("32KiB", "128MiB"),
    "min_wal_size": ("24MiB", "4GiB"),
    "max_locks_per_transaction": (10, 4096),
    "random_page_cost": (0.05, 100.0),
    "max_parallel_workers_per_gather": (1, 16),
}


def main(arguments: list[str] | None = None) -> int:
    from mlsysopt.core.errors import MissingProgram
    from mlsysopt.core.processes import sweep_orphans
    from mlsysopt.core.target import Limits
    from mlsysopt.operate.tune.server_target import server_target
    from mlsysopt.operate.tune.servers.postgres import Postgres

    options = _parser().parse_args(arguments)
    sweep_orphans()
    try:
        target = server_target(
            cast(Any, Postgres()), workload=options.workload, constraints=False, memory=options.memory,
            directory=options.directory, knobs=options.knobs.split(","), seconds=options.seconds,
        )  # fmt: skip
    except MissingProgram as missing:
        print(f"tune_databases_record: {missing}; nothing was recorded", file=sys.stderr)
        return 3
    header = {
        "fingerprint": target.fingerprint(),
        "knobs": options.knobs,
        "seed": options.seed,
        "trials": options.trials,
        "objective": target.objective,
        "command": f"python -m bench.tune_databases_record --workload {options.workload} --memory {options.memory} "
        f"--seconds {options.seconds:g} --trials {options.trials} --seed {options.seed} --out {options.out}",
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    rows = resumed(lines_of(options.out), header)
    proposals = Proposals(target, options.seed, options.trials, rows)
    with target.session(Limits(timeout_s=120), purpose="search") as session:
        record(
            options.out, header, rows,
            lambda: measured(
                session, proposals, rows, trials=options.trials, seed=options.seed, extra=_extra,
                say=lambda row, canary: _say(row, canary, options.trials, target.objective),
            ),
        )  # fmt: skip
    size = write_table(
        options.out, header, target, rows, form="server-table", columns=["named", "under_load", "server_cpu_s"]
    )
    failed = [row["failure"]["kind"] for row in rows if row["failure"]]
    counts = ", ".join(f"{failed.count(kind)} {kind}" for kind in sorted(set(failed)))
    took = sum(row["wall_s"] for row in rows)
    print(f"{options.out}: {len(rows)} rows in {took:.0f} s, failures: {counts or 'none'}, {size} bytes")
    return 0 if size <= MOST_BYTES else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.tune_databases_record", description=__doc__)
    parser.add_argument("--workload", default="mixed")
    parser.add_argument("--trials", type=int, default=420)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--knobs", default=KNOBS)
    parser.add_argument("--memory", default="2GiB")
    parser.add_argument("--seconds", type=float, default=3.0, help="of one load, its warm-up not counted")
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--seed", type=int, default=1)
    return parser


def _extra(outcome: Any) -> dict[str, Any]:
    """Return which knobs a message names, whether the server had started, and its CPU seconds under load."""
    return {
        "named": list(outcome.extra.get("named", ())) or None,
        "under_load": None if outcome.ok else started(outcome.kind, outcome.extra),
        "server_cpu_s": round(outcome.extra["server_cpu_s"], 3) if outcome.ok else None,
    }


def started(kind: str, extra: dict[str, Any]) -> bool:
    """Return whether a run failed after the server had started.

    A value that the server corrects by itself is told by a start alone.
    """
    return bool(extra.get("under_load")) or (kind in ("crashed", "degraded") and not extra.get("corrected"))


def _say(row: Row, canary: Row | None, trials: int, objective: str) -> None:
    if row["metrics"] is None:
        text = f"{row['failure']['kind']}: {row['failure']['reason'][:90]}"
    else:
        ratio = row["metrics"][objective] / canary["metrics"][objective] if canary else math.nan
        text = f"{row['metrics'][objective]:7.1f} {objective}  {ratio:5.2f}x"
    print(f"{row['role']:6} {row['number']:4}/{trials}  {row['source']:12} {row['wall_s']:6.2f} s  {text}", flush=True)


def plan(trials: int) -> list[tuple[str, int]]:
    """Return which trial is whose: (design, number within it), interleaved, tuners a little later.

    >>> plan(6)
    [('sobol', 0), ('box', 0), ('tuner', 0), ('sobol', 1), ('box', 1), ('tuner', 1)]
    """
    third = trials // 3
    own = trials - 2 * third
    places = [(i / max(third, 1), rank, name, i) for rank, name in enumerate(("sobol", "box")) for i in range(third)]
    places += [(LATE + (1.0 - LATE) * i / max(own, 1), 2, "tuner", i) for i in range(own)]
    return [(name, i) for _, _, name, i in sorted(places)]


class Proposals:
    """Who proposes which trial; every run of a tuner is a study of its own."""

    def __init__(self, target: Any, seed: int, trials: int, rows: list[Row]) -> None:
        from mlsysopt.core.study.guards import parse_guards

        self.space, self.objective, self.seed, self.rows = target.space(), target.objective, seed, rows
        self.plan = plan(trials)
        box = self.space
        for name, (low, high) in BOX.items():
            box = box.with_bounds(name, low, high) if name in box else box
        third = max(1, trials // 3)
        self.designs = {"sobol": self.space.sobol(third, seed), "box": box.sobol(third, seed + 1)}
        self.guards = parse_guards(None, target.guards, target.metrics())
        self.studies: dict[str, Any] = {}
        self.asked: dict[str, Any] = {}

    def propose(self, number: int) -> tuple[str, dict[str, Any]]:
        design, place = self.plan[number]
        if design != "tuner":
            return design, self.designs[design][place]
        turn, step = divmod(place, len(TUNERS))
        tuner = TUNERS[step]
        # A tuner may have several steps of a turn.
        own = turn * TUNERS.count(tuner) + TUNERS[:step].count(tuner)
        source = f"{tuner}-{own // RUN}"
        study = self.studies.get(source) or self._study(source, tuner, own // RUN)
        trial = self.asked[source] = study.ask(self.space.distributions())
        return source, self.space.from_params(trial.params)

    def tell(self, row: Row) -> None:
        """Tell the trial that was asked for, the way that `Study` does."""
        import optuna

        trial = self.asked.pop(row["source"], None)
        if trial is None:
            return
        told = self._told(row)
        if told is None:
            trial.set_user_attr("state", row["failure"]["kind"])
            self.studies[row["source"]].tell(trial, state=optuna.trial.TrialState.FAIL)
            return
        value, attributes, constraints = told
        for name, one in attributes.items():
            trial.set_user_attr(name, one)
        for name, one in constraints.items():
            trial.set_constraint(name, one)
        self.studies[row["source"]].tell(trial, value)

    def _study(self, source: str, tuner: str, run: int) -> Any:
        """Make the study of one run; what it saw before a kill is told to it again."""
        import optuna

        from mlsysopt.core.search import registry
        from mlsysopt.core.search.validity import ValiditySampler
        from mlsysopt.core.seeds import integer_seed

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        own = [row for row in self.rows if row["source"] == source]
        before = self.rows[: self.rows.index(own[0])] if own else self.rows
        valid = [row for row in before if row["role"] == "trial" and row["metrics"]]
        seed = integer_seed(self.seed, role=f"record-{tuner}", round=run, trials=len(own))
        sampler = registry.sampler(tuner.removeprefix("valid-"), space=self.space, seed=seed)
        if tuner.startswith("valid-"):
            sampler = ValiditySampler(sampler, self.space, seed=seed)
        study = self.studies[source] = optuna.create_study(direction="maximize", sampler=sampler, study_name=source)
        for row in [*valid[-STARTS:], *own]:
            told = self._told(row)
            if told is not None:
                value, attributes, constraints = told
                study.add_trial(
                    optuna.trial.create_trial(
                        value=value, params=self.space.to_params(row["config"]), constraints=constraints,
                        distributions=self._distributions(row["config"]), user_attrs=attributes,
                    )
                )  # fmt: skip
        return study

    def _distributions(self, config: dict[str, Any]) -> dict[str, Any]:
        params = self.space.to_params(config)
        return {name: one for name, one in self.space.distributions().items() if name in params}

    def _told(self, row: Row) -> tuple[float, dict[str, Any], dict[str, float]] | None:
        """Return value, attributes and constraints of a trial; None for one that the machine spoiled."""
        attributes: dict[str, Any] = {"config": self.space.canonical(row["config"]), "state": "valid"}
        if row["metrics"] is None:
            kind = row["failure"]["kind"]
            if kind in ("infrastructure", "lost"):
                return None
            same = [one for one in self.rows if one["source"] == row["source"] and one["metrics"]]
            worst = min([0.0, *(self._ratio(one) for one in same)])
            attributes |= {"state": kind, "named": row["named"] or []}
            return worst, attributes, {"valid": 1.0, **dict.fromkeys((guard.metric for guard in self.guards), 0.0)}
        canary = self._canary(row)
        broken = {g.metric: g.violation(row["metrics"][g.metric], canary["metrics"][g.metric]) for g in self.guards}
        return self._ratio(row), attributes, {"valid": -1.0, **broken}

    def _ratio(self, row: Row) -> float:
        return math.log(row["metrics"][self.objective] / self._canary(row)["metrics"][self.objective])

    def _canary(self, row: Row) -> Row:
        return next(c for c in self.rows if c["role"] == "canary" and c["number"] == row["number"] // BLOCK)


if __name__ == "__main__":
    raise SystemExit(main())
