"""Tune a real RocksDB for a minute: few short trials, a verified answer (often "not proven" so soon).

Takes `db_bench` where it is installed and the embedded engine elsewhere. For a real answer give it
`mlsysopt tune run rocksdb --budget 6min`.
"""

from __future__ import annotations

import logging

import mlsysopt as mo
from mlsysopt.operate import tune


def main() -> None:
    logging.basicConfig(format="%(message)s")
    target = tune.rocksdb(
        workload="mixgraph", engine="embedded", memory="256MiB", settings={"num": "20000", "reads": "10000"}
    )
    study = mo.Study(
        target, maximize="throughput", sampler="structured", seed=1, on_event=lambda event: print(event.text)
    )
    study.run(budget=4, verify=False)
    best = max((trial for trial in study.trials() if trial.feasible), key=lambda trial: trial.gains[0])
    print(f"best of {len(study.trials())} trials, unverified: {dict(best.config)}")


if __name__ == "__main__":
    main()
