"""Turned draws leave their distribution as it is, fall on its other side, and turn as far as a chain is slow."""

from __future__ import annotations

import inspect
import math
from types import FunctionType

import numpy as np
import pytest
from scipy import stats

from mlsysopt.infer.runtime.turning import MOST_TURN, adapt_turns, turned_dirichlet_draw, turned_gamma_draw
from mlsysopt.testing.distributions import compiled

DRAWS = 20_000


@pytest.mark.parametrize("turn", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", [1.5, 3.0, 40.0, 1e6])
def test_a_gamma_stays_a_gamma_and_turns(shape: float, turn: float) -> None:
    rng = np.random.default_rng(1)
    before = rng.standard_gamma(shape, DRAWS)
    after = np.array([turned_gamma_draw(rng, x, shape, turn) for x in before])
    assert stats.kstest(after, "gamma", (shape,)).pvalue > 1e-3
    assert stats.spearmanr(before, after).statistic == pytest.approx(-turn, abs=0.08)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("3.0 * shape - 1.0", "3.0 * shape + 4.0"),
        ("- (shape * cube - x)", "+ (shape * cube - x)"),
        ("mean = 1.0", "mean = 1.2"),
    ],
)  # fmt: skip
def test_a_wrong_correction_is_seen(old: str, new: str) -> None:
    text = inspect.getsource(turned_gamma_draw)
    assert old in text
    found: dict[str, FunctionType] = {"math": math, "np": np}  # type: ignore[dict-item]
    exec(compile("from __future__ import annotations\n" + text.replace(old, new), "<mutant>", "exec"), found)
    rng, shape = np.random.default_rng(2), 2.0
    x = rng.standard_gamma(shape, DRAWS)
    for _ in range(3):
        x = np.array([found["turned_gamma_draw"](rng, one, shape, 0.7) for one in x])
    wrong = bool(stats.kstest(x, "gamma", (shape,)).pvalue < 1e-6)
    # A proposal about another middle is corrected, as any other one is.
    assert wrong is (old != "mean = 1.0")


def test_rows_stay_dirichlet_whichever_of_their_cells_are_turned() -> None:
    rng = np.random.default_rng(3)
    alpha, turn = np.array([0.4, 2.0, 7.0, 30.0]), np.array([0.9, 0.9, 0.0, 0.7])
    rows = rng.dirichlet(alpha, DRAWS)
    before = rows.copy()
    for row in rows:
        turned_dirichlet_draw(rng, row, alpha, turn)
    assert np.allclose(rows.sum(axis=1), 1.0)
    for k, a in enumerate(alpha):
        assert stats.kstest(rows[:, k], "beta", (a, alpha.sum() - a)).pvalue > 1e-3
    assert np.corrcoef(before[:, 3], rows[:, 3])[0, 1] < -0.2
    again = stats.spearmanr(rows[:, 1], rows[:, 3]).statistic
    assert again == pytest.approx(stats.spearmanr(before[:, 1], before[:, 3]).statistic, abs=0.03)


@pytest.mark.parametrize("alpha", [[math.nan, 2.0], [0.0, 2.0], [2.0, math.inf]])
def test_shapes_that_are_none_make_a_row_of_nan(alpha: list[float]) -> None:
    row = np.array([0.5, 0.5])
    turned_dirichlet_draw(np.random.default_rng(4), row, np.array(alpha), np.full(2, 0.9))
    assert np.isnan(row).all()


@pytest.mark.parametrize(("hidden", "least", "most"), [(0, 0.0, 0.1), (9, 0.3, 0.6), (600, MOST_TURN, MOST_TURN)])
def test_turns_follow_from_how_slow_a_value_is(hidden: int, least: float, most: float) -> None:
    """A share and a count that is drawn given it: the count holds n / (n + 20) of the share's variance."""
    rng, prior = np.random.default_rng(5), np.array([8.0, 12.0])
    row, turn, *seen = np.array([0.4, 0.6]), *np.zeros((5, 2))
    found = []
    for _ in range(4_000):
        count = rng.binomial(hidden, row[0])
        alpha = prior + np.array([count, hidden - count])
        adapt_turns(row, alpha, turn, *seen)
        turned_dirichlet_draw(rng, row, alpha, turn)
        found.append(row[0])
    assert (least <= turn).all() and (turn <= most).all()
    assert np.mean(found[1_000:]) == pytest.approx(0.4, abs=0.05)
    assert np.var(found[1_000:]) == pytest.approx(0.24 / 21, rel=0.4)


def test_native_code_draws_the_same() -> None:
    alpha, turn = np.array([0.4, 2.0, 7.0, 30.0]), np.array([0.9, 0.9, 0.0, 0.7])
    seen = []
    for draw, adapt in ((turned_dirichlet_draw, adapt_turns), (compiled(turned_dirichlet_draw), compiled(adapt_turns))):
        rng, row, turns, told = np.random.default_rng(6), np.full(4, 0.25), turn.copy(), np.zeros((4, 4))
        for _ in range(50):
            draw(rng, row, alpha, turns)
            adapt(row, alpha, turns, *told)
        seen.append(np.concatenate([row, turns, told.reshape(-1)]))
    assert (seen[0] == seen[1]).all()
