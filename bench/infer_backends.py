"""The same draws wherever they are made: `python -m bench.infer_backends`. Bar infer.11."""

from __future__ import annotations

import sys
import time
from typing import Any

import bench.infer_duel  # noqa: F401  # pyright: ignore[reportUnusedImport]  (one thread, before numpy)
from bench.infer_models import hmm, hmm_data
from bench.protocol import Bench
from mlsysopt.infer import Model

import numpy as np  # isort: skip

DRAWS = 50


def main() -> int:
    from mlsysopt.core.executors import executor
    from mlsysopt.core.measure import is_quiet
    from tests.infer.models import cases

    bench = Bench(
        "infer_backends",
        "draws are the same bits on every backend, and two chains on two cores take half as long",
        "the python backend",
        f"12 models, {DRAWS} sweeps, two chains on four backends; then two chains of one model, 6 paired rounds",
    )
    differing = 0
    rows: list[list[object]] = []
    with executor("local", workers=2) as pool:
        for case in cases():
            blank = Model(case.function)(**case.inputs)
            data = blank.execute(seed=5)
            given = {name: data[name] for name in blank.executes_only}
            compiled = blank.bind(**given)
            same: dict[str, bool] = {}
            reference: dict[str, Any] | None = None
            for backend in ("python", "single", "threads", "executor"):
                fit = compiled.infer(
                    DRAWS,
                    warmup=DRAWS,
                    chains=2,
                    seed=9,
                    backend=backend,
                    start="prior",
                    method="gibbs",
                    executor=pool if backend == "executor" else None,
                )
                found = {name: fit[name] for name in fit.names} | {"log joint": fit.log_joint}
                reference = found if reference is None else reference
                same[backend] = all(np.array_equal(found[name], reference[name]) for name in reference)
            differing += sum(not one for one in same.values())
            rows.append([case.name, *("same" if one else "DIFFERENT" for one in same.values())])
            bench.round(model=case.name, same=same)
    bench.table(["model", "python", "single", "threads", "loky"], rows)
    bench.bar("infer.11a", differing, "==", 0, about="model and backend pairs whose draws differ")
    compiled = hmm(**hmm_data(3))
    compiled.z.retain = "none"
    compiled.infer(10, warmup=0, chains=1)
    ratios: list[float] = []
    for number in range(6):
        spent: dict[str, float] = {}
        for backend in ("single", "threads") if number % 2 == 0 else ("threads", "single"):
            began = time.perf_counter()
            compiled.infer(6000, warmup=10, chains=2, seed=number, backend=backend, start="prior")
            spent[backend] = time.perf_counter() - began
        ratios.append(spent["single"] / spent["threads"])
    quiet = is_quiet()
    bench.round(threads=ratios, quiet=quiet)
    bench.bar(
        "infer.11b",
        float(np.median(ratios)),
        ">=",
        1.6,
        about=f"two chains in two threads, wall{'' if quiet else '; not proven: the machine was busy'}",
        must=quiet,
    )
    bench.headline = f"{len(rows)} models draw the same bits on four backends; two threads {np.median(ratios):.2f}x"
    return bench.finish()


if __name__ == "__main__":
    sys.exit(main())
