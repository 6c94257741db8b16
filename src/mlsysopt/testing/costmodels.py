"""The contract of every `CostModel`: inherit `CostModelContract`, say how to make one, run pytest."""

from __future__ import annotations

import json
import logging
import math
import pickle
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest

from mlsysopt.core.costmodel import CostModel
from mlsysopt.core.errors import UsageError
from mlsysopt.core.measure import hardware

__all__ = ["CostModelContract"]


class CostModelContract:
    """What an area that predicts costs relies on.

    The table is a planted law, `0.02 + 1e-6 R f + 2e-4 U` seconds with 3 % noise, over columns R, U and f.
    A subclass implements `make_model` for it and may loosen `error`, the median relative error on unseen
    cases that is still a model.
    """

    error: ClassVar[float] = 0.15

    def make_model(self) -> CostModel:
        """Return a new, unfitted model for the columns R, U and f."""
        raise AssertionError("a subclass of CostModelContract defines make_model")

    @staticmethod
    def table(seed: int, rows: int = 60, factor: float = 1.0) -> tuple[dict[str, Any], npt.NDArray[np.float64]]:
        """Return columns and costs of the planted law; `factor` is a slower machine."""
        rng = np.random.default_rng(seed)
        columns: dict[str, Any] = {
            "R": rng.integers(1_000, 100_000, rows).astype(np.float64),
            "U": rng.integers(50, 5_000, rows).astype(np.float64),
            "f": rng.choice([4.0, 8.0, 16.0, 32.0], rows),
        }
        costs = 0.02 + 1e-6 * columns["R"] * columns["f"] + 2e-4 * columns["U"]
        return columns, factor * costs * np.exp(0.03 * rng.standard_normal(rows))

    @pytest.fixture
    def fitted(self) -> CostModel:
        X, y = self.table(1)
        return self.make_model().fit(X, y)

    def test_has_every_part_of_the_protocol(self) -> None:
        assert isinstance(self.make_model(), CostModel)

    def test_fit_returns_itself(self) -> None:
        model = self.make_model()
        X, y = self.table(1)
        assert model.fit(X, y) is model

    def test_predicts_unseen_cases_of_the_same_law(self, fitted: CostModel) -> None:
        X, y = self.table(2)
        told = fitted.predict(X)
        assert told.mean.shape == told.low.shape == told.high.shape == y.shape
        assert np.all((told.low >= 0) & (told.low <= told.mean) & (told.mean <= told.high))
        assert float(np.median(np.abs(told.mean / y - 1))) <= self.error

    def test_intervals_hold_on_unseen_cases(self, fitted: CostModel) -> None:
        X, y = self.table(3, rows=200)
        told = fitted.predict(X)
        assert float(np.mean((told.low <= y) & (y <= told.high))) >= 0.8

    def test_few_cases_give_no_false_certainty(self) -> None:
        X, y = self.table(4, rows=4)
        told = self.make_model().fit(X, y).predict(X)
        assert np.all(np.isinf(told.high) | (told.high > told.mean))

    def test_the_same_cases_give_the_same_model(self, fitted: CostModel) -> None:
        X, y = self.table(1)
        again = self.make_model().fit(X, y)
        assert np.array_equal(again.predict(X).mean, fitted.predict(X).mean)

    def test_a_case_of_weight_0_does_not_count(self) -> None:
        X, y = self.table(5)
        wrong = y.copy()
        wrong[:6] *= 50
        weights = np.ones(len(y))
        weights[:6] = 0
        there, costs = self.table(6)
        told = self.make_model().fit(X, wrong, weights=weights).predict(there).mean
        assert float(np.median(np.abs(told / costs - 1))) <= self.error

    def test_transfer_learns_a_slower_machine_from_few_cases(self, fitted: CostModel) -> None:
        few, seconds = self.table(7, rows=5, factor=2.5)
        moved = fitted.transfer(few, seconds)
        X, y = self.table(8, factor=2.5)
        before = fitted.predict(X).mean
        assert float(np.median(np.abs(moved.predict(X).mean / y - 1))) <= self.error
        assert float(np.median(np.abs(before / y - 1))) > 0.4, "the model itself must stay as it was"

    def test_score_is_about_cases_left_out(self, fitted: CostModel) -> None:
        score = fitted.score()
        assert score.cases == 60
        assert 0 < score.median_relative_error <= self.error
        assert 0 <= score.coverage <= 1
        assert math.isnan(score.rank_correlation) or -1 <= score.rank_correlation <= 1

    def test_groups_are_left_out_as_a_whole(self) -> None:
        X, y = self.table(9)
        groups = [index // 20 for index in range(60)]
        score = self.make_model().fit(X, y, groups=groups).score()
        assert score.rank_correlation > 0.9

    def test_another_machine_is_warned_of(
        self, fitted: CostModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        X, _ = self.table(1)
        with caplog.at_level(logging.WARNING, logger="mlsysopt.costmodel"):
            fitted.predict(X)
            assert not caplog.records
            monkeypatch.setattr(hardware.Machine, "key", lambda _: "elsewhere")
            fitted.predict(X)
        assert "transfer" in caplog.text

    def test_fingerprint_is_plain_json(self, fitted: CostModel) -> None:
        assert json.loads(json.dumps(fitted.fingerprint)) == fitted.fingerprint
        assert fitted.fingerprint["machine"] == hardware.machine().key()

    def test_survives_pickling(self, fitted: CostModel) -> None:
        X, _ = self.table(1)
        again = pickle.loads(pickle.dumps(fitted))
        assert np.array_equal(again.predict(X).mean, fitted.predict(X).mean)

    @pytest.mark.parametrize("cost", [0.0, -1.0, math.nan, math.inf])
    def test_refuses_costs_that_are_none(self, cost: float) -> None:
        X, y = self.table(1)
        y[3] = cost
        with pytest.raises(UsageError):
            self.make_model().fit(X, y)

    def test_refuses_a_missing_column(self, fitted: CostModel) -> None:
        X, _ = self.table(1)
        del X["R"]
        with pytest.raises(UsageError, match="R"):
            fitted.predict(X)

    def test_refuses_to_predict_before_it_is_fitted(self) -> None:
        X, _ = self.table(1)
        with pytest.raises(UsageError, match="fit"):
            self.make_model().predict(X)
