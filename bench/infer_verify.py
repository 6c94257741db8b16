"""Calibration of twelve models and of six wrong ones: `python -m bench.infer_verify`. Bar infer.9."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench.infer_duel import cpu_s  # (one thread, before numpy)
from bench.protocol import Bench
from mlsysopt.infer import Model

TESTS = Path(__file__).parents[1] / "tests" / "infer"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--replicates", type=int, default=500)
    parser.add_argument("--models", default="", help="letters; all of them by default, and only then a result is kept")
    asked = parser.parse_args()
    sys.path.insert(0, str(TESTS))
    from models import cases  # pyright: ignore[reportMissingImports]
    from mutants import mutants  # pyright: ignore[reportMissingImports]

    from mlsysopt.infer.verify import verify

    n = asked.replicates
    bench = Bench(
        "infer_verify",
        "inference is calibrated on every kind of model, and each known way of being wrong is seen",
        "the uniform distribution of ranks; independent draws of the joint",
        f"{n} replicates of 99 thinned draws, 20 bins, Bonferroni over quantities; 100 joint chains",
    )
    least, most, rows = 1.0, 0.0, []
    for case in cases():
        if asked.models and case.name[0] not in asked.models:
            continue
        began = cpu_s()
        found = verify(Model(case.function)(**case.inputs), n, seed=9)
        spent = cpu_s() - began
        # A lost replicate is a failure, whatever the others say.
        p = 0.0 if found.lost else found.p
        least, most = min(least, p), max(most, found.z)
        rows.append(
            (case.name, found.method, len(found.table), found.thin, f"{p:.3g}", f"{found.z:.2f}", f"{spent:.1f}")
        )
        bench.round(
            model=case.name, method=found.method, quantities=len(found.table), thin=found.thin, tau=found.tau, p=p,
            z=found.z, lost=list(found.lost), cpu_s=spent,
        )  # fmt: skip
        print(f"{found.model}: p {p:.3g}, |z| {found.z:.2f}, {spent:.1f} CPU-s", flush=True)
        if not found.ok:
            print(found.text(), flush=True)
    bench.table(("model", "method", "quantities", "thin", "p", "|z|", "CPU-s"), rows)
    largest, rows = 0.0, []
    for one in mutants():
        began = cpu_s()
        compiled = Model(one.function)(**one.inputs)
        found = verify(compiled, n, seed=9, rules=one.rules, engine=one.engine())
        spent = cpu_s() - began
        largest = max(largest, found.p)
        rows.append((one.name, f"{found.p:.3g}", f"{found.z:.2f}", f"{spent:.1f}"))
        bench.round(mutant=one.name, p=found.p, z=found.z, cpu_s=spent)
    bench.table(("mutant", "p", "|z|", "CPU-s"), rows)
    bench.bar("infer.9a", least, ">", 0.001, about="smallest p of calibration over the models, Bonferroni within each")
    bench.bar("infer.9b", most, "<", 4.0, about="largest |z| of the joint test over the models")
    bench.bar("infer.9c", largest, "<", 1e-6, about="largest p over the mutants")
    bench.headline = f"12 models calibrated (p >= {least:.2g}), 6 mutants seen (p <= {largest:.1g})"
    return bench.finish(write=not asked.models and n >= 500)


if __name__ == "__main__":
    sys.exit(main())
