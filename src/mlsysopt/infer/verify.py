"""Is the inference right on this very model? Simulation-based calibration, and Geweke's joint test.

References:
    Talts, Betancourt, Simpson, Vehtari and Gelman, Validating Bayesian Inference Algorithms with Simulation-Based
    Calibration, 2018.
    Geweke, Getting It Right: Joint Distribution Tests of Posterior Simulators, JASA 99(467), 2004.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mlsysopt.core.errors import UsageError
from mlsysopt.core.quantities import format_bytes
from mlsysopt.infer.analysis.blanket import fixed
from mlsysopt.infer.diagnostics import diagnose
from mlsysopt.infer.engine import Array, Backend, Engine
from mlsysopt.infer.ir import Program
from mlsysopt.infer.planning import plan
from mlsysopt.infer.rules import Rule
from mlsysopt.infer.rules.gradient import WholeModel, preferred
from mlsysopt.infer.runtime.streams import stream
from mlsysopt.infer.sampling import ChainFailed
from mlsysopt.infer.simulation import Quantities, Replicas, Simulated, own_data

if TYPE_CHECKING:
    from mlsysopt.infer.compiled import Compiled

__all__ = ["Row", "Verification", "verify"]

L, BINS = 99, 20
"""Kept draws of a replicate, so that a rank is one of 100 numbers; five of them share a bin."""
LEAST = 5 * BINS
"""Replicates from which on a bin expects five."""
LEAST_P, MOST_Z = 1e-3, 4.0
CLEAR_P, CLEAR_Z = 1e-6, 6.0
"""What fails even where replicates are too few to pass."""

PILOTS, PILOT_DRAWS, PILOT_WARMUP = 8, 1000, 200
MOST_THIN = 200
LEAST_WARMUP, WARMUP_TIMES = 100, 20
"""Sweeps before the first kept one, and how many autocorrelation times they last at least."""
NUTS_WARMUP = 300
MARGINALS, MARGINAL_TIMES = 20_000, 40
"""Independent draws of the joint, and at most so many for each replicate."""
JOINT_CHAINS, JOINT_THIN, JOINT_SWEEPS = 100, 5, 1000
"""Geweke's chains start from a draw of the joint itself, so they are alike and their means tell their own errors."""
MOST_BYTES = 2 << 30

SIMULATION, RANKS, PILOT, MARGINAL, JOINT = (1 << 21) + np.arange(5)
"""Keys of random streams, out of the way of the chains'."""


@dataclass(frozen=True, slots=True)
class Row:
    """One quantity.

    Attributes:
        name: Such as "mu[2]", "mean of z" or "log likelihood".
        p: Of the chi-square of its ranks, by itself.
        z_mean: Geweke's, of its mean.
        z_square: Geweke's, of its square.
    """

    name: str
    p: float
    z_mean: float
    z_square: float

    @property
    def z(self) -> float:
        """The larger one, without its sign."""
        return max(abs(self.z_mean), abs(self.z_square))


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` found.

    Attributes:
        model: Its name.
        table: A row for each quantity.
        replicates: Data sets of which the inference came to its end.
        lost: Why others did not.
        method: "gibbs" or "nuts".
        thin: Sweeps for each kept draw.
        warmup: Sweeps before them.
        tau: Autocorrelation time that the pilot saw, in sweeps: of the slowest quantity and data set.
    """

    model: str
    table: tuple[Row, ...]
    replicates: int
    lost: tuple[str, ...]
    method: str
    thin: int
    warmup: int
    tau: float

    @property
    def p(self) -> float:
        """The smallest p times the number of quantities (Bonferroni)."""
        return min(1.0, len(self.table) * min((one.p for one in self.table), default=1.0))

    @property
    def z(self) -> float:
        """The largest |z| of Geweke's test."""
        return max((one.z for one in self.table), default=0.0)

    @property
    def ok(self) -> bool | None:
        """None where replicates are too few to tell."""
        if self.lost:
            return False
        if self.replicates < LEAST:
            return False if self.p < CLEAR_P or not self.z < CLEAR_Z else None
        return self.p >= LEAST_P and self.z < MOST_Z

    @property
    def exit_code(self) -> int:
        """0 it passes, 1 it fails, 4 too few replicates to tell."""
        return {True: 0, False: 1, None: 4}[self.ok]

    def worst(self, count: int = 12) -> tuple[Row, ...]:
        """Return the most suspicious rows first."""
        return tuple(sorted(self.table, key=lambda one: (one.p if one.z < MOST_Z else 0.0, -one.z)))[:count]

    def verdict(self) -> str:
        """Return one line."""
        if self.ok is None:
            return f"too few to tell: {self.replicates} replicates, at least {LEAST} are needed"
        if self.ok:
            return "passed: nothing speaks against the inference on this model"
        if self.lost:
            return f"failed: {len(self.lost)} data sets of the model's own could not be inferred from: {self.lost[0]}"
        names = [one.name for one in self.worst(3) if one.p * len(self.table) < LEAST_P or not one.z < MOST_Z]
        return f"failed: {', '.join(names)}"

    def text(self) -> str:
        """Return the whole report."""
        slow = f" (slower than that: at most {MOST_THIN} are used)" if self.tau > MOST_THIN else ""
        lines = [
            f"{self.model}: {self.verdict()}",
            f"{self.replicates} replicates by {self.method}; {L} draws of each, every {_th(self.thin)} after "
            f"{self.warmup} of warming up; autocorrelation time {self.tau:.1f}{slow}",
            f"calibration: smallest p of {len(self.table)} quantities {self.p:.3g}, Bonferroni (limit {LEAST_P:g})",
            f"joint test of the sweeps: largest |z| {self.z:.2f} (limit {MOST_Z:g})",
        ]
        shown = self.worst()
        width = max((len(one.name) for one in shown), default=8)
        lines.append(f"{'quantity':<{width}}  {'p':>9}  {'z mean':>7}  {'z square':>8}")
        lines += [f"{one.name:<{width}}  {one.p:9.3g}  {one.z_mean:7.2f}  {one.z_square:8.2f}" for one in shown]
        if len(shown) < len(self.table):
            lines.append(f"... and {len(self.table) - len(shown)} more, less suspicious")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "model": self.model, "ok": self.ok, "verdict": self.verdict(), "p": self.p, "z": self.z,
            "replicates": self.replicates, "lost": list(self.lost), "method": self.method, "thin": self.thin,
            "warmup": self.warmup, "tau": self.tau, "table": [asdict(one) for one in self.table],
        }  # fmt: skip


def verify(
    compiled: Compiled,
    replicates: int = 500,
    *,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
    rules: tuple[Rule, ...] | None = None,
    engine: type[Simulated] = Simulated,
    backend: Backend = "single",
) -> Verification:
    """Check the inference on a model's own data sets; `Compiled.verify` has the details.

    Each replicate adapts while it warms up and stands still afterwards, as a user's chain does: what is checked is
    what is used, adaptation included. The joint test runs with what the last pilot adapted to.

    Args:
        compiled: Data only give the shapes of what is observed; other inputs stay.
        replicates: Simulated data sets.
        seed: Of everything.
        progress: Is told (part, done, in all).
        rules: Instead of the usual ones.
        engine: Writes the code.
        backend: "single" or "python"; the result does not depend on it.

    Raises:
        UsageError: the model cannot be simulated, or is too large.
    """
    if replicates < 1:
        raise UsageError(f"replicates is {replicates}; at least 1")
    tell = progress or (lambda part, done, whole: None)
    bound, values = compiled.bound, compiled.fixed_values
    program = fixed(bound.program, values)
    _refuse(program, frozenset(values))
    chosen = plan(program, rules)
    keep = {one.name: "samples" for one in program.latents if one.name not in values}
    made = engine(chosen, own_data(bound, program, values), keep, values)  # pyright: ignore[reportArgumentType]
    _refuse_large(made)
    smooth = rules is None and isinstance(preferred(chosen, made.bound), WholeModel)
    copies = Replicas(made, most=max(PILOT_DRAWS, L), smooth=smooth, backend=backend)
    quantities = Quantities(made)

    tell("marginal draws", 0, 1)
    parts = [
        quantities.of(*copies.marginal(stream(seed, int(MARGINAL), i), PILOT_DRAWS))
        for i in range(math.ceil(min(MARGINALS, MARGINAL_TIMES * replicates) / PILOT_DRAWS))
    ]
    marginal = np.concatenate(parts)
    quantities.keep_moving(marginal)
    lost: list[str] = []
    tau = _pilot(copies, quantities, seed, lost)
    thin = min(max(1, round(tau)), MOST_THIN)
    warmup = NUTS_WARMUP if smooth else max(LEAST_WARMUP, WARMUP_TIMES * thin)
    steps = min(max(replicates, 50), JOINT_SWEEPS)
    means, squares = _joint(copies, quantities, marginal, seed, steps, lost)
    ranks: list[Array] = []
    for number in range(replicates):
        tell("replicates", number, replicates)
        try:
            ranks.append(_rank(copies, quantities, seed, number, warmup, thin))
        except (ChainFailed, UsageError) as error:
            lost.append(str(error))
    tell("replicates", replicates, replicates)
    rows = tuple(
        Row(name, p, float(means[i]), float(squares[i]))
        for i, (name, p) in enumerate(zip(quantities.names, _uniform(ranks, len(quantities.names)), strict=True))
    )
    return Verification(program.name, rows, len(ranks), tuple(lost), "nuts" if smooth else "gibbs", thin, warmup, tau)


def _pilot(copies: Replicas, quantities: Quantities, seed: int, lost: list[str]) -> float:
    """Return the autocorrelation time of the slowest quantity on the slowest of a few data sets."""
    longest = 1.0
    for number in range(2 if copies.smooth else PILOTS):
        rng = stream(seed, int(PILOT), number)
        copies.marginal(rng, 1)
        try:
            found = copies.posterior(rng, seed, int(PILOT) + number, warmup=PILOT_WARMUP, draws=PILOT_DRAWS, thin=1)
        except (ChainFailed, UsageError) as error:
            lost.append(str(error))
            continue
        values = quantities.of(*found)[:, quantities.moving]
        for row in diagnose({"quantity": values[None]}, found[1][None, :, 0]).rows:
            if not row.constant and row.ess_bulk > 0.0:
                longest = max(longest, PILOT_DRAWS / row.ess_bulk)
    return longest


def _rank(copies: Replicas, quantities: Quantities, seed: int, number: int, warmup: int, thin: int) -> Array:
    """Return the ranks of the true values among the draws, ties broken at random."""
    rng = stream(seed, int(SIMULATION), number)
    true = {name: one.copy() for name, one in copies.marginal(rng, 1)[0].items()}
    joint = copies.chain.joint[:1].copy()
    draws, joints = copies.posterior(rng, seed, number, warmup=warmup, draws=L, thin=thin)
    # One array for both: sums over cells then round alike, and equal states stay ties.
    together = {name: np.concatenate([one, draws[name]]) for name, one in true.items()}
    values = quantities.of(together, np.concatenate([joint, joints]))[:, quantities.moving]
    ties = (values[1:] == values[0]).sum(axis=0)
    return (values[1:] < values[0]).sum(axis=0) + stream(seed, int(RANKS), number).integers(0, ties + 1)


def _uniform(ranks: list[Array], count: int) -> list[float]:
    """Return the p of each quantity's ranks being uniform."""
    from scipy import stats

    if not ranks:
        return [math.nan] * count
    bins = np.stack(ranks) * BINS // (L + 1)
    seen = np.stack([(bins == one).sum(axis=0) for one in range(BINS)])
    expected = len(ranks) / BINS
    return [float(one) for one in stats.chi2.sf(((seen - expected) ** 2 / expected).sum(axis=0), BINS - 1)]


def _joint(
    copies: Replicas, quantities: Quantities, marginal: Array, seed: int, steps: int, lost: list[str]
) -> tuple[Array, Array]:
    """Return z of means and of squares: draws of the joint against sweeps that alternate with new data.

    Numbers are squashed first, so that heavy tails have a variance. The chains are independent and alike, so the
    spread of their means is the error whatever their autocorrelation is; Student's t is turned into z.
    """
    from scipy import stats

    marginal = marginal[:, quantities.moving]
    middle = np.median(marginal, axis=0)
    low, high = np.quantile(marginal, [0.25, 0.75], axis=0)
    scale = np.where(high > low, high - low, 1.0)

    def squash(values: Array) -> Array:
        return np.arcsinh((values - middle) / scale)

    first, second = [], []
    for number in range(JOINT_CHAINS):
        rng = stream(seed, int(JOINT), number)
        copies.marginal(rng, 1)
        try:
            found = copies.successive(rng, steps, JOINT_THIN)
        except ChainFailed as error:
            lost.append(str(error))
            continue
        values = squash(quantities.of(*found)[:, quantities.moving])
        first.append(values.mean(axis=0))
        second.append((values * values).mean(axis=0))
    if len(first) < 2:
        return np.full(len(middle), np.nan), np.full(len(middle), np.nan)
    values = squash(marginal)
    found = []
    for chains, exact in ((np.stack(first), values), (np.stack(second), values * values)):
        error = np.sqrt(chains.var(axis=0, ddof=1) / len(chains) + exact.var(axis=0, ddof=1) / len(exact))
        t = (chains.mean(axis=0) - exact.mean(axis=0)) / np.maximum(error, 1e-300)
        found.append(np.sign(t) * np.minimum(stats.norm.isf(stats.t.sf(np.abs(t), len(chains) - 1)), 1e3))
    return found[0], found[1]


def _refuse(program: Program, given: frozenset[str]) -> None:
    for site in program.sites:
        if site.distribution is None:
            raise UsageError(
                f"{program.name} has a factor(...) at line {site.line}: it cannot be simulated, and so not verified"
            )
        if site.distribution.improper and site.variable not in given:
            raise UsageError(
                f"{site.variable} has the improper prior {site.distribution.name} (line {site.line}), which cannot be "
                f"drawn from: verify with a proper one, or fix it: .{site.variable}.fix(value)"
            )


def _refuse_large(engine: Engine) -> None:
    cells = {name: int(np.prod(engine.bound.lengths(engine.program.variables[name]))) for name in engine.keep}
    size = 8 * PILOT_DRAWS * sum(cells.values())
    if size > MOST_BYTES:
        worst = max(cells, key=lambda name: cells[name])
        raise UsageError(
            f"verifying would keep {format_bytes(size)}, most of it for {worst} with {cells[worst]} cells; "
            "a smaller Shape(...) of what is observed checks the same code"
        )


def _th(thin: int) -> str:
    return "sweep" if thin == 1 else f"{thin}th sweep"
