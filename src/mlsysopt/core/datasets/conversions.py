"""Files that are made of official ones, and hashes of what they say.

The bytes of a compressed file depend on who compressed it. Such a file is therefore recognised by
its content: the arrays of MNIST in one defined order, the JSON text of reference draws.

- `mnist`: the four official IDX files become one `.npz`.
- `member`: the only file of a zip archive, as it is.
- `draws`: reference draws of posteriordb, rounded to 6 significant digits, as gzipped JSON.

The official files could not be fetched where the hashes were taken (from a mirror that was itself
made of them); that the conversions reproduce that mirror rests on the hashes, which are checked.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["CONTENT", "MAKERS", "by_class", "mnist_arrays"]

Bytes = npt.NDArray[np.uint8]

_SETS = ("train", "test")
_ELEMENTS = {0x08: np.uint8}


def mnist_arrays(path: Path) -> dict[str, Bytes]:
    """Read an MNIST archive into its defined order: by class, then by pixels.

    Returns:
        X_train (60000, 28, 28), y_train (60000,), X_test (10000, 28, 28), y_test (10000,).
    """
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in ("X_train", "y_train", "X_test", "y_test")}
    for part in _SETS:
        order = by_class(arrays[f"X_{part}"], arrays[f"y_{part}"])
        arrays[f"X_{part}"], arrays[f"y_{part}"] = arrays[f"X_{part}"][order], arrays[f"y_{part}"][order]
    return arrays


def by_class(images: Bytes, labels: Bytes) -> npt.NDArray[np.intp]:
    """Return the order of images by label, then by pixels, whatever order they came in.

    Args:
        images: Shape (n, ...).
        labels: Shape (n,).
    """
    rows = np.concatenate([labels[:, None], images.reshape(len(images), -1)], axis=1)
    return np.argsort(rows.view(np.dtype((np.void, rows.shape[1]))).ravel(), kind="stable")


def _mnist(parts: Sequence[Path], target: Path) -> None:
    images, labels, test_images, test_labels = (_idx(part) for part in parts)
    with target.open("wb") as stream:
        np.savez_compressed(stream, X_train=images, y_train=labels, X_test=test_images, y_test=test_labels)


def _idx(path: Path) -> Bytes:
    """Read a gzipped IDX file: magic number with type and rank, big-endian sizes, values."""
    content = gzip.decompress(path.read_bytes())
    rank = content[3]
    if content[:2] != b"\0\0" or content[2] not in _ELEMENTS:
        raise ValueError(f"{path.name} is not an IDX file of bytes")
    shape = [int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(rank)]
    values = np.frombuffer(content, dtype=_ELEMENTS[content[2]], offset=4 + 4 * rank)
    if values.size != math.prod(shape):
        raise ValueError(f"{path.name} ends early")
    return values.reshape(shape)


def _mnist_content(path: Path) -> str:
    arrays = mnist_arrays(path)
    digest = hashlib.sha256()
    for part in _SETS:
        digest.update(np.ascontiguousarray(arrays[f"X_{part}"]).tobytes())
        digest.update(np.ascontiguousarray(arrays[f"y_{part}"]).tobytes())
    return digest.hexdigest()


def _member(parts: Sequence[Path], target: Path) -> None:
    target.write_bytes(_only_member(parts[0]))


def _only_member(path: Path) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive:
            (name,) = (entry for entry in archive.namelist() if entry.endswith(".json") and "__MACOSX" not in entry)
            return archive.read(name)
    except zipfile.BadZipFile as error:
        raise ValueError(str(error)) from None


def _draws(parts: Sequence[Path], target: Path) -> None:
    chains: list[dict[str, list[float]]] = json.loads(_only_member(parts[0]))
    rounded = [{name: [_six_digits(value) for value in draws] for name, draws in chain.items()} for chain in chains]
    text = json.dumps(rounded, separators=(",", ":"))
    # No time and no name in the header: the same draws give the same file.
    target.write_bytes(gzip.compress(text.encode(), mtime=0))


def _six_digits(value: Any) -> float:
    return float(f"{float(value):.6g}")


def _draws_content(path: Path) -> str:
    return hashlib.sha256(gzip.decompress(path.read_bytes())).hexdigest()


MAKERS: Mapping[str, Callable[[Sequence[Path], Path], None]] = {"mnist": _mnist, "member": _member, "draws": _draws}
CONTENT: Mapping[str, Callable[[Path], str]] = {"mnist": _mnist_content, "draws": _draws_content}
