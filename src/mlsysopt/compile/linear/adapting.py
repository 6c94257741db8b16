"""One call that makes a model's products run in their best form, and one that takes it back."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from mlsysopt.compile.linear.forced import forced
from mlsysopt.compile.linear.forms import parse_budget
from mlsysopt.compile.linear.grid import MOST_ROWS, Grid, grid
from mlsysopt.compile.linear.plan import Plan, Uncovered
from mlsysopt.compile.linear.plan import Product as Planned
from mlsysopt.compile.linear.precision import RUNGS, Outcome, climb, output_errors
from mlsysopt.compile.linear.request import TABLE, Request
from mlsysopt.compile.linear.segments import BASELINE
from mlsysopt.compile.linear.sites import Product, Trace, call, products, trace
from mlsysopt.compile.linear.tables import Kind, Table, kinds, priced, tables
from mlsysopt.compile.variants.decision import Decision
from mlsysopt.core.errors import UsageError
from mlsysopt.core.quantities import parse_quantity

if TYPE_CHECKING:
    from torch import nn

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
    """`model.plan`: a function that copies and pickles."""

    plan: Plan

    def __call__(self) -> Plan:
        return self.plan


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

    Returns:
        The same module.

    Raises:
        UsageError: an unknown precision or policy, a budget that cannot be read.
        MissingExtra: generated kernels need llvmlite.
        NumericsError: a kernel failed its check, and `strict` is set.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.ReLU()).eval()
    >>> adapt(net, policy="aten.nn", threads=torch.get_num_threads()) is net
    True
    >>> print(net.plan().verdict())
    Sequential: 1 of 1 products adapted, 1.00x where they differ from aten.nt
    """
    import torch

    from mlsysopt.compile.linear import swap
    from mlsysopt.compile.linear.profiling import ProfilePrices, residency
    from mlsysopt.compile.variants.machine import MachineProfile

    request = Request.of(policy, precision, panel)
    spend = float(parse_quantity(budget, kind="seconds")) if policy == TABLE else 0.0
    points = grid(most_rows, likely_rows)
    restore(module)
    used = threads or torch.get_num_threads()
    seen: Trace | None = trace(module, calibration[0]) if calibration else None
    found = products(module, seen)
    groups = kinds(found, used)
    original = sum(group.original_bytes * len(group.members) for group in groups)
    room = parse_budget(max_extra_memory, original)
    if not groups:
        return _settled(module, Plan(type(module).__name__, (), _uncovered(found), threads=used))
    where = residency(original)
    held = (MachineProfile.open() if profile is None else profile) if prices is None else None
    source = ProfilePrices.open(held, residency=where) if prices is None else prices
    weights = {one.path: swap.weights_of(module, one) for group in groups for one in group.members}
    known = priced(groups, request.candidates, source, points, weights, budget_s=spend, strict=strict)
    del weights  # whose storage a folded layer gives up
    # With room for copies of everything nobody's parameters need to become something that is made on demand.
    free = swap.replaceable(module, [one for group in groups for one in group.members]) if room < original else {}
    lines, outcome = request.lines(held), Outcome("f32", 0.0)
    if policy != TABLE:
        chosen = forced(known, policy, room, free)
    elif precision == "f32":
        chosen = tables(known, room, free)
    else:
        chosen, outcome = _lowest(module, known, request, room, points, used, error, calibration)
    swap.install(module, chosen, threads=used)
    if calibration and not _agrees(module, calibration[0], outcome.limit if outcome.lowered else 0.0):
        restore(module)
        lines.append("the adapted model did not agree with the plain one, and was taken back")
        chosen = [Table(one.product, Decision.always(BASELINE)) for one in chosen]
    if held is not None and policy == TABLE and used not in held.threads_measured():
        lines.append(f"not measured at {used} thread{'s' if used != 1 else ''}: times are those of a model")
    decided = Plan(
        type(module).__name__,
        _planned(chosen),
        _uncovered(found),
        threads=used,
        machine="" if held is None else str(held.here),
        residency=where,
        weights_bytes=original,
        budget_bytes=room,
        precision=outcome,
        lines=tuple(lines),
    )
    return _settled(module, decided)


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
    return attached.plan


def _settled(module: Model, decided: Plan) -> Model:
    """Attach the plan, and say what the caller should not miss."""
    _give_back()
    attached = _Attached(decided)
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


def _agrees(module: nn.Module, batch: Any, limit: float) -> bool:
    """Tell whether an adapted model gives what the plain one gives, to within a limit or what f32 allows."""
    import torch

    from mlsysopt.compile.linear import swap
    from mlsysopt.compile.linear.lowering import output

    twin = swap.plain_twin(module)
    with torch.inference_mode():
        wanted, found = output(call(twin, batch)), output(call(module, batch))
    return output_errors(found.numpy(), wanted.double().numpy()).largest <= max(limit, _WHOLE_MODEL)


def _planned(chosen: Sequence[Table]) -> tuple[Planned, ...]:
    """Return equal tables of equal products as one."""
    together: dict[tuple[Any, ...], list[Product]] = {}
    for one in chosen:
        key = (one.product.k, one.product.n, one.decision, one.forms, one.extra_bytes)
        together.setdefault(key, []).append(one.product)
    return tuple(
        Planned(k, n, _label(members), len(members), decision, forms, extra)
        for (k, n, decision, forms, extra), members in together.items()
    )


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
