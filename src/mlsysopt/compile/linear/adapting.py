"""One call that makes a model's products run in their best form, and one that takes it back."""

from __future__ import annotations

import ctypes
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from mlsysopt.compile.linear.forced import forced
from mlsysopt.compile.linear.forms import parse_budget
from mlsysopt.compile.linear.grid import MOST_ROWS, Grid, grid
from mlsysopt.compile.linear.plan import Plan, Uncovered
from mlsysopt.compile.linear.plan import Product as Planned
from mlsysopt.compile.linear.precision import RUNGS, Outcome, climb, output_errors
from mlsysopt.compile.linear.refine import BACKGROUND, OFF, Refiner
from mlsysopt.compile.linear.request import TABLE, Request, parse_seconds
from mlsysopt.compile.linear.segments import BASELINE
from mlsysopt.compile.linear.sites import Product, Trace, products, trace
from mlsysopt.compile.linear.tables import Kind, Table, kinds, priced, tables
from mlsysopt.compile.variants.decision import Decision
from mlsysopt.core.errors import UsageError, near_misses

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mlsysopt.compile.linear.decide import Prices
    from mlsysopt.compile.variants.machine import MachineProfile

    Model = TypeVar("Model", bound=nn.Module)

__all__ = ["adapt", "plan_of", "refresh", "restore"]

log = logging.getLogger("mlsysopt.compile")

_PLAN = "_linear_plan"

# Errors of some hundred products in a row add up; a wrong kernel is off by far more.
_WHOLE_MODEL = 1e-2


@dataclass(frozen=True)
class _Attached:
    """`model.plan`: a function that copies and pickles.

    Attributes:
        plan: What was decided.
        refiners: For each of its products what has been learned since, None where nothing is.
    """

    plan: Plan
    refiners: tuple[Refiner | None, ...] = ()

    def __call__(self) -> Plan:
        learned = [one for one in self.refiners if one is not None]
        judged, moved = sum(len(one.verdicts) for one in learned), sum(one.moved for one in learned)
        if not judged:
            return self.plan
        products = (
            one if refiner is None else replace(one, decision=refiner.decision)
            for one, refiner in zip(self.plan.products, self.refiners, strict=True)
        )
        said = f"refined while running: comparisons settled: {judged}, tables changed by them: {moved}"
        return replace(self.plan, products=tuple(products), lines=(*self.plan.lines, said))


def adapt(
    module: Model,
    *,
    threads: int | None = None,
    precision: str = "f32",
    policy: str = TABLE,
    max_extra_memory: str | int = "1x",
    likely_rows: Sequence[int] = (),
    error: float | None = None,
    calibration: Sequence[Any] | None = None,
    budget: str | float = "10s",
    profile: MachineProfile | None = None,
    prices: Prices | None = None,
    panel: bool = True,
    strict: bool = False,
    most_rows: int = MOST_ROWS,
    refine: str = OFF,
) -> Model:
    """Let a model's constant-weight products pick their kernel by the number of rows, in place.

    Products that gain nothing are left as they were. Parameters, `state_dict`, hooks, copies, pickles and training
    stay as before; what was decided is `module.plan()`, and `restore` takes it back.

    Args:
        module: Any module in evaluation mode; in training mode it runs plain until `eval()`.
        threads: Threads that a product may use; None takes torch's present number.
        precision: "f32", "bf16", "int8w" (narrow weights), or "auto", the lowest that `error` allows.
        policy: "table"; "paper", which decides at the first call with each number of rows; or a variant's name.
        max_extra_memory: For second copies of weights: "1x" of the original, "0x", "512MiB". Below "1x" the packed form
            may replace the original, which is made again, bit by bit, whenever somebody reads the parameter.
        likely_rows: Numbers of rows that arrive most often.
        error: Largest error of the output over its root mean square, for a lower precision; None means 2e-2.
        calibration: Batches (a tensor, a tuple or a mapping each): the error is measured on them, the first shows
            which functional products there are, and the adapted model must agree with the plain one on it.
        budget: CPU time for measuring what the machine's profile leaves open; "0s" decides by what is known. What was
            measured stays in the profile, so that the next start needs little or nothing of it.
        profile: Of this machine; None opens the file that all programs of a user share.
        prices: Another source of times.
        panel: Whether generated kernels may be used.
        strict: Whether a kernel that computes something else is an error instead of barred.
        most_rows: Largest number of rows that will arrive.
        refine: "background" lets tables go on learning: one call in 500 of a product also times the next best of the
            forms that it keeps, and twenty such pairs may move a threshold. What is learned stays in the profile.

    Returns:
        The same module.

    Raises:
        UsageError: an unknown precision, policy or way to refine, a budget that cannot be read, threads below 1.
        MissingExtra: generated kernels need llvmlite.
        NumericsError: a kernel failed its check, and `strict` is set.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.ReLU()).eval()
    >>> adapt(net, policy="aten.nn", threads=torch.get_num_threads()) is net
    True
    >>> print(net.plan().verdict())
    Sequential: 1 of 1 products adapted, as asked for
    """
    import torch

    from mlsysopt.compile.linear import swap
    from mlsysopt.compile.linear.keeping import refiners
    from mlsysopt.compile.linear.lowering import answer
    from mlsysopt.compile.linear.profiling import ProfilePrices, residency
    from mlsysopt.compile.variants.machine import MachineProfile

    request = Request.of(policy, precision, panel)
    _check(threads, refine, policy)
    spend = parse_seconds(budget) if policy == TABLE else 0.0
    points = grid(most_rows, likely_rows)
    restore(module)
    used = threads or torch.get_num_threads()
    seen: Trace | None = trace(module, calibration[0]) if calibration else None
    found = products(module, seen)
    groups = kinds(found, used)
    weights = {one.path: swap.weights_of(module, one) for group in groups for one in group.members}
    # Tied weights are there once.
    original = sum({matrix.data_ptr(): matrix.nbytes for matrix, _ in weights.values()}.values())
    room = parse_budget(max_extra_memory, original)
    if not groups:
        return _settled(module, Plan(type(module).__name__, (), _uncovered(found), threads=used))
    where = residency(original)
    held = (MachineProfile.open() if profile is None else profile) if prices is None else None
    source = ProfilePrices.open(held, residency=where) if prices is None else prices
    known = priced(groups, request.candidates, source, points, weights, budget_s=spend, strict=strict)
    del weights  # whose storage a folded layer gives up
    # With room for copies of everything nobody's parameters need to become something that is made on demand.
    free = swap.replaceable(module, [one for group in groups for one in group.members]) if room < original else {}
    lines, outcome = request.lines(held), Outcome("f32", 0.0)
    if policy != TABLE:
        chosen = forced(known, policy, room, free)
        if request.rounds:
            lowered = {one.product.path: policy if one.changed else "f32" for one in chosen}
            outcome = Outcome(policy, math.inf if error is None else error, lowered)
    elif precision == "f32":
        chosen = tables(known, room, free)
    else:
        chosen, outcome = _lowest(module, known, request, room, points, used, error, calibration)
    learning = refiners(chosen, points.rows, used, held, where) if refine == BACKGROUND else {}
    wanted = answer(module, calibration[0], used) if calibration else None
    swap.install(module, chosen, threads=used, refiners=learning)
    if calibration and wanted is not None:
        limit = max(_WHOLE_MODEL, outcome.limit if outcome.lowered else 0.0)
        if not _agrees(module, calibration[0], wanted, limit, used):
            restore(module)
            lines.append("the adapted model did not agree with the plain one, and was taken back")
            chosen, learning = [Table(one.product, Decision.always(BASELINE)) for one in chosen], {}
    if held is not None and policy == TABLE and used not in held.threads_measured():
        lines.append(f"not measured at {used} thread{'s' if used != 1 else ''}: times are those of a model")
    together = _together(chosen)
    decided = Plan(
        type(module).__name__,
        tuple(_planned(some) for some in together.values()),
        _uncovered(found),
        threads=used,
        machine="" if held is None else str(held.here),
        residency=where,
        weights_bytes=original,
        budget_bytes=room,
        precision=outcome,
        lines=tuple(lines),
    )
    return _settled(module, decided, tuple(learning.get(alike) for alike in together))


def _check(threads: int | None, refine: str, policy: str) -> None:
    if threads is not None and threads < 1:
        raise UsageError(f"threads must be at least 1, got {threads}")
    allowed = (OFF, BACKGROUND)
    if refine not in allowed:
        raise UsageError(f"refine {refine!r}; {near_misses(refine, allowed, noun='way to refine')}")
    if refine == BACKGROUND and policy != TABLE:
        raise UsageError(f"refine={refine!r} is for tables: policy {policy!r} has none that could change")


def restore(module: Model) -> Model:
    """Make an adapted model what it was before, exactly; a plain one is left alone. Returns the same module."""
    from mlsysopt.compile.linear import swap

    swap.remove(module)
    for name in ("plan", _PLAN):
        if isinstance(module.__dict__.get(name), _Attached):
            del module.__dict__[name]
    return module


def refresh(module: Model) -> Model:
    """Pack all weights again, after changes that leave no trace: through `.data`, or a numpy view."""
    from mlsysopt.compile.linear import swap

    for packs in swap.packs_of(module):
        packs.drop()
    return module


def plan_of(module: nn.Module) -> Plan:
    """Return what was decided for an adapted model, also for one that has a `plan` of its own.

    Raises:
        UsageError: it was not adapted.
    """
    attached = module.__dict__.get(_PLAN)
    if attached is None:
        raise UsageError(f"{type(module).__name__} was not adapted: call linear.adapt(model) first")
    return attached()


def _settled(module: Model, decided: Plan, refiners: tuple[Refiner | None, ...] = ()) -> Model:
    """Attach the plan, and say what the caller should not miss."""
    _give_back()
    attached = _Attached(decided, refiners)
    module.__dict__[_PLAN] = attached
    if not hasattr(module, "plan"):
        module.__dict__["plan"] = attached
    if not decided.changed:
        log.warning("%s", decided.verdict())
    elif module.training:
        log.warning("%s is in training mode: it runs plain until eval()", decided.name)
    for line in decided.lines:
        log.info("%s", line)
    return module


def _give_back() -> None:
    """Return freed memory to the system: checking and packing went through copies of all weights."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of the GNU library alone
    if trim is not None:
        trim(0)


def _lowest(
    module: nn.Module,
    known: Sequence[Kind],
    request: Request,
    room: int,
    points: Grid,
    threads: int,
    error: float | None,
    calibration: Sequence[Any] | None,
) -> tuple[list[Table], Outcome]:
    """Return the tables of the lowest precision whose output error is within the limit."""
    from mlsysopt.compile.linear.lowering import Lowered, random_batches

    asked = RUNGS if request.precision == "auto" else ("f32", request.precision)
    rungs = {
        rung: {
            one.product.path: one
            for one in tables(known, room, {}, {p.path: request.names(rung) for k in known for p in k.members})
        }
        for rung in asked
    }
    batches = calibration or random_batches(module)
    lowered = Lowered(module, rungs, known, points, threads)
    outcome = climb(lowered, request.precision, batches, limit=error, random_inputs=not calibration)
    allowed = {path: request.names(rung) for path, rung in outcome.rungs.items()}
    return tables(known, room, {}, allowed), outcome


def _agrees(module: nn.Module, batch: Any, wanted: Tensor, limit: float, threads: int) -> bool:
    """Tell whether an adapted model gives what the plain one gave, to within a limit."""
    from mlsysopt.compile.linear.lowering import answer

    try:
        found = answer(module, batch, threads)
    except BaseException:
        restore(module)
        raise
    return output_errors(found.numpy(), wanted.numpy()).largest <= limit


def _together(chosen: Sequence[Table]) -> dict[tuple[Any, ...], list[Table]]:
    """Return equal tables of equal products, each as one."""
    found: dict[tuple[Any, ...], list[Table]] = {}
    for one in chosen:
        found.setdefault(one.alike, []).append(one)
    return found


def _planned(alike: Sequence[Table]) -> Planned:
    one = alike[0]
    label = _label([each.product for each in alike])
    return Planned(one.product.k, one.product.n, label, len(alike), one.decision, one.forms, one.extra_bytes)


def _label(members: Sequence[Product]) -> str:
    """Return the path of a single product, or the last names of several."""
    if len(members) == 1:
        return members[0].path
    names = list(dict.fromkeys(one.path.rpartition(".")[2] for one in members))
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def _uncovered(found: Sequence[Product]) -> tuple[Uncovered, ...]:
    """Return what stays as it is, the largest share first."""
    left = [one for one in found if not one.adaptable]
    left.sort(key=lambda one: -one.share if one.share == one.share else 0.0)
    return tuple(
        Uncovered(f"{one.path} {one.k}x{one.n}", one.reason, one.share if one.share == one.share else None)
        for one in left
    )
