"""What the user's functions take and what they return, checked before and after."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from mlsysopt.core.errors import StudyError, near_misses

__all__ = ["Unusable", "check_keyword", "check_numbers", "check_train", "option_off", "read_metrics"]


class Unusable(Exception):
    """What a training returned cannot be a result; `kind` is the kind of failure."""

    def __init__(self, reason: str, kind: str = "rejected") -> None:
        super().__init__(reason)
        self.kind = kind


def check_train(train: Callable[..., Any]) -> None:
    """Refuse a training function without a `seed` keyword.

    Raises:
        StudyError: not callable, or it takes no `seed`.
    """
    if not callable(train):
        raise StudyError(f"train must be a function of (model, data, *, seed), got {type(train).__name__}")
    parameters, open_ended = _parameters(train)
    if "seed" not in parameters and not open_ended:
        raise StudyError(
            f"{_name(train)}({', '.join(parameters)}) has no keyword 'seed': without it nothing can be paired\n"
            "write def train(model, data, *, seed): ... and use the seed for the order of the data"
        )


def option_off(train: Callable[..., Any], name: str, value: Any) -> None:
    """Check that switching `name` to `value` is possible and changes something.

    Raises:
        StudyError: no such keyword, or the value is the default already.
    """
    parameters, open_ended = _parameters(train)
    reserved = [*[*parameters][:2], "seed"]
    allowed = [key for key in parameters if key not in reserved]
    if name in reserved or (name not in parameters and not open_ended):
        raise StudyError(
            f"option {name}={value!r}: {_name(train)} has no such keyword; {near_misses(name, allowed, noun='keyword')}"
        )
    default = parameters[name].default if name in parameters else inspect.Parameter.empty
    if default is not inspect.Parameter.empty and type(default) is type(value) and default == value:
        raise StudyError(
            f"option {name}={value!r}: that is the default of {_name(train)} already, nothing would change"
        )


def check_keyword(function: Callable[..., Any], name: str, asked: str) -> None:
    """Refuse a function that does not take a keyword.

    Raises:
        StudyError: it does not.
    """
    parameters, open_ended = _parameters(function)
    if name not in parameters and not open_ended:
        raise StudyError(
            f"{asked} needs a {_name(function)} that takes {name}=; it takes {', '.join(parameters) or 'nothing'}"
        )


def check_numbers(*, margin: float | None, max_seeds: int, workers: int | None) -> None:
    """Refuse numbers that cannot be meant.

    Raises:
        StudyError: what was given and what is allowed.
    """
    if margin is not None and not (margin > 0 and math.isfinite(margin)):
        raise StudyError(f"margin must be above 0, got {margin}: the largest effect that does not matter, or None")
    if max_seeds < 3:
        raise StudyError(f"max_seeds must be at least 3, got {max_seeds}: fewer values have no spread to speak of")
    if workers is not None and workers < 0:
        raise StudyError(f"workers must be 0 (in this process) or more, got {workers}")


def read_metrics(returned: Any, metric: str) -> dict[str, float]:
    """Return the numbers of a training; the study's metric is among them.

    Args:
        returned: A number, or a mapping of names to numbers.
        metric: The one that the study is about.

    Raises:
        Unusable: nothing, text, a tensor that still has its graph, a mapping without the metric, NaN.

    >>> read_metrics({"accuracy": 0.5, "note": "x"}, "accuracy")
    {'accuracy': 0.5}
    """
    if isinstance(returned, Mapping):
        found = {str(key): value for key, value in returned.items()}
        if metric not in found:
            raise Unusable(f"train returned no {metric!r}; {near_misses(metric, found, noun='key')}")
        numbers = {metric: _number(found[metric], metric)}
        for key, value in found.items():
            if key != metric and not isinstance(value, str | bytes):
                try:
                    numbers[key] = _number(value, key)
                except Unusable:
                    continue
    else:
        numbers = {metric: _number(returned, metric)}
    if not math.isfinite(numbers[metric]):
        raise Unusable(f"{metric} is {numbers[metric]}", "degraded")
    return numbers


def _number(value: Any, name: str) -> float:
    if getattr(value, "requires_grad", False):
        raise Unusable(
            f"train returned {name} as a tensor with its graph: return a number, float(x.detach()) or x.item()"
        )
    if value is None or isinstance(value, str | bytes):
        raise Unusable(f"train returned {value!r} where a number ({name}) or a mapping with {name!r} is needed")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise Unusable(f"train returned a {type(value).__name__} where a number ({name}) is needed") from None


def _parameters(train: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    found = inspect.signature(train).parameters
    named = {k: p for k, p in found.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    return named, any(p.kind is p.VAR_KEYWORD for p in found.values())


def _name(train: Callable[..., Any]) -> str:
    return str(getattr(train, "__name__", type(train).__name__))
