"""The packed copies of one weight beside the parameter, and the functions that multiply by them.

A pack belongs to a state of the parameter: the object, where its storage lies and its version counter. Whatever
changes one of them (`load_state_dict`, `copy_`, `.to()`, an optimizer's step) makes the next call run plain and the
one after it pack again; a weight that is another one on every call, as under `torch.func.functional_call`, is thus
never packed in vain. Fused optimizers count no versions: a call that records gradients for a parameter drops its packs.
What writes through `.data` or a numpy view leaves no trace: `linear.refresh` is for that.
"""

from __future__ import annotations

import logging
import threading
import time
from bisect import bisect_right
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from mlsysopt.compile.linear.paper import FirstSeen
from mlsysopt.compile.linear.segments import BASELINE
from mlsysopt.compile.variants.decision import Decision, Segment
from mlsysopt.compile.variants.registry import variant
from mlsysopt.compile.variants.site import Epilogue, Packed, Site
from mlsysopt.graph.symbolic import Dim

if TYPE_CHECKING:
    from torch import Tensor

    from mlsysopt.compile.linear.refine import Refiner

__all__ = ["PAPER", "Notices", "Packs", "packable"]

log = logging.getLogger("mlsysopt.compile")

PAPER = Decision((Segment(1, "paper", source=""),))
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
    """Functions by variant, for one state of the parameters."""

    __slots__ = ("address", "bias", "bias_address", "bias_version", "calls", "held", "nbytes", "version", "weight")

    def __init__(self, weight: Tensor, bias: Tensor | None, calls: dict[str, Any], nbytes: int) -> None:
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
        threads: Threads that the decision was made for.
        transposed: Whether the parameter is [K, N].
        notices: Shared by all products of a model.
        refiner: What goes on learning from calls; its decision is the one that holds.

    Copies and pickles carry the decision and none of the packed bytes.
    """

    def __init__(
        self,
        decision: Decision,
        n: int,
        k: int,
        *,
        threads: int = 1,
        transposed: bool = False,
        notices: Notices | None = None,
        refiner: Refiner | None = None,
    ) -> None:
        self.decision, self.n, self.k, self.threads = decision, n, k, threads
        self.transposed = transposed
        self.notices = notices or Notices()
        self.refiner = refiner
        self._clear()

    def site(self, bias: Tensor | None) -> Site:
        """Return the product for any number of rows, with the bias that it has now."""
        added = Epilogue(bias=bias is not None)
        return Site.linear(Dim.of("M"), self.n, self.k, epilogue=added, threads=self.threads)

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
        if _grad_enabled() and (self.heeds_training(weight, bias) or x.requires_grad):
            return self._with_gradients()
        rows, challenger, refiner = x.numel() // self.k, None, self.refiner
        if refiner is not None:
            if refiner.decision is not self.decision:
                self._adopt(refiner.decision)
            challenger = refiner.due(rows) if rows else None
        # Calls that stay plain whatever the state is ask nothing more: they must not cost more than before.
        thresholds, names = self._ways
        name = names[bisect_right(thresholds, rows)]
        if not rows or (name is None and challenger is None):
            return None
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
        shape = x.shape
        if not shape or shape[-1] != self.k:
            return None  # torch words the error
        flat = x if len(shape) == 2 else x.reshape(rows, self.k)
        y = None
        if challenger not in (None, name or BASELINE):  # another thread may have moved the table to it just now
            y = self._raced(flat, name or BASELINE, challenger, bound)
        if name is None:  # what a layer does of itself it shall do in its own words
            return None
        if y is None:
            y = bound.calls[name](flat)
        return y if len(shape) == 2 else y.view(*shape[:-1], self.n)

    def stays_for(self, rows: int) -> bool:
        """Tell whether the plain way is the choice for a number of rows, not a way out."""
        thresholds, names = self._ways
        return not rows or names[bisect_right(thresholds, rows)] is None

    def pack(self, weight: Tensor, bias: Tensor | None) -> None:
        """Make packs of the parameters as they are now."""
        with self._lock:
            self._bound, self._seen = self._make(weight, bias), None

    def drop(self) -> None:
        """Forget packs; the next call that can use them makes them again."""
        with self._lock:  # or packs that another thread is making from what was there before would stay
            self._bound = self._seen = None

    def _adopt(self, decision: Decision) -> None:
        """Go over to another decision between two calls; all that it may name is bound already."""
        # One assignment, so that no other thread sees thresholds of one table with names of another.
        self._ways = (
            decision.thresholds,
            tuple(None if one.variant in self.plain else one.variant for one in decision.segments),
        )
        self.decision = decision

    def _raced(self, x: Tensor, own: str, challenger: str, bound: Bound) -> Tensor:
        """Time both variants on the rows of a call, tell the refiner, and return what the call would have given."""
        refiner = self.refiner
        assert refiner is not None
        clock = time.thread_time if self.threads == 1 else time.perf_counter
        seconds: dict[str, float] = {}
        given: dict[str, Tensor] = {}
        first = refiner.first_of(len(x), own, challenger)
        for name in (first, own if first == challenger else challenger):
            started = clock()
            given[name] = bound.calls[name](x)
            seconds[name] = clock() - started
        refiner.record(len(x), own, challenger, seconds=seconds[own], challenger_seconds=seconds[challenger])
        return given[own]

    def heeds_training(self, weight: Tensor, bias: Tensor | None) -> bool:
        """Drop the packs of parameters for which gradients are being recorded, as a step will change them."""
        trained = weight.requires_grad or (bias is not None and bias.requires_grad)
        if trained and self._bound is not None:
            self.drop()
        return trained

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
        if not (self._readable(weight) and (bias is None or packable(bias, (self.n,)))):
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
        matrix, added = self._matrix(weight), _detached(bias)
        if self.decision == PAPER:
            first_seen = FirstSeen(matrix.contiguous(), added)
            return Bound(weight, bias, {"paper": first_seen}, first_seen.extra_bytes)
        site = self.site(bias)
        forms: dict[str, Packed] = {}
        calls: dict[str, Any] = {}
        names = self.decision.variants if self.refiner is None else (*self.decision.variants, *self.refiner.able)
        for name in names:
            # What a layer does of itself runs here only to be compared: on the parameter as it lies, either way.
            if name in calls or (name in self.plain and self.refiner is None):
                continue
            way = variant(name)
            if way.form not in forms:
                forms[way.form] = way.prepare(matrix, added, site)
            calls[name] = way.bind(site, forms[way.form], added)
        return Bound(weight, bias, calls, sum(one.nbytes for one in forms.values()))

    def _readable(self, weight: Tensor) -> bool:
        return packable(weight, (self.k, self.n) if self.transposed else (self.n, self.k))

    def _matrix(self, weight: Tensor) -> Tensor:
        """Return the weights as [N, K], without gradients."""
        return weight.detach().t() if self.transposed else weight.detach()

    def _clear(self) -> None:
        self._adopt(self.decision)
        self._lock = threading.Lock()
        self._bound: Bound | None = None
        self._seen: tuple[Any, ...] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_") and name != "folded"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._clear()


def _detached(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach()


def packable(parameter: Tensor, shape: tuple[int, ...]) -> bool:
    """Tell whether a parameter has the shape that was decided for, can be read by address, and its changes be seen."""
    return (
        type(parameter) in (torch.Tensor, torch.nn.Parameter)
        and tuple(parameter.shape) == shape
        and parameter.dtype is _F32
        and parameter.is_cpu
        and parameter.layout is _STRIDED
        and not parameter.is_inference()
    )
