"""Six proofs that a part is really out of a model, before anything trains.

1. Stand-ins are called as often as the originals were.
2. The removed parameters are no parameters of the model any more.
3. The output has the same structure and the same shapes, with both batches.
4. The output differs, in training or in evaluation mode.
5. Output and gradients are finite.
6. Parameters that lose their gradient with the part are named.
"""

from __future__ import annotations

import copy
import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from mlsysopt.core.errors import UsageError
from mlsysopt.design.ablate.cost import Counted, counting
from mlsysopt.design.ablate.probe import Probe, call_model, kinds, leaves, probe, slow_paths, structure_of
from mlsysopt.design.ablate.select import Part, unwrapped
from mlsysopt.design.ablate.standins import Ghost, Refused, StandIn
from mlsysopt.design.ablate.surgery import NeverCalled, Removal, places, put, remove

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Finding", "Proof", "Subject"]

_BREAKS = (
    RuntimeError,
    ValueError,
    TypeError,
    IndexError,
    AttributeError,
    KeyError,
    AssertionError,
    NotImplementedError,
)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a proof found.

    Attributes:
        proof: Its number, 1 to 6.
        message: What was found.
        failed: Whether the part is not out; otherwise it is a warning.
    """

    proof: int
    message: str
    failed: bool = False

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, slots=True)
class Proof:
    """Whether a part is really out, before anything trains.

    Attributes:
        removal: What was taken out, None when it was refused.
        findings: Warnings and failures.
        refusal: Why it cannot be taken out, None when it can.
        collateral: Parameters that have a gradient in the base and none without the part.
        parameters: Before and after.
        macs: Multiply-adds of the forward pass with the first batch, before and after.
    """

    removal: Removal | None
    findings: tuple[Finding, ...] = ()
    refusal: Refused | None = None
    collateral: tuple[str, ...] = ()
    parameters: tuple[int, int] = (0, 0)
    macs: tuple[float, float] = (0.0, 0.0)

    @property
    def ok(self) -> bool:
        return self.refusal is None and not any(finding.failed for finding in self.findings)


@dataclass(frozen=True, slots=True)
class _Runs:
    """What a model does with the two batches.

    Attributes:
        outputs: Tensors it gives for the first, in training and then in evaluation mode.
        outlines: Structure and shapes of its outputs, one per batch.
        calls: Path of a stand-in -> how often it was called with the first.
        counted: Multiply-adds of the first.
        gradients: Parameter -> whether it has a gradient that is not zero.
        broken: What is not finite.
        acting: Whether a parameter that was taken out still acts on the output.
    """

    outputs: list[torch.Tensor]
    outlines: list[Any]
    calls: Mapping[str, int]
    counted: Counted
    gradients: Mapping[str, bool]
    broken: tuple[str, ...]
    acting: bool = False


class Subject:
    """A whole model, built, probed and run once, and what can be proven about taking its parts out.

    Everything is in float64 where the model allows it, on copies, with the global random state as it was.

    Args:
        make_model: Returns the whole model; may take `seed`.
        batch: What the model is called with.
        second_batch: The same with another batch size.
        seed: Seed of the model and of dropout.

    Raises:
        UsageError: the model does not run with the batch.
    """

    def __init__(
        self, make_model: Callable[..., nn.Module], batch: Any, *, second_batch: Any = None, seed: int = 0
    ) -> None:
        self.seed = seed
        import torch

        model = _built(make_model, seed)
        unfinished = [path for path, one in model.named_modules() if _is_lazy(one)]
        if unfinished:
            raise UsageError(
                f"{', '.join(unfinished[:3])}: sizes are open until the first call, so no seed can pair its weights\n"
                "let make_model call the model once with an example before it returns it"
            )
        # TorchScript holds constants that no conversion reaches; other models insist on single precision.
        scripted = any(isinstance(one, torch.jit.ScriptModule) for one in model.modules())
        for double in (False,) if scripted else (True, False):
            self.model = copy.deepcopy(model).double() if double else model
            self.batches = (_double(batch), _double(second_batch)) if double else (batch, second_batch)
            try:
                self.probe: Probe = probe(self.model, self.batches[0], second_batch=self.batches[1], seed=seed)
                break
            except _BREAKS as error:
                if not double:
                    raise UsageError(
                        f"the model does not run with its batch: {_short(error)}\n"
                        "pass batch=: a tensor, a tuple of arguments, or a mapping of keywords"
                    ) from error
        self._buffers = {name: one.detach().clone() for name, one in self.model.named_buffers()}

    def prove(self, part: Part, *, how: str = "auto") -> Proof:
        """Take a part out and check that it is out; nothing is trained.

        Args:
            part: What to take out.
            how: One of `standins.HOWS`.

        Raises:
            UsageError: a module that is registered and never called, or an unknown way.
        """
        import torch

        model, before = self.model, _count(self.model)
        with torch.random.fork_rng(devices=[]), slow_paths():
            whole = self.base
            originals: dict[str, nn.Module] = {}
            try:
                paths = places(model, part, self.probe)
                originals = {path: model.get_submodule(path) for path in paths}
                gone = {id(one): one for module in originals.values() for one in module.parameters()}
                torch.manual_seed(self.seed)
                removal = remove(model, part, how=how, probe=self.probe)
                runs = self._runs(count=how in ("linear", "matched"), gone=list(gone.values()))
                findings = (
                    *_calls(runs, self.probe, paths),
                    *_gone(model, gone, runs),
                    *_outlines(whole, runs),
                    *_differs(whole, runs),
                    *(Finding(5, message, True) for message in runs.broken),
                )
                after = before - removal.parameters
            except Refused as refusal:
                return Proof(None, refusal=refusal, parameters=(before, before))
            except NeverCalled as unused:
                return Proof(None, refusal=self._reached(unused), parameters=(before, before))
            except UsageError:
                raise
            except _BREAKS as error:
                reason = f"the model does not run without it: {_short(error)}"
                return Proof(None, refusal=Refused(reason, _line(error)), parameters=(before, before))
            finally:
                for path, original in originals.items():
                    put(model, path, original)
                self._restore()
        silenced = tuple(name for name, has in whole.gradients.items() if has and not runs.gradients.get(name, True))
        instances = {id(module): path for path, module in reversed(originals.items())}
        less = sum(whole.counted.inside.get(path, 0.0) for path in instances.values())
        macs = runs.counted.macs if how in ("linear", "matched") else whole.counted.macs - less
        return Proof(removal, findings, None, silenced, (before, after), (whole.counted.macs, macs))

    @cached_property
    def base(self) -> _Runs:
        """What the whole model does."""
        try:
            return self._runs(count=True)
        finally:
            self._restore()

    def _restore(self) -> None:
        import torch

        if not self._buffers:
            return
        buffers = dict(self.model.named_buffers())
        with torch.no_grad():
            for name, value in self._buffers.items():
                if name in buffers and buffers[name].shape == value.shape:
                    buffers[name].copy_(value)

    def _runs(self, *, count: bool, gone: Sequence[torch.Tensor] = ()) -> _Runs:
        """Run the model as it is now with both batches, in training mode; its buffers are changed.

        Args:
            count: Whether multiply-adds are counted.
            gone: Parameters that should not act on the output any more.
        """
        import torch

        model, (first, second) = self.model, self.batches
        counted = Counted()
        with torch.no_grad():
            # Before training mode changes the buffers; a fused path that only evaluation takes must run as well.
            model.eval()
            evaluated = leaves(self._run(model, first))
            model.train()
            if count:
                with counting(model) as counted:
                    self._run(model, first)
                self._restore()
        standing = {path: module for path, module in model.named_modules() if isinstance(module, StandIn)}
        for module in standing.values():
            module.calls = 0
        output = self._run(model, first)
        calls = {path: module.calls for path, module in standing.items()}
        outputs, outlines = leaves(output), [_outline(output)]
        gradients, broken, acting = _gradients(model, outputs, gone)
        if second is not None:
            with torch.no_grad():
                outlines.append(_outline(self._run(model, second)))
        outputs = [tensor.detach() for tensor in (*outputs, *evaluated)]
        return _Runs(outputs, outlines, calls, counted, gradients, broken, acting)

    def _run(self, model: nn.Module, batch: Any) -> Any:
        import torch

        torch.manual_seed(self.seed)
        return call_model(model, copy.deepcopy(batch))

    def _reached(self, unused: NeverCalled) -> Refused:
        """Tell a module whose weights are read by its owner from one that is not used at all.

        Raises:
            UsageError: it is not used.
        """
        import torch

        original = self.model.get_submodule(unused.path)
        put(self.model, unused.path, Ghost(original))
        try:
            with torch.no_grad():
                self._run(self.model.train(), self.batches[0])
        except Refused as refusal:
            return Refused(f"{unused.path}: {refusal.reason}: replacing it takes nothing out", refusal.where)
        except _BREAKS as error:
            return Refused(f"{unused.path} is used without calling it: {_short(error)}", _line(error))
        finally:
            put(self.model, unused.path, original)
            self._restore()
        raise unused


def _is_lazy(module: nn.Module) -> bool:
    from torch.nn.parameter import is_lazy

    return any(is_lazy(one) for one in (*module.parameters(recurse=False), *module.buffers(recurse=False)))


def _built(make_model: Callable[..., nn.Module], seed: int) -> nn.Module:
    import random

    import numpy as np
    import torch

    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        try:
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            torch.manual_seed(seed)
            takes_seed = "seed" in inspect.signature(make_model).parameters
            model = make_model(seed=seed) if takes_seed else make_model()
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
    return unwrapped(model)


def _double(value: Any) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: _double(one) for key, one in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_double(one) for one in value))
    if isinstance(value, tuple | list):
        return type(value)(_double(one) for one in value)
    return value


def _outline(output: Any) -> tuple[str, list[tuple[int, ...]]]:
    """Return the structure of an output, without what numbers it holds, and the shapes of its tensors."""
    return repr(kinds(structure_of(output))), [tuple(tensor.shape) for tensor in leaves(output)]


def _calls(runs: _Runs, seen: Probe, paths: list[str]) -> Iterator[Finding]:
    for path in paths:
        wanted, found = seen.seen[path].calls, runs.calls.get(path)
        if found is not None and found != wanted:
            yield Finding(1, f"the stand-in at {path} was called {found} times, the original {wanted}", True)


def _gone(variant: nn.Module, removed: Mapping[int, Any], runs: _Runs) -> Iterator[Finding]:
    shared = [name for name, one in variant.named_parameters() if id(one) in removed]
    for name in shared:
        yield Finding(2, f"its parameter is still in the model as {name}: it is shared with another part", True)
    if runs.acting and not shared:
        yield Finding(2, "a weight of it still acts on the output: the model holds it outside its modules", True)


def _outlines(whole: _Runs, runs: _Runs) -> Iterator[Finding]:
    for (was, shapes), (now, new_shapes) in zip(whole.outlines, runs.outlines, strict=True):
        if shapes != new_shapes:
            yield Finding(3, f"the model gives {_shown(new_shapes)} without it, {_shown(shapes)} with it", True)
        elif was != now:
            yield Finding(3, f"the model's output is another structure without it: {now} instead of {was}", True)
        else:
            continue
        return


def _differs(whole: _Runs, runs: _Runs) -> Iterator[Finding]:
    import torch

    if len(whole.outputs) == len(runs.outputs) and all(map(torch.equal, whole.outputs, runs.outputs)):
        yield Finding(4, "the output does not change without it: it may start as zero, or not be used")


def _gradients(
    model: nn.Module, outputs: list[torch.Tensor], gone: Sequence[torch.Tensor] = ()
) -> tuple[dict[str, bool], tuple[str, ...], bool]:
    """Return which parameters have a gradient that is not zero, what is not finite, and whether any of `gone` acts."""
    import torch

    floats = [tensor for tensor in outputs if tensor.is_floating_point()]
    if not all(bool(torch.isfinite(tensor).all()) for tensor in floats):
        return {}, ("the output is not finite",), False
    # Weights that are no constants: a plain sum has no gradient behind a normalisation.
    total = sum(((tensor * _ramp(tensor)).sum() for tensor in floats), torch.zeros(()))
    if not total.requires_grad:
        return {name: False for name, _ in model.named_parameters()}, (), False
    named = {name: one for name, one in model.named_parameters() if one.requires_grad}
    asked = [one for one in gone if one.requires_grad]
    # Those that the output does not depend on are None, whatever torch's types say.
    gradients = cast(
        "Sequence[torch.Tensor | None]", torch.autograd.grad(total, [*named.values(), *asked], allow_unused=True)
    )
    found = {name: False for name, _ in model.named_parameters()}
    broken: list[str] = []
    for name, gradient in zip(named, gradients, strict=False):
        if gradient is not None:
            found[name] = bool((gradient != 0).any())
            if not bool(torch.isfinite(gradient).all()):
                broken.append(f"the gradient of {name} is not finite")
    return found, tuple(broken), any(gradient is not None for gradient in gradients[len(named) :])


def _ramp(tensor: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.cos(torch.arange(tensor.numel(), dtype=tensor.dtype, device=tensor.device)).reshape(tensor.shape)


def _count(model: nn.Module) -> int:
    return sum(one.numel() for one in model.parameters())


def _short(error: BaseException) -> str:
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text}"[:200]


def _shown(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join(" x ".join(map(str, shape)) or "a number" for shape in shapes) or "nothing"


def _line(error: BaseException) -> str:
    """Return the innermost line of the traceback that is neither torch's nor ours."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if "/torch/" not in frame.filename and "mlsysopt/design/ablate" not in frame.filename:
            return f"{frame.filename.rpartition('/')[2]}:{frame.lineno}"
    return ""
