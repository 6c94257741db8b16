"""The executors that need nothing installed, against the shipped contract; Ray's is in `tests/real`."""

from __future__ import annotations

from mlsysopt.core.executors import InProcess, Local
from mlsysopt.testing.executors import ExecutorContract


class TestInProcess(ExecutorContract):
    isolates = False

    @classmethod
    def make_executor(cls) -> InProcess:
        return InProcess()


class TestLocal(ExecutorContract):
    @classmethod
    def make_executor(cls) -> Local:
        return Local(workers=2)
