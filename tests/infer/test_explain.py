"""What is said about each variable: the update, its cost, and why nothing better."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mlsysopt.infer.compiled import Model
from tests.golden.infer.regenerate import explained
from tests.infer.models import cases


def test_golden_plans() -> None:
    assert explained() == (Path(__file__).parents[1] / "golden" / "infer" / "explained.txt").read_text()


def test_what_is_given_is_named_and_planned_around() -> None:
    case = next(one for one in cases() if one.name == "h-markov")
    compiled = Model(case.function)(**case.inputs)
    name = compiled.plan().program.latents[0].name
    compiled[name].fix(np.full(compiled.bound.lengths(compiled.bound.program.variables[name]), 0.5))
    said = compiled.explain()
    assert said.startswith(f"given: {name}\n")
    assert f"\n{name}: " not in said
