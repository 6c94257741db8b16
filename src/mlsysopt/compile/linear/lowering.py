"""A torch model as `precision.climb` sees it: products whose precision is set one by one."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlsysopt.compile.linear.precision import RUNGS
from mlsysopt.compile.linear.sites import call, evaluating
from mlsysopt.compile.variants.decision import Decision
from mlsysopt.core.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor, nn

    from mlsysopt.compile.linear.grid import Grid
    from mlsysopt.compile.linear.tables import Kind, Table

__all__ = ["Lowered", "answer", "output", "random_batches", "serving"]


class Lowered:
    """A plain model and its tables at each precision.

    A batch has few numbers of rows, and the variants of others are not to pass unseen: each product runs its coarsest
    variant for all of them.

    Args:
        model: The model.
        tables: Precision -> path of a product -> its table when that precision is the lowest allowed.
        kinds: Priced products.
        points: Row counts and their weights.
        threads: Threads that the tables were made for.
    """

    def __init__(
        self,
        model: nn.Module,
        tables: Mapping[str, Mapping[str, Table]],
        kinds: Sequence[Kind],
        points: Grid,
        threads: int,
    ) -> None:
        self.model, self.tables, self.points, self.threads = model, tables, points, threads
        self.kind_of = {product.path: kind for kind in kinds for product in kind.members}
        self._double: nn.Module | None = None

    def modules(self) -> Sequence[str]:
        return list(self.tables["f32"])

    def rungs(self, module: str) -> Sequence[str]:
        return [one for one in RUNGS if module in self.tables.get(one, {})]

    def seconds(self, module: str, rung: str) -> float:
        kind, table = self.kind_of[module], self.tables[rung][module]
        assert kind.costs is not None
        weighted = zip(self.points.rows, self.points.weights, strict=True)
        return sum(share * kind.costs.at(kind.named(table.decision.at(m)), m) for m, share in weighted)

    def expected(self, module: str, rung: str) -> float:
        from mlsysopt.compile.variants.registry import variant

        site = self.kind_of[module].site
        return max(variant(name).error(site) for name in self.tables[rung][module].decision.variants)

    def run(self, batch: Any, rungs: Mapping[str, str]) -> npt.NDArray[np.floating[Any]]:
        from mlsysopt.compile.linear import swap

        chosen = [self._coarsest(self.tables[rungs.get(path, "f32")][path]) for path in self.modules()]
        swap.install(self.model, chosen, threads=self.threads)
        try:
            return answer(self.model, batch, self.threads).numpy()
        finally:
            swap.remove(self.model)

    def reference(self, batch: Any) -> npt.NDArray[np.float64]:
        if self._double is None:
            self._double = copy.deepcopy(self.model).double()
        return answer(self._double, _doubled(batch), self.threads).numpy()

    def _coarsest(self, table: Table) -> Table:
        from mlsysopt.compile.variants.registry import variant

        site = self.kind_of[table.product.path].site
        named = table.decision.variants
        return replace(table, decision=Decision.always(max(named, key=lambda name: variant(name).error(site))))


@contextlib.contextmanager
def serving(model: nn.Module, threads: int) -> Generator[None]:
    """Run a model as it will be served: evaluating, without gradients, on so many threads. Everything is put back."""
    import torch

    before = torch.get_num_threads()
    with evaluating(model), torch.inference_mode():
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def answer(model: nn.Module, batch: Any, threads: int) -> Tensor:
    """Return the first tensor of floating-point numbers that a model gives when it is served, in float64.

    Raises:
        UsageError: it gives none.
    """
    with serving(model, threads):
        return output(call(model, batch)).double()


def output(result: Any) -> Tensor:
    """Return the first tensor of floating-point numbers in what a model returned.

    Raises:
        UsageError: there is none.
    """
    import torch

    if isinstance(result, torch.Tensor):
        if result.is_floating_point():
            return result.detach()
    else:
        inner = result.values() if isinstance(result, Mapping) else result if isinstance(result, list | tuple) else ()
        for one in inner:
            try:
                return output(one)
            except UsageError:
                continue
    raise UsageError(f"the model returned {type(result).__name__} without a tensor of floating-point numbers")


def random_batches(model: nn.Module, count: int = 4, rows: int = 16) -> list[Any]:
    """Return random inputs for a model whose inputs are known: transformers' models, and those that take one matrix.

    Raises:
        UsageError: the inputs are not known.
    """
    import torch

    draw = torch.Generator().manual_seed(0)
    words = getattr(getattr(model, "config", None), "vocab_size", None)
    if words is not None and getattr(model, "main_input_name", "") == "input_ids":
        return [{"input_ids": torch.randint(0, words, (1, rows), generator=draw)} for _ in range(count)]
    first = next((one for one in model.modules() if isinstance(one, torch.nn.Linear)), None)
    if first is not None:
        batches = [torch.randn(rows, first.in_features, generator=draw) for _ in range(count)]
        try:
            with evaluating(model), torch.inference_mode():
                model(batches[0])
            return batches
        except (RuntimeError, TypeError, ValueError, AssertionError):
            pass
    raise UsageError(
        f"the inputs of {type(model).__name__} are not known: give batches, as in calibration=[x1, x2] "
        "(a batch is a tensor, a tuple or a mapping)"
    )


def _doubled(batch: Any) -> Any:
    import torch

    if isinstance(batch, torch.Tensor):
        return batch.double() if batch.is_floating_point() else batch
    if isinstance(batch, Mapping):
        return {name: _doubled(one) for name, one in batch.items()}
    return type(batch)(_doubled(one) for one in batch) if isinstance(batch, list | tuple) else batch
