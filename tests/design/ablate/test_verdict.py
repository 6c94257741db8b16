"""The rule: what it promises in simulated studies, and that each of its parts is needed for that."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.ablate_cells import Cell, simulate
from mlsysopt.core.errors import UsageError
from mlsysopt.core.stats import Moderated, holm, moderate, paired_t
from mlsysopt.design.ablate.verdict import HARMFUL, LOOKS, NEEDED, NEGLIGIBLE, OPEN, Rule, looks_up_to, more_seeds

Floats = np.ndarray


class WithoutG(Rule):
    def sequential(self, smallest: Floats, sides: int) -> Floats:
        return smallest


class WithoutHolm(Rule):
    def adjusted(self, ps: Floats) -> Floats:
        return ps


class WithoutCap(Rule):
    def shrunk(self, variance: Floats, freedom: Floats) -> Moderated:
        return moderate(variance, freedom, cap=None, centre="between")


class WithoutResolution(Rule):
    def widened(self, variance: Floats, squares: Floats | float) -> Floats:
        return variance


STUDIES = 500
# Three standard errors of so many studies above the 5 % that are promised.
LIMIT = 0.05 + 3 * math.sqrt(0.05 * 0.95 / STUDIES)
HARD = (
    ("normal", "mixed", "last look"),
    ("rounded to 1/100", "null, no margin", "last look"),
    ("sds .3-2", "null, no margin", "last look"),
    ("one sd 3x", "mixed", "random look"),
)


def cell(rule: type[Rule], where: tuple[str, str, str]) -> Cell:
    return simulate(rule, *where, studies=STUDIES, seed=5)


@pytest.mark.parametrize("where", HARD, ids=", ".join)
def test_the_rule_keeps_its_promises(where: tuple[str, str, str]) -> None:
    found = cell(Rule, where)
    assert found.false <= LIMIT
    assert found.covered >= 0.94
    assert found.wrongly_negligible <= LIMIT


@pytest.mark.parametrize(
    ("mutant", "where"),
    [
        (WithoutG, ("sds .3-2", "null, no margin", "last look")),
        (WithoutHolm, ("normal", "null, no margin", "last look")),
        (WithoutCap, ("one sd 3x", "null", "random look")),
        (WithoutResolution, ("rounded to 1/100", "null, no margin", "last look")),
    ],
)
def test_each_part_is_needed(mutant: type[Rule], where: tuple[str, str, str]) -> None:
    assert cell(Rule, where).false <= LIMIT < cell(mutant, where).false


def test_one_look_is_the_moderated_t_test_with_holm() -> None:
    rng = np.random.default_rng(3)
    deltas = rng.standard_normal((4, 10)) + np.array([[-3.0], [0.0], [0.2], [2.5]])
    judged = Rule(looks=(10,)).judge(deltas[None])
    plain = [paired_t(row) for row in deltas]
    assert judged.word[0].tolist() == [NEEDED, OPEN, OPEN, HARMFUL]
    # Four rows with equal noise: shrinking changes little, and the mean not at all.
    for place, one in enumerate(plain):
        assert judged.mean[0, place] == pytest.approx(one.estimate)
        assert judged.high[0, place] - judged.low[0, place] == pytest.approx(one.high - one.low, rel=0.5)
    assert judged.p_value[0] == pytest.approx(holm([float(p) for p in judged.p_single[0]]))


def test_p_values_only_fall_and_words_stay() -> None:
    rng = np.random.default_rng(8)
    deltas = rng.standard_normal((60, 8, 10)) + rng.choice([0.0, -2.0, 1.5], (60, 8, 1))
    rule = Rule(margin=1.0)
    before, words = np.ones((60, 8)), np.zeros((60, 8), dtype=int)
    for n in LOOKS:
        judged = rule.judge(deltas, reached=np.full((60, 8), n))
        assert np.all(judged.p_value <= before + 1e-12)
        assert np.all((judged.word == words) | (words == OPEN))
        before, words = judged.p_value, judged.word


def test_seeds_after_the_word_do_not_count() -> None:
    rng = np.random.default_rng(1)
    deltas = rng.standard_normal((1, 3, 10)) * 0.2 + np.array([[[-5.0], [0.0], [-5.0]]])
    judged = Rule(margin=1.0).judge(deltas)
    assert judged.look[0].max() < 10
    changed = deltas.copy()
    changed[0, :, int(judged.look[0].max()) :] = 99.0
    assert np.array_equal(Rule(margin=1.0).judge(changed).word, judged.word)


def test_negligible_needs_a_margin_and_is_not_the_absence_of_evidence() -> None:
    deltas = np.random.default_rng(2).standard_normal((1, 5, 10)) * 0.1
    assert np.all(Rule(margin=None).judge(deltas).word == OPEN)
    assert np.all(Rule(margin=1.0).judge(deltas).word == NEGLIGIBLE)
    noisy = np.random.default_rng(2).standard_normal((1, 5, 10)) * 5.0
    assert np.all(Rule(margin=1.0).judge(noisy).word == OPEN)


def test_three_equal_rounded_values_are_not_certainty() -> None:
    deltas = np.array([[[-0.01, -0.01, -0.01], [0.0, 0.01, -0.01]]])
    assert Rule(step=0.0).judge(deltas).word[0, 0] == NEEDED
    assert Rule(step=0.01).judge(deltas).word[0, 0] == OPEN


def test_failed_seeds_are_left_out_not_averaged() -> None:
    deltas = np.array([[[-5.0, np.nan, -5.2, -4.9], [np.nan, np.nan, 0.1, np.nan], [0.3, -0.1, 0.2, 0.0]]])
    judged = Rule().judge(deltas)
    assert judged.pairs[0].tolist() == [3, 0, 4]
    assert judged.mean[0, 0] == pytest.approx(-5.0333, abs=1e-3)
    assert judged.word[0, 1] == OPEN and judged.p_value[0, 1] == 1.0


def test_rows_to_come_count_in_the_family() -> None:
    deltas = np.random.default_rng(5).standard_normal((1, 2, 4)) * 0.4 - np.array([[[1.5], [0.0]]])
    alone, crowded = Rule().judge(deltas), Rule().judge(deltas, others=50)
    assert crowded.p_value[0, 0] > alone.p_value[0, 0]


def test_more_seeds_does_not_take_a_lucky_mean_at_its_word() -> None:
    rule = Rule(margin=None)
    honest = more_seeds(rule, -1.0, 1.0, 10, 10)
    known = next(n for n in range(3, 200) if 3.5 / math.sqrt(n) <= 1.0)
    assert honest is not None and honest > known - 10
    assert more_seeds(rule, 0.0, 1.0, 10, 10) is None
    assert more_seeds(rule, math.nan, 1.0, 3, 10) is None


def test_looks() -> None:
    assert looks_up_to(3) == (3,)
    assert looks_up_to(12) == (3, 4, 6, 8, 10, 12)
    with pytest.raises(UsageError, match="at least 3"):
        looks_up_to(2)
