"""What is known about where a system works: labelled configurations, from trials and from probes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mlsysopt.core.errors import MlsysoptError, SpaceError
from mlsysopt.core.search.history import UNBLAMED
from mlsysopt.core.space import Expression, Float, Int, Permutation, Space
from mlsysopt.core.space.columns import of_configs, valid_rows
from mlsysopt.core.target import Value

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

__all__ = ["VALID", "Evidence", "Table", "evidence_of", "inside"]

Flags = NDArray[np.bool_]

VALID = "valid"
"""Constraint that every trial of a study carries: -1 for one that ran, +1 for one that did not."""

_STARTING = frozenset({"rejected", "timeout"})


@dataclass(frozen=True, slots=True)
class Evidence:
    """One labelled configuration.

    Attributes:
        config: What was asked for; missing parameters stand for their default.
        valid: Whether it worked.
        kind: Kind of the failure when it did not: "rejected", "crashed", "timeout" or "degraded".
        named: Parameters that the system's own message names: a first guess, no proof.
        probe: Start-only: `valid` says that it started, not that it runs well under load.
        blamed: What a diagnosis by probes left over: a minimal set that fails with the rest at default.

    >>> Evidence({"threads": 512}, valid=False, kind="crashed").at_start
    False
    """

    config: Mapping[str, Value]
    valid: bool
    kind: str = ""
    named: tuple[str, ...] = ()
    probe: bool = False
    blamed: tuple[str, ...] = ()

    @property
    def at_start(self) -> bool:
        """Whether it failed before any load, so that a start-only probe can speak against it."""
        return not self.valid and (self.probe or self.kind in _STARTING)


def evidence_of(trials: Iterable[FrozenTrial], space: Space) -> list[Evidence]:
    """Return what the trials of a study say about validity, in their order.

    Running, waiting and pruned trials say nothing, nor do those that never ran or were lost. The
    configuration is the requested one, not the effective one: it is requests that will be judged.

    Args:
        trials: Trials with the user attributes `state` and `config`, and perhaps `named` and `blamed`;
            those of a plain Optuna study have parameters and constraints only.
        space: Gives names and defaults.

    >>> import optuna
    >>> from mlsysopt.core.space import Int, Space
    >>> trial = optuna.trial.create_trial(value=0.0, user_attrs={"state": "rejected", "config": '{"n": 9}'})
    >>> evidence_of([trial], Space([Int("n", 1, 9)]))
    [Evidence(config={'n': 9}, valid=False, kind='rejected', named=(), probe=False, blamed=())]
    """
    from optuna.trial import TrialState

    found: list[Evidence] = []
    for trial in sorted(trials, key=lambda trial: trial.number):
        state = trial.user_attrs.get("state")
        if trial.state not in (TrialState.COMPLETE, TrialState.FAIL) or state in UNBLAMED or state == "refused":
            continue
        config = _config(trial, space)
        if config is None:
            continue
        kind = _failure(trial, state)
        named, blamed = (_names(trial.user_attrs.get(key), space) for key in ("named", "blamed"))
        found.append(Evidence(config, True) if kind is None else Evidence(config, False, kind, named, False, blamed))
    return found


def _failure(trial: FrozenTrial, state: Any) -> str | None:
    """Return the kind of failure, None for a trial that worked."""
    from optuna.trial import TrialState

    if state is not None and state != VALID:
        return str(state)
    if trial.state == TrialState.FAIL or any(math.isnan(value) for value in trial.values or ()):
        return "crashed"
    # A plain study says it by a constraint alone; it cannot say whether anything started.
    return "degraded" if trial.constraints.get(VALID, 0.0) > 0 else None


def _config(trial: FrozenTrial, space: Space) -> dict[str, Any] | None:
    written = trial.user_attrs.get("config")
    if isinstance(written, str):
        try:
            return {name: _plain(value) for name, value in json.loads(written).items()}
        except (AttributeError, ValueError):
            pass
    known = space.distributions().keys() & trial.params.keys()
    # Without a parameter of its own a trial would count as the default, and blame it for what another one did.
    if not known:
        return None
    try:
        return space.from_params(trial.params)
    except SpaceError:
        # A value of a time when the space had other choices.
        return None


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value  # pyright: ignore[reportUnknownVariableType]


def _names(given: Any, space: Space) -> tuple[str, ...]:
    if not isinstance(given, Sequence) or isinstance(given, str):
        return ()
    return tuple(dict.fromkeys(name for name in given if isinstance(name, str) and name in space))


def inside(evidence: Iterable[Evidence], space: Space) -> list[Evidence]:
    """Return what still concerns a space whose bounds may have changed since.

    A failure beyond the present bounds, or with a parameter that is none of them, says nothing about
    what lies within; a success does: its nearest allowed values are taken.
    """
    found: list[Evidence] = []
    for one in evidence:
        if one.valid or all(name in space and space[name].fault(value) is None for name, value in one.config.items()):
            moved = {name: space[name].nearest(value) for name, value in one.config.items() if name in space}
            found.append(replace(one, config=moved))
    return found


class Table:
    """Labelled configurations as columns.

    The first row is the default, which works; the last rows are unlabelled, the default with one special
    value each. A parameter that is not active counts with its default.

    Attributes:
        names: Parameters that expressions can mention.
        columns: Name -> values, shape (n,); whatever is no number as objects.
        special: Name of a number -> which rows have a special value of it.
        valid: Which rows worked.
        failed: Which did not.
        starting: Which failed before any load.
        late: Which ran out of time: on a busy machine more would.
        probe: Which were start-only.
        blamed: Names that a diagnosis left over, per row.
        named: Names in the system's message, per row.
    """

    def __init__(self, space: Space, evidence: Sequence[Evidence]) -> None:
        self.space = space
        specials = [{one.name: value} for one in space if isinstance(one, Int | Float) for value in one.special]
        configs = [_full(space, config) for config in ({}, *(one.config for one in evidence), *specials)]
        self._codes = of_configs(space, configs)
        self._moved = {one.name: _flags(config[one.name] != one.default for config in configs) for one in space}
        self.names = tuple(one.name for one in space if not isinstance(one, Permutation) and _can_be_said(one.name))
        self.columns: dict[str, NDArray[Any]] = {}
        self.special: dict[str, Flags] = {}
        for name in self.names:
            parameter, values = space[name], [config[name] for config in configs]
            if isinstance(parameter, Int | Float):
                self.columns[name] = np.array(values, dtype=np.float64)
                self.special[name] = np.isin(self.columns[name], parameter.special)
            else:
                self.columns[name] = np.empty(len(configs), dtype=object)
                self.columns[name][:] = values
        rest = [False] * len(specials)
        self.valid = _flags([True, *(one.valid for one in evidence), *rest])
        self.failed = _flags([False, *(not one.valid for one in evidence), *rest])
        self.starting = _flags([False, *(one.at_start for one in evidence), *rest])
        self.late = _flags([False, *(one.kind == "timeout" for one in evidence), *rest])
        self.probe = _flags([False, *(one.probe for one in evidence), *rest])
        nobody = frozenset[str]()
        self.blamed = [nobody, *(frozenset(one.blamed) for one in evidence), *[nobody] * len(specials)]
        self.named = [nobody, *(frozenset(one.named) for one in evidence), *[nobody] * len(specials)]

    def holds(self, text: str) -> Flags:
        """Return which rows meet an expression, shape (n,)."""
        return valid_rows(self.space, self._codes, {}, [Expression.parse(text)])

    def on_line(self, names: Sequence[str]) -> Flags:
        """Return which rows are probes that move some of these parameters and nothing else, shape (n,)."""
        moved = {name: one for name, one in self._moved.items() if name in names}
        others = [one for name, one in self._moved.items() if name not in names]
        still = ~np.any(others, axis=0) if others else np.ones(len(self.valid), dtype=bool)
        return self.probe & still & np.any(list(moved.values()), axis=0)


def _flags(values: Iterable[bool]) -> Flags:
    return np.array(list(values), dtype=bool)


def _full(space: Space, config: Mapping[str, Any]) -> dict[str, Any]:
    full: dict[str, Any] = {**space.default(), **config}
    if space.conditional:
        inactive = set(space.conditional).difference(space.active(full))
        full.update({name: space[name].default for name in inactive})
    return full


def _can_be_said(name: str) -> bool:
    """Return whether expressions can mention a parameter of this name."""
    try:
        return Expression.parse(name).names == frozenset([name])
    except MlsysoptError:
        return False
