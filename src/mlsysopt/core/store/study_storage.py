"""The half of an Optuna storage that knows studies: rare work, which Optuna's own code does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from sqlalchemy.exc import IntegrityError

from mlsysopt.core.store import study_rows
from mlsysopt.core.store.database import Database

__all__ = ["StudyStorage"]


class StudyStorage(BaseStorage):
    """Studies by Optuna's `RDBStorage`, under the database's lock and with errors of ours."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rdb: RDBStorage = database.rdb
        self._directions: dict[int, list[StudyDirection]] = {}

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        with self._database.guard():
            return self._rdb.create_new_study(directions, study_name)

    def create_study_with(self, name: str, directions: Sequence[StudyDirection], attrs: Mapping[str, Any]) -> int:
        """Create a study together with its user attributes, for all to see at once.

        Raises:
            DuplicatedStudyError: there is one of that name.
        """
        with self._database.write() as connection:
            try:
                return study_rows.insert(connection, name, directions, attrs)
            except IntegrityError:
                raise DuplicatedStudyError(name) from None

    def delete_study(self, study_id: int) -> None:
        with self._database.guard():
            self._rdb.delete_study(study_id)
            self._directions.pop(study_id, None)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        with self._database.guard():
            self._rdb.set_study_user_attr(study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        with self._database.guard():
            self._rdb.set_study_system_attr(study_id, key, value)

    def get_study_id_from_name(self, study_name: str) -> int:
        with self._database.guard():
            return self._rdb.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        with self._database.guard():
            return self._rdb.get_study_name_from_id(study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        with self._database.guard():
            if study_id not in self._directions:
                self._directions[study_id] = self._rdb.get_study_directions(study_id)
            return list(self._directions[study_id])

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        with self._database.guard():
            return self._rdb.get_study_user_attrs(study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        with self._database.guard():
            return self._rdb.get_study_system_attrs(study_id)

    def get_all_studies(self) -> list[FrozenStudy]:
        with self._database.guard():
            return self._rdb.get_all_studies()

    def remove_session(self) -> None:
        self._rdb.remove_session()
