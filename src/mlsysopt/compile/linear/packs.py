"""The packed copies of one weight beside the parameter, and the functions that multiply by them.

A pack belongs to a state of the parameter: the object, where its storage lies and its version counter. Whatever
changes one of them (`load_state_dict`, `copy_`, `.to()`, an optimizer's step) makes the next call run plain and the
one after it pack again; a weight that is another one on every call, as under `torch.func.functional_call`, is thus
never packed in vain. What writes through `.data` or a numpy view leaves no trace: `linear.refresh` is for that.
"""

from __future__ import annotations

import logging
import threading
from bisect import bisect_right
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from mlsysopt.compile.linear.paper import FirstSeen
from mlsysopt.compile.variants.decision import Decision
from mlsysopt.compile.variants.registry import variant
from mlsysopt.compile.variants.site import Epilogue, Packed, Site
from mlsysopt.graph.symbolic import Dim

if TYPE_CHECKING:
    from torch import Tensor


__all__ = ["PAPER", "Notices", "Packs"]

log = logging.getLogger("mlsysopt.compile")

PAPER = Decision.always("paper")
"""Stands for the paper's policy, which decides in the first call with each number of rows."""

_Tensor = torch.Tensor
_F32 = torch.float32
_STRIDED = torch.strided
_grad_enabled = torch.is_grad_enabled
_threads = torch.get_num_threads
# Private to torch, what follows: where one is gone, its question is taken as answered with no.
_C: Any = torch._C  # pyright: ignore[reportPrivateUsage]
_forward_ad: Any = torch.autograd.forward_ad
_no: Callable[[], int] = int
_tracing: Callable[[], Any] = getattr(_C, "_get_tracing_state", _no)
_autocast: Callable[[], bool] = getattr(_C, "_is_any_autocast_enabled", torch.is_autocast_enabled)
_dispatch_modes: Callable[[], int] = getattr(_C, "_len_torch_dispatch_stack", _no)
_function_modes: Callable[[], int] = getattr(_C, "_is_torch_function_mode_enabled", _no)
_functorch: Callable[[], Any] = getattr(_C._functorch, "maybe_current_level", _no)


class Notices:
    """Things that are said once for a whole adapted model."""

    def __init__(self) -> None:
        self.said: set[str] = set()

    def once(self, key: str, message: str, *about: object) -> None:
        if key not in self.said:
            self.said.add(key)
            log.warning(message, *about)

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.said = set()


class Bound:
    """Functions for one state of the parameters."""

    __slots__ = ("address", "bias", "bias_address", "bias_version", "calls", "held", "nbytes", "version", "weight")

    def __init__(self, weight: Tensor, bias: Tensor | None, calls: tuple[Any, ...], nbytes: int) -> None:
        self.weight, self.bias = weight, bias
        self.version, self.address = weight._version, weight.data_ptr()
        self.bias_version, self.bias_address = (0, 0) if bias is None else (bias._version, bias.data_ptr())
        # While the storage is held, its address cannot become that of another tensor.
        self.held = weight.detach()
        self.calls, self.nbytes = calls, nbytes

    @property
    def state(self) -> tuple[Any, ...]:
        return id(self.weight), id(self.bias), self.version, self.address, self.bias_version, self.bias_address


def _state(weight: Tensor, bias: Tensor | None) -> tuple[Any, ...]:
    added = (0, 0) if bias is None else (bias._version, bias.data_ptr())
    return id(weight), id(bias), weight._version, weight.data_ptr(), *added


class Packs:
    """One product's decision with what it needs to carry it out; safe for several threads.

    Args:
        decision: Variant for each number of rows.
        n: Output features.
        k: Input features.
        bias: Whether a vector is added.
        threads: Threads that the decision was made for.
        transposed: Whether the parameter is [K, N].
        notices: Shared by all products of a model.

    Copies and pickles carry the decision and none of the packed bytes.
    """

    def __init__(
        self,
        decision: Decision,
        n: int,
        k: int,
        *,
        bias: bool,
        threads: int = 1,
        transposed: bool = False,
        notices: Notices | None = None,
    ) -> None:
        self.decision, self.n, self.k, self.bias, self.threads = decision, n, k, bias, threads
        self.transposed = transposed
        self.notices = notices or Notices()
        self._clear()

    @property
    def site(self) -> Site:
        """The product, for any number of rows."""
        return Site.linear(Dim.of("M"), self.n, self.k, epilogue=Epilogue(bias=self.bias), threads=self.threads)

    @property
    def plain(self) -> tuple[str, ...]:
        """Variants that are the framework's own call on the parameter as it lies."""
        return ("aten.nt", "aten.nn") if self.transposed else ("aten.nt",)

    @property
    def nbytes(self) -> int:
        """Bytes of packed copies that exist now."""
        return self._bound.nbytes if self._bound is not None else 0

    def multiply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
        """Return x w^T + b by the variant for its rows, or None when the caller must do it the plain way.

        Args:
            x: Shape (..., K); any strides.
            weight: The parameter.
            bias: The parameter, or None.
        """
        if _tracing() is not None:  # sizes are no plain numbers then
            return None
        # Calls that stay plain whatever the state is ask nothing more: they must not cost more than before.
        rows = x.numel() // self.k
        place = bisect_right(self.thresholds, rows)
        if self.stays[place] or not rows:
            return None
        if _grad_enabled() and (x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)):
            return self._with_gradients()
        if _threads() != self.threads:
            return self._with_threads()
        # Nothing that watches or rewrites what torch does, and a tensor that is what it looks like.
        if (
            type(x) is not _Tensor
            or not x.is_cpu
            or x.dtype is not _F32
            or x.layout is not _STRIDED
            or x.is_nested
            or x.is_neg()
            or _autocast()
            or _function_modes()
            or _dispatch_modes()
            or _functorch() is not None
            or _forward_ad._current_level >= 0
        ):
            return None
        bound = self._bound
        if (
            bound is None
            or bound.weight is not weight
            or bound.version != weight._version
            or bound.address != weight.data_ptr()
            or bound.bias is not bias
            or (bias is not None and (bound.bias_version != bias._version or bound.bias_address != bias.data_ptr()))
        ):
            bound = self._renewed(weight, bias)
            if bound is None:
                return None
        call = bound.calls[place]
        shape = x.shape
        if not shape or shape[-1] != self.k:
            return None  # torch words the error
        if len(shape) == 2:
            return call(x)
        return call(x.reshape(rows, self.k)).view(*shape[:-1], self.n)

    def stays_for(self, rows: int) -> bool:
        """Tell whether the plain way is the choice for a number of rows, not a way out."""
        return not rows or self.stays[bisect_right(self.thresholds, rows)]

    def pack(self, weight: Tensor, bias: Tensor | None) -> None:
        """Make packs of the parameters as they are now."""
        with self._lock:
            self._bound, self._seen = self._make(weight, bias), None

    def drop(self) -> None:
        """Forget packs; the next call that can use them makes them again."""
        self._bound = self._seen = None

    def _with_gradients(self) -> None:
        self.notices.once(
            "gradients",
            "gradients are recorded, so adapted products run plain: call the model inside torch.inference_mode()",
        )

    def _with_threads(self) -> None:
        now = _threads()
        self.notices.once(
            "threads",
            "adapted for threads=%d, but torch uses %d now, so products run plain: adapt again with threads=%d",
            self.threads,
            now,
            now,
        )

    def _renewed(self, weight: Tensor, bias: Tensor | None) -> Bound | None:
        if not (_packable(weight) and (bias is None or _packable(bias))):
            return None
        state = _state(weight, bias)
        with self._lock:
            bound = self._bound
            if bound is not None and bound.state == state:
                return bound
            # Packs that were dropped are made at once, those of changed parameters when these were seen twice.
            if bound is not None and self._seen != state:
                self._seen = state
                return None
            self._bound, self._seen = self._make(weight, bias), None
            return self._bound

    def _make(self, weight: Tensor, bias: Tensor | None) -> Bound:
        if self.decision == PAPER:
            first_seen = FirstSeen(self._matrix(weight).contiguous(), None if bias is None else bias.detach())
            return Bound(weight, bias, (first_seen,), first_seen.extra_bytes)
        site = self.site
        matrix = self._matrix(weight)
        forms: dict[str, Packed] = {}
        calls: dict[str, Any] = dict.fromkeys(self.plain)
        for name in self.decision.variants:
            if name in calls:
                continue
            way = variant(name)
            if way.form not in forms:
                forms[way.form] = way.prepare(matrix, _detached(bias), site)
            calls[name] = way.bind(site, forms[way.form], _detached(bias))
        nbytes = sum(one.nbytes for one in forms.values())
        in_order = tuple(calls[one.variant] for one in self.decision.segments)
        return Bound(weight, bias, in_order, nbytes)

    def _matrix(self, weight: Tensor) -> Tensor:
        """Return the weights as [N, K], without gradients."""
        return weight.detach().t() if self.transposed else weight.detach()

    def _clear(self) -> None:
        self.thresholds = self.decision.thresholds
        self.stays = tuple(one.variant in self.plain for one in self.decision.segments)
        self._lock = threading.Lock()
        self._bound: Bound | None = None
        self._seen: tuple[int, ...] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_") and name != "folded"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._clear()


def _detached(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach()


def _packable(parameter: Tensor) -> bool:
    """Tell whether a parameter can be read by address, and its changes be seen."""
    return (
        type(parameter) in (torch.Tensor, torch.nn.Parameter)
        and parameter.dtype is _F32
        and parameter.is_cpu
        and parameter.layout is _STRIDED
        and not parameter.is_inference()
    )
