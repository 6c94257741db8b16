"""A study that takes its trials one at a time, so that several can take turns on one target."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from mlsysopt.core.store import MeasurementRow
from mlsysopt.core.study.trials import TrialView
from mlsysopt.core.study.verification import ranked

if TYPE_CHECKING:
    from mlsysopt.core.study.loop import TrialLoop
    from mlsysopt.core.study.opening import Opened

__all__ = ["Turns"]

_ASK = "ask_cpu_s"


class Turns:
    """One study among several; made by `Study.turns`.

    Args:
        name: Of the study.
        opened: What it holds open.
        loop: Its trial loop; its clock counts the time in which the target is occupied.
    """

    def __init__(self, name: str, opened: Opened, loop: TrialLoop) -> None:
        self.name = name
        self._opened, self._loop = opened, loop
        self._asked_before_s = float(opened.optuna.user_attrs.get(_ASK, 0.0))

    @property
    def spent_s(self) -> float:
        """Seconds in which the target was occupied for this study, in all its runs."""
        return self._loop.elapsed_s

    @property
    def ask_cpu_s(self) -> float:
        """CPU seconds that its sampler took, in all its runs."""
        return self._asked_before_s + self._loop.ask_cpu_s

    def baseline(self) -> list[MeasurementRow]:
        """Return the runs of the default with which it began."""
        return self._opened.store.measurements(self.name, role="baseline")

    def adopt(self, rows: Iterable[MeasurementRow]) -> None:
        """Begin with runs of the default that another study has made, if it has none of its own."""
        if not self.baseline():
            for row in rows:
                self._opened.store.record(replace(row, study=self.name, worker=self._opened.worker))
                # As when it goes on: its own or not, the default was measured for it.
                self._loop.spent_s += row.wall_s

    def prepare(self) -> None:
        """Measure the default and place the starting points."""
        self._loop.prepare()

    def step(self) -> bool:
        """Run one trial; False when the budget allows no other."""
        going = self._loop.step()
        if going:
            self._opened.optuna.set_user_attr(_ASK, self.ask_cpu_s)
        return going

    def trials(self) -> list[TrialView]:
        """Return its trials so far."""
        return self._loop.views()

    def candidates(self) -> list[TrialView]:
        """Return the trials worth verifying, the most promising first."""
        return ranked(self.trials(), self._opened.objectives[0])
