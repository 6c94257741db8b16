"""Trials as rows of Optuna's own tables, read and written in one transaction at a time.

Optuna's storage writes every parameter and attribute in a transaction of its own. These functions
write what has gathered for a trial at once, into the same tables, so that every Optuna program
(dashboard, `optuna` command, a plain study) reads the result.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState

__all__ = [
    "Pending",
    "claim",
    "finish",
    "insert",
    "move",
    "read",
    "save_pending",
    "save_values",
    "state_of",
    "studies",
    "trials",
    "upsert",
]

trials: sa.Table = models.TrialModel.__table__
studies: sa.Table = models.StudyModel.__table__
params: sa.Table = models.TrialParamModel.__table__
values: sa.Table = models.TrialValueModel.__table__
intermediates: sa.Table = models.TrialIntermediateValueModel.__table__
user_attrs: sa.Table = models.TrialUserAttributeModel.__table__
system_attrs: sa.Table = models.TrialSystemAttributeModel.__table__

MOST_IDS = 500
"""More ids than this are read as a range: databases limit the parameters of one statement."""


@dataclass(slots=True)
class Pending:
    """What was set on a trial and is not in the database yet."""

    params: dict[str, tuple[float, BaseDistribution]] = field(default_factory=dict[str, tuple[float, BaseDistribution]])
    user: dict[str, str] = field(default_factory=dict[str, str])
    system: dict[str, str] = field(default_factory=dict[str, str])
    intermediate: dict[int, float] = field(default_factory=dict[int, float])

    @classmethod
    def of(cls, trial: FrozenTrial) -> Pending:
        """Return everything that a trial holds."""
        return cls(
            {
                name: (trial.distributions[name].to_internal_repr(value), trial.distributions[name])
                for name, value in trial.params.items()
            },
            {key: json.dumps(value) for key, value in trial.user_attrs.items()},
            {key: json.dumps(value) for key, value in trial.system_attrs.items()},
            dict(trial.intermediate_values),
        )

    def __bool__(self) -> bool:
        return bool(self.params or self.user or self.system or self.intermediate)


def insert(
    connection: sa.Connection,
    study_id: int,
    state: TrialState,
    started: datetime | None,
    completed: datetime | None = None,
    at: tuple[int, int] | None = None,
) -> tuple[int, int]:
    """Add a trial with the next number of its study; return (trial id, number).

    Args:
        at: Trial id and number to use, for whoever is alone with the database.

    Raises:
        KeyError: there is no such study.
    """
    row = {
        "study_id": study_id,
        "state": state,
        "datetime_start": to_utc(started),
        "datetime_complete": to_utc(completed),
    }
    if at is not None:
        connection.execute(trials.insert().values(trial_id=at[0], number=at[1], **row))
        return at
    # Optuna's own programs take this same lock before they number a trial.
    found = sa.select(studies.c.study_id).where(studies.c.study_id == study_id).with_for_update()
    if connection.execute(found).scalar() is None:
        raise KeyError(f"No study with study_id {study_id} exists.")
    count = sa.select(sa.func.count()).select_from(trials).where(trials.c.study_id == study_id)
    number: int = connection.execute(count).scalar_one()
    made = connection.execute(trials.insert().values(number=number, **row)).inserted_primary_key
    assert made is not None
    return int(made[0]), number


def state_of(connection: sa.Connection, trial_id: int) -> TrialState | None:
    """Return a trial's state and keep it from changing until the transaction ends."""
    return connection.execute(sa.select(trials.c.state).where(trials.c.trial_id == trial_id).with_for_update()).scalar()


def claim(connection: sa.Connection, trial_id: int, now: datetime) -> bool:
    """Move a waiting trial to running; False when another worker was faster."""
    changed = connection.execute(
        trials.update()
        .where(trials.c.trial_id == trial_id, trials.c.state == TrialState.WAITING)
        .values(state=TrialState.RUNNING, datetime_start=to_utc(now))
    )
    return changed.rowcount == 1


def finish(connection: sa.Connection, trial_id: int, state: TrialState, completed: datetime | None) -> bool:
    """Set the state of an unfinished trial; False when it is finished already."""
    changed = connection.execute(
        trials.update()
        .where(trials.c.trial_id == trial_id, trials.c.state.in_([TrialState.RUNNING, TrialState.WAITING]))
        .values(state=state, datetime_complete=to_utc(completed))
    )
    return changed.rowcount == 1


def move(connection: sa.Connection, trial: FrozenTrial, trial_id: int) -> None:
    """Write state and times of a trial that nobody else may write."""
    connection.execute(
        trials.update()
        .where(trials.c.trial_id == trial_id)
        .values(
            state=trial.state,
            datetime_start=to_utc(trial.datetime_start),
            datetime_complete=to_utc(trial.datetime_complete),
        )
    )


def save_pending(connection: sa.Connection, trial_id: int, pending: Pending) -> None:
    """Write parameters, attributes and intermediate values of a trial."""
    if pending.params:
        rows = [
            {
                "trial_id": trial_id,
                "param_name": name,
                "param_value": value,
                "distribution_json": distribution_to_json(distribution),
            }
            for name, (value, distribution) in pending.params.items()
        ]
        upsert(connection, params, ("trial_id", "param_name"), rows)
    for table, texts in ((user_attrs, pending.user), (system_attrs, pending.system)):
        if texts:
            rows = [{"trial_id": trial_id, "key": key, "value_json": text} for key, text in texts.items()]
            upsert(connection, table, ("trial_id", "key"), rows)
    if pending.intermediate:
        rows = [
            {"trial_id": trial_id, "step": step, "intermediate_value": stored, "intermediate_value_type": kind}
            for step, (stored, kind) in ((step, _stored(value)) for step, value in pending.intermediate.items())
        ]
        upsert(connection, intermediates, ("trial_id", "step"), rows)


def save_values(connection: sa.Connection, trial_id: int, given: Sequence[float]) -> None:
    """Write the objective values of a trial."""
    rows = [
        {"trial_id": trial_id, "objective": i, "value": stored, "value_type": kind}
        for i, (stored, kind) in enumerate(_stored(value) for value in given)
    ]
    if rows:
        upsert(connection, values, ("trial_id", "objective"), rows)


def read(
    connection: sa.Connection, study_id: int, *, after: int, among: Iterable[int], known: Iterable[int] = ()
) -> list[FrozenTrial]:
    """Read trials of a study with an id above `after` or among the given ones, by number.

    Args:
        known: Ids of trials that are read only if they are finished.
    """
    wanted = sorted(id_ for id_ in among if id_ <= after)
    where = trials.c.trial_id > after
    if len(wanted) > MOST_IDS:
        where = trials.c.trial_id >= wanted[0]
    elif wanted:
        where = sa.or_(where, trials.c.trial_id.in_(wanted))
    skipped = frozenset(known)
    heads = [
        row
        for row in connection.execute(sa.select(trials).where(trials.c.study_id == study_id, where))
        if row.number is not None and (row.state.is_finished() or row.trial_id not in skipped)
    ]
    if not heads:
        return []
    ids = [row.trial_id for row in heads]
    of_param = _children(connection, params, ids)
    of_value = _children(connection, values, ids)
    of_user = _children(connection, user_attrs, ids)
    of_system = _children(connection, system_attrs, ids)
    of_step = _children(connection, intermediates, ids)
    found: list[FrozenTrial] = []
    for head in sorted(heads, key=lambda row: row.number):
        distributions = {
            row.param_name: _distribution(row.distribution_json) for row in of_param.get(head.trial_id, ())
        }
        told = sorted(of_value.get(head.trial_id, ()), key=lambda row: row.objective)
        found.append(
            FrozenTrial(
                trial_id=head.trial_id,
                number=head.number,
                state=head.state,
                value=None,
                values=[_loaded(row.value, row.value_type.name) for row in told] or None,
                datetime_start=to_local(head.datetime_start),
                datetime_complete=to_local(head.datetime_complete),
                params={
                    row.param_name: distributions[row.param_name].to_external_repr(row.param_value)
                    for row in of_param.get(head.trial_id, ())
                },
                distributions=distributions,
                user_attrs={row.key: json.loads(row.value_json) for row in of_user.get(head.trial_id, ())},
                system_attrs={row.key: json.loads(row.value_json) for row in of_system.get(head.trial_id, ())},
                intermediate_values={
                    row.step: _loaded(row.intermediate_value, row.intermediate_value_type.name)
                    for row in of_step.get(head.trial_id, ())
                },
            )
        )
    return found


def to_utc(local: datetime | None) -> datetime | None:
    """Optuna keeps naive UTC in the database and naive local time in trials."""
    return None if local is None else local.astimezone(UTC).replace(tzinfo=None)


def to_local(stored: datetime | None) -> datetime | None:
    return None if stored is None else stored.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)


def _children(connection: sa.Connection, table: sa.Table, ids: Sequence[int]) -> Mapping[int, Sequence[Any]]:
    where = table.c.trial_id.between(min(ids), max(ids)) if len(ids) > MOST_IDS else table.c.trial_id.in_(ids)
    (key,) = table.primary_key
    found: dict[int, list[Any]] = {}
    for row in connection.execute(sa.select(table).where(where).order_by(key)):
        found.setdefault(row.trial_id, []).append(row)
    return found


def upsert(connection: sa.Connection, table: sa.Table, keys: Sequence[str], rows: list[dict[str, Any]]) -> None:
    """Insert rows, or change those whose `keys` are there already."""
    if connection.dialect.name == "sqlite":
        from sqlalchemy.dialects.sqlite import insert as statement
    else:
        from sqlalchemy.dialects.postgresql import insert as statement
    made = statement(table)
    changed = {name: made.excluded[name] for name in rows[0] if name not in keys}
    connection.execute(made.on_conflict_do_update(index_elements=list(keys), set_=changed), rows)


def _stored(value: float) -> tuple[float | None, str]:
    if math.isnan(value):
        return None, "NAN"
    if math.isinf(value):
        return None, "INF_POS" if value > 0 else "INF_NEG"
    return value, "FINITE"


def _loaded(value: float | None, kind: str) -> float:
    return {"NAN": math.nan, "INF_POS": math.inf, "INF_NEG": -math.inf}[kind] if value is None else value


@lru_cache(maxsize=4096)
def _distribution(text: str) -> BaseDistribution:
    # Distributions are values that nobody changes; a study repeats the same few in every trial.
    return json_to_distribution(text)
