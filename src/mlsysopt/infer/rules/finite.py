"""Variables with finitely many values: how many, and which iterations of a consumer read a given cell.

A consumer's loop is inverted where the index of its read allows it (`z[i + c]` reads cell n at i = n - c); the loops
that are left over are walked, and an index that cannot be inverted is compared with the cell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mlsysopt.infer.analysis.blanket import Blanket, visits
from mlsysopt.infer.analysis.mentions import Mention, free_of, reads, shift_of
from mlsysopt.infer.ir import Call, Const, Expr, Get, Index, Loop, Program, Site, Vector, call, substitute, walk
from mlsysopt.infer.rules.protocol import Refusal

__all__ = [
    "LIMIT", "Consumer", "Walk", "consumers", "is_cheap", "same", "shifted", "split", "states_of", "uniform", "uses",
    "walks", "work",
]  # fmt: skip

LIMIT = 1024
"""Values of one variable that are still tried one by one."""


def states_of(site: Site) -> Expr | Refusal:
    """Return how many values a draw can have, or why that is no number."""
    assert site.distribution is not None
    name = site.distribution.name
    match name:
        case "Categorical":
            assert isinstance(site.args[0], Vector)
            size = site.args[0].size
        case "Bernoulli" | "BernoulliLogit":
            size = Const(2)
        case "Binomial":
            size = shifted(site.args[0], 1)
        case _:
            what = "values without end" if site.distribution.discrete else "no separate values"
            return Refusal(f"{name} has {what}", site.line)
    if isinstance(size, Const) and size.value > LIMIT:
        return Refusal(f"it has {size.value} values, more than {LIMIT}", site.line)
    return size


def uniform(size: Expr, program: Program) -> bool:
    """Whether a number of values is the same for all cells and in every sweep."""
    given = all(program.variables[name].input for name in reads(size))
    return given and not any(isinstance(one, Index) for one in walk(size))


def split(expression: Expr) -> tuple[Expr | None, int]:
    """Return an expression as another one plus a number; None plus a number where it is one."""
    match expression:
        case Const(value=int() as c):
            return None, int(c)
        case Call("+", (x, Const(value=int() as c))) | Call("+", (Const(value=int() as c), x)):
            base, more = split(x)
            return base, more + c
        case Call("-", (x, Const(value=int() as c))):
            base, more = split(x)
            return base, more - c
        case _:
            return expression, 0


def shifted(expression: Expr, by: int) -> Expr:
    """Return an expression plus a number, the numbers in it added up.

    >>> str(shifted(call("+", Index("t"), Const(1)), -1))
    't'
    """
    base, c = split(expression)
    c += by
    if base is None:
        return Const(c)
    return base if not c else call("+", base, Const(c)) if c > 0 else call("-", base, Const(-c))


def same(a: Expr, b: Expr) -> bool:
    """Whether two expressions are equal as they stand."""
    return split(a) == split(b)


def uses(expression: Expr, names: Sequence[str] | set[str]) -> bool:
    """Whether an expression reads one of some indices."""
    return any(isinstance(one, Index) and one.name in names for one in walk(expression))


@dataclass(frozen=True, slots=True)
class Consumer:
    """A site that reads a variable.

    Attributes:
        site: Which.
        gets: The different cells that one iteration reads, as they are written.
        ways: For each of them, by axis, the index that has to be the cell's; what reductions run over is left out, so
            an iteration may be found that does not read the cell. Such a factor is the same for all values.
        single: Whether an iteration depends on one cell of the variable only, so that its factor holds whatever the
            other cells are.
        get: The cell that is read; None where there are several of them, any two of which may be the same one: then a
            value is put into the cell while its factor is taken.
    """

    site: Site
    gets: tuple[Get, ...]
    ways: tuple[tuple[tuple[int, Expr], ...], ...]
    single: bool
    get: Get | None


def consumers(blanket: Blanket) -> tuple[Consumer, ...]:
    """Return the consumers of a variable in program order."""
    return tuple(_consumer(blanket.program.sites[i], found, blanket) for i, found in blanket.consumers.items())


def _consumer(site: Site, found: Sequence[Mention], blanket: Blanket) -> Consumer:
    name, rank = blanket.variable.name, blanket.variable.rank
    several = False
    ways: dict[tuple[tuple[int, Expr], ...], None] = {}
    for mention in found:
        inner = {one.index for one in mention.under}
        several = several or any(uses(at, inner) for at in mention.get.at)
        ways[
            tuple((axis, at) for axis, at in enumerate(mention.get.at) if free_of(at, name) and not uses(at, inner))
        ] = None
    if () in ways:
        ways = {(): None}
    gets = tuple(dict.fromkeys(one.get for one in found))
    draws_it = site.variable == name and not site.observed
    single = len(gets) == 1 and len(ways) == 1 and all(len(one) == rank for one in ways) and not draws_it
    get = gets[0] if len(gets) == 1 and not several else None
    return Consumer(site, gets, tuple(ways), single, get)


@dataclass(frozen=True, slots=True)
class Walk:
    """The iterations of a consumer that read one cell.

    Attributes:
        new: What its loop indices are, in terms of the cell's loops and of the loops that are left.
        steps: Conditions and loops, outermost first.
        cheap: Whether no iteration is visited in vain.
    """

    new: dict[Expr, Expr]
    steps: tuple[Expr | Loop, ...]
    cheap: bool

    @property
    def repeated(self) -> bool:
        """Whether a cell has more than one iteration."""
        return any(isinstance(one, Loop) for one in self.steps)


def walks(
    consumer: Consumer, at: Sequence[Expr], loops: Sequence[Loop], rename: Callable[[str], str]
) -> tuple[Walk, ...]:
    """Return how the iterations that read a cell are walked, each of them once.

    Args:
        consumer: What reads it.
        at: The cell, in terms of `loops`.
        loops: Around the cell.
        rename: Gives a loop's index a name that is free.
    """
    found = (_walk(consumer, i, at, loops, rename) for i in range(len(consumer.ways)))
    return tuple(one for one in found if not any(_never(step) for step in one.steps))


def _walk(
    consumer: Consumer, number: int, at: Sequence[Expr], around: Sequence[Loop], rename: Callable[[str], str]
) -> Walk:
    site = consumer.site
    of = {loop.index: loop for loop in site.loops}
    new: dict[Expr, Expr] = {}
    compared: list[Expr] = []
    for axis, index in consumer.ways[number]:
        found = shift_of(index, site.loops)
        if found is not None and Index(found[0]) not in new and of[found[0]].step == 1:
            new[Index(found[0])] = shifted(at[axis], -found[1])
        else:
            compared.append(Call("==", (index, at[axis])))
    bound = {one for one in new if isinstance(one, Index)}
    left = {loop.index: rename(loop.index) for loop in site.loops if Index(loop.index) not in bound}
    new.update({Index(old): Index(name) for old, name in left.items()})
    names = set(left.values())

    early: list[Expr | Loop] = []
    late: list[Expr | Loop] = []
    for loop in site.loops:
        low, high = substitute(loop.low, new), substitute(loop.high, new)
        if loop.index in left:
            late.append(replace(loop, index=left[loop.index], low=low, high=high))
            continue
        for one in _bounds(new[Index(loop.index)], low, high, around):
            (late if uses(one, names) else early).append(one)
    equal = [Call("==", (substitute(one.args[0], new), one.args[1])) for one in compared if isinstance(one, Call)]
    equal = [one for one in equal if not same(*one.args)]
    steps = [
        *early,
        *(one for one in equal if not uses(one, names)),
        *late,
        *(one for one in equal if uses(one, names)),
    ]
    cheap = not any(uses(one, names) for one in steps if not isinstance(one, Loop))
    for earlier in consumer.ways[:number]:
        again = [Call("==", (substitute(index, new), at[axis])) for axis, index in earlier]
        if any(_differ(*one.args) for one in again):
            continue
        both: Expr = again[0]
        for one in again[1:]:
            both = call("and", both, one)
        steps.append(call("not", both))
    return Walk(new, tuple(steps), cheap)


def _differ(a: Expr, b: Expr) -> bool:
    (x, c), (y, d) = split(a), split(b)
    return x == y and c != d


def _never(step: Expr | Loop) -> bool:
    """Whether a condition on a cell's place is plainly false, such as 2 <= 1."""
    match step:
        case Call("<=", (a, b)):
            return _differ(a, b) and _at_most(b, a)
        case Call("<", (a, b)):
            return _at_most(b, a)
        case Call("==", (a, b)):
            return _differ(a, b)
        case _:
            return False


def _bounds(index: Expr, low: Expr, high: Expr, around: Sequence[Loop]) -> list[Expr]:
    """Return what has to be asked for an index to lie in a loop, without what the loops around it already say."""
    least, most = index, shifted(index, 1)
    base, c = split(index)
    for loop in around:
        if base == Index(loop.index) and loop.step > 0:
            least, most = shifted(loop.low, c), shifted(loop.high, c)
    found: list[Expr] = []
    if not (_at_most(low, least) or _at_most(low, index)):
        found.append(Call("<=", (low, index)))
    if not (_at_most(most, high) or _at_most(shifted(index, 1), high)):
        found.append(Call("<", (index, high)))
    return found


def _at_most(a: Expr, b: Expr) -> bool:
    (x, c), (y, d) = split(a), split(b)
    return x == y and c <= d


def is_cheap(consumer: Consumer, blanket: Blanket) -> bool:
    """Whether every cell finds the iterations that read it without looking at others."""
    return all(
        one.cheap for site in blanket.own for one in walks(consumer, site.at, site.loops, lambda name: f"{name}__left")
    )


def work(consumer: Consumer, cells: Expr, cheap: bool) -> Expr:
    """Return how often a consumer's body is reached in one update of all cells."""
    found = call("*", Const(len(consumer.ways)), visits(consumer.site))
    return found if cheap else call("*", cells, found)
