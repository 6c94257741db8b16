"""Tune a target whose optimum is known, and see that the study finds and verifies it.

Nothing real is measured here, so this runs in seconds anywhere; `examples/tune_rocksdb.py` does the
same to a real RocksDB.
"""

from __future__ import annotations

import mlsysopt as mo
from mlsysopt.testing.planted import Planted


def main() -> None:
    target = Planted(noise=0.05)
    study = mo.Study(target, maximize="throughput", guard={"write_us": "<= 1.2x"}, sampler="structured", seed=1)
    result = study.run(budget=16)

    print(result.text())
    truth = target.truth(result.config)["throughput"] / target.truth({})["throughput"]
    print(f"planted truth of this configuration: {truth:.2f}x")
    print(f"configuration: {dict(result.config)}")


if __name__ == "__main__":
    main()
