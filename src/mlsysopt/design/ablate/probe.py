"""What happens in a model when one real batch goes through it: calls, shapes, and who consumes what.

Two batches of different size are run, so that axes which follow the batch are told from those that
only have its size by chance.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

from mlsysopt.design.ablate.trail import Role, Trail, following, leaves

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Leaf", "Probe", "Seen", "call_model", "kinds", "leaves", "probe", "rebuilt", "slow_paths", "structure_of"]


@dataclass(frozen=True, slots=True)
class Leaf:
    """One tensor in what a module takes or gives.

    Attributes:
        shape: Its shape with the first batch.
        dtype: Name of its element type.
        batch_axes: Axes that follow the batch.
        roles: As what it is consumed; empty for inputs, and for what nobody uses.
        same_as: Which tensor of the input it is, None when it is a new one.
    """

    shape: tuple[int, ...]
    dtype: str
    batch_axes: tuple[int, ...] = ()
    roles: frozenset[Role] = frozenset()
    same_as: int | None = None

    @property
    def is_float(self) -> bool:
        return self.dtype.startswith(("float", "bfloat"))

    @property
    def role(self) -> Role | None:
        """The one role that all consumers agree on, else "chain"; None when nobody uses it."""
        if "output" in self.roles:
            return "output"
        # An addition and a concatenation have the same neutral element.
        found = {"add" if role == "cat" else role for role in self.roles}
        return next(iter(found)) if len(found) == 1 else "chain" if found else None  # pyright: ignore[reportReturnType]


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of one module.

    Attributes:
        calls: How often it was called.
        sites: Source lines that called it.
        inputs: Tensors it was given in its first call.
        outputs: Tensors it gave.
        structure: Its output with each tensor replaced by its place among `outputs`.
        beside_input: Whether its output is added to its own input.
        unlike: Source line of a call that gave another structure than the first one, "" where none did.
    """

    calls: int
    sites: tuple[str, ...]
    inputs: tuple[Leaf, ...]
    outputs: tuple[Leaf, ...]
    structure: Any
    beside_input: bool = False
    unlike: str = ""

    @property
    def gives_output(self) -> bool:
        """Whether the model's own output comes straight out of it."""
        return any(leaf.role == "output" for leaf in self.outputs)


@dataclass(frozen=True, slots=True)
class Probe:
    """What was seen of all modules of a model.

    Attributes:
        seen: Path -> what was seen, for modules that were called; every path of a shared instance.
        uncalled: Paths of modules that were not called.
        batch_sizes: The two batch sizes.
    """

    seen: Mapping[str, Seen]
    uncalled: frozenset[str] = frozenset()
    batch_sizes: tuple[int, int] = (0, 0)


def call_model(model: nn.Module, batch: Any) -> Any:
    """Call a model as its batch asks for: a dict by keyword, a tuple or list by position, else alone."""
    if isinstance(batch, Mapping):
        return model(**batch)
    if isinstance(batch, tuple | list):
        return model(*batch)
    return model(batch)


@dataclass(frozen=True, slots=True)
class _Place:
    """Stands for a tensor in a structure."""

    index: int


@dataclass(frozen=True, slots=True)
class _Made:
    """Stands for an object that holds others by name: a named tuple, a dataclass, a mapping with its own class."""

    kind: type[Any]
    parts: Mapping[str, Any]


def structure_of(value: Any, count: list[int] | None = None) -> Any:
    """Return a value with each tensor replaced by its place in `leaves`."""
    import torch

    count = [0] if count is None else count
    if isinstance(value, torch.Tensor):
        count[0] += 1
        return _Place(count[0] - 1)
    if isinstance(value, Mapping):
        parts = {key: structure_of(one, count) for key, one in value.items()}
        return parts if type(value) is dict else _Made(type(value), parts)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        names: tuple[str, ...] = value._fields  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
        return _Made(type(value), {name: structure_of(getattr(value, name), count) for name in names})
    if isinstance(value, tuple | list):
        return type(value)([structure_of(one, count) for one in value])
    if is_dataclass(value) and not isinstance(value, type):
        return _Made(type(value), {one.name: structure_of(getattr(value, one.name), count) for one in fields(value)})
    return value


def rebuilt(structure: Any, tensors: Sequence[Any]) -> Any:
    """Return a structure with tensors in place of their numbers."""
    if isinstance(structure, _Place):
        return tensors[structure.index]
    if isinstance(structure, _Made):
        return structure.kind(**{key: rebuilt(one, tensors) for key, one in structure.parts.items()})
    if isinstance(structure, dict):
        return {key: rebuilt(one, tensors) for key, one in structure.items()}
    if isinstance(structure, tuple | list):
        return type(structure)([rebuilt(one, tensors) for one in structure])
    return structure


def kinds(structure: Any) -> Any:
    """Return a structure without what numbers and words it holds: what two calls of one module have in common."""
    if isinstance(structure, Mapping):
        return {key: kinds(one) for key, one in structure.items()}
    if isinstance(structure, tuple | list):
        return type(structure).__name__, [kinds(one) for one in structure]
    return type(structure).__name__ if isinstance(structure, bool | int | float | str) else structure


@contextmanager
def slow_paths() -> Generator[None]:
    """Keep torch from its fused transformer layers, which call none of the modules inside them.

    What the layers ask is replaced, not what they are told: a model may switch them on by itself.
    """
    import torch

    mha = torch.backends.mha
    asked, before = mha.get_fastpath_enabled, mha.get_fastpath_enabled()
    mha.get_fastpath_enabled = lambda: False
    try:
        yield
    finally:
        mha.get_fastpath_enabled = asked
        mha.set_fastpath_enabled(before)


def probe(model: nn.Module, batch: Any, *, second_batch: Any = None, seed: int = 0) -> Probe:
    """Run one batch, then another of another size, through a copy of a model in training mode.

    Args:
        model: The whole model; it is not changed.
        batch: What the model is called with.
        second_batch: The same with another batch size; None leaves open which axes follow the batch
            and takes the first axis of each tensor.
        seed: Seed of torch's generator during the calls.
    """
    from mlsysopt.design.ablate.select import paths_of, unwrapped

    model = unwrapped(model)
    first = _observed(model, batch, seed)
    second = None if second_batch is None else _observed(model, second_batch, seed)
    seen: dict[str, Seen] = {}
    for place, paths in paths_of(model).items():
        one = next((first[path] for path in paths if path in first), None)
        if one is None:
            continue
        other = next((second[path] for path in paths if path in second), None) if second is not None else None
        seen[place] = Seen(
            calls=one.calls,
            sites=tuple(dict.fromkeys(one.sites)),
            inputs=_with_batch(one.inputs, other.inputs if other else None, alone=second is None),
            outputs=_with_batch(one.outputs, other.outputs if other else None, alone=second is None),
            structure=one.structure,
            beside_input=one.beside,
            unlike=one.unlike,
        )
    places = {path for path, _ in model.named_modules(remove_duplicate=False) if path}
    sizes = [next((int(tensor.shape[0]) for tensor in leaves(b) if tensor.ndim), 0) for b in (batch, second_batch)]
    return Probe(seen, frozenset(places - seen.keys()), (sizes[0], sizes[1]))


@dataclass(slots=True)
class _Observed:
    calls: int = 0
    sites: list[str] = field(default_factory=list[str])
    inputs: list[Leaf] = field(default_factory=list[Leaf])
    outputs: list[Leaf] = field(default_factory=list[Leaf])
    structure: Any = None
    beside: bool = False
    unlike: str = ""


def _leaf(tensor: torch.Tensor, given: Sequence[torch.Tensor] = ()) -> Leaf:
    same = next((i for i, one in enumerate(given) if one is tensor), None)
    return Leaf(tuple(int(n) for n in tensor.shape), str(tensor.dtype).removeprefix("torch."), same_as=same)


def _with_batch(first: Sequence[Leaf], second: Sequence[Leaf] | None, *, alone: bool) -> tuple[Leaf, ...]:
    found: list[Leaf] = []
    for i, leaf in enumerate(first):
        other = second[i] if second is not None and i < len(second) else None
        if other is None or len(other.shape) != len(leaf.shape):
            axes: tuple[int, ...] = (0,) if leaf.shape and alone else ()
        else:
            axes = tuple(k for k, (a, b) in enumerate(zip(leaf.shape, other.shape, strict=True)) if a != b)
        found.append(replace(leaf, batch_axes=axes))
    return tuple(found)


def _observed(model: nn.Module, batch: Any, seed: int) -> dict[str, _Observed]:
    import torch

    subject = copy.deepcopy(model).train()
    found: dict[str, _Observed] = {}
    trail = Trail()
    for path, module in subject.named_modules():
        # TorchScript takes no hooks.
        if path and not isinstance(module, torch.jit.ScriptModule):
            _watch(module, path, found, trail)
    # Modules may write into what they are given; the user's batch stays as it is.
    batch = copy.deepcopy(batch)
    with slow_paths(), torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trail.start(leaves(batch))
        with following(trail):
            output = call_model(subject, batch)
    trail.end(leaves(output))
    for path, one in found.items():
        one.beside = path in trail.beside
        one.outputs = [
            replace(leaf, roles=frozenset(trail.roles.get((path, i), ()))) for i, leaf in enumerate(one.outputs)
        ]
    return found


def _watch(module: nn.Module, path: str, found: dict[str, _Observed], trail: Trail) -> None:
    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        one = found.setdefault(path, _Observed())
        one.calls += 1
        one.sites.append(_caller())
        given = leaves((args, kwargs))
        if one.calls == 1:
            one.inputs = [_leaf(tensor) for tensor in given]
        trail.enter(path, given)

    def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        one = found[path]
        given, made = leaves((args, kwargs)), leaves(output)
        if one.calls == 1:
            one.outputs = [_leaf(tensor, given) for tensor in made]
            one.structure = structure_of(output)
        elif not one.unlike and kinds(structure_of(output)) != kinds(one.structure):
            one.unlike = one.sites[-1] or "a later call"
        trail.leave(path, given, made)

    module.register_forward_pre_hook(before, with_kwargs=True)
    module.register_forward_hook(after, with_kwargs=True)


def _caller() -> str:
    """Return the nearest line of the call stack that is neither torch's nor ours."""
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        file = frame.f_code.co_filename
        if "/torch/" not in file and "mlsysopt/design/ablate/" not in file and not file.startswith("<frozen"):
            return f"{file.rpartition('/')[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
