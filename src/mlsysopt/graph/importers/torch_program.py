"""One exported program of torch on its way to a program here: inputs, weights, outputs and their names."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlsysopt.core.errors import UsageError
from mlsysopt.graph.builder import Builder
from mlsysopt.graph.errors import ImportFailed
from mlsysopt.graph.facts import Origin
from mlsysopt.graph.importers.aten.registry import handler, handlers
from mlsysopt.graph.importers.sympy_dims import Sizes
from mlsysopt.graph.importers.torch_aliasing import must_lower
from mlsysopt.graph.importers.torch_refusals import mutation_error
from mlsysopt.graph.importers.torch_walk import Walk
from mlsysopt.graph.ir import Graph, Value
from mlsysopt.graph.rewriter import Rewriter
from mlsysopt.graph.sources import OfTorch
from mlsysopt.graph.symbolic import Dim
from mlsysopt.graph.types import TensorType, dtype

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["Exported", "identifier", "quiet"]

_log = logging.getLogger("mlsysopt.graph")
_EXPORTER = Origin("torch.export")


class Exported:
    """One exported program on its way."""

    def __init__(
        self,
        exported: ExportedProgram,
        inputs: Mapping[str, TensorType] | None,
        *,
        train: bool,
        keep: bool,
        name: str,
    ) -> None:
        self.exported: Any = exported
        self.inputs = inputs
        self.train = train
        self.keep = keep
        self.builder = Builder(name)
        self.sizes = Sizes()
        self._constants: dict[Any, Value] = {}

    def run(self) -> Graph:
        if self.train:
            self.exported = _with_gradients(self.exported)
        nodes = list(self.exported.graph.nodes)
        if not self.train and must_lower(nodes, handler):  # a training step is without writes already
            self.exported = _lowered(self.exported)
            nodes = list(self.exported.graph.nodes)
        signature = self.exported.graph_signature
        changed = [*signature.buffers_to_mutate.values(), *signature.user_inputs_to_mutate.values()]
        if changed:
            raise mutation_error(self.builder.name, changed, train=self.train)
        walk = Walk(self.builder, self.sizes, self._weight, keep=self.keep)
        walk.values.update(self._inputs(nodes))
        self._ranges()
        walk.run(nodes)
        if walk.kept:
            _log.info("%s: %d ATen operators kept as opaque.aten", self.builder.name, walk.kept)
        names, outputs = self._outputs(nodes, walk)
        graph = Rewriter(self.builder.finish(outputs)).finish().graph  # without what nobody reads
        return _renamed(graph, names)

    def _inputs(self, nodes: Sequence[Any]) -> dict[Any, Value]:
        """Add the inputs; learn which symbol of torch is which of ours."""
        placeholders = {node.name: node for node in nodes if node.op == "placeholder"}
        names = list(self.exported.graph_signature.user_inputs)
        if self.inputs is not None and len(self.inputs) != len(names):
            raise UsageError(
                f"{self.builder.name}: {len(self.inputs)} inputs are declared ({', '.join(self.inputs)}), "
                f"the exported program has {len(names)} ({', '.join(map(str, names))})"
            )
        pairs = [(placeholders[name], declared) for name, declared in zip(names, self._declared(names), strict=True)]
        for node, (given, declared) in pairs:
            fake = node.meta.get("val")
            if not hasattr(fake, "shape"):
                raise ImportFailed(f"input {given!r} is no tensor but {fake!r}: fix its value before exporting")
            if declared is not None:
                self._match(given, declared, fake)
            else:
                self._number_symbols(fake)
        made: dict[Any, Value] = {}
        for node, (given, declared) in pairs:
            fake = node.meta["val"]
            theirs = TensorType(dtype(str(fake.dtype)), self.sizes.shape(fake.shape))
            made[node] = self.builder.input(given, declared or theirs)
            origin = Origin("torch.export", f"input {given}")
            for ours, size in zip(made[node].shape, theirs.shape, strict=True):
                self.builder.facts = self.builder.facts.with_equal(ours, size, origin)
        return made

    def _declared(self, names: Sequence[str]) -> list[tuple[str, TensorType | None]]:
        if self.inputs is None:
            return [(identifier(name), None) for name in names]
        return list(self.inputs.items())

    def _match(self, given: str, declared: TensorType, fake: Any) -> None:
        found = dtype(str(fake.dtype))
        if found is not declared.dtype or len(fake.shape) != declared.rank:
            needs = f"rank {len(fake.shape)}" if found is declared.dtype else f"element type {found}"
            raise UsageError(f"input {given!r}: expected {declared}, model needs {needs}")
        for ours, theirs in zip(declared.shape, fake.shape, strict=True):
            expression = getattr(getattr(theirs, "node", None), "expr", theirs)
            if isinstance(expression, int) or expression.is_Integer:
                if ours != int(expression):
                    raise ImportFailed(
                        f"input {given!r}: dimension {ours} was fixed by torch to the constant {int(expression)}\n"
                        f"declare {int(expression)} instead of {ours}, or export with it dynamic"
                    )
                continue
            self._name(expression, ours)

    def _number_symbols(self, fake: Any) -> None:
        for size in fake.shape:
            expression = getattr(getattr(size, "node", None), "expr", None)
            for symbol in sorted(getattr(expression, "free_symbols", ()), key=str):
                if symbol.name not in self.sizes.symbols:
                    self.sizes.define(symbol.name, Dim.of(f"s{len(self.sizes.symbols)}"))

    def _name(self, expression: Any, ours: Dim) -> None:
        """Define the torch symbol s in `a*s + b` so that the expression is our size."""
        symbols = list(expression.free_symbols)
        if len(symbols) != 1 or symbols[0].name in self.sizes.symbols:
            return
        (symbol,) = symbols
        slope, rest = expression.as_independent(symbol, as_Add=True)[::-1]
        factor = slope.as_coeff_Mul()[0]
        if slope == factor * symbol and factor.is_Integer and rest.is_Integer:
            self.sizes.define(symbol.name, (ours - int(rest)) // int(factor))

    def _ranges(self) -> None:
        """Keep torch's ranges as facts, and its symbols that no input declares under short names."""
        for symbol, limits in self.exported.range_constraints.items():
            known = symbol.is_Symbol and symbol.name in self.sizes.symbols
            size = self.sizes.of(symbol)
            if len(size.symbols) != 1 or size != Dim.of(next(iter(size.symbols))):
                continue
            low, high = (_integer(end) for end in (limits.lower, limits.upper))
            # torch assumes 2 and more wherever nobody declared less: no fact about inputs that were declared here.
            if known and self.inputs is not None and low == 2:
                low = None
            self.builder.facts = self.builder.facts.with_range(size, low, high, _EXPORTER)

    def _weight(self, placeholder: str) -> Value:
        """Return the constant of a parameter, buffer or lifted tensor; one per storage."""
        signature = self.exported.graph_signature
        label = next(
            (
                table[placeholder]
                for table in (
                    signature.inputs_to_parameters,
                    signature.inputs_to_buffers,
                    signature.inputs_to_lifted_tensor_constants,
                )
                if placeholder in table
            ),
            None,
        )
        if label is None:
            raise ImportFailed(f"{self.builder.name}: {placeholder} is neither a weight nor an input")
        state, lifted = self.exported.state_dict, self.exported.constants
        tensor = state[label] if label in state else lifted[label]
        identity = _identity(tensor)
        if identity not in self._constants:
            type = TensorType(dtype(str(tensor.dtype)), tuple(Dim.of(size) for size in tensor.shape))
            # Of several names, the one that the model lists first.
            label = next((name for name, one in state.items() if _identity(one) == identity), label)
            self._constants[identity] = self.builder.constant(identifier(label), OfTorch(tensor), type, label=label)
        return self._constants[identity]

    def _outputs(self, nodes: Sequence[Any], walk: Any) -> tuple[dict[Value, str], list[Value]]:
        """Return the outputs and the names that the model gives them."""
        specs = list(self.exported.graph_signature.output_specs)
        arguments = list(nodes[-1].args[0])
        paths = _output_names(self.exported)
        names: dict[Value, str] = {}
        outputs: list[Value] = []
        user = 0
        for spec, argument in zip(specs, arguments, strict=True):
            kind = spec.kind.name
            if kind.startswith("GRADIENT"):
                wish = f"grad_{identifier(str(spec.target))}"
            else:
                wish = "loss" if kind == "LOSS_OUTPUT" else paths[user] if user < len(paths) else f"out{user}"
                user += 1
            value = walk.of(argument) if hasattr(argument, "all_input_nodes") else argument
            if value is None:
                continue
            if not isinstance(value, Value):
                value = self._number(value, wish)
            outputs.append(value)
            names.setdefault(value, wish)
        return names, outputs

    def _number(self, value: Any, wish: str) -> Value:
        if isinstance(value, Dim):
            return self.builder.op("size", dim=value)
        if isinstance(value, bool | int | float):
            word = "bool" if isinstance(value, bool) else "i64" if isinstance(value, int) else "f64"
            return self.builder.op("full", value=value, shape=(), dtype=dtype(word))
        raise ImportFailed(f"{self.builder.name}: output {wish!r} is no tensor but {value!r}")


@contextlib.contextmanager
def quiet() -> Generator[None]:
    with warnings.catch_warnings():
        # torch's own: it copies pytree specs through a check that it deprecated itself, and tells about names of
        # its internals; none of them is about the model.
        warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(torch|copyreg|onnxscript)\b.*")
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"(torch|copyreg)\b.*")
        inner = r"torch\.(export|_export|fx|_dynamo|_functorch)\b.*"
        warnings.filterwarnings("ignore", category=UserWarning, module=inner)
        yield


def _lowered(exported: Any) -> Any:
    """Let torch rewrite what nobody here knows, and writes in place; what is known stays as it is."""
    from torch.export import default_decompositions

    known = handlers()
    with quiet():
        table = {
            target: rule
            for target, rule in default_decompositions().items()
            if str(target).removeprefix("aten.") not in known
        }
        return exported.run_decompositions(table)


def _with_gradients(exported: Any) -> Any:
    """Return the program of a training step: loss and gradients."""
    try:
        from torch.export.experimental import _export_forward_backward as joint  # pyright: ignore
    except ImportError:
        raise ImportFailed(
            "train=True needs torch.export.experimental._export_forward_backward, which this torch does not have; "
            "torch 2.6 to 2.13 are known to"
        ) from None
    try:
        with quiet():
            return joint(exported)
    except Exception as error:  # an unstable interface: whatever it raises means the same
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ImportFailed(
            f"torch cannot derive the gradients: {line[:300]}\nwith train=True the first output must be a scalar loss"
        ) from error


def _integer(end: Any) -> int | None:
    # torch writes "no limit" as infinity or as the largest integer.
    try:
        number = int(end)
    except (TypeError, ValueError, OverflowError, AttributeError):
        return None
    return None if abs(number) >= 2**62 else number


def identifier(text: str) -> str:
    name = re.sub(r"\W+", "_", text).strip("_") or "value"
    return name if not name[0].isdigit() else f"_{name}"


def _identity(tensor: Any) -> Any:
    # Not the address of the data: fake and meta tensors all have the same.
    where = (tensor.untyped_storage()._cdata, tensor.storage_offset())
    return (*where, tuple(tensor.shape), tensor.stride(), tensor.dtype)


def _output_names(exported: Any) -> list[str]:
    """Return a name for each output of the model: its key or field, else `out` with its number."""
    import torch.utils._pytree as pytree

    spec = exported.call_spec.out_spec
    leaves = spec.num_leaves
    if leaves == 1 and spec.is_leaf():
        return ["out"]
    paths, _ = pytree.tree_flatten_with_path(pytree.tree_unflatten(list(range(leaves)), spec))
    names: list[str] = []
    for path, _number in paths:
        words = [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", "")))) for key in path]
        text = "_".join(words)
        names.append(identifier(f"out{text}" if text[:1].isdigit() else text))
    return names


def _renamed(graph: Graph, names: Mapping[Value, str]) -> Graph:
    """Call outputs by the names that the model gives them, where the names are free."""
    wanted = {value.name: name for value, name in names.items()}
    fixed = {value.name for value in graph.inputs} | {constant.name for constant in graph.constants}
    taken = set(graph.values)
    changes: dict[str, str] = {}
    for value in graph.outputs:
        wish = wanted.get(value.name)
        if wish is None or value.name in fixed or wish == value.name:
            continue
        while wish in taken:
            wish += "_"
        taken.add(wish)
        changes[value.name] = wish
    if not changes:
        return graph

    def new(value: Value) -> Value:
        return replace(value, name=changes[value.name]) if value.name in changes else value

    ops = tuple(
        replace(op, operands=tuple(map(new, op.operands)), results=tuple(map(new, op.results))) for op in graph.ops
    )
    return replace(graph, ops=ops, outputs=tuple(map(new, graph.outputs)))
