"""Does a study keep its workers busy, and what does it add to a training?"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from typing import Any

from bench.protocol import Bench
from mlsysopt.core.executors import Executor, Local
from mlsysopt.design import ablate

WORKERS = 8
SLEEP_S = 0.2
ROWS = 20
SEEDS = 10
ROUNDS = 5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, nothing written")
    parser.add_argument("--ray", action="store_true", help="with a Ray cluster as well (15 to 30 s to start)")
    given = parser.parse_args()
    bench = Bench(
        "ablate_scale",
        "trainings keep the workers busy, and a study adds little to each",
        "the ideal: trainings times their length over the workers",
        f"{ROWS * SEEDS} trainings of {SLEEP_S:g} s sleep on {WORKERS} running workers, median of rounds; "
        "digits study on one and on two workers, interleaved",
    )
    rounds = 2 if given.quick else ROUNDS
    with Local(WORKERS) as pool:
        warm(pool, WORKERS)
        shares = [share_of_ideal(pool) for _ in range(rounds)]
    own = [overhead_s() for _ in range(rounds)]
    inside = [in_worker_s() for _ in range(rounds)]
    planning = plan_of_a_hundred()
    ratios = two_against_one(2 if given.quick else ROUNDS)
    for number in range(rounds):
        bench.round(share=shares[number], overhead_s=own[number], in_worker_s=inside[number], scaling=ratios[number])
    bench.table(
        ["what", "median", "rounds"],
        [
            ["share of the ideal, 8 workers", f"{statistics.median(shares):.2f}", [f"{s:.2f}" for s in shares]],
            ["driver and store, a training", f"{statistics.median(own) * 1e3:.1f} ms", [f"{s * 1e3:.1f}" for s in own]],
            [
                "in the worker, a training",
                f"{statistics.median(inside) * 1e3:.1f} ms",
                [f"{s * 1e3:.1f}" for s in inside],
            ],
            ["plan of 100 components", f"{planning:.1f} CPU-s", ""],
            ["two workers against one", f"{statistics.median(ratios):.2f}x", [f"{r:.2f}" for r in ratios]],
        ],
    )
    two, added = statistics.median(ratios), statistics.median(own) + statistics.median(inside)
    bench.headline = (
        f"{statistics.median(shares):.0%} of the ideal on {WORKERS} workers, {added * 1e3:.0f} ms a training, "
        f"two workers {two:.2f}x of one"
    )
    bench.bar("design-ablate.5a", statistics.median(shares), ">=", 0.85, about="share of the ideal on 8 workers")
    bench.bar("design-ablate.5b", two, ">=", 1.7, about="two workers against one, digits, quiet machine")
    bench.bar("design-ablate.5c", added * 1e3, "<=", 50, about="ms a training beyond the user's code")
    bench.bar("design-ablate.5d", planning, "<=", 10, about="CPU-s to plan 100 components")
    bench.bar("design-ablate.11", two, ">=", 1.85, must=False, about="two workers against one")
    if given.ray:
        bench.bar(
            "design-ablate.5e", int(ray_agrees()), "==", 1, about="the table with Ray is the table in one process"
        )
    return bench.finish(write=not given.quick)


def make() -> dict[str, Any]:
    return {}


def sleep(model: Any, data: Any, *, seed: int, part: int = -1, seconds: float = SLEEP_S) -> float:
    time.sleep(seconds)
    return 0.5 + (seed * 7919 % 101) * 1e-4 + (part * seed) * 1e-5


def instant(model: Any, data: Any, *, seed: int, part: int = -1) -> float:
    return sleep(model, data, seed=seed, part=part, seconds=0.0)


def rows(study: Any, count: int) -> Any:
    for part in range(count):
        study.variant(f"part {part}", make)
    return study


def warm(pool: Executor, workers: int) -> None:
    """Start every worker and its imports; they sleep a moment so that no worker takes two tasks."""
    list(pool.map(_warmed, range(3 * workers)))


def _warmed(number: int) -> int:
    import mlsysopt.design.ablate.trial  # noqa: F401  # pyright: ignore[reportUnusedImport]

    time.sleep(0.3)
    return number


def share_of_ideal(pool: Executor) -> float:
    """Return ideal over real wall time of 200 sleeping trainings."""
    with tempfile.TemporaryDirectory() as folder:
        study = rows(ablate.study(make, sleep, maximize="score", store=f"{folder}/s.db"), ROWS - 1)
        study.plan()
        start = time.perf_counter()
        result = study.run(seeds=SEEDS, workers=WORKERS, executor=pool, inference=False)
        wall = time.perf_counter() - start
    return result.trainings * SLEEP_S / WORKERS / wall


def overhead_s() -> float:
    """Return wall seconds of driver, store and judging per training that takes no time, in one process."""
    with tempfile.TemporaryDirectory() as folder:
        study = rows(ablate.study(make, instant, maximize="score", store=f"{folder}/s.db"), ROWS - 1)
        study.plan()
        start = time.perf_counter()
        result = study.run(seeds=SEEDS, workers=0, inference=False)
        return (time.perf_counter() - start) / result.trainings


def in_worker_s() -> float:
    """Return CPU seconds per training of the digits study that are not the user's: building, surgery, probing."""
    from mlsysopt.core.store import Store

    with tempfile.TemporaryDirectory() as folder:
        digits_part(f"{folder}/s.db").run(seeds=3, workers=0, inference=False)
        with Store.open(f"{folder}/s.db", read_only=True) as store:
            found = [s.row["overhead_s"] for s in store.samples("ablate") if s.row["what"] == "trial"]
    # The first one pays for the probe, once per worker.
    return statistics.mean(found[1:])


def digits_part(store: str) -> Any:
    from bench.ablate_nets import DigitsNet, digits, train_digits

    study = ablate.study(DigitsNet, train_digits, digits(), maximize="accuracy", store=store)
    return study.modules("stem", "blocks.*", "pool", "drop")


def two_against_one(rounds: int) -> list[float]:
    """Return wall time on one warm worker over wall time on two, in interleaved rounds."""
    ratios = []
    with Local(1) as one, Local(2) as two:
        warm(one, 1)
        warm(two, 2)
        for number in range(rounds + 1):
            walls = {}
            for count, pool in ((1, one), (2, two)) if number % 2 else ((2, two), (1, one)):
                with tempfile.TemporaryDirectory() as folder:
                    study = digits_part(f"{folder}/s.db")
                    study.plan()
                    start = time.perf_counter()
                    study.run(seeds=4, workers=count, executor=pool, inference=False)
                    walls[count] = time.perf_counter() - start
            if number:
                # The first round imports torch in every worker.
                ratios.append(walls[1] / walls[2])
    return ratios


def plan_of_a_hundred() -> float:
    """Return CPU seconds to plan a model of a hundred residual parts."""
    from bench.ablate_deep import deep, deep_data, never

    study = ablate.study(deep, never, deep_data(), maximize="accuracy").modules("parts.*")
    start = time.process_time()
    plan = study.plan()
    spent = time.process_time() - start
    assert len(plan.rows) == 100, plan
    return spent


def ray_agrees() -> bool:
    """Whether a study on Ray gives the table of one process."""
    tables = []
    for executor in ("inprocess", "ray"):
        study = rows(ablate.study(make, instant, maximize="score"), 4)
        found = study.run(workers=2, executor=executor, inference=False)
        tables.append([(row.name, row.word, row.deltas) for row in found.rows])
    return tables[0] == tables[1]


if __name__ == "__main__":
    raise SystemExit(main())
