"""Designs: which rows, which contrasts, and that they estimate what they say."""

from __future__ import annotations

import numpy as np
import pytest

from mlsysopt.core.errors import StudyError
from mlsysopt.design.ablate.deltas import Component, Row
from mlsysopt.design.ablate.designs import (
    Design,
    add_one_in,
    aliases,
    all_pairs,
    interaction,
    loco,
    pair,
    plackett_burman,
    screening,
)


def parts(count: int) -> list[Component]:
    return [Component(f"c{i}", "data", {"fraction": 1 / (i + 2)}) for i in range(count)]


def estimate(design: Design, effects: dict[str, float], twos: dict[tuple[str, str], float]) -> dict[str, float]:
    """Answer every question of a design for a model whose rows follow these losses without noise."""

    def metric(row: Row) -> float:
        off = set(row.members)
        alone = sum(effect for name, effect in effects.items() if name in off)
        return 1.0 + alone + sum(effect for both, effect in twos.items() if off >= set(both))

    values = {row.key: metric(row) for row in design.rows}
    return {q.name: sum(weight * values[row] for row, weight in q.contrast) for q in design.questions}


def test_leaving_one_out_reads_each_effect() -> None:
    effects = {"c0": -0.3, "c1": 0.0, "c2": 0.1}
    assert estimate(loco(parts(3)), effects, {}) == pytest.approx(effects)


def test_a_pair_and_its_interaction() -> None:
    components = parts(3)
    row, question = pair(components[0], components[1])
    design = loco(components).plus([row], [question, interaction(question)], reserved=0)
    found = estimate(design, {"c0": -0.1, "c1": -0.2, "c2": 0.0}, {("c0", "c1"): -0.5})
    assert found["c0 + c1"] == pytest.approx(-0.8)
    assert found["c0 x c1"] == pytest.approx(-0.5)
    assert interaction(question).squares == 4.0 and question.squares == 2.0
    assert len(all_pairs(components)) == 3


def test_adding_one_in_begins_with_nothing() -> None:
    design = add_one_in(parts(3))
    found = estimate(design, {"c0": -0.3, "c1": 0.0, "c2": -0.1}, {})
    assert found == pytest.approx({"c0 alone": -0.3, "c1 alone": 0.0, "c2 alone": -0.1})
    assert [len(row.members) for row in design.rows] == [0, 3, 2, 2, 2]


@pytest.mark.parametrize("count", [3, 7, 11, 19, 23, 27, 30, 40])
def test_screening_reads_every_main_effect_from_few_rows(count: int) -> None:
    rng = np.random.default_rng(count)
    effects = {f"c{i}": float(e) for i, e in enumerate(rng.normal(size=count))}
    design = screening(parts(count))
    assert len(design.rows) <= count + 9
    assert design.rows[0].key == "base"
    assert estimate(design, effects, {}) == pytest.approx(effects)


def test_aliases_are_where_interactions_show_up() -> None:
    design = screening(parts(11))
    clean = estimate(design, dict.fromkeys([f"c{i}" for i in range(11)], 0.0), {("c0", "c1"): -1.0})
    listed = aliases(design, least=0.3)
    for name, effect in clean.items():
        mixed = name not in ("c0", "c1") and any({a, b} == {"c0", "c1"} for a, b, _ in listed[name])
        assert (abs(effect) > 0.1) == (mixed or name in ("c0", "c1"))


@pytest.mark.parametrize("factors", [3, 5, 12, 20, 26, 36])
def test_plackett_burman_columns_are_orthogonal_and_balanced(factors: int) -> None:
    design = plackett_burman(factors)
    assert np.array_equal(design.T @ design, len(design) * np.eye(factors))
    assert np.all(design.sum(axis=0) == 0)


def test_screening_needs_enough_components() -> None:
    with pytest.raises(StudyError, match="at least 3"):
        screening(parts(2))


def test_rows_are_kept_once_and_make_an_enumerated_space() -> None:
    components = parts(2)
    row, question = pair(*components)
    design = loco(components).plus([row, Row.without(components)], [question], 3)
    assert [one.key for one in design.rows] == ["base", "c0", "c1", "c0 + c1"]
    assert design.family == 6
    space = design.space(10)
    assert space.violations({"row": "c0 + c1", "seed": 9}) == []
    assert space.violations({"row": "c9", "seed": 9})
