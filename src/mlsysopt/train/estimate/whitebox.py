"""The sum of declared terms, fitted to samples: coefficients, the rolling error, and terms picked from a dictionary."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from mlsysopt.core.costmodel import fit_near, fit_nonnegative
from mlsysopt.train.estimate.characteristics import WALKS
from mlsysopt.train.estimate.samples import Sample
from mlsysopt.train.estimate.terms import Terms
from mlsysopt.train.estimate.typical import NOTHING, Typical

__all__ = ["EPOCHS", "WhiteBox", "automatic", "completed", "fitted"]

Floats = npt.NDArray[np.float64]
# Terms, seconds and the weights of samples in, coefficients out.
_Fit = Callable[[Floats, Floats, Floats], Floats]

# A pass of a training walks the data once, and evicts what a bare walk would have kept; what it costs
# beyond a few bare walks is no walk, however well the samples go along with one.
_MOST_WALKS = 2.0
# Names under which trainers declare how often they pass over the data.
EPOCHS = ("n_epochs", "epochs", "iterations", "n_iterations", "n_iter", "max_iter", "num_epochs", "bsl_epochs", "E")
# A typical proportion counts as one sample, and a sample that is further off than 20 % loses weight: on the
# fitting shapes, each set left out, anything from 0.3 to 3 and from 15 to 40 % does as well.
_STRENGTH, _OUTLIER = 1.0, 0.2
_DICTIONARY = ("1", "R", "U", "I", "Su", "Si", "U**2", "I**2", "U*I")
_MOST_TERMS = 4
# A further term must earn its place.
_GAIN = 0.9
# Of how many rungs the rolling error is made: the latest are the nearest to what is forecast.
_LATEST = 3
# Said of a fit that has nothing to be tested on.
_UNKNOWN = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class WhiteBox:
    """Terms, what one unit of each costs, and how well rungs were predicted from those before.

    Attributes:
        terms: The terms.
        coefficients: CPU seconds per unit of each term, shape (k,).
        rolling_error: Root mean square of ln(predicted / true) over the latest rungs.
        held: Whether the coefficients were held near their typical proportions.
    """

    terms: Terms
    coefficients: Floats
    rolling_error: float
    held: bool = False


def completed(terms: Sequence[str]) -> Terms:
    """Return the terms with a constant for the whole and, where epochs are among them, one for each epoch.

    Small samples are full of calls that cost the same at any size: without a place of their own they
    would be taken for work that grows.
    """
    calls = [name for name in EPOCHS if name in Terms(terms).names]
    return Terms(tuple(dict.fromkeys([*terms, *calls, "1"])))


def fitted(
    terms: Sequence[str], samples: Sequence[Sample], *, trainer: str = "", typical: Typical = NOTHING
) -> WhiteBox:
    """Fit the completed terms to samples, near their typical proportions where these are known.

    Args:
        terms: Expressions over the samples' characteristics and hyper-parameters.
        samples: At least one.
        trainer: Whose terms they are.
        typical: What is known of trainers.

    Raises:
        TermError: a term that cannot be read, has no value, or is negative.
    """
    known = completed(terms)
    phi = np.array([known.columns(sample.characteristics, sample.params) for sample in samples])
    seconds = np.array([sample.cpu_s for sample in samples])
    own = np.array([sample.weight for sample in samples])
    expected = typical.expected(trainer, known.texts)
    held = expected is not None and bool(np.all(phi @ expected > 0))
    if expected is not None and held:
        fit: _Fit = partial(_near, expected)
    else:
        most = np.array([_MOST_WALKS if _is_walk(known.uses(k)) else np.inf for k in range(len(known))])
        fit = partial(_fit, most=most)
    return WhiteBox(known, fit(phi, seconds, own), _rolling(phi, seconds, own, _rungs(samples), fit), held)


def automatic(samples: Sequence[Sample]) -> WhiteBox:
    """Pick terms from a dictionary, one after another, by how well they predict the next rung.

    The dictionary holds 1, R, U, I, Su, Si, U^2, I^2 and U I, each also times the epochs where the
    samples name them.
    """
    epochs = next((name for name in EPOCHS if all(name in sample.params for sample in samples)), None)
    texts = [*_DICTIONARY, *(f"{epochs}*{term}" for term in _DICTIONARY)] if epochs else list(_DICTIONARY)
    known = Terms(texts)
    phi = np.array([known.columns(sample.characteristics, sample.params) for sample in samples])
    seconds = np.array([sample.cpu_s for sample in samples])
    own = np.array([sample.weight for sample in samples])
    rungs = _rungs(samples)
    chosen = [0]
    best = _rolling(phi[:, chosen], seconds, own, rungs)
    while len(chosen) < _MOST_TERMS:
        tried = [(_rolling(phi[:, [*chosen, k]], seconds, own, rungs), k) for k in range(len(texts)) if k not in chosen]
        score, k = min(tried)
        if score > _GAIN * best:
            break
        chosen, best = [*chosen, k], score
    return WhiteBox(Terms([texts[k] for k in chosen]), _fit(phi[:, chosen], seconds, own), best)


def _is_walk(names: frozenset[str]) -> bool:
    """Whether a term is walks and the number of epochs, nothing else."""
    return bool(names & set(WALKS)) and names <= {*WALKS, *EPOCHS}


def _fit(phi: Floats, seconds: Floats, own: Floats, *, most: Floats | None = None) -> Floats:
    return fit_nonnegative(phi, seconds, weights=_weights(seconds, own), most=most)


def _near(expected: Floats, phi: Floats, seconds: Floats, own: Floats) -> Floats:
    weights = _weights(seconds, own)
    return fit_near(phi, seconds, expected, weights=weights, strength=_STRENGTH, outlier=_OUTLIER)


def _weights(seconds: Floats, own: Floats) -> Floats:
    return own * np.sqrt(seconds / seconds.mean())


def _rungs(samples: Sequence[Sample]) -> list[npt.NDArray[np.intp]]:
    """Return the samples of each rung, smallest rung first."""
    shares = np.array([round(sample.rows_share, 6) for sample in samples])
    return [np.flatnonzero(shares == share) for share in np.unique(shares)]


def _rolling(
    phi: Floats,
    seconds: Floats,
    own: Floats,
    rungs: Sequence[npt.NDArray[np.intp]],
    fit: _Fit = _fit,
) -> float:
    misses: list[float] = []
    for k in range(2, len(rungs)):
        before, now = np.concatenate(rungs[:k]), rungs[k]
        if not phi[before].any() or not own[before].any():
            continue
        told = phi[now] @ fit(phi[before], seconds[before], own[before])
        # A rung said to cost nothing is as wrong as one off by a factor of 50.
        told = np.maximum(told, seconds[now] / 50.0)
        misses.append(float(np.mean(np.log(told / seconds[now]) ** 2)))
    return math.sqrt(sum(misses[-_LATEST:]) / len(misses[-_LATEST:])) if misses else _UNKNOWN
