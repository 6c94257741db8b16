"""From the official source to a checked file on this machine."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mlsysopt._version import __version__
from mlsysopt.core.datasets.conversions import CONTENT, MAKERS
from mlsysopt.core.datasets.registry import Dataset, File, Progress
from mlsysopt.core.errors import DatasetError
from mlsysopt.core.places import cache_dir

__all__ = ["VARIABLE", "fetch", "present"]

VARIABLE = "MLSYSOPT_DATA"
TIMEOUT_S = 30.0
BLOCK = 1 << 18
MOST_BYTES = 1 << 28
"""No download of ours comes near it; a server that sends more is not the one that was meant."""

log = logging.getLogger("mlsysopt.data")

_checked: dict[tuple[Path, int, int], str] = {}
"""(path, size, time) -> hash that the content met, so that a file is read once per process."""


def present(dataset: Dataset) -> Path | None:
    """Return the folder that holds all files in their sizes, None when there is none."""
    for folder in _folders(dataset):
        if all(_fits(folder / file.name, file) for file in dataset.files.values()):
            return folder
    return None


def fetch(dataset: Dataset, progress: Progress | None = None) -> Path:
    """Return a folder with all files of a set, each with the right content.

    Raises:
        DatasetError: damaged, or neither here nor to be had.
    """
    for folder in _folders(dataset):
        if all((folder / name).is_file() for name in dataset.files):
            for file in dataset.files.values():
                _check(folder / file.name, file, dataset)
            return folder
    if dataset.needs:
        raise DatasetError(f"data set {dataset.name} is not here: {dataset.needs}\n{_by_hand(dataset)}")
    target = _cache(dataset)
    try:
        target.mkdir(parents=True, exist_ok=True)
        for file in dataset.files.values():
            if not (target / file.name).is_file():
                _obtain(dataset, file, target, progress)
            _check(target / file.name, file, dataset)
    except OSError as error:
        raise DatasetError(f"data set {dataset.name} cannot be kept in {target}: {error.strerror or error}") from None
    return target


def _folders(dataset: Dataset) -> list[Path]:
    mirror = os.environ.get(VARIABLE)
    return [*([Path(mirror) / dataset.name] if mirror else []), _cache(dataset)]


def _cache(dataset: Dataset) -> Path:
    return cache_dir() / "datasets" / dataset.name


def _fits(path: Path, file: File) -> bool:
    try:
        size = path.stat().st_size
    except OSError:
        return False
    return size == file.bytes or bool(file.content)


def _check(path: Path, file: File, dataset: Dataset) -> None:
    found = path.stat()
    key = (path, found.st_size, found.st_mtime_ns)
    if _checked.get(key) == file.sha256:
        return
    if _sha256(path) != file.sha256 and not _says(path, file):
        raise DatasetError(
            f"data set {dataset.name}: {path} is not the published file (its sha256 differs)\n"
            f"remove it, then run: mlsysopt data get {dataset.name}"
        )
    _checked[key] = file.sha256


def _says(path: Path, file: File) -> bool:
    """Whether a file that was compressed by another program says the same."""
    if not file.content:
        return False
    try:
        return CONTENT[file.make](path) == file.content
    except (ValueError, KeyError, OSError, EOFError):
        return False


def _obtain(dataset: Dataset, file: File, folder: Path, progress: Progress | None) -> None:
    """Download the parts of a file, make it, check it, and only then give it its name."""
    parts: list[Path] = []
    with tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as scratch:
        for i, url in enumerate(file.urls):
            part = Path(scratch) / f"part{i}"
            shown = url.rpartition("/")[2] if file.make else file.name
            try:
                _download(url, part, shown, progress)
            except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
                reason = getattr(error, "reason", None) or error
                if isinstance(error, urllib.error.HTTPError):
                    # It is the response as well, and holds the connection.
                    reason = f"HTTP {error.code} {error.reason}"
                    error.close()
                raise DatasetError(
                    f"data set {dataset.name} is not here, and {url} cannot be downloaded: {reason}\n"
                    f"{_by_hand(dataset)}"
                ) from None
            if file.part_sha256 and _sha256(part) != file.part_sha256[i]:
                raise DatasetError(_changed(dataset, url))
            parts.append(part)
        made = parts[0]
        if file.make:
            made = Path(scratch) / "made"
            try:
                MAKERS[file.make](parts, made)
            except (ValueError, KeyError, OSError, EOFError) as error:
                log.info("%s: %s", file.urls[0], error)
                raise DatasetError(_changed(dataset, file.urls[0])) from None
        if _sha256(made) != file.sha256 and not _says(made, file):
            raise DatasetError(_changed(dataset, file.urls[0]))
        os.replace(made, folder / file.name)


def _download(url: str, target: Path, shown: str, progress: Progress | None) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": f"mlsysopt/{__version__}"})
    with _opened(request) as (response, total), target.open("wb") as sink:
        done = 0
        while block := response.read(BLOCK):
            sink.write(block)
            done += len(block)
            if done > MOST_BYTES:
                raise urllib.error.URLError(f"the server sends more than {MOST_BYTES} bytes")
            if progress is not None:
                progress(shown, done, max(total, done))
        if done < total:
            raise urllib.error.URLError(f"the connection ended after {done} of {total} bytes")


@contextmanager
def _opened(request: urllib.request.Request) -> Generator[tuple[IO[bytes], int]]:
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        yield response, int(response.headers.get("Content-Length") or 0)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _changed(dataset: Dataset, url: str) -> str:
    what = f"data set {dataset.name}: {url} no longer gives the published content (its sha256 differs)"
    return f"{what}\n{_by_hand(dataset)}"


def _by_hand(dataset: Dataset) -> str:
    names = ", ".join(list(dataset.files)[:3]) + (", ..." if len(dataset.files) > 3 else "")
    download = "" if dataset.needs else f"go online and run: mlsysopt data get {dataset.name}; or "
    return f"{download}put its files ({names}) in DIR/{dataset.name} and set {VARIABLE}=DIR"
