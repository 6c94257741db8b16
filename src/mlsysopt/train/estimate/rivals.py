"""What black boxes say from the same samples: always shown beside the forecast, never chosen afterwards."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mlsysopt.core.errors import MissingExtra
from mlsysopt.train.estimate.characteristics import Characteristics
from mlsysopt.train.estimate.samples import Sample
from mlsysopt.train.estimate.terms import numeric

__all__ = ["BLACK_BOXES", "INFORMED", "MEAN", "WITH_LOGLOG", "black_boxes", "log_log"]

Floats = npt.NDArray[np.float64]

BLACK_BOXES = ("linear", "log-log", "random forest", "Gaussian process")
MEAN = "mean of black boxes"
INFORMED = "Gaussian process on our characteristics"
WITH_LOGLOG = "mean of white box and log-log"

_TREES = 200
_TRACE = 1e-3


def black_boxes(samples: Sequence[Sample], full: Characteristics, params: Mapping[str, Any]) -> dict[str, float]:
    """Fit every black box on the samples and ask it for the full training.

    They see R, U, I and the hyper-parameters that vary between the samples.

    Args:
        samples: The samples that the white box was fitted on.
        full: Characteristics of the full data.
        params: Hyper-parameters of the full training.

    Returns:
        Name -> CPU seconds; never below the fastest sample.

    Raises:
        MissingExtra: without scikit-learn.
    """
    try:
        import sklearn  # noqa: F401  # pyright: ignore[reportUnusedImport, reportMissingTypeStubs]
    except ImportError:
        raise MissingExtra.of("the black boxes beside a forecast", "train") from None
    seconds = np.array([sample.cpu_s for sample in samples])
    plain, asked = _features(samples, full, params, informed=False)
    told, told_asked = _features(samples, full, params, informed=True)
    found = {
        "linear": _line(plain, asked, seconds),
        "log-log": log_log(samples, full, params),
        "random forest": _forest(plain, seconds, asked),
        "Gaussian process": _process(*_logs(plain, asked), np.log(seconds)),
    }
    # A line may well predict less than nothing: nobody would believe less than the fastest sample.
    found = {name: max(value, float(seconds.min())) for name, value in found.items()}
    found[MEAN] = float(np.exp(np.mean(np.log([found[name] for name in BLACK_BOXES]))))
    informed = _process(*_logs(told, told_asked), np.log(seconds))
    found[INFORMED] = max(informed, float(seconds.min()))
    return found


def log_log(samples: Sequence[Sample], full: Characteristics, params: Mapping[str, Any]) -> float:
    """Return CPU seconds by a straight line through the logarithms of R and of what varies."""
    varying = _varying(samples)
    rows = np.array(
        [[sample.characteristics.R, *(_value(sample.params, name) for name in varying)] for sample in samples]
    )
    asked = np.array([full.R, *(_value(params, name) for name in varying)])
    seconds = np.log([sample.cpu_s for sample in samples])
    return float(np.exp(_line(*_logs(rows, asked), seconds)))


def _varying(samples: Sequence[Sample]) -> list[str]:
    settings = [numeric(sample.params) for sample in samples]
    names = sorted(set[str]().union(*settings))
    return [name for name in names if len({setting.get(name) for setting in settings}) > 1]


def _value(params: Mapping[str, Any], name: str) -> float:
    return numeric(params).get(name, 0.0)


def _features(
    samples: Sequence[Sample], full: Characteristics, params: Mapping[str, Any], *, informed: bool
) -> tuple[Floats, Floats]:
    varying = _varying(samples)
    names = ["R", "U", "I", *(["Su", "Si", "Mu", "Mi"] if informed else [])]

    def row(sizes: Characteristics, setting: Mapping[str, Any]) -> list[float]:
        return [*(float(getattr(sizes, name)) for name in names), *(_value(setting, name) for name in varying)]

    return np.array([row(one.characteristics, one.params) for one in samples]), np.array(row(full, params))


def _logs(rows: Floats, asked: Floats) -> tuple[Floats, Floats]:
    """Return logarithms of features; of one that may be 0, the logarithm of one more."""
    more = np.where((rows > 0).all(axis=0) & (asked > 0), 0.0, 1.0)
    return np.log(rows + more), np.log(asked + more)


def _line(rows: Floats, asked: Floats, y: Floats) -> float:
    """Return least squares at one point, in standard units with a trace of shrinkage.

    With as many slopes as samples a plain line goes through every error and may say anything; the trace
    changes nothing where the samples determine the slopes.
    """
    middle, spread = rows.mean(axis=0), rows.std(axis=0)
    spread[spread == 0] = 1.0
    units = (rows - middle) / spread
    slopes = np.linalg.solve(units.T @ units + _TRACE * len(rows) * np.eye(rows.shape[1]), units.T @ (y - y.mean()))
    return float(y.mean() + ((asked - middle) / spread) @ slopes)


def _forest(rows: Floats, seconds: Floats, asked: Floats) -> float:
    from sklearn.ensemble import RandomForestRegressor  # pyright: ignore[reportMissingTypeStubs]

    model = RandomForestRegressor(_TREES, random_state=0, n_jobs=1).fit(rows, seconds)
    return float(model.predict(asked[None, :])[0])


def _process(rows: Floats, asked: Floats, y: Floats) -> float:
    from sklearn.exceptions import ConvergenceWarning  # pyright: ignore[reportMissingTypeStubs]
    from sklearn.gaussian_process import GaussianProcessRegressor  # pyright: ignore[reportMissingTypeStubs]
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel  # pyright: ignore

    middle, spread = rows.mean(axis=0), rows.std(axis=0)
    spread[spread == 0] = 1.0
    scales: Any = np.ones(rows.shape[1])
    kernel = ConstantKernel(1.0, (1e-2, 1e3)) * RBF(scales, (1e-1, 1e3)) + WhiteKernel(1e-2, (1e-6, 1.0))
    model = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=1, random_state=0)
    with warnings.catch_warnings():
        # A length scale at its bound is what a handful of samples gives.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit((rows - middle) / spread, y)
    return float(np.exp(model.predict(((asked - middle) / spread)[None, :])[0]))
