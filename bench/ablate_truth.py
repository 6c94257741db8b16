"""Is the verdict true? Models with planted parts, trained for real; and the rule alone, in simulated studies.

python -m bench.ablate_truth               both
python -m bench.ablate_truth --simulate    the rule alone
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import numpy as np

from bench.ablate_cells import ENDS, KINDS, NOISES, simulate
from bench.protocol import Bench
from mlsysopt.core.executors import Executor, Local
from mlsysopt.core.stats import paired_t
from mlsysopt.design.ablate import Result, Rule

REPETITIONS = 20
STUDIES = 2000
SEEDS = 10
MARGIN = 0.02
BACKUP = ("branches.c", "branches.d")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulate", action="store_true", help="the rule alone")
    parser.add_argument("--quick", action="store_true", help="few studies, nothing written")
    given = parser.parse_args()
    bench = Bench(
        "ablate_truth_simulated" if given.simulate else "ablate_truth",
        "verdicts are true: planted parts are found, useless ones are not, whenever one stops",
        "one seed and argmin; five seeds with uncorrected t; fixed ten seeds with Holm",
        f"{REPETITIONS} generated data sets, each study trained for real; {STUDIES} simulated studies a cell",
    )
    simulated(bench, 300 if given.quick else STUDIES)
    if not given.simulate:
        trained(bench, 2 if given.quick else REPETITIONS)
        screened(bench)
    return bench.finish(write=not given.quick)


# --- the rule alone ------------------------------------------------------------------------------


def simulated(bench: Bench, studies: int) -> None:
    """Fill every cell and state the worst of them."""
    rows, cells = [], []
    for noise in NOISES:
        for kind in KINDS:
            for end in ENDS:
                cell = simulate(Rule, noise, kind, end, studies=studies, seed=1)
                cells.append(cell)
                bench.round(noise=noise, kind=kind, end=end, **{k: _plain(getattr(cell, k)) for k in cell.__slots__})
                rows.append(
                    [noise, kind, end, f"{cell.false:.3f}", f"{cell.covered:.3f}", f"{cell.wrongly_negligible:.3f}",
                     f"{cell.power:.2f}", f"{cell.trainings:.2f}", f"{cell.agree:.2f}"]
                )  # fmt: skip
    bench.table(
        ["noise", "effects", "stops at", "false", "covered", "at margin", "power", "trainings", "same word"], rows
    )
    bench.bar("design-ablate.2a", max(c.false for c in cells), "<=", 0.06, about="false verdicts in the worst cell")
    bench.bar(
        "design-ablate.2b", min(c.covered for c in cells), ">=", 0.94, about="intervals over all looks, worst cell"
    )
    bench.bar(
        "design-ablate.2c", max(c.wrongly_negligible for c in cells), "<=", 0.06,
        about="effects at the margin called negligible, worst cell",
    )  # fmt: skip


# --- trained for real ----------------------------------------------------------------------------


def trained(bench: Bench, repetitions: int) -> None:
    """Run the study on fresh data again and again, and count who is right."""
    from bench.ablate_nets import BRANCHES

    counts = {name: dict.fromkeys(("a missed", "useless called", "pair missed", "single called"), 0) for name in RULES}
    used, cost = [], []
    pool = Local(2)
    for repetition in range(repetitions):
        full, adaptive, trainings = planted_study(repetition, pool)
        used.append(trainings)
        cost.append(full.cpu_s / full.trainings)
        found = {"adaptive": words(adaptive), **{name: rule(full) for name, rule in RULES.items() if rule}}
        for name, word in found.items():
            count = counts[name]
            count["a missed"] += word["branches.a"] != "needed"
            count["useless called"] += any(
                word[f"branches.{u}"] in ("needed", "harmful") for u in BRANCHES if u[0] == "u"
            )
            count["pair missed"] += word[" + ".join(BACKUP)] != "needed"
            count["single called"] += any(word[one] == "needed" for one in BACKUP)
        bench.round(
            repetition=repetition, words=found["adaptive"], trainings=trainings,
            deltas={row.name: list(row.deltas) for row in full.rows},
        )  # fmt: skip
    pool.shutdown()
    bench.table(
        ["rule", *next(iter(counts.values())), f"(studies of {repetitions})"],
        [[name, *count.values(), ""] for name, count in counts.items()],
    )
    ours = counts["adaptive"]
    right = repetitions - max(ours["pair missed"], ours["single called"])
    bench.headline = (
        f"planted parts found in {repetitions - ours['a missed']} of {repetitions} studies, useless ones accused in "
        f"{ours['useless called']} (one seed: {counts['one seed, argmin']['useless called']}), "
        f"{np.mean(used) / (SEEDS * (len(BRANCHES) + 2)):.2f}x of the trainings of ten fixed seeds"
    )
    need = math.ceil(0.95 * repetitions)
    bench.bar("design-ablate.1a", repetitions - ours["a missed"], ">=", need, about="studies where A is needed")
    bench.bar("design-ablate.1b", ours["useless called"], "<=", 1, about="studies where a useless part is accused")
    bench.bar(
        "design-ablate.1c", right, ">=", math.ceil(0.9 * repetitions), about="studies where C and D are a backup pair"
    )
    bench.bar("design-ablate.1d", float(np.mean(cost)), "<=", 0.2, about="CPU-s a training")


def planted_study(repetition: int, pool: Executor) -> tuple[Result, Result, int]:
    """Train ten seeds of every row once; read the same trainings by the fixed and by the adaptive rule."""
    import tempfile

    from bench.ablate_nets import Planted, planted_data, train_planted
    from mlsysopt.design import ablate

    with tempfile.TemporaryDirectory() as folder:
        study = ablate.study(
            Planted, train_planted, planted_data(repetition, rows=2400), maximize="accuracy", margin=MARGIN,
            store=f"{folder}/planted.db",
        ).modules("branches.*").pairs(BACKUP)  # fmt: skip
        full = study.run(seeds=SEEDS, executor=pool, workers=2, inference=False)
        adaptive = study.run(workers=0, inference=False)
    seeds = [row.seeds for row in adaptive.rows]
    return full, adaptive, sum(seeds) + max(seeds)


def screened(bench: Bench) -> None:
    """Rank the parts of a model of forty by a screening design."""
    from bench.ablate_deep import ESSENTIAL, Wide, train_wide, wide_data
    from mlsysopt.design import ablate

    study = ablate.study(Wide, train_wide, wide_data(), maximize="accuracy").modules("parts.*").design("screening")
    found = study.run(seeds=3, workers=0, inference=False)
    ranked = [row.name for row in sorted(found.rows, key=lambda row: row.mean)]
    first = sum(name in ESSENTIAL for name in ranked[: len(ESSENTIAL)])
    share = found.trainings / (SEEDS * (len(found.rows) + 1))
    print(f"screening: {', '.join(ranked[:5])} lose most; {found.trainings} trainings\n")
    bench.round(screening={row.name: row.mean for row in found.rows}, trainings=found.trainings)
    bench.bar("design-ablate.10a", first, "==", len(ESSENTIAL), must=False, about="essential parts ranked first, of 40")
    bench.bar("design-ablate.10b", share, "<=", 1 / 3, must=False, about="trainings against ten seeds of each row")


def words(result: Result) -> dict[str, str]:
    """Return the verdict of each row."""
    return {row.name: row.word for row in result.rows}


def one_seed(result: Result) -> dict[str, str]:
    """Return what one seed says: whatever lost anything is needed, whatever gained anything is harmful."""
    signs = result.single_seed()
    return {name: "needed" if (d or 0.0) < 0 else "harmful" if (d or 0.0) > 0 else "-" for name, d in signs.items()}


def five_seeds(result: Result) -> dict[str, str]:
    """Return what five seeds and an uncorrected t test say."""
    found = {}
    for row in result.rows:
        test = paired_t([d for d in row.deltas[:5] if d is not None])
        found[row.name] = "-" if test.p_value > 0.05 else "needed" if test.estimate < 0 else "harmful"
    return found


RULES: dict[str, Any] = {
    "one seed, argmin": one_seed,
    "five seeds, uncorrected t": five_seeds,
    "fixed ten seeds, Holm": words,
    "adaptive": None,
}


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


if __name__ == "__main__":
    raise SystemExit(main())
