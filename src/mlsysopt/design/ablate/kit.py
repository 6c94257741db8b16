"""What a training needs, made ready once per worker: code, data as memory maps, the probe of the base model."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import FunctionType
from typing import Any

import cloudpickle
import numpy as np

from mlsysopt.core.errors import StudyError
from mlsysopt.design.ablate.streams import seeded

__all__ = ["Kit", "load", "save"]

# Smaller arrays travel with the rest.
_MAPPED_FROM_BYTES = 64 * 1024


@dataclass(slots=True)
class Kit:
    """A study's functions and data in one process.

    Attributes:
        make_model: The user's.
        train: The user's.
        data: Handed to `train`.
        metric: Name of the metric.
        variants: Other makers by component name.
        batch: One input of the model, None where no part of a model is taken away.
        second_batch: The same with another batch size.
        names: Names of features, for data that carries none.
    """

    make_model: Callable[..., Any]
    train: Callable[..., Any]
    data: Any
    metric: str
    variants: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    batch: Any = None
    second_batch: Any = None
    names: Sequence[str] | Mapping[str, str] | None = None
    _probe: Any = None

    def probe(self) -> Any:
        """Return the probe of the base model, made once."""
        if self._probe is None:
            from mlsysopt.design.ablate.probe import probe

            with seeded(0):
                self._probe = probe(self.make_model(), self.batch, second_batch=self.second_batch, seed=0)
        return self._probe


@dataclass(frozen=True, slots=True)
class _Mapped:
    """Stands for an array that lies in a file of its own."""

    file: str
    tensor: bool


def save(kit: Kit, folder: Path) -> None:
    """Write a kit so that workers can load it; large arrays become files that all of them map.

    Raises:
        StudyError: something cannot be pickled; names the attribute.
    """
    arrays: list[str] = []

    def packed(value: Any) -> Any:
        tensor = type(value).__module__ == "torch" and hasattr(value, "numpy")
        array = value.detach().cpu().numpy() if tensor else value
        if isinstance(array, np.ndarray) and not array.dtype.hasobject and array.nbytes >= _MAPPED_FROM_BYTES:
            name = f"{len(arrays)}.npy"
            np.save(folder / name, array)
            arrays.append(name)
            return _Mapped(name, tensor)
        if type(value) is dict:
            return {key: packed(one) for key, one in value.items()}
        if type(value) in (tuple, list):
            return type(value)([packed(one) for one in value])
        return value

    parts = {
        "make_model": kit.make_model, "train": kit.train, "variants": dict(kit.variants), "data": packed(kit.data),
        "batch": kit.batch, "second_batch": kit.second_batch,
    }  # fmt: skip
    (folder / "path.json").write_text(json.dumps([*sys.path]))
    registered = _by_value([kit.make_model, kit.train, *kit.variants.values()])
    try:
        for name, part in parts.items():
            try:
                cloudpickle.dumps(part)
            except Exception as error:
                where, why = _unpicklable(part, name, error)
                raise StudyError(
                    f"{where} cannot be sent to a worker: {why}\n"
                    "keep it out of the model's maker and the data, or train in this process with --workers 0"
                ) from None
        rest = {**parts, "metric": kit.metric, "names": kit.names}
        (folder / "kit.pkl").write_bytes(cloudpickle.dumps(rest))
    finally:
        for module in registered:
            cloudpickle.unregister_pickle_by_value(module)


@lru_cache(maxsize=2)
def load(folder: str) -> Kit:
    """Load a kit, once per process and folder."""
    place = Path(folder)
    sys.path[:] = [*dict.fromkeys([*sys.path, *json.loads((place / "path.json").read_text())])]
    parts = cloudpickle.loads((place / "kit.pkl").read_bytes())

    def unpacked(value: Any) -> Any:
        if isinstance(value, _Mapped):
            # Copy on write: a training that changes its data in place changes nobody else's.
            array = np.load(place / value.file, mmap_mode="c")
            if not value.tensor:
                return array
            import torch

            return torch.from_numpy(array)
        if type(value) is dict:
            return {key: unpacked(one) for key, one in value.items()}
        if type(value) in (tuple, list):
            return type(value)([unpacked(one) for one in value])
        return value

    return Kit(**{**parts, "data": unpacked(parts["data"])})


def _by_value(functions: Sequence[Callable[..., Any]]) -> list[Any]:
    """Let modules that a worker could not import travel with their functions."""
    registered: list[Any] = []
    known = cloudpickle.list_registry_pickle_by_value()
    for function in functions:
        name = getattr(inspect_target(function), "__module__", None)
        module = sys.modules.get(name or "")
        if module is None or name in known or name == "__main__" or module in registered or _importable(module):
            continue
        cloudpickle.register_pickle_by_value(module)
        registered.append(module)
    return registered


def inspect_target(function: Any) -> Any:
    """Return the function inside a partial."""
    return getattr(function, "func", function)


def _importable(module: Any) -> bool:
    try:
        loaded = sys.modules.pop(module.__name__)
        try:
            spec = importlib.util.find_spec(module.__name__)
        finally:
            sys.modules[module.__name__] = loaded
    except (ImportError, ValueError, KeyError, AttributeError):
        return False
    own = getattr(module, "__file__", None)
    return spec is not None and (own is None or spec.origin == own)


def _unpicklable(value: Any, path: str, error: Exception, depth: int = 0) -> tuple[str, str]:
    """Return the path of the innermost thing that cannot be pickled, and why."""
    for where, one in _inside(value, path) if depth < 4 else []:
        try:
            cloudpickle.dumps(one)
        except Exception as deeper:
            return _unpicklable(one, where, deeper, depth + 1)
    return path, f"{type(value).__name__}: {str(error).splitlines()[0] if str(error) else type(error).__name__}"


def _inside(value: Any, path: str) -> list[tuple[str, Any]]:
    """Return what a value holds, each with its path."""
    inner: list[tuple[str, Any]] = []
    if type(value) is dict:
        inner = [(f"{path}[{key!r}]", one) for key, one in value.items()]
    elif type(value) in (tuple, list):
        inner = [(f"{path}[{i}]", one) for i, one in enumerate(value)]
    elif isinstance(value, FunctionType):
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        inner = [(f"{path} (variable {name!r})", cell.cell_contents) for name, cell in cells if _filled(cell)]
        used = [name for name in value.__code__.co_names if name in value.__globals__]
        inner += [(f"{path} (global {name!r})", value.__globals__[name]) for name in used]
    elif hasattr(value, "__dict__") and not isinstance(value, type):
        inner = [(f"{path}.{name}", one) for name, one in vars(value).items()]
    return inner


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
