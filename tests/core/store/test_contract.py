"""Optuna's shipped storage suite, against the storage of a file store and of a buffered one."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.storages import BaseStorage
from optuna.testing.pytest_storages import StorageTestCase

from mlsysopt.core.errors import StoreError
from mlsysopt.core.store import Store


class TestFileStore(StorageTestCase):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Iterator[BaseStorage]:
        with Store.open(tmp_path / "tune.db") as store:
            yield store.optuna


class TestBufferedStore(StorageTestCase):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Iterator[BaseStorage]:
        with Store.open(tmp_path / "tune.db", buffered=True) as store:
            yield store.optuna

    def test_pickle_storage(self, storage: BaseStorage) -> None:
        with pytest.raises(StoreError, match="belongs to one process"):
            pickle.dumps(storage)
