"""Right inference passes, each wrong one fails, and what cannot be told is not told."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from mlsysopt.core.errors import UsageError
from mlsysopt.infer.compiled import Model
from mlsysopt.infer.engine import Backend
from mlsysopt.infer.language import Beta, Binomial, Flat, Normal, Shape, factor, observe
from mlsysopt.infer.verify import Row, Verification, verify
from tests.infer import models, mutants

CASES = {one.name[0]: one for one in models.cases()}
MUTANTS = {one.name: one for one in mutants.mutants()}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave nearly all sweeps to the calibration, where that alone is looked at."""
    for name, value in {"PILOTS": 1, "JOINT_CHAINS": 2, "MARGINALS": 1000}.items():
        monkeypatch.setattr(f"mlsysopt.infer.verify.{name}", value)


# Where few sweeps are enough, plain Python is done before numba has compiled.
@pytest.mark.parametrize(("letter", "backend"), [("c", "python"), ("g", "single"), ("h", "single")])
def test_right_inference_passes(letter: str, backend: Backend) -> None:
    case = CASES[letter]
    found = verify(Model(case.function)(**case.inputs), 100, seed=4, backend=backend)
    assert found.ok is True and found.exit_code == 0, found.text()
    assert found.p > 1e-3 and found.z < 4.0
    assert {"log likelihood", "log joint"} < {one.name for one in found.table}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_fail(name: str) -> None:
    one = MUTANTS[name]
    compiled = Model(one.function)(**one.inputs)
    found = verify(compiled, 100, rules=one.rules, engine=one.engine(), backend=one.backend)
    assert found.p < 1e-3, found.text()
    assert found.ok is False and found.exit_code == 1 and "failed" in found.verdict()
    if one.only:
        p = {row.name: row.p for row in found.table}
        assert p[one.only] < 1e-6 and min(p[row] for row in p if row not in (one.only, "log joint")) > 1e-3


def test_a_mutant_that_changes_nothing_is_an_error() -> None:
    one = MUTANTS["prior only"]
    engine = mutants.mutated("idle", {r"never written": "x"})
    with pytest.raises(ValueError, match="changes nothing"):
        verify(Model(one.function)(**one.inputs), 1, engine=engine, backend="python")


@pytest.mark.usefixtures("quick")
def test_data_only_give_the_shapes() -> None:
    one = MUTANTS["prior only"]
    won = np.array([20, 20, 20])
    with_data = Model(one.function)(won=won, trials=20)
    shaped = Model(one.function)(won=Shape(3), trials=20)
    assert verify(with_data, 5, backend="python").table == verify(shaped, 5, backend="python").table
    assert (with_data.bound.arrays["won"] == 20).all()


@pytest.mark.usefixtures("quick")
def test_native_and_plain_code_agree() -> None:
    one = CASES["g"]
    compiled = Model(one.function)(**one.inputs)
    assert verify(compiled, 3, seed=2) == verify(compiled, 3, seed=2, backend="python")


@pytest.mark.usefixtures("quick")
def test_few_replicates_tell_nothing_and_progress_is_told() -> None:
    one = MUTANTS["prior only"]
    told: list[tuple[str, int, int]] = []
    found = verify(Model(one.function)(**one.inputs), 5, backend="python", progress=lambda *said: told.append(said))
    assert found.ok is None and found.exit_code == 4 and "too few to tell" in found.text()
    assert told[-1] == ("replicates", 5, 5)
    assert found.to_json()["ok"] is None and len(found.to_json()["table"]) == len(found.table)


def test_verdicts() -> None:
    row = Row("mu", 0.5, 0.1, -0.2)
    found = Verification("m", (row,), 100, (), "gibbs", 1, 100, 1.0)
    assert found.ok is True
    assert dataclasses.replace(found, table=(Row("mu", 1e-4, 0.0, 0.0),)).ok is False
    assert dataclasses.replace(found, table=(Row("mu", 0.5, 0.0, -4.5),)).ok is False
    assert dataclasses.replace(found, table=(Row("mu", 0.5, math.nan, 0.0),)).ok is False
    assert dataclasses.replace(found, replicates=40, table=(Row("mu", 1e-4, 0.0, 0.0),)).ok is None
    assert dataclasses.replace(found, replicates=40, table=(Row("mu", 1e-9, 0.0, 0.0),)).ok is False
    lost = dataclasses.replace(found, lost=("m.py:3: mu has no density",))
    assert lost.ok is False and "m.py:3" in lost.verdict()


def improper(y):
    mu = Flat()
    for i in range(len(y)):
        observe(y[i], Normal(mu, 1.0))


def weighted(y):
    p = Beta(1.0, 1.0)
    factor(-1.0 * p)  # pyright: ignore[reportOperatorIssue]
    for i in range(len(y)):
        observe(y[i], Binomial(3, p))


@pytest.mark.parametrize(
    ("function", "said"), [(improper, "mu has the improper prior Flat"), (weighted, r"factor\(...\) at line")]
)
def test_what_cannot_be_simulated_is_refused(function: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        verify(Model(function)(y=Shape(3)), 10, backend="python")


@pytest.mark.usefixtures("quick")
def test_fixing_an_improper_one_is_the_way_out() -> None:
    compiled = Model(improper)(y=Shape(3))
    compiled["mu"].fix(1.0)
    assert verify(compiled, 5, backend="python").ok is None


def test_settings_and_sizes_are_refused() -> None:
    compiled = Model(CASES["g"].function)(y=Shape(1_000_000))
    with pytest.raises(UsageError, match="z with 1000000 cells"):
        verify(compiled, 10)
    with pytest.raises(UsageError, match="at least 1"):
        verify(compiled, 0)
