"""A forecast as a file: everything it was made from, so that it can be asked again without a new sample."""

from __future__ import annotations

import json
import math
from typing import Any

from mlsysopt.core.errors import ArtefactError
from mlsysopt.core.places import artefact_header, read_header
from mlsysopt.train.estimate.characteristics import Characteristics
from mlsysopt.train.estimate.forecast import Forecast, Rival
from mlsysopt.train.estimate.intervals import Bank
from mlsysopt.train.estimate.samples import Sample
from mlsysopt.train.estimate.typical import Typical

__all__ = ["read", "written"]

_FORMAT = "estimate"


def written(forecast: Forecast, *, with_rivals: bool = True) -> str:
    """Return a forecast as text; see `Forecast.to_json`."""
    content: dict[str, Any] = {
        **artefact_header(_FORMAT, 1, machine=forecast.machine or None),
        "trainer": forecast.trainer,
        "params": forecast.params,
        "asked": forecast.asked,
        "characteristics": forecast.characteristics.as_dict(),
        "samples": [sample.as_dict() for sample in forecast.samples],
        "terms": list(forecast.terms),
        "coefficients": list(forecast.coefficients),
        "rolling_error": forecast.rolling_error,
        "seconds": forecast.seconds,
        "low": forecast.low,
        "high": forecast.high if math.isfinite(forecast.high) else None,
        "memory": forecast.memory,
        "loaded_bytes": forecast.loaded_bytes,
        "calibration": forecast.calibration,
        "extrapolated": list(forecast.extrapolated),
        "auto": list(forecast.auto) if forecast.auto is not None else None,
        "dropped": list(forecast.dropped),
        "predictor": forecast.predictor,
        "machine": forecast.machine,
        "digest": forecast.digest,
        "bank": json.loads(forecast.bank.to_json()),
        "typical": json.loads(forecast.typical.to_json()),
        "rivals": {rival.name: rival.seconds for rival in forecast.rivals} if with_rivals else None,
    }
    return json.dumps(content, indent=1) + "\n"


def read(text: str) -> Forecast:
    """Read a forecast; see `Forecast.from_json`."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ArtefactError(f"this is no {_FORMAT} file: {error}") from None
    read_header(content, _FORMAT, 1)
    try:
        values = {name: content[name] for name in Forecast.__dataclass_fields__}
        told = content.get("rivals")
        values |= {name: tuple(values[name]) for name in ("terms", "coefficients", "extrapolated", "dropped")}
        values["characteristics"] = Characteristics.from_dict(values["characteristics"])
        values["samples"] = tuple(Sample.from_dict(sample) for sample in values["samples"])
        values["high"] = math.inf if values["high"] is None else values["high"]
        values["bank"] = Bank.from_json(json.dumps(values["bank"]))
        values["typical"] = Typical.from_json(json.dumps(values["typical"]))
        if values["auto"] is not None:
            picked, seconds, error = values["auto"]
            values["auto"] = (tuple(picked), seconds, error)
        forecast = Forecast(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtefactError(f"this {_FORMAT} file is damaged: {type(error).__name__}: {error}") from None
    if told is not None:
        # A cached property keeps its value where the instance keeps its fields.
        forecast.__dict__["rivals"] = tuple(Rival(name, seconds) for name, seconds in told.items())
    return forecast
