"""What an executable is made of: facts and their origins, groups, choices, and where the time goes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mlsysopt.compile.codegen.kernel import entry
from mlsysopt.compile.codegen.steps import Call, CallOut, Choice, Step
from mlsysopt.compile.dynamic.callouts import listed
from mlsysopt.compile.dynamic.check import near_sizes
from mlsysopt.compile.errors import InputError
from mlsysopt.core.errors import UsageError, near_misses
from mlsysopt.graph.domains.inputs import random_inputs
from mlsysopt.graph.memory.typical import typical_sizes
from mlsysopt.graph.symbolic import Dim

if TYPE_CHECKING:
    from mlsysopt.compile.dynamic.executable import Executable

__all__ = ["Explanation", "Row", "explain", "taken_steps"]

_ENOUGH_NS = 1_000_000
_RUNS = 20


@dataclass(frozen=True, slots=True)
class Row:
    """One step at given sizes.

    Attributes:
        label: What it does, and where that stands in the model.
        kernel: What runs: a generated function, or "python".
        units: Units of work.
        predicted_us: What was expected, microseconds of one thread; None where nothing was.
        measured_us: What it took; None when it was not measured.
        choice: Which case of several was taken and why, "" where there is only one.
    """

    label: str
    kernel: str
    units: int
    predicted_us: float | None
    measured_us: float | None
    choice: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What `Executable.explain` found; print it.

    Attributes:
        name: Name of the program.
        sizes: Sizes that it is about.
        symbols: A line for each symbol: range, divisor, likely sizes.
        facts: A line for each fact with its origin.
        rows: Steps in order.
        missed: What was not fused, and the fact that is missing.
        outside: Ops that leave native code.
        decisions: Products whose kernel depends on the number of rows.
        memory: Memory of a call.
        notes: How it was made.
    """

    name: str
    sizes: Mapping[str, int]
    symbols: tuple[str, ...]
    facts: tuple[str, ...]
    rows: tuple[Row, ...]
    missed: tuple[str, ...]
    outside: tuple[str, ...]
    decisions: tuple[str, ...]
    memory: str
    notes: tuple[str, ...]

    @property
    def measured_us(self) -> float | None:
        """Microseconds of all steps, None when they were not measured."""
        times = [row.measured_us for row in self.rows if row.measured_us is not None]
        return sum(times) if times else None

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        at = ", ".join(f"{name}={size}" for name, size in self.sizes.items()) or "its only size"
        lines = [f"{self.name} at {at}"]
        lines += _section("symbols", self.symbols) + _section("facts", self.facts)
        lines += ["steps:", *(f"  {line}" for line in _table(self.rows))]
        lines += _section("kernels by number of rows", self.decisions)
        lines += _section("not fused", self.missed)
        lines += _section("outside native code", self.outside)
        lines += [f"memory: {self.memory}", *_section("notes", self.notes)]
        return "\n".join(lines)


def explain(executable: Executable, sizes: Mapping[str, int], *, measure: bool = False) -> Explanation:
    """Return what an executable does at given sizes; see `Executable.explain`."""
    graph, plan = executable.graph, executable.plan
    facts = graph.facts
    names = dict.fromkeys((*plan.flow.symbols, *(name for name in facts.symbols if name in graph.symbols)))
    chosen = _sizes(executable, sizes)
    taken = taken_steps(plan.flow.steps, chosen)
    measured = _measured(executable, [call for call, _ in taken], chosen) if measure else {}
    rows = tuple(
        Row(
            call.label,
            call.kernel if isinstance(call, Call) else "python",
            call.units.at(chosen) if isinstance(call, Call) else 1,
            call.work.at(chosen) / 1000 if isinstance(call, Call) and call.work != 0 else None,
            measured.get(i),
            why,
        )
        for i, (call, why) in enumerate(taken)
    )
    declared = {name: (ends, step, likely) for name, ends, step, likely in facts.declared()}
    return Explanation(
        graph.name,
        chosen,
        tuple(_symbol(name, *declared.get(name, ((None, None), 1, {}))) for name in names),
        tuple(fact.said() for fact in facts),
        rows,
        plan.missed,
        tuple(listed(plan.outsides, graph)),
        tuple(_decided(executable)),
        str(executable.memory_bound(**chosen)),
        executable.notes,
    )


def _sizes(executable: Executable, given: Mapping[str, int]) -> dict[str, int]:
    """Return given sizes, and typical ones that fit them for the other symbols.

    Raises:
        UsageError: a symbol that there is not.
        InputError: given sizes that the facts exclude.
    """
    graph, symbols = executable.graph, executable.plan.flow.symbols
    known = {*graph.symbols, *graph.facts.symbols}
    for name in given:
        if name not in known:
            raise UsageError(f"{graph.name} has no symbol {name!r}; {near_misses(name, known, noun='symbol')}")
    broken = graph.facts.check(given)
    if broken:
        raise InputError("\n".join(broken[:3]))
    others = [name for name in symbols if name not in given]
    wish = {**given, **typical_sizes(graph.facts, others)}
    found = near_sizes(graph, wish) or wish
    formulas = {name: graph.facts.normalise(Dim.of(name)) for name in symbols if name not in found}
    return {name: found[name] if name in found else formulas[name].at(found) for name in symbols}


def taken_steps(steps: tuple[Step, ...], sizes: dict[str, int]) -> list[tuple[Call | CallOut, str]]:
    """Return the calls that are made at given sizes, each with the reason for its case."""
    found: list[tuple[Call | CallOut, str]] = []
    for step in steps:
        if not isinstance(step, Choice):
            found.append((step, ""))
            continue
        for i, (conditions, calls) in enumerate(step.cases):
            if all(one.holds(sizes) for one in conditions):
                why = " and ".join(map(str, conditions)) or "otherwise"
                found += [(call, f"case {i + 1} of {len(step.cases)}: {why}") for call in calls]
                break
    return found


def _measured(executable: Executable, calls: list[Call | CallOut], sizes: dict[str, int]) -> dict[int, float]:
    """Run the steps one by one on random inputs; return microseconds of each, the fastest of several runs."""
    found: dict[int, float] = {}
    with executable.staged(random_inputs(executable.graph, sizes), sizes) as stage:
        for i, call in enumerate(calls):
            if isinstance(call, CallOut):
                found[i] = _fastest(lambda call=call: stage.call_out(call))
                continue
            units = call.units.at(sizes)
            if units <= 0:
                found[i] = 0.0
                continue
            kernel = entry(executable.library.address(call.kernel))
            buffers = [stage.address(place) for place in call.buffers]
            params = [size.at(sizes) for size in call.params]
            found[i] = _fastest(
                lambda kernel=kernel, buffers=buffers, params=params, units=units: kernel(
                    buffers, params, 0, units, stage.scratch
                )
            )
    return found


def _fastest(run: Any) -> float:
    best, spent = float("inf"), 0
    for _ in range(_RUNS):
        begin = time.thread_time_ns()
        run()
        took = time.thread_time_ns() - begin
        best, spent = min(best, took), spent + took
        if spent > _ENOUGH_NS:
            break
    return best / 1000


def _symbol(name: str, ends: tuple[int | None, int | None], step: int, likely: Mapping[int, float]) -> str:
    low, high = ("" if end is None else end for end in ends)
    text = f"{name} in {low}..{high}" if ends != (None, None) else f"{name}: no range was declared"
    text += f" step {step}" if step > 1 else ""
    return text + (f", likely {', '.join(map(str, likely))}" if likely else "")


def _decided(executable: Executable) -> list[str]:
    lines: list[str] = []
    for name, decision in executable.plan.decisions.items():
        if len(decision.segments) < 2:
            continue
        parts = [f"{one.variant} from {one.first} rows ({one.source})" for one in decision.segments]
        lines.append(f"%{name}: {', '.join(parts)}")
    return lines


def _section(title: str, lines: tuple[str, ...]) -> list[str]:
    return [f"{title}:", *(f"  {line}" for line in lines)] if lines else []


def _table(rows: tuple[Row, ...]) -> list[str]:
    shown = [("", "us", "predicted", "kernel", "what")]
    for i, row in enumerate(rows):
        measured, predicted = ("" if one is None else f"{one:.1f}" for one in (row.measured_us, row.predicted_us))
        what = row.label + (f" [{row.choice}]" if row.choice else "")
        shown.append((str(i), measured, predicted, row.kernel, what))
    widths = [max(len(line[i]) for line in shown) for i in range(5)]
    return [
        "  ".join(
            cell.rjust(width) if i < 3 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in shown
    ]
