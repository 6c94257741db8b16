"""Programs for fused kernels written by hand, what they mean in numpy, and a run of the kernel between guard pages.

The reference goes over the whole domain at once in float64. Buffers lie against pages that nobody may touch, first
on their right, then on their left: an access outside ends the process.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from mlsysopt.compile.codegen import row
from mlsysopt.compile.codegen.kernel import entry
from mlsysopt.compile.codegen.program import REDUCTIONS, Access, Argument, Node, Param, Pass, Program, Size, Store
from mlsysopt.compile.codegen.target import Isa, host_isa, new_module
from mlsysopt.compile.codegen.workshop import build
from mlsysopt.graph.ops.registry import lookup
from mlsysopt.graph.types import DTYPES

Array = np.ndarray[Any, Any]


@dataclass
class Fused:
    """A program that is being written; loops are numbered parallel, reduced, innermost."""

    parallel: tuple[Size, ...]
    inner: Size
    reduced: tuple[Size, ...] = ()
    schedule: str = "row"
    arguments: list[Argument] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    passes: list[Pass] = field(default_factory=list)

    def node(self, op: str, *args: int, dtype: str | None = None, value: Any = 0, access: Access | None = None) -> int:
        if dtype is None:
            dtype = self.nodes[args[-1]].dtype if args else "f32"
        self.nodes.append(Node(op, tuple(args), dtype, value, access))
        return len(self.nodes) - 1

    def const(self, value: float, dtype: str = "f32") -> int:
        return self.node("const", value=value, dtype=dtype)

    def load(self, strides: Sequence[Size], dtype: str = "f32", argument: int | None = None, **more: Any) -> int:
        if argument is None:
            self.arguments.append(Argument(dtype))
            argument = len(self.arguments) - 1
        return self.node("load", dtype=dtype, access=Access(argument, tuple(strides), **more))

    def store(self, node: int, strides: Sequence[Size], dtype: str | None = None, **more: Any) -> Store:
        self.arguments.append(Argument(dtype or self.nodes[node].dtype, True))
        return Store(node, Access(len(self.arguments) - 1, tuple(strides), **more))

    def sweep(self, reductions: Sequence[int] = (), stores: Sequence[Store] = (), keeps: Sequence[int] = ()) -> None:
        self.passes.append(Pass(tuple(reductions), tuple(stores), tuple(keeps)))

    def program(self, params: int = 0, faults: bool = False) -> Program:
        number = None
        if faults:
            self.arguments.append(Argument("i64", True))
            number = len(self.arguments) - 1
        made = Program(
            tuple(self.arguments), self.parallel, self.inner, tuple(self.nodes), tuple(self.passes), self.reduced,
            self.schedule, params, number,
        )  # fmt: skip
        made.check()
        return made


def size(one: Size, params: Sequence[int]) -> int:
    return params[one.index] if isinstance(one, Param) else one


def numpy_type(dtype: str) -> np.dtype[Any]:
    return DTYPES[dtype].numpy()


def reference(program: Program, buffers: Sequence[Array], params: Sequence[int]) -> list[Any]:
    """Return what the buffers hold afterwards, in float64 where they are floats."""
    shape = tuple(size(one, params) for one in (*program.parallel, *program.reduced, program.inner))
    grids = np.indices(shape, sparse=True) if shape else []
    wide = [
        one.astype(_computed(a.dtype)) if DTYPES[a.dtype].is_float else one.copy()
        for one, a in zip(buffers, program.arguments, strict=False)
    ]
    values: list[Any] = []
    parallel, rank = len(program.parallel), len(shape)
    folded = tuple(range(parallel, rank)) if program.schedule == "row" else tuple(range(parallel, rank - 1))

    def places(access: Access) -> tuple[Any, Any]:
        place: Any = np.full((1,) * rank, size(access.offset, params))
        for grid, stride in zip(grids, access.strides, strict=True):
            place = place if stride == 0 else place + grid * size(stride, params)
        exists: Any = np.ones((1,) * rank, bool)
        for loop, low, high in access.window:
            exists = exists & (grids[loop] >= size(low, params)) & (grids[loop] < size(high, params))
        for one in access.indirect:
            index, count = np.asarray(values[one.node]), size(one.size, params)
            index = np.where(index < 0, index + count, index)
            place = place + np.clip(index, 0, max(count - 1, 0)) * size(one.stride, params)
            exists = exists & (count > 0)
        return place, exists

    with np.errstate(all="ignore"):
        for node in program.nodes:
            args = [values[arg] for arg in node.args]
            if node.op == "load":
                assert node.access is not None
                place, exists = places(node.access)
                source = wide[node.access.argument]
                kind = source.dtype
                place, exists = np.broadcast_arrays(place, exists)
                got = source[np.where(exists, place, 0)] if source.size else np.zeros(place.shape, kind)
                got = np.where(exists, got, np.asarray(node.access.outside).astype(kind))
                values.append(got)
            elif node.op == "const":
                values.append(np.asarray(node.value, _computed(node.dtype)))
            elif node.op == "param":
                values.append(np.asarray(params[int(node.value)]).astype(_computed(node.dtype)))
            elif node.op == "index":
                values.append(grids[int(node.value)].astype(_computed(node.dtype)))
            elif node.op in REDUCTIONS:
                full = np.broadcast_to(args[0], shape)
                starts = {"max": _lowest, "min": _highest}
                more = {"initial": starts[node.op](full.dtype)} if node.op in starts else {}
                if node.op in ("sum", "prod"):
                    more["dtype"] = full.dtype
                values.append(getattr(np, node.op)(full, axis=folded, keepdims=True, **more))
            else:
                values.append(_apply(node, args, [program.nodes[arg].dtype for arg in node.args]))
        for one in program.passes:
            for store in one.stores:
                place, exists = places(store.access)
                target, value = wide[store.access.argument], np.asarray(values[store.node])
                value = value.reshape(value.shape or (1,) * rank)
                # What does not vary along the row is written once, also for a row of nothing.
                cut = {loop for loop, _, _ in store.access.window}
                once = [loop for loop in folded if value.shape[loop] == 1 and store.access.strides[loop] == 0]
                narrow = tuple(1 if loop in once and loop not in cut else n for loop, n in enumerate(shape))
                place, exists, value = (np.broadcast_to(one, narrow) for one in (place, exists, value))
                target[place[exists]] = value[exists].astype(target.dtype)
    return wide


def _apply(node: Node, args: list[Any], dtypes: list[str]) -> Any:
    if node.op == "cast":
        target = numpy_type(node.dtype)
        value = np.asarray(args[0]).astype(target)
        return value.astype(np.float64) if DTYPES[node.dtype].is_float else value
    if node.op in ("gelu", "gelu_tanh"):
        approximate = "tanh" if node.op == "gelu_tanh" else "none"
        return lookup("gelu").meaning([np.asarray(args[0])], {"approximate": approximate})[0]
    return lookup(node.op).meaning([np.asarray(arg) for arg in args], {})[0]


def _computed(dtype: str) -> np.dtype[Any]:
    return np.dtype(np.float64) if DTYPES[dtype].is_float else numpy_type(dtype)


def _lowest(kind: np.dtype[Any]) -> Any:
    return -np.inf if kind.kind == "f" else np.iinfo(kind).min


def _highest(kind: np.dtype[Any]) -> Any:
    return np.inf if kind.kind == "f" else np.iinfo(kind).max


_libc = ctypes.CDLL(None, use_errno=True)
_PAGE = mmap.PAGESIZE


class Guarded:
    """Memory between two pages that may not be touched."""

    def __init__(self, data: Array, right: bool) -> None:
        pages = -(-max(data.nbytes, 1) // _PAGE)
        self._map = mmap.mmap(-1, (pages + 2) * _PAGE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        for page in (0, pages + 1):
            assert _libc.mprotect(ctypes.c_void_p(start + page * _PAGE), ctypes.c_size_t(_PAGE), 0) == 0
        self.address = start + _PAGE + (pages * _PAGE - data.nbytes if right else 0)
        self._start, self._data = start, data
        ctypes.memmove(self.address, data.ctypes.data, data.nbytes)

    def read(self) -> Array:
        out = np.empty_like(self._data)
        ctypes.memmove(out.ctypes.data, self.address, out.nbytes)
        return out


class Compiled:
    """Several programs in one module, which compiles faster than one by one."""

    def __init__(self, programs: Sequence[Program], isa: Isa | None = None) -> None:
        isa = isa or host_isa()
        module = new_module("test")
        self.kernels = [row.emit(module, isa, program) for program in programs]
        self._library = build(module, isa, cached=False)  # it frees the code when it goes
        self._calls = [entry(self._library.address(kernel.name)) for kernel in self.kernels]

    def run(
        self,
        which: int,
        buffers: Sequence[Array],
        params: Sequence[int] = (),
        *,
        cuts: Sequence[int] = (),
        right: bool = True,
    ) -> list[Array]:
        """Return the buffers after a run, its units cut where `cuts` say (in thousandths of all)."""
        kernel = self.kernels[which]
        guarded = [Guarded(np.ascontiguousarray(one), right) for one in buffers]
        units = kernel.units(params)
        scratch = np.full(kernel.scratch_bytes(params) + 64, 0xFF, np.uint8)  # NaN, should any be read unwritten
        ends = [0, *(units * cut // 1000 for cut in sorted(cuts)), units]
        aligned = -(-scratch.ctypes.data // 64) * 64
        for begin, end in pairwise(ends):
            self._calls[which]([one.address for one in guarded], list(params), begin, end, aligned)
        return [one.read() for one in guarded]

    def check(
        self,
        which: int,
        program: Program,
        buffers: Sequence[Array],
        params: Sequence[int] = (),
        *,
        rtol: float = 2e-6,
        atol: float = 1e-6,
        cuts: Sequence[int] = (331, 702),
    ) -> None:
        """Compare a kernel with the reference, whole and cut, against both guard pages."""
        want = reference(program, buffers, params)
        first = self.run(which, buffers, params)
        second = self.run(which, buffers, params, cuts=cuts, right=False)
        for i, argument in enumerate(program.arguments):
            about = f"buffer {i} of {self.kernels[which].name} with params {tuple(params)}"
            if not DTYPES[argument.dtype].is_float:
                np.testing.assert_array_equal(first[i], second[i], err_msg=f"{about}: the split changes it")
                np.testing.assert_array_equal(first[i], want[i], err_msg=about)
                continue
            got, other = (one[i].astype(np.float64) for one in (first, second))
            np.testing.assert_array_equal(got, other, err_msg=f"{about}: the split changes it")
            relative, absolute = _LOOSE.get(argument.dtype, (rtol, atol))
            np.testing.assert_allclose(got, want[i], rtol=relative, atol=absolute, err_msg=about)


_LOOSE = {"f16": (1e-3, 1e-3), "bf16": (1e-2, 1e-2), "f64": (1e-12, 1e-12)}


def run(
    program: Program, buffers: Sequence[Array], params: Sequence[int] = (), *, isa: Isa | None = None
) -> list[Array]:
    """Compile one program and run it."""
    return Compiled([program], isa).run(0, buffers, params)


def check(
    program: Program,
    buffers: Sequence[Array],
    params: Sequence[int] = (),
    *,
    rtol: float = 2e-6,
    atol: float = 1e-6,
    isa: Isa | None = None,
) -> None:
    """Compile one program and compare it with the reference."""
    Compiled([program], isa).check(0, program, buffers, params, rtol=rtol, atol=atol)
