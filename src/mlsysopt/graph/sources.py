"""Where the bytes of a constant are: in memory, in a file, or nowhere any more.

A program refers to its weights and never copies them. A source is known by its `key`: the hash of
its content once that is known or cheap, and until then by file, offset, size and time of change,
so that a model of ten gigabytes is imported without reading its weights.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mlsysopt.graph.errors import WeightsError

if TYPE_CHECKING:
    import numpy.typing as npt

    from mlsysopt.graph.types import DType

    Array = npt.NDArray[Any]

__all__ = ["Absent", "InFile", "InMemory", "OfTorch", "Source", "content_key", "glimpse"]

_SEEN = 64
"""Elements that a glimpse takes."""


class Source(Protocol):
    """Bytes of one constant, row-major."""

    @property
    def key(self) -> str:
        """What it is known by; equal keys mean equal content."""
        ...

    def load(self) -> Array:
        """Return the array, read-only where possible.

        Raises:
            WeightsError: the bytes are missing, cut short, or others than they were.
        """
        ...


def content_key(array: Array) -> str:
    """Return the key of an array's content: its bytes in row-major order, not its name."""
    import numpy as np

    data = np.ascontiguousarray(array)
    return "blake2=" + hashlib.blake2b(data.reshape(-1).view(np.uint8).data, digest_size=16).hexdigest()


def glimpse(source: Source) -> bytes:
    """Return a few bytes of content that is at hand, b"" where it is not: equal content has equal glimpses.

    Weights that were trained, or drawn, differ in their first elements already: a table of a gigabyte need not be
    hashed to see that.
    """
    if not isinstance(source, InMemory | OfTorch):
        return b""
    flat = source.load().reshape(-1)
    return flat[:: max(len(flat) // _SEEN, 1)].tobytes()


class InMemory:
    """A numpy array that somebody holds."""

    __slots__ = ("_array", "_key")

    def __init__(self, array: Array) -> None:
        self._array = array
        self._key = ""

    @property
    def key(self) -> str:
        if not self._key:
            self._key = content_key(self._array)
        return self._key

    def load(self) -> Array:
        return self._array


class OfTorch:
    """A torch tensor, shared with the model that it came from; read when it is first needed."""

    __slots__ = ("_key", "tensor")

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor
        self._key = ""

    @property
    def key(self) -> str:
        if not self._key:
            self._key = content_key(self.load())
        return self._key

    def load(self) -> Array:
        import torch

        tensor = self.tensor.detach().cpu().contiguous()
        if tensor.dtype is torch.bfloat16:
            import ml_dtypes

            return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return tensor.numpy()


class InFile:
    """A stretch of a file, mapped when it is needed.

    Args:
        path: The file.
        offset: First byte.
        size: Bytes.
        dtype: Element type.
        shape: Sizes.
        digest: Expected hash of the content, "" where nobody stated one; checked at `load`.
    """

    __slots__ = ("_stamp", "digest", "dtype", "offset", "path", "shape", "size")

    def __init__(
        self, path: Path, offset: int, size: int, dtype: DType, shape: tuple[int, ...], *, digest: str = ""
    ) -> None:
        self.path, self.offset, self.size, self.dtype, self.shape, self.digest = (
            path, offset, size, dtype, shape, digest,
        )  # fmt: skip
        self._stamp: str = ""

    @property
    def key(self) -> str:
        if self.digest:
            return self.digest
        if not self._stamp:
            try:
                changed_ns = os.stat(self.path).st_mtime_ns
            except OSError:
                changed_ns = 0
            self._stamp = f"file={self.path.name}:{self.offset}+{self.size}@{changed_ns}"
        return self._stamp

    def load(self) -> Array:
        import numpy as np

        try:
            found = os.stat(self.path).st_size
        except OSError as error:
            raise WeightsError(f"weights file {self.path}: {error.strerror}; put it beside the program") from None
        if found < self.offset + self.size:
            raise WeightsError(
                f"weights file {self.path}: {found} bytes, but bytes {self.offset} to {self.offset + self.size} "
                "are needed; it was cut short"
            )
        kind = self.dtype.numpy()
        if not self.size:
            return np.zeros(self.shape, kind)
        raw = np.memmap(self.path, np.uint8, "r", self.offset, (self.size,))
        array = np.ndarray(self.shape, kind, raw)
        if self.digest and (key := content_key(array)) != self.digest:
            raise WeightsError(
                f"weights file {self.path} at {self.offset}: expected {self.digest}, found {key}; "
                "it is not the file that the program was saved with"
            )
        return array


class Absent:
    """Bytes that are not here: a program read from text alone, or a file that is gone."""

    __slots__ = ("_why", "key")

    def __init__(self, key: str, why: str = "the program was read without its weights") -> None:
        self.key = key
        self._why = why

    def load(self) -> Array:
        raise WeightsError(f"weights {self.key} are not here: {self._why}")
