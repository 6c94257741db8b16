"""What the terms of a trainer usually cost, in proportion to one another: learned once, from finished trainings.

Four small samples cannot tell six terms apart that grow almost alike: any of them may take the blame for the
others, and the full training tells the difference. Recorded trainings of other data can. Only proportions
are used, so the machine that they were recorded on matters little: how fast this one is, the samples say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from mlsysopt.core.costmodel import fit_nonnegative
from mlsysopt.core.errors import ArtefactError
from mlsysopt.core.places import artefact_header, read_header

__all__ = ["NOTHING", "Typical", "learned", "shipped", "usual"]

Floats = npt.NDArray[np.float64]

_FORMAT = "estimate-typical"
# A ramp over 3 squares and one over 5 differ in where they rise, which the term itself says.
_RAMP = re.compile(r"ramp\([^)]*\)")
# A full training tells more of proportions than a sample does, and there is one for ten of those.
_FULL = 3.0
# What was fitted to nothing may still be something: no more than this share of any case.
_LEAST_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class Typical:
    """Seconds per unit of each term, trainer by trainer.

    Attributes:
        rows: Trainer and its terms -> seconds, for each set of terms that one of its settings has.
        about: Where they come from, for reports.

    >>> known = Typical({("svd", ("n_epochs*R", "1")): (1e-7, 2e-4)})
    >>> known.expected("svd", ["1", "n_epochs*R"]).tolist()
    [0.0002, 1e-07]
    >>> known.expected("svd", ["n_epochs*R", "R"]) is None
    True
    """

    rows: Mapping[tuple[str, tuple[str, ...]], tuple[float, ...]]
    about: str = ""

    def expected(self, trainer: str, terms: Sequence[str]) -> Floats | None:
        """Return what each term is expected to cost, shape (k,); None unless exactly these terms are known."""
        asked = [_plain(term) for term in terms]
        for (name, texts), seconds in self.rows.items():
            if name == trainer and sorted(texts) == sorted(asked):
                known = dict(zip(texts, seconds, strict=True))
                return np.array([known[term] for term in asked])
        return None

    def of(self, trainer: str) -> Typical:
        """Return what is known of one trainer."""
        return Typical({key: value for key, value in self.rows.items() if key[0] == trainer}, self.about)

    def to_json(self, *, machine_key: str | None = None) -> str:
        """Return it as text, one set of terms a line."""
        head = json.dumps({**artefact_header(_FORMAT, 1, machine=machine_key), "about": self.about})[:-1]
        rows: list[str] = []
        for (name, texts), seconds in self.rows.items():
            costs = {text: float(f"{cost:.4g}") for text, cost in zip(texts, seconds, strict=True)}
            rows.append(json.dumps({"trainer": name, "seconds": costs}))
        lines = ",\n".join(rows)
        return f'{head}, "rows": [\n{lines}\n]}}\n'

    @classmethod
    def from_json(cls, text: str) -> Typical:
        """Read what `to_json` wrote.

        Raises:
            ArtefactError: something else, newer, or damaged.
        """
        try:
            content: dict[str, Any] = json.loads(text)
        except ValueError as error:
            raise ArtefactError(f"this is no {_FORMAT} file: {error}") from None
        read_header(content, _FORMAT, 1)
        try:
            rows = {(row["trainer"], tuple(row["seconds"])): tuple(row["seconds"].values()) for row in content["rows"]}
        except (KeyError, TypeError, AttributeError) as error:
            raise ArtefactError(f"this {_FORMAT} file is damaged: {error}") from None
        return cls(rows, str(content.get("about", "")))


NOTHING = Typical({})
"""Of trainers that were never recorded."""


@cache
def shipped() -> Typical:
    """Return what comes with the package: learned on fitting shapes only, see `bench/estimate_bank.py`."""
    return Typical.from_json(resources.files("mlsysopt.train.estimate").joinpath("typical.json").read_text())


def usual(trainer: str, *, calibrated: bool) -> Typical:
    """Return what is known of a trainer; nothing of one that the user declared."""
    return shipped().of(trainer) if calibrated else NOTHING


def learned(cases: Iterable[tuple[Floats, Floats, bool]], terms: Sequence[str]) -> dict[str, float]:
    """Learn what terms cost from many data sets at once.

    Args:
        cases: For each training its terms' values, shape (n, k), CPU seconds, shape (n,), and whether these
            are full trainings.
        terms: The terms, in the order of the columns.

    Returns:
        Term, as `Typical` names it -> seconds per unit, above 0 where the cases have the term.
    """
    given = [(np.atleast_2d(phi), np.atleast_1d(seconds), full) for phi, seconds, full in cases]
    phi, costs = np.vstack([one[0] for one in given]), np.concatenate([one[1] for one in given])
    weights = np.concatenate([np.full(len(seconds), _FULL if full else 1.0) for _, seconds, full in given])
    found = fit_nonnegative(phi, costs, weights=weights)
    told = phi @ found
    for k in range(len(found)):
        there = phi[:, k] > 0
        if there.any():
            found[k] = max(found[k], _LEAST_SHARE * float(np.min(told[there] / phi[there, k])))
    return {_plain(term): float(value) for term, value in zip(terms, found, strict=True)}


def _plain(term: str) -> str:
    return _RAMP.sub("ramp", term)
