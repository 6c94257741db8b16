"""The tables of a model that go on learning: what each may try, and verdicts that outlive the program.

Verdicts lie in the machine's profile, under the variants with their versions and the product's size; they are relative
times, and enter no price. The next model with such a product and a table that learns begins with them.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from mlsysopt.compile.linear.forms import ORIGINAL
from mlsysopt.compile.linear.refine import Refiner, Verdict
from mlsysopt.compile.linear.segments import BASELINE
from mlsysopt.compile.variants.machine import MachineProfile
from mlsysopt.compile.variants.registry import variant

if TYPE_CHECKING:
    from mlsysopt.compile.linear.tables import Table

__all__ = ["Keeper", "refiners"]


def refiners(
    tables: Sequence[Table],
    rows: tuple[int, ...],
    threads: int,
    profile: MachineProfile | None,
    residency: str,
) -> dict[tuple[Any, ...], Refiner]:
    """Return what learns for the tables of a model, by `Table.alike`; a table without a choice has none.

    A table may try what needs no form beside those that it keeps, so that learning takes no memory.

    Args:
        tables: One for each product.
        rows: Grid of row counts.
        threads: Threads that they were made for.
        profile: Where verdicts are kept; None keeps none.
        residency: "cold" or "warm": where weights are in this model.
    """
    found: dict[tuple[Any, ...], Refiner] = {}
    keeper = None if profile is None else Keeper(profile)
    for table in tables:
        able = _able(table)
        if not table.changed or table.alike in found or len(able) < 2:
            continue
        refiner = Refiner(table.decision, rows, able=able)
        if keeper is not None:
            key = _key(table, able, threads, residency)
            refiner.recall(keeper.known(key))
            refiner.tell = partial(keeper.keep, key)
        found[table.alike] = refiner
    return found


class Keeper:
    """Keeps verdicts in a profile.

    They are written by a thread of its own, since the call that settled one has somebody waiting for it.
    """

    def __init__(self, profile: MachineProfile) -> None:
        self.profile = profile
        self.lock = threading.Lock()

    def known(self, key: str) -> list[Verdict]:
        """Return the verdicts that are kept under a name; none where they cannot be read."""
        kept = self.profile.fit(key)
        try:
            return [] if kept is None else [Verdict(**one) for one in json.loads(kept[1])]
        except (ValueError, TypeError):
            return []

    def keep(self, key: str, refiner: Refiner) -> None:
        """Let the verdicts of a refiner be written."""
        verdicts = [asdict(one) for one in refiner.verdicts]
        try:
            threading.Thread(target=self._write, args=(key, verdicts), name="mlsysopt-refine").start()
        except RuntimeError:  # the program is ending
            self._write(key, verdicts)

    def _write(self, key: str, verdicts: Sequence[dict[str, Any]]) -> None:
        with self.lock:
            # What others write meanwhile is no concern of ours, so that nothing is read again.
            held = self.profile
            own = held if held.path is None else MachineProfile(here=held.here, path=held.path)
            own.keep_fit(key, len(verdicts), json.dumps(verdicts))
            if own is not held:
                own.close()


def _able(table: Table) -> tuple[str, ...]:
    """Return the variants that a table may try: none where panels have taken the place of the original."""
    if ORIGINAL not in table.forms:
        return ()
    rivals = (one.runner_up for one in table.decision.segments if one.runner_up)
    named = dict.fromkeys((*table.decision.variants, *rivals, BASELINE))
    return tuple(name for name in named if name == BASELINE or variant(name).form in table.forms)


def _key(table: Table, able: Sequence[str], threads: int, residency: str) -> str:
    product = table.product
    versions = " ".join(sorted(f"{name}@{variant(name).version}" for name in able))
    return f"refined {product.kind} K={product.k} N={product.n} threads={threads} {residency} {versions}"
