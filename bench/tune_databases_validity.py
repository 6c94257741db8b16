"""Eight PostgreSQL knobs from the server's raw ranges: how many of the later trials still start and run.

    python -m bench.tune_databases_validity

Nothing is declared by hand. `fail` is TPE as Optuna documents it, failures told as FAIL; `encoded` tells them as
violated constraints; `learned` puts the validity wrapper and its diagnoses around that; `all` finds the ranges
first. The canaries of the trials are left out: what counts here is which trials are valid, and every method is
told the same ratios to the same default.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bench.protocol import Bench
from mlsysopt.core.errors import MissingProgram
from mlsysopt.core.search.rules import LearnedRule

KNOBS = (
    "shared_buffers", "work_mem", "max_connections", "superuser_reserved_connections", "max_wal_senders",
    "wal_buffers", "min_wal_size", "max_locks_per_transaction",
)  # fmt: skip
TRIALS, LATE, LOAD_S, SEEDS = 36, 18, 0.5, 3
MEMORY = "10GiB"
PROBES_PER_RULE = 100
METHODS = ("fail", "encoded", "learned", "all")


@dataclass(frozen=True)
class Run:
    """One study of one method.

    Attributes:
        valid: Whether each trial after the default ran, in order.
        probes: How many start-only probes it took.
        probe_s: What they took.
        ask_cpu_s: CPU seconds of the sampler for each trial.
        rules: What was learned.
    """

    valid: tuple[bool, ...]
    probes: int
    probe_s: float
    ask_cpu_s: float
    rules: tuple[LearnedRule, ...] = ()

    @property
    def late(self) -> float:
        return sum(self.valid[-LATE:]) / LATE


def plain(target: Any, session: Any, seed: int) -> Run:
    """TPE on Optuna's distributions; failures are FAIL, as its documentation says."""
    import optuna

    from mlsysopt.testing.samplers import suggest

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = target.space()
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=6)
    )
    study.enqueue_trial(space.to_params(space.default()))
    for point in space.sobol(5, seed):
        study.enqueue_trial(space.to_params(point))
    valid: list[bool] = []
    began = time.process_time()
    for number in range(TRIALS):
        trial = study.ask()
        for name, one in space.distributions().items():
            suggest(trial, name, one)
        params = {k: v for k, v in trial.params.items() if trial.params.get(f"{k}?", "range") == "range"}
        outcome = session.measure(space.from_params(params), seed=number + 1)
        valid.append(outcome.ok)
        if outcome.ok:
            study.tell(trial, outcome.metrics["tps"])
        else:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return Run(tuple(valid[1:]), 0, 0.0, (time.process_time() - began) / TRIALS)


def studied(target: Any, session: Any, seed: int, *, validity: Literal["learned", "none"]) -> Run:
    """The tuner's own loop, without canaries."""
    from mlsysopt.core.search.validity import ValiditySampler
    from mlsysopt.core.study import Study

    study = Study(
        target,
        maximize="tps",
        sampler="tpe",
        seed=seed,
        validity=validity,
        guard={"p99_ms": "off"},
        clock="wall",
    )
    with study.turns(TRIALS, session=session) as turns:
        loop = turns._loop  # pyright: ignore[reportPrivateUsage]
        turns.prepare()
        default = session.measure({}, seed=1)
        # No canaries and no races: what counts here is which trials are valid.
        setattr(loop, "_canary", lambda *_: default)  # noqa: B010
        setattr(loop, "_earns_another_round", lambda *_: False)  # noqa: B010
        while turns.step():
            pass
        trials = [view for view in turns.trials() if not view.is_default]
        rows = loop.store.measurements(study.name, role="probe")
        sampler = loop.study.sampler
        model = sampler.model(loop.study) if isinstance(sampler, ValiditySampler) else None
        rules = model.rules if model is not None else ()
    return Run(
        tuple(view.valid for view in trials), len(rows), sum(row.wall_s for row in rows), turns.ask_cpu_s / TRIALS,
        tuple(rules),
    )  # fmt: skip


def false_refusals(target: Any, session: Any, rule: LearnedRule, seed: int) -> tuple[int, int]:
    """Return (starts, probes) of configurations that a rule refuses, everything that it does not name at default."""
    import numpy as np

    from mlsysopt.core.space import Expression

    space = target.space()
    expression = Expression.parse(rule.text)
    part = space.subspace(expression.names)
    rng = np.random.default_rng(seed)
    drawn: list[Mapping[str, Any]] = []
    while len(drawn) < PROBES_PER_RULE:
        found = [one for one in part.sample(rng, 256) if not expression.holds({**space.default(), **one})]
        if not found:
            break
        drawn += found
    started = 0
    for config in drawn[:PROBES_PER_RULE]:
        started += session.probe(config).ok
    return started, len(drawn[:PROBES_PER_RULE])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.tune_databases_validity", description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--directory", default="/var/tmp")
    options = parser.parse_args(arguments)
    import optuna

    from mlsysopt.core.store import Store
    from mlsysopt.core.target import Limits
    from mlsysopt.operate.tune.discovery import discover
    from mlsysopt.operate.tune.server_files import server
    from mlsysopt.operate.tune.server_target import server_target

    bench = Bench(
        "tune_databases_validity",
        "from raw ranges, with nothing declared, three quarters of the later trials start and run",
        f"Optuna {optuna.__version__} TPE, failures as FAIL, and as violated constraints",
        f"{TRIALS} trials of {LOAD_S} s of load, {options.seeds} seeds, 12 GiB of address space, valid share of the "
        f"last {LATE}",
    )
    try:
        target = server_target(
            server("postgres"), workload="select", knobs=KNOBS, memory=MEMORY, constraints=False, seconds=LOAD_S,
            directory=options.directory,
        )  # fmt: skip
    except MissingProgram as error:
        return bench.missing(str(error))
    began = time.monotonic()
    with Store.open(None) as store:
        found = discover(target, budget="60s", store=store)
    print(found.text(), "\n")
    runs: dict[str, list[Run]] = {name: [] for name in METHODS}
    with target.session(Limits()) as session:
        for seed in range(1, options.seeds + 1):
            for name in METHODS:
                one = found.target if name == "all" else target
                run = (
                    plain(one, session, seed)
                    if name == "fail"
                    else studied(one, session, seed, validity="none" if name == "encoded" else "learned")
                )
                runs[name].append(run)
                bench.round(
                    method=name, seed=seed, valid=[int(v) for v in run.valid], late=run.late, probes=run.probes,
                    probe_s=run.probe_s, ask_cpu_s=run.ask_cpu_s, rules=[rule.text for rule in run.rules if rule.hard],
                )  # fmt: skip
                print(f"seed {seed} {name}: {run.late:.2f} of the last {LATE}, {run.probes} probes", flush=True)
        hard = {rule.text: rule for name in METHODS for run in runs[name] for rule in run.rules if rule.hard}
        wrong = {}
        for text, rule in hard.items():
            wrong[text] = false_refusals(target, session, rule, seed=1)
            print(f"rule {text}: {wrong[text][0]} of {wrong[text][1]} that it refuses start", flush=True)
    late = {name: statistics.median(run.late for run in runs[name]) for name in METHODS}
    bench.table(
        ["method", "valid share of the last 18", "per seed", "probes", "probe s", "ask CPU-s"],
        [
            [name, f"{late[name]:.2f}", ", ".join(f"{run.late:.2f}" for run in runs[name]),
             statistics.median(run.probes for run in runs[name]) + (found.probes if name == "all" else 0),
             f"{statistics.median(run.probe_s for run in runs[name]) + (found.seconds if name == 'all' else 0):.0f}",
             f"{statistics.median(run.ask_cpu_s for run in runs[name]):.3f}"]
            for name in METHODS
        ],
    )  # fmt: skip
    # A share of nothing cannot be multiplied: one valid trial of eighteen stands for it.
    floor = max(late["fail"], 1 / LATE)
    bench.bar("tune-databases.1a", late["all"], ">=", 0.75, about="valid share, all layers")
    bench.bar("tune-databases.1b", late["all"] / floor, ">=", 3.0, about="over plain TPE with FAIL, all layers")
    bench.bar("tune-databases.1c", late["learned"] / max(late["encoded"], 1 / LATE), ">=", 1.0,
              about="learned layer alone over constraint-encoded TPE")  # fmt: skip
    bench.bar("tune-databases.1d", late["learned"] / floor, ">=", 3.0, about="learned layer alone over plain TPE")
    bench.bar("tune-databases.1e", sum(starts for starts, _ in wrong.values()), "<=", 0,
              about=f"false refusals of {len(hard)} hard rules")  # fmt: skip
    bench.bar("tune-databases.11", late["learned"] / max(late["encoded"], 1 / LATE), ">=", 1.3, must=False,
              about="learned layer alone over constraint-encoded TPE")  # fmt: skip
    bench.bar("tune-databases.14", late["all"], ">=", 0.95, must=False, about="valid share, all layers")
    bench.headline = (
        f"{late['all']:.0%} of the later trials valid from raw ranges (plain TPE {late['fail']:.0%}), "
        f"{time.monotonic() - began:.0f} s"
    )
    return bench.finish()


if __name__ == "__main__":
    raise SystemExit(main())
