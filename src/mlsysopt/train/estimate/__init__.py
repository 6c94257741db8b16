"""How long will this training take, and will it fit: known before it starts.

Cost terms are read from a trainer's algorithm, their coefficients are timed on small samples of the
data, and the full data's characteristics are put in.

References:
    Paun, Moshfeghi and Ntarmos, Are we there yet? Estimating Training Time for Recommendation
    Systems, EuroMLSys 2021, doi 10.1145/3437984.3458832.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlsysopt._lazy import lazy

if TYPE_CHECKING:
    from mlsysopt.train.estimate import synthetic as synthetic
    from mlsysopt.train.estimate.answer import Estimate
    from mlsysopt.train.estimate.characteristics import Characteristics
    from mlsysopt.train.estimate.climb import SamplingFailed
    from mlsysopt.train.estimate.forecast import Forecast
    from mlsysopt.train.estimate.memory import DoesNotFit
    from mlsysopt.train.estimate.planning import Plan, plan
    from mlsysopt.train.estimate.question import run
    from mlsysopt.train.estimate.ratings import Ratings, RatingsError
    from mlsysopt.train.estimate.samples import Sample
    from mlsysopt.train.estimate.track import Tracker, TrainingStopped
    from mlsysopt.train.estimate.trainers.registry import TrainerRecord, trainer

__all__ = [
    "Characteristics",
    "DoesNotFit",
    "Estimate",
    "Forecast",
    "Plan",
    "Ratings",
    "RatingsError",
    "Sample",
    "SamplingFailed",
    "Tracker",
    "TrainerRecord",
    "TrainingStopped",
    "plan",
    "run",
    "synthetic",
    "trainer",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Characteristics": "mlsysopt.train.estimate.characteristics",
        "DoesNotFit": "mlsysopt.train.estimate.memory",
        "Estimate": "mlsysopt.train.estimate.answer",
        "Forecast": "mlsysopt.train.estimate.forecast",
        "Plan": "mlsysopt.train.estimate.planning",
        "Ratings": "mlsysopt.train.estimate.ratings",
        "RatingsError": "mlsysopt.train.estimate.ratings",
        "Sample": "mlsysopt.train.estimate.samples",
        "SamplingFailed": "mlsysopt.train.estimate.climb",
        "Tracker": "mlsysopt.train.estimate.track",
        "TrainerRecord": "mlsysopt.train.estimate.trainers.registry",
        "TrainingStopped": "mlsysopt.train.estimate.track",
        "plan": "mlsysopt.train.estimate.planning",
        "run": "mlsysopt.train.estimate.question",
        "synthetic": "mlsysopt.train.estimate.synthetic",
        "trainer": "mlsysopt.train.estimate.trainers.registry",
    },
)
