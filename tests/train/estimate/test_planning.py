"""Plans: one budget for all, the formula inverted, what is missing or too large named."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from mlsysopt.core.errors import MissingExtra, UsageError
from mlsysopt.train.estimate import Plan, Ratings, plan
from tests.train.estimate.planted import BANK, burn, failing, planted, ratings

DATA = ratings(2500)


def slow_fit(data: Any, *, n_epochs: int = 200) -> None:
    """Cost a microsecond per rating and epoch."""
    burn(1e-6 * len(data) * n_epochs)


SLOW = replace(planted, name="slow", fit=slow_fit, time=("n_epochs*R", "1"), memory="8*U", params={"n_epochs": 200})


@pytest.fixture(scope="module")
def made() -> Plan:
    return plan(DATA, time="2s", trainers=[SLOW, planted, failing], budget="6s", bank=BANK)


def test_the_order_is_what_fits_first(made: Plan) -> None:
    verdicts = {row.trainer: row.verdict for row in made.rows}
    assert verdicts["planted"] in ("just train", "fits")
    # 7.5 seconds against two.
    assert verdicts["slow"] == "does not fit"
    assert verdicts["failing"] == "failed"
    assert [row.trainer for row in made.rows] == ["planted", "slow", "failing"]
    assert made.exit_code == 0


def test_the_formula_is_inverted(made: Plan) -> None:
    slow = next(row for row in made.rows if row.trainer == "slow")
    assert slow.epochs is not None and slow.estimate is not None
    assert 1 <= slow.epochs < 200
    at, more = (slow.estimate.at(n_epochs=slow.epochs + one) for one in (0, 1))
    assert at.high * slow.estimate.wall_per_cpu <= 2.0 < more.high * slow.estimate.wall_per_cpu
    assert f"{slow.epochs} epochs fit, 200 do not" in slow.why


def test_all_share_one_budget(made: Plan) -> None:
    assert made.spent_s <= 6 * 1.15 + 0.5


def test_tells_people_and_machines(made: Plan) -> None:
    header, lines = made.table()
    assert header[0] == "trainer" and len(lines) == 3
    assert "3 samples failed" in str(made)
    document = json.loads(made.to_json())
    assert document["exit_code"] == 0 and len(document["trainers"]) == 3
    assert document["artefact"]["format"] == "estimate-plan"


def test_what_is_too_large_is_not_started() -> None:
    found = plan(DATA, memory="60MiB", trainers={"knn": {"user_based": True}}, budget="2s", bank=BANK)
    (row,) = found.rows
    assert (row.verdict, row.estimate, found.exit_code) == ("does not fit", None, 1)
    assert "3 squares of 2,500^2 x 8 B" in row.why
    assert row.trainer == "knn(user_based=True)"


def test_an_unknown_trainer_is_refused_before_anything_runs() -> None:
    with pytest.raises(UsageError, match="did you mean svd"):
        plan(DATA, trainers=["svdp"], bank=BANK)


def test_a_missing_package_is_an_error_only_where_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = replace(planted, modules=("no_such_package_at_all",))
    with pytest.raises(MissingExtra):
        plan(DATA, trainers=[missing], bank=BANK)
    monkeypatch.setattr("mlsysopt.train.estimate.planning.names", lambda: ["gone", "here"])
    known = {"gone": missing, "here": planted}
    monkeypatch.setattr("mlsysopt.train.estimate.planning.find", lambda name: known[name])
    found = plan(DATA, budget="3s", bank=BANK)
    assert {row.verdict for row in found.rows} == {"just train", "failed"}


def test_a_trainer_that_divides_by_constant_ratings_is_told_by_its_own_error() -> None:
    zeros = Ratings.from_codes(DATA.user, DATA.item, [0.0] * len(DATA))
    found = plan(zeros, trainers={"knn": {"sim": "cosine"}, "baseline": {}}, budget="4s", bank=BANK)
    rows = {row.trainer.split("(")[0]: row for row in found.rows}
    assert rows["knn"].verdict == "failed" and "ZeroDivisionError" in rows["knn"].why
    assert found.exit_code == 0


def test_the_error_on_unseen_ratings_is_an_aside() -> None:
    found = plan(ratings(600), trainers={"svd": {"n_epochs": 3, "n_factors": 5}}, budget="4s", rmse=True, bank=BANK)
    (row,) = found.rows
    assert 0.5 < row.rmse < 2.0
    assert "ranks may change" in str(found)
