"""Verifications on record: one that was stopped goes on with the rounds that it finished.

Before its first round a verification writes down what it tests and from which seed its rounds come. When
the process is killed or interrupted, that record stays open. The next verification of the same thing, on
the same machine and file system, takes it over: with the seed it finds the finished rounds among the
measurements of the store, and every look falls where it would have fallen. Starting anew instead would
throw away rounds that somebody may have stopped because they looked bad.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from mlsysopt.core.processes.identity import Owner, this_process
from mlsysopt.core.store import MeasurementRow

if TYPE_CHECKING:
    import optuna

__all__ = ["FinishedRounds", "Plan", "Record", "close", "enter", "searched"]

_KEY = "verification:"


@dataclass(frozen=True, slots=True)
class Plan:
    """What two verifications must share to be the same one.

    Attributes:
        candidates: Trial number and canonical configuration, in the order in which they are tested.
        together: How many are tested in the same rounds.
        looks: Rounds after which it may stop.
        objectives: What decides.
        guards: What is checked.
        machine: Key and name of the machine.
        place: Where the databases lie.
    """

    candidates: tuple[tuple[int, str], ...]
    together: int
    looks: tuple[int, ...]
    objectives: tuple[str, ...]
    guards: tuple[str, ...]
    machine: str
    place: str

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, as they will be read back."""
        return {key: _listed(value) for key, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Record:
    """One verification that has begun.

    Attributes:
        plan: What it tests, as JSON values.
        seed: Where the seeds of its rounds come from.
        both_clocks: Whether both clocks must agree; fixed before its first round.
        owner: Process that runs it.
        budget: Budget that the search before it used up, None when there was none.
    """

    plan: Mapping[str, Any]
    seed: int
    both_clocks: bool
    owner: Owner
    budget: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "plan": dict(self.plan),
            "seed": self.seed,
            "both_clocks": self.both_clocks,
            "owner": self.owner.to_json(),
            "budget": self.budget,
        }

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> Record:
        """Read what `to_json` wrote."""
        owner = Owner.from_json(obj["owner"])
        return cls(obj["plan"], int(obj["seed"]), bool(obj["both_clocks"]), owner, obj["budget"])


class FinishedRounds:
    """Measurements of earlier attempts at a verification, by trial, side and seed of the round.

    A failed default, and what the machine spoiled, are not finished. Of a round that was measured again
    the later attempt counts: an attempt measures its sides in a fixed order and whole, so the sides of a
    complete round are all of one attempt.

    Args:
        rows: Measurements of role `verify`, in the order in which they were recorded.
    """

    def __init__(self, rows: Iterable[MeasurementRow] = ()) -> None:
        self._rows = {(row.trial, row.side, row.seed): row for row in rows if _finished(row)}

    def complete(self, sides: Collection[tuple[int, str]], seed: int) -> bool:
        """Whether every (trial, side) of a round has been measured."""
        return bool(sides) and all((trial, side, seed) in self._rows for trial, side in sides)

    def row(self, trial: int, side: str, seed: int) -> MeasurementRow:
        """Return one measurement of a complete round."""
        return self._rows[trial, side, seed]


def enter(
    study: optuna.Study,
    worker: int,
    plan: Plan,
    *,
    begin: Callable[[], tuple[int, bool]],
    budget: str | None = None,
) -> tuple[Record, bool]:
    """Take over the verification of a plan that was left open, or begin one.

    To be called while the machine's timing slot is held: two processes then never take over the same one.

    Args:
        study: The study.
        worker: Number of this process in it.
        plan: What is to be tested.
        begin: Returns the seed of a new one, and whether both clocks must agree.
        budget: Budget that the search before it used up.

    Returns:
        The record, now this process's own, and whether it was taken over.
    """
    wanted = plan.to_json()
    for key, record in _abandoned(study):
        if dict(record.plan) == wanted:
            mine = replace(record, owner=this_process())
            # Its new owner first: a kill between the two lines leaves it open twice, never lost.
            study.set_user_attr(_key(worker), mine.to_json())
            if key != _key(worker):
                study.set_user_attr(key, None)
            return mine, True
    seed, both_clocks = begin()
    record = Record(wanted, seed, both_clocks, this_process(), budget)
    study.set_user_attr(_key(worker), record.to_json())
    return record, False


def searched(study: optuna.Study, budget: str) -> bool:
    """Whether a search used up this budget already and only its verification was stopped.

    Time that passed between two runs is not counted, so that a time budget alone cannot tell.
    """
    return any(record.budget == budget for _, record in _abandoned(study))


def close(study: optuna.Study) -> None:
    """Close what this process or a dead one left open: there is a verdict now, and the next one is measured anew."""
    for key, _ in _abandoned(study):
        study.set_user_attr(key, None)


def _abandoned(study: optuna.Study) -> Generator[tuple[str, Record]]:
    """Yield the open verifications that nobody else is running, the latest first."""
    me = this_process()
    found = [(key, value) for key, value in study.user_attrs.items() if key.startswith(_KEY) and value]
    for key, value in sorted(found, key=lambda item: int(item[0].removeprefix(_KEY)), reverse=True):
        record = Record.from_json(value)
        if record.owner == me or me.is_dead(record.owner):
            yield key, record


def _key(worker: int) -> str:
    return f"{_KEY}{worker}"


def _finished(row: MeasurementRow) -> bool:
    if row.metrics is not None:
        return True
    return row.side != "default" and row.failure_kind not in ("infrastructure", "lost")


def _listed(value: Any) -> Any:
    return [_listed(one) for one in value] if isinstance(value, tuple) else value
