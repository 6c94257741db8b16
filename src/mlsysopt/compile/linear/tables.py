"""From the products of a model to a table for each: prices, checks, and forms within the memory budget."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mlsysopt.compile.errors import NumericsError
from mlsysopt.compile.linear.decide import Prices, settle
from mlsysopt.compile.linear.forms import ORIGINAL, Choice, choices, choose
from mlsysopt.compile.linear.grid import Grid
from mlsysopt.compile.linear.numerics import ALL_ROWS, checked
from mlsysopt.compile.linear.segments import BASELINE, Costs, decision
from mlsysopt.compile.variants.decision import Decision, Segment
from mlsysopt.compile.variants.site import Epilogue, Site, Variant
from mlsysopt.graph.symbolic import Dim

if TYPE_CHECKING:
    from torch import Tensor

    from mlsysopt.compile.linear.sites import Product

__all__ = ["Kind", "Table", "kinds", "priced", "tables"]

log = logging.getLogger("mlsysopt.compile")

TRANSPOSED = "aten.nn"
"""What torch does of itself where the parameter is [K, N]."""

REPLACING = "panel.f32"
"""The form from which the original weights can be made again, bit by bit."""


@dataclass(frozen=True)
class Kind:
    """Products of one size: they share prices and checks.

    Attributes:
        site: For any number of rows.
        transposed: Whether their parameters are [K, N].
        members: The products.
        costs: Times at the grid points.
        barred: Variants that computed something else, with what was found.
        bytes_of: Form -> bytes of packed weights.
        form_of: Variant that may run -> form that it reads.
    """

    site: Site
    transposed: bool
    members: tuple[Product, ...]
    costs: Costs | None = None
    barred: Mapping[str, str] = field(default_factory=dict)
    bytes_of: Mapping[str, int] = field(default_factory=dict)
    form_of: Mapping[str, str] = field(default_factory=dict)

    @property
    def baseline(self) -> str:
        return TRANSPOSED if self.transposed else BASELINE

    def named(self, variant: str) -> str:
        """Return the name under which its costs know a variant of a table."""
        return self.baseline if variant == BASELINE else variant

    @property
    def original_bytes(self) -> int:
        return 4 * self.site.number("N") * self.site.number("K")


@dataclass(frozen=True, slots=True)
class Table:
    """What was decided for one product.

    Attributes:
        product: It.
        decision: Variant for each number of rows; "aten.nt" stands for the layer as it was.
        forms: Forms that it keeps; without "original" the first replaces it.
        extra_bytes: Memory of further copies.
    """

    product: Product
    decision: Decision
    forms: tuple[str, ...] = (ORIGINAL,)
    extra_bytes: int = 0

    @property
    def changed(self) -> bool:
        return self.decision.variants != (BASELINE,)

    @property
    def alike(self) -> tuple[Any, ...]:
        """What is equal for products of one size for which the same was decided."""
        turned = self.product.kind == "conv1d"
        return self.product.k, self.product.n, turned, self.decision, self.forms, self.extra_bytes


def kinds(products: Sequence[Product], threads: int) -> list[Kind]:
    """Return products grouped by size, those that can be adapted alone."""
    found: dict[tuple[int, int, bool, bool], list[Product]] = {}
    for one in products:
        if one.adaptable:
            found.setdefault((one.n, one.k, one.bias, one.kind == "conv1d"), []).append(one)
    return [
        Kind(Site.linear(Dim.of("M"), n, k, epilogue=Epilogue(bias=bias), threads=threads), turned, tuple(members))
        for (n, k, bias, turned), members in found.items()
    ]


def priced(
    groups: Sequence[Kind],
    candidates: Sequence[Variant],
    prices: Prices,
    points: Grid,
    weights: Mapping[str, tuple[Tensor, Tensor | None]],
    *,
    budget_s: float = 0.0,
    strict: bool = False,
) -> list[Kind]:
    """Return kinds with their costs; a variant that fails its check on one of their products has none.

    Args:
        groups: Kinds of products.
        candidates: Variants that may run.
        prices: Where times come from.
        points: Row counts and their weights.
        weights: Path of a product -> weights [N, K] and bias.
        budget_s: CPU seconds for timing what prices leave open.
        strict: Whether a failed check is an error.

    Raises:
        NumericsError: a check failed, and `strict` is set.
    """
    sound: list[Kind] = []
    for group in groups:
        barred: dict[str, str] = {}
        bytes_of = {ORIGINAL: group.original_bytes}
        held, bias = weights[group.members[0].path]
        packed: dict[str, Any] = {}
        for variant in _able(group, candidates):
            if variant.form not in packed:
                packed[variant.form] = variant.prepare(held, bias, group.site)
                bytes_of.setdefault(variant.form, packed[variant.form].nbytes)
            if variant.name == group.baseline:
                continue
            verdict = checked(variant, group.site, packed[variant.form], held, bias, ALL_ROWS)
            if not verdict.passed:
                if strict:
                    raise NumericsError(str(verdict))
                log.warning("%s: barred, the next best is used", verdict)
                barred[variant.name] = str(verdict)
        form_of = {one.name: one.form for one in _able(group, candidates) if one.name not in barred}
        form_of[group.baseline] = ORIGINAL
        sound.append(replace(group, barred=barred, bytes_of=bytes_of, form_of=form_of))
    for baseline in (BASELINE, TRANSPOSED):
        same = [i for i, one in enumerate(sound) if one.baseline == baseline]
        able = {one.name: one for i in same for one in _able(sound[i], candidates) if one.name in sound[i].form_of}
        if not same:
            continue
        costs = settle(
            [sound[i].site for i in same],
            sorted(able.values(), key=lambda one: one.name != baseline),
            prices,
            points=points,
            counts=[len(sound[i].members) for i in same],
            budget_s=budget_s * len(same) / len(sound),
            baseline=baseline,
            # Others on the machine must not eat up the budget.
            clock=time.process_time,
        )
        for i, one in zip(same, costs, strict=True):
            sound[i] = replace(sound[i], costs=one.only([name for name in one.seconds if name in sound[i].form_of]))
    return sound


def tables(
    groups: Sequence[Kind],
    budget_bytes: int,
    replaceable: Mapping[str, bool],
    allowed: Mapping[str, Collection[str]] | None = None,
) -> list[Table]:
    """Return a table for each product, the fastest together within a budget of memory.

    Args:
        groups: Priced kinds.
        budget_bytes: What further copies of all products may take.
        replaceable: Path of a product -> whether its original may be given up for panels.
        allowed: Path of a product -> variants that it may run; None lets all run everywhere.
    """
    rows: list[tuple[Kind, Product, Costs, list[Choice]]] = []
    offered: dict[tuple[int, bool, frozenset[str]], list[Choice]] = {}
    for g, group in enumerate(groups):
        assert group.costs is not None
        for product in group.members:
            names = frozenset(group.costs.seconds)
            if allowed is not None:
                names &= {*allowed[product.path], group.baseline}
            costs = group.costs.only([name for name in group.costs.seconds if name in names])
            replacing = (REPLACING,) if replaceable.get(product.path) else ()
            key = (g, bool(replacing), names)
            if key not in offered:
                offered[key] = choices(
                    costs, group.form_of, group.bytes_of, baseline=group.baseline, replacing=replacing
                )
            rows.append((group, product, costs, offered[key]))
    picks = choose([one for *_, one in rows], budget_bytes) if rows else []
    return [
        _decided(group, product, costs, one[pick])
        for (group, product, costs, one), pick in zip(rows, picks, strict=True)
    ]


def _decided(group: Kind, product: Product, costs: Costs, choice: Choice) -> Table:
    able = [name for name in costs.seconds if group.form_of[name] in choice.forms]
    decided = decision(costs.only(able), baseline=group.baseline)
    used = {group.form_of[name] for name in decided.variants}
    forms = tuple(one for one in choice.forms if one == ORIGINAL or one in used)
    extra = sum(group.bytes_of[one] for one in forms if one != ORIGINAL)
    if ORIGINAL not in forms:
        extra -= group.original_bytes
        decided = Decision(tuple(_against(one, costs, group.baseline) for one in decided.segments))
    return Table(product, _as_plain(decided, group.baseline), forms, extra)


def _against(segment: Segment, costs: Costs, baseline: str) -> Segment:
    """Return the only segment of a table without the baseline, with its gain over it."""
    if baseline not in costs.seconds:
        return segment

    def gain(slow: Sequence[float], fast: Sequence[float]) -> float:
        logs = [math.log(max(a, 1e-12) / max(b, 1e-12)) for a, b in zip(slow, fast, strict=True)]
        return math.exp(sum(share * one for share, one in zip(costs.weights, logs, strict=True)))

    name = segment.variant
    return replace(
        segment,
        gain=gain(costs.seconds[baseline], costs.seconds[name]),
        low=gain(costs.lows(baseline), costs.highs(name)),
        high=gain(costs.highs(baseline), costs.lows(name)),
        runner_up=baseline,
    )


def _able(group: Kind, candidates: Sequence[Variant]) -> list[Variant]:
    other = BASELINE if group.transposed else ""
    return [one for one in candidates if one.name != other and one.supports(group.site) is None]


def _as_plain(table: Decision, baseline: str) -> Decision:
    """Return a table in which the layer as it was has one name, however its parameter lies."""
    if baseline == BASELINE:
        return table
    renamed = {baseline: BASELINE}
    return Decision(
        tuple(
            replace(
                one,
                variant=renamed.get(one.variant, one.variant),
                runner_up=renamed.get(one.runner_up, one.runner_up),
            )
            for one in table.segments
        )
    )
