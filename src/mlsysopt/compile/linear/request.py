"""What a caller asked for, checked: which variants may run at which precision, and what has to be said about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlsysopt.compile.linear.precision import RUNGS
from mlsysopt.compile.linear.profiling import candidates
from mlsysopt.compile.variants.timing import weight_bytes
from mlsysopt.core.errors import MissingExtra, UsageError, near_misses
from mlsysopt.core.quantities import parse_quantity

if TYPE_CHECKING:
    from mlsysopt.compile.variants.machine import MachineProfile
    from mlsysopt.compile.variants.site import Variant

__all__ = ["PAPER", "TABLE", "Request", "parse_seconds"]

TABLE, PAPER = "table", "paper"


@dataclass(frozen=True)
class Request:
    """A checked request.

    Attributes:
        policy: "table", "paper", or the name of a variant.
        precision: "f32", "bf16", "int8w" or "auto".
        candidates: Variants that may run at the lowest precision asked for.
        panel: Whether generated kernels are among them.
    """

    policy: str
    precision: str
    candidates: tuple[Variant, ...]
    panel: bool

    @classmethod
    def of(cls, policy: str, precision: str, panel: bool) -> Request:
        """Check a request.

        Raises:
            UsageError: unknown precision or policy.
            MissingExtra: generated kernels need llvmlite.
        """
        from mlsysopt.compile.variants.registry import variants

        allowed = (*RUNGS, "auto")
        if precision not in allowed:
            raise UsageError(f"precision {precision!r}; {near_misses(precision, allowed, noun='precision')}")
        names = [TABLE, PAPER, *(one.name for one in variants("linear"))]
        if policy not in names:
            raise UsageError(f"policy {policy!r}; {near_misses(policy, names, noun='policy', width=len(names))}")
        usable = panel and policy != PAPER and _generated(needed=policy in (TABLE, "") or policy.startswith("panel."))
        able = candidates(RUNGS[-1] if precision == "auto" else precision, panel=usable)
        if policy not in (TABLE, PAPER):
            able = [one for one in variants("linear") if one.name in (able[0].name, policy)]
        return cls(policy, precision, tuple(able), usable)

    @property
    def rounds(self) -> bool:
        """Whether a variant is forced that rounds weights."""
        return self.policy not in (TABLE, PAPER) and any(
            one.name == self.policy and weight_bytes(one) < 4 for one in self.candidates
        )

    def names(self, rung: str) -> frozenset[str]:
        """Return the variants that a precision allows."""
        return frozenset(one.name for one in candidates(rung, panel=self.panel))

    def lines(self, profile: MachineProfile | None) -> list[str]:
        """Return what has to be said about the machine and its profile, one line each."""
        from mlsysopt.compile.variants.machine import fingerprint

        found: list[str] = []
        if self.panel:
            from mlsysopt.compile.codegen.target import host_isa

            name = host_isa().name
            if name == "avx2":
                found.append("no AVX-512 here: panels for AVX2")
        elif self.policy == TABLE:
            found.append("no generated kernels: library variants only")
        if profile is not None and profile.others and not profile.rows:
            other, count = next(iter(profile.others.items()))
            found.append(f"profile: {count} rows of another machine are not used ({other}; here: {fingerprint()})")
        return found


def parse_seconds(budget: str | float) -> float:
    """Return the seconds that may be spent on measuring.

    Raises:
        UsageError: below 0, or no time.

    >>> parse_seconds("2min"), parse_seconds(0)
    (120.0, 0.0)
    """
    seconds = float(parse_quantity(budget, kind="seconds"))
    if not seconds >= 0:
        raise UsageError(f"budget {budget!r}: a time of at least 0s is needed, such as 20s")
    return seconds


def _generated(needed: bool) -> bool:
    """Tell whether generated kernels can run well here.

    Raises:
        MissingExtra: llvmlite is not installed, though they are needed.
    """
    try:
        from mlsysopt.compile.codegen.target import host_isa

        return host_isa().name != "baseline"
    except MissingExtra as error:
        if not needed:
            return False
        raise MissingExtra(f"{error}; panel=False (--no-panel) runs on library variants") from error
