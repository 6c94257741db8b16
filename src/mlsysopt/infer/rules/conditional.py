"""The log density of one cell given everything else, as lines of generated code.

A cell's prior, and its readers in one of three ways. Readers that the cell enters through two sums (a normal's
standard deviation, a probability, a rate) are walked once, and cost nothing for each density after that. Where no two
cells share a reader, every reader is walked once for all cells, and adds to the cell that it reads. Otherwise each cell
asks the readers that it can touch: by inverting an index `t + c`, or by walking the whole loop.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from mlsysopt.infer.analysis.blanket import Blanket, visits
from mlsysopt.infer.analysis.mentions import Mention, mentions, reads, shift_of
from mlsysopt.infer.emit.writer import Writer
from mlsysopt.infer.ir import Const, Expr, Index, Site, call, substitute, walk
from mlsysopt.infer.rules.protocol import Refusal
from mlsysopt.infer.rules.statistics import (
    ONE,
    Gain,
    beta_gain,
    chosen,
    flat_index,
    gamma_gain,
    normal_gain,
    scale_gain,
    shape_inside,
    spread_gain,
)
from mlsysopt.infer.runtime import slicing

__all__ = ["EVALUATIONS", "Conditional", "conditional", "neighbours"]

EVALUATIONS = 8
"""Densities that one slice update asks for, roughly."""


@dataclass(frozen=True, slots=True)
class _Form:
    """Readers that a cell enters through two sums: what each adds, and the density of both."""

    name: str
    gain: Callable[[Mention], Gain | Refusal]
    density: Callable[..., float]


_FORMS = (
    _Form("scale", scale_gain, slicing.scale_form),
    _Form("spread", spread_gain, slicing.inverse_form),
    _Form("rate", gamma_gain, slicing.rate_form),
    _Form("chance", beta_gain, slicing.chance_form),
    _Form("mean", normal_gain, slicing.location_form),
)


@dataclass(frozen=True, slots=True)
class Pattern:
    """Which iterations of a reader touch a cell.

    Attributes:
        loops: Loop index -> (dimension of the cell, c): the loop stands at the cell's index there less c.
        others: (dimension, index) that has to be equal, looked at in every iteration.
    """

    loops: dict[str, tuple[int, int]]
    others: tuple[tuple[int, Expr], ...]


@dataclass(frozen=True, slots=True)
class Reader:
    """A consumer, its loops renamed so that they can stand inside the loops of a cell.

    Attributes:
        site: Renamed.
        mentions: In it.
        patterns: One for each way in which it touches a cell; None where every iteration may.
        own: Whether it draws other cells of the same variable.
    """

    site: Site
    mentions: tuple[Mention, ...]
    patterns: tuple[Pattern, ...] | None
    own: bool = False

    @property
    def searched(self) -> bool:
        """Whether more iterations are looked at than those that touch the cell."""
        return self.patterns is None or any(one.others for one in self.patterns)


@dataclass(frozen=True)
class Conditional:
    """What the conditional of a variable's cells is made of, and how it is evaluated.

    Attributes:
        blanket: Of the variable.
        sums: Readers that go through two sums, with their form.
        readers: All others.
        independent: Whether no reader touches two cells.
    """

    blanket: Blanket
    sums: tuple[tuple[_Form, Gain], ...]
    readers: tuple[Reader, ...]
    independent: bool

    @property
    def name(self) -> str:
        """Of the variable."""
        return self.blanket.variable.name

    @property
    def together(self) -> bool:
        """Whether all cells are best moved in one pass over their readers."""
        one = self.blanket.variable
        return self.independent and bool(self.readers) and one.rank > one.event

    def cost(self, size: Expr, evaluations: int = EVALUATIONS, together: bool = True) -> Expr:
        """Return the elementary operations of one update of all cells, in one pass where that is possible."""
        found = call("*", size, Const(evaluations))
        many = self.blanket.variable.rank > self.blanket.variable.event
        for _, gain in self.sums:
            found = call("+", found, visits(gain.site))
        for reader in self.readers:
            one = call("*", visits(reader.site), Const(evaluations))
            if many and reader.searched and not (together and self.together):
                one = call("*", size, one)
            found = call("+", found, one)
        return found

    def how(self) -> str:
        """Say in a few words how readers are reached."""
        if not self.readers:
            return "from sums over its readers" if self.sums else ""
        if self.together:
            return "all cells in one pass"
        if self.blanket.variable.rank == self.blanket.variable.event:
            return ""
        if any(one.searched for one in self.readers):
            return "its readers' loops once for each cell"
        return "its neighbours' readers for each cell"

    def write_sums(self, f: Writer) -> None:
        """Write one walk of every reader that goes through sums."""
        values = f.array(f"v_{self.name}")
        for form in dict.fromkeys(form for form, _ in self.sums):
            for one in "ab":
                zero = f"np.zeros({values}.size)" if self.blanket.variable.rank else "0.0"
                f.line(f"sum_{form.name}_{one} = {zero}")
        for form, gain in self.sums:
            with f.site(gain.site):
                unsure = bool(gain.get.at) and chosen(gain.site, gain.get)
                with f.block(f"if {shape_inside(f, self.name, gain.get.at)}:") if unsure else nullcontext():
                    first, second = gain.adds
                    if form.name == "mean":
                        second = gain.slope
                    cell = f.let(flat_index(f, self.name, gain.get.at), "c")
                    a, b = self._sums_of(form, cell)
                    f.line(f"{a} += {f.value(first)}")
                    f.line(f"{b} += {f.value(second)}")
                    if gain.multiple != ONE:
                        checked = f"{f.use(slicing.positive_or_nan)}({f.value(gain.multiple)})"
                        f.line(f"{b} += {checked} * 0.0")

    def _sums_of(self, form: _Form, cell: str) -> tuple[str, str]:
        """Return the names of two sums; those of a single number are no arrays, which a processor adds up faster."""
        at = f"[{cell}]" if self.blanket.variable.rank else ""
        return f"sum_{form.name}_a{at}", f"sum_{form.name}_b{at}"

    def write_forms(self, f: Writer, cell: str, value: str, before: str, total: str) -> None:
        """Write what the sums add to the log density of a cell; `before` is where it stood when they were made."""
        for form in dict.fromkeys(form for form, _ in self.sums):
            at = f"{value} - {before}" if form.name == "mean" else value
            f.line(f"{total} += {f.use(form.density)}({', '.join(self._sums_of(form, cell))}, {at})")

    def write_readers(self, f: Writer, at: Sequence[str], total: str) -> None:
        """Write what the other readers add to the log density of one cell, whose index is given as text."""
        for reader in self.readers:
            patterns = reader.patterns if reader.patterns is not None else (Pattern({}, ()),)
            for i, pattern in enumerate(patterns):
                with _touched(f, reader.site, pattern, patterns[:i], at), _other_cells(f, reader, at):
                    f.line(f"{total} += {f.log_density(reader.site)}")

    def write_readers_together(self, f: Writer, wanted: Callable[[str], str], totals: str) -> None:
        """Write one walk of the other readers, each adding to the cell that it reads, if that one is wanted."""
        one = self.blanket.variable
        for reader in self.readers:
            at = reader.mentions[0].get.at[: one.rank - one.event]
            with f.site(reader.site):
                cell = f.let(flat_index(f, self.name, at), "c")
                inside = f"{shape_inside(f, self.name, at)} and " if chosen(reader.site, reader.mentions[0].get) else ""
                with f.block(f"if {inside}{wanted(cell)}:"):
                    f.line(f"{totals}[{cell}] += {f.log_density(reader.site)}")


def conditional(blanket: Blanket, sums: bool = True) -> Conditional | Refusal:
    """Look at how a variable's readers can be evaluated; refuse one whose value decides what is read.

    Args:
        blanket: Of the variable.
        sums: Whether readers may go through sums.
    """
    variable = blanket.variable
    axes = variable.rank - variable.event
    through: list[tuple[_Form, Gain]] = []
    readers: list[Reader] = []
    independent = not variable.ordered and not blanket.self_references
    for number, found in blanket.consumers.items():
        site = blanket.program.sites[number]
        for one in found:
            if one.place in ("index", "bound"):
                return Refusal(f"it is read in {'an index' if one.place == 'index' else 'a bound'}", site.line)
        own = site.variable == variable.name and not site.observed
        summed = None if own or variable.event or not sums else _summed(found)
        if summed is not None:
            through.append(summed)
            continue
        reader = _reader(site, variable.name, axes)
        readers.append(reader)
        at = {one.get.at[:axes] for one in reader.mentions}
        inner = {one.index for mention in reader.mentions for one in mention.under}
        if len(at) > 1 or any(_indices(part) & inner for part in next(iter(at))):
            independent = False
    return Conditional(blanket, tuple(through), tuple(readers), independent)


def _summed(found: Sequence[Mention]) -> tuple[_Form, Gain] | None:
    """Return the form and the sums of a reader, where it mentions the variable once and has one."""
    if len(found) != 1 or found[0].place != "argument" or found[0].under or found[0].site.distribution is None:
        return None
    for form in _FORMS:
        gain = form.gain(found[0])
        if isinstance(gain, Gain):
            return form, gain
    return None


def _reader(site: Site, variable: str, axes: int) -> Reader:
    new: dict[Expr, Expr] = {Index(one.index): Index(f"{one.index}__r{site.number}") for one in site.loops}
    moved = site.replaced(new)
    moved = replace(moved, loops=tuple(replace(one, index=f"{one.index}__r{site.number}") for one in moved.loops))
    found = mentions(moved, variable)
    own = site.variable == variable and not site.observed
    if site.observed and site.variable == variable:
        found = tuple(one for one in found if one.place != "value")
    patterns: dict[Any, Pattern] = {}
    for one in found:
        at = one.get.at[:axes]
        if at in patterns:
            continue
        pattern = _pattern(moved, one, at)
        if pattern is None:
            return Reader(moved, found, None, own)
        patterns[at] = pattern
    return Reader(moved, found, tuple(patterns.values()), own)


def _pattern(site: Site, mention: Mention, at: tuple[Expr, ...]) -> Pattern | None:
    """Return which iterations read one cell; None where that hangs on the index of a sum."""
    inner = {one.index for one in mention.under}
    loops: dict[str, tuple[int, int]] = {}
    others: list[tuple[int, Expr]] = []
    for dimension, part in enumerate(at):
        if _indices(part) & inner:
            return None
        shift = shift_of(part, site.loops)
        if shift is not None and shift[0] not in loops:
            loops[shift[0]] = dimension, shift[1]
        elif reads(part) and chosen(site, mention.get):
            # The index may not exist where the other branch is taken.
            return None
        else:
            others.append((dimension, part))
    return Pattern(loops, tuple(others))


@contextmanager
def _touched(
    f: Writer, site: Site, pattern: Pattern, before: Sequence[Pattern], at: Sequence[str]
) -> Generator[None, None, None]:
    """Write the iterations of a site that touch a cell through one pattern and not through an earlier one."""
    with ExitStack() as stack:
        for loop in site.loops:
            if loop.index not in pattern.loops:
                stack.enter_context(f.loops([loop]))
                continue
            dimension, shift = pattern.loops[loop.index]
            low, high = f.value(loop.low), f.value(loop.high)
            f.line(f"{loop.index} = {at[dimension]} - ({shift})" if shift else f"{loop.index} = {at[dimension]}")
            first, last = (low, high) if loop.step > 0 else (f"{high} + 1", f"{low} + 1")
            fits = f"{first} <= {loop.index} < {last}"
            if abs(loop.step) != 1:
                fits += f" and ({loop.index} - {low}) % {abs(loop.step)} == 0"
            stack.enter_context(f.block(f"if {fits}:"))
        for guard in site.guards:
            stack.enter_context(f.block(f"if {f.value(guard.condition)}:"))
        if pattern.others:
            equal = " and ".join(f"{f.value(part)} == {at[dimension]}" for dimension, part in pattern.others)
            stack.enter_context(f.block(f"if {equal}:"))
        for other in before:
            same = [f"{index} + ({shift}) == {at[dimension]}" for index, (dimension, shift) in other.loops.items()]
            same += [f"{f.value(part)} == {at[dimension]}" for dimension, part in other.others]
            stack.enter_context(f.block(f"if not ({' and '.join(same)}):"))
        yield


@contextmanager
def _other_cells(f: Writer, reader: Reader, at: Sequence[str]) -> Generator[None, None, None]:
    """Write that a cell's own prior, which is counted already, is no reader of it."""
    if not reader.own:
        yield
        return
    same = " and ".join(f"{f.value(part)} == {one}" for part, one in zip(reader.site.at, at, strict=True))
    with f.block(f"if not ({same or 'False'}):"):
        yield


def _indices(expression: Expr) -> set[str]:
    return {one.name for one in walk(expression) if isinstance(one, Index)}


def neighbours(f: Writer, site: Site, low: str, high: str) -> tuple[str, str]:
    """Write the interval that the neighbours of an ordered cell leave to it; return the names of its ends."""
    loop = site.loops[-1]
    before = substitute(site.value, {Index(loop.index): call("-", Index(loop.index), ONE)})
    after = substitute(site.value, {Index(loop.index): call("+", Index(loop.index), ONE)})
    a, b = f.fresh("low"), f.fresh("high")
    f.line(f"{a} = {low or '-math.inf'}")
    f.line(f"{b} = {high or 'math.inf'}")
    with f.block(f"if {loop.index} > {f.value(loop.low)}:"):
        f.line(f"{a} = max({a}, {f.value(before)})")
    with f.block(f"if {loop.index} + 1 < {f.value(loop.high)}:"):
        f.line(f"{b} = min({b}, {f.value(after)})")
    return a, b
