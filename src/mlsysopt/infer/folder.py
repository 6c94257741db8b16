"""A fit on disk: what was asked, the data, each chain's state every ten seconds, and draws that are only ever appended.

`fit.json` says what it is of; `data.npz` holds the inputs; `draws/<name>.<chain>.npy` the draws, of which a chain's
state says how many count; `state-<chain>.npz` is replaced in one step. A killed run always leaves a whole state.
"""

from __future__ import annotations

import ast
import io
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from mlsysopt.core.errors import InfrastructureError, UsageError
from mlsysopt.core.places import artefact_header, read_header, replace_file
from mlsysopt.infer.engine import Chain, Engine
from mlsysopt.infer.sampling import Request, Sampled

if TYPE_CHECKING:
    from mlsysopt.infer.compiled import Compiled
    from mlsysopt.infer.fit import Fit

__all__ = ["Folder"]

FORMAT, VERSION = "fit", 1
EVERY_S = 10.0

_LOG = logging.getLogger(__name__)


class Folder:
    """One fit's folder.

    Args:
        path: Where it is.
        content: Of `fit.json`.
    """

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path, self.content = path, content
        self._warned = False
        self._unsaved: dict[int, Chain] = {}
        self._error: OSError | None = None

    @classmethod
    def create(
        cls, path: Path, compiled: Compiled, settings: Mapping[str, Any], rules: Mapping[str, str], start: Any = "auto"
    ) -> Folder:
        """Begin a folder, or take up one of the same model, data and settings.

        Raises:
            UsageError: it holds another fit; nothing is overwritten.
        """
        wanted = _described(compiled, settings, rules) | {"start": _start(start)}
        if (path / "fit.json").exists():
            found = cls.open(path)
            for key, what in (("model_hash", "model"), ("data_hash", "data")):
                if found.content[key] != wanted[key]:
                    raise UsageError(
                        f"{path} holds a fit of another {what}: {found.content[key]} there, {wanted[key]} here; "
                        "choose another folder"
                    )
            changed = {
                k
                for k in ("draws", "warmup", "thin", "seed", "chains", "method")
                if found.content["settings"][k] != wanted["settings"][k]
            }
            if changed:
                name = sorted(changed)[0]
                raise UsageError(
                    f"{path} holds a fit with {name}={found.content['settings'][name]}, asked for "
                    f"{name}={wanted['settings'][name]}; "
                    "resume it as it is, or choose another folder"
                )
            return found
        if path.exists() and any(path.iterdir()):
            raise UsageError(f"{path} exists and is no fit; choose a new folder")
        try:
            (path / "draws").mkdir(parents=True, exist_ok=True)
            replace_file(path / "data.npz", _packed(_inputs(compiled)))
            replace_file(path / "fit.json", json.dumps(wanted, indent=1).encode())
        except OSError as error:
            raise InfrastructureError(
                f"{path} cannot be written ({error.strerror or error}); choose another folder"
            ) from error
        return cls(path, wanted)

    @classmethod
    def open(cls, path: Path) -> Folder:
        """Read a folder.

        Raises:
            UsageError: there is no fit.
            ArtefactError: it is damaged, or of a newer version.
        """
        try:
            content = json.loads((path / "fit.json").read_text())
        except FileNotFoundError:
            raise UsageError(f"{path} holds no fit (no fit.json); `infer(out=...)` writes one") from None
        except ValueError as error:
            raise UsageError(f"{path}/fit.json is damaged: {error}") from None
        read_header(content, FORMAT, VERSION)
        return cls(path, content)

    def compiled(self) -> Compiled:
        """Return the model with its data, from the folder alone."""
        from mlsysopt.infer import language
        from mlsysopt.infer.compiled import Compiled, Model

        source = self.content["source"]
        names: dict[str, Any] = {one: getattr(language, one) for one in language.__all__}
        text = _definition(source)
        tree = ast.parse(text)
        for one in ast.walk(tree):
            # What annotations name is not here.
            if isinstance(one, ast.arg):
                one.annotation = None
            elif isinstance(one, ast.FunctionDef):
                one.returns = None
        exec(compile(tree, self.content["file"], "exec"), names)
        compiled = Compiled(Model(names[self.content["name"]], text), missing=self.content["missing"])
        with np.load(self.path / "data.npz") as data:
            return _restored(compiled, {name: data[name] for name in data.files}, self.content)

    @property
    def finished(self) -> bool:
        """Whether every chain has come to its end, so that there is nothing left to run."""
        result = self.content.get("result")
        return result is not None and not result["stopped"] and not result["lost"]

    def start(self) -> Any:
        """Return where chains begin that have no state yet."""
        return self.content["start"]

    # Chains.

    def saver(self) -> Callable[[Chain, int, bool], None]:
        """Return what `run_chain` calls after each slice; it writes every ten seconds and at the end."""
        last = time.monotonic()

        def save(chain: Chain, number: int, final: bool) -> None:
            nonlocal last
            if not final and time.monotonic() - last < EVERY_S:
                return
            last = time.monotonic()
            self.write_chain(chain, number)

        return save

    def write_chain(self, chain: Chain, number: int) -> None:
        """Append a chain's new draws and replace its state.

        Where that fails, the last good state stays, and `finish` tries again.
        """
        state = {name: one for name, one in chain.arrays.items() if name.startswith(("t_", "mean_", "square_", "map_"))}
        latent = {one.name for one in chain.engine.program.latents}
        state |= {f"v_{name}": chain.arrays[f"v_{name}"] for name in latent}
        state["joint"], state["best"] = chain.joint[: chain.kept], chain.best
        state["counts"] = np.array([chain.sweeps, chain.kept, -1 if chain.offset is None else chain.offset])
        state["generator"] = np.frombuffer(json.dumps(chain.rng.bit_generator.state).encode(), dtype=np.uint8)
        try:
            for name, array in chain.arrays.items():
                if name.startswith("k_"):
                    self._append(name[2:], number, array, chain.kept)
            replace_file(self.path / f"state-{number}.npz", _packed(state))
            self._unsaved.pop(number, None)
        except OSError as error:
            self._unsaved[number], self._error = chain, error
            if not self._warned:
                self._warned = True
                _LOG.warning("%s: not saved now (%s); the fit goes on in memory", self.path, error.strerror or error)

    def _append(self, name: str, number: int, array: NDArray[Any], kept: int) -> None:
        path = self.path / "draws" / f"{name}.{number}.npy"
        size = int(np.prod(array.shape[1:])) * array.itemsize
        if not path.exists():
            head = io.BytesIO()
            npy.write_array_header_1_0(head, npy.header_data_from_array_1_0(array))
            replace_file(path, head.getvalue())
        with path.open("r+b") as file:
            npy.read_magic(file)
            npy.read_array_header_1_0(file)
            start = file.tell()
            file.seek(0, os.SEEK_END)
            # Rows of a save that was cut off are written again: they are the same.
            there = min((file.tell() - start) // size if size else kept, kept)
            file.seek(start + there * size)
            file.write(np.ascontiguousarray(array[there:kept]).tobytes())
            file.flush()
            os.fsync(file.fileno())

    def read_chain(self, engine: Engine, request: Request, number: int) -> Chain | None:
        """Return a chain as it was saved, None if it was not.

        Raises:
            UsageError: its state is damaged.
        """
        path = self.path / f"state-{number}.npz"
        if not path.exists():
            return None
        rng = np.random.Generator(np.random.PCG64(0))
        chain = Chain(engine, rng, draws=request.draws, thin=request.thin, backend=request.backend)
        try:
            with np.load(path) as state:
                sweeps, kept, offset = (int(one) for one in state["counts"])
                rng.bit_generator.state = json.loads(state["generator"].tobytes())
                chain.joint[:kept], chain.best[...] = state["joint"], state["best"]
                for name in state.files:
                    if name in chain.arrays:
                        chain.arrays[name][...] = state[name]
            for name, array in chain.arrays.items():
                if name.startswith("k_"):
                    array[:kept] = self._rows(name[2:], number, array, kept)
        except (OSError, ValueError, KeyError) as error:
            raise UsageError(f"{path} is damaged ({error}); delete it, and the chain begins anew") from None
        chain.sweeps, chain.kept, chain.offset = sweeps, kept, None if offset < 0 else offset
        return chain

    def _rows(self, name: str, number: int, like: NDArray[Any], kept: int) -> NDArray[Any]:
        with (self.path / "draws" / f"{name}.{number}.npy").open("rb") as file:
            npy.read_magic(file)
            npy.read_array_header_1_0(file)
            count = kept * int(np.prod(like.shape[1:]))
            return np.fromfile(file, dtype=like.dtype, count=count).reshape(kept, *like.shape[1:])

    # The whole fit.

    def write_sampled(self, one: Sampled) -> None:
        """Write a chain of which there is only the end to save, as of NUTS or of another machine."""
        if (self.path / f"state-{one.chain}.npz").exists():
            return
        for name, array in one.draws.items():
            _save(self.path / "draws" / f"{name}.{one.chain}.npy", array)
        state = {"joint": one.joint, "ended": np.array([one.divergences]), "seconds": np.array([one.seconds])}
        state |= {f"map_{name}": array for name, array in one.best.items()}
        for name, (mean, square) in one.moments.items():
            state |= {f"mean_{name}": mean, f"square_{name}": square}
        replace_file(self.path / f"state-{one.chain}.npz", _packed(state))

    def read_sampled(self, engine: Engine, number: int) -> Sampled | None:
        """Return a chain that `write_sampled` wrote, None where there is none."""
        path = self.path / f"state-{number}.npz"
        if not path.exists():
            return None
        try:
            with np.load(path) as state:
                if "ended" not in state:
                    return None
                keep = engine.keep.items()
                return Sampled(
                    number,
                    {
                        k: np.load(self.path / "draws" / f"{k}.{number}.npy")
                        for k, how in keep
                        if how in ("samples", "both")
                    },
                    state["joint"],
                    {k: state[f"map_{k}"] for k, _ in keep if f"map_{k}" in state},
                    {k: (state[f"mean_{k}"], state[f"square_{k}"]) for k, _ in keep if f"mean_{k}" in state},
                    seconds=float(state["seconds"][0]),
                    divergences=int(state["ended"][0]),
                )
        except (OSError, ValueError, KeyError) as error:
            raise UsageError(f"{path} is damaged ({error}); delete it, and the chain begins anew") from None

    def finish(self, fit: Fit, chains: list[Sampled]) -> None:
        """Write what the fit came to.

        Raises:
            InfrastructureError: it cannot be saved, now at the end.
        """
        said = fit.diagnosis
        self.content["result"] = {
            "ok": fit.ok,
            "stopped": fit.stopped,
            "lost": {str(k): v for k, v in fit.lost.items()},
            "method": fit.method,
            "cpu_s": fit.cpu_s,
            "verdict": fit.verdict(),
            "divergences": said.divergences,
        }
        try:
            for number, chain in list(self._unsaved.items()):
                self.write_chain(chain, number)
            for one in chains:
                if not one.error:
                    self.write_sampled(one)
            replace_file(self.path / "fit.json", json.dumps(self.content, indent=1).encode())
            if self._unsaved:
                raise self._error or OSError("unknown")
            for left in self.path.rglob(".*"):
                # What a killed process was about to put into place.
                left.unlink(missing_ok=True)
        except OSError as error:
            raise InfrastructureError(
                f"{self.path}: the fit cannot be saved ({error.strerror or error}); free some space and resume it"
            ) from error


def _described(compiled: Compiled, settings: Mapping[str, Any], rules: Mapping[str, str]) -> dict[str, Any]:
    from importlib.metadata import version

    source = compiled.model.source
    return {
        **artefact_header(FORMAT, VERSION),
        "name": source.name,
        "file": source.file,
        "source": source.text,
        "model_hash": sha256(_definition(source.text).encode()).hexdigest()[:16],
        "data_hash": _data_hash(compiled),
        "missing": compiled.missing,
        "retained": compiled.retained,
        "settings": dict(settings),
        "rules": dict(rules),
        "versions": {one: version(one) for one in ("numpy", "numba", "llvmlite")},
    }


def _definition(text: str) -> str:
    """Return a model's `def` without its decorators."""
    first = next(one.lineno for one in ast.parse(text).body if isinstance(one, ast.FunctionDef))
    return "\n".join(text.rstrip().splitlines()[first - 1 :]) + "\n"


def _start(start: Any) -> Any:
    return start if isinstance(start, str) else {name: np.asarray(value).tolist() for name, value in start.items()}


def _data_hash(compiled: Compiled) -> str:
    found = sha256(compiled.bound.hash().encode())
    for name, value in sorted(compiled.fixed_values.items()):
        found.update(name.encode() + value.tobytes())
    return found.hexdigest()[:16]


def _inputs(compiled: Compiled) -> dict[str, NDArray[Any]]:
    found: dict[str, NDArray[Any]] = {}
    for name in compiled.model.inputs:
        found[f"input:{name}"] = compiled.bound.arrays[name]
        if name in compiled.bound.starts:
            found[f"starts:{name}"] = compiled.bound.starts[name]
        if name in compiled.bound.missing:
            found[f"missing:{name}"] = compiled.bound.arrays[f"{name}__missing"]
        variable = compiled.bound.program.variables[name]
        if not variable.rank:
            found[f"number:{name}"] = np.zeros(0)
    found |= {f"fixed:{name}": value for name, value in compiled.fixed_values.items()}
    return found | {f"start:{name}": value for name, value in compiled.starts.items()}


def _restored(compiled: Compiled, data: Mapping[str, NDArray[Any]], content: Mapping[str, Any]) -> Compiled:
    given: dict[str, Any] = {}
    for key, array in data.items():
        kind, _, name = key.partition(":")
        if kind == "fixed":
            compiled.fixed_values[name] = array
        elif kind == "start":
            compiled.starts[name] = array
        elif kind == "input":
            value: Any = array[0].item() if f"number:{name}" in data else array
            if f"missing:{name}" in data:
                value = np.ma.MaskedArray(array, data[f"missing:{name}"].astype(bool))
            if f"starts:{name}" in data:
                starts = data[f"starts:{name}"]
                value = tuple(value[a:b] for a, b in pairwise(starts))
            given[name] = value
    compiled.retained.update(content["retained"])
    return compiled.bind(**given)


def _packed(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
    return file.getvalue()


def _save(path: Path, array: NDArray[Any]) -> None:
    file = io.BytesIO()
    np.save(file, array)
    replace_file(path, file.getvalue())
