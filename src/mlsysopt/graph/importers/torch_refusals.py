"""What torch refuses to export, in our words: which dimension or input, and what to do."""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlsysopt.core.errors import UsageError, near_misses
from mlsysopt.core.space.expressions import Expression
from mlsysopt.graph.errors import ImportFailed
from mlsysopt.graph.importers.examples import example_tensors, symbols_of
from mlsysopt.graph.symbolic import Dim, declared_range
from mlsysopt.graph.types import DTYPES, TensorType

if TYPE_CHECKING:
    from torch import nn

__all__ = ["bound_inputs", "check_mode", "export_error", "mutation_error"]

_SUGGESTED = re.compile(r"^\s+(\w+) = (.+?)\s*$", re.M)
_DIM = re.compile(r"Dim\('\w+'(?:, min=(\d+))?(?:, max=(\d+))?\)")
_GUARD = re.compile(
    r"Not all values of (\w+) = (L\S*) in the specified range .*? satisfy the generated guard (.+?)\.$", re.M
)
_INFERRED = re.compile(r"marked (\w+) as dynamic but .*?specialized it to be a constant \((\d+)\)", re.S)


def check_mode(module: nn.Module, *, train: bool) -> None:
    """Refuse a module in training mode.

    Raises:
        UsageError: it is, or a part of it is; the message names the parts.
    """
    if train:
        return
    parts = [f"{name or type(module).__name__!r}" for name, part in module.named_modules() if part.training]
    if parts:
        which = "the module" if module.training else f"{', '.join(parts[:3])}{' and others' if len(parts) > 3 else ''}"
        raise UsageError(
            f"{type(module).__name__}: {which} is in training mode, where dropout is random and normalisations "
            "change their statistics\ncall model.eval() before, or pass train=True for the training step"
        )


def mutation_error(name: str, buffers: Sequence[str], *, train: bool) -> UsageError:
    """Return the error for a module that writes into its buffers or inputs."""
    advice = (
        "freeze those normalisations (part.eval()), or keep the state outside the model"
        if train
        else "call model.eval() before, keep the state outside the model, or pass train=True for a training step"
    )
    return UsageError(
        f"{name}: its forward changes {', '.join(buffers[:4])}{' and others' if len(buffers) > 4 else ''}; "
        f"a program has no state\n{advice}"
    )


def bound_inputs(module: nn.Module, inputs: Mapping[str, TensorType]) -> bool:
    """Return whether inputs are given by the names of forward's parameters, else by position.

    Raises:
        UsageError: some names are parameters and some are not, or there are too many or too few.
    """
    parameters = inspect.signature(module.forward).parameters
    kinds = inspect.Parameter
    named = [n for n, p in parameters.items() if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)]
    open_ended = any(p.kind is kinds.VAR_KEYWORD for p in parameters.values())
    matched = [name for name in inputs if name in named]
    who = f"{type(module).__name__}.forward"
    if matched and len(matched) < len(inputs) and not open_ended:
        wrong = next(name for name in inputs if name not in named)
        raise UsageError(f"{who} has no parameter {wrong!r}; {near_misses(wrong, named, noun='parameter', width=10)}")
    if matched:
        missing = [n for n, p in parameters.items() if n in named and p.default is kinds.empty and n not in inputs]
        if missing:
            raise UsageError(f"{who} needs {', '.join(missing)} too; given are {', '.join(inputs)}")
        return True
    positional = [p for p in parameters.values() if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
    least = sum(p.default is kinds.empty for p in positional)
    most = len(positional)
    if any(p.kind is kinds.VAR_POSITIONAL for p in parameters.values()):
        most = max(most, len(inputs))
    if not least <= len(inputs) <= most:
        raise UsageError(
            f"{who} takes {least if least == most else f'{least} to {most}'} inputs ({', '.join(named)}), "
            f"but {len(inputs)} are declared: {', '.join(inputs)}"
        )
    return False


def export_error(
    error: Exception,
    module: nn.Module,
    inputs: Mapping[str, TensorType],
    run: Callable[[Mapping[str, Any]], Any],
    *,
    symbols: Sequence[Dim] = (),
    own_examples: bool,
) -> Exception:
    """Return our error for one that torch.export raised.

    Args:
        error: What torch raised.
        module: The model.
        inputs: Declared inputs.
        run: Runs the model on tensors by input name.
        symbols: As in `from_torch`.
        own_examples: Whether the user gave the examples.
    """
    text = str(error)
    declared = symbols_of(inputs, symbols)
    name = type(module).__name__
    if "Constraints violated" in text or "specializ" in text or "was inferred to be a constant" in text:
        return ImportFailed(_specialised(name, text, declared, own_examples))
    refused = _refused(module, inputs, run) if not own_examples else None
    if refused is not None:
        return refused
    first = next((line for line in text.splitlines() if line.strip()), type(error).__name__)
    place = _place(error)
    return ImportFailed(
        f"{name} cannot be exported by torch{f' ({place})' if place else ''}: {first.strip()[:300]}\n"
        "control flow that reads values of tensors has to go, or pass an ExportedProgram to from_exported"
    )


def _specialised(name: str, text: str, declared: Mapping[str, Dim], own_examples: bool) -> str:
    """Say which dimension torch fixed, to what, and which sizes it would take."""
    suggested = _SUGGESTED.findall(text)
    constants = [(dim, value) for dim, value in suggested if value.isdigit()]
    constants += [pair for pair in _INFERRED.findall(text) if pair not in constants]
    ranges = [(dim, *limits) for dim, value in suggested for limits in _DIM.findall(value)]
    ranges = ranges or _narrowed(text, declared)
    formulas = [(dim, value) for dim, value in suggested if not value.isdigit() and "Dim(" not in value]
    said: list[str] = []
    advice: list[str] = []
    if constants:
        said.append("torch fixed " + ", ".join(f"{dim} to the constant {value}" for dim, value in constants))
        advice.append("declare " + ", ".join(f"{value} instead of {dim}" for dim, value in constants))
        if not own_examples:
            advice.append("pass examples= of other sizes if only the example's size is special")
    if formulas:
        said.append("torch's trace holds only for " + ", ".join(f"{dim} = {value}" for dim, value in formulas))
        advice.append("declare the size by such a formula of another symbol")
    if ranges:
        taken = ", ".join(f"{dim} in {low or 0}..{high}" for dim, low, high in ranges)
        said.append(f"torch takes {taken}" if said else f"torch does not take the whole range, only {taken}")
        advice.append("declare that range")
    if not said:
        guards = dict.fromkeys(f"{guard.replace(theirs, dim)}" for dim, theirs, guard in _GUARD.findall(text))
        said += [f"torch's trace needs {guard}" for guard in list(guards)[:3]]
        advice.append("narrow the range so that it always holds" if said else "")
    if not said:
        said.append(text.strip().splitlines()[0][:300])
    return f"{name}: not every declared dimension can stay free: {'; '.join(said)}\n{'; '.join(advice)}".rstrip()


_FARTHEST = 4096


def _narrowed(text: str, declared: Mapping[str, Dim]) -> list[tuple[str, str, str]]:
    """Find the upper part of each range in which torch's conditions on one dimension hold, by trying."""
    conditions: dict[str, list[Expression]] = {}
    for dim, theirs, guard in _GUARD.findall(text):
        plain = guard.replace(theirs, dim)
        if dim not in declared or "L[" in plain:
            return []
        conditions.setdefault(dim, []).append(Expression.parse(plain))
    found: list[tuple[str, str, str]] = []
    for dim, rules in conditions.items():
        low, high = declared_range(declared[dim])
        last = high if high is not None else _FARTHEST
        least = last + 1
        while least > low and all(rule.holds({dim: least - 1}) for rule in rules):
            least -= 1
        if least > last:
            return []
        found.append((dim, str(least), "" if high is None else str(high)))
    order = list(declared)
    return sorted(found, key=lambda one: order.index(one[0]))


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "/torch/" not in f.filename and "/mlsysopt/" not in f.filename and f.name == "forward"]
    return f"{own[-1].filename.rpartition('/')[2]}:{own[-1].lineno}" if own else ""


def _refused(
    module: nn.Module, inputs: Mapping[str, TensorType], run: Callable[[Mapping[str, Any]], Any]
) -> UsageError | None:
    """Say which input the model cannot take as declared, found by trying others; None when it takes them all."""
    found = _attempt(module, inputs, run)
    if found is None:
        return None
    place, why = found
    where = f" ({place})" if place else ""
    for name, declared in inputs.items():
        for other in _others(declared):
            if _attempt(module, {**inputs, name: other}, run) is None:
                needs = f"rank {other.rank}" if other.rank != declared.rank else f"element type {other.dtype}"
                return UsageError(f"input {name!r}: expected {declared}, model needs {needs}{where}")
    shown = ", ".join(f"{name}: {declared}" for name, declared in inputs.items())
    return UsageError(f"{type(module).__name__} cannot take inputs {shown}{where}: {why}")


def _others(declared: TensorType) -> Iterator[TensorType]:
    for word in ("i64", "f32", "bool", "i32", "f64", "f16"):
        if word != declared.dtype.name:
            yield declared.with_dtype(DTYPES[word])
    one = Dim.of(1)
    shape = declared.shape
    for missing in range(len(shape)):
        yield declared.with_shape(shape[:missing] + shape[missing + 1 :])
    for place in range(len(shape) + 1):
        yield declared.with_shape((*shape[:place], one, *shape[place:]))
    for first in range(len(shape) + 1):
        for second in range(first, len(shape) + 1):
            yield declared.with_shape((*shape[:first], one, *shape[first:second], one, *shape[second:]))


def _attempt(
    module: nn.Module, inputs: Mapping[str, TensorType], run: Callable[[Mapping[str, Any]], Any]
) -> tuple[str, str] | None:
    import torch

    try:
        with torch.no_grad():
            run(example_tensors(inputs, module))
    except Exception as error:  # whatever a model raises is its way of refusing
        lines = str(error).strip().splitlines()
        return _place(error), (lines[0] if lines else type(error).__name__)[:200]
    return None
