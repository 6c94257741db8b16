"""Bar core.6: keeping a study costs little: file store, memory, resume.

python -m bench.core_store      about 1 min
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution

from bench.protocol import Bench
from mlsysopt.core.measure import Ratio
from mlsysopt.core.store import MeasurementRow, Store

TRIALS = 1_000
BLOCKS = 10
RESUMES = 5
KNOBS: dict[str, BaseDistribution] = {f"knob{i}": FloatDistribution(0.0, 1.0) for i in range(10)}
IDENTITY: dict[str, Any] = {
    "target": {"name": "no-op", "engine": "none"},
    "space": dict.fromkeys(KNOBS, "float"),
    "objectives": ["higher speed"],
}

RESUME = """
import sys, time
started = time.perf_counter()
import optuna
from mlsysopt.core.store import Store
from bench.core_store import IDENTITY, KNOBS, study_of
imported = time.perf_counter()
with Store.open(sys.argv[1]) as store:
    study = study_of(store, 2)
    trials = len(study.trials)
    study.ask(KNOBS)
    print(trials, time.perf_counter() - imported, time.perf_counter() - started)
"""


def study_of(store: Store, seed: int) -> optuna.Study:
    sampler = optuna.samplers.RandomSampler(seed=seed)
    return store.study("bench", identity=IDENTITY, directions=["maximize"], sampler=sampler)


def measured(trial: optuna.Trial, role: Any, machine: str, value: float) -> MeasurementRow:
    metrics = {"speed": value, "p99_us": 10.0 - value, "memory_bytes": 1e6}
    return MeasurementRow(
        study="bench", trial=trial.number, role=role, round=0, side=role, config=dict(trial.params),
        effective=dict(trial.params), metrics=metrics, failure_kind=None, reason=None, log_tail="", seed=1,
        cpu_s=0.0, wall_s=0.0, started_at=time.time(), conditions={"load1": 0.5, "pressure_avg10": 0.0},
        machine=machine, worker=0,
    )  # fmt: skip


def ours(store: Store, study: optuna.Study, trials: int) -> None:
    """Run no-op trials with everything that a study keeps of each: lease, canary, measurement, attributes."""
    for _ in range(trials):
        trial = study.ask(KNOBS)
        value = sum(trial.params.values())
        store.annotate(trial, {"config": json.dumps(trial.params)})
        with store.lease(trial):
            store.record(measured(trial, "canary", store.machine_key, 5.0))
            store.record(measured(trial, "trial", store.machine_key, value))
            final = {
                "state": "valid",
                "metrics": {"speed": value, "p99_us": -value},
                "noise": {"speed": 1e-4, "p99_us": 1e-4},
                "effective": trial.params,
                "rounds": 1,
            }
            store.annotate(trial, final, constraints={"valid": -1.0, "p99_us": -0.1})
            study.tell(trial, value)


def plain(study: optuna.Study, trials: int) -> None:
    """Run the same trials in plain Optuna, which keeps parameters and value only."""
    for _ in range(trials):
        trial = study.ask(KNOBS)
        study.tell(trial, sum(trial.params.values()))


def cpu_s(work: Callable[[], None]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> int:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    bench = Bench(
        name="core_store",
        claim="a study in our store costs at most 1.3 times the CPU time of plain Optuna, though it keeps more",
        peer=f"optuna {optuna.__version__} RDBStorage, ask and tell, random sampler",
        protocol=f"{TRIALS} no-op trials of {len(KNOBS)} parameters; {BLOCKS} interleaved blocks (A B B A ...) on two "
        "SQLite files of the same folder, both with a write-ahead log; CPU time of the process",
    )
    with tempfile.TemporaryDirectory(prefix="mlsysopt-bench-") as folder:
        file, peer_file = Path(folder) / "ours.db", Path(folder) / "plain.db"
        # The peer's file is made by us: it then has the write-ahead log too, which is its better case.
        Store.open(peer_file).close()
        rdb = optuna.storages.RDBStorage(f"sqlite:///{peer_file}")
        peer = optuna.create_study(storage=rdb, direction="maximize", sampler=optuna.samplers.RandomSampler(seed=1))
        per_block = TRIALS // BLOCKS
        with Store.open(file) as store, Store.open(None) as memory:
            study, in_memory = study_of(store, 1), study_of(memory, 1)
            ours(store, study_of(store, 1), 2)
            plain(peer, 2)
            file_s: list[float] = []
            peer_s: list[float] = []
            memory_s: list[float] = []
            for block in range(BLOCKS):
                sides = [
                    (file_s, lambda: ours(store, study, per_block)),
                    (peer_s, lambda: plain(peer, per_block)),
                ]
                for seconds, work in sides if block % 2 == 0 else reversed(sides):
                    seconds.append(cpu_s(work))
                memory_s.append(cpu_s(lambda: ours(memory, in_memory, per_block)))
                bench.round(block=block, file_s=file_s[-1], plain_s=peer_s[-1], memory_s=memory_s[-1])
            kept = len(store.measurements("bench"))
        rdb.engine.dispose()
        with Store.open(Path(folder) / "buffered.db", buffered=True) as store:
            study = study_of(store, 1)
            buffered_s = cpu_s(lambda: ours(store, study, TRIALS))
        resumes: list[tuple[float, float]] = []
        for _ in range(RESUMES):
            done = subprocess.run(
                [sys.executable, "-c", RESUME, str(file)], capture_output=True, text=True, check=True, timeout=120
            )
            trials, opened, whole = done.stdout.split()
            assert int(trials) >= TRIALS, done.stdout
            resumes.append((float(opened), float(whole)))
            bench.round(resume_s=float(opened), with_imports_s=float(whole))
    ratio = Ratio.of(peer_s, file_s, metric="time", better="lower", clock="cpu", baseline_name="plain Optuna", unit="s")
    rows = [
        ("plain Optuna, file", per_trial(peer_s, per_block), "parameters and value"),
        ("store, file", per_trial(file_s, per_block), f"and {kept} measurements, leases, attributes"),
        ("store, buffered file", f"{buffered_s / TRIALS * 1e3:.2f}", "the same, written every second"),
        ("store, memory", per_trial(memory_s, per_block), "the same"),
    ]
    bench.table(["storage", "CPU ms per trial", "keeps"], rows)
    whole = max(whole for _, whole in resumes)
    bench.table(
        ["resume", "s"],
        [
            ("open, load, first ask (median)", f"{statistics.median(opened for opened, _ in resumes):.2f}"),
            ("with imports, slowest", f"{whole:.2f}"),
        ],
    )
    bench.headline = ratio.text()
    bench.bar("core.6a", ratio.value, "<=", 1.3, about=f"file store against plain Optuna: {ratio.text()}")
    bench.bar("core.6b", max(memory_s) / per_block * 1e3, "<=", 5.0, about="ms of CPU per trial in memory, worst block")
    bench.bar("core.6c", whole, "<=", 3.0, about=f"s to resume {TRIALS} trials, imports included, slowest of {RESUMES}")
    return bench.finish()


def per_trial(seconds: list[float], trials: int) -> str:
    return f"{statistics.median(seconds) / trials * 1e3:.2f}"


if __name__ == "__main__":
    raise SystemExit(main())
