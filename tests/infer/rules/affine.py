"""What a Gaussian update draws, exactly: it is affine in its standard normals, so unit vectors give its covariance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlsysopt.infer.analysis.blanket import Analysis
from mlsysopt.infer.binding import bind
from mlsysopt.infer.emit.cache import interpreted
from mlsysopt.infer.engine import Engine
from mlsysopt.infer.frontend.source import read
from mlsysopt.infer.planning import Choice, Plan
from mlsysopt.infer.rules import Refusal, Rule, Update

Floats = NDArray[np.float64]


class Scripted:
    """A generator whose standard normals are given."""

    def __init__(self, normals: Floats) -> None:
        self.normals, self.used = normals, 0

    def standard_normal(self) -> float:
        self.used += 1
        return float(self.normals[self.used - 1]) if self.used <= len(self.normals) else 0.0


@dataclass
class Drawn:
    """One update of a model with its arrays, un-jitted.

    Attributes:
        update: As the rule proposed it.
        engine: Its generated file.
        arrays: The state.
    """

    update: Update
    engine: Engine
    arrays: dict[str, Any]
    text: str

    def draw(self, rng: Any) -> int:
        """Run the update once; return its status."""
        name = f"update_0_{self.update.variables[0]}"
        return int(self.engine.call(interpreted(self.text), name, self.arrays, rng))

    def state(self, names: tuple[str, ...] | None = None) -> Floats:
        """Return the numbers of some variables one after another."""
        return np.concatenate([self.arrays[f"v_{one}"].ravel() for one in names or self.update.variables])

    def moments(self, names: tuple[str, ...] | None = None) -> tuple[Floats, Floats]:
        """Return mean and covariance of what the update draws."""
        rng = Scripted(np.zeros(0))
        assert self.draw(rng) == 0
        mean = self.state(names)
        columns = []
        for i in range(rng.used):
            assert self.draw(Scripted(np.eye(rng.used)[i])) == 0
            columns.append(self.state(names) - mean)
        root = np.array(columns).T
        return mean, root @ root.T

    def joint(self, names: tuple[str, ...] | None = None) -> tuple[Floats, Floats]:
        """Return mean and covariance from the log joint, which is quadratic in the variables: no rule takes part."""
        names = names or self.update.variables
        start = {name: self.arrays[f"v_{name}"].copy() for name in names}
        n = sum(one.size for one in start.values())

        def value(x: Floats) -> float:
            at = 0
            for name, one in start.items():
                self.arrays[f"v_{name}"][...] = x[at : at + one.size].reshape(one.shape)
                at += one.size
            return float(self.engine.call(interpreted(self.text), "log_joint", self.arrays)[0])

        zero, unit = np.zeros(n), np.eye(n)
        middle = value(zero)
        up, down = np.array([value(one) for one in unit]), np.array([value(-one) for one in unit])
        precision = np.zeros((n, n))
        for i in range(n):
            precision[i, i] = -(up[i] + down[i] - 2 * middle)
            for j in range(i):
                both = value(unit[i] + unit[j])
                precision[i, j] = precision[j, i] = -(both - up[i] - up[j] + middle)
        covariance = np.linalg.inv(precision)
        for name, one in start.items():
            self.arrays[f"v_{name}"][...] = one
        return covariance @ ((up - down) / 2), covariance


def proposed(rule: Rule, function: Callable[..., None], variable: str, inputs: Mapping[str, Any]) -> Update | Refusal:
    """Return what a rule says of a variable."""
    return rule.propose(variable, Analysis(bind(read(function), inputs).program))


def drawn(
    rule: Rule,
    function: Callable[..., None],
    variable: str,
    inputs: Mapping[str, Any],
    state: Mapping[str, Any],
    missing: str = "error",
) -> Drawn:
    """Return the update of a variable with a state, ready to draw."""
    bound = bind(read(function), inputs, missing=missing)
    update = rule.propose(variable, Analysis(bound.program))
    assert isinstance(update, Update), update
    engine = Engine(Plan(bound.program, (Choice(update),)), bound, {})
    text = engine.text
    arrays = engine.arrays()
    for name, value in state.items():
        arrays[f"v_{name}"][...] = value
    return Drawn(update, engine, arrays, text)


def line_of(function: Callable[..., None], text: str) -> int:
    """Return the number of the line of a function that holds a text."""
    source = read(function)
    return next(number for number, line in source.lines().items() if text in line)


def same(found: tuple[Floats, Floats], wanted: tuple[Floats, Floats], tolerance: float = 1e-8) -> bool:
    """Whether two pairs of mean and covariance agree relative to the standard deviations."""
    sd = np.sqrt(np.diag(wanted[1]))
    scale = np.outer(sd, sd)
    return bool(
        np.all(np.abs(found[0] - wanted[0]) <= tolerance * (sd + np.abs(wanted[0])))
        and np.all(np.abs(found[1] - wanted[1]) <= tolerance * scale)
    )
