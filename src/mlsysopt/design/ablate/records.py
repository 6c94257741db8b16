"""Where trainings are kept: one row of the store each, found again by what was trained, never by its place."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlsysopt.core.errors import StoreError, StoreUnavailable
from mlsysopt.core.processes.identity import Owner, this_process
from mlsysopt.core.store import Store
from mlsysopt.design.ablate.deltas import Row
from mlsysopt.design.ablate.fingerprint import Fingerprint, check_same

__all__ = ["ROOM", "Records", "content_key", "set_aside"]

ROOM = "ablate"
log = logging.getLogger("mlsysopt.ablate")


def content_key(row: Row, seed: int, fingerprint: str, *, fidelity: float = 1.0) -> str:
    """Return the key of one training: the row's change, the seed, the fidelity, the code and data."""
    text = json.dumps([row.canonical(), seed, fidelity, fingerprint], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class Records:
    """The trainings of one study in one store.

    Args:
        store: An open store.
        study: Name in it.
    """

    def __init__(self, store: Store, study: str) -> None:
        self.store = store
        self.study = study
        self.lost = 0
        self._done: dict[str, dict[str, Any]] = {}
        self._began: dict[str, dict[str, Any]] = {}
        self._claims: list[dict[str, Any]] = []
        self.identity: dict[str, Any] | None = None
        self.recipe: dict[str, Any] = {}
        self.result: dict[str, Any] | None = None
        self.notes: list[dict[str, Any]] = []
        for sample in store.samples(ROOM, study):
            self._take(sample.row)

    def _take(self, row: Mapping[str, Any]) -> None:
        what = row["what"]
        if what == "study":
            self.identity, self.recipe = row["identity"], {**self.recipe, **row["recipe"]}
        elif what == "began":
            self._began[row["key"]] = dict(row)
        elif what == "trial":
            self._began.pop(row["key"], None)
            self._done[row["key"]] = dict(row)
        elif what == "claim":
            self._claims.append(row["owner"])
        elif what == "release":
            self._claims = [owner for owner in self._claims if owner != row["owner"]]
        elif what == "lost":
            self._began.pop(row["key"], None)
            self.lost += 1
        elif what == "result":
            self.result = dict(row["result"])
        else:
            self.notes.append(dict(row))

    def claim(self, fingerprint: Fingerprint, recipe: Mapping[str, Any]) -> None:
        """Make this study ours to go on with: same code and data, nobody else at work, half trials lost.

        Raises:
            StoreError: the stored trainings are of other code or data.
            StoreUnavailable: another process is training for this study right now.
        """
        if self.identity is not None:
            check_same(Fingerprint.from_json(self.identity), fingerprint, self.store.url)
        me = this_process()
        self._add({"what": "claim", "owner": me.to_json()})
        # Two may claim at once: both then read what the store says, and the claim that stands first in it holds.
        self._claims.clear()
        for sample in self.store.samples(ROOM, self.study):
            if sample.row["what"] in ("claim", "release"):
                self._take(sample.row)
        at_work = [*self._claims, *(row["owner"] for row in self._began.values())]
        for owner in map(Owner.from_json, at_work):
            if owner == me:
                break
            if not me.is_dead(owner):
                self.release()
                raise StoreUnavailable(
                    f"store {self.store.url}: process {owner.pid} on {owner.host} trains for study {self.study!r} now\n"
                    "let it finish or stop it, or use another store"
                )
        for key, row in list(self._began.items()):
            self._add({"what": "lost", "key": key, "row": row["row"], "seed": row["seed"]})
        if self.lost:
            log.info("%d half trainings of an earlier run are lost and will be run again", self.lost)
        if self.identity is None or dict(recipe) != {k: self.recipe.get(k) for k in recipe}:
            self._add({"what": "study", "identity": fingerprint.to_json(), "recipe": dict(recipe)})

    def release(self) -> None:
        """Let others go on with this study; a claim of a dead process needs no release."""
        self._add({"what": "release", "owner": this_process().to_json()})

    def get(self, key: str) -> dict[str, Any] | None:
        """Return a finished training, None when there is none."""
        return self._done.get(key)

    def trials(self) -> list[dict[str, Any]]:
        """Return all finished trainings, in the order in which they ended."""
        return list(self._done.values())

    def begin(self, key: str, row: str, seed: int) -> None:
        """Note that a training starts: should this process die, it will be known as lost."""
        self._add(
            {
                "what": "began",
                "key": key,
                "row": row,
                "seed": seed,
                "owner": this_process().to_json(),
                "at": time.time(),
            }
        )

    def finish(self, key: str, found: Mapping[str, Any]) -> None:
        """Keep a training."""
        self._add({"what": "trial", "key": key, **found})

    def keep(self, what: str, row: Mapping[str, Any]) -> None:
        """Keep something else: the result, a note."""
        self._add({"what": what, **row})

    def _add(self, row: dict[str, Any]) -> None:
        try:
            self.store.add_sample(ROOM, self.study, row)
        except StoreUnavailable as error:
            log.warning("%s; trying once more", error)
            self.store.add_sample(ROOM, self.study, row)
        self._take(row)


def names_in(store: Store) -> list[str]:
    """Return the studies of this room in a store."""
    return list(dict.fromkeys(sample.key for sample in store.samples(ROOM)))


def only_study(store: Store, name: str | None) -> str:
    """Return the study that is meant.

    Raises:
        StoreError: none, no such, or several to choose from.
    """
    from mlsysopt.core.errors import near_misses

    known = names_in(store)
    if name is not None and name in known:
        return name
    if name is not None:
        raise StoreError(f"store {store.url} holds no ablation {name!r}; {near_misses(name, known, noun='study')}")
    if not known:
        raise StoreError(f"store {store.url} holds no ablation yet; run one first: mlsysopt ablate run study.py")
    if len(known) > 1:
        raise StoreError(f"store {store.url} holds several ablations; choose one with --study: {', '.join(known)}")
    return known[0]


def set_aside(path: str | Path | None) -> Path | None:
    """Move a SQLite store out of the way and return its new name; None when there was none."""
    if path is None or "://" in str(path) or not Path(path).exists():
        return None
    old = Path(path)
    number = 1
    while (new := old.with_name(f"{old.name}.{number}")).exists():
        number += 1
    old.rename(new)
    for tail in ("-wal", "-shm"):
        side = old.with_name(old.name + tail)
        if side.exists():
            side.rename(new.with_name(new.name + tail))
    return new
