"""Studies as rows of Optuna's tables: created with their attributes in one transaction, and listed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from optuna.storages._rdb import models
from optuna.study import StudyDirection

from mlsysopt.core.store.trial_rows import studies, trials

__all__ = ["insert", "trial_counts"]

directions_of: sa.Table = models.StudyDirectionModel.__table__
user_attrs: sa.Table = models.StudyUserAttributeModel.__table__


def insert(connection: sa.Connection, name: str, directions: Sequence[StudyDirection], attrs: Mapping[str, Any]) -> int:
    """Add a study with its user attributes; return its id.

    Raises:
        IntegrityError: there is one of that name.
    """
    made = connection.execute(studies.insert().values(study_name=name)).inserted_primary_key
    assert made is not None
    study_id = int(made[0])
    rows = [{"study_id": study_id, "objective": i, "direction": way} for i, way in enumerate(directions)]
    connection.execute(directions_of.insert(), rows)
    if attrs:
        texts = [{"study_id": study_id, "key": key, "value_json": json.dumps(value)} for key, value in attrs.items()]
        connection.execute(user_attrs.insert(), texts)
    return study_id


def trial_counts(connection: sa.Connection) -> dict[int, int]:
    """Return study id -> number of trials."""
    counted = sa.select(trials.c.study_id, sa.func.count()).group_by(trials.c.study_id)
    return {row[0]: row[1] for row in connection.execute(counted)}
