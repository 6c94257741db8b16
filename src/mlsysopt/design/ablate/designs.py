"""Which rows a study trains, and which differences between them answer which question."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import numpy.typing as npt

from mlsysopt.core.errors import StudyError
from mlsysopt.core.space import Choice, Int, Space
from mlsysopt.design.ablate.deltas import BASE, Component, Row

__all__ = ["Design", "Question", "add_one_in", "aliases", "interaction", "loco", "pair", "plackett_burman", "screening"]

Kind = Literal["single", "pair", "add", "screen"]


@dataclass(frozen=True, slots=True)
class Question:
    """One effect of the family: a weighted sum of the metrics of some rows, seed by seed.

    Attributes:
        name: What the table calls it.
        kind: What is asked.
        contrast: Row and weight; oriented so that a negative sum is a loss by taking away.
        members: Components it is about.
    """

    name: str
    kind: Kind
    contrast: tuple[tuple[str, float], ...]
    members: tuple[str, ...]

    @property
    def squares(self) -> float:
        """Sum of the squared weights: how much rounding noise the difference holds."""
        return sum(weight**2 for _, weight in self.contrast)

    @property
    def own(self) -> str:
        """The row that the question is mainly about."""
        return self.contrast[0][0]


@dataclass(frozen=True, slots=True)
class Design:
    """Rows and questions.

    Attributes:
        rows: Base first.
        questions: The family, as far as it is known.
        reserved: Questions of the family that are chosen later, among the largest effects.
    """

    rows: tuple[Row, ...]
    questions: tuple[Question, ...]
    reserved: int = 0

    @property
    def family(self) -> int:
        """Number of hypotheses that share the error rate."""
        return len(self.questions) + self.reserved

    def row(self, key: str) -> Row:
        """Return a row by its key."""
        return next(row for row in self.rows if row.key == key)

    def plus(self, rows: Iterable[Row], questions: Iterable[Question], reserved: int) -> Design:
        """Return the design with more rows and questions; rows that are there already are kept once."""
        known = {row.key: row for row in [*self.rows, *rows][::-1]}
        kept = dict.fromkeys(row.key for row in [*self.rows, *rows])
        return Design(tuple(known[key] for key in kept), (*self.questions, *questions), reserved)

    def space(self, seeds: int) -> Space:
        """Return the design as an enumerated space: which row, which seed."""
        return Space(
            [Choice("row", tuple(row.key for row in self.rows), default=BASE), Int("seed", 0, max(1, seeds - 1))]
        )


def loco(components: Sequence[Component]) -> Design:
    """Leave one component out: n + 1 rows.

    References:
        Sheikholeslami et al., AutoAblation, EuroMLSys 2021.

    >>> design = loco([Component("a", "data", {"fraction": 0.5}), Component("b", "data", {"fraction": 0.1})])
    >>> [row.key for row in design.rows], design.questions[0].contrast
    (['base', 'a', 'b'], (('a', 1.0), ('base', -1.0)))
    """
    rows = [Row.without([one]) for one in components]
    asked = [Question(one.name, "single", ((one.name, 1.0), (BASE, -1.0)), (one.name,)) for one in components]
    return Design((Row(()), *rows), tuple(asked))


def pair(a: Component, b: Component) -> tuple[Row, Question]:
    """Take both away at once."""
    row = Row.without([a, b])
    return row, Question(row.key, "pair", ((row.key, 1.0), (BASE, -1.0)), row.members)


def interaction(question: Question) -> Question:
    """Return what a pair loses beyond the sum of its singles: d_ab - d_a - d_b."""
    a, b = question.members
    return Question(f"{a} x {b}", "pair", ((question.own, 1.0), (a, -1.0), (b, -1.0), (BASE, 1.0)), (a, b))


def all_pairs(components: Sequence[Component]) -> list[tuple[Row, Question]]:
    """Return every pair, in the order of the components."""
    return [pair(a, b) for a, b in combinations(components, 2)]


def add_one_in(components: Sequence[Component]) -> Design:
    """Begin with everything off and switch one component on at a time.

    The question is what taking that one away costs when nothing else is there.
    """
    bare = Row.without(components)
    rows = [Row.without([other for other in components if other is not one]) for one in components]
    asked = [
        Question(f"{one.name} alone", "add", ((bare.key, 1.0), (row.key, -1.0)), (one.name,))
        for one, row in zip(components, rows, strict=True)
    ]
    return Design((Row(()), bare, *rows), tuple(asked))


def screening(components: Sequence[Component]) -> Design:
    """Estimate n main effects from about n + 1 rows, each with half of the components off.

    Main effects are mixed with interactions of two components; `aliases` lists which.

    Raises:
        StudyError: fewer than three components.

    References:
        Plackett and Burman, Biometrika 33, 1946.

    >>> parts = [Component(f"c{i}", "data", {"fraction": 1 / (i + 2)}) for i in range(7)]
    >>> len(screening(parts).rows)
    8
    """
    if len(components) < 3:
        raise StudyError(f"screening needs at least 3 components, got {len(components)}: use the plain design")
    signs = plackett_burman(len(components))
    rows = [
        Row.without([one for one, sign in zip(components, line, strict=True) if sign < 0])
        for line in signs[:, : len(components)]
    ]
    runs = len(rows)
    asked = [
        Question(
            one.name,
            "screen",
            tuple((row.key, -2.0 * float(sign) / runs) for row, sign in zip(rows, signs[:, i], strict=True)),
            (one.name,),
        )
        for i, one in enumerate(components)
    ]  # fmt: skip
    return Design(tuple(rows), tuple(asked))


def plackett_burman(factors: int) -> npt.NDArray[np.int64]:
    """Return a two-level design, shape (runs, factors), entries +1 (there) and -1 (off); row 0 is all +1.

    Runs are the smallest multiple of four above the number of factors for which Sylvester's or
    Paley's construction gives a Hadamard matrix.

    >>> design = plackett_burman(11)
    >>> design.shape, bool(np.all(design.T @ design == 12 * np.eye(11)))
    ((12, 11), True)
    """
    runs = 4 * (factors // 4 + 1)
    while (square := _hadamard(runs)) is None:
        runs += 4
    return square[:, 1 : factors + 1]


def aliases(design: Design, least: float = 0.3) -> dict[str, list[tuple[str, str, float]]]:
    """Return, for each main effect of a screening, the pairs whose interaction it holds a share of.

    Args:
        design: Made by `screening`.
        least: Smaller shares are left out.
    """
    signs = np.array([[-math.copysign(1.0, w) for _, w in q.contrast] for q in design.questions])
    found: dict[str, list[tuple[str, str, float]]] = {}
    for i, one in enumerate(design.questions):
        shares = [
            (design.questions[j].name, design.questions[k].name, float(np.mean(signs[i] * signs[j] * signs[k])))
            for j, k in combinations(range(len(signs)), 2)
            if i not in (j, k)
        ]
        found[one.name] = [share for share in shares if abs(share[2]) >= least]
    return found


def _hadamard(n: int) -> npt.NDArray[np.int64] | None:
    """Return a Hadamard matrix whose first row and column are +1, None where neither construction fits."""
    if n & (n - 1) == 0:
        square = np.ones((1, 1), dtype=np.int64)
        while len(square) < n:
            square = np.block([[square, square], [square, -square]])
        return square
    q = n - 1
    if any(q % k == 0 for k in range(2, math.isqrt(q) + 1)):
        return None
    residues = {(k * k) % q for k in range(1, q)}
    skew = np.array([[0 if i == j else 1 if (j - i) % q in residues else -1 for j in range(q)] for i in range(q)])
    square = np.ones((n, n), dtype=np.int64)
    square[1:, 1:] = skew + np.eye(q, dtype=np.int64)
    square[1:, 0] = -1
    # Rows are turned so that the first column is +1 as well.
    return square * square[:, :1]
