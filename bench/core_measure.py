"""Bar core.1: ratios hold under a noisy neighbour, and the stopping rule keeps its error rate.

python -m bench.core_measure              live burners, then the simulation (about 3 min)
python -m bench.core_measure --simulate   the simulation alone (about 15 s); writes no file
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.protocol import Bench
from mlsysopt.core.measure import compare
from mlsysopt.core.stats import SequentialRule, clopper_pearson

WORKS = (1.00, 1.05, 1.20)
REPEATS = 40
# A sample of 40 says little about a rate of 5 %: a thing is compared with itself more often, as far as time allows.
MORE_REPEATS = 160
ENOUGH_S = 180.0
STEPS_PER_WORK = 20
BURNER_S = 0.010
STUDIES = 1_000_000
REJUDGED = 2_500
SEED = 11

Floats = npt.NDArray[np.float64]

NOISES: dict[str, Callable[[np.random.Generator, tuple[int, int]], Floats]] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "Laplace": lambda rng, shape: rng.laplace(size=shape),
    "Cauchy": lambda rng, shape: rng.standard_cauchy(shape),
    "discretised": lambda rng, shape: np.round(2.0 * rng.standard_normal(shape)) / 2.0,
}


def burn(steps: int) -> int:
    """Run a linear congruential generator; CPU time in proportion to the steps."""
    x = 1
    for _ in range(steps):
        x = (x * 1103515245 + 12345) & 0x7FFFFFFF
    return x


def calibrated() -> int:
    """Return steps of about `BURNER_S` CPU seconds, a multiple of 20 so that 1.05 times of them is whole."""
    trial = 20_000
    seconds: list[float] = []
    for _ in range(9):
        start = time.process_time()
        burn(trial)
        seconds.append(time.process_time() - start)
    return round(BURNER_S / sorted(seconds)[4] * trial / STEPS_PER_WORK) * STEPS_PER_WORK


def worker() -> None:
    """Compare burners and write one JSON line per comparison.

    A process of its own: a neighbour that were its child would belong to its process tree.
    """
    steps = calibrated()
    plan = [work for work in WORKS for _ in range(REPEATS)]
    random.Random(SEED).shuffle(plan)
    started_s = time.monotonic()
    for number, work in enumerate([*plan, *[1.00] * MORE_REPEATS]):
        if number >= len(plan) and time.monotonic() - started_s > ENOUGH_S:
            break
        heavy = steps * round(work * 100) // 100
        ratio = compare(partial(burn, heavy), partial(burn, steps), seed=number)
        truth = steps / heavy
        row = {
            "work": work,
            "truth": truth,
            "covered": ratio.low <= truth <= ratio.high,
            "burner_steps": steps,
            **{key: value for key, value in ratio.to_json().items() if key not in ("machine", "other")},
        }
        print(json.dumps(row), flush=True)


def neighbour(seed: int) -> None:
    """Burn and rest for random times until the parent is gone."""
    rng = random.Random(seed)
    parent = os.getppid()
    block = bytearray(8 << 20)
    while os.getppid() == parent:
        until = time.monotonic() + rng.uniform(0.02, 0.6)
        while time.monotonic() < until:
            burn(5_000)
            # Reads and writes more than the second-level cache holds.
            block[:] = bytes(block)
        time.sleep(rng.uniform(0.02, 0.6))


@contextmanager
def started(*arguments: str) -> Generator[subprocess.Popen[str]]:
    """Run this module in another process, and end it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.core_measure", *arguments], stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def six_digits(number: str) -> float:
    """Read a number no more exactly than a clock is: the results file is committed and should stay small."""
    return float(f"{float(number):.6g}")


def live(bench: Bench) -> None:
    """Measure beside one neighbour per core."""
    rows: list[dict[str, Any]] = []
    with started("--neighbour", "1"), started("--neighbour", "2"):
        time.sleep(5)
        with started("--worker") as process:
            assert process.stdout is not None
            for line in process.stdout:
                rows.append(json.loads(line, parse_float=six_digits))
                bench.round(**rows[-1])
                if len(rows) % 40 == 0:
                    print(f"{len(rows)} comparisons", flush=True)
    if len(rows) < REPEATS * len(WORKS):
        raise RuntimeError(f"the measuring process ended after {len(rows)} comparisons")
    table: list[list[object]] = []
    by_work = {work: [row for row in rows if row["work"] == work] for work in WORKS}
    for work, found in by_work.items():
        n = len(found)
        counts = {verdict: sum(row["verdict"] == verdict for row in found) for verdict in ("proven", "refuted")}
        covered = sum(row["covered"] for row in found)
        low, high = clopper_pearson(counts["proven"], n)
        error = float(np.median([abs(row["value"] / row["truth"] - 1) for row in found]))
        clocks = ", ".join(f"{clock} {sum(row['clock'] == clock for row in found)}" for clock in ("cpu", "wall"))
        table.append(
            [
                f"{work:.2f}",
                n,
                f"{covered / n:.3f}",
                f"{counts['proven'] / n:.3f} [{low:.3f}, {high:.3f}]",
                f"{counts['refuted'] / n:.3f}",
                f"{np.mean([row['rounds'] for row in found]):.1f}",
                f"{error:.2%}",
                clocks,
            ]
        )
    bench.table(["work", "repeats", "coverage", "proven", "refuted", "mean rounds", "median error", "clock"], table)
    share = {
        work: (float(np.mean([r["covered"] for r in found])), float(np.mean([r["verdict"] == "proven" for r in found])))
        for work, found in by_work.items()
    }
    for letter, work in zip("abc", WORKS, strict=True):
        bench.bar(
            f"core.1{letter}", share[work][0], ">=", 0.90, about=f"work {work:.2f}: 95 % interval covers the truth"
        )
    bench.bar("core.1d", share[1.00][1], "<=", 0.05, about="a thing compared with itself is called better")
    bench.bar("core.1e", share[1.20][1], ">=", 0.90, about="1.20 times less work is proven within 20 rounds")
    bench.headline = f"1.20x proven in {share[1.20][1]:.0%}, A/A in {share[1.00][1]:.1%}, beside noisy neighbours"


def decided(x: Floats, rule: SequentialRule) -> npt.NDArray[np.int64]:
    """Judge studies in bulk, shape (rounds, studies): +1 and -1 where a look decided, else 0."""
    above = np.zeros(x.shape[1], dtype=np.int64)
    below, verdict = above.copy(), above.copy()
    for n in range(1, rule.looks[-1] + 1):
        averages = x[:n] + x[n - 1]
        above += np.sum(averages > 0, axis=0)
        below += np.sum(averages < 0, axis=0)
        if n in rule.looks:
            p = np.array([*attainable_or_one(n)])
            everything = n * (n + 1) // 2
            here = np.where(p[everything - above] <= rule.level(n), 1, 0) - np.where(
                p[everything - below] <= rule.level(n), 1, 0
            )
            verdict = np.where(verdict == 0, here, verdict)
    return verdict


def attainable_or_one(n: int) -> list[float]:
    """Return the two-sided p-value for every count of Walsh averages on the wrong side."""
    from mlsysopt.core.stats.signed_rank import attainable

    known = attainable(n)
    return [*known, *[1.0] * (n * (n + 1) // 2 + 1 - len(known))]


def simulate(bench: Bench) -> None:
    """Run the stopping rule alone on studies in which nothing differs."""
    rule = SequentialRule.for_looks()
    rng = np.random.default_rng(SEED)
    table: list[list[object]] = []
    worst, differing = 0.0, 0
    for noise, draw in NOISES.items():
        better = worse = 0
        for start in range(0, STUDIES, 50_000):
            x = draw(rng, (rule.looks[-1], 50_000))
            verdict = decided(x, rule)
            better, worse = better + int(np.sum(verdict > 0)), worse + int(np.sum(verdict < 0))
            if start == 0:
                standings = [rule.standing(x[:, i]) for i in range(REJUDGED)]
                signs = [int(s.low > 0) - int(s.high < 0) for s in standings]
                differing += int(np.sum(verdict[:REJUDGED] != np.array(signs)))
                differing += sum(s.decided != (s.p_value <= rule.alpha) for s in standings)
        worst = max(worst, (better + worse) / STUDIES)
        table.append([noise, STUDIES, f"{better / STUDIES:.4f}", f"{(better + worse) / STUDIES:.4f}"])
        bench.round(noise=noise, studies=STUDIES, better=better, worse=worse)
    bench.table(["noise", "A/A studies", "called better", "called different"], table)
    bench.bar("core.1f", worst, "<=", 0.05, about="simulated A/A called different in either direction, worst noise")
    bench.bar(
        "core.1g", differing, "==", 0, about=f"other verdicts when {REJUDGED * len(NOISES)} studies are judged singly"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulate", action="store_true", help="the stopping rule alone")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--neighbour", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker()
        return 0
    if arguments.neighbour is not None:
        neighbour(arguments.neighbour)
        return 0
    bench = Bench(
        name="core_measure",
        claim="a ratio's interval covers the truth, and a thing is not called better than itself, on a noisy machine",
        peer="integer loops whose work ratio is known exactly",
        protocol="compare() with its defaults beside one neighbour per core that burns and rests at random; "
        "A/A simulated for four kinds of noise",
    )
    if not arguments.simulate:
        live(bench)
    simulate(bench)
    return bench.finish(write=not arguments.simulate)


if __name__ == "__main__":
    raise SystemExit(main())
