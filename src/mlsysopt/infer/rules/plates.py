"""Which numbers of a Gaussian block form groups, independent given the others, and where each one stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mlsysopt.infer.analysis.blanket import Analysis
from mlsysopt.infer.emit.writer import Writer
from mlsysopt.infer.ir import Const, Expr, Get, Program, call
from mlsysopt.infer.rules.linear_gaussian import Equation, uses_index

__all__ = ["Layout", "Places", "plates"]


def plates(block: Sequence[str], found: Sequence[Equation], analysis: Analysis) -> dict[str, bool]:
    """Return the arrays of a block whose cells (False) or rows (True) are independent given all other numbers.

    Every site may read them at one index only. Later arrays are tried first: the deeper level of a hierarchy is the
    longer one.
    """
    chosen: dict[str, bool] = {}
    for name in reversed(block):
        one = analysis.program.variables[name]
        rows = (False, True) if one.rank == 2 and not one.ragged else (False,)
        for row in rows if one.rank else ():
            trial = {**chosen, name: row}
            if _alike(trial, analysis.program) and all(_one_index(trial, each) for each in found):
                chosen = trial
                break
    return {name: chosen[name] for name in block if name in chosen}


def _lead(get: Get, row: bool) -> tuple[Expr, ...]:
    return get.at[:-1] if row else get.at


def _one_index(trial: Mapping[str, bool], one: Equation) -> bool:
    leads: set[tuple[Expr, ...]] = set()
    for term in one.terms:
        if term.get.variable not in trial:
            continue
        lead = _lead(term.get, trial[term.get.variable])
        bound = [over.index for over in term.over] + ([one.index] if one.index else [])
        if any(uses_index(part, index) for part in lead for index in bound):
            return False
        leads.add(lead)
    return len(leads) <= 1


def _alike(trial: Mapping[str, bool], program: Program) -> bool:
    """Whether one number can count the groups of all arrays: their leading dimensions are the same, or one each."""
    leading = {
        (one.ragged, one.like) if one.ragged else one.shape if one.rank == 2 and not row else ()
        for one, row in ((program.variables[name], row) for name, row in trial.items())
    }
    return len(leading) == 1


class Layout:
    """Where each number of a block stands: in its group, or among the shared ones.

    Args:
        block: Its variables in program order.
        plates: Those whose cells (False) or rows (True) are groups.
        analysis: Of the program.
    """

    def __init__(self, block: Sequence[str], plates: Mapping[str, bool], analysis: Analysis) -> None:
        variables = analysis.program.variables
        self.block, self.rows, self.analysis = tuple(block), dict(plates), analysis
        # Single numbers first: their places are then plain numbers in what is written.
        self.plates = sorted((one for one in block if one in plates), key=lambda one: plates[one])
        self.shared = sorted((one for one in block if one not in plates), key=lambda one: variables[one].rank > 0)
        self.order = [*self.plates, *self.shared]

    def dimension(self) -> Expr:
        """Return how many shared numbers there are."""
        found: Expr = Const(0)
        for one in self.shared:
            found = call("+", found, self.analysis.size(one))
        return found


class Places:
    """The places of a layout's numbers as text of one function.

    Args:
        f: The function.
        layout: Of the block.
    """

    def __init__(self, f: Writer, layout: Layout) -> None:
        self.f, self.layout = f, layout
        self.offsets: dict[str, str] = {}

    def sizes(self) -> tuple[str, str]:
        """Write how many numbers a group has, and how many are shared."""
        f, layout = self.f, self.layout

        def width(name: str) -> str:
            return f"{f.array(f'v_{name}')}.shape[1]" if layout.rows[name] else "1"

        return self._counted(layout.plates, width, "k"), self._counted(layout.shared, self.cells, "d")

    def _counted(self, members: Sequence[str], size: Callable[[str], str], prefix: str) -> str:
        """Give every member its place; return how many numbers they are."""
        whole, text = 0, ""
        for one in members:
            self.offsets[one] = text or str(whole)
            count = size(one)
            if count == "1" and not text:
                whole += 1
            else:
                text = self.f.let(f"{text or whole} + {count}", prefix)
        return text or str(whole)

    def cells(self, name: str) -> str:
        """Return how many numbers a variable has."""
        one = self.f.variable(name)
        if not one.rank:
            return "1"
        array = self.f.array(f"v_{name}")
        return f"{array}.shape[0]" + (f" * {array}.shape[1]" if one.rank == 2 and not one.ragged else "")

    def groups(self, name: str) -> str:
        """Return how many groups an array is part of."""
        return f"{self.f.array(f'v_{name}')}.shape[0]" if self.layout.rows[name] else self.cells(name)

    def _flat(self, name: str, at: Sequence[Expr]) -> str:
        """Return the place of a cell in its array, as it lies in memory."""
        f, one = self.f, self.f.variable(name)
        texts = [f.value(part) for part in at]
        if not texts:
            return "0"
        if len(texts) == 1:
            return texts[0]
        if one.ragged:
            return f"{f.array(f'at_{one.like or name}')}[{texts[0]}] + {texts[1]}"
        return f"({texts[0]}) * {f.array(f'v_{name}')}.shape[1] + {texts[1]}"

    def place(self, get: Get) -> tuple[bool, str]:
        """Return whether a cell is in a group, and its place there or among the shared numbers."""
        name = get.variable
        offset = self.offsets[name]
        if name not in self.layout.rows:
            at = self._flat(name, get.at)
        else:
            at = self.f.value(get.at[-1]) if self.layout.rows[name] else "0"
        text = offset if at == "0" else at if offset == "0" else f"{offset} + {at}"
        return name in self.layout.rows, text

    def group(self, gets: Sequence[Get]) -> str:
        """Write the index of the group that an equation reads; return its name."""
        get = gets[0]
        return self.f.let(self._flat(get.variable, _lead(get, self.layout.rows[get.variable])), "g")
