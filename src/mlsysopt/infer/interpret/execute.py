"""One run of a model: what it drew, and the log joint there.

The log joint of the compiled model is tested against this one. It is slow, and good for stepping through a model:
breakpoints in it are met.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from types import CodeType, FunctionType, TracebackType
from typing import Any, Literal

from mlsysopt.core.errors import UsageError, near_misses
from mlsysopt.infer.interpret.cells import as_input, read
from mlsysopt.infer.interpret.hooks import Run
from mlsysopt.infer.interpret.source import hook_name, rewrite
from mlsysopt.infer.interpret.words import namespace

__all__ = ["Interpretation", "interpret"]


@dataclass(frozen=True, slots=True, eq=False)
class Interpretation:
    """One run of a model.

    Attributes:
        values: Variable -> what was drawn or given, in program order: a number, an int64 or float64 array, or a list
            of arrays for ragged rows. A cell that no path assigned is nan, or 0 among whole numbers. An observed
            array with latent cells stands here too, completed.
        observed: Observed input -> its data, or what was drawn in place of a `Shape`.
        log_joint: Log density of all of it, with every constant, and all factors. Components in ascending order
            count as the sum over the components, without the constant (log n! for n that are alike) by which that
            density integrates to one.
        log_likelihood: The part of the observed data.
    """

    values: dict[str, Any]
    observed: dict[str, Any]
    log_joint: float
    log_likelihood: float


def interpret(
    function: Any,
    inputs: Mapping[str, Any],
    *,
    seed: int = 0,
    values: Mapping[str, Any] | None = None,
    missing: Literal["error", "latent"] = "error",
    source: str | None = None,
) -> Interpretation:
    """Run a model as ordinary Python.

    Args:
        function: The model, as its `def` left it.
        inputs: Parameter -> int, float, bool, an array of one or two dimensions, or a list of arrays for ragged
            rows. A `Shape` (for ragged rows a list of them) is an observed array that does not exist yet: observing
            a cell of it draws the cell.
        seed: Of the draws, at least 0; the same seed gives the same values.
        values: Variable -> value that it takes instead of being drawn, all cells of it; what an earlier run
            returned as `values` fits.
        missing: What a nan in observed data, or a masked cell, is: an "error", or "latent", a variable that is
            drawn where it would be observed. Values of latent cells are taken from `values` under the array's name.
        source: Text with the model's `def`, where Python cannot find it.

    Raises:
        UsageError: the model, its inputs or values do not fit; `file:line: what; remedy`.

    >>> from mlsysopt.infer.language import Beta, Binomial, Shape, observe
    >>> def coin(heads, tosses: int):
    ...     p = Beta(1.0, 1.0)
    ...     observe(heads, Binomial(tosses, p))
    >>> run = interpret(coin, {"heads": 7, "tosses": 10}, values={"p": 0.5})
    >>> round(run.log_joint, 6)  # log(120 / 2**10)
    -2.14398
    >>> interpret(coin, {"heads": Shape(), "tosses": 10}, values={"p": 1.0}).observed
    {'heads': 10}
    """
    if not isinstance(function, FunctionType):
        raise UsageError(f"a model is a function made by def, got {function!r}; pass the function itself")
    if missing not in ("error", "latent"):
        raise UsageError(f'missing must be "error" or "latent", got {missing!r}')
    data = _bound(function, inputs)
    run = Run(data, values or {}, latent=missing == "latent", seed=seed)
    names, observers = namespace(function, run.factor)
    rewritten = rewrite(function, source, observers)
    run.start(rewritten.line, rewritten.targets)
    for hook in (run.bind, run.loop, run.observe, run.put, read, slice):
        names[hook_name(hook.__name__)] = hook
    exec(rewritten.module, names)
    _call(names[function.__name__], data, rewritten.file)
    return Interpretation(run.values(), run.observed(), run.log_joint, run.log_likelihood)


def _bound(function: FunctionType, inputs: Mapping[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters
    for given in inputs:
        if given not in parameters:
            raise UsageError(
                f"{function.__name__} has no input {given!r}; {near_misses(given, parameters, noun='input')}"
            )
    bound: dict[str, Any] = {}
    for name, parameter in parameters.items():
        if parameter.kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
            raise UsageError(f"{function.__name__}: input {name} must be a plain parameter; take off its * or /")
        value = inputs.get(name, parameter.default)
        if value is inspect.Parameter.empty:
            raise UsageError(f"{function.__name__} needs the input {name!r}; give it, or Shape(n) to have it drawn")
        bound[name] = as_input(name, value)
    return bound


def _call(model: FunctionType, data: Mapping[str, Any], file: str) -> None:
    """Run it; errors of ours get the line of the model, and keep their traceback."""
    try:
        model(**data)
    except UsageError as error:
        error.args = (f"{file}:{_line(model.__code__, error.__traceback__)}: {error}",)
        raise
    except NameError as error:
        line = _line(model.__code__, error.__traceback__, innermost=True)
        quoted = str(error).split("'")
        if not line or len(quoted) < 3:
            raise
        raise UsageError(
            f"{file}:{line}: {quoted[1]} is used before it is assigned, and is no word of the language; "
            "assign it on every path that leads here"
        ) from error


def _line(code: CodeType, trace: TracebackType | None, *, innermost: bool = False) -> int:
    """The line that a traceback passes in the model, 0 for none; `innermost` leaves out what happened in calls."""
    line = 0
    while trace is not None:
        if trace.tb_frame.f_code is code:
            line = trace.tb_lineno
        elif innermost:
            line = 0
        trace = trace.tb_next
    return line
