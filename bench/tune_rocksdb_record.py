"""Record real trials of one workload as a table that samplers can be replayed on.

    python -m bench.tune_rocksdb_record --workload mixgraph --out tests/tables/rocksdb-mixgraph.json.gz

Half of the trials are scrambled-Sobol points of the valid space; the other half come from several
tuners, in runs of 25 that start from ten of the Sobol points: random search, Optuna's TPE and Optuna's
GP sampler, each with and without the guards in its objective, so that the table is dense where tuners go.
A default canary runs before every fourth trial, with the same seed as the four trials that follow it.

Every finished trial is one line of `<out>.jsonl`; the same command goes on after a kill, which costs
the trial it hit. At the end the lines become the table.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path
from typing import Any

from bench.recording import BLOCK, lines_of, measured, record, resumed, write_table

# Before torch is imported: a sampler's threads would only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
RUN = 25  # trials of one run of one tuner
STARTS = 10  # Sobol points that such a run starts from
TUNERS = ("random", "tpe", "gp")
MOST_BYTES = 400_000


def main(arguments: list[str] | None = None) -> int:
    from mlsysopt.core.errors import MissingProgram
    from mlsysopt.core.processes import sweep_orphans
    from mlsysopt.core.target import Limits
    from mlsysopt.operate.tune.rocksdb.target import db_bench

    options = _parser().parse_args(arguments)
    sweep_orphans()
    try:
        target = db_bench(options.workload, knobs=options.knobs, memory=options.memory)
    except MissingProgram as missing:
        print(f"tune_rocksdb_record: {missing}; nothing was recorded", file=sys.stderr)
        return 3
    header = {
        "fingerprint": target.fingerprint(),
        "knobs": options.knobs,
        "seed": options.seed,
        "trials": options.trials,
        "command": f"python -m bench.tune_rocksdb_record --workload {options.workload} --knobs {options.knobs} "
        f"--memory {options.memory} --trials {options.trials} --seed {options.seed} --out {options.out}",
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    rows = resumed(lines_of(options.out), header)
    proposals = Proposals(target, options.seed, options.trials, rows)
    with target.session(Limits(timeout_s=120), purpose="search") as session:
        record(
            options.out, header, rows,
            lambda: measured(
                session, proposals, rows, trials=options.trials, seed=options.seed, extra=_extra,
                say=lambda row, canary: _say(row, canary, options.trials),
            ),
        )  # fmt: skip
    static = {"memory_bytes": [target.static(row["config"])["memory_bytes"] for row in rows]}
    size = write_table(
        options.out, header, target, rows, form="rocksdb-table", columns=["open_cpu_share"], rest={"static": static}
    )
    failed = [row["failure"]["kind"] for row in rows if row["failure"]]
    print(f"{options.out}: {len(rows)} rows, {len(failed)} failures {sorted(set(failed))}, {size} bytes")
    return 0 if size <= MOST_BYTES else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.tune_rocksdb_record", description=__doc__)
    parser.add_argument("--workload", default="mixgraph")
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--knobs", default="paper10")
    parser.add_argument("--memory", default="256MiB")
    parser.add_argument("--seed", type=int, default=1)
    return parser


def _extra(outcome: Any) -> dict[str, Any]:
    return {"open_cpu_share": round(outcome.extra["open_cpu_share"], 4) if outcome.ok else None}


def _say(row: dict, canary: dict | None, trials: int) -> None:
    if row["metrics"] is None:
        text = f"{row['failure']['kind']}: {row['failure']['reason']}"
    else:
        ratio = row["metrics"]["throughput_cpu"] / canary["metrics"]["throughput_cpu"] if canary else math.nan
        text = f"{row['metrics']['throughput']:9.0f} ops/s  {ratio:5.2f}x cpu  open {row['open_cpu_share']:.1%}"
    print(f"{row['role']:6} {row['number']:4}/{trials}  {row['source']:12} {row['wall_s']:6.1f} s  {text}", flush=True)


class Proposals:
    """Who proposes which trial: even numbers are Sobol points, odd ones go round the tuners."""

    def __init__(self, target: Any, seed: int, trials: int, rows: list[dict]) -> None:
        from mlsysopt.core.study.guards import parse_guards

        self.space = target.space()
        self.seed = seed
        self.sobol = self.space.sobol((trials + 1) // 2, seed)
        self.guards = parse_guards(None, target.guards, target.metrics())
        self.canaries = {row["number"]: row for row in rows if row["role"] == "canary"}
        self.rows = rows
        self.studies: dict[tuple[str, int], Any] = {}

    def propose(self, number: int) -> tuple[str, dict]:
        if number % 2 == 0:
            return "sobol", self.sobol[number // 2]
        turn = number // 2
        tuner, own = TUNERS[turn % len(TUNERS)], turn // len(TUNERS)
        run = own // RUN
        study = self.studies.get((tuner, run)) or self._study(tuner, run)
        return f"{tuner}-{run}", self._ask(study)

    def _ask(self, study: Any) -> dict:
        import optuna

        trial = study.ask(self.space.distributions())
        # What is told is the measured point: see `tell`.
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return self.space.from_params(trial.params)

    def tell(self, row: dict) -> None:
        for (tuner, run), study in self.studies.items():
            if row["source"] == f"{tuner}-{run}":
                self._add(study, row)

    def _add(self, study: Any, row: dict) -> None:
        import optuna

        value = self._value(row, guarded=study.user_attrs["guarded"])
        if value is not None:
            params, distributions = self.space.to_params(row["config"]), self.space.distributions()
            study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=value))

    def _study(self, tuner: str, run: int) -> Any:
        """Make the study of one run; what it saw before a kill is told to it again."""
        import optuna

        from mlsysopt.core.search import SpaceSampler
        from mlsysopt.core.seeds import integer_seed

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        source = f"{tuner}-{run}"
        own = [row for row in self.rows if row["source"] == source]
        turn = TUNERS.index(tuner) + len(TUNERS) * run
        starts = [row for row in self.rows if row["source"] == "sobol"]
        starts = starts[-STARTS:] if not own else [row for row in starts if row["number"] < own[0]["number"]][-STARTS:]
        seed = integer_seed(self.seed, role=f"record-{tuner}", round=run, trials=len(own))
        bases = {
            "random": lambda: optuna.samplers.RandomSampler(seed=seed),
            "tpe": lambda: optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=1),
            "gp": lambda: optuna.samplers.GPSampler(seed=seed, n_startup_trials=1, deterministic_objective=False),
        }
        sampler = SpaceSampler(bases[tuner](), self.space, seed=seed)
        study = optuna.create_study(direction="maximize", sampler=sampler, study_name=source)
        # Every second run sees the guards as a penalty.
        study.set_user_attr("guarded", turn % 2 == 1)
        for row in [*starts, *own]:
            self._add(study, row)
        self.studies[tuner, run] = study
        return study

    def _value(self, row: dict, *, guarded: bool) -> float | None:
        """Return the log ratio to the block's canary, less what the guards are broken by."""
        canary = next(c for c in self.rows if c["role"] == "canary" and c["number"] == row["number"] // BLOCK)
        if row["metrics"] is None:
            return None if row["failure"]["kind"] in ("infrastructure", "lost") else -2.0
        value = math.log(row["metrics"]["throughput_cpu"] / canary["metrics"]["throughput_cpu"])
        if guarded:
            measured = [guard for guard in self.guards if guard.metric in row["metrics"]]
            broken = [g.violation(row["metrics"][g.metric], canary["metrics"][g.metric]) for g in measured]
            value -= sum(max(0.0, amount) for amount in broken)
        return value


if __name__ == "__main__":
    raise SystemExit(main())
