"""Simulated studies for the verdict rule: noise with a shared base, several shapes, planted effects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mlsysopt.design.ablate.verdict import HARMFUL, LOOKS, NEEDED, NEGLIGIBLE

__all__ = ["ENDS", "KINDS", "NOISES", "Cell", "metrics", "simulate"]

ROWS = 10
SEEDS = 10
MARGIN = 1.5
NOISES = ("normal", "t4", "skewed", "rounded to 1/360", "rounded to 1/100", "sds .3-2", "one sd 3x")
_MIXED = np.array([-4.0, -2.0, -MARGIN, MARGIN, 0, 0, 0, 0, 0, 0])
KINDS: dict[str, tuple[np.ndarray, float | None]] = {
    "null": (np.zeros(ROWS), MARGIN),
    "mixed": (_MIXED, MARGIN),
    "null, no margin": (np.zeros(ROWS), None),
    "mixed, no margin": (_MIXED, None),
}
ENDS = ("random look", "last look")
# One paired standard deviation is one point of accuracy: so 360 validation rows move it in steps of 0.28.
STEPS = {"rounded to 1/360": 100.0 / 360.0, "rounded to 1/100": 1.0}


@dataclass(frozen=True, slots=True)
class Cell:
    """What many studies of one kind came to.

    Attributes:
        false: Studies with a part called needed or harmful that is not, or with the wrong sign.
        covered: Rows whose true effect all intervals hold, over all looks at once.
        wrongly_negligible: Rows with an effect exactly at the margin that were called negligible.
        power: Rows with an effect of the margin or more that were called needed, at the last look.
        trainings: Against ten seeds for every row.
        agree: Rows with the same word as after ten seeds for every row.
    """

    false: float
    covered: float
    wrongly_negligible: float
    power: float
    trainings: float
    agree: float


def metrics(noise: str, effects: np.ndarray, studies: int, rng: np.random.Generator) -> np.ndarray:
    """Draw metrics of base (row 0) and rows, shape (studies, 1 + rows, seeds); paired differences have sd 1."""
    shape = (studies, 1 + len(effects), SEEDS)
    if noise == "t4":
        drawn = rng.standard_t(4, shape) / np.sqrt(2.0)
    elif noise == "skewed":
        drawn = 1.0 - rng.exponential(1.0, shape)
    else:
        drawn = rng.standard_normal(shape)
    scale = np.ones((studies, len(effects)))
    if noise == "sds .3-2":
        order = np.argsort(rng.random(scale.shape), axis=1)
        scale = np.take(np.geomspace(0.3, 2.0, len(effects)), order)
    elif noise == "one sd 3x":
        scale[:, -1] = 3.0
    values = drawn / np.sqrt(2.0)
    # A noisier row is noisier towards the shared base as well, so that half of its variance stays the base's.
    base, own = values[:, :1], values[:, 1:]
    own = base + (own - base) * scale[:, :, None] + effects[None, :, None]
    out = np.concatenate([base, own], axis=1)
    step = STEPS.get(noise)
    return out if step is None else np.round((90.0 + out) / step) * step


def simulate(rule_of: Any, noise: str, kind: str, end: str, *, studies: int, seed: int) -> Cell:
    """Run a rule on one cell.

    Args:
        rule_of: Called with `looks=`, `margin=` and `step=`: `Rule`, or a mutant of it.
        noise: One of `NOISES`.
        kind: One of `KINDS`.
        end: Whether the user stops at a random look or goes on to the last.
        studies: How many.
        seed: Of the simulation.
    """
    rng = np.random.default_rng([seed, NOISES.index(noise), list(KINDS).index(kind)])
    effects, margin = KINDS[kind]
    values = metrics(noise, effects, studies, rng)
    deltas = values[:, 1:] - values[:, :1]
    step = STEPS.get(noise, 0.0)
    rule = rule_of(looks=LOOKS, margin=margin, step=step)
    stop = np.array(LOOKS)[rng.integers(0, len(LOOKS), studies)] if end == "random look" else np.full(studies, SEEDS)
    judged = rule.judge(deltas, reached=np.broadcast_to(stop[:, None], deltas.shape[:2]))
    wrong = np.isin(judged.word, (NEEDED, HARMFUL)) & (effects == 0)
    wrong |= (judged.word == HARMFUL) & (effects < 0) | (judged.word == NEEDED) & (effects > 0)
    at_margin = np.isclose(np.abs(effects), MARGIN)
    lasting = rule.judge(deltas, decide=False).covered
    outside = (lasting[:, 0] > effects) | (lasting[:, 1] < effects)
    full = rule.judge(deltas)
    fixed = rule_of(looks=(SEEDS,), margin=margin, step=step).judge(deltas)
    strong = effects <= -MARGIN
    return Cell(
        false=float(wrong.any(axis=1).mean()),
        covered=float(1.0 - outside.any(axis=0).mean()),
        wrongly_negligible=float((judged.word == NEGLIGIBLE)[:, at_margin].mean()) if at_margin.any() else 0.0,
        power=float((full.word == NEEDED)[:, strong].mean()) if strong.any() else float("nan"),
        trainings=float((full.look.max(axis=1) + full.look.sum(axis=1)).mean() / (SEEDS * (1 + len(effects)))),
        agree=float((full.word == fixed.word).mean()),
    )
