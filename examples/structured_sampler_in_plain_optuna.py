"""The structured sampler without the rest of the house: an ordinary Optuna study with sub-metrics.

The objective is the mean time of two operations. Each operation's own time is written to the user
attribute `metrics`; the sampler models them on the knobs that drive them and adds them up.
"""

from __future__ import annotations

import math

import optuna

from mlsysopt.core.search import StructuredGPSampler


def objective(trial: optuna.Trial) -> float:
    block = trial.suggest_int("block", 1, 64, log=True)
    buffer = trial.suggest_int("buffer", 1, 256, log=True)
    trial.suggest_float("unused", 0.0, 1.0)
    read_us = 6.0 + 4.0 * (math.log2(block) - 4.0) ** 2
    write_us = 4.0 + 60.0 / math.sqrt(buffer)
    trial.set_user_attr("metrics", {"read_us": math.log(read_us), "write_us": math.log(write_us)})
    return math.log(0.8 * read_us + 0.2 * write_us)


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = StructuredGPSampler(subgoals={"read_us": ["block"], "write_us": ["buffer"]}, seed=1)
    study = optuna.create_study(direction="minimize", sampler=sampler)
    study.optimize(objective, n_trials=20)
    print(f"best: {study.best_params}, {math.exp(study.best_value):.2f} us per operation (optimum 6.35)")


if __name__ == "__main__":
    main()
