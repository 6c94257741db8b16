"""A torch `Dataset` whose examples lack some features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, TensorDataset

__all__ = ["Edited"]


class Edited(Dataset[Any]):
    """Gives the examples of another data set, with some features taken out of their input.

    Args:
        base: The whole data set; the input is an example, or the first part of one.
        chosen: Keys of the input, or a mask over its numbers.
        centre: What stands in their place; key -> value, or one value per number under the mask.
        order: Example whose features example i gets.
        keep: Axis and which positions along it stay, when numbers are dropped.
    """

    def __init__(self, base: Any, chosen: Any, centre: Any = None, order: Any = None, keep: Any = None) -> None:
        self.base = base
        self._chosen, self._centre, self._order, self._keep = chosen, centre, order, keep

    def __len__(self) -> int:
        return len(self.base)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "base" not in self.__dict__:
            raise AttributeError(name)
        found = getattr(self.base, name)
        if name == "tensors" and isinstance(self.base, TensorDataset):
            # What lies beside the examples must lack the features as well.
            inputs = torch.stack([torch.as_tensor(self[i][0]) for i in range(len(self))])
            return (inputs, *found[1:])
        return found

    def __getitem__(self, index: int) -> Any:
        example = self.base[index]
        whole = isinstance(example, tuple | list)
        donor = None if self._order is None else self.base[int(self._order[index])]
        given = example[0] if whole else example
        taken = donor[0] if whole and donor is not None else donor
        made = self._columns(given, taken) if isinstance(given, Mapping) else self._numbers(given, taken)
        return type(example)([made, *example[1:]]) if whole else made

    def _columns(self, given: Mapping[str, Any], donor: Any) -> dict[str, Any]:
        if donor is None and self._centre is None:
            return {key: value for key, value in given.items() if key not in self._chosen}
        made = dict(given)
        for key in self._chosen:
            made[key] = donor[key] if donor is not None else _typed(self._centre[key], given[key])
        return made

    def _numbers(self, given: Any, donor: Any) -> Any:
        tensor = isinstance(given, torch.Tensor)
        if self._keep is not None:
            axis, keep = self._keep
            if tensor:
                return given.index_select(axis, torch.from_numpy(np.flatnonzero(keep)))
            return np.compress(keep, given, axis=axis)
        made = given.clone() if tensor else np.array(given)
        where = torch.from_numpy(self._chosen) if tensor else self._chosen
        made[where] = donor[where] if donor is not None else _typed(self._centre, made)
        return made


def _typed(value: Any, like: Any) -> Any:
    if isinstance(like, torch.Tensor):
        return torch.as_tensor(np.asarray(value)).to(like.dtype)
    return np.asarray(value, dtype=like.dtype) if isinstance(like, np.ndarray) else type(like)(value)
