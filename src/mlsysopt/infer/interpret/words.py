"""What the words of the language do when a model is interpreted, and under which names its source finds them."""

from __future__ import annotations

import builtins
import functools
import math
import operator
from collections.abc import Callable, Mapping
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any, NoReturn

import numpy as np

from mlsysopt.core.errors import UsageError, near_misses
from mlsysopt.infer import language
from mlsysopt.infer.interpret.cells import make_array
from mlsysopt.infer.interpret.laws import distribution_words

__all__ = ["namespace"]

_MODULES = ("mlsysopt.infer", "mlsysopt.infer.language")


def namespace(function: FunctionType, factor: Callable[[Any], None]) -> tuple[dict[str, Any], frozenset[str]]:
    """Return what the names in a model mean, and what calls of `observe` look like there.

    Words that the model's module took from the language are replaced by working ones; words that it took from
    nowhere are found too; everything else stays the module's own.

    Args:
        function: The model.
        factor: What `factor(w)` does.
    """
    words: Mapping[str, Any] = {**_WORDS, **distribution_words(), "factor": factor}
    of_language = {id(getattr(language, name)): word for name, word in words.items() if hasattr(language, name)}
    names: dict[str, Any] = {**function.__globals__, **_closure(function)}
    observers = {name for name, value in names.items() if value is language.observe}
    for name, value in list(names.items()):
        if id(value) in of_language:
            names[name] = of_language[id(value)]
        elif isinstance(value, ModuleType) and value.__name__ in _MODULES:
            names[name] = SimpleNamespace(**words)
            observers.add(f"{name}.observe")
    if "observe" not in names:
        observers.add("observe")
    unbound = {name: word for name, word in words.items() if not hasattr(builtins, name)}
    return {**unbound, **names}, frozenset(observers)


def _closure(function: FunctionType) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            names[name] = cell.cell_contents
        except ValueError:  # assigned after the model, if ever
            continue
    return names


def _exp(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def _expm1(x: float) -> float:
    try:
        return math.expm1(x)
    except OverflowError:
        return math.inf


def _log(x: float) -> float:
    return math.log(x) if x > 0 else (-math.inf if x == 0 else math.nan)


def _log1p(x: float) -> float:
    return math.log1p(x) if x > -1 else (-math.inf if x == -1 else math.nan)


def _sqrt(x: float) -> float:
    return math.sqrt(x) if x >= 0 else math.nan


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


def _dot(a: Any, b: Any) -> int | float:
    left, right = np.asarray(a), np.asarray(b)
    if left.ndim != 1 or left.shape != right.shape:
        raise UsageError(f"dot takes two vectors of one length, got shapes {left.shape} and {right.shape}")
    return np.dot(left, right).item()


_FOLDS: Mapping[str, tuple[Callable[[Any, Any], Any], Any]] = {
    "add": (operator.add, 0),
    "mul": (operator.mul, 1),
    "min": (min, math.inf),
    "max": (max, -math.inf),
    "and": (lambda a, b: bool(a and b), True),
    "or": (lambda a, b: bool(a or b), False),
}


def _reduce(op: Any, values: Any) -> Any:
    # By name, by the builtin, or from `operator`, where two have an underscore.
    name = op if isinstance(op, str) else str(getattr(op, "__name__", op))
    if name.rstrip("_") not in _FOLDS:
        raise UsageError(f"reduce by {name}: {near_misses(name, _FOLDS, noun='operation')}")
    fold, start = _FOLDS[name.rstrip("_")]
    array = np.asarray(values)
    if array.ndim != 1:
        raise UsageError(f"reduce folds a range of numbers such as a[lo:hi], got shape {array.shape}")
    return functools.reduce(fold, array.tolist(), start)


def _observe(*_: Any, **__: Any) -> NoReturn:
    raise UsageError("observe(value, distribution) has no value; write it on a line of its own")


_WORDS: Mapping[str, Any] = {
    "add": operator.add,
    "array": make_array,
    "dot": _dot,
    "exp": _exp,
    "expm1": _expm1,
    "log": _log,
    "log1p": _log1p,
    "mul": operator.mul,
    "observe": _observe,
    "reduce": _reduce,
    "sigmoid": _sigmoid,
    "sqrt": _sqrt,
}
