"""An Optuna storage on Optuna's own tables that writes a trial in few transactions, and reads little.

Everything set on a running trial gathers in memory and is written with the trial's next state, at
`flush`, or with the next heartbeat. Trials read once are kept: SQLite tells by a counter whether
anybody else has written, PostgreSQL is asked for newer rows only. A trial's owner and heartbeat are
written in the transaction that creates it, so there is no moment in which a killed worker leaves a
running trial that nobody can tell apart from a live one.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Container, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.trial import FrozenTrial, Trial, TrialState

from mlsysopt.core.errors import StoreError
from mlsysopt.core.store import leases, trial_rows
from mlsysopt.core.store.address import Address
from mlsysopt.core.store.database import Database
from mlsysopt.core.store.study_storage import StudyStorage
from mlsysopt.core.store.trial_rows import Pending

__all__ = ["TrialStorage", "id_of"]

FLUSH_S = 1.0
"""What a buffered store may lose to a kill."""


@dataclass(slots=True)
class _Known:
    """What is known of one study's trials."""

    trials: dict[int, FrozenTrial] = field(default_factory=dict[int, FrozenTrial])
    listed: list[FrozenTrial] | None = None
    unfinished: set[int] = field(default_factory=set[int])
    after: int = -1
    at_version: int | None = None
    distributions: dict[str, BaseDistribution] = field(default_factory=dict[str, BaseDistribution])


class TrialStorage(StudyStorage):
    """Optuna storage of a `Store`.

    Args:
        database: Open database with Optuna's tables.
        buffered: Keep trials in memory, written by `flush` only; the database must be locked for
            everybody else.
    """

    def __init__(self, database: Database, *, buffered: bool = False) -> None:
        super().__init__(database)
        self._buffered = buffered
        self._known: dict[int, _Known] = {}
        self._study_of: dict[int, int] = {}
        self._pending: dict[int, Pending] = {}
        self._running: set[int] = set()
        self._new: set[int] = set()
        self._moved: set[int] = set()
        self._later: list[Callable[[sa.Connection], object]] = []
        self._next_id = self._first_free_id() if buffered else 0
        self._pulse = leases.Pulse(self._tick, FLUSH_S if buffered else leases.BEAT_S)

    def __reduce__(self) -> tuple[Callable[[Address], TrialStorage], tuple[Address]]:
        if self._buffered:
            raise StoreError("a buffered store belongs to one process; open it without buffered=True to share it")
        return _reopened, (self._database.address,)

    def close(self) -> None:
        """Write what has gathered, stop the heartbeat, and give up the leases of what still runs."""
        self._pulse.stop()
        if self._database.read_only:
            return
        self.flush()
        if self._running:
            with self._database.write() as connection:
                leases.release(connection, self._running)

    def delete_study(self, study_id: int) -> None:
        with self._database.lock:
            super().delete_study(study_id)
            for trial_id in [one for one, study in self._study_of.items() if study == study_id]:
                self._forget(trial_id)
                del self._study_of[trial_id]
            self._known.pop(study_id, None)

    # --- trials: reading -------------------------------------------------------------------------

    def get_trial(self, trial_id: int) -> FrozenTrial:
        with self._database.lock:
            study_id = self._study_id_of(trial_id)
            known = self._known.get(study_id)
            trial = known.trials.get(trial_id) if known is not None else None
            if trial is not None and (trial.state.is_finished() or trial_id in self._running):
                return trial
            return self._fresh(study_id).trials[trial_id]

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        with self._database.lock:
            known = self._fresh(study_id)
            if known.listed is None:
                known.listed = sorted(known.trials.values(), key=lambda trial: trial.number)
            found = [trial for trial in known.listed if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found

    def _study_id_of(self, trial_id: int) -> int:
        if trial_id not in self._study_of:
            asked = sa.select(trial_rows.trials.c.study_id).where(trial_rows.trials.c.trial_id == trial_id)
            with self._database.read() as connection:
                study_id = connection.execute(asked).scalar()
            if study_id is None:
                raise KeyError(f"No trial with trial_id {trial_id} exists.")
            self._study_of[trial_id] = study_id
        return self._study_of[trial_id]

    def _fresh(self, study_id: int) -> _Known:
        """Return what is known of a study after reading what others have written since."""
        known = self._known.get(study_id)
        if known is None:
            self.get_study_directions(study_id)
            known = self._known[study_id] = _Known()
        elif self._buffered:
            return known
        # Asked before the rows are: a write in between is then seen as a change by the next call.
        version = self._database.version()
        if version is not None and version == known.at_version:
            return known
        with self._database.read() as connection:
            found = trial_rows.read(
                connection, study_id, after=known.after, among=known.unfinished, known=self._running
            )
        for trial in found:
            trial_id = id_of(trial)
            if trial_id in self._running:
                self._forget(trial_id)
            self._adopt(known, study_id, trial)
            known.after = max(known.after, trial_id)
        known.at_version = version
        return known

    def _adopt(self, known: _Known, study_id: int, trial: FrozenTrial) -> None:
        trial_id = id_of(trial)
        known.trials[trial_id] = trial
        known.listed = None
        self._study_of[trial_id] = study_id
        (known.unfinished.discard if trial.state.is_finished() else known.unfinished.add)(trial_id)
        for name, distribution in trial.distributions.items():
            known.distributions.setdefault(name, distribution)

    def _forget(self, trial_id: int) -> None:
        self._running.discard(trial_id)
        self._pending.pop(trial_id, None)
        self._new.discard(trial_id)
        self._moved.discard(trial_id)

    # --- trials: writing -------------------------------------------------------------------------

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        with self._database.lock:
            known = self._fresh(study_id)
            state = TrialState.RUNNING if template_trial is None else template_trial.state
            started = datetime.now() if template_trial is None else template_trial.datetime_start
            completed = None if template_trial is None else template_trial.datetime_complete
            pending = Pending() if template_trial is None else Pending.of(template_trial)
            if self._buffered:
                trial_id, number = self._next_id, len(known.trials)
                self._next_id += 1
                self._new.add(trial_id)
                self._pending[trial_id] = pending
            else:
                with self._database.write() as connection:
                    trial_id, number = trial_rows.insert(connection, study_id, state, started, completed)
                    trial_rows.save_pending(connection, trial_id, pending)
                    if template_trial is not None:
                        trial_rows.save_values(connection, trial_id, template_trial.values or ())
                    if state == TrialState.RUNNING:
                        leases.take(connection, trial_id, leases.this_process())
            self._adopt(known, study_id, _frozen(trial_id, number, started, template_trial))
            if state == TrialState.RUNNING:
                self._running.add(trial_id)
            self._pulse.start()
            return trial_id

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        with self._changing(trial_id) as (trial, pending, known):
            if param_name in known.distributions:
                check_distribution_compatibility(known.distributions[param_name], distribution)
            known.distributions.setdefault(param_name, distribution)
            trial.params = {**trial.params, param_name: distribution.to_external_repr(param_value_internal)}
            trial.distributions = {**trial.distributions, param_name: distribution}
            pending.params[param_name] = (param_value_internal, distribution)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        with self._changing(trial_id) as (trial, pending, _):
            trial.intermediate_values = {**trial.intermediate_values, step: intermediate_value}
            pending.intermediate[step] = intermediate_value

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        text = json.dumps(value)
        with self._changing(trial_id) as (trial, pending, _):
            trial.user_attrs = {**trial.user_attrs, key: json.loads(text)}
            pending.user[key] = text

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        text = json.dumps(value)
        with self._changing(trial_id) as (trial, pending, _):
            trial.system_attrs = {**trial.system_attrs, key: json.loads(text)}
            pending.system[key] = text

    @contextmanager
    def _changing(self, trial_id: int) -> Generator[tuple[FrozenTrial, Pending, _Known]]:
        """Give a copy of an unfinished trial to change; lists handed out before keep the old one."""
        with self._database.lock:
            trial = copy.copy(self.get_trial(trial_id))
            self.check_trial_is_updatable(trial_id, trial.state)
            known = self._known[self._study_of[trial_id]]
            yield trial, self._pending.setdefault(trial_id, Pending()), known
            known.trials[trial_id] = trial
            known.listed = None
            if trial_id not in self._running and not self._buffered:
                self.flush(trial_id)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        with self._database.lock:
            trial = copy.copy(self.get_trial(trial_id))
            self.check_trial_is_updatable(trial_id, trial.state)
            now = datetime.now()
            if state == TrialState.RUNNING and trial.state != TrialState.WAITING:
                return False
            if not self._buffered and not self._write_state(trial_id, state, now, values):
                self._forget(trial_id)
                self._known[self._study_of[trial_id]].at_version = None
                if state == TrialState.RUNNING:
                    return False
                self.check_trial_is_updatable(trial_id, self.get_trial(trial_id).state)
            trial.state = state
            if values is not None:
                trial.values = [float(value) for value in values]
            if state == TrialState.RUNNING:
                trial.datetime_start = now
                self._running.add(trial_id)
                self._pulse.start()
            else:
                self._running.discard(trial_id)
            if state.is_finished():
                trial.datetime_complete = now
            if self._buffered:
                self._moved.add(trial_id)
            else:
                self._pending.pop(trial_id, None)
            self._adopt(self._known[self._study_of[trial_id]], self._study_of[trial_id], trial)
            return True

    @contextmanager
    def _in_doubt(self, trial_id: int) -> Generator[None]:
        """Read a trial again after an interruption: it may have come just after the commit."""
        try:
            yield
        except BaseException:
            self._known[self._study_of[trial_id]].at_version = None
            raise

    def _write_state(self, trial_id: int, state: TrialState, now: datetime, values: Sequence[float] | None) -> bool:
        with self._in_doubt(trial_id), self._database.write() as connection:
            if state == TrialState.RUNNING:
                if not trial_rows.claim(connection, trial_id, now):
                    return False
                leases.take(connection, trial_id, leases.this_process())
            elif not trial_rows.finish(connection, trial_id, state, now if state.is_finished() else None):
                return False
            trial_rows.save_pending(connection, trial_id, self._pending.get(trial_id, Pending()))
            trial_rows.save_values(connection, trial_id, values or ())
            return True

    def flush(self, trial_id: int | None = None) -> None:
        """Write what has gathered, for one trial or for all.

        Raises:
            UpdateFinishedTrialError: somebody else has finished the given trial.
        """
        with self._database.lock:
            if self._buffered:
                self._flush_buffer()
                return
            wanted = [
                one for one in ([trial_id] if trial_id is not None else list(self._pending)) if self._pending.get(one)
            ]
            if not wanted:
                return
            ended: list[int] = []
            with self._database.write() as connection:
                for one in wanted:
                    state = trial_rows.state_of(connection, one)
                    if state is None or state.is_finished():
                        ended.append(one)
                    else:
                        trial_rows.save_pending(connection, one, self._pending[one])
            for one in wanted:
                self._pending.pop(one, None)
            for one in ended:
                self._forget(one)
                self._known[self._study_of[one]].at_version = None
            if trial_id in ended:
                self.check_trial_is_updatable(trial_id, self.get_trial(trial_id).state)

    def later(self, write: Callable[[sa.Connection], object]) -> None:
        """Write something of the caller's with the next flush of a buffered store."""
        with self._database.lock:
            self._later.append(write)
            self._pulse.start()

    def _flush_buffer(self) -> None:
        if not (self._new or self._moved or self._later or any(self._pending.values())):
            return
        with self._database.write() as connection:
            for trial_id in sorted(self._new | self._moved | set(self._pending)):
                study_id = self._study_of[trial_id]
                trial = self._known[study_id].trials[trial_id]
                if trial_id in self._new:
                    at = (trial_id, trial.number)
                    trial_rows.insert(
                        connection, study_id, trial.state, trial.datetime_start, trial.datetime_complete, at
                    )
                elif trial_id in self._moved:
                    trial_rows.move(connection, trial, trial_id)
                if trial.state == TrialState.RUNNING:
                    leases.take(connection, trial_id, leases.this_process())
                trial_rows.save_pending(connection, trial_id, self._pending.get(trial_id, Pending()))
                trial_rows.save_values(connection, trial_id, trial.values or ())
            for write in self._later:
                write(connection)
        self._new.clear()
        self._moved.clear()
        self._pending.clear()
        self._later.clear()

    def _first_free_id(self) -> int:
        with self._database.read() as connection:
            last = connection.execute(sa.select(sa.func.max(trial_rows.trials.c.trial_id))).scalar()
        return (last or 0) + 1

    # --- leases ----------------------------------------------------------------------------------

    def hold(self, trial_id: int) -> None:
        """Keep the lease of a running trial from now on, and write what it holds so far."""
        with self._database.lock:
            if trial_id not in self._running and not self.get_trial(trial_id).state.is_finished():
                self._running.add(trial_id)
                if not self._buffered:
                    with self._database.write() as connection:
                        leases.take(connection, trial_id, leases.this_process())
            if not self._buffered:
                self.flush(trial_id)
            self._pulse.start()

    def sweep_lost(self, study_id: int) -> list[leases.Lost]:
        """Fail the running trials that nobody runs any more, and return them."""
        with self._database.lock:
            self.flush()
            with self._database.read() as connection:
                suspects = leases.lost_trials(connection, study_id, leases.this_process())
            suspects = [lost for lost in suspects if lost.trial_id not in self._running]
            buried: list[leases.Lost] = []
            for lost in suspects:
                with self._database.write() as connection:
                    if leases.bury(connection, lost):
                        buried.append(lost)
            if buried and study_id in self._known:
                self._known[study_id].at_version = None
            if buried and self._buffered:
                self._known.pop(study_id, None)
            return buried

    def _tick(self) -> None:
        self.flush()
        with self._database.lock:
            if self._running and not self._buffered:
                with self._database.write() as connection:
                    leases.beat(connection, self._running)


def id_of(trial: FrozenTrial | Trial) -> int:
    """Return the database's id of a trial, which Optuna keeps to its storages."""
    return trial._trial_id  # pyright: ignore[reportPrivateUsage]


def _frozen(trial_id: int, number: int, started: datetime | None, template: FrozenTrial | None) -> FrozenTrial:
    return FrozenTrial(
        trial_id=trial_id,
        number=number,
        state=TrialState.RUNNING if template is None else template.state,
        value=None,
        values=None if template is None else template.values,
        datetime_start=started,
        datetime_complete=None if template is None else template.datetime_complete,
        params={} if template is None else dict(template.params),
        distributions={} if template is None else dict(template.distributions),
        user_attrs={} if template is None else json.loads(json.dumps(template.user_attrs)),
        system_attrs={} if template is None else json.loads(json.dumps(template.system_attrs)),
        intermediate_values={} if template is None else dict(template.intermediate_values),
    )


def _reopened(address: Address) -> TrialStorage:
    return TrialStorage(Database.open(address))
