"""What is learned beside trials: bounds, rules, samples and cached results, each with its evidence."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from mlsysopt.core.errors import StoreError
from mlsysopt.core.store import schema
from mlsysopt.core.store.database import Database
from mlsysopt.core.store.rows import Bound, Rule, Sample, from_json, to_json

__all__ = ["Notes"]


class Notes:
    """The tables of a store that need no study."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._machine: str | None = None

    @property
    def machine_key(self) -> str:
        """Key of this machine, as its rows carry it."""
        if self._machine is None:
            from mlsysopt.core.measure import machine

            self._machine = machine().key()
        return self._machine

    def bounds(self, key: str) -> list[Bound]:
        """Return the bounds kept under a key (a target, a machine: the caller's choice), oldest first."""
        return [
            Bound(key, row.name, row.low, row.high, row.origin, from_json(row.evidence), row.machine, row.at)
            for row in self._rows(schema.bound, schema.bound.c.key == key)
        ]

    def add_bound(
        self,
        key: str,
        name: str,
        *,
        low: float | None = None,
        high: float | None = None,
        origin: str = "discovered",
        evidence: Mapping[str, Any] | None = None,
    ) -> Bound:
        """Keep a bound of the parameter `name`.

        Raises:
            StoreError: neither side is given, or low is above high.
        """
        if low is None and high is None:
            raise StoreError(f"bound of {name!r}: give low, high or both")
        if low is not None and high is not None and low > high:
            raise StoreError(f"bound of {name!r}: low must not be above high, got low={low}, high={high}")
        low = None if low is None else float(low)
        high = None if high is None else float(high)
        made = Bound(key, name, low, high, origin, dict(evidence or {}), self.machine_key, time.time())
        self._add(
            schema.bound, key=key, name=name, low=low, high=high, origin=origin,
            evidence=to_json(made.evidence), machine=made.machine, at=made.at,
        )  # fmt: skip
        return made

    def rules(self, key: str) -> list[Rule]:
        """Return the rules kept under a key, oldest first."""
        return [
            Rule(key, row.expression, row.origin, from_json(row.evidence), row.machine, row.at)
            for row in self._rows(schema.rule, schema.rule.c.key == key)
        ]

    def add_rule(
        self, key: str, expression: str, *, origin: str = "discovered", evidence: Mapping[str, Any] | None = None
    ) -> Rule:
        """Keep a constraint between parameters."""
        made = Rule(key, expression, origin, dict(evidence or {}), self.machine_key, time.time())
        self._add(
            schema.rule, key=key, expression=expression, origin=origin,
            evidence=to_json(made.evidence), machine=made.machine, at=made.at,
        )  # fmt: skip
        return made

    def samples(self, room: str, key: str | None = None) -> list[Sample]:
        """Return the samples of a room, under one key or all, oldest first."""
        table = schema.sample
        where = table.c.room == room if key is None else sa.and_(table.c.room == room, table.c.key == key)
        return [Sample(room, row.key, from_json(row.row), row.machine, row.at) for row in self._rows(table, where)]

    def add_sample(self, room: str, key: str, row: Mapping[str, Any]) -> Sample:
        """Keep one row of what an estimator or profile learns from."""
        made = Sample(room, key, dict(row), self.machine_key, time.time())
        self._add(schema.sample, room=room, key=key, row=to_json(made.row), machine=made.machine, at=made.at)
        return made

    def cached(self, content_key: str | Mapping[str, Any]) -> Any:
        """Return what was cached for this content, None when nothing was.

        Only for deterministic targets: of a stochastic one each measurement is a new fact.

        Args:
            content_key: Text, or the parts (space, config, seed, fidelity, target) as JSON values.
        """
        rows = self._rows(schema.cache, schema.cache.c.key == _content_key(content_key))
        return from_json(rows[0].value) if rows else None

    def cache(self, content_key: str | Mapping[str, Any], value: Any) -> None:
        """Keep a result for this content, in place of an older one."""
        table, key = schema.cache, _content_key(content_key)
        with self._database.write() as connection:
            connection.execute(table.delete().where(table.c.key == key))
            connection.execute(table.insert().values(key=key, value=to_json(value), at=time.time()))

    def _rows(self, table: sa.Table, where: sa.ColumnElement[bool]) -> Sequence[sa.Row[Any]]:
        (first, *_) = table.primary_key
        with self._database.read() as connection:
            return connection.execute(sa.select(table).where(where).order_by(first)).all()

    def _add(self, table: sa.Table, **columns: Any) -> None:
        with self._database.write() as connection:
            connection.execute(table.insert().values(**columns))


def _content_key(given: str | Mapping[str, Any]) -> str:
    if isinstance(given, str):
        return given
    canonical = to_json({name: given[name] for name in sorted(given)})
    return hashlib.sha256(canonical.encode()).hexdigest()
