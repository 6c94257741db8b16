"""The store: Optuna's trials, and beside them raw measurements, workers, leases, bounds, rules, samples."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from mlsysopt.core.errors import StoreError, near_misses
from mlsysopt.core.store import identity as identities
from mlsysopt.core.store import schema
from mlsysopt.core.store.address import Address
from mlsysopt.core.store.database import Database
from mlsysopt.core.store.notes import Notes
from mlsysopt.core.store.rows import (
    MachineRow,
    MeasurementRow,
    Role,
    StudyInfo,
    config_from_json,
    from_json,
    plain_text,
    to_json,
)

if TYPE_CHECKING:
    import optuna

    from mlsysopt.core.store.storage import TrialStorage

__all__ = ["Store"]

IDENTITY = "mlsysopt:identity"
CREATED_AT = "mlsysopt:created_at"


class Store(Notes):
    """One database of studies. Open it with `Store.open`, close it with `with` or `close()`.

    Attributes:
        url: Where it lives, for people: a password is shown as `***`.
        path: File of a SQLite store, else None.
        optuna: The Optuna storage of its trials; any Optuna program may use it.
    """

    def __init__(self, database: Database, *, buffered: bool = False) -> None:
        from optuna.storages import InMemoryStorage

        super().__init__(database)
        self.url = database.address.shown
        self.path: Path | None = database.address.path
        self._trials: TrialStorage | None = None
        self._buffered = buffered
        if database.address.kind == "memory":
            self.optuna: optuna.storages.BaseStorage = InMemoryStorage()
        else:
            from mlsysopt.core.store.storage import TrialStorage

            self.optuna = self._trials = TrialStorage(database, buffered=buffered)

    @classmethod
    def open(
        cls, url: str | Path | None, *, create: bool = True, read_only: bool = False, buffered: bool = False
    ) -> Self:
        """Open a store.

        Args:
            url: Path of a SQLite file, `postgresql://` URL, or None to keep everything in memory.
            create: Whether a missing file may be created.
            read_only: Refuse every write, and write nothing to open it.
            buffered: Keep trials in memory and write them every second and at `close`: for trials
                of some milliseconds. The file is locked for everybody else; a kill loses a second.

        Raises:
            StoreError: the store does not fit: not a database, another program's, a newer schema.
            StoreUnavailable: it cannot be used now: locked, read-only, out of reach.

        >>> with Store.open(None) as store:
        ...     store.register_worker("a"), store.register_worker("a"), store.register_worker("b")
        (0, 1, 0)
        """
        address = Address.parse(url)
        if buffered and (address.kind != "sqlite" or read_only):
            raise StoreError(f"store {address.shown}: only a SQLite file that is written to can be buffered")
        database = Database.open(address, create=create, read_only=read_only, exclusive=buffered)
        store = cls(database, buffered=buffered)
        if not read_only and address.kind != "memory":
            store._register_machine()
        return store

    def close(self) -> None:
        """Write what is buffered and close every connection."""
        try:
            if self._trials is not None:
                self._trials.close()
        finally:
            self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    # --- studies ---------------------------------------------------------------------------------

    def studies(self) -> list[StudyInfo]:
        """List the studies, oldest first."""
        counts = self._trial_counts()
        return [_info(frozen, counts.get(_study_id(frozen), 0)) for frozen in self.optuna.get_all_studies()]

    def find(self, name: str | None = None) -> StudyInfo:
        """Return a study by name, or the only one.

        Raises:
            StoreError: no such study, none at all, or several to choose from.
        """
        known = self.studies()
        if name is not None:
            for info in known:
                if info.name == name:
                    return info
            others = near_misses(name, [info.name for info in known], noun="name") if known else "it holds none at all"
            raise StoreError(f"store {self.url} holds no study {name!r}; {others}")
        if len(known) == 1:
            return known[0]
        if not known:
            raise StoreError(f"store {self.url} holds no study yet; run one first")
        listed = ", ".join(f"{info.name} ({info.trials} trials)" for info in known[:8])
        more = f", ... ({len(known)} in all)" if len(known) > 8 else ""
        raise StoreError(f"store {self.url} holds several studies; choose one with --study NAME\n{listed}{more}")

    def study(
        self,
        name: str,
        *,
        identity: Mapping[str, Any],
        directions: Sequence[str],
        sampler: optuna.samplers.BaseSampler | None = None,
        load_only: bool = False,
    ) -> optuna.Study:
        """Create a study, or load it when its identity is the same.

        Two workers may do this at once: one creates, the other loads.

        Args:
            identity: JSON. The keys `target`, `space` and `objectives` must agree with the stored
                ones; others are kept as they were first written.
            directions: `maximize` or `minimize` per objective.
            load_only: Do not create.

        Raises:
            StoreError: the stored study is of another target, space or objectives, was made by
                another program, or is missing while it may not be created.
        """
        import optuna

        wanted = identities.plain(identity)
        while True:
            stored = next((info for info in self.studies() if info.name == name), None)
            if stored is not None:
                identities.check(self.url, stored, wanted)
                break
            if load_only:
                self.find(name)
            try:
                self._create_study(name, wanted, directions)
                break
            except optuna.exceptions.DuplicatedStudyError:
                # Another worker was faster by a moment: load what it made.
                continue
        study = optuna.load_study(study_name=name, storage=self.optuna, sampler=sampler)
        if [way.name.lower() for way in study.directions] != [way.lower() for way in directions]:
            kept = ", ".join(way.name.lower() for way in study.directions)
            raise StoreError(
                f"study {name!r} in store {self.url} has directions {kept}; asked for {', '.join(directions)}\n"
                "use another name: --study NAME"
            )
        return study

    def _create_study(self, name: str, identity: Mapping[str, Any], directions: Sequence[str]) -> None:
        from optuna.study import StudyDirection

        ways = [StudyDirection[way.upper()] for way in directions]
        attrs = {IDENTITY: identity, CREATED_AT: time.time()}
        if self._trials is not None:
            self._trials.create_study_with(name, ways, attrs)
            return
        with self._database.lock:
            study_id = self.optuna.create_new_study(ways, name)
            for key, value in attrs.items():
                self.optuna.set_study_user_attr(study_id, key, value)

    def _trial_counts(self) -> dict[int, int]:
        if self._trials is None:
            return {_study_id(one): self.optuna.get_n_trials(_study_id(one)) for one in self.optuna.get_all_studies()}
        from mlsysopt.core.store import study_rows

        self._trials.flush()
        with self._database.read() as connection:
            return study_rows.trial_counts(connection)

    # --- workers and leases ----------------------------------------------------------------------

    def register_worker(self, study_name: str) -> int:
        """Give this process the next number in a study: 0, 1, 2, ..., also between machines."""
        table = schema.worker
        row = {
            "study": study_name,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started_at": time.time(),
            "machine": self.machine_key,
        }
        last = sa.select(sa.func.max(table.c.worker)).where(table.c.study == study_name)
        while True:
            with self._database.write() as connection:
                highest = connection.execute(last).scalar()
                number = 0 if highest is None else highest + 1
                try:
                    connection.execute(table.insert().values(worker=number, **row))
                except IntegrityError:
                    # On a server another worker can take the number between the two statements.
                    connection.rollback()
                    continue
                return number

    @contextmanager
    def lease(self, trial: optuna.Trial) -> Generator[None]:
        """Hold a running trial: it has an owner and a heartbeat until it is told.

        What the trial holds so far is written on entry. Leaving does not tell it: a trial that is
        left running stays this process's, and is lost when the process ends.
        """
        if self._trials is not None:
            from mlsysopt.core.store.storage import id_of

            self._trials.hold(id_of(trial))
        yield

    def sweep_lost(self, study: optuna.Study) -> list[int]:
        """Fail the running trials whose owner is dead or silent; return their numbers.

        They get the user attributes `state` = "lost" and `reason`. A trial whose process lives is
        never touched, nor one of a plain Optuna program, which has no lease.
        """
        if self._trials is None:
            return []
        return [lost.number for lost in self._trials.sweep_lost(study._study_id)]  # pyright: ignore[reportPrivateUsage]

    def annotate(
        self, trial: optuna.Trial, attrs: Mapping[str, Any], *, constraints: Mapping[str, float] | None = None
    ) -> None:
        """Set user attributes and constraints of a running trial in one transaction.

        Args:
            attrs: JSON values by name.
            constraints: Violation by name; zero or less is feasible.
        """
        for key, value in attrs.items():
            trial.set_user_attr(key, from_json(to_json(value)))
        for key, excess in (constraints or {}).items():
            trial.set_constraint(key, float(excess))
        if self._trials is not None:
            from mlsysopt.core.store.storage import id_of

            self._trials.flush(id_of(trial))

    @staticmethod
    def fixed_params(trial: optuna.Trial) -> dict[str, Any] | None:
        """Return the parameters that a trial was enqueued with, None when it was not."""
        from mlsysopt.core.store.storage import id_of

        return trial.storage.get_trial_system_attrs(id_of(trial)).get("fixed_params")

    # --- measurements ----------------------------------------------------------------------------

    def record(self, row: MeasurementRow) -> None:
        """Keep one measurement."""
        columns = _measurement_columns(row)
        if self._buffered and self._trials is not None:
            self._trials.later(lambda connection: connection.execute(schema.measurement.insert(), columns))
            return
        with self._database.write() as connection:
            connection.execute(schema.measurement.insert(), columns)

    def measurements(
        self, study: str | optuna.Study, *, trial: int | None = None, role: Role | None = None
    ) -> list[MeasurementRow]:
        """Return the measurements of a study in the order in which they were recorded."""
        table = schema.measurement
        wanted = sa.select(table).where(table.c.study == (study if isinstance(study, str) else study.study_name))
        if trial is not None:
            wanted = wanted.where(table.c.trial == trial)
        if role is not None:
            wanted = wanted.where(table.c.role == role)
        if self._trials is not None:
            self._trials.flush()
        with self._database.read() as connection:
            return [_measurement(row) for row in connection.execute(wanted.order_by(table.c.id))]

    # --- machines --------------------------------------------------------------------------------

    def machines(self) -> list[MachineRow]:
        """Return the machines that have written to this store."""
        return [
            MachineRow(row.key, row.first_seen, from_json(row.about)) for row in self._rows(schema.machine, sa.true())
        ]

    def _register_machine(self) -> None:
        from mlsysopt.core.measure import machine

        if any(known.key == self.machine_key for known in self.machines()):
            return
        about = to_json(machine().as_dict())
        with self._database.write() as connection:
            # Two processes may start at once: the second one finds the row and leaves it.
            row = sa.select(schema.machine.c.key).where(schema.machine.c.key == self.machine_key)
            if connection.execute(row).first() is None:
                connection.execute(
                    schema.machine.insert().values(key=self.machine_key, first_seen=time.time(), about=about)
                )


def _study_id(frozen: Any) -> int:
    return frozen._study_id


def _info(frozen: Any, trials: int) -> StudyInfo:
    identity = frozen.user_attrs.get(IDENTITY) or {}
    target = identity.get("target", "")
    if isinstance(target, Mapping):
        target = str(target.get("name", ""))
    return StudyInfo(frozen.study_name, str(target), trials, frozen.user_attrs.get(CREATED_AT), identity)


def _measurement_columns(row: MeasurementRow) -> dict[str, Any]:
    return {
        "study": row.study,
        "trial": int(row.trial),
        "role": row.role,
        "round": int(row.round),
        "side": row.side,
        "config": to_json(row.config),
        "effective": to_json(row.effective),
        "metrics": None if row.metrics is None else to_json(row.metrics),
        "failure_kind": row.failure_kind,
        "reason": None if row.reason is None else plain_text(row.reason),
        "log_tail": plain_text(row.log_tail),
        "seed": int(row.seed),
        "cpu_s": float(row.cpu_s),
        "wall_s": float(row.wall_s),
        "started_at": float(row.started_at),
        "conditions": to_json(row.conditions),
        "machine": row.machine,
        "worker": int(row.worker),
    }


def _measurement(row: sa.Row[Any]) -> MeasurementRow:
    return MeasurementRow(
        study=row.study,
        trial=row.trial,
        role=row.role,
        round=row.round,
        side=row.side,
        config=config_from_json(row.config),
        effective=config_from_json(row.effective),
        metrics=None if row.metrics is None else from_json(row.metrics),
        failure_kind=row.failure_kind,
        reason=row.reason,
        log_tail=row.log_tail,
        seed=row.seed,
        cpu_s=row.cpu_s,
        wall_s=row.wall_s,
        started_at=row.started_at,
        conditions=from_json(row.conditions),
        machine=row.machine,
        worker=row.worker,
    )
