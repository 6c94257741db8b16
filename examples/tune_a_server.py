"""Tune a server that is described in one file: ranges found by starting it, trials, rules, a verified answer.

Takes the shipped PostgreSQL when it is installed, else says what is missing.
"""

from __future__ import annotations

import sys

from mlsysopt.core.errors import MissingProgram
from mlsysopt.core.study import Study
from mlsysopt.operate import tune


def main() -> int:
    try:
        target = tune.postgres(workload="select", knobs="shared_buffers,superuser_reserved_connections", seconds=0.2)
    except MissingProgram as error:
        print(error)
        return 0
    found = tune.discover(target, budget="5s")
    print(found.text())
    study = Study(found.target, maximize="tps", sampler="tpe", seed=1)
    result = study.run(4, verify=False)
    print(result.text())
    for trial in study.trials():
        print(trial.number, trial.state, dict(trial.config), trial.reason[:60])
    return 0


if __name__ == "__main__":
    sys.exit(main())
