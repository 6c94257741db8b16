"""Which data sets there are, where each one is on this machine, and how it is read.

A set is looked for in the folder that the environment variable `MLSYSOPT_DATA` names (one folder
per set), then in the user's cache, then it is downloaded. Whatever the way, its hash is checked.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from mlsysopt.core.errors import UsageError, near_misses
from mlsysopt.core.references import Reference

__all__ = ["DATASETS", "Dataset", "File", "Listing", "Progress", "get", "listed", "load"]

Progress = Callable[[str, int, int], None]
"""Called with file name, bytes done, bytes in all."""


@dataclass(frozen=True, slots=True)
class File:
    """One file of a data set.

    Attributes:
        name: Its name in the set's folder.
        urls: What is downloaded for it; empty where it cannot be had from its source.
        sha256: Hash of the finished file.
        bytes: Size of the finished file.
        make: Conversion that makes it of the downloads; "" when it is the download itself.
        part_sha256: Hashes of the downloads, where they are converted and known.
        content: Hash of what it says, where its bytes depend on the compressor that wrote it.
    """

    name: str
    urls: tuple[str, ...]
    sha256: str
    bytes: int
    make: str = ""
    part_sha256: tuple[str, ...] = ()
    content: str = ""


@dataclass(frozen=True, slots=True)
class Dataset:
    """One data set.

    Attributes:
        needs: Why it cannot be downloaded; "" when it can.
    """

    name: str
    about: str
    licence: str
    homepage: str
    citation: Reference
    files: Mapping[str, File]
    needs: str = ""

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.bytes for file in self.files.values())


@dataclass(frozen=True, slots=True)
class Listing:
    """One data set and where it is on this machine; `path` is None where it is not."""

    name: str
    about: str
    licence: str
    homepage: str
    bytes: int
    path: Path | None

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "about": self.about,
            "licence": self.licence,
            "homepage": self.homepage,
            "bytes": self.bytes,
            "path": None if self.path is None else str(self.path),
        }


class _Registry(Mapping[str, Dataset]):
    """The sets of `sources.toml`, read when one is first asked for."""

    @cached_property
    def _sets(self) -> dict[str, Dataset]:
        text = resources.files("mlsysopt.core.datasets").joinpath("sources.toml").read_text(encoding="utf-8")
        return {name: _dataset(name, entry) for name, entry in tomllib.loads(text).items()}

    def __getitem__(self, name: str) -> Dataset:
        return self._sets[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sets)

    def __len__(self) -> int:
        return len(self._sets)


DATASETS: Mapping[str, Dataset] = _Registry()


def find(name: str) -> Dataset:
    """Return a data set by name.

    Raises:
        UsageError: there is none of that name.

    >>> find("mnist").citation.year
    1998
    """
    if name not in DATASETS:
        raise UsageError(f"no data set is called {name!r}; {near_misses(name, DATASETS, noun='data set')}")
    return DATASETS[name]


def listed() -> list[Listing]:
    """List the data sets, with the folder of each that is on this machine (by size, not by hash)."""
    from mlsysopt.core.datasets.fetch import present

    return [
        Listing(one.name, one.about, one.licence, one.homepage, one.bytes, present(one)) for one in DATASETS.values()
    ]


def get(name: str, *, progress: Progress | None = None) -> Path:
    """Return the folder of a data set, after checking its files or downloading them.

    Raises:
        DatasetError: damaged, or neither here nor to be had.
    """
    from mlsysopt.core.datasets.fetch import fetch

    return fetch(find(name), progress)


def load(name: str) -> dict[str, Any]:
    """Return a data set as numpy arrays; `mlsysopt.core.datasets.loaders` documents each one.

    Raises:
        DatasetError: damaged, or neither here nor to be had.
    """
    from mlsysopt.core.datasets.loaders import LOADERS

    return LOADERS[find(name).name](get(name))


def _dataset(name: str, entry: Mapping[str, Any]) -> Dataset:
    files = {
        file: File(
            file,
            tuple(row["urls"]),
            row["sha256"],
            row["bytes"],
            row.get("make", ""),
            tuple(row.get("part_sha256", ())),
            row.get("content", ""),
        )
        for file, row in entry["files"].items()
    }
    citation = Reference(**entry["citation"])
    needs = entry.get("needs", {}).get("reason", "")
    return Dataset(name, entry["about"], entry["licence"], entry["homepage"], citation, files, needs)
