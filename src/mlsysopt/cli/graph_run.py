"""What `mlsysopt graph convert` and `run` do and print."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlsysopt.cli.documents import Document, table
from mlsysopt.core.errors import MissingExtra, UsageError
from mlsysopt.core.quantities import format_bytes
from mlsysopt.graph import Graph, from_onnx, interpret, load, random_inputs, save, to_onnx, to_torch
from mlsysopt.graph.importers.examples import torch_dtype
from mlsysopt.graph.interpreter import relative_error

__all__ = ["converted", "ran"]

_TOLERANCE = 1e-3
"""Relative difference up to which a float32 peer is said to agree with the float64 reference."""

Outputs = Mapping[str, Any]


def converted(program: Graph, out: Path, *, opset: int, check: bool) -> Document:
    """Write a program in the form that the ending of a file asks for, read it back and compare."""
    ending = out.suffix.lower()
    if ending == ".onnx":
        to_onnx(program, out, opset=opset)
    elif ending == ".mlg":
        save(program, out)
    elif ending == ".pt2":
        _to_pt2(program, out)
    else:
        raise UsageError(f"{out}: files end with .onnx, .pt2 or .mlg")
    size = out.stat().st_size
    data: dict[str, Any] = {"out": str(out), "bytes": size, "ops": len(program.ops)}
    text = f"wrote {out}: {len(program.ops)} ops, {format_bytes(size)}"
    if not check or ending == ".pt2":
        return Document(text, data)
    back = from_onnx(out) if ending == ".onnx" else load(out)
    inputs = random_inputs(program, {}, 0)
    ours = interpret(program, inputs=inputs)
    renamed = dict(zip((value.name for value in back.inputs), inputs.values(), strict=True))
    theirs = interpret(back, inputs=renamed)
    rows, worst = _differences(ours, list(theirs.values()))
    data |= {"outputs": rows, "worst": worst}
    same = worst <= _TOLERANCE
    text += f"\nread back and run on random inputs: largest relative difference {worst:.1e}"
    return Document(text if same else f"{text}: NOT the same", data, 0 if same else 1)


def _to_pt2(program: Graph, out: Path) -> None:
    try:
        import torch
    except ImportError:
        raise MissingExtra.of("writing .pt2", "graph") from None
    if program.symbols:
        raise UsageError(
            f"{out}: {', '.join(program.symbols)} are symbols; .pt2 is written for fixed sizes only, .onnx for any"
        )
    inputs = random_inputs(program, {}, 0)
    tensors = tuple(
        torch.from_numpy(array).to(torch_dtype(value.type.dtype))
        for value, array in zip(program.inputs, inputs.values(), strict=True)
    )
    torch.export.save(torch.export.export(to_torch(program), tensors), out)


def ran(
    program: Graph,
    model: Path,
    sizes: Mapping[str, int],
    *,
    seed: int,
    against: str | None,
    inputs: Path | None,
    out: Path | None,
) -> Document:
    """Run a program in float64 and, when asked, a peer in its own precision; compare."""
    import numpy as np

    given = _read_inputs(inputs) if inputs is not None else random_inputs(program, dict(sizes), seed)
    ours = interpret(program, inputs=given)
    if out is not None:
        np.savez(out, **ours)
    shapes = ", ".join(f"{name} {tuple(array.shape)}" for name, array in given.items())
    data: dict[str, Any] = {
        "inputs": {name: list(array.shape) for name, array in given.items()},
        "outputs": {
            name: {
                "shape": list(array.shape),
                "mean": float(np.mean(array)),
                "absmax": float(np.max(np.abs(array), initial=0)),
            }
            for name, array in ours.items()
        },
    }
    rows: list[list[object]] = [
        [name, tuple(array.shape), f"{np.mean(array):.6g}", f"{np.max(np.abs(array), initial=0):.6g}"]
        for name, array in ours.items()
    ]
    text = f"inputs: {shapes}\n{table(['output', 'shape', 'mean', 'largest'], rows)}"
    if against is None:
        return Document(text, data)
    theirs = _peer(against, program, model)(given)
    differences, worst = _differences(ours, theirs)
    data |= {"against": against, "differences": differences, "worst": worst}
    same = worst <= _TOLERANCE
    word = "equal" if same else "NOT equal"
    text += f"\nagainst {against}: largest relative difference {worst:.1e}, {word} at {_TOLERANCE:g}"
    return Document(text, data, 0 if same else 1)


def _read_inputs(path: Path) -> dict[str, Any]:
    import numpy as np

    try:
        with np.load(path) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError) as error:
        raise UsageError(f"{path}: not a .npz of arrays named as the inputs: {error}") from None


def _peer(name: str, program: Graph, model: Path) -> Callable[[Mapping[str, Any]], list[Any]]:
    if name == "onnxruntime":
        return _onnxruntime(program, model)
    if name == "torch":
        return _torch(program)
    raise UsageError(f"--against {name}: known peers are onnxruntime and torch")


def _onnxruntime(program: Graph, model: Path) -> Callable[[Mapping[str, Any]], list[Any]]:
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtra.of("running onnxruntime", "graph") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    source: Any = str(model) if model.suffix.lower() == ".onnx" else to_onnx(program).SerializeToString()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    wanted = [one.name for one in session.get_inputs()]

    def run(given: Mapping[str, Any]) -> list[Any]:
        by_place = dict(zip(wanted, _declared(program, given), strict=True))
        return list(session.run(None, by_place))

    return run


def _torch(program: Graph) -> Callable[[Mapping[str, Any]], list[Any]]:
    import torch

    module = to_torch(program)

    def run(given: Mapping[str, Any]) -> list[Any]:
        with torch.no_grad():
            found = module(*(torch.from_numpy(array) for array in _declared(program, given)))
        outputs = found if isinstance(found, tuple | list) else (found,)
        return [one.numpy() for one in outputs]

    return run


def _declared(program: Graph, given: Mapping[str, Any]) -> list[Any]:
    """Return the inputs in order, in the element types that the program declares."""
    return [given[value.name].astype(value.type.dtype.numpy()) for value in program.inputs]


def _differences(ours: Outputs, theirs: list[Any]) -> tuple[dict[str, float], float]:
    """Return the relative error of each output, and the worst."""
    import numpy as np

    found: dict[str, float] = {}
    for (name, truth), other in zip(ours.items(), theirs, strict=True):
        if np.shape(truth) != np.shape(other):
            raise UsageError(f"output {name}: shapes {np.shape(truth)} and {np.shape(other)} differ")
        found[name] = relative_error(np.asarray(other), truth)
    return found, max(found.values(), default=0.0)
