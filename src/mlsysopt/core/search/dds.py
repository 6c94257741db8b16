"""Dynamically dimensioned search: a greedy walk that moves all knobs at first and few at the end.

One incumbent, no model, no population and one constant: a baseline that is hard to beat when a budget is
small and the knobs are many. After Tolson and Shoemaker (2007); the budget in seconds is ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from mlsysopt.core.errors import UsageError
from mlsysopt.core.references import Reference
from mlsysopt.core.search.past import PastSampler, fresh, spending
from mlsysopt.core.space import Bool, Choice, Parameter, Permutation, Space
from mlsysopt.core.space.columns import of_configs, positions_of
from mlsysopt.core.space.encoding import code, codes_at, dims, plain

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from optuna.study import Study
    from optuna.trial import FrozenTrial

__all__ = ["DDSSampler", "neighbours", "probability"]

_TRIES = 16
_MOST_DRAWS = 64


def probability(f: float, n: float) -> float:
    """Return the probability with which each knob moves.

    `1 - ln(1 + (n - 1) f) / ln n`: 1 at the start and 0 at the end. With `f = (i - 1) / (n - 1)` it is the
    original's `1 - ln(i) / ln(n)` of evaluation i.

    Args:
        f: Share of the budget that is spent; counted as 0 below and as 1 above.
        n: How many trials the budget is worth, at least 1.

    Raises:
        UsageError: n below 1.

    References:
        Tolson, Shoemaker, Water Resources Research 43, 2007.

    >>> [round(probability(f, 100), 3) for f in (0.0, 0.1, 0.5, 1.0)]
    [1.0, 0.481, 0.148, 0.0]
    """
    if not n >= 1.0:
        raise UsageError(f"n must be at least 1, got {n}")
    f = min(max(f, 0.0), 1.0)
    # What the quotient tends to: a budget of a single trial has no curve.
    if n - 1.0 < 1e-9:
        return 1.0 - f
    return 1.0 - math.log(1.0 + (n - 1.0) * f) / math.log(n)


class DDSSampler(PastSampler):
    """Dynamically dimensioned search, as an ordinary Optuna sampler.

    Each knob of the incumbent, the best valid trial that keeps every guard, moves with a `probability` that falls
    with the share of the budget that is spent; at least one always does. A step is normal with 0.2 of the
    range in the unit cube, reflected at its ends; a choice jumps to another one, an order swaps two places, and
    whatever moves really changes its value. Only a trial that is at least as good replaces the incumbent: the wide
    steps at the start are all its exploration. Steps that break a constraint are drawn again before one is repaired.

    The proposal is a function of the study's trials, their durations and the seed: a sampler that is built anew
    goes on as if it had never stopped. How the budget reaches it says `spending`.

    Args:
        space: What may be chosen, with its constraints; None takes Optuna's intersection of the trials'.
        seed: Seed.
        share: Returns the share of the budget that is spent, 0 to 1, in place of the study's own count.
        n_trials: How many trials the budget is worth, where the study has neither `budget_s` nor `budget_trials`;
            None means 100.
        n_startup: Starting points: the space's default, then Sobol points.
        radius: Standard deviation of a step, as a share of the range.

    Raises:
        UsageError: a number out of range.
        StudyError: a study with several objectives.

    >>> import optuna
    >>> study = optuna.create_study(sampler=DDSSampler(seed=1, n_trials=60))
    >>> study.optimize(lambda trial: (trial.suggest_float("x", -4, 4) - 1) ** 2, n_trials=60)
    >>> abs(study.best_params["x"] - 1) < 0.2
    True
    """

    references: ClassVar[list[Reference]] = [
        Reference(
            "tolson2007",
            "article",
            "Dynamically Dimensioned Search Algorithm for Computationally Efficient Watershed Model Calibration",
            "B. A. Tolson and C. A. Shoemaker",
            2007,
            {"journal": "Water Resources Research", "volume": "43", "doi": "10.1029/2005WR004723"},
        )
    ]

    def __init__(
        self,
        *,
        space: Space | None = None,
        seed: int,
        share: Callable[[Study, FrozenTrial], float] | None = None,
        n_trials: int | None = None,
        n_startup: int = 6,
        radius: float = 0.2,
    ) -> None:
        if not 0.0 < radius <= 1.0:
            raise UsageError(f"radius must lie in (0, 1], got {radius}")
        super().__init__(space=space, seed=seed, n_trials=n_trials, n_startup=n_startup)
        self._share, self._radius = share, radius

    def propose(self, study: Study, trial: FrozenTrial, space: Space, rng: np.random.Generator) -> dict[str, Any]:
        seen = self.past.seen
        incumbent = self.past.incumbent()
        if incumbent is None:
            return fresh(space, seen, rng)
        spent, n = spending(study, trial, self.n_trials)
        chance = probability(self._share(study, trial) if self._share is not None else spent, n)
        repaired: dict[str, Any] | None = None
        for candidate in neighbours(space, incumbent.config, chance, self._radius, rng):
            if not space.violations(candidate):
                if space.canonical(candidate) not in seen:
                    return candidate
            elif repaired is None:
                # A repair moves knobs that were not chosen, so it is kept for the case that nothing else is valid.
                candidate = space.repair(candidate)
                repaired = candidate if space.canonical(candidate) not in seen else None
        return repaired if repaired is not None else fresh(space, seen, rng)


def neighbours(
    space: Space, config: dict[str, Any], chance: float, radius: float, rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """Draw configurations around one, active parameters only; each differs from it, none is repaired.

    Args:
        space: What may be chosen.
        config: Where to step from, complete.
        chance: Probability with which each knob moves.
        radius: Standard deviation of a step in the unit cube.
        rng: Source of chance.
    """
    able = [parameter for parameter in space if parameter.count != 1 or getattr(parameter, "special", ())]
    at = positions_of(space, of_configs(space, [config]))[0]
    starts = np.cumsum([0, *(dims(parameter) for parameter in space)])
    where = {parameter.name: slice(*starts[i : i + 2]) for i, parameter in enumerate(space)}
    active = set(space.active(config))
    for _ in range(_TRIES if able else 0):
        moves = [parameter for parameter in able if rng.random() < chance]
        if not active & {parameter.name for parameter in moves}:
            switched = [parameter for parameter in able if parameter.name in active]
            if not switched:
                return
            moves.append(switched[int(rng.integers(len(switched)))])
        new = dict(config)
        for parameter in moves:
            name = parameter.name
            new[name] = _stepped(parameter, config[name], at[where[name]], radius, rng)
        yield {name: new[name] for name in space.active(new)}


def _stepped(parameter: Parameter, value: Any, at: NDArray[np.float64], radius: float, rng: np.random.Generator) -> Any:
    """Return another value of a parameter."""
    match parameter:
        case Bool():
            return not value
        case Choice():
            own = parameter.index(value)
            return parameter.choices[int(rng.choice([i for i in range(parameter.count) if i != own]))]
        case Permutation():
            i, j = rng.choice(parameter.n, 2, replace=False)
            order = list(value)
            order[i], order[j] = order[j], order[i]
            return tuple(order)
        case _:
            return _walked(parameter, value, at, radius, rng)


def _walked(parameter: Parameter, value: Any, at: NDArray[np.float64], radius: float, rng: np.random.Generator) -> Any:
    """Step along a range until rounding gives another value; the step grows where the values are far apart."""
    own = code(parameter, [value])[0]
    for draw in range(_MOST_DRAWS):
        u = _reflected(float(at[0]) + radius * 1.1**draw * float(rng.standard_normal()))
        found = codes_at(parameter, np.array([[u]]))
        if found[0] != own:
            return plain(parameter, found)[0]
    return value


def _reflected(u: float) -> float:
    """Fold a number into [0, 1] as if its ends were mirrors.

    The original puts what the mirror at the other end throws out again onto the first end; a step of a fifth of
    the range does that once in ten million times.
    """
    folded = math.fmod(abs(u), 2.0)
    return 2.0 - folded if folded > 1.0 else folded
