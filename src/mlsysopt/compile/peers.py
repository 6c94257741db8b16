"""Others that run the same model, for comparisons: none is held back.

Each gets fresh caches, the threads that we get, f32 unless told otherwise, and its own fastest way to be called:
ONNX Runtime and OpenVINO take arrays, PyTorch takes tensors.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlsysopt.core.errors import MissingExtra, UsageError, near_misses

if TYPE_CHECKING:
    from mlsysopt.graph.ir import Graph

__all__ = ["PEERS", "Peer", "peer"]

PEERS = ("torch", "inductor", "onnxruntime", "openvino")


@dataclass
class Peer:
    """One other way to run a model.

    Attributes:
        name: Distribution or backend.
        version: Of the distribution.
        ready_s: Wall seconds from the model to the first result's possibility, export included.
        ready_cpu_s: The same in CPU seconds of this process and its children.
    """

    name: str
    version: str
    ready_s: float
    ready_cpu_s: float
    _call: Callable[[Sequence[Any]], Any] = field(repr=False)
    _take: Callable[[Sequence[Any]], Sequence[Any]] = field(repr=False)

    def ready(self, inputs: Sequence[Any]) -> Callable[[], Any]:
        """Return a call on inputs that are already in the peer's own form; what it costs is the run alone."""
        taken = self._take(inputs)
        return lambda: self._call(taken)

    def __call__(self, inputs: Sequence[Any]) -> list[Any]:
        """Run torch tensors through it and return arrays."""
        import numpy as np

        found = self._call(self._take(inputs))
        many = found if isinstance(found, (list, tuple)) else [found]
        return [np.asarray(one.detach().float() if hasattr(one, "detach") else one) for one in many]


def peer(
    name: str,
    *,
    module: Any = None,
    graph: Graph | None = None,
    examples: Sequence[Any] | None = None,
    threads: int = 1,
    precision: str = "f32",
    onnx: Path | None = None,
) -> Peer:
    """Make a peer ready.

    Args:
        name: One of `PEERS`.
        module: The model as PyTorch runs it; made from `graph` when None.
        graph: The program; needed for ONNX Runtime and OpenVINO unless `onnx` is given.
        examples: Tensors for Inductor's first call, which compiles.
        threads: Threads for one call.
        precision: "f32" or "bf16".
        onnx: A file that was exported already.

    Raises:
        UsageError: no such peer.
        MissingExtra: it is not installed.
    """
    if name not in PEERS:
        raise UsageError(f"unknown peer {name!r}; {near_misses(name, PEERS, noun='peer', width=8)}")
    start, cpu = time.perf_counter(), _tree()
    if name in ("torch", "inductor"):
        made = _torch(name, module, graph, examples, precision)
    else:
        with tempfile.TemporaryDirectory(prefix="mlsysopt-peer-") as folder:
            file = onnx if onnx is not None else _exported(graph, Path(folder))
            made = _RUNTIMES[name](file, threads, precision)
    version, call, take = made
    return Peer(name, version, time.perf_counter() - start, _tree() - cpu, call, take)


Made = tuple[str, Callable[[Sequence[Any]], Any], Callable[[Sequence[Any]], Sequence[Any]]]


def _tree() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _torch(name: str, module: Any, graph: Graph | None, examples: Sequence[Any] | None, precision: str) -> Made:
    import torch

    if module is None:
        from mlsysopt.graph import to_torch

        if graph is None:
            raise UsageError(f"peer {name}: a module or a program is needed")
        module = to_torch(graph)
    if precision == "bf16":
        import copy

        module = copy.deepcopy(module).to(torch.bfloat16)
    run: Any = module
    if name == "inductor":
        run = _inductor(module, examples)

    def call(inputs: Sequence[Any]) -> Any:
        with torch.inference_mode():
            return run(*inputs)

    def take(inputs: Sequence[Any]) -> Sequence[Any]:
        if precision == "f32":
            return inputs
        return [one.to(torch.bfloat16) if one.is_floating_point() else one for one in inputs]

    return torch.__version__, call, take


def _inductor(module: Any, examples: Sequence[Any] | None) -> Any:
    import torch
    import torch._dynamo

    torch._dynamo.reset()
    compiled = torch.compile(module, dynamic=True, options={"freezing": True})
    if examples is not None:
        with fresh_inductor_cache(), torch.inference_mode():
            compiled(*examples)
    return compiled


@contextmanager
def fresh_inductor_cache() -> Generator[None]:
    """Let Inductor begin with empty caches: warm ones make it look several times as fast to start."""
    import torch._inductor.config as config

    before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    with tempfile.TemporaryDirectory(prefix="mlsysopt-inductor-", ignore_cleanup_errors=True) as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        try:
            with config.patch(fx_graph_cache=False):
                yield
        finally:
            if before is None:
                os.environ.pop("TORCHINDUCTOR_CACHE_DIR", None)
            else:
                os.environ["TORCHINDUCTOR_CACHE_DIR"] = before


def _exported(graph: Graph | None, folder: Path) -> Path:
    from mlsysopt.graph import to_onnx

    if graph is None:
        raise UsageError("a program or an .onnx file is needed for this peer")
    to_onnx(graph, folder / "model.onnx")
    return folder / "model.onnx"


def _onnxruntime(file: Path, threads: int, precision: str) -> Made:
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise MissingExtra.of("comparing with ONNX Runtime", "compile") from error
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def take(inputs: Sequence[Any]) -> Sequence[Any]:
        feed: Mapping[str, Any] = {name: one.numpy() for name, one in zip(names, inputs, strict=True)}
        return [feed]

    return ort.__version__, lambda inputs: session.run(None, inputs[0]), take


def _openvino(file: Path, threads: int, precision: str) -> Made:
    try:
        import openvino as ov
    except ImportError as error:
        raise MissingExtra.of("comparing with OpenVINO", "bench") from error
    core = ov.Core()
    # Its default may be bf16 where the processor has it.
    hint = {"f32": "f32", "bf16": "bf16"}[precision]
    settings = {
        "INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": str(threads), "NUM_STREAMS": "1",
        "PERFORMANCE_HINT": "LATENCY",
    }  # fmt: skip
    request = core.compile_model(core.read_model(str(file)), "CPU", settings).create_infer_request()

    def call(inputs: Sequence[Any]) -> Any:
        found = request.infer(inputs, share_inputs=True, share_outputs=True)
        return [found[i] for i in range(len(found))]

    return ov.__version__, call, lambda inputs: [one.numpy() for one in inputs]


_RUNTIMES: Mapping[str, Callable[[Path, int, str], Made]] = {"onnxruntime": _onnxruntime, "openvino": _openvino}
