"""Who runs a trial, and whether it still lives.

A running trial has an owner (host, boot, process, start time) and a heartbeat, both in the
database. On the owner's own machine the process itself is asked, so a slow or suspended run is
never taken for dead; from elsewhere the heartbeat decides. The clock is always the database's.
"""

from __future__ import annotations

import json
import logging
import threading
import weakref
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from optuna.storages._rdb import models
from optuna.trial import TrialState

from mlsysopt.core.errors import MlsysoptError
from mlsysopt.core.processes.identity import Owner, this_process
from mlsysopt.core.store import schema
from mlsysopt.core.store.trial_rows import Pending, finish, save_pending, trials, upsert

__all__ = [
    "BEAT_S",
    "GRACE_S",
    "Lost",
    "Owner",
    "Pulse",
    "beat",
    "bury",
    "lost_trials",
    "release",
    "take",
    "this_process",
]

BEAT_S = 5.0
GRACE_S = 30.0
RELEASED = -1
"""Start time of no process: its trials have no owner any more."""

log = logging.getLogger("mlsysopt.store")

heartbeats: sa.Table = models.TrialHeartbeatModel.__table__


def take(connection: sa.Connection, trial_id: int, owner: Owner) -> None:
    """Write who runs a trial, with its first heartbeat."""
    boot = f"{owner.boot}/{owner.namespace}"
    row = {"trial_id": trial_id, "host": owner.host, "boot": boot, "pid": owner.pid, "ticks": owner.ticks}
    upsert(connection, schema.lease, ("trial_id",), [row])
    if not beat(connection, [trial_id]):
        connection.execute(heartbeats.insert().values(trial_id=trial_id))


def release(connection: sa.Connection, trial_ids: Collection[int]) -> None:
    """Give up trials that still run: the process lives on, but will not tell them any more."""
    connection.execute(schema.lease.update().where(schema.lease.c.trial_id.in_(trial_ids)).values(ticks=RELEASED))


def beat(connection: sa.Connection, trial_ids: Collection[int]) -> int:
    """Renew heartbeats by the database's clock; return how many there were."""
    changed = connection.execute(
        heartbeats.update().where(heartbeats.c.trial_id.in_(trial_ids)).values(heartbeat=sa.func.current_timestamp())
    )
    return changed.rowcount


@dataclass(frozen=True, slots=True)
class Lost:
    """A running trial that nobody runs any more."""

    trial_id: int
    number: int
    reason: str
    heartbeat: datetime | None


def lost_trials(connection: sa.Connection, study_id: int, here: Owner, grace_s: float = GRACE_S) -> list[Lost]:
    """Find running trials whose owner is dead or silent.

    A trial without owner and heartbeat belongs to a plain Optuna program and is never touched.
    """
    lease = schema.lease
    rows = connection.execute(
        sa.select(
            trials.c.trial_id,
            trials.c.number,
            heartbeats.c.heartbeat,
            sa.func.current_timestamp(type_=sa.DateTime()).label("now"),
            lease.c.host,
            lease.c.boot,
            lease.c.pid,
            lease.c.ticks,
        )
        .select_from(
            trials.outerjoin(lease, lease.c.trial_id == trials.c.trial_id).outerjoin(
                heartbeats, heartbeats.c.trial_id == trials.c.trial_id
            )
        )
        .where(trials.c.study_id == study_id, trials.c.state == TrialState.RUNNING)
        .order_by(trials.c.number)
    ).all()
    found: list[Lost] = []
    for row in rows:
        owner = None if row.host is None else _owner(row.host, row.boot, row.pid, row.ticks)
        if owner is not None and here.is_dead(owner):
            end = "gave it up" if owner.ticks == RELEASED else "is gone"
            found.append(Lost(row.trial_id, row.number, f"its process {owner.pid} {end}", row.heartbeat))
        elif owner is not None and here.sees(owner):
            continue  # alive, however long it has been silent
        elif row.heartbeat is not None:
            silent = row.now.replace(tzinfo=None) - row.heartbeat
            if silent > timedelta(seconds=grace_s):
                who = owner.host if owner is not None else "its process"
                reason = f"no sign of life from {who} for {silent.total_seconds():.0f} s"
                found.append(Lost(row.trial_id, row.number, reason, row.heartbeat))
    return found


def _owner(host: str, place: str, pid: int, ticks: int) -> Owner:
    boot, _, namespace = place.partition("/")
    return Owner(host, boot, namespace, pid, ticks)


def bury(connection: sa.Connection, lost: Lost) -> bool:
    """Mark one trial lost and failed; False when it came back or somebody else was faster."""
    beats = sa.select(heartbeats.c.heartbeat).where(heartbeats.c.trial_id == lost.trial_id).with_for_update()
    if connection.execute(beats).scalar() != lost.heartbeat:
        return False
    if not finish(connection, lost.trial_id, TrialState.FAIL, datetime.now()):
        return False
    words = Pending(user={"state": json.dumps("lost"), "reason": json.dumps(lost.reason)})
    save_pending(connection, lost.trial_id, words)
    return True


class Pulse:
    """Calls something every few seconds from a thread of its own, until stopped or forgotten.

    Args:
        work: Bound method; the thread holds its object weakly and ends with it.
        interval_s: Seconds between calls.
    """

    def __init__(self, work: Callable[[], None], interval_s: float) -> None:
        self._work = weakref.WeakMethod(work)
        self._interval_s = interval_s
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start beating; does nothing while it beats."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="mlsysopt-store", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stop and wait for a call in progress."""
        self._end.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        failed = False
        while not self._end.wait(self._interval_s):
            work = self._work()
            if work is None:
                return
            try:
                work()
                failed = False
            except MlsysoptError as error:
                # The next beat may succeed, well within the grace; the trial itself must go on.
                if not failed:
                    log.warning("%s", error)
                failed = True
            del work
