"""One op to implement, and what a way to implement it must offer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from mlsysopt.graph.symbolic import Dim

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["Epilogue", "Packed", "Refusal", "Site", "Variant"]


@dataclass(frozen=True, slots=True)
class Epilogue:
    """What happens to a product in registers, before its only store.

    Attributes:
        bias: Whether a vector over the output features is added.
        activation: "relu", "gelu", "gelu_tanh", "silu", "tanh", "sigmoid" or "" for none.
        residual: Whether a tensor of the result's shape is added, after the activation.
    """

    bias: bool = False
    activation: str = ""
    residual: bool = False

    def __str__(self) -> str:
        words = ["bias"] * self.bias + [self.activation] * bool(self.activation) + ["residual"] * self.residual
        return "+".join(words) or "plain"


@dataclass(frozen=True, slots=True)
class Site:
    """One op to implement.

    Attributes:
        op: "linear" (y[M, N] = x[M, K] w[N, K]^T), "matmul" (weights that vary), "conv" ...
        sizes: Sizes by name, sorted: K, M and N for a linear; symbolic where they vary.
        dtype: Name of the element type of operands and result.
        epilogue: What is done before the store.
        constant_weights: Whether the second operand never changes, so that it may be packed once.
        threads: Threads that may be used.
    """

    op: str
    sizes: tuple[tuple[str, Dim], ...]
    dtype: str = "f32"
    epilogue: Epilogue = field(default_factory=Epilogue)
    constant_weights: bool = True
    threads: int = 1

    @classmethod
    def linear(
        cls, m: int | Dim, n: int, k: int, *, dtype: str = "f32", epilogue: Epilogue | None = None, threads: int = 1
    ) -> Site:
        """Return the site of y[m, n] = x[m, k] w[n, k]^T.

        >>> print(Site.linear(8, 3072, 768, epilogue=Epilogue(bias=True)))
        linear K=768 M=8 N=3072 f32 bias
        """
        sizes = (("K", Dim.of(k)), ("M", Dim.of(m)), ("N", Dim.of(n)))
        return cls("linear", sizes, dtype, epilogue or Epilogue(), threads=threads)

    def size(self, name: str) -> Dim:
        return dict(self.sizes)[name]

    def number(self, name: str) -> int:
        """Return a size that is known."""
        return int(self.size(name))

    def at(self, **sizes: int | Dim) -> Site:
        """Return the same with some sizes replaced."""
        named = {**dict(self.sizes), **{name: Dim.of(size) for name, size in sizes.items()}}
        return Site(
            self.op, tuple(sorted(named.items())), self.dtype, self.epilogue, self.constant_weights, self.threads
        )

    @property
    def key(self) -> str:
        """A text by which equal sites are found again in a profile."""
        return f"{self} threads={self.threads}{'' if self.constant_weights else ' varying'}"

    def __str__(self) -> str:
        sizes = " ".join(f"{name}={size}" for name, size in self.sizes)
        return f"{self.op} {sizes} {self.dtype} {self.epilogue}"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a variant does not do a site, in one line."""

    reason: str


@dataclass(frozen=True)
class Packed:
    """Weights in the form that a variant wants.

    Attributes:
        form: Name of the form; variants that share one share the bytes.
        data: The bytes, or a library's own object.
        nbytes: Memory that it takes, 0 when it is the original.
        arrays: What generated code reads, by name: "weights", and "scales" for int8.
    """

    form: str
    data: Any
    nbytes: int
    arrays: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)


Call = Callable[..., Any]
"""x, residual or None -> y, on torch tensors or numpy arrays alike in kind."""


@runtime_checkable
class Variant(Protocol):
    """One way to carry out an op. Registered in the entry-point group `mlsysopt.variants`.

    Attributes:
        name: "panel.f32", "aten.nt" ...; a dot separates the library.
        version: Changes whenever its speed or results may: times in a profile are kept under it.
        ops: Kinds of sites that it may do.
        form: Form of the weights that it reads.
    """

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def ops(self) -> tuple[str, ...]: ...
    @property
    def form(self) -> str: ...

    def supports(self, site: Site) -> Refusal | None:
        """Return why it does not do a site, None when it does. Cheap, and needs no weights."""
        ...

    def prepare(self, weights: npt.NDArray[Any] | Any, bias: npt.NDArray[Any] | Any | None, site: Site) -> Packed:
        """Bring weights, [N, K] for a linear, into its form; called once for each constant."""
        ...

    def scratch_bytes(self, site: Site) -> Dim:
        """Return bytes needed while it runs, beside operands and result."""
        ...

    def bind(self, site: Site, packed: Packed, bias: Any | None) -> Call:
        """Return a function of x [M, K] (any M) and the residual, for use from Python with torch tensors."""
        ...

    def block_rows(self, site: Site) -> int:
        """Return the rows that it does at once: its time is a line over ceil(M / rows) between two grid points."""
        ...

    def error(self, site: Site) -> float:
        """Return the largest error to expect, relative to the root mean square of the result."""
        ...

    @property
    def native(self) -> bool:
        """Whether generated code can call it without Python; such a one has an entry in `codegen`."""
        ...


def weight_matrix(weights: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return weights as a contiguous f32 matrix [N, K]."""
    import numpy as np

    return np.ascontiguousarray(weights, dtype=np.float32)
