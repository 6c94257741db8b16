"""Wrong inference on purpose: generated updates with one error each, and a small model on which it bites."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mlsysopt.infer.engine import Backend
from mlsysopt.infer.language import (
    Bernoulli,
    Beta,
    Binomial,
    Categorical,
    Gamma,
    Geometric,
    Normal,
    Shape,
    array,
    observe,
)
from mlsysopt.infer.rules import Rule
from mlsysopt.infer.rules.forward import Forward
from mlsysopt.infer.rules.metropolis import Metropolis
from mlsysopt.infer.simulation import Simulated


@dataclass(frozen=True)
class Mutant:
    """One error.

    Attributes:
        name: Of the error.
        function: The model on which it bites.
        inputs: Of the model.
        patches: Pattern -> what replaces it, in the text of the updates alone.
        rules: Instead of the usual ones.
        backend: Un-jitted where few sweeps are enough.
        only: The one quantity that can see it; "" where several do.
    """

    name: str
    function: Callable[..., None]
    inputs: dict[str, Any]
    patches: dict[str, str]
    rules: tuple[Rule, ...] | None = None
    backend: Backend = "python"
    only: str = ""

    def engine(self) -> type[Simulated]:
        """Return an engine whose updates have the error."""
        return mutated(self.name, self.patches)


def mutated(name: str, patches: dict[str, str]) -> type[Simulated]:
    """Return an engine with changed updates.

    Raises:
        ValueError: when its text is asked for and a patch changes nothing: such a mutant would prove nothing.
    """

    class Mutated(Simulated):
        @cached_property
        def text(self) -> str:
            text = self.module.text()
            start, end = text.index("def update_0"), text.index("def sweeps(")
            updates = text[start:end]
            for pattern, new in patches.items():
                changed, count = re.subn(pattern, new, updates)
                if not count or changed == updates:
                    raise ValueError(f"mutant {name!r}: {pattern!r} changes nothing")
                updates = changed
            return text[:start] + updates + text[end:]

    return Mutated


def size(y):
    v = Gamma(3.0, 0.5)
    for i in range(len(y)):
        observe(y[i], Normal(v, 8.0))


def narrow(y):
    mean = Normal(0.0, 2.0)
    for i in range(len(y)):
        observe(y[i], Normal(mean, var=0.09))


def alternating(y, start, move, emit):
    z = array(int, len(y))
    z[0] = Categorical(start)
    for t in range(1, len(y)):
        z[t] = Categorical(move[z[t - 1]])
    for t in range(len(y)):
        observe(y[t], Categorical(emit[z[t]]))


def coins(y):
    p = Beta(2.0, 2.0).rows(len(y))
    for i in range(len(y)):
        observe(y[i], Bernoulli(p[i]))  # pyright: ignore[reportIndexIssue]


def chance(won, trials: int):
    p = Beta(2.0, 3.0)
    for i in range(len(won)):
        observe(won[i], Binomial(trials, p))


def twice(won, waits):
    p = Beta(2.0, 3.0)
    for i in range(len(won)):
        observe(won[i], Binomial(2, p))
    for i in range(len(waits)):
        observe(waits[i], Geometric(p))


def mutants() -> list[Mutant]:
    """Return the errors that `verify` has to see."""
    swing = np.array([[0.05, 0.95], [0.95, 0.05]])
    show = np.array([[0.7, 0.3], [0.3, 0.7]])
    return [
        Mutant(
            "walk without correction", size, {"y": Shape(2)}, {r"lp_ \+= proposal_log_ratio\(.*\)\n": "lp_ += 0.0\n"},
            rules=(Forward(), Metropolis(scalars=True)), backend="single",
        ),
        Mutant(
            "variance for sd", narrow, {"y": Shape(6)}, {r"math\.sqrt\(1\.0 / w2\)": "1.0 / w2"},
        ),
        Mutant(
            "neighbour off by one", alternating,
            {"y": Shape(8), "start": np.array([0.5, 0.5]), "move": swing, "emit": show},
            {r"moves_1\[state_1, (\w+)\]": r"moves_1[v_z[min(t + 1, v_z.shape[0] - 1)], \1]"},
        ),
        Mutant(
            "prior counted twice", coins, {"y": Shape(12)},
            {r"a1 = 2\.0 \+": "a1 = 2.0 + 2.0 +", r"b1 = 2\.0 \+": "b1 = 2.0 + 2.0 +"},
        ),
        Mutant(
            "prior only", chance, {"won": Shape(3), "trials": 20},
            {r"a1 = 2\.0 \+ .*": "a1 = 2.0", r"b1 = 3\.0 \+ .*": "b1 = 3.0"}, only="log likelihood",
        ),
        Mutant(
            "second mention ignored", twice, {"won": Shape(2), "waits": Shape(15)},
            {r"a_p \+= 1\n": "a_p += 0\n", r"b_p \+= v_waits\[\w+\]": "b_p += 0"},
        ),
    ]  # fmt: skip
