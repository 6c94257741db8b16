"""Names of parts by pattern; a pattern that matches nothing is an error with the nearest names."""

from __future__ import annotations

import difflib
import fnmatch
import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlsysopt.core.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Part", "has_forward", "match", "paths_of", "unwrapped"]

_NEAREST = 3


@dataclass(frozen=True, slots=True)
class Part:
    """Something that can be taken out of a model.

    Attributes:
        name: What people call it.
        paths: Every place where it is registered; several for a shared instance or a group.
    """

    name: str
    paths: tuple[str, ...]


def match(model: nn.Module, selector: Any, *, group: bool = False) -> list[Part]:
    """Return the parts that a selector names, in the order in which the model defines them.

    Args:
        model: The whole model.
        selector: A dotted path, with `*` for a segment and `**` for several; `type:Class`;
            `prefix:text`; a callable of path and module; or a list of these, which is one group.
        group: Whether all matches are one part.

    Raises:
        UsageError: nothing matches; the nearest names are listed.

    >>> from torch import nn
    >>> model = nn.ModuleDict({"stem": nn.Linear(2, 2), "blocks": nn.ModuleList([nn.Tanh(), nn.Tanh()])})
    >>> match(model, "stem"), [part.name for part in match(model, "blocks.*")]
    ([Part(name='stem', paths=('stem',))], ['blocks.0', 'blocks.1'])
    """
    model = unwrapped(model)
    places = paths_of(model)
    if isinstance(selector, list | tuple):
        if not selector:
            raise UsageError("an empty list of modules: name at least one")
        found = [path for one in selector for path in _matched(model, places, one)]
        return [_group(_label(selector), found, places)]
    paths = _matched(model, places, selector)
    if group:
        return [_group(_label(selector), paths, places)]
    parts: dict[str, Part] = {}
    for path in paths:
        part = _part(model, places, path)
        parts.setdefault(part.paths[0], part)
    return list(parts.values())


def paths_of(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return path -> all paths of the same instance, in the order of definition, without the root."""
    by_instance: dict[int, list[str]] = {}
    order: list[tuple[str, int]] = []
    for path, module in model.named_modules(remove_duplicate=False):
        if path:
            by_instance.setdefault(id(module), []).append(path)
            order.append((path, id(module)))
    return {path: tuple(by_instance[key]) for path, key in order}


def unwrapped(model: nn.Module) -> nn.Module:
    """Return a model with `torch.compile`'s wrappers taken off, at its root and inside it.

    A wrapper hides the modules that are to be watched and replaced. Inside, the model itself is changed;
    what it computes is not.
    """
    model = getattr(model, "_orig_mod", model)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            inner = getattr(child, "_orig_mod", None)
            if inner is not None:
                module.add_module(name, inner)
    return model


def has_forward(module: nn.Module) -> bool:
    """Whether a module can be called: a `ModuleList` and its like cannot."""
    from torch import nn

    # Statically: TorchScript's classes have a descriptor there that wants an instance.
    return inspect.getattr_static(type(module), "forward") is not nn.Module.forward


def _part(model: nn.Module, places: dict[str, tuple[str, ...]], path: str) -> Part:
    if has_forward(model.get_submodule(path)):
        return Part(path, places[path])
    # A container is the group of what it holds.
    inner = [one for one in places if one.startswith(f"{path}.") and has_forward(model.get_submodule(one))]
    if not inner:
        raise UsageError(f"{path} holds no module that is called; name modules inside it or leave it out")
    return _group(path, inner, places)


def _group(name: str, paths: Iterable[str], places: dict[str, tuple[str, ...]]) -> Part:
    wanted = dict.fromkeys(place for path in paths for place in places[path])
    # What lies inside another member goes with it.
    kept = [path for path in wanted if not any(path.startswith(f"{other}.") for other in wanted)]
    order = list(places)
    return Part(name, tuple(sorted(kept, key=order.index)))


def _matched(model: nn.Module, places: dict[str, tuple[str, ...]], selector: Any) -> list[str]:
    if callable(selector):
        found = [path for path in places if selector(path, model.get_submodule(path))]
    elif not isinstance(selector, str):
        raise UsageError(f"selector {selector!r}: a text, a list or a function of path and module is needed")
    elif selector.startswith("type:"):
        wanted = selector.removeprefix("type:").strip()
        found = [path for path in places if wanted in _classes(model.get_submodule(path))]
        if not found:
            names = {type(model.get_submodule(path)).__name__ for path in places}
            near = difflib.get_close_matches(wanted, sorted(names), n=_NEAREST, cutoff=0.5) or sorted(names)
            raise UsageError(f"no module is a {wanted!r}; classes in this model: {', '.join(near[:8])}")
    elif selector.startswith("prefix:"):
        found = [path for path in places if path.startswith(selector.removeprefix("prefix:").strip())]
    else:
        found = [path for path in places if _fits(path.split("."), selector.split("."))]
    if not found:
        shown = _label(selector)
        near = _nearest(shown.removeprefix("prefix:"), list(places))
        raise UsageError(
            f"no module matches {shown!r}; nearest: {', '.join(near)}; {len(places)} modules: ablate plan --list"
        )
    return found


def _classes(module: nn.Module) -> set[str]:
    return {kind.__name__ for kind in type(module).__mro__}


def _fits(path: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(_fits(path[i:], pattern[1:]) for i in range(len(path) + 1))
    return bool(path) and fnmatch.fnmatchcase(path[0], pattern[0]) and _fits(path[1:], pattern[1:])


def _nearest(given: str, paths: Sequence[str]) -> list[str]:
    """Return the most similar paths: by the whole name, by its last segment, by its beginning."""

    def likeness(path: str) -> float:
        last, wanted = path.rpartition(".")[2], given.rpartition(".")[2]
        ratio = max(
            difflib.SequenceMatcher(None, given, path).ratio(), difflib.SequenceMatcher(None, wanted, last).ratio()
        )
        return ratio + 0.2 * path.startswith(given[:2])

    return sorted(paths, key=lambda path: -likeness(path))[:_NEAREST] or ["none"]


def _label(selector: Any) -> str:
    if isinstance(selector, list | tuple):
        return ", ".join(_label(one) for one in selector)
    return selector if isinstance(selector, str) else str(getattr(selector, "__name__", selector))
