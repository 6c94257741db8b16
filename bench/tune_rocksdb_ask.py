"""What one proposal costs: `python -m bench.tune_rocksdb_ask`. Bar tune-rocksdb.4.

CPU seconds of one `study.ask()` of the whole vector at 30 finished trials, ten knobs, six intermediate
metrics and four guards, one thread; the coregionalised variant and Optuna's GPSampler beside it. Each ask
is of a fresh sampler object on the same study, so nothing is warm that a resumed study would not have.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import TYPE_CHECKING

# Read by BLAS when numpy is imported below; a thread per core would only make two processes wait.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402

from bench.protocol import Bench  # noqa: E402

if TYPE_CHECKING:
    import optuna

    from mlsysopt.core.space import Space

TRIALS, KNOBS, METRICS = 30, 10, 6
GUARDS = ("m0", "m1", "m4", "m5")
KNOWLEDGE = {f"m{i}": [f"k{i}", f"k{(i + 1) % KNOBS}", f"k{(i + 2) % KNOBS}"] for i in range(METRICS)}
LIMIT_S = 1.0


def make_space() -> Space:
    """Return ten knobs of mixed kinds under two constraints."""
    from mlsysopt.core.space import Float, Int, Space

    numbers = [Int(f"k{i}", 1, 4096, log=True) if i % 2 else Float(f"k{i}", 0.0, 1.0) for i in range(KNOBS)]
    return Space(numbers, constraints=["k1 * k3 <= 1000000", "k0 + k2 <= 1.8"])


def fill(space: Space, trials: int, seed: int) -> optuna.Study:
    """Return a study with finished trials as the tuner writes them."""
    import optuna

    rng = np.random.default_rng(seed)
    study = optuna.create_study(direction="maximize")
    for config in space.sobol(trials, seed):
        u = space.encode(config)
        z = {f"m{i}": float((u[i] - 0.4) ** 2 + 0.5 * u[(i + 1) % KNOBS] + 0.02 * rng.normal()) for i in range(METRICS)}
        gain = -sum(z.values()) / 3 + 0.02 * float(rng.normal())
        study.add_trial(
            optuna.trial.create_trial(
                value=gain,
                params=space.to_params(config),
                distributions=space.distributions(),
                user_attrs={
                    "state": "valid",
                    "metrics": {**z, "throughput": gain},
                    "noise": dict.fromkeys([*z, "throughput"], 4e-4),
                    "effective": config,
                },
                constraints={"valid": -1.0, **{name: z[name] - 0.7 for name in GUARDS}},
            )
        )
    return study


def cost_s(name: str, space: Space, trials: int, asks: int) -> list[float]:
    """Return CPU seconds of several asks, each by a sampler that has never seen its study."""
    from mlsysopt.core.search import registry

    found = []
    for seed in range(asks):
        study = fill(space, trials, seed=1)
        study.sampler = registry.sampler(name, space=space, seed=seed, knowledge=KNOWLEDGE)
        started = time.process_time()
        study.ask(space.distributions())
        found.append(time.process_time() - started)
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.tune_rocksdb_ask", description=__doc__)
    parser.add_argument("--asks", type=int, default=9)
    options = parser.parse_args(arguments)
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    bench = Bench(
        "tune_rocksdb_ask",
        f"a proposal at n = {TRIALS}, d = {KNOBS}, k = {METRICS} costs at most {LIMIT_S:g} CPU-s",
        f"the coregionalised variant (BoTorch) and Optuna {optuna.__version__} GPSampler",
        f"CPU seconds of study.ask() on one study, {options.asks} fresh samplers each after one unmeasured, one thread",
    )
    try:
        import torch

        torch.set_num_threads(1)
    except ImportError:
        return bench.missing("torch")
    space = make_space()
    medians, rows = {}, []
    for name in ("structured", "gp", "icm"):
        for trials in (TRIALS, 100) if name == "structured" else (TRIALS,):
            # The first ask imports libraries, which is no part of a steady study.
            costs = cost_s(name, space, trials, 1 + (options.asks if name != "icm" else 3))[1:]
            medians[name, trials] = float(np.median(costs))
            rows.append([name, trials, f"{np.median(costs):.3f}", f"{max(costs):.3f}"])
            bench.round(sampler=name, trials=trials, cpu_s=costs)
    bench.table(["sampler", "trials", "median CPU-s", "worst"], rows)
    bench.bar("tune-rocksdb.4", medians["structured", TRIALS], "<=", LIMIT_S, about="CPU-s per ask, one thread")
    bench.headline = ", ".join(f"{name} {value:.2f} CPU-s at {n} trials" for (name, n), value in medians.items())
    return bench.finish()


if __name__ == "__main__":
    raise SystemExit(main())
