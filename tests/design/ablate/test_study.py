"""The study from Python: designs beyond leaving one out, pairs chosen late, pruning, and what a result can do."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlsysopt.core.errors import StudyError, UsageError
from mlsysopt.core.executors import Local
from mlsysopt.design import ablate
from mlsysopt.design.ablate import Result
from mlsysopt.design.ablate.answers import resolution

PARTS = tuple(f"p{i}" for i in range(12))
LOSSES = {"p1": 0.08, "p7": 0.05}


def noise(*what: object) -> float:
    return random.Random(repr(what)).gauss(0.0, 0.004)


def make() -> dict[str, Any]:
    return {}


def train(model: Any, data: Any, *, seed: int, off: str = "", **parts: bool) -> dict[str, float]:
    gone = tuple(sorted(name for name, there in parts.items() if not there))
    value = 0.9 + noise(seed) + noise(seed, gone) - sum(LOSSES.get(name, 0.0) for name in gone)
    # p3 and p4 stand in for one another.
    return {"accuracy": value - (0.06 if {"p3", "p4"} <= set(gone) else 0.0), "loss": 1.0 - value}


def study(count: int = 6, **settings: Any) -> ablate.Study:
    settings = {"maximize": "accuracy", "margin": 0.02, **settings}
    return ablate.study(make, train, None, **settings).options(**dict.fromkeys(PARTS[:count], False))


def words(result: Result) -> dict[str, str]:
    return {row.name.removesuffix("=False"): row.word for row in result.rows}


def test_lower_can_be_better() -> None:
    found = study(3, maximize=None, minimize="loss").run(workers=0)
    assert words(found) == {"p0": "negligible", "p1": "needed", "p2": "negligible"}
    assert found.row("p1=False").mean < 0


def test_pairs_among_the_largest_effects_are_chosen_after_the_singles() -> None:
    one = study(4).pairs(top=3)
    assert one.plan().design.reserved == 3
    found = one.run(workers=0)
    pairs = [row for row in found.rows if row.kind == "pair"]
    assert len(pairs) == 3
    assert sum("p1=False" in row.members for row in pairs) == 2
    assert all(row.interaction is not None and abs(row.interaction[0]) < 0.03 for row in pairs)


def test_every_pair_finds_the_backup() -> None:
    found = study(5).pairs(every=True).run(workers=0)
    assert [row.members for row in found.backups()] == [("p3=False", "p4=False")]
    pair = found.row("p3=False + p4=False")
    assert pair.interaction is not None and pair.interaction[2] < 0


def test_a_study_goes_on_with_more_questions_and_trains_nothing_twice(tmp_path: Path) -> None:
    lines: list[str] = []
    first = study(4, store=tmp_path / "s.db").run(workers=0, tell=lines.append)
    again: list[str] = []
    wider = study(4, store=tmp_path / "s.db").pairs(("p0=False", "p1=False")).run(workers=0, tell=again.append)
    assert len(lines) == first.trainings
    assert again and all(line.startswith("p0=False + p1=False") for line in again)
    assert words(first).items() <= words(wider).items()


def test_screening_ranks_what_matters_first_from_few_rows() -> None:
    one = study(12).design("screening")
    plan = one.plan()
    assert len(plan.design.rows) == 16
    found = one.run(workers=0, seeds=6)
    ranked = sorted(found.rows, key=lambda row: row.mean)
    # Half of the backup pair's loss is mixed into both of its parts.
    assert {row.name for row in ranked[:2]} <= {"p1=False", "p7=False", "p3=False", "p4=False"}
    assert found.row("p1=False").word == "needed"


def test_adding_one_in() -> None:
    found = study(3).design("add_one_in").run(workers=0)
    assert found.row("p1=False alone").word == "needed"
    assert found.row("p0=False alone").word == "negligible"


def test_pruning_needs_a_margin_and_keeps_what_is_needed() -> None:
    one = study(5)
    found = one.prune(one.run(workers=0), workers=0)
    assert found.pruned is not None and found.pruned["verified"]
    dropped = set(found.pruned["dropped"])
    assert {"p0=False", "p2=False"} <= dropped and "p1=False" not in dropped
    assert not {"p3=False", "p4=False"} <= dropped
    assert "pruned: without" in found.table()
    bare = study(3, margin=None)
    with pytest.raises(StudyError, match="prune needs a margin"):
        bare.prune(bare.run(workers=0), workers=0)


def test_other_seeds_are_other_trainings(tmp_path: Path) -> None:
    one = study(2, store=tmp_path / "s.db")
    a, b = (one.run(workers=0, seeds=3, first_seed=first) for first in (0, 100))
    assert a.trainings == b.trainings == 10
    assert set(a.base).isdisjoint(b.base)


def test_an_executor_of_ones_own() -> None:
    with Local(1) as pool:
        found = study(2).run(executor=pool, workers=1, seeds=3)
    assert found.row("p1=False").deltas == study(2).run(workers=0, seeds=3).row("p1=False").deltas


def test_a_variant_is_another_model() -> None:
    def worse() -> dict[str, Any]:
        return {"worse": True}

    def looks(model: Any, data: Any, *, seed: int) -> float:
        return 0.9 + noise(seed, *model) - 0.3 * bool(model)

    found = ablate.study(make, looks, maximize="accuracy").variant("worse", worse).run(workers=0)
    assert found.row("worse").word == "needed"


def test_a_result_survives_json_and_knows_its_rows() -> None:
    found = study(4).run(workers=0)
    text = json.dumps(found.to_json(), allow_nan=False)
    back = Result.from_json(json.loads(text))
    assert back.to_json() == found.to_json()
    assert back.table() == found.table()
    with pytest.raises(UsageError, match="did you mean p1=False"):
        found.row("p1=Fals")
    single = found.single_seed()
    assert single["p1=False"] == found.row("p1=False").deltas[0]


def test_both_errors_and_wilcoxon_stand_in_the_json() -> None:
    row = study(1).run(workers=0, seeds=10).rows[0]
    deltas = [d for d in row.deltas if d is not None]
    assert row.error_paired == pytest.approx(np.std(deltas, ddof=1) / math.sqrt(10))
    values = [[train(make(), None, seed=seed, **off)["accuracy"] for seed in range(10)] for off in ({}, {"p0": False})]
    assert row.error_unpaired == pytest.approx(math.sqrt(sum(np.var(side, ddof=1) / 10 for side in values)))
    assert row.wilcoxon is not None and 0 < row.wilcoxon <= 1


def test_the_step_of_a_coarse_metric_is_seen_and_said() -> None:
    def coarse(model: Any, data: Any, *, seed: int, a: bool = True) -> float:
        return round(10 * (0.7 + 10 * noise(seed, a))) / 10

    found = ablate.study(make, coarse, maximize="accuracy", margin=0.02).options(a=False).run(workers=0)
    assert found.step == pytest.approx(0.1)
    assert any("moves in steps of 0.1" in warning for warning in found.warnings)
    assert resolution([0.1 + 0.2, 0.3, 0.5]) == pytest.approx(0.2)


def test_a_budget_of_time_ends_it() -> None:
    found = study(4).run(workers=0, budget="1us")
    assert found.status == "budget" and found.exit_code == 4
    assert found.trainings == 0
    assert {row.word for row in found.rows} == {"undecided"}


def test_the_report_holds_every_part(tmp_path: Path) -> None:
    found = study(5).pairs(every=True).run(workers=0)
    page = found.report(tmp_path / "report", command="mlsysopt ablate run study.py").read_text()
    for part in (
        "Verdicts",
        "Pairs",
        "Costs",
        "Refused and failed",
        "How it was decided",
        "mlsysopt ablate run study.py",
    ):
        assert part in page
    assert page.count("<svg") == 2
    assert "AutoAblation" in page
