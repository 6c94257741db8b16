"""Which rows and which hyper-parameters a sample has: whole rows, strata by degree, a ladder, a crossed design."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from mlsysopt.core.costmodel import fit_nonnegative
from mlsysopt.core.errors import UsageError, near_misses
from mlsysopt.train.estimate.terms import Terms

if TYPE_CHECKING:
    from mlsysopt.train.estimate.characteristics import Characteristics
    from mlsysopt.train.estimate.ratings import Ratings
    from mlsysopt.train.estimate.samples import Sample
    from mlsysopt.train.estimate.trainers.registry import TrainerRecord

__all__ = ["PROTOCOLS", "Rung", "bound", "ladder", "levels", "predicted", "settings", "subset", "usable"]

Protocol = Literal["default", "paper"]
PROTOCOLS = ("default", "paper")

_STRATA = 8
# How much more of the heaviest stratum a tilted sample has than of the lightest: half as much again against half.
_TILT = 0.5
_TILTS = (0, -1, 1)
_FIRST_SHARE, _GROWTH, _LARGEST_SHARE = 0.005, 1.7, 0.5
# A pair loop over the other side pays nearly the full squares on every rung: fewer of them, and straight ones.
_FIRST_ITEMS = 0.02
_FEWEST_ROWS, _FEWEST_RATINGS = 20, 400
_PAPER_SHARES = (0.01, 0.04, 0.06, 0.10)
_EPOCHS = (4, 1)


@dataclass(frozen=True, slots=True)
class Rung:
    """One sample to be taken.

    Attributes:
        number: From 0.
        share: Of the users or items, taken whole.
        params: Hyper-parameters.
        tilt: -1 leans to light rows, 1 to heavy ones, 0 to neither.
        seed: Of the draw.
    """

    number: int
    share: float
    params: Mapping[str, Any]
    tilt: int
    seed: int


def subset(ratings: Ratings, side: str, share: float, *, seed: int, tilt: int = 0) -> Ratings:
    """Take whole users or items, the same share of eight strata of degree, rows in the order of the file.

    Args:
        ratings: All of them.
        side: `user` or `item`.
        share: Of the rows, above 0; 1 takes all.
        seed: Of the draw.
        tilt: -1 takes more of the light strata, 1 more of the heavy ones; the number of rows stays.

    >>> from mlsysopt.train.estimate import synthetic
    >>> few = subset(synthetic.ratings(n_users=400, n_items=50, n_ratings=8000), "user", 0.1, seed=1)
    >>> few.n_users
    40
    """
    codes, number = (ratings.user, ratings.n_users) if side == "user" else (ratings.item, ratings.n_items)
    if share >= 1.0:
        return ratings
    degrees = np.bincount(codes, minlength=number)
    chosen = _stratified(degrees, share, np.random.default_rng([seed, round(share * 1e6)]), tilt)
    return ratings.subset_users(chosen) if side == "user" else ratings.subset_items(chosen)


def _stratified(
    degrees: npt.NDArray[np.int64], share: float, rng: np.random.Generator, tilt: int
) -> npt.NDArray[np.intp]:
    # Ties in random order: the codes of a file often follow its time.
    order = np.lexsort((rng.random(len(degrees)), degrees))
    strata = np.array_split(order, min(_STRATA, len(order)))
    lean = np.linspace(-_TILT, _TILT, len(strata)) * tilt + 1.0
    wanted = share * np.array([len(stratum) for stratum in strata]) * lean
    # Whole numbers that add up: what is rounded away in one stratum is due in the next.
    upto = np.rint(np.cumsum(wanted)).astype(int)
    counts = np.diff(upto, prepend=0)
    if not counts.any():
        counts[-1] = 1
    picked = [
        rng.choice(stratum, min(count, len(stratum)), replace=False)
        for stratum, count in zip(strata, counts, strict=True)
    ]
    return np.concatenate(picked)


def levels(record: TrainerRecord) -> dict[str, tuple[Any, ...]]:
    """Return the values that each hyper-parameter of the cost terms takes in samples.

    Epochs are 4 and 1; everything else is the value in question, half and twice of it.

    >>> from mlsysopt.train.estimate.trainers import find
    >>> levels(find("svd").settled({"n_factors": 50}))
    {'n_factors': (50, 25, 100), 'n_epochs': (4, 1)}
    """
    found: dict[str, tuple[Any, ...]] = {}
    for name in record.term_params:
        value = record.params[name]
        if not isinstance(value, int | float) or value <= 0:
            continue
        if name == record.epochs:
            tried: Sequence[Any] = [min(epochs, value) for epochs in _EPOCHS]
        elif isinstance(value, int):
            tried = (value, max(1, round(value / 2)), 2 * value)
        else:
            tried = (value, value / 2, 2 * value)
        found[name] = tuple(dict.fromkeys(tried))
    return found


def settings(record: TrainerRecord) -> Iterator[dict[str, Any]]:
    """Yield the hyper-parameters of one sample after the other, crossed so that none follows another.

    >>> from mlsysopt.train.estimate.trainers import find
    >>> [(one["n_factors"], one["n_epochs"]) for one, _ in zip(settings(find("svd").settled()), range(6))]
    [(100, 4), (50, 1), (200, 4), (100, 1), (50, 4), (200, 1)]
    """
    varied = levels(record)
    sizes = [name for name in varied if name != record.epochs]
    for number in itertools.count():
        chosen = dict(record.params)
        for place, (name, values) in enumerate(varied.items()):
            if name == record.epochs:
                chosen[name] = values[number % len(values)]
            else:
                # The second hyper-parameter goes through its values backwards, the third begins later.
                step = -1 if sizes.index(name) % 2 else 1
                chosen[name] = values[(step * number + place // 2) % len(values)]
        yield chosen


def ladder(record: TrainerRecord, ratings: Ratings, *, seed: int = 0, protocol: str = "default") -> Iterator[Rung]:
    """Yield rungs, smallest first, until half of the rows; then more epochs, while they stay below half as well.

    Args:
        record: Settled record.
        ratings: All of them.
        seed: Of every draw.
        protocol: `default`, or `paper`: at most 10 % of the rows, with the hyper-parameters in question.

    Raises:
        UsageError: an unknown protocol.
    """
    if protocol not in PROTOCOLS:
        raise UsageError(f"unknown protocol {protocol!r}: {near_misses(protocol, PROTOCOLS, noun='protocol')}")
    rows = ratings.n_users if record.side == "user" else ratings.n_items
    if protocol == "paper":
        for number, share in enumerate(_PAPER_SHARES):
            yield Rung(number, max(share, min(1.0, _FEWEST_ROWS / rows / 10)), dict(record.params), 0, seed + number)
        return
    first, tilts = (_FIRST_SHARE, _TILTS) if record.side == "user" else (_FIRST_ITEMS, (0,))
    # Small data begin with a tenth at most: four rungs have to fit below half.
    share = max(first, min(0.1, max(_FEWEST_ROWS / rows, _FEWEST_RATINGS / len(ratings))))
    design = enumerate(settings(record))
    for number, params in design:
        yield Rung(number, min(share, _LARGEST_SHARE), params, tilts[number % len(tilts)], seed + number)
        if share >= _LARGEST_SHARE:
            break
        share *= _GROWTH
    # Where epochs are cheap, half of the rows is soon reached: what is left of a budget buys longer trainings.
    epochs = _EPOCHS[0] ** 2
    for number, params in design:
        asked = record.params.get(record.epochs or "")
        if not isinstance(asked, int) or 2 * epochs > asked:
            return
        yield Rung(number, _LARGEST_SHARE, {**params, str(record.epochs): epochs}, 0, seed + number)
        epochs *= _EPOCHS[0]


def bound(record: TrainerRecord, sample: Sample, sizes: Characteristics, params: Mapping[str, Any]) -> float:
    """Return seconds that a training cannot exceed if the terms hold: the fastest growing term alone.

    Args:
        record: Settled record.
        sample: One that was measured.
        sizes: Of the data in question.
        params: Hyper-parameters in question.
    """
    terms = usable(record, [sample.characteristics, sizes])
    then, now = terms.columns(sample.characteristics, sample.params), terms.columns(sizes, params)
    # A term that was 0 in the sample, such as a ramp, cannot be bounded by it.
    known = then > 0
    return sample.cpu_s * float(np.max(now[known] / then[known]))


def predicted(
    record: TrainerRecord, samples: Sequence[Sample], sizes: Characteristics, params: Mapping[str, Any]
) -> float:
    """Return the CPU seconds that a training is expected to take, from the samples so far; nan without any."""
    if not samples:
        return math.nan
    most = min(bound(record, sample, sizes, params) for sample in samples[-2:])
    if len(samples) == 1:
        return most
    terms = usable(record, [*(sample.characteristics for sample in samples), sizes])
    phi = np.array([terms.columns(sample.characteristics, sample.params) for sample in samples])
    coefficients = fit_nonnegative(phi, [sample.cpu_s for sample in samples])
    return min(most, float(terms.columns(sizes, params) @ coefficients))


def usable(record: TrainerRecord, sizes: Sequence[Characteristics]) -> Terms:
    """Return the terms whose walks were timed for every one of these data."""
    timed = {name for name in ("Wu", "Wi") if not any(math.isnan(getattr(one, name)) for one in sizes)}
    return Terms([term for term in record.time if not Terms([term]).names & ({"Wu", "Wi"} - timed)])
